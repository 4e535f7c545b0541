# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PostgreSQL for a while, on nobody's network: made of a service's image, for a restore that proves a backup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import OURS
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_context import Context
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import Server
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import pg_data
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import wait_until

_READY_SECONDS = 90
# What is in it is thrown away with it: nothing has to reach the disk.
_SERVER = """
set -eu
"$1/initdb" -D /scratch/data -U "$2" --auth=trust --no-sync -E UTF8 --locale=C >/dev/null
exec "$1/postgres" -D /scratch/data -p "$3" -c listen_addresses= -c unix_socket_directories=/scratch -c fsync=off \
  -c full_page_writes=off -c shared_preload_libraries="$4"
"""


@contextmanager
def scratch_server(context: Context, place: Place, directory: str, libraries: str = "") -> Iterator[Server]:
    """Run a server with the service's image on a node while the block runs, its data below `directory` there.

    `libraries`: shared_preload_libraries. What an earlier one left behind is removed first.
    """
    layout, image = context.layout(), context.spec()["TaskTemplate"]["ContainerSpec"]["Image"]
    name = f"evenkeel-scratch-{context.move.unit.name}-{context.part.key}"
    data = f"{directory}/scratch"
    programs = layout.exe.rpartition("/")[0]
    _remove(place, name, data)
    place.host.run(["mkdir", "-p", "-m", "0700", data])
    place.host.run(["chown", layout.user, data])
    argv = ["docker", "run", "-d", "--init", "--name", name, "--label", f"{OURS}={context.move.unit.name}"]
    argv += ["--network", "none", "--user", layout.user, "--mount", f"type=bind,src={data},dst=/scratch"]
    argv += ["--entrypoint", "sh", image, "-c", _SERVER, "sh", programs, layout.superuser, str(layout.port), libraries]
    try:
        place.host.run(argv, timeout=600)
        server = Server(place.host, name, layout.exe, layout.user, "/scratch", layout.port, layout.superuser)
        wait_until(lambda: _answers(server), _READY_SECONDS, f"the scratch server on {place.name} to answer", every=0.3)
        yield server
    finally:
        _remove(place, name, data)


def _answers(server: Server) -> bool:
    try:
        return bool(server.ask("SELECT to_json(true)"))
    except MoveError as error:
        if error.code != "sql_failed":
            raise
        return False


def _remove(place: Place, name: str, data: str) -> None:
    place.host.run(["docker", "rm", "-f", "-v", name], check=False)
    place.host.call(pg_data, "wipe", base=data, timeout=600)
    place.host.run(["rm", "-rf", data])

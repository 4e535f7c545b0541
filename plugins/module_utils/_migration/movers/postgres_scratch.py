# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PostgreSQL for a while, on nobody's network: for a restore that proves a backup, and for a dump of parked data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import OURS
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_context import Context
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import Server
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import pg_data
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import wait_until

_READY_SECONDS = 90
_STOP_SECONDS = 120
# What is in it is thrown away with it: nothing has to reach the disk.
_EMPTY = """
set -eu
"$1/initdb" -D /scratch/data -U "$2" --auth=trust --no-sync -E UTF8 --locale=C >/dev/null
exec "$1/postgres" -D /scratch/data -p "$3" -c listen_addresses= -c unix_socket_directories=/scratch -c fsync=off \
  -c full_page_writes=off -c shared_preload_libraries="$4"
"""


@contextmanager
def scratch_server(context: Context, place: Place, directory: str, libraries: str = "") -> Iterator[Server]:
    """Run an empty server with the service's image on a node while the block runs, its data below `directory` there.

    `libraries`: shared_preload_libraries. What an earlier one left behind is removed first.
    """
    layout, data = context.layout(), f"{directory}/scratch"
    programs = layout.exe.rpartition("/")[0]
    command = ("sh", "-c", _EMPTY, "sh", programs, layout.superuser, str(layout.port), libraries)
    discard(context, place, data)
    place.host.run(["mkdir", "-p", "-m", "0700", data])
    place.host.run(["chown", layout.user, data])
    try:
        with lonely_server(context, place, data, "/scratch", command, socket="/scratch") as server:
            yield server
    finally:
        discard(context, place, data)


@contextmanager
def lonely_server(
    context: Context, place: Place, source: str, mount: str, command: Sequence[str], *, socket: str
) -> Iterator[Server]:
    """Run a server with the service's image and no network on a node while the block runs; then end it cleanly.

    `source` on the node is mounted at `mount`.
    """
    layout, name = context.layout(), _name(context)
    argv = ["docker", "run", "-d", "--init", "--name", name, "--label", f"{OURS}={context.move.unit.name}"]
    argv += ["--network", "none", "--user", layout.user, "--mount", f"type=bind,src={source},dst={mount}"]
    argv += ["--stop-signal", "SIGINT", "--entrypoint", command[0]]
    argv += [] if layout.pgdata is None else ["-e", f"PGDATA={layout.pgdata}"]
    end(context, place)
    try:
        place.host.run([*argv, context.image(place), *command[1:]], timeout=600)
        server = Server(place.host, name, layout.exe, layout.user, socket, layout.port, layout.superuser)
        wait_until(lambda: _answers(server), _READY_SECONDS, f"a server on {place.name} to answer", every=0.3)
        yield server
        place.host.run(["docker", "stop", "-t", str(_STOP_SECONDS), name], timeout=_STOP_SECONDS + 30)
    finally:
        end(context, place)


def end(context: Context, place: Place) -> None:
    """End a server of these two on a node, however it is doing."""
    place.host.run(["docker", "rm", "-f", "-v", _name(context)], check=False)


def discard(context: Context, place: Place, data: str) -> None:
    """End a server on a node and remove its data."""
    end(context, place)
    place.host.call(pg_data, "wipe", base=data, timeout=600)
    place.host.run(["rm", "-rf", data])


def _name(context: Context) -> str:
    return f"evenkeel-scratch-{context.move.unit.name}-{context.part.key}"


def _answers(server: Server) -> bool:
    try:
        return bool(server.ask("SELECT to_json(true)"))
    except MoveError as error:
        if error.code != "sql_failed":
            raise
        return False

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a member is healthy where it runs: by a command in its container, or by HTTP inside of it."""

from __future__ import annotations

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Health
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import http_probe
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step, wait_until

# Of one try; a server that takes longer is not healthy yet.
_TRY_SECONDS = 10.0


def healthy(move: Move, place: Place, service: str, health: Health) -> Step:
    """Check that a service is healthy at a place, waiting as long as its `health.seconds` allow."""

    def probe() -> bool:
        wait_healthy(move, place, service, health)
        return True

    return Step(
        id=f"{move.journal.verb}.{service}.healthy-{place.name}",
        title=f"{service} is healthy on {place.name}",
        host=place.name,
        probe=probe,
        do=lambda _tell: None,
        deadline=health.seconds,
        changes=False,
    )


def wait_healthy(move: Move, place: Place, service: str, health: Health) -> None:
    """Return once a service is healthy at a place; raises MoveError `unhealthy` with the last answer."""
    answer = "it does not run there"

    def well() -> bool:
        nonlocal answer
        ok, answer = look(move, place, service, health)
        return ok

    try:
        wait_until(well, health.seconds, f"{service} on {place.name} to be healthy", every=0.2)
    except MoveError as error:
        if error.code != "timeout":
            raise
        raise MoveError("unhealthy", f"{error.message}; last: {answer}", service=service) from error


def look(move: Move, place: Place, service: str, health: Health) -> tuple[bool, str]:
    """Return whether every container of a service at a place is healthy right now, and what the last one said."""
    containers = [task.container for task in move.cluster.running(service) if task.node == place.name]
    said = f"no task of it runs on {place.name}"
    for container in containers:
        ok, said = _look_at(place, container, health)
        if not ok:
            return False, said
    return bool(containers), said


def _look_at(place: Place, container: str, health: Health) -> tuple[bool, str]:
    if health.command:
        return run_in(place, container, health.command)
    if health.port is None:
        return True, "it runs"  # Swarm calls a task running only once the image's own health check agrees
    answer = place.host.call(
        http_probe,
        "ask",
        timeout=_TRY_SECONDS + 20,
        container=container,
        port=health.port,
        path=health.path,
        method=health.method,
        body=health.body,
        status=health.status,
        expect=health.expect,
        seconds=_TRY_SECONDS,
    )
    return bool(answer["ok"]), str(answer["text"])


def run_in(place: Place, container: str, command: tuple[str, ...], seconds: float = 30) -> tuple[bool, str]:
    """Run a command in a container; returns whether it exited 0, and its last line if not."""
    done = place.host.run(["docker", "exec", container, *command], timeout=seconds, check=False)
    last = (done.err or done.out).strip().splitlines()[-1:] or ["it said nothing"]
    return done.status == 0, f"{command[0]} exited {done.status}" + (f": {last[0][:200]}" if done.status else "")

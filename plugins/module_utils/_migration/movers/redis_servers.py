# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways to the Redis servers of a move: the service, and the companion on a parked copy."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.companion import cut
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Part
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers import redis_state
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.volumes import Volume
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import redis_server

Info = dict[str, str]


class Servers:
    """The servers of one part, by place. For several threads."""

    def __init__(self, move: Move, part: Part) -> None:
        self.move = move
        self.part = part
        self._explored: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    @property
    def volume(self) -> Volume:
        """The volume with the data; raises MoveError `more_volumes`."""
        if len(self.part.volumes) != 1:
            raise MoveError("more_volumes", f"{self.part.service} must have exactly one named volume, for its data")
        return Volume(self.move, self.part, next(iter(self.part.volumes)))

    def companion(self, place: Place) -> str:
        """Return the name of the companion's service."""
        return cut(f"evenkeel-{self.move.unit.name}-{self.part.key}-{place.name}", 63)

    def spec(self) -> dict[str, Any]:
        """Return the service's spec."""
        return dict(self.move.cluster.service(self.part.service)["Spec"])

    def image(self) -> str:
        """Return the image's reference as the service has it."""
        return str(self.spec()["TaskTemplate"]["ContainerSpec"]["Image"])

    def running(self, place: Place) -> str | None:
        """Return the service's container at a place, None if none runs there."""
        return self._container(self.part.service, place)

    def service_container(self, place: Place) -> str:
        """Return the service's container at a place; raises MoveError `not_running`."""
        found = self.running(place)
        if found is None:
            raise MoveError("not_running", f"{self.part.service} does not run on {place.name}")
        return found

    def companion_running(self, place: Place) -> str | None:
        """Return the companion's container at a place, None if none runs there."""
        return self._container(self.companion(place), place)

    def companion_container(self, place: Place) -> str:
        """Return the companion's container at a place; raises MoveError `no_companion`."""
        found = self.companion_running(place)
        if found is None:
            raise MoveError("no_companion", f"no replica runs on the copy on {place.name}: run precopy")
        return found

    def explore(self, place: Place, container: str) -> dict[str, Any]:
        """Look at a server once (see redis_server.explore); what changes is asked anew by info()."""
        with self._lock:
            if container not in self._explored:
                password_env = self.part.member.password_env
                found = place.host.call(redis_server, "explore", container=container, password_env=password_env)
                self._explored[container] = dict(found)
            return self._explored[container]

    def explore_service(self, place: Place) -> dict[str, Any]:
        """Look at the service's server; raises MoveError where it can't be spoken with."""
        explored = self.explore(place, self.service_container(place))
        if explored["info"] is None or explored["config"] is None:
            trap = redis_state.traps(explored, {}, limit=None, password_env=self.part.member.password_env)[0]
            raise MoveError(trap.code, f"{self.part.service}: {trap.text}: {trap.remedy}")
        return explored

    def ask(
        self, place: Place, container: str, commands: Sequence[Sequence[Any]], seconds: float = 10
    ) -> dict[str, Any]:
        """Send commands to a server (see redis_server.ask)."""
        explored = self.explore(place, container)
        arguments = {"container": container, "port": explored["port"], "password": explored["password"]}
        answer = place.host.call(
            redis_server, "ask", timeout=seconds + 30, commands=commands, seconds=seconds, **arguments
        )
        return dict(answer)

    def info(self, place: Place, container: str) -> Info:
        """Return a server's INFO."""
        [text] = self.ask(place, container, [["INFO"]])["replies"]
        if not isinstance(text, str):
            raise MoveError("no_answer", f"Redis on {place.name} does not answer INFO: {first_error([text])}")
        return redis_server.parse_info(text)

    def _container(self, service: str, place: Place) -> str | None:
        found = [each.container for each in self.move.cluster.running(service) if each.node == place.name]
        return found[0] if found else None


def first_error(replies: Sequence[Any]) -> str:
    """Return the first error among replies, the last reply where none is."""
    return next((str(each["error"]) for each in replies if isinstance(each, Mapping)), str(replies[-1:]))

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of a switch: which stages it walks, and which of them side by side. Walking them is the engine's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import SshHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import (
    FENCED,
    PROMOTION,
    Journal,
    last_mark,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import APP, FILES, Part
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Mover, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.setting import Setting
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage, Step, Tell, lanes
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.watch import Watcher


@dataclass(frozen=True)
class Order:
    """The stages of one switch, or of one back. `mirror`: keeps a copy of the journal on the other host."""

    setting: Setting
    verb: str
    journal: Journal
    watcher: Watcher
    parts: Sequence[Part]
    move: Move
    movers: Mapping[str, Mover]
    mirror: Callable[[], None]

    def whole(self) -> Iterator[Stage]:
        """Yield all stages of a switch, for a plan."""
        yield self.fence()
        yield from self.up_to_the_intent()
        yield from self.from_the_intent()
        yield lanes(mover.follow() for mover in self.movers.values())

    def up_to_the_intent(self) -> Iterator[Stage]:
        """Yield what is taken back by giving back; each stage is made when the one before it is through."""
        for service in reversed(consumers(self.parts)):
            yield from self._drained(service)
            yield self.setting.tools.lease.stop(self.move, service)
        still, in_use = self._files()
        # Of what only consumers use the last pass may take its time: databases still take writes.
        settled = [self._settle(mover) for mover in self.movers.values() if mover.part.kind not in (APP, FILES)]
        yield lanes([*settled, *([*mover.park(), *mover.stopped()] for mover in still)])
        yield lanes(mover.park() for mover in self.movers.values() if mover not in still)
        yield self.setting.tools.lease.withdraw(self.move)
        stopped = [
            [
                self.setting.tools.lease.stop(self.move, service),
                *(stage for mover in self._own(service) for stage in mover.stopped()),
            ]
            for service in with_state(self.parts)
        ]
        yield lanes([*stopped, *(mover.meanwhile() for mover in self.movers.values())])
        yield lanes(mover.stopped() for mover in in_use)
        yield self._claim()

    def _files(self) -> tuple[list[Mover], list[Mover]]:
        """Return the movers of files that only consumers use, and of those that a service with state uses, too."""
        stateful = with_state(self.parts)
        files = [mover for mover in self.movers.values() if mover.part.kind == FILES]
        in_use = [mover for mover in files if set(mover.part.users) & set(stateful)]
        return [mover for mover in files if mover not in in_use], in_use

    def fence(self) -> Step:
        """Arm the watcher that gives the unit back, then fence."""
        seconds = self.setting.options.deadline + sum(
            member.drain.seconds for member in self.setting.unit.members if member.drain is not None
        )
        began = time.time()

        def armed() -> bool:
            until = self.watcher.until()
            late_enough = until is not None and until >= began + seconds
            return last_mark(self.journal) == FENCED and late_enough and self.watcher.armed()

        def do(_tell: Tell) -> None:
            self.mirror()
            self.journal.fence(
                lambda: self.watcher.arm(self.instructions(), seconds),
                source=self.move.source.name,
                target=self.move.target.name,
            )

        title = f"arm the watcher that gives {self.setting.unit.name} back after {seconds:g} s, then fence"
        # A switch that is run again has a deadline of its own, so the one of before does not count.
        return Step(f"{self.verb}.{self.setting.unit.name}.fence", title, self.move.source.name, armed, do)

    def instructions(self) -> dict[str, Any]:
        """Return what on_host/give_back.py needs."""
        services = [*with_state(self.parts), *consumers(self.parts)]
        before = {name: self.journal.last("before", key=f"replicas:{name}") for name in services}
        return {
            "unit": self.setting.unit.name,
            "state": str(self.setting.state),
            "docker_host": self.setting.docker_host,
            "source": self.move.source.name,
            "lease": self.setting.unit.lease,
            "undo": [dict(action) for mover in self.movers.values() for action in mover.undo_on_hosts()],
            "hosts": {place.name: _way_to(place) for place in (self.move.source, self.move.target)},
            "services": {name: noted["value"] for name, noted in before.items() if noted is not None},
        }

    def _drained(self, service: str) -> Iterator[Stage]:
        for part in self.parts:
            if part.service == service and part.kind == APP:
                yield from self._drain(part)
                yield from self._settle(self.movers[part.key])

    def drains(self) -> list[Step]:
        """Return what empties the consumers that have to be."""
        return [step for part in self.parts if part.kind == APP for step in self._drain(part)]

    def _drain(self, part: Part) -> list[Step]:
        how = part.member.drain
        return [self.setting.tools.drain(self.move, part.service, how)] if how is not None else []

    def _settle(self, mover: Mover) -> Sequence[Stage]:
        """Return what needs the service to run; in a switch that is run again it may be past that."""
        running = any(task.node == self.move.source.name for task in self.move.cluster.running(mover.part.service))
        return mover.settle() if running else ()

    def _claim(self) -> Step:
        return Step(
            id=f"{self.verb}.{self.setting.unit.name}.promotion",
            title=f"write the promotion's intent down: from here {self.setting.unit.name} goes on to its target",
            host=self.setting.unit.home,
            probe=lambda: last_mark(self.journal) == PROMOTION,
            do=lambda _tell: self.journal.claim_promotion(),
        )

    def from_the_intent(self) -> Iterator[Stage]:
        """Yield what only goes forward."""
        # The lease alone starts nothing: what is not live yet keeps its service off.
        files = [mover.take_over() for mover in self.movers.values() if mover.part.kind in (APP, FILES)]
        yield lanes([[self.setting.tools.lease.give(self.move, self.move.target)], *files])
        yield from self.started(taking_over=True)
        # Only now, as it takes a second: past the intent the watcher does nothing.
        yield self._disarm()

    def started(self, *, taking_over: bool = False) -> Iterator[Stage]:
        """Yield what has the services run on the target, and looks whether they are as they should be there.

        `taking_over`: first make the target's copies the ones; each service goes on as soon as its own is.
        """
        lease, target = self.setting.tools.lease, self.move.target
        started = [
            [
                *(stage for mover in self._own(service) if taking_over for stage in mover.take_over()),
                lease.start(self.move, service, target),
                *self._checks(service),
            ]
            for service in with_state(self.parts)
        ]
        yield lanes([*started, *(mover.verify() for mover in self.movers.values() if mover.part.kind == FILES)])
        for service in consumers(self.parts):
            yield lease.start(self.move, service, target)
            yield from self._checks(service)

    def _disarm(self) -> Step:
        return Step(
            id=f"{self.verb}.{self.setting.unit.name}.disarm",
            title="take the deadline's watcher away",
            host=self.move.source.name,
            probe=lambda: self.watcher.until() is None,
            do=lambda _tell: self.watcher.disarm(),
        )

    def _own(self, service: str) -> list[Mover]:
        """Return the movers of a service itself; files are of all that use them."""
        return [mover for mover in self.movers.values() if mover.part.service == service and mover.part.kind != FILES]

    def _checks(self, service: str) -> list[Stage]:
        return [stage for mover in self._own(service) for stage in mover.verify()]


def with_state(parts: Sequence[Part]) -> list[str]:
    """Return the services with state, in the order in which they start."""
    return list(dict.fromkeys(part.service for part in parts if part.kind not in (APP, FILES)))


def consumers(parts: Sequence[Part]) -> list[str]:
    """Return the services without state of their own, in the order in which they start."""
    stateful = with_state(parts)
    return list(dict.fromkeys(part.service for part in parts if part.kind == APP and part.service not in stateful))


def _way_to(place: Place) -> dict[str, Any]:
    host = place.host
    # Not the connection that the engine shares: it may be the one that hangs.
    ssh = (
        {"options": ["-oControlPath=none", *host.options], "destination": host.destination}
        if isinstance(host, SshHost)
        else None
    )
    return {"root": place.root, "ssh": ssh}

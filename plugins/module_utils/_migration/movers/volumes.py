# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that every mover of a named volume takes: make it on the target, park it, bring it live, let it go."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Part
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import copies
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.stopping import bring_live, containers_on
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step

#: What must stay free on a file system that a copy is made on.
RESERVE = 64 * 1024 * 1024


def move_id(move: Move) -> str:
    """Return what tells this move from every other of the unit; a reverse has the same."""
    return str(move.journal.before("move", lambda: uuid.uuid4().hex))


def human(size: float) -> str:
    """Return bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def require_room(place: Place, needed: int, path: str, what: str, *, files: int = 0) -> None:
    """Raise MoveError `disk_full` if a file system has too few bytes free, with the reserve, or takes too few files."""
    room = place.host.call(copies, "room", path=path)
    if room["free"] < needed + RESERVE:
        raise MoveError(
            "disk_full",
            f"{place.name} has {human(room['free'])} free at {path}, and {what} needs {human(needed + RESERVE)}:"
            " make room",
            free=room["free"],
            needed=needed + RESERVE,
        )
    if room["files"] is not None and room["files"] <= files:
        raise MoveError(
            "disk_full",
            f"{place.name} takes {room['files']} more files at {path}, and {what} needs up to {files}: make room",
            files=room["files"],
        )


def users(host: Host, path: str, volume: str) -> list[str]:
    """Return the names of running containers on a host that have a volume, or its directory, mounted."""
    return containers_on(host, [volume, path])


def knows_volume(host: Host, name: str) -> bool:
    """Return whether a host's engine has a volume of that name."""
    return not host.run(["docker", "volume", "inspect", name], check=False).status


def remove_volume(host: Host, name: str) -> None:
    """Remove a volume, with whatever is in it; nothing if there is none. Raises MoveError if a container runs on it."""
    if not knows_volume(host, name):
        return
    # What stands in the way are ended containers that Swarm has not forgotten yet; a running one the engine keeps.
    for container in host.run(["docker", "ps", "-aq", "--filter", f"volume={name}"]).out.split():
        host.run(["docker", "rm", container], check=False)
    host.run(["docker", "volume", "rm", name])


class Volume:
    """One named volume of a part, and the steps that are taken with it on the two places of a move."""

    def __init__(self, move: Move, part: Part, name: str) -> None:
        self.move = move
        self.part = part
        self.name = name

    def look(self, place: Place) -> dict[str, Any]:
        """Return what lies there (see copies.look)."""
        return dict(place.host.call(copies, "look", root=place.root, volume=self.name))

    def ours(self, found: Mapping[str, Any]) -> bool:
        """Return whether a copy carries the marker of this move."""
        return bool(found["owner"] == {"unit": self.move.unit.name, "move": move_id(self.move)})

    def parked(self, place: Place) -> bool:
        """Return whether our copy lies parked at a place."""
        found = self.look(place)
        return found["state"] == copies.PARKED and self.ours(found)

    def path(self, place: Place) -> str:
        """Return where the parked copy lies or would lie."""
        return f"{place.root}/evenkeel/{self.name}/data"

    def live_path(self, place: Place) -> str:
        """Return where the live copy lies or would lie."""
        return f"{place.root}/volumes/{self.name}/_data"

    def mark(self) -> Step:
        """Prepare: write beside the source's data that they belong to this move."""
        source = self.move.source
        return self._step(
            "prepare.mark",
            f"mark the volume {self.name} as this move's",
            source,
            probe=lambda: self.ours(self.look(source)),
            do=lambda: self._call(source, "claim"),
            undo=lambda: self._call(source, "release"),
        )

    def make(self) -> Step:
        """Prepare: have the volume on the target, parked and empty, before anything can start on it there."""
        target = self.move.target
        return self._step(
            "prepare.volume",
            f"make the volume {self.name}, parked and empty",
            target,
            probe=lambda: self.parked(target) and self._known(target),
            do=lambda: self._make(target),
            undo=lambda: self.remove(target),
        )

    def where(self, place: Place) -> str:
        """Return where the only copy at a place lies now; raises MoveError `no_copy`."""
        found = self.look(place)
        if found["state"] not in (copies.LIVE, copies.PARKED):
            raise MoveError("no_copy", f"the volume {self.name} on {place.name} has {found['state']} of its two places")
        return str(found[found["state"]])

    def park_source(self) -> Step:
        """Park: take the source's data out of reach of every container that does not have them yet."""
        source = self.move.source
        return self._step(
            "switch.park",
            f"park the volume {self.name}: nothing more can start on it",
            source,
            probe=lambda: self.parked(source),
            do=lambda: self._park(source),
            undo=lambda: self._unpark(source),
        )

    def unused(self) -> Step:
        """Stopped: see that no container has the data any more; parked as they are, none can get them."""

        def check() -> bool:
            self.refuse_users()
            return True

        return Step(
            f"switch.{self.part.key}.unused-{self.name}",
            f"see that nobody has the volume {self.name} mounted",
            self.move.source.name,
            probe=check,
            do=lambda _tell: None,
            changes=False,
        )

    def bring_live(self) -> Step:
        """Take over: put the target's copy where containers find it."""
        target = self.move.target
        return self._step(
            "switch.live",
            f"bring the volume {self.name} live",
            target,
            probe=lambda: self.look(target)["state"] == copies.LIVE,
            do=lambda: self._bring_live(target),
        )

    def unmark(self) -> Step:
        """Finish: take the marker off the target's data."""
        target = self.move.target
        return self._step(
            "complete.unmark",
            f"take this move's mark off the volume {self.name}",
            target,
            probe=lambda: not self.ours(self.look(target)),
            do=lambda: self._call(target, "release"),
        )

    def remove_source(self) -> Step:
        """Finish: remove the old copy and its volume."""
        source = self.move.source
        return self._step(
            "complete.remove",
            f"remove the old copy of the volume {self.name}",
            source,
            probe=lambda: self.look(source)["state"] == copies.NEITHER and not self._known(source),
            do=lambda: self.remove(source),
        )

    def remove(self, place: Place) -> None:
        """Remove our parked copy and its volume; a live one, or another's, is left. Safe to run again."""
        found = self.look(place)
        if found["state"] == copies.LIVE and found["empty"] and self.ours(found):
            # A kill came between its making and its parking.
            if users(place.host, self.live_path(place), self.name):
                return
            place.host.call(copies, "park", root=place.root, volume=self.name)
            found = self.look(place)
        if found["state"] not in (copies.PARKED, copies.NEITHER) or not (found["owner"] is None or self.ours(found)):
            return
        self._call(place, "discard", timeout=3600)
        remove_volume(place.host, self.name)

    def _step(
        self,
        what: str,
        title: str,
        place: Place,
        *,
        probe: Callable[[], bool],
        do: Callable[[], None],
        undo: Callable[[], None] | None = None,
    ) -> Step:
        """Return a step with this volume; `what`: verb.what."""
        verb, _, name = what.partition(".")
        identifier = f"{verb}.{self.part.key}.{name}-{self.name}"
        return Step(identifier, title, place.name, probe, lambda _tell: do(), undo=undo)

    def _known(self, place: Place) -> bool:
        return knows_volume(place.host, self.name)

    def _make(self, place: Place) -> None:
        found = self.look(place)
        self._refuse(place, found)
        labels: Sequence[str] = ("--label", f"evenkeel.migration={self.move.unit.name}")
        # First of all ours: whatever comes now, cancel knows it.
        self._call(place, "claim")
        if not self._known(place):
            place.host.run(["docker", "volume", "create", *labels, self.name])
            if found["state"] == copies.PARKED:
                # Somebody pruned the volume; the engine has made an empty directory beside our copy.
                place.host.run(["rmdir", "--", self.live_path(place)])
        place.host.call(copies, "park", root=place.root, volume=self.name)

    def _refuse(self, place: Place, found: Mapping[str, Any]) -> None:
        if found["state"] == copies.LIVE and not found["empty"]:
            raise MoveError(
                "target_populated",
                f"the volume {self.name} on {place.name} holds data already: save them and remove it first",
                path=found["live"],
            )
        held = found["state"] in (copies.PARKED, copies.BOTH) and (found["owner"] is not None or not found["empty"])
        if held and not self.ours(found):
            owner = found["owner"] or {"unit": "nobody that can be told", "move": "?"}
            raise MoveError(
                "foreign_copy",
                f"{found['parked']} on {place.name} is a copy of another move (unit {owner['unit']}, move"
                f" {owner['move']}): if nobody needs it any more, remove it and the owner.json beside it",
                path=found["parked"],
            )

    def refuse_users(self) -> None:
        """Raise MoveError `volume_in_use` if a container on either node has the volume mounted."""
        for node in (self.move.source, self.move.target):
            busy = users(node.host, self.live_path(node), self.name)
            if busy:
                raise MoveError(
                    "volume_in_use",
                    f"{', '.join(busy)} on {node.name} still has the volume {self.name} mounted: stop it, or make it a"
                    " member of the unit",
                    containers=busy,
                )

    def _park(self, place: Place) -> None:
        self._call(place, "claim")
        place.host.call(copies, "park", root=place.root, volume=self.name)

    def _unpark(self, place: Place) -> None:
        if self.look(place)["state"] == copies.PARKED:
            bring_live(self.move.journal, place.host, place.root, self.name)

    def _bring_live(self, place: Place) -> None:
        found = self.look(place)
        if not self.ours(found):
            raise MoveError(
                "foreign_copy", f"{found['parked']} on {place.name} is not this move's copy", path=found["parked"]
            )
        bring_live(self.move.journal, place.host, place.root, self.name)

    def _call(self, place: Place, function: str, timeout: float = 60) -> None:
        arguments = {"root": place.root, "volume": self.name, "unit": self.move.unit.name, "move": move_id(self.move)}
        place.host.call(copies, function, timeout=timeout, **arguments)

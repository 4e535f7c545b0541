# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Named volumes of applications by rsync: passes while they are in use, one by content when nobody is, and a proof."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError, if_reachable
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Part
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers import backups, rsync
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import (
    Facts,
    Move,
    Mover,
    Place,
    Readiness,
    Trap,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.volumes import (
    RESERVE,
    Volume,
    human,
    require_room,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import copies, manifest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage, Step, Tell

#: A pass is worth another one while it leaves less than this share of what the one before left.
SHRINKS = 0.7
MOST_PASSES = 10
#: Reading everything for a checksum may take long, in seconds.
READING = 6 * 3600


class FilesMover(Mover):
    """The named volumes that applications share, each copied by itself."""

    def __init__(self, move: Move, part: Part) -> None:
        super().__init__(move, part)
        #: Volumes whose passes ended in this run because the next one would not have left less.
        self._stable: set[str] = set()

    def facts(self) -> Facts:
        """Look at the volumes, changing nothing."""
        total, detail, traps = 0, {}, list[Trap]()
        for volume in self._volumes():
            place = self.move.source
            found = volume.look(place)
            path = found["live"] if found["state"] == copies.LIVE else found["parked"]
            size = place.host.call(manifest, "size", path=path, timeout=600)
            detail[volume.name] = {**size, "state": found["state"], "users": list(self.part.users)}
            total += size["bytes"]
            traps += self._traps(volume, size["bytes"])
        return Facts(total, None, detail, traps)

    def prepare(self) -> Sequence[Stage]:
        """Refuse what can't be moved; mark the source's data, make the target's volumes."""
        stages: list[Stage] = [self._refuse_traps()]
        for volume in self._volumes():
            stages += [volume.mark(), volume.make()]
        return stages

    def backup(self) -> Sequence[Stage]:
        """Back the volumes up on the target, and unpack the backups once."""
        return [backups.of_volume(volume) for volume in self._volumes()]

    def precopy(self) -> Sequence[Stage]:
        """Copy in passes until the next one would not leave less."""
        return [self._passes(volume) for volume in self._volumes()]

    def readiness(self) -> Readiness:
        """Say by a dry run what the copies lack."""
        try:
            lacking = [rsync.delta(self._ends(volume)) for volume in self._volumes()]
        except MoveError as error:
            return Readiness(False, f"what the copy lacks can't be measured: {error.message}", {"lag": None})
        lag, items = sum(each.bytes for each in lacking), sum(each.items for each in lacking)
        numbers = {"lag": lag, "items": items}
        text = f"the copy on {self.move.target.name} lacks {items} changes, {human(lag)} to send"
        if lag > self.move.options.max_lag:
            return Readiness(False, f"{text}; {human(self.move.options.max_lag)} are allowed: run precopy", numbers)
        return Readiness(True, text, numbers)

    def park(self) -> Sequence[Stage]:
        """Park the source's volumes."""
        return [volume.park_source() for volume in self._volumes()]

    def stopped(self) -> Sequence[Stage]:
        """Copy by content what the applications left, and prove that both sides are the same."""
        stages: list[Stage] = []
        for volume in self._volumes():
            stages += [volume.unused(), self._last_pass(volume), self._proof(volume)]
        return stages

    def undo_on_hosts(self) -> Sequence[Mapping[str, Any]]:
        """Bring the source's volumes live again."""
        source = self.move.source.name
        return [{"do": "bring_live", "node": source, "volume": volume.name} for volume in self._volumes()]

    def take_over(self) -> Sequence[Stage]:
        """Bring the target's copies live."""
        return [volume.bring_live() for volume in self._volumes()]

    def verify(self) -> Sequence[Stage]:
        """See that the data are live on the target, and nowhere else."""
        return [self._only_one_live(volume) for volume in self._volumes()]

    def finish(self) -> Sequence[Stage]:
        """Remove the old copies and the marks."""
        return [step for volume in self._volumes() for step in (volume.remove_source(), volume.unmark())]

    # --- steps ---

    def _passes(self, volume: Volume) -> Step:
        ends = self._ends(volume)

        def probe() -> bool:
            return volume.name in self._stable or rsync.delta(ends).items == 0

        def do(tell: Tell) -> None:
            left = rsync.delta(ends)
            for number in range(1, MOST_PASSES + 1):
                self._require_room(volume, left)
                tell(text=f"pass {number}: {left.items} changes", bytes=0, total=left.bytes)
                seconds = rsync.copy(ends, tell, total=left.bytes)
                before, left = left, rsync.delta(ends)
                self.move.journal.write(
                    "files_pass", part=self.part.key, volume=volume.name, bytes=before.bytes, seconds=round(seconds, 3)
                )
                if left.items == 0 or left.bytes >= before.bytes * SHRINKS:
                    break
            self._stable.add(volume.name)

        title = f"copy the volume {volume.name} until a pass leaves no less than the one before"
        name = self.move.target.name
        return Step(f"precopy.{self.part.key}.pass-{volume.name}", title, name, probe, do, deadline=24 * 3600)

    def _last_pass(self, volume: Volume) -> Step:
        def probe() -> bool:
            ends = self._parked_ends(volume)
            # The quick look first: it saves reading everything when there is something to copy anyway.
            return rsync.delta(ends).items == 0 and not rsync.differs(ends)

        def do(tell: Tell) -> None:
            ends = self._parked_ends(volume)
            left = rsync.delta(ends)
            self._require_room(volume, left)
            rsync.copy(ends, tell, total=left.bytes, checksum=True, still=True)
            self.move.target.host.run(["sync", "-f", ends.target_path], timeout=600)

        title = f"copy what changed last in the volume {volume.name}, by content"
        name = self.move.target.name
        return Step(f"switch.{self.part.key}.last-pass-{volume.name}", title, name, probe, do, deadline=READING)

    def _proof(self, volume: Volume) -> Step:
        def check() -> bool:
            ends = self._parked_ends(volume)
            here, there = _both(
                lambda: ends.source.call(manifest, "summary", path=ends.source_path, timeout=READING),
                lambda: ends.target.call(manifest, "summary", path=ends.target_path, timeout=READING),
            )
            if here["digest"] != there["digest"]:
                raise MoveError(
                    "copy_differs",
                    f"the copy of the volume {volume.name} on {self.move.target.name} differs from its source in"
                    f" {', '.join(_differing(ends, here, there))}: the unit goes back to its source",
                )
            self.move.journal.write(
                "files_proved",
                part=self.part.key,
                volume=volume.name,
                digest=here["digest"],
                entries=here["entries"],
                bytes=here["bytes"],
            )
            return True

        title = f"see that both manifests of the volume {volume.name} agree"
        return self._check(f"switch proof-{volume.name}", title, self.move.target, check)

    def _only_one_live(self, volume: Volume) -> Step:
        def check() -> bool:
            states = {place.name: volume.look(place)["state"] for place in (self.move.source, self.move.target)}
            if states != {self.move.source.name: copies.PARKED, self.move.target.name: copies.LIVE}:
                raise MoveError("not_one_live", f"the volume {volume.name} must be live on the target alone: {states}")
            return True

        title = f"see that the volume {volume.name} is live here alone"
        return self._check(f"switch verify-{volume.name}", title, self.move.target, check)

    def _refuse_traps(self) -> Step:
        def check() -> bool:
            refused = [trap for trap in self.facts().traps if trap.refuses]
            if refused:
                raise MoveError(refused[0].code, f"{refused[0].text}: {refused[0].remedy}")
            return True

        return self._check("prepare traps", "see that the volumes can be moved", self.move.source, check)

    # --- what they need ---

    def _volumes(self) -> list[Volume]:
        return [Volume(self.move, self.part, name) for name in sorted(self.part.volumes)]

    def _ends(self, volume: Volume) -> rsync.Ends:
        source, target = self.move.source, self.move.target
        return rsync.Ends(source.host, volume.live_path(source), target.host, volume.path(target))

    def _parked_ends(self, volume: Volume) -> rsync.Ends:
        source, target = self.move.source, self.move.target
        return rsync.Ends(source.host, volume.path(source), target.host, volume.path(target))

    def _require_room(self, volume: Volume, lacking: rsync.Delta) -> None:
        target, what = self.move.target, f"the copy of the volume {volume.name}"
        require_room(target, lacking.bytes, volume.path(target), what, files=lacking.items)

    def _traps(self, volume: Volume, size: int) -> list[Trap]:
        source, target = self.move.source, self.move.target
        found = []
        inspected = source.host.run(["docker", "volume", "inspect", volume.name], check=False)
        about = json.loads(inspected.out or "[]") if not inspected.status else []
        if about and (about[0]["Driver"] != "local" or about[0].get("Options")):
            text = f"the volume {volume.name} is not a plain local one (driver {about[0]['Driver']}, or with options)"
            found.append(Trap("volume_driver", text, "move its data by the means of its driver", refuses=True))
        there = if_reachable(lambda: volume.look(target))
        copied = there is not None and volume.ours(there) and there["state"] == copies.PARKED and not there["empty"]
        if there is not None and not copied and there["free"] < size + RESERVE:
            text = f"{target.name} has {human(there['free'])} free, and the volume {volume.name} takes {human(size)}"
            found.append(Trap("no_room", text, "make room on the target", refuses=True))
        lacking = [place.name for place in (source, target) if if_reachable(lambda place=place: _lacks_rsync(place))]  # type: ignore[misc]
        if lacking:
            text = f"rsync is not installed on {' and '.join(lacking)}"
            found.append(Trap("no_rsync", text, "install it (Debian: rsync)", refuses=True))
        try:
            self._ends(volume).arguments()
        except MoveError as error:
            found.append(Trap(error.code, error.message, "run the engine on one of the two", refuses=True))
        return found

    def _check(self, what: str, title: str, place: Place, check: Callable[[], bool]) -> Step:
        return Step(
            f"{what.replace(' ', f'.{self.part.key}.')}", title, place.name, check, lambda _tell: None, changes=False
        )


def _lacks_rsync(place: Place) -> bool:
    return place.host.run(["rsync", "--version"], check=False).status != 0


def _both(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
    with ThreadPoolExecutor(2) as pool:
        futures = pool.submit(first), pool.submit(second)
    return futures[0].result(), futures[1].result()


def _differing(ends: rsync.Ends, here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Return the names of some entries that differ, at most five."""
    shares = [
        index for index, pair in enumerate(zip(here["buckets"], there["buckets"], strict=True)) if pair[0] != pair[1]
    ]
    one, other = _both(
        lambda: ends.source.call(manifest, "entries", path=ends.source_path, buckets=shares, timeout=READING),
        lambda: ends.target.call(manifest, "entries", path=ends.target_path, buckets=shares, timeout=READING),
    )
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))[:5]

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a move stands, and what may be done there. Pure: from what is seen first, from the journal second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import (
    ENDED,
    FENCED,
    PROMOTION,
    UNFENCED,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host.copies import BOTH, EMPTY, LIVE, PARKED

NEW, PREPARED, COPIED, SWITCHING, PROMOTING, SWITCHED, COMPLETED, CANCELLING, CANCELLED = (
    "new", "prepared", "copied", "switching", "promoting", "switched", "completed", "cancelling", "cancelled",
)  # fmt: skip
PLAN, PREPARE, PRECOPY, STATUS, VERIFY, SWITCH, REVERSE, COMPLETE, CANCEL = VERBS = (
    "plan", "prepare", "precopy", "status", "verify", "switch", "reverse", "complete", "cancel",
)  # fmt: skip
#: Verbs that change nothing and need no lock.
LOOKING = (PLAN, STATUS, VERIFY)


@dataclass(frozen=True)
class Seen:
    """What was looked at. None and what is missing: it could not be looked at.

    `lease`: hostnames with the unit's label. `volumes`: volume -> hostname -> state as on_host/copies has it. `armed`:
    whether the deadline's watcher still has something to do.
    """

    lease: frozenset[str]
    volumes: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    armed: bool = False

    def at(self, state: str, volume: str) -> set[str]:
        """Return where a volume's data is live, or parked."""
        found = self.volumes[volume].items()
        there = {node for node, now in found if now in (state, BOTH)}
        # One without files is live, too, but for one that a killed run had just made beside the real one.
        return there if there or state != LIVE else {node for node, now in found if now == EMPTY}

    @property
    def lives(self) -> str | None:
        """Where the unit's data is live, all of it; without data where the lease is. None: at no one place."""
        places = {node for volume in self.volumes for node in self.at(LIVE, volume)}
        everywhere = all(self.at(LIVE, volume) for volume in self.volumes)
        places = places if self.volumes else set(self.lease)
        return next(iter(places)) if everywhere and len(places) == 1 else None


@dataclass(frozen=True)
class Phase:
    """Where a move stands. `source`, `target`: of the switch under way, else of the one that may come next.

    `since`: when it was switched (ISO 8601). `problem`: what contradicts itself; only looking is allowed then.
    `forth`: whether the switch under way leads away from the unit's home. `taken_back`: whether a switch back was begun
    and taken back.
    """

    name: str
    source: str
    target: str
    since: str | None = None
    problem: str = ""
    forth: bool = True
    taken_back: bool = False


def decide(unit: Unit, entries: Sequence[Mapping[str, Any]], seen: Seen) -> Phase:
    """Return the phase of a unit."""
    story = [entry for entry in entries if entry["event"] != "failed"]
    closed = next((index for index in range(len(story) - 1, -1, -1) if story[index]["event"] == ENDED), None)
    current = story if closed is None else story[closed + 1 :]
    if not current:
        return _at_rest(unit, story[closed] if closed is not None else None, seen)
    phase = _under_way(unit, current, seen)
    if phase.name in (NEW, PREPARED, COPIED) and _cancel_begun(current):
        phase = replace(phase, name=CANCELLING)
    return replace(phase, problem=_problem(phase, seen))


def _cancel_begun(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a cancel has taken something away that no verb has brought about anew since."""
    telling = [each for each in entries if each.get("verb") == CANCEL or each["event"] in (PREPARED, FENCED, SWITCHED)]
    return bool(telling) and telling[-1].get("verb") == CANCEL


def _at_rest(unit: Unit, ended: Mapping[str, Any] | None, seen: Seen) -> Phase:
    """Return the phase where no move is under way by the journal, or none has ever been."""
    # The hosts' link goes with the move; without it the lease, which stays, says where the unit is.
    unseen = any(nodes.get(unit.target) is None for nodes in seen.volumes.values())
    if seen.lives == unit.target or (unseen and seen.lease == {unit.target}):
        kept = any(unit.home in seen.at(PARKED, volume) for volume in seen.volumes)
        # A switched unit without a journal: it was lost with the manager's disk.
        return Phase(SWITCHED if kept else COMPLETED, unit.target, unit.home)
    name = CANCELLED if ended is not None and ended.get("how") == CANCEL else NEW
    return Phase(name, unit.home, unit.target)


def _under_way(unit: Unit, entries: Sequence[Mapping[str, Any]], seen: Seen) -> Phase:
    fences = [index for index, entry in enumerate(entries) if entry["event"] in (FENCED, UNFENCED, PROMOTION)]
    opened = [entry for entry in entries if entry["event"] == FENCED]
    if not fences:
        return _before_a_switch(unit, entries, seen)
    last = entries[fences[-1]]["event"]
    source, target = (str(opened[-1][key]) for key in ("source", "target")) if opened else (unit.home, unit.target)
    forth = source == unit.home
    if last == PROMOTION:
        switched = [entry for entry in entries[fences[-1] :] if entry["event"] == SWITCHED]
        if not switched:
            return Phase(PROMOTING, source, target, forth=forth)
        # Turned back, the unit is where it was before the switch: a copy follows it.
        return Phase(SWITCHED if forth else COPIED, target, source, since=switched[-1]["at"])
    if last == FENCED or seen.armed or seen.lives != source:
        return Phase(SWITCHING, source, target, forth=forth)
    if not forth:
        return Phase(SWITCHED, source, target, since=_switched_at(entries), taken_back=True)
    return _before_a_switch(unit, entries, seen)


def _before_a_switch(unit: Unit, entries: Sequence[Mapping[str, Any]], seen: Seen) -> Phase:
    events = {entry["event"] for entry in entries[_cancelled_at(unit, entries) :]}
    pinned = seen.lease == {unit.home}
    name = (COPIED if COPIED in events else PREPARED) if pinned and PREPARED in events else NEW
    return Phase(name, unit.home, unit.target, since=_switched_at(entries))


def _cancelled_at(unit: Unit, entries: Sequence[Mapping[str, Any]]) -> int:
    """Return where a cancel last took away what was made, 0 if none did: one that called off a reverse did not."""
    last, back = 0, False
    for index, entry in enumerate(entries):
        if entry["event"] in (FENCED, PROMOTION):
            back = entry["event"] == FENCED and entry["source"] != unit.home
        if entry.get("verb") == CANCEL and not back:
            last = index
    return last


def _switched_at(entries: Sequence[Mapping[str, Any]]) -> str | None:
    return next((str(entry["at"]) for entry in reversed(entries) if entry["event"] == SWITCHED), None)


def _problem(phase: Phase, seen: Seen) -> str:
    for volume in seen.volumes:
        live = sorted(seen.at(LIVE, volume))
        if len(live) > 1:
            return f"the volume {volume} has live data on {' and on '.join(live)}: only one of them may be"
        if phase.name in (PREPARED, COPIED, SWITCHED, CANCELLING) and live and live != [phase.source]:
            return f"the volume {volume} is live on {live[0]}, but by the journal the unit runs on {phase.source}"
    if len(seen.lease) > 1:
        return f"the lease is on {' and on '.join(sorted(seen.lease))}: only one node may have it"
    return ""


def refusal(verb: str, phase: Phase, unit: Unit) -> str:
    """Say why a verb may not run in a phase and which one may, "" if it may."""
    if phase.problem and verb not in LOOKING:
        return f"{phase.problem}. Nothing is done before that is cleared up: see docs/moving.md"
    if verb == REVERSE and phase.name == COPIED and phase.since is None:
        return _NO_WAY_BACK
    if verb == CANCEL and phase.taken_back:
        return ""
    return _REFUSALS.get(verb, {}).get(_key(phase), "").format(unit=unit, phase=phase)


def next_verb(phase: Phase) -> str | None:
    """Return the verb that leads on from a phase, None where nothing is left to do."""
    return {
        NEW: PREPARE,
        CANCELLED: PREPARE,
        CANCELLING: CANCEL,
        PREPARED: PRECOPY,
        COPIED: SWITCH,
        SWITCHING: SWITCH,
        PROMOTING: SWITCH,
        _SWITCHING_BACK: REVERSE,
        _PROMOTING_BACK: REVERSE,
        SWITCHED: COMPLETE,
    }.get(_key(phase))


def _key(phase: Phase) -> str:
    return phase.name if phase.forth else f"{phase.name}_back"


_SWITCHING_BACK, _PROMOTING_BACK = f"{SWITCHING}_back", f"{PROMOTING}_back"
_UNDER_WAY = "a switch to {phase.target} is under way: verb=switch goes on with it, verb=cancel takes it back"
_PROMOTING = "{phase.target}'s copy is being made the one: run verb=switch again, which ends it; then verb=reverse"
_GOING_BACK = "a switch back to {phase.target} is under way: run verb=reverse again, which goes on with it"
_SWITCHED = "the unit was switched to {unit.target}: verb=reverse brings it back, verb=complete ends the move"
_COMPLETED = "the unit was moved to {unit.target} for good: to move it back swap home and target in migration_units"
_NOT_BEGUN = "the move has not begun: run verb=prepare first"
_CANCELLING = (
    "a cancel was begun and is not through: run verb=cancel again, which ends it (or verb=prepare to begin anew)"
)
_NO_COPY = "there is no copy yet: run verb=precopy first"
_BACK = dict.fromkeys((_SWITCHING_BACK, _PROMOTING_BACK), _GOING_BACK)
_NO_WAY_BACK = "nothing was switched: there is nothing to bring back"
_REFUSALS: Mapping[str, Mapping[str, str]] = {
    PREPARE: {
        SWITCHING: _UNDER_WAY,
        PROMOTING: _PROMOTING,
        **_BACK,
        SWITCHED: _SWITCHED,
        COMPLETED: _COMPLETED,
    },
    PRECOPY: {
        NEW: _NOT_BEGUN,
        CANCELLING: _CANCELLING,
        CANCELLED: _NOT_BEGUN,
        SWITCHING: _UNDER_WAY,
        PROMOTING: _PROMOTING,
        **_BACK,
        SWITCHED: _SWITCHED,
        COMPLETED: _COMPLETED,
    },
    SWITCH: {
        NEW: _NOT_BEGUN,
        CANCELLING: _CANCELLING,
        CANCELLED: _NOT_BEGUN,
        PREPARED: _NO_COPY,
        **_BACK,
        COMPLETED: _COMPLETED,
    },
    REVERSE: {
        CANCELLING: _CANCELLING,
        **dict.fromkeys((NEW, CANCELLED, PREPARED), _NO_WAY_BACK),
        SWITCHING: _UNDER_WAY,
        PROMOTING: _PROMOTING,
        COMPLETED: _COMPLETED,
    },
    COMPLETE: {
        CANCELLING: _CANCELLING,
        **dict.fromkeys((NEW, CANCELLED, PREPARED, COPIED), "nothing was switched: there is nothing to complete"),
        SWITCHING: _UNDER_WAY,
        PROMOTING: _PROMOTING,
        **_BACK,
    },
    CANCEL: {
        PROMOTING: _PROMOTING,
        _PROMOTING_BACK: _GOING_BACK,
        SWITCHED: "cancel is for before a switch, and {unit.target} has taken writes since: run verb=reverse first",
        COMPLETED: _COMPLETED,
    },
}

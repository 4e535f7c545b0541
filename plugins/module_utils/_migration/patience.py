# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long Swarm waits for a silent host before it counts it as lost: longer while a unit is between two hosts.

Seen on Docker 20.10: after three heartbeats without an answer, 15 s by default, a node counts as lost. When it is back
Swarm starts a second container of each of its services beside the one that still runs there, on the same volume, until
that one has stopped. A link cut for 40 s lost acknowledged writes of PostgreSQL so, without any move. On 26.1 a cut in
a reverse lost those of Redis; neither did with a heartbeat of 60 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import open_moves
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Trap
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step

#: The Swarm's label with its heartbeat of before, in nanoseconds: the Swarm is the same for the moves of all units.
BEFORE = "evenkeel.heartbeat"
_SECOND = 10**9
PATIENT = 60 * _SECOND
#: What swarmkit has where nothing is set, and after how many heartbeats a node counts as lost.
_DEFAULT, _MISSED = 5 * _SECOND, 3


def wait_longer(move: Move) -> Step:
    """Return the step that has Swarm bear a cut of the link for as long as a switch and its giving back may take."""
    return Step(
        id=f"{move.journal.verb}.{move.unit.name}.patience",
        title=f"have Swarm count a silent host as lost after {_MISSED * PATIENT // _SECOND} s",
        host=move.source.name,
        probe=lambda: patient(spec := move.cluster.swarm_spec()) == spec,
        do=lambda _tell: move.cluster.edit_swarm(patient),
    )


def as_before(move: Move) -> Step:
    """Return the step that has Swarm wait as long as before the move, once no other unit's move needs it to."""

    def others() -> list[str]:
        return open_moves(move.journal.path.parents[1], but=move.unit.name)

    return Step(
        id=f"{move.journal.verb}.{move.unit.name}.impatience",
        title="have Swarm count a silent host as lost as soon as before",
        host=move.source.name,
        probe=lambda: impatient(spec := move.cluster.swarm_spec()) == spec or bool(others()),
        do=lambda _tell: move.cluster.edit_swarm(impatient),
    )


def patient(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Swarm's spec with a heartbeat that is long enough, and with a label that says what it was."""
    before = _heartbeat(spec)
    if before >= PATIENT:
        return dict(spec)
    return _with(spec, PATIENT, {**_labels(spec), BEFORE: str(before)})


def impatient(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Swarm's spec with its heartbeat of before; one that was set by hand since then stays."""
    labels = _labels(spec)
    before = labels.pop(BEFORE, None)
    if before is None:
        return dict(spec)
    now = _heartbeat(spec)
    return _with(spec, int(before) if now == PATIENT else now, labels)


def traps(spec: Mapping[str, Any]) -> list[Trap]:
    """Return the trap of a Swarm that gives a silent host little time, during a move or else."""
    usual = _heartbeat(impatient(spec))
    if usual >= PATIENT:
        return []
    text = (
        f"the Swarm: {_MISSED * usual / _SECOND:g} s after it has last heard of a host it counts it as lost, and when"
        " that is back starts a second container beside each that runs there: databases lose writes so"
    )
    remedy = (
        f"{_MISSED * PATIENT // _SECOND} s during the move; for good by"
        f" docker swarm update --dispatcher-heartbeat {PATIENT // _SECOND}s"
    )
    return [Trap("short_heartbeat", text, remedy)]


def _heartbeat(spec: Mapping[str, Any]) -> int:
    return int((spec.get("Dispatcher") or {}).get("HeartbeatPeriod") or _DEFAULT)


def _labels(spec: Mapping[str, Any]) -> dict[str, str]:
    return dict(spec.get("Labels") or {})


def _with(spec: Mapping[str, Any], heartbeat: int, labels: Mapping[str, str]) -> dict[str, Any]:
    dispatcher = {**(spec.get("Dispatcher") or {}), "HeartbeatPeriod": heartbeat}
    return {**spec, "Dispatcher": dispatcher, "Labels": dict(labels)}

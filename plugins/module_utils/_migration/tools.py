# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The other parts of a move, in one place. They are imported when a move first needs them: most runs need few."""

# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import UNREACHABLE, MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import (
    APP,
    FILES,
    POSTGRES,
    Drain,
    Part,
    Unit,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import (
    Facts,
    Move,
    Mover,
    Place,
    Trap,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.phase import COMPLETED, COPIED, SWITCHED
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage, Step


class Tools:
    """Discovery, movers, lease, drain, traps, plan."""

    @property
    def lease(self) -> ModuleType:
        """The steps that pin, stop and start by the lease."""
        from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import lease

        return lease

    def find_parts(self, unit: Unit, cluster: Cluster, places: Mapping[str, Place]) -> tuple[Part, ...]:
        """Return the parts of a unit as they are found."""
        from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.discover import find_parts

        return find_parts(unit, cluster, places)

    def mover(self, move: Move, part: Part) -> Mover:
        """Return the mover of a part."""
        if part.kind == APP:
            from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.app import AppMover

            return AppMover(move, part)
        if part.kind == FILES:
            from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.files import FilesMover

            return FilesMover(move, part)
        if part.kind == POSTGRES and part.member.mover == "dump":
            from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_dump import (
                DumpMover,
            )

            return DumpMover(move, part)
        if part.kind == POSTGRES:
            from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres import PostgresMover

            return PostgresMover(move, part)
        from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.redis import RedisMover

        return RedisMover(move, part)

    def drain(self, move: Move, service: str, how: Drain) -> Step:
        """Return the step that empties a service."""
        from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.drain import drain

        return drain(move, service, how)

    def plan(
        self, move: Move, movers: Mapping[str, Mover], phase: str, steps: Mapping[str, Sequence[Stage]]
    ) -> dict[str, Any]:
        """Return the plan of a move (see plan.py), of which `steps` are those of each verb."""
        from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.plan import build_plan, empty_plan
        from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.survey import look

        if phase in (SWITCHED, COMPLETED):
            return empty_plan(move.unit, phase)
        parts = [mover.part for mover in movers.values()]
        facts = {key: _facts_of(mover) for key, mover in movers.items()}
        ready = {key: mover.readiness() for key, mover in movers.items()} if phase == COPIED else {}
        return build_plan(move, parts, facts, look(move, parts), phase=phase, steps=steps, readiness=ready)

    def plan_text(self, plan: Mapping[str, Any]) -> list[str]:
        """Return a plan as lines for people."""
        from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.plan_text import plan_text

        return plan_text(plan)


def _facts_of(mover: Mover) -> Facts:
    """Return what is seen of a part; of one on a host that can't be looked at a trap says so."""
    try:
        return mover.facts()
    except MoveError as error:
        if error.code not in UNREACHABLE:
            raise
        text = f"{mover.part.service}: {error.message}"
        return Facts(None, None, {}, [Trap("part_not_seen", text, "its size and its traps are not in this plan")])

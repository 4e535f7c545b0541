# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a move and its parts to the plan as data and as text: what the verb `plan` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import survey
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Part
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Facts, Move, Readiness
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.plan import FINISHED, build_plan, empty_plan
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.plan_text import plan_text
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage


def make_plan(
    move: Move,
    parts: Sequence[Part],
    facts: Mapping[str, Facts],
    *,
    phase: str,
    steps: Mapping[str, Sequence[Stage]],
    readiness: Mapping[str, Readiness] | None = None,
) -> dict[str, Any]:
    """Return {"plan", "plan_text"}; nothing is changed. Of a finished move nothing is looked at. Raises MoveError."""
    if phase in FINISHED:
        plan = empty_plan(move.unit, phase)
    else:
        seen = survey.look(move, parts)
        plan = build_plan(move, parts, facts, seen, phase=phase, steps=steps, readiness=readiness)
    return {"plan": plan, "plan_text": plan_text(plan)}

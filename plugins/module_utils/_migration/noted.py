# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of a unit as the journal keeps them: half-moved a unit looks different from when the move began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Part, Unit


def note_of(part: Part) -> dict[str, Any]:
    """Return a part as JSON has it."""
    return {**part.__dict__, "member": part.member.service, "volumes": dict(part.volumes), "users": list(part.users)}


def part_of(noted: Mapping[str, Any], unit: Unit) -> Part:
    """Return the part of a note, its member as the inventory has it now. Raises MoveError `bad_input`."""
    member = next((each for each in unit.members if each.service == noted["member"]), None)
    if member is None:
        name = f"migration_units.{unit.name}.members"
        message = f"{name} has no {noted['member']} any more, and the move that is under way began with it"
        raise MoveError("bad_input", f"{message}: put it back, or cancel the move first", field=name)
    return Part(**{**noted, "member": member, "users": tuple(noted["users"])})

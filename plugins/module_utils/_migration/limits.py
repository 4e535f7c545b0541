# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits that a member has on the target, read as the limits table reads its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import Edit, row_edit
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_table import parse_table
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError


def limits_edit(service: str, limits: Mapping[str, Any]) -> Edit:
    """Return the fields that a member's limits set. Raises MoveError naming the field."""
    rows, errors = parse_table([{"service": service, "limits": dict(limits)}])
    if errors:
        raise MoveError("bad_limits", f"limits of {service}: {'; '.join(errors)}", field="limits")
    return row_edit(rows[0])

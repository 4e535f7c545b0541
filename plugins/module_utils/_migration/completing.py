# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a move may be completed, which can't be taken back."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage, flat


def refuse_to_complete(unit: str, since: str | None, finish: Sequence[Stage], least: float, *, confirmed: bool) -> None:
    """Raise MoveError `too_young` or `not_confirmed`.

    `since`: when the unit was switched (ISO 8601), None: nobody knows. `finish`: what completing would do. `least`: age
    of the switch in seconds.
    """
    removes = "; ".join(step.title for step in flat(finish)) or "nothing but the move's own marks"
    if since is None:
        message = f"nobody knows when {unit} was switched, as its journal is gone"
        raise MoveError("too_young", f"{message}: run verb=reverse and verb=switch, or clean up by hand")
    age = (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(since)).total_seconds()
    if age < least:
        message = f"{unit} was switched {age / 3600:.1f} h ago, and complete waits for {least / 3600:.1f} h"
        raise MoveError("too_young", f"{message}: until then verb=reverse needs what it would remove ({removes})")
    if not confirmed:
        message = f"complete can't be taken back. It would: {removes}"
        raise MoveError("not_confirmed", f"{message}. Say confirm=true to do it", field="confirm")

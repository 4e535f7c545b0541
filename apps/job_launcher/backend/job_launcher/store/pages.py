# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages of a list: an opaque cursor is the place in the table where the next page begins."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from job_launcher.model import Page
from job_launcher.refused import Refused

END = 2**63 - 1


def cursor(field: str, text: str | None, none: int = END) -> int:
    """Return the place that a cursor means; raises Refused for one that no page gave."""
    if text is None:
        return none
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Refused(field, "must be a cursor that an earlier page gave as next")
    return int(text)


def page(rows: Sequence[sqlite3.Row], limit: int, make: Callable[..., Any], key: str) -> Page:
    """Make a page of up to limit items out of limit + 1 rows; the last item's `key` is the cursor."""
    shown = rows[:limit]
    following = str(shown[-1][key]) if len(rows) > limit else None
    return Page([make(**{name: row[name] for name in row.keys() if name != "seq"}) for row in shown], following)  # noqa: SIM118 # a row iterates over its values

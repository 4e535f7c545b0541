# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers and findings in words, the same on the terminal and on the page.

None is "not measured" throughout and is shown as a dash, never as 0; "no limit" is a word of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._units import format_memory

Row = Mapping[str, Any]

MISSING = "–"
NOT_MEASURED = "not measured"
NO_LIMIT = "unlimited"
_UNITS = ("B", "K", "M", "G", "T")

# What holds a service up, as throttling_info's `cause` names it, and for people.
CAUSES = {
    "throttled": "own limit",
    "contention": "other services",
    "siblings": "own threads",
    "steal": "hypervisor",
}
# Less than this many cores is no cause worth naming.
_SMALLEST_CAUSE = 0.01


def over(limits: float | None, cores: float | None) -> float | None:
    """Return limits per core; None where either is not known."""
    return None if limits is None or not cores else limits / cores


def number(value: float | None) -> str:
    """Write cores with two decimals."""
    return MISSING if value is None else f"{value:.2f}"


def plain(value: float | None) -> str:
    """Write a number that people chose, without trailing zeros."""
    return MISSING if value is None else f"{value:g}"


def times(value: float | None) -> str:
    """Write a multiple."""
    return MISSING if value is None else f"{value:.1f}x"


def percent(share: float | None) -> str:
    """Write a share in whole percent."""
    return MISSING if share is None else f"{share:.0%}"


def size(value: float | None) -> str:
    """Write bytes with three digits or so, for reading; the JSON file has them all."""
    if value is None:
        return MISSING
    amount = float(value)
    unit = 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount /= 1024
        unit += 1
    return f"{amount:.3g}{_UNITS[unit]}"


def setting(field: str, value: Any) -> str:
    """Write a limit, reservation or number of replicas as it stands in a table of limits."""
    if value is None:
        return NO_LIMIT
    if field.endswith("memory"):
        return format_memory(int(value))
    return f"{value:g}"


def count(amount: int, what: str) -> str:
    """Write how many there are of something: `1 service`, `2 services`."""
    return f"{amount} {what}{'' if amount == 1 else 's'}"


def short(field: str) -> str:
    """Leave `limits.` out: in a table of limits it goes without saying, `reservations.` doesn't."""
    return field.removeprefix("limits.")


def demand_text(demand: Row) -> str:
    """Write a demand: a number where there is an estimate, else the interval, `2.10+` where it has no upper end."""
    estimate, lower, upper = (demand.get(key) for key in ("estimate", "lower", "upper"))
    if estimate is not None:
        return number(estimate)
    if lower is None:
        return MISSING
    return f"{lower:.2f}+" if upper is None else f"{lower:.2f}..{upper:.2f}"


def main_cause(cause: Row | None) -> tuple[str, float] | None:
    """Return the largest measured part of a cause (its name in CAUSES, cores); None if none was measured.

    The name is empty where nothing worth naming held the service up.
    """
    parts = {name: cause[name] for name in CAUSES if cause and cause.get(name) is not None}
    if not parts:
        return None
    name = max(parts, key=lambda each: parts[each])
    return (name, parts[name]) if parts[name] >= _SMALLEST_CAUSE else ("", 0.0)


def cause_text(cause: Row | None) -> str:
    """Write the main part of a cause with its cores: `own limit 2.10`, or `nothing`."""
    main = main_cause(cause)
    if main is None:
        return MISSING
    name, cores = main
    return f"{CAUSES[name]} {cores:.2f}" if name else "nothing"

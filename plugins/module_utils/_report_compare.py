# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare two throttling reports: figures before and after, what was set differently, and a table that undoes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._units import format_memory

Row = Mapping[str, Any]
Path = Sequence[str]

UNLIMITED = "unlimited"

# Paths into a report's rows; the last part is a number or None, except for `demand`.
_SERVICE_FIGURES: Mapping[str, Path] = {
    "running": ("running",),
    "cpu_limit": ("limits", "cpus"),
    "memory_limit": ("limits", "memory"),
    "cpu_used": ("measured", "cpu_used"),
    "throttled_ratio": ("measured", "throttled_ratio"),
    "working_set": ("measured", "memory", "working_set"),
    "oom_kills": ("measured", "oom_kills"),
    "restarts": ("measured", "restarts"),
}
_NODE_FIGURES: Mapping[str, Path] = {
    "tasks": ("tasks",),
    "limits_cpus": ("limits_cpus",),
    "cpu_used": ("cpu_used",),
    "cpu_idle_share": ("cpu_idle_share",),
    "steal_share": ("steal_share",),
    "pressure": ("pressure", "some", "share"),
    "memory_available": ("memory_available",),
}
_TOTAL_FIGURES: Mapping[str, Path] = {
    "running_tasks": ("running_tasks",),
    "limits_cpus": ("limits_cpus",),
}
# What a table of limits can set, so what can be undone.
_SETTINGS: Sequence[Path] = (
    ("limits", "cpus"),
    ("limits", "memory"),
    ("limits", "pids"),
    ("reservations", "cpus"),
    ("reservations", "memory"),
    ("replicas",),
)


class NoReportError(ValueError):
    """Something that can't be compared with; the message says why."""


def parse_report(text: str, name: str) -> dict[str, Any]:
    """Read an earlier throttling.json; `name` says in a NoReportError which file is meant."""
    hint = "give a throttling.json that the role report wrote"
    try:
        report = json.loads(text)
    except ValueError as error:
        raise NoReportError(f"{name} is not JSON ({error}): {hint}") from error
    known = isinstance(report, dict) and isinstance(report.get("measured_at"), str)
    if not known or not _rows_named(report.get("services"), "service") or not _rows_named(report.get("nodes"), "name"):
        raise NoReportError(f"{name} is JSON, but no throttling report: {hint}")
    return dict(report)


def _rows_named(rows: Any, key: str) -> bool:
    return isinstance(rows, list) and all(isinstance(row, Mapping) and isinstance(row.get(key), str) for row in rows)


def compare(before: Row, after: Row, undo_command: str = "") -> dict[str, Any]:
    """Compare two reports of one Swarm, the earlier one perhaps of an older version.

    Returns `before` (its measured_at, window_seconds, verdict_grade, verdict), `totals`, `nodes` and `services` (those
    in both; each figure a mapping of before, after, change), `appeared` and `vanished` (services), `changes` (service,
    field, before, after) and `undo` (`table`: rows for service_limits that set back what changed; `command`: as given).
    Raises NoReportError if they have no node or no service in common.
    """
    nodes = _pairs(before["nodes"], after["nodes"], "name")
    services = _pairs(before["services"], after["services"], "service")
    for what, pairs in (("node", nodes), ("service", services)):
        if not pairs:
            raise NoReportError(f"the earlier report has no {what} in common with this one: it is of another Swarm")
    names = [{row["service"] for row in report["services"]} for report in (before, after)]
    changes = [change for old, new in services for change in setting_changes(old, new)]
    return {
        "before": {key: before.get(key) for key in ("measured_at", "window_seconds", "verdict_grade", "verdict")},
        "totals": _figures(before.get("totals"), after["totals"], _TOTAL_FIGURES),
        "nodes": [{"name": new["name"], **_figures(old, new, _NODE_FIGURES)} for old, new in nodes],
        "services": [
            {
                "service": new["service"],
                **_figures(old, new, _SERVICE_FIGURES, demand=("measured", "demand")),
            }
            for old, new in services
        ],
        "appeared": sorted(names[1] - names[0]),
        "vanished": sorted(names[0] - names[1]),
        "changes": changes,
        "undo": {"table": undo_table(changes), "command": undo_command},
    }


def undo_table(changes: Iterable[Row]) -> list[dict[str, Any]]:
    """Return a table of limits that sets every changed field back, to `unlimited` where there was nothing."""
    rows: dict[str, dict[str, Any]] = {}
    for change in changes:
        row = rows.setdefault(change["service"], {"service": change["service"]})
        section, _, key = change["field"].rpartition(".")
        target = row.setdefault(section, {}) if section else row
        target[key] = _as_written(key, change["before"])
    return list(rows.values())


def _as_written(key: str, value: Any) -> Any:
    if value is None:
        return UNLIMITED
    return format_memory(int(value)) if key == "memory" else value


def setting_changes(old: Row, new: Row) -> list[dict[str, Any]]:
    """Return what a table can set and two rows of a service differ in: service, field, before, after."""
    changes = []
    for path in _SETTINGS:
        before, after = _at(old, path), _at(new, path)
        # Replicas are None for a global service, and a table can't say that.
        if before != after and (path != ("replicas",) or None not in (before, after)):
            changes.append({"service": new["service"], "field": ".".join(path), "before": before, "after": after})
    return changes


def _pairs(before: Iterable[Row], after: Iterable[Row], key: str) -> list[tuple[Row, Row]]:
    earlier = {row[key]: row for row in before}
    return [(earlier[row[key]], row) for row in after if row[key] in earlier]


def _figures(old: Any, new: Row, paths: Mapping[str, Path], demand: Path = ("demand",)) -> dict[str, Any]:
    figures = {name: _figure(_at(old, path), _at(new, path)) for name, path in paths.items()}
    before, after = _at(old, demand), _at(new, demand)
    estimates = (_at(before, ("estimate",)), _at(after, ("estimate",)))
    return figures | {"demand": {"before": before, "after": after, "change": _figure(*estimates)["change"]}}


def _figure(before: Any, after: Any) -> dict[str, Any]:
    """Return a figure's two values and their difference, None where one of them is missing."""
    return {"before": before, "after": after, "change": None if before is None or after is None else after - before}


def _at(row: Any, path: Path) -> Any:
    """Follow a path, None where it ends early: an older version, or not measured."""
    for key in path:
        if not isinstance(row, Mapping):
            return None
        row = row.get(key)
    return row

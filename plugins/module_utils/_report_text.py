# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A throttling report for the terminal: running services by usage, nodes, remarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _throttling
from ansible_collections.evenkeel.swarm.plugins.module_utils._text_table import Column, running_text, table
from ansible_collections.evenkeel.swarm.plugins.module_utils._verdict import demand_of_all
from ansible_collections.evenkeel.swarm.plugins.module_utils._words import (
    MISSING,
    NO_LIMIT,
    cause_text,
    count,
    demand_text,
    number,
    percent,
    plain,
    size,
    times,
)

Row = Mapping[str, Any]


_SERVICE_COLUMNS = (
    Column("SERVICE", right=False),
    Column("NODE", right=False),
    Column("TASKS"),
    Column("LIMIT"),
    Column("USED"),
    Column("THROTTLED"),
    Column("DEMAND"),
    Column("REGIME", right=False),
    Column("HELD UP BY", right=False),
    Column("MEMORY"),
    Column("OF"),
)
_NODE_COLUMNS = (
    Column("NODE", right=False),
    Column("ROLE", right=False),
    Column("CORES"),
    Column("DECLARED"),
    Column("USED"),
    Column("DEMAND"),
    Column("STEAL"),
    Column("LOAD"),
    Column("TASKS"),
    Column("NO LIMIT"),
    Column("LIMITS"),
    Column("OVER CORES"),
    Column("OVER DECLARED"),
    Column("MEMORY"),
    Column("OF"),
)


def report_text(report: Row) -> str:
    """Write a report (build_report) for a terminal: running services by usage, nodes, remarks; no trailing blanks.

    As wide as the longest name makes it: names are there to be copied, so none is cut.
    """
    services = sorted((row for row in report["services"] if row["running"]), key=_by_usage)
    parts = [
        _heading(report),
        table(_SERVICE_COLUMNS, [_service_cells(service) for service in services]),
        table(_NODE_COLUMNS, [*map(_node_cells, report["nodes"]), _total_cells(report["totals"])]),
        "\n".join(_remarks(report)),
    ]
    return "\n\n".join(parts)


def _by_usage(service: Row) -> tuple[float, str]:
    used = (service["measured"] or {}).get("cpu_used")
    return -(used or 0.0), service["service"]


def _heading(report: Row) -> str:
    window = report["window_seconds"]
    how = "one look, no rates" if not window else f"{window:.0f} s"
    if not report["verdict_grade"]:
        how += f"; a verdict takes {_throttling.VERDICT_SECONDS:.0f} s or more"
    return f"Throttling, {report['measured_at']} ({how}). CPU in cores."


def _service_cells(service: Row) -> list[str]:
    measured = service["measured"] or {}
    demand = measured.get("demand") or {}
    limit = service["limits"]["memory"]
    return [
        _marked(service),
        ",".join(service["nodes"]) or MISSING,
        f"{service['running']}/{service['replicas']}" if service["replicas"] is not None else str(service["running"]),
        NO_LIMIT if service["limits"]["cpus"] is None else f"{service['limits']['cpus']:g}",
        number(measured.get("cpu_used")),
        percent(measured.get("throttled_ratio")),
        demand_text(demand),
        demand.get("regime") or MISSING,
        cause_text(measured.get("cause")),
        size((measured.get("memory") or {}).get("working_set")),
        NO_LIMIT if limit is None else size(limit),
    ]


def _node_cells(node: Row) -> list[str]:
    total, available = node["memory_total"], node["memory_available"]
    return [
        node["name"],
        node["role"],
        plain(node["cores"]["real"]),
        plain(node["cores"]["declared"]),
        number(node["cpu_used"]),
        demand_text(demand_of_all(node)),
        percent(node["steal_share"]),
        number(node["load"][0] if node["load"] else None),
        str(node["tasks"]),
        str(node["unlimited_tasks"]),
        plain(node["limits_cpus"]),
        times(node["oversubscription"]["real"]),
        times(node["oversubscription"]["declared"]),
        MISSING if total is None or available is None else size(total - available),
        size(total),
    ]


def _total_cells(totals: Row) -> list[str]:
    cells = dict.fromkeys((column.title for column in _NODE_COLUMNS), "")
    cells |= {
        "NODE": "all",
        "CORES": plain(totals["cores"]["real"]),
        "DECLARED": plain(totals["cores"]["declared"]),
        "DEMAND": demand_text(demand_of_all(totals)),
        "TASKS": str(totals["running_tasks"]),
        "LIMITS": plain(totals["limits_cpus"]),
        "OVER CORES": times(totals["oversubscription"]["real"]),
        "OVER DECLARED": times(totals["oversubscription"]["declared"]),
    }
    return list(cells.values())


def _remarks(report: Row) -> list[str]:
    verdict, totals = report["verdict"], report["totals"]
    remarks = [
        verdict["text"],
        *verdict["attention"],
        *(f"Load of {node['name']}: {node['load_split']['text']}" for node in report["nodes"] if node["load_split"]),
        *_changed(report["comparison"]),
        f"{totals['services']} services, {totals['running_tasks']} running tasks.",
        f"{MISSING} not measured; a..b an interval: the demand lies in it, and nothing measured here says where.",
    ]
    stopped = [_marked(service) for service in report["services"] if not service["running"]]
    if stopped:
        remarks.append(f"Not running: {', '.join(stopped)}.")
    if report["drifted"]:
        remarks.append(f"* differs from the table of limits: {len(report['drifted'])} of them.")
    return running_text(remarks)


def _changed(comparison: Row | None) -> list[str]:
    """Say how many services were set differently in the earlier report, and how to undo it."""
    if comparison is None:
        return []
    services = {change["service"] for change in comparison["changes"]}
    since = f"Since {comparison['before']['measured_at']}"
    if not services:
        return [f"{since} no limit was changed."]
    were = "was" if len(services) == 1 else "were"
    undo = comparison["undo"]["command"]
    how = f" To undo it: {undo}" if undo else ""
    return [f"{since} {count(len(services), 'service')} {were} set differently.{how}"]


def _marked(service: Row) -> str:
    return f"{service['service']}{' *' if service['drift'] else ''}"

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put what the modules returned together for people: one report of a whole Swarm, its text, lines about limits.

Runs on the controller, in filters; plain data in, plain data out. None means "not measured" throughout and is shown
as a dash, never as 0; "no limit" is a word of its own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.evenkeel.swarm.plugins.module_utils import _demand, _throttling
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_table import Selectable, match_rows, parse_table
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import NANO, format_memory

Row = Mapping[str, Any]

MISSING = "–"
NO_LIMIT = "unlimited"
_UNITS = ("B", "K", "M", "G", "T")
# For running text only: tables are as wide as what is in them.
TEXT_WIDTH = 120


class TableError(ValueError):
    """A table of limits that can't be summed; the message holds every error in it."""


# --- sums without a connection ---------------------------------------------------------------------------------


def sum_limits(table: Sequence[Any], services: Sequence[Row], cores: float) -> dict[str, Any]:
    """Sum the limits that a table gives to the running tasks of services, on a number of cores.

    `services`: mappings with `name`, `replicas` (how many run) and, where the table selects by them, `labels`.
    A row's own `replicas` win. Sums count limited tasks only; `unlimited_cpus` and `unlimited_memory` count the others.
    Raises TableError for a table with errors.
    """
    rows, errors = parse_table(table)
    named = [Selectable(service["name"], service.get("labels") or {}) for service in services]
    chosen, match_errors = match_rows(rows, named)
    if errors or match_errors:
        raise TableError("; ".join(errors or match_errors))
    nano_cpus = memory = running = unlimited_cpus = unlimited_memory = 0
    for service in services:
        row = chosen.get(service["name"])
        limits: Mapping[str, int] = row.limits if row else {}
        tasks = row.replicas if row and row.replicas is not None else int(service["replicas"])
        running += tasks
        nano_cpus += tasks * limits.get("cpus", 0)
        memory += tasks * limits.get("memory", 0)
        unlimited_cpus += 0 if limits.get("cpus") else tasks
        unlimited_memory += 0 if limits.get("memory") else tasks
    return {
        "services": len(services),
        "running_tasks": running,
        "limits_cpus": nano_cpus / NANO,
        "limits_memory": memory,
        "unlimited_cpus": unlimited_cpus,
        "unlimited_memory": unlimited_memory,
        "cores": cores,
        "oversubscription": over(nano_cpus / NANO, cores),
    }


def over(limits: float | None, cores: float | None) -> float | None:
    """Return limits per core; None where either is not known."""
    return None if limits is None or not cores else limits / cores


# --- what the role service_limits says -------------------------------------------------------------------------


def highest_working_sets(looks: Iterable[Row]) -> dict[str, int]:
    """Return each service's highest working set of a task, bytes, over the results of throttling_info on every host."""
    highest: dict[str, int] = {}
    for task in (task for look in looks for task in look["tasks"]):
        used = task["memory"]["working_set"]
        if used is not None:
            highest[task["service"]] = max(used, highest.get(task["service"], 0))
    return highest


def change_lines(services: Iterable[Row]) -> list[str]:
    """Return a line for each service that changed or failed to, and one that counts the rest."""
    lines = []
    unchanged = 0
    for service in services:
        if service["state"] == "unchanged":
            unchanged += 1
            continue
        fields = _differences(service["before"], service["after"])
        what = ", ".join(f"{_short(name)} {_show(name, old)} -> {_show(name, new)}" for name, old, new in fields)
        error = f": {service['error']}" if service.get("error") else ""
        seconds = f", {service['seconds']:.1f} s" if service.get("seconds") else ""
        lines.append(f"{service['service']}: {what or 'settings as they were'} ({service['state']}{seconds}){error}")
    if unchanged:
        lines.append(f"{unchanged} {'service' if unchanged == 1 else 'services'} unchanged")
    return lines


def drift_lines(services: Iterable[Row]) -> list[str]:
    """Return a line for each service that differs from its row, naming every field."""
    return [
        f"{service['service']}: "
        + ", ".join(
            f"{_short(field)} is {_show(field, values['actual'])}, should be {_show(field, values['expected'])}"
            for field, values in service["drift"].items()
        )
        for service in services
        if service["drift"]
    ]


def _differences(before: Row, after: Row) -> list[tuple[str, Any, Any]]:
    old, new = _flat(before), _flat(after)
    return [(name, old.get(name), value) for name, value in new.items() if old.get(name) != value]


def _flat(settings: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat


def _short(field: str) -> str:
    """Leave `limits.` out: in a table of limits it goes without saying, `reservations.` doesn't."""
    return field.removeprefix("limits.")


def _show(field: str, value: Any) -> str:
    if value is None:
        return NO_LIMIT
    if field.endswith("memory"):
        return format_memory(int(value))
    return f"{value:g}"


# --- the report ------------------------------------------------------------------------------------------------


def build_report(hosts: Sequence[Row], limits: Row, measured_at: str) -> dict[str, Any]:
    """Join what every host measured with what a manager knows.

    `hosts`: mappings with `name` (in the inventory), `vcpus` (declared cores or None) and `look` (the result of
    throttling_info there); `limits`: the result of service_limits_info; `measured_at`: a time for the reader.
    Returns window_seconds, verdict_grade, nodes, services, totals, drifted.
    """
    containers = [container for host in hosts for container in host["look"]["containers"]]
    measured = {row["service"]: row for row in _throttling.service_rows(containers)}
    looked_at = {host["look"]["node"]["hostname"]: host for host in hosts}
    nodes = [_node_row(node, looked_at.get(node["hostname"])) for node in limits["nodes"]]
    services = [_service_row(service, measured.get(service["service"])) for service in limits["services"]]
    windows = [host["look"]["node"]["window_seconds"] for host in hosts]
    window = None if None in windows else min(windows, default=None)
    return {
        "measured_at": measured_at,
        "window_seconds": window,
        "verdict_grade": window is not None and window >= _throttling.VERDICT_SECONDS,
        "nodes": nodes,
        "services": services,
        "totals": _totals(nodes, services, _throttling.roll_up(containers)["demand"]),
        "drifted": list(limits["drifted"]),
    }


def _node_row(node: Row, host: Row | None) -> dict[str, Any]:
    look: Row = host["look"]["node"] if host else {}
    declared = float(host["vcpus"]) if host and host["vcpus"] is not None else None
    return {
        "name": host["name"] if host else node["hostname"],
        "hostname": node["hostname"],
        "role": node["role"],
        "availability": node["availability"],
        "tasks": node["tasks"],
        "unlimited_tasks": node["unlimited_tasks"],
        "cores": {"real": node["cpus"], "declared": declared},
        "limits_cpus": node["limits_cpus"],
        "limits_memory": node["limits_memory"],
        "oversubscription": {
            "real": over(node["limits_cpus"], node["cpus"]),
            "declared": over(node["limits_cpus"], declared),
        },
        "load": look.get("load"),
        "cpu_used": look.get("cpu_used"),
        "cpu_idle_share": look.get("cpu_idle_share"),
        "memory_total": look.get("memory_total"),
        "memory_available": look.get("memory_available"),
    }


def _service_row(service: Row, measured: Row | None) -> dict[str, Any]:
    return {
        "service": service["service"],
        "nodes": service["nodes"],
        "running": service["running"],
        "replicas": service["replicas"],
        "limits": service["limits"],
        "reservations": service["reservations"],
        "in_table": service["in_table"],
        "drift": service["drift"],
        # None: no task of it was seen on the hosts that measured.
        "measured": {key: value for key, value in measured.items() if key != "service"} if measured else None,
    }


def _totals(nodes: Sequence[Row], services: Sequence[Row], demand: Row) -> dict[str, Any]:
    real, declared, limits = (
        _demand.add_up(values)
        for values in (
            [node["cores"]["real"] for node in nodes],
            [node["cores"]["declared"] for node in nodes],
            [node["limits_cpus"] for node in nodes],
        )
    )
    return {
        "services": len(services),
        "running_tasks": sum(service["running"] for service in services),
        "cores": {"real": real, "declared": declared},
        "limits_cpus": limits,
        "oversubscription": {"real": over(limits, real), "declared": over(limits, declared)},
        "demand": demand,
    }


# --- its text --------------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """A column of a text table."""

    title: str
    right: bool = True


_SERVICE_COLUMNS = (
    Column("SERVICE", right=False),
    Column("NODE", right=False),
    Column("TASKS"),
    Column("LIMIT"),
    Column("USED"),
    Column("THROTTLED"),
    Column("DEMAND"),
    Column("REGIME", right=False),
    Column("MEMORY"),
    Column("OF"),
)
_NODE_COLUMNS = (
    Column("NODE", right=False),
    Column("ROLE", right=False),
    Column("CORES"),
    Column("DECLARED"),
    Column("USED"),
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
    """Write a report (build_report) for a terminal: running services by usage, nodes, remarks; no trailing blanks."""
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
        _number(measured.get("cpu_used")),
        _percent(measured.get("throttled_ratio")),
        demand_text(demand),
        demand.get("regime") or MISSING,
        size((measured.get("memory") or {}).get("working_set")),
        NO_LIMIT if limit is None else size(limit),
    ]


def demand_text(demand: Row) -> str:
    """Write a demand: a number where there is an estimate, else the interval, `2.10+` where it has no upper end."""
    estimate, lower, upper = (demand.get(key) for key in ("estimate", "lower", "upper"))
    if estimate is not None:
        return _number(estimate)
    if lower is None:
        return MISSING
    return f"{lower:.2f}+" if upper is None else f"{lower:.2f}..{upper:.2f}"


def _node_cells(node: Row) -> list[str]:
    total, available = node["memory_total"], node["memory_available"]
    return [
        node["name"],
        node["role"],
        _plain(node["cores"]["real"]),
        _plain(node["cores"]["declared"]),
        _number(node["cpu_used"]),
        _number(node["load"][0] if node["load"] else None),
        str(node["tasks"]),
        str(node["unlimited_tasks"]),
        _plain(node["limits_cpus"]),
        _times(node["oversubscription"]["real"]),
        _times(node["oversubscription"]["declared"]),
        MISSING if total is None or available is None else size(total - available),
        size(total),
    ]


def _total_cells(totals: Row) -> list[str]:
    cells = dict.fromkeys((column.title for column in _NODE_COLUMNS), "")
    cells |= {
        "NODE": "all",
        "CORES": _plain(totals["cores"]["real"]),
        "DECLARED": _plain(totals["cores"]["declared"]),
        "TASKS": str(totals["running_tasks"]),
        "LIMITS": _plain(totals["limits_cpus"]),
        "OVER CORES": _times(totals["oversubscription"]["real"]),
        "OVER DECLARED": _times(totals["oversubscription"]["declared"]),
    }
    return list(cells.values())


def _remarks(report: Row) -> list[str]:
    totals = report["totals"]
    demand = totals["demand"]
    remarks = [
        f"{totals['services']} services, {totals['running_tasks']} running tasks. "
        f"Demand of all containers: {demand_text(demand)} cores ({demand['regime'] or 'not measured'}).",
        f"{MISSING} not measured; a..b an interval: the demand lies in it, and nothing measured here says where.",
    ]
    stopped = [_marked(service) for service in report["services"] if not service["running"]]
    if stopped:
        remarks.append(f"Not running: {', '.join(stopped)}.")
    if report["drifted"]:
        remarks.append(f"* differs from the table of limits: {len(report['drifted'])} of them.")
    return [line for remark in remarks for line in textwrap.wrap(remark, TEXT_WIDTH, break_on_hyphens=False)]


def _marked(service: Row) -> str:
    return f"{service['service']}{' *' if service['drift'] else ''}"


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Write rows of cells below their columns' titles, each column as wide as what is in it."""
    lines = [[column.title for column in columns], *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _plain(value: float | None) -> str:
    return MISSING if value is None else f"{value:g}"


def _times(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}x"


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{share:.0%}"


def size(value: float | None) -> str:
    """Write bytes with three digits or so, for reading; the JSON file has them all."""
    if value is None:
        return MISSING
    number = float(value)
    unit = 0
    while number >= 1000 and unit < len(_UNITS) - 1:
        number /= 1024
        unit += 1
    return f"{number:.3g}{_UNITS[unit]}"

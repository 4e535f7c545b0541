# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of a report's page: services, those that don't run, before and after."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_text import drift_lines
from ansible_collections.evenkeel.swarm.plugins.module_utils._words import (
    CAUSES,
    MISSING,
    NO_LIMIT,
    NOT_MEASURED,
    cause_text,
    count,
    demand_text,
    main_cause,
    number,
    percent,
    plain,
    setting,
    short,
    size,
)

Row = Mapping[str, Any]
Writer = Callable[[float | None], str]


class Cell(NamedTuple):
    """A cell: its text, what it sorts by (None: last), `kind` for its looks, words beside it, what a click unfolds."""

    text: str
    sort: float | str | None = None
    kind: str = ""
    badges: Sequence[str] = ()
    more: Sequence[str] = ()


class Column(NamedTuple):
    """A column of a sortable table; `hint` says in a few words what it is."""

    title: str
    hint: str
    numeric: bool = True


class Table(NamedTuple):
    """A sortable table; `sorted_by` is the column it is in the (descending) order of."""

    ident: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sorted_by: int | None = None


# --- cells -----------------------------------------------------------------------------------------------------


def _measured(value: float | None, text: str) -> Cell:
    return Cell(NOT_MEASURED, kind="missing") if value is None else Cell(text, value)


def _limit(value: float | None, text: str) -> Cell:
    return Cell(NO_LIMIT, float("inf"), "none") if value is None else Cell(text, value)


def _demand(demand: Row | None) -> Cell:
    demand = demand or {}
    highest = next((demand[key] for key in ("estimate", "upper", "lower") if demand.get(key) is not None), None)
    return _measured(highest, demand_text(demand))


def _regime(demand: Row) -> Cell:
    regime = demand.get("regime")
    if regime is None:
        return Cell(NOT_MEASURED, kind="missing", more=[demand["reason"]] if demand.get("reason") else [])
    return Cell(regime, regime, f"regime {regime}", more=[demand["reason"]])


def _cause(cause: Row | None) -> Cell:
    main = main_cause(cause)
    if main is None or cause is None:
        return Cell(NOT_MEASURED, kind="missing")
    parts = [
        f"{words}: {NOT_MEASURED if cause.get(name) is None else f'{cause[name]:.2f} cores'}"
        for name, words in CAUSES.items()
    ]
    return Cell(cause_text(cause), main[1], more=parts)


def _drift(service: Row) -> Cell:
    if not service["in_table"]:
        return Cell("not in the table", 0.0, "none")
    drift = service["drift"]
    if not drift:
        return Cell("none", 0.0, "none")
    (line,) = drift_lines([service])
    return Cell(
        count(len(drift), "field"), float(len(drift)), "warn", more=[line.removeprefix(f"{service['service']}: ")]
    )


# --- services --------------------------------------------------------------------------------------------------

_SERVICE_COLUMNS = (
    Column("Service", "name of the Swarm service", numeric=False),
    Column("Node", "where its tasks run", numeric=False),
    Column("Tasks", "running / wanted"),
    Column("Limit", "CPU limit of one task, cores"),
    Column("Used", "cores used by all its tasks"),
    Column("Demand", "cores it would use without its limit"),
    Column("Regime", "how far the demand can be trusted", numeric=False),
    Column("Throttled", "share of its active periods in which it was stopped at its limit"),
    Column("Held up by", "the main cause of its waiting, cores"),
    Column("Memory", "working set of all its tasks"),
    Column("Memory limit", "memory limit of one task"),
    Column("OOM", "processes killed for lack of memory"),
    Column("Restarts", "earlier containers of its tasks"),
    Column("Drift", "fields that differ from the table of limits"),
)
_USED = 4


def services_table(services: Iterable[Row]) -> Table:
    running = sorted((row for row in services if row["running"]), key=_by_usage)
    return Table("services", "Running services", _SERVICE_COLUMNS, [_service(row) for row in running], _USED)


def _by_usage(service: Row) -> tuple[float, str]:
    used = (service["measured"] or {}).get("cpu_used")
    return -(-1.0 if used is None else used), service["service"]


def _service(service: Row) -> list[Cell]:
    measured = service["measured"] or {}
    demand = measured.get("demand") or {}
    memory = (measured.get("memory") or {}).get("working_set")
    limits = service["limits"]
    oom, restarts = measured.get("oom_kills"), measured.get("restarts")
    return [
        Cell(service["service"], service["service"], badges=_badges(service)),
        Cell(", ".join(service["nodes"]), ", ".join(service["nodes"])),
        _tasks(service),
        _limit(limits["cpus"], plain(limits["cpus"])),
        _measured(measured.get("cpu_used"), number(measured.get("cpu_used"))),
        _demand(demand),
        _regime(demand),
        _throttled(measured.get("throttled_ratio"), limits["cpus"], measured.get("periods")),
        _cause(measured.get("cause")),
        _measured(memory, size(memory)),
        _limit(limits["memory"], size(limits["memory"])),
        _measured(oom, str(oom))._replace(kind="warn" if oom else "" if oom == 0 else "missing"),
        _measured(restarts, str(restarts)),
        _drift(service),
    ]


def _badges(service: Row) -> list[str]:
    return [text for applies, text in ((service["held"], "at its limit"), (service["drift"], "drift")) if applies]


def _tasks(service: Row) -> Cell:
    running, wanted = service["running"], service["replicas"]
    if wanted is None:
        return Cell(str(running), running)
    return Cell(f"{running}/{wanted}", running, "warn" if running < wanted else "")


def _throttled(ratio: float | None, limit: float | None, periods: int | None = None) -> Cell:
    if ratio is None and (limit is None or periods == 0):
        return Cell("no limit" if limit is None else "never active", 0.0, "none")
    return _measured(ratio, percent(ratio))


_STOPPED_COLUMNS = (
    _SERVICE_COLUMNS[0],
    Column("Wanted", "tasks it should have"),
    _SERVICE_COLUMNS[3],
    _SERVICE_COLUMNS[10],
    _SERVICE_COLUMNS[-1],
)


def stopped_table(services: Iterable[Row]) -> Table:
    rows = [
        [
            Cell(row["service"], row["service"]),
            Cell("all nodes", 0.0) if row["replicas"] is None else Cell(str(row["replicas"]), row["replicas"]),
            _limit(row["limits"]["cpus"], plain(row["limits"]["cpus"])),
            _limit(row["limits"]["memory"], size(row["limits"]["memory"])),
            _drift(row),
        ]
        for row in services
        if not row["running"]
    ]
    return Table("stopped", "Services without a running task", _STOPPED_COLUMNS, rows)


# --- before and after ------------------------------------------------------------------------------------------

# Title, name of the figure, how it is written, whether its change has a column.
SERVICE_CHANGES = (
    ("Limit", "cpu_limit", plain, False),
    ("Used", "cpu_used", number, True),
    ("Throttled", "throttled_ratio", percent, False),
    ("Memory", "working_set", size, False),
)
NODE_CHANGES = (
    ("Limits", "limits_cpus", plain, False),
    ("Used", "cpu_used", number, True),
    ("Steal", "steal_share", percent, False),
    ("Pressure", "pressure", percent, False),
)


def change_list(changes: Iterable[Row]) -> list[tuple[str, list[str]]]:
    """Return each changed service with a line for each of its fields."""
    fields: dict[str, list[str]] = {}
    for change in changes:
        before, after = (setting(change["field"], change[when]) for when in ("before", "after"))
        fields.setdefault(change["service"], []).append(f"{short(change['field'])} {before} → {after}")
    return list(fields.items())


def limits_table(rows: Iterable[Row]) -> str:
    """Write a table of limits with a line for each row; JSON is YAML too."""
    lines = (f"  - {json.dumps(row, ensure_ascii=False)}" for row in rows)
    return "\n".join(["service_limits_table:", *lines])


def compared_table(
    what: str, title: str, key: str, rows: Sequence[Row], figures: Sequence[tuple[str, str, Writer, bool]]
) -> Table:
    columns = [Column(title, "", numeric=False)]
    for name, *_, with_change in (*figures, ("Demand", True)):
        columns += [Column(f"{name} before", ""), Column(f"{name} after", "")]
        columns += [Column(f"{name} change", "")] if with_change else []
    cells = [[Cell(row[key], row[key]), *_compared(row, figures)] for row in rows]
    return Table(f"{what}-compared", f"{what.capitalize()}, before and after", columns, cells)


def _compared(row: Row, figures: Sequence[tuple[str, str, Writer, bool]]) -> list[Cell]:
    cells = []
    for _, name, write, with_change in figures:
        figure = row[name]
        for when in ("before", "after"):
            value = figure[when]
            if name == "throttled_ratio":
                cells.append(_throttled(value, row["cpu_limit"][when]))
            else:
                cells.append((_limit if name == "cpu_limit" else _measured)(value, write(value)))
        cells += [_difference(figure["change"], write)] if with_change else []
    demand = row["demand"]
    return [*cells, _demand(demand["before"]), _demand(demand["after"]), _difference(demand["change"], number)]


def _difference(change: float | None, write: Writer) -> Cell:
    """Write a change with its sign; what rounds to nothing is no change."""
    if change is None:
        return Cell(MISSING, kind="missing")
    text = write(abs(change))
    if text == write(0.0):
        return Cell("±0", change, "none")
    return Cell(f"{'+' if change > 0 else '−'}{text}", change)

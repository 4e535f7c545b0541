# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A throttling report as one HTML file: what to show in which words here, how it looks in the role's templates.

Everything comes from the report; names are data and are escaped by the template engine, charts are drawn here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.evenkeel.swarm.plugins.module_utils import _report_charts as charts
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_text import drift_lines
from ansible_collections.evenkeel.swarm.plugins.module_utils._verdict import VERDICTS, demand_of_all
from ansible_collections.evenkeel.swarm.plugins.module_utils._words import (
    CAUSES,
    MISSING,
    NO_LIMIT,
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
    times,
)
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

Row = Mapping[str, Any]
Writer = Callable[[float | None], str]

NOT_MEASURED = "not measured"
# A chart of more rows is no overview any more; the table has them all.
_CHART_ROWS = 14
# Of the largest bar; what is shorter can't be seen.
_CHART_SMALLEST = 0.01


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


class Fact(NamedTuple):
    """A figure on a node's card."""

    label: str
    text: str
    note: str = ""
    missing: bool = False


def page(report: Row, templates: str) -> str:
    """Return the page for a report (build_report); `templates` is the directory of report.html.j2, .css and .js.

    Raises ChartsMissingError where matplotlib is not installed.
    """
    looks, behaviour = ((Path(templates) / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["time"] = readable_time
    return environment.get_template("report.html.j2").render(
        view(report),
        style=Markup(looks),  # noqa: S704 - our own file
        script=Markup(behaviour),  # noqa: S704 - our own file
        style_hash=_hash(looks),
        script_hash=_hash(behaviour),
    )


def _hash(content: str) -> str:
    """Return what a content security policy calls an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def view(report: Row) -> dict[str, Any]:
    """Return everything the template shows, in words."""
    return {
        "measured_at": report["measured_at"],
        "window": _window(report["window_seconds"]),
        "verdict_grade": report["verdict_grade"],
        "verdict": report["verdict"],
        "nodes": [_node(node, f"node{index}") for index, node in enumerate(report["nodes"], start=1)],
        "totals": _totals(report["totals"]),
        "services": _services_table(report["services"]),
        "stopped": _stopped_table(report["services"]),
        "comparison": _comparison(report["comparison"], report) if report["comparison"] else None,
    }


def _window(seconds: float | None) -> str:
    return f"over {seconds:.0f} s" if seconds else "in one look, without rates"


def readable_time(moment: str) -> str:
    """Write an ISO time with a blank and, where it is that, UTC."""
    return moment.replace("T", " ").replace("+00:00", " UTC")


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


def _services_table(services: Iterable[Row]) -> Table:
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


def _stopped_table(services: Iterable[Row]) -> Table:
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


# --- nodes -----------------------------------------------------------------------------------------------------


def _node(node: Row, ident: str) -> dict[str, Any]:
    split = node["load_split"]
    return {
        "ident": ident,
        "name": node["name"],
        "role": node["role"] if node["availability"] == "active" else f"{node['role']}, {node['availability']}",
        "verdict": node["verdict"],
        "verdict_text": VERDICTS[node["verdict"]],
        "facts": _facts(node),
        "load_text": split["text"] if split else f"What the load consists of was {NOT_MEASURED}.",
        "accounting": f"{node['accounting']}: {node['accounting_reason']}" if node["accounting"] else NOT_MEASURED,
        **_charts(node, ident),
    }


def _facts(node: Row) -> list[Fact]:
    real, declared = node["cores"]["real"], node["cores"]["declared"]
    differs = declared not in (None, real)
    total, available = node["memory_total"], node["memory_available"]
    over = node["oversubscription"]
    unlimited = node["unlimited_tasks"]
    return [
        _demand_fact(node),
        _fact("Cores", plain(real), f"{plain(declared)} declared" if differs else ""),
        _fact("Used", number(node["cpu_used"]), f"{percent(node['cpu_idle_share'])} of the time idle"),
        _fact(
            "Sum of limits",
            plain(node["limits_cpus"]),
            f"{times(over['real'])} the cores"
            + (f", {times(over['declared'])} the declared" if differs else "")
            + (f"; {count(unlimited, 'task')} without a limit" if unlimited else ""),
        ),
        _fact("Steal", percent(node["steal_share"]), "of the time kept by the hypervisor"),
        _fact("Pressure", _pressure(node["pressure"], "some"), "of the time something waited for a CPU"),
        _fact(
            "Load", number(node["load"][0]) if node["load"] else MISSING, "last minute; throttled threads are not in it"
        ),
        _fact(
            "Memory",
            MISSING if total is None or available is None else size(total - available),
            f"of {size(total)}",
        ),
    ]


def _fact(label: str, text: str, note: str = "") -> Fact:
    return Fact(label, NOT_MEASURED, "", missing=True) if text == MISSING else Fact(label, text, note)


def _demand_fact(node: Row) -> Fact:
    demand = demand_of_all(node)
    return _fact("Demand", demand_text(demand), demand["regime"] or "not all containers could be measured")


def _pressure(pressure: Row | None, kind: str) -> str:
    return percent(((pressure or {}).get(kind) or {}).get("share"))


def _totals(totals: Row) -> str:
    real, declared = totals["cores"]["real"], totals["cores"]["declared"]
    demand = demand_of_all(totals)
    wanted = NOT_MEASURED if demand["lower"] is None else demand_text(demand)
    return (
        f"All nodes together: {totals['services']} services with {totals['running_tasks']} running tasks, "
        f"{plain(real)} cores{f' ({plain(declared)} declared)' if declared not in (None, real) else ''}, "
        f"limits of {plain(totals['limits_cpus'])} ({times(totals['oversubscription']['real'])} the cores), "
        f"demand {wanted} ({demand['regime'] or 'not all containers could be measured'})."
    )


def _charts(node: Row, ident: str) -> dict[str, Any]:
    """Return a node's charts, each wide and narrow: all its containers against its cores, and its services."""
    bars = _service_bars(node)
    cores = node["cores"]["real"]
    if not bars:
        why = "no container runs here" if node["services"] is not None else f"its containers were {NOT_MEASURED}"
        return {"charts": [], "charts_note": f"Nothing to draw: {why}."}
    whole = [charts.Bar("all containers", node["cpu_used"], demand_of_all(node), node["limits_cpus"])]
    shown = [bar for bar in bars[:_CHART_ROWS] if bar.reach >= _CHART_SMALLEST * bars[0].reach]
    left_out = len(bars) - len(shown)
    layouts = charts.wide(bar.name for bar in shown), charts.narrow()
    titles = f"All containers against the {plain(cores)} cores", "Services against their limits"
    return {
        "charts": [
            (titles[0], _in_layouts(whole, cores, layouts, f"{ident}-whole", f"{titles[0]} of {node['name']}")),
            (titles[1], _in_layouts(shown, None, layouts, f"{ident}-parts", f"{titles[1]}, on {node['name']}")),
        ],
        "charts_note": f"{count(left_out, 'smaller service')}, in the table only." if left_out else "",
    }


def _service_bars(node: Row) -> list[charts.Bar]:
    rows = [*(node["services"] or []), *([node["outside"]] if node["outside"] else [])]
    bars = [
        charts.Bar(row.get("service", "containers outside Swarm"), row["cpu_used"], row["demand"], row["cpu_limit"])
        for row in rows
    ]
    return sorted(bars, key=lambda bar: (-bar.wanted, bar.name))


def _in_layouts(
    bars: Sequence[charts.Bar], cores: float | None, layouts: Iterable[charts.Layout], ident: str, title: str
) -> list[Markup]:
    description = "; ".join(_in_words(bar) for bar in bars)
    return [
        # ElementTree wrote it, so every name in it is escaped.
        Markup(charts.draw(bars, cores, layout, charts.Caption(f"{ident}-{index}", title, description)))  # noqa: S704
        for index, layout in enumerate(layouts)
    ]


def _in_words(bar: charts.Bar) -> str:
    used = NOT_MEASURED if bar.used is None else number(bar.used)
    text = demand_text(bar.demand or {})
    limit = "none" if bar.limit is None else plain(bar.limit)
    return f"{bar.name}: used {used}, demand {NOT_MEASURED if text == MISSING else text}, limit {limit}"


# --- before and after ------------------------------------------------------------------------------------------

# Title, name of the figure, how it is written, whether its change has a column.
_SERVICE_CHANGES = (
    ("Limit", "cpu_limit", plain, False),
    ("Used", "cpu_used", number, True),
    ("Throttled", "throttled_ratio", percent, False),
    ("Memory", "working_set", size, False),
)
_NODE_CHANGES = (
    ("Limits", "limits_cpus", plain, False),
    ("Used", "cpu_used", number, True),
    ("Steal", "steal_share", percent, False),
    ("Pressure", "pressure", percent, False),
)


def _comparison(comparison: Row, report: Row) -> dict[str, Any]:
    before = comparison["before"]
    running = [row for row in comparison["services"] if row["running"]["before"] or row["running"]["after"]]
    return {
        "measured_at": before["measured_at"],
        "window": _window(before["window_seconds"]),
        "verdict_grade": bool(before["verdict_grade"]) and report["verdict_grade"],
        "verdict": (before["verdict"] or {}).get("text", ""),
        "nodes": _compared_table("nodes", "Node", "name", comparison["nodes"], _NODE_CHANGES),
        "services": _compared_table("services", "Service", "service", running, _SERVICE_CHANGES),
        "appeared": comparison["appeared"],
        "vanished": comparison["vanished"],
        "changes": _changes(comparison["changes"]),
        "undo_command": comparison["undo"]["command"],
        "undo_table": _limits_table(comparison["undo"]["table"]),
    }


def _changes(changes: Iterable[Row]) -> list[tuple[str, list[str]]]:
    """Return each changed service with a line for each of its fields."""
    fields: dict[str, list[str]] = {}
    for change in changes:
        before, after = (setting(change["field"], change[when]) for when in ("before", "after"))
        fields.setdefault(change["service"], []).append(f"{short(change['field'])} {before} → {after}")
    return list(fields.items())


def _limits_table(rows: Iterable[Row]) -> str:
    """Write a table of limits with a line for each row; JSON is YAML too."""
    lines = (f"  - {json.dumps(row, ensure_ascii=False)}" for row in rows)
    return "\n".join(["service_limits_table:", *lines])


def _compared_table(
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

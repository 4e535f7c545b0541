# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A throttling report as one HTML file: what to show in which words here, how it looks in the role's templates.

Everything comes from the report; names are data and are escaped by the template engine, charts are drawn here.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.evenkeel.swarm.plugins.module_utils import _page_tables as tables
from ansible_collections.evenkeel.swarm.plugins.module_utils import _report_charts as charts
from ansible_collections.evenkeel.swarm.plugins.module_utils._verdict import VERDICTS, demand_of_all
from ansible_collections.evenkeel.swarm.plugins.module_utils._words import (
    MISSING,
    NOT_MEASURED,
    count,
    demand_text,
    number,
    percent,
    plain,
    size,
    times,
)
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

Row = Mapping[str, Any]

# A chart of more rows is no overview any more; the table has them all.
_CHART_ROWS = 14
# Of the largest bar; what is shorter can't be seen.
_CHART_SMALLEST = 0.01


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
        "services": tables.services_table(report["services"]),
        "stopped": tables.stopped_table(report["services"]),
        "comparison": _comparison(report["comparison"], report) if report["comparison"] else None,
    }


def _window(seconds: float | None) -> str:
    return f"over {seconds:.0f} s" if seconds else "in one look, without rates"


def readable_time(moment: str) -> str:
    """Write an ISO time with a blank and, where it is that, UTC."""
    return moment.replace("T", " ").replace("+00:00", " UTC")


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
        _fact("Pressure", _pressure(node["pressure"]), "of the time something waited for a CPU"),
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


def _pressure(pressure: Row | None) -> str:
    return percent(((pressure or {}).get("some") or {}).get("share"))


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


def _comparison(comparison: Row, report: Row) -> dict[str, Any]:
    before = comparison["before"]
    running = [row for row in comparison["services"] if row["running"]["before"] or row["running"]["after"]]
    return {
        "measured_at": before["measured_at"],
        "window": _window(before["window_seconds"]),
        "verdict_grade": bool(before["verdict_grade"]) and report["verdict_grade"],
        "verdict": (before["verdict"] or {}).get("text", ""),
        "nodes": tables.compared_table("nodes", "Node", "name", comparison["nodes"], tables.NODE_CHANGES),
        "services": tables.compared_table("services", "Service", "service", running, tables.SERVICE_CHANGES),
        "appeared": comparison["appeared"],
        "vanished": comparison["vanished"],
        "changes": tables.change_list(comparison["changes"]),
        "undo_command": comparison["undo"]["command"],
        "undo_table": tables.limits_table(comparison["undo"]["table"]),
    }

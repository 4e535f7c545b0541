# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a history to a table of limits: every service sized, what exists divided, and how to go back. No I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _anchors, _words
from ansible_collections.evenkeel.swarm.plugins.module_utils._division import Claim, DivisionError, divide
from ansible_collections.evenkeel.swarm.plugins.module_utils._history import Record, parse_history
from ansible_collections.evenkeel.swarm.plugins.module_utils._sizing import (
    Bounds,
    Settings,
    Size,
    by_service,
    round_cpus,
    size_service,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._text_table import Column, running_text, table
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import (
    MIN_LIMIT_MEMORY,
    MIN_LIMIT_NANO_CPUS,
    NANO,
    UNLIMITED,
    format_memory,
)

# A service without a window for so long before the history's last one is taken for gone.
GONE_AFTER = timedelta(days=1)
LEAST_CPUS = MIN_LIMIT_NANO_CPUS / NANO


class RecommendationError(ValueError):
    """Input that nothing can be recommended on; the message names the field and what would be right."""


@dataclass(frozen=True)
class Wishes:
    """What the operator asks for and what exists.

    `weights` and `minimums` (cores of a task) by service; `cores` by node, empty: not known, so nothing is divided;
    `placement`: the nodes each service's tasks run on (empty: not known; a service that is not in it is gone).
    """

    settings: Settings = field(default_factory=Settings)
    weights: Mapping[str, Any] = field(default_factory=dict)
    minimums: Mapping[str, Any] = field(default_factory=dict)
    oversubscription: float = 1.0
    cores: Mapping[str, Any] = field(default_factory=dict)
    placement: Mapping[str, Sequence[str]] = field(default_factory=dict)


def recommend(text: str, wishes: Wishes) -> dict[str, Any]:
    """Return the recommendation for a history (JSON lines) as plain data.

    Raises HistoryError for a history that can't be read, RecommendationError for everything else.
    """
    history = parse_history(text)
    if not history.records:
        raise RecommendationError(
            "history: is empty; measure first (playbooks/throttling.yml -e report_window=60, again and again)"
        )
    groups = dict(sorted(by_service(history.records).items()))
    _check(wishes, groups)
    newest = history.records[-1].at
    left_out = {name: why for name, records in groups.items() if (why := _gone(name, records[-1], newest, wishes))}
    sizes = [size_service(records, wishes.settings) for name, records in groups.items() if name not in left_out]
    sized = [size for size in sizes if size.cpu.target is not None]
    if not sized:
        hours = max((size.confidence.hours for size in sizes), default=0.0)
        raise RecommendationError(
            f"history: too little, {hours:.2f} hours of windows for a service at most; "
            f"minimum_hours asks for {wishes.settings.least_hours:g}. Measure more"
        )
    claims = [_claim(size, wishes) for size in sized]
    gets = _divided(claims, wishes)
    wants = {claim.service: claim.wants for claim in claims}
    rows = [_row(size, groups[size.service], wants.get(size.service), gets.get(size.service)) for size in sizes]
    return {
        "history": {
            "windows": len(history.records),
            "cut_off_lines": history.cut_off,
            "from": history.records[0].at.isoformat(),
            "to": newest.isoformat(),
        },
        "settings": asdict(wishes.settings),
        "oversubscription": wishes.oversubscription,
        "services": rows,
        "left_out": left_out,
        "nodes": _nodes(rows, wishes),
        "totals": {
            "wants": math.fsum((size.cpu.target or 0.0) * size.tasks for size in sized),
            "gets": math.fsum(gets[claim.service] * claim.tasks for claim in claims),
            "cores": math.fsum(wishes.cores.values()) if wishes.cores else None,
        },
        "table": [
            _limits(row, {"cpus": row["gets"], "memory": row["memory"]["target"]}) for row in rows if row["gets"]
        ],
        "undo": [_limits(row, row["now"]) for row in rows if row["gets"]],
    }


def _check(wishes: Wishes, groups: Mapping[str, Any]) -> None:
    """Raise RecommendationError with every wrong wish."""
    settings = wishes.settings
    problems = [
        *_range_problem("percentile", settings.percentile, 0.5, 1.0),
        *_range_problem("margin", settings.margin, 0.0, 2.0),
        *_range_problem("minimum_hours", settings.least_hours, 0.0, 24 * 366),
        *_range_problem("minimum_cpus", settings.least_cpus, LEAST_CPUS, 1024.0),
        *_range_problem("minimum_memory", settings.least_memory, MIN_LIMIT_MEMORY, 2**50),
        *_range_problem("oversubscription", wishes.oversubscription, 0.1, 100.0),
    ]
    for name, values in (("weights", wishes.weights), ("minimums", wishes.minimums)):
        for service, value in values.items():
            if service not in groups:
                problems.append(f"{name}.{service}: no such service in the history")
            elif not _above_zero(value):
                problems.append(f"{name}.{service}: {value!r} is not a number above 0")
    problems += [
        f"cores.{node}: {value!r} is not a number of cores"
        for node, value in wishes.cores.items()
        if not _above_zero(value)
    ]
    if problems:
        raise RecommendationError("; ".join(problems))


def _range_problem(name: str, value: Any, least: float, most: float) -> list[str]:
    fine = _is_number(value) and least <= value <= most
    return [] if fine else [f"{name}: {value!r} is not a number from {least:g} to {most:g}"]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _above_zero(value: Any) -> bool:
    return _is_number(value) and value > 0


def _gone(name: str, last: Record, newest: datetime, wishes: Wishes) -> str | None:
    if wishes.placement and name not in wishes.placement:
        return "not in the report: no such service any more"
    if newest - last.at > GONE_AFTER:
        return f"not seen since {last.at.isoformat()}"
    return None


def _claim(size: Size, wishes: Wishes) -> Claim:
    target = size.cpu.target or 0.0
    nodes = _known_nodes(size.service, wishes)
    most = min((float(wishes.cores[node]) for node in nodes or wishes.cores), default=math.inf)
    return Claim(
        service=size.service,
        tasks=size.tasks,
        # An engine rejects a task whose limit is above its node's cores.
        wants=min(target, most),
        minimum=round_cpus(float(wishes.minimums.get(size.service, LEAST_CPUS))),
        weight=float(wishes.weights.get(size.service, 1.0)),
        nodes=nodes,
    )


def _known_nodes(service: str, wishes: Wishes) -> list[str]:
    return [node for node in wishes.placement.get(service, ()) if node in wishes.cores]


def _divided(claims: Sequence[Claim], wishes: Wishes) -> dict[str, float]:
    if not wishes.cores:
        return {claim.service: max(claim.wants, claim.minimum) for claim in claims}
    cores = {node: float(have) for node, have in wishes.cores.items()}
    too_much = [claim for claim in claims if claim.minimum > min(cores[n] for n in claim.nodes or cores)]
    if too_much:
        raise RecommendationError(
            "; ".join(f"minimums.{claim.service}: {claim.minimum:g} is more than a node has" for claim in too_much)
        )
    try:
        shares = divide(claims, cores, wishes.oversubscription)
    except DivisionError as error:
        raise RecommendationError(f"minimums: {error}") from error
    return {service: round(share, 2) for service, share in shares.items()}


def _row(size: Size, records: Sequence[Record], wants: float | None, gets: float | None) -> dict[str, Any]:
    vpa, krr = _anchors.vpa(records), _anchors.krr(records)
    reasons = list(size.reasons)
    target = size.cpu.target
    lacks = None if gets is None or target is None else round(max(target - gets, 0.0), 2)
    if lacks and wants is not None and target is not None:
        why = "no node has more" if gets == wants else "the fleet wants more than there is"
        reasons.append(f"gets {gets:g} of {target:g} cores: {why}")
    elif gets is not None and target is not None and gets > target:
        reasons.append(f"gets its minimum, {gets:g}")
    return {
        "service": size.service,
        "tasks": size.tasks,
        "now": size.now._asdict(),
        "cpus": size.cpu._asdict(),
        "gets": gets,
        "lacks": lacks,
        "memory": size.memory._asdict(),
        "leak": size.leak,
        "confidence": asdict(size.confidence),
        "reason": "; ".join(reasons),
        "anchors": {"vpa": _said(vpa), "krr": _said(krr)},
    }


def _said(anchor: _anchors.Anchor) -> dict[str, Any]:
    return {"cpus": anchor.cpu._asdict(), "memory": anchor.memory._asdict()}


def _nodes(rows: Sequence[Mapping[str, Any]], wishes: Wishes) -> list[dict[str, Any]]:
    """Return what each node has and what its tasks want and get, a service's in equal parts; [] without a placement."""
    nodes = []
    for node, cores in sorted(wishes.cores.items() if wishes.placement else ()):
        there = [
            (row, row["tasks"] / len(known))
            for row in rows
            if row["gets"] is not None and node in (known := _known_nodes(row["service"], wishes))
        ]
        nodes.append(
            {
                "name": node,
                "cores": float(cores),
                "wants": math.fsum(row["cpus"]["target"] * tasks for row, tasks in there),
                "gets": math.fsum(row["gets"] * tasks for row, tasks in there),
                "memory": sum(int((row["memory"]["target"] or 0) * tasks) for row, tasks in there),
            }
        )
    return nodes


def _limits(row: Mapping[str, Any], limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits as a row of a table. Memory that was not measured is left out, which leaves it alone."""
    written = {"cpus": UNLIMITED if limits["cpus"] is None else limits["cpus"]}
    if row["memory"]["target"] is not None:
        written["memory"] = UNLIMITED if limits["memory"] is None else format_memory(limits["memory"])
    return {"service": row["service"], "limits": written}


# --- its text ----------------------------------------------------------------------------------------------------

_COLUMNS = (
    Column("SERVICE", right=False),
    Column("TASKS"),
    Column("NOW"),
    Column("TARGET"),
    Column("RANGE"),
    Column("GETS"),
    Column("LACKS"),
    Column("VPA"),
    Column("KRR"),
    Column("MEMORY NOW"),
    Column("TARGET"),
    Column("VPA"),
    Column("KRR"),
    Column("CONFIDENCE", right=False),
)


def recommendation_text(recommendation: Mapping[str, Any]) -> str:
    """Write a recommendation for a terminal: a table, a line of reasons for each service, remarks."""
    rows = sorted(recommendation["services"], key=lambda row: (-(row["cpus"]["target"] or 0.0), row["service"]))
    reasons = running_text((f"{row['service']}: {row['reason']}." for row in rows), indent="  ")
    parts = [
        "Limits recommended, CPU in cores of one task; GETS is what the table of limits says.",
        table(_COLUMNS, [_cells(row) for row in rows]),
        "\n".join(reasons),
        "\n".join(_remarks(recommendation)),
    ]
    return "\n\n".join(parts)


def _cells(row: Mapping[str, Any]) -> list[str]:
    anchors = row["anchors"]
    now = row["now"]
    return [
        row["service"],
        str(row["tasks"]),
        _words.NO_LIMIT if now["cpus"] is None else f"{now['cpus']:g}",
        _words.number(row["cpus"]["target"]),
        _range(row["cpus"]),
        _words.number(row["gets"]),
        _words.number(row["lacks"]),
        _words.number(anchors["vpa"]["cpus"]["target"]),
        _words.number(anchors["krr"]["cpus"]["target"]),
        _words.NO_LIMIT if now["memory"] is None else _words.size(now["memory"]),
        _words.size(row["memory"]["target"]),
        _words.size(anchors["vpa"]["memory"]["target"]),
        _words.size(anchors["krr"]["memory"]["target"]),
        f"{row['confidence']['level']} ({row['confidence']['days']:.1f} d)",
    ]


def _range(bounds: Mapping[str, Any]) -> str:
    low, high = Bounds(**bounds).lower, Bounds(**bounds).upper
    if low is None:
        return _words.MISSING
    return f"{low:.2f}..{'?' if high is None else f'{high:.2f}'}"


def _remarks(recommendation: Mapping[str, Any]) -> list[str]:
    totals, history = recommendation["totals"], recommendation["history"]
    remarks = [f"{history['windows']} records from {history['from']} to {history['to']}."]
    if history["cut_off_lines"]:
        remarks.append(f"{history['cut_off_lines']} lines of the history were cut off by a crash and left out.")
    if totals["cores"] is None:
        remarks.append(f"The nodes' cores are not known, so nothing was divided: {totals['wants']:.2f} cores wanted.")
    else:
        over = recommendation["oversubscription"]
        remarks.append(
            f"All tasks want {totals['wants']:.2f} cores and get {totals['gets']:.2f} of {totals['cores']:g}"
            f"{'' if over == 1 else f' (given away {over:g} times over)'}."
        )
        remarks += [
            f"{node['name']}: {node['wants']:.2f} wanted, {node['gets']:.2f} given, {node['cores']:g} cores; "
            f"memory limits sum to {_words.size(node['memory'])}."
            for node in recommendation["nodes"]
        ]
    remarks += [f"Left out: {service}, {why}." for service, why in recommendation["left_out"].items()]
    return remarks

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the bursts that every host found as one table for a terminal. None is a dash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._text_table import Column, running_text, table
from ansible_collections.evenkeel.swarm.plugins.module_utils._words import MISSING, NO_LIMIT

Row = Mapping[str, Any]

_COLUMNS = (
    Column("SERVICE", right=False),
    Column("NODE", right=False),
    Column("LIMIT"),
    Column("USED"),
    Column("PEAK 100 ms"),
    Column("PEAK 1 s"),
    Column("BURSTS"),
    Column("CPU ms P95"),
    Column("LARGEST"),
    Column("TOOK ms"),
)


def bursts_text(looks: Sequence[Row]) -> str:
    """Write the results of burst_info on some hosts: a table, largest peak first, and remarks."""
    rows = sorted((row for look in looks for row in look["containers"]), key=_by_peak)
    if not rows:
        return "No container to watch: none has a CPU limit."
    times = list(dict.fromkeys(each["within_ms"] for row in rows for each in row["limits"] or ()))
    columns = (*_COLUMNS, *(Column(f"FOR {time:g} ms") for time in times))
    cells = [[*_cells(row), *(_limit_for(row, time) for time in times)] for row in rows]
    return "\n\n".join([_heading(looks), table(columns, cells), "\n".join(_remarks(rows))])


def _by_peak(row: Row) -> tuple[float, str]:
    return -(_peak(row, 100) or 0.0), row["name"]


def _heading(looks: Sequence[Row]) -> str:
    nodes = [look["node"] for look in looks]
    window = min(node["window_seconds"] for node in nodes)
    interval = max(node["interval_seconds"] for node in nodes)
    cost = max(node["sampler_cpu_seconds"] / node["window_seconds"] for node in nodes)
    return (
        f"Bursts in {window:.0f} s, a sample every {interval * 1000:.0f} ms (which took {cost:.1%} of a core). "
        "CPU in cores; FOR: the limit that serves the largest burst in that time."
    )


def _cells(row: Row) -> list[str]:
    bursts = row["bursts"]
    return [
        row["service"] or row["name"],
        row["node"],
        NO_LIMIT if row["cpu_limit"] is None else f"{row['cpu_limit']:g}",
        *(
            MISSING if value is None else f"{value:.2f}"
            for value in (row["cpu_used"], _peak(row, 100), _peak(row, 1000))
        ),
        *(
            [MISSING] * 4
            if bursts is None
            else [
                str(bursts["count"]),
                *(f"{bursts['cpu_ms'][name]:.0f}" for name in ("p95", "largest")),
                f"{bursts['duration_ms']['largest']:.0f}",
            ]
        ),
    ]


def _peak(row: Row, window_ms: int) -> float | None:
    return next((each["cores"] for each in row["peaks"] or () if each["window_ms"] == window_ms), None)


def _limit_for(row: Row, within_ms: float) -> str:
    limit = next((each["largest"] for each in row["limits"] or () if each["within_ms"] == within_ms), None)
    return MISSING if limit is None else f"{limit:g}"


def _remarks(rows: Sequence[Row]) -> list[str]:
    """Say once for each reason why there is a dash, and for whom."""
    names: dict[str, list[str]] = {}
    for row in rows:
        reasons = [row["reason"], *(each["reason"] for each in row["limits"] or ())]
        for reason in dict.fromkeys(filter(None, reasons)):
            names.setdefault(reason, []).append(row["service"] or row["name"])
    remarks = [f"{', '.join(dict.fromkeys(who))}: {reason}." for reason, who in names.items()]
    return running_text(remarks)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge a report: is there enough CPU, who is held at a limit, what else needs a look. Sentences for tired people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _demand
from ansible_collections.evenkeel.swarm.plugins.module_utils._words import count, percent, plain

Row = Mapping[str, Any]

# Throttled in this share of its active periods, a service is held at its limit (kubernetes-mixin alerts there too).
HELD_RATIO = 0.25
# From this share of its memory limit on a service is close to being killed.
FULL_SHARE = 0.90
# A hypervisor that keeps this share of a node's time is worth a word.
STEAL_SHARE = 0.05

# A sentence names this many services at most.
_NAMED = 5

# What the demand means for the cores there are, from good to bad.
ENOUGH, UNKNOWN, MAYBE, SHORT = "enough", "unknown", "maybe", "short"
VERDICTS = {
    ENOUGH: "CPU is enough",
    UNKNOWN: "CPU demand was not measured",
    MAYBE: "CPU may be short",
    SHORT: "CPU is short",
}


def wanted(demands: Sequence[Row]) -> dict[str, float | None]:
    """Return the cores that demands add up to, `at_least` and `at_most`: estimates, else the ends of the intervals.

    What was not measured makes `at_least` no smaller, so there the rest stands; `at_most` it leaves unknown (None).
    """
    least = [each["lower"] if each["estimate"] is None else each["estimate"] for each in demands]
    known = [value for value in least if value is not None]
    return {
        "at_least": sum(known) if known or not demands else None,
        "at_most": _demand.add_up(each["upper"] if each["estimate"] is None else each["estimate"] for each in demands),
    }


def demand_of_all(row: Row) -> Row:
    """Return the demand of a node or of all nodes (a row with `demand` and `wanted`) as tight as it is known."""
    demand = row["demand"] or dict.fromkeys(("estimate", "lower", "upper", "regime"))
    if demand["estimate"] is not None:
        return dict(demand)
    return {**demand, "lower": row["wanted"]["at_least"], "upper": row["wanted"]["at_most"]}


def cpu_verdict(cores: float, total: Mapping[str, float | None]) -> str:
    """Say what is wanted on a number of cores: one of VERDICTS."""
    at_least, at_most = total["at_least"], total["at_most"]
    if at_least is None:
        return UNKNOWN
    if at_least > cores:
        return SHORT
    return ENOUGH if at_most is not None and at_most <= cores else MAYBE


def held_at_limit(limits: Row, measured: Row | None) -> bool | None:
    """Say whether a service's CPU limit holds it back: often throttled, and not in bursts only. None: not measured."""
    if limits["cpus"] is None:
        return False
    if measured is None or measured["demand"]["regime"] is None or measured["periods"] is None:
        return None
    ratio = measured["throttled_ratio"] or 0.0
    return bool(ratio >= HELD_RATIO and measured["demand"]["regime"] != _demand.UNSATURATED)


def judge(report: Row) -> dict[str, Any]:
    """Return a report's verdict: `cpu` (one of VERDICTS, the worst of the nodes), `text`, `attention` (sentences)."""
    order = list(VERDICTS)
    cpu = max((node["verdict"] for node in report["nodes"]), key=order.index, default=UNKNOWN)
    totals = report["totals"]
    cores = plain(totals["cores"]["real"])
    text = (
        f"{VERDICTS[cpu]}: {cores} cores, wanted {_in_words(demand_of_all(totals))}, limits allow {_allowed(report)}. "
        f"{_held(report['services'])}"
    )
    return {"cpu": cpu, "text": text, "attention": _attention(report)}


def _in_words(demand: Row) -> str:
    estimate, lower, upper = (demand[key] for key in ("estimate", "lower", "upper"))
    if estimate is not None:
        return _cores(estimate)
    if lower is None:
        return "an amount that was not measured"
    return f"at least {_cores(lower)}" if upper is None else f"between {_cores(lower)} and {_cores(upper)}"


def _cores(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _allowed(report: Row) -> str:
    unlimited = sum(bool(row["running"]) and row["limits"]["cpus"] is None for row in report["services"])
    if unlimited:
        return f"any amount ({count(unlimited, 'service')} without one)"
    return plain(report["totals"]["limits_cpus"])


def _held(services: Sequence[Row]) -> str:
    running = [service for service in services if service["running"]]
    held = sum(service["held"] is True for service in running)
    unknown = sum(service["held"] is None for service in running)
    known = f"{count(held, 'service')} {'is' if held == 1 else 'are'} held at {'its' if held == 1 else 'their'} limit"
    if not held:
        known = "No service is held at its limit"
    return known + (f"; {unknown} could not be measured." if unknown else ".")


def _attention(report: Row) -> list[str]:
    services = report["services"]
    missing = [row for row in services if row["replicas"] is not None and row["running"] < row["replicas"]]
    stealing = [node for node in report["nodes"] if (node["steal_share"] or 0) >= STEAL_SHARE]
    lines = (
        ("Tasks are missing", [f"{row['service']} ({row['running']} of {row['replicas']})" for row in missing]),
        ("Killed for lack of memory", [f"{name} ({kills})" for name, kills in _oom_kills(services)]),
        (
            "Close to the memory limit",
            [f"{name} ({percent(share)})" for name, share in _nearly_full(services)],
        ),
        ("CPU time kept by the hypervisor", [f"{percent(node['steal_share'])} on {node['name']}" for node in stealing]),
        ("Without a CPU or memory limit", [row["service"] for row in services if row["running"] and _unlimited(row)]),
        ("Differs from the table of limits", list(report["drifted"])),
    )
    return [f"{what}: {_listing(who)}." for what, who in lines if who]


def _listing(names: Sequence[str]) -> str:
    """Name some and count the others: the tables have them all."""
    others = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {others} more" if others > 0 else "")


def _oom_kills(services: Iterable[Row]) -> list[tuple[str, int]]:
    kills = [(row["service"], (row["measured"] or {}).get("oom_kills")) for row in services]
    return [(name, count) for name, count in kills if count]


def _nearly_full(services: Iterable[Row]) -> list[tuple[str, float]]:
    """Return the services whose tasks together use up most of their limits, with the share."""
    shares = []
    for row in services:
        used = ((row["measured"] or {}).get("memory") or {}).get("working_set")
        allowed = (row["limits"]["memory"] or 0) * row["running"]
        if used is not None and allowed and used / allowed >= FULL_SHARE:
            shares.append((row["service"], used / allowed))
    return shares


def _unlimited(row: Row) -> bool:
    return row["limits"]["cpus"] is None or row["limits"]["memory"] is None

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a probe does and finds: in words for people, and joined over several hosts as a record of the history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._demand import Demand, add_demands, add_up
from ansible_collections.evenkeel.swarm.plugins.module_utils._progress import Progress
from ansible_collections.evenkeel.swarm.plugins.module_utils._words import demand_text, number

_RECOVERED = "a probe had been killed here; the limit it had left raised is put back."


class ProbeProgress(Progress):
    """The progress of demand_probe: limits in cores, and how long they may still be raised."""

    def line(self, event: dict[str, Any]) -> str | None:
        """Return what is done and what was found."""
        name = event["event"]
        if name == "recovered":
            return f"put the limit of {event['service']} back, which a killed probe had left raised"
        if name == "begin":
            tasks = "1 task" if event["tasks"] == 1 else f"{event['tasks']} tasks"
            return f"{event['service']}: {tasks} with {_limit(event['limit'])} each"
        if name == "measuring":
            left = "" if event["left"] is None else f"; raised for {event['left']:g} s more at most"
            return f"measuring at {_limit(event['limit'])} for {event['seconds']:g} s{left}"
        if name == "measured":
            found = f"used {number(event['cpu_used'])}, wants {_wants(event['demand'])}: {event['demand']['reason']}"
            return f"at {_limit(event['limit'])}: {found}"
        if name == "raised":
            return f"raised the limit to {_limit(event['limit'])}"
        return f"put the limit back to {_limit(event['limit'])}"


def probe_answer(probes: Sequence[Mapping[str, Any]], measured_at: str) -> dict[str, Any]:
    """Return {"lines": [...], "record": {...} or None}.

    `probes`: {"name": host, "result": demand_probe's result}, those of hosts without such tasks included.
    `measured_at`: ISO 8601. The record has the shape of a line of history.jsonl; None if the service runs nowhere.
    """
    recovered = [f"{probe['name']}: {_RECOVERED}" for probe in probes if probe["result"]["recovered"]]
    found = [probe for probe in probes if probe["result"]["found"]]
    if not found:
        hosts = ", ".join(probe["name"] for probe in probes)
        return {"lines": [*recovered, f"No running task on {hosts}."], "record": None}
    demand = add_demands([Demand(**probe["result"]["demand"]) for probe in found])
    lines = [_sentence(found[0]["result"]["service"], demand)]
    for probe in found:
        lines += _host_lines(probe["name"], probe["result"])
    return {"lines": lines + recovered, "record": _record(found, demand, measured_at)}


def predicted_lines(probes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what runs would do, from the results of check runs; `probes` as for probe_answer."""
    lines = []
    for probe in probes:
        result = probe["result"]
        if not result["found"]:
            lines.append(f"{probe['name']}: no running task of {result['service']}")
            continue
        limits = " and then ".join(f"{limit:g}" for limit in result["raised_limits"])
        lines.append(
            f"{probe['name']}: if its demand can't be known at its limit of {_limit(result['limit'])}, would raise it "
            f"to {limits or 'nothing higher'} for {result['seconds']:g} s at most, and put it back"
        )
    return lines


def _sentence(service: str, demand: Demand) -> str:
    if demand.estimate is not None:
        return f"{service} wants {demand.estimate:.2f} cores ({demand.regime}; {demand.reason})."
    return (
        f"{service}: what it wants is not known, the interval is {demand_text(asdict(demand))} cores ({demand.reason})."
    )


def _host_lines(host: str, result: Mapping[str, Any]) -> Iterator[str]:
    for each in result["measurements"]:
        ratio = each["throttled_ratio"]
        throttled = "" if ratio is None else f", throttled in {ratio:.0%} of its periods"
        limit = f"{_limit(each['limit'])} a task" if result["tasks"] > 1 else _limit(each["limit"])
        yield f"{host}, at {limit}: used {number(each['cpu_used'])}{throttled}, wants {_wants(each['demand'])}"
    if result["raised"]:
        yield f"{host}: its limit is {_limit(result['limit'])} again."
    if result["refused"]:
        yield f"{host}: not raised{' further' if result['raised'] else ''}, as {result['refused']}."


def _record(found: Sequence[Mapping[str, Any]], demand: Demand, measured_at: str) -> dict[str, Any]:
    looks = [probe["result"]["throttling"] for probe in found]
    services = [look["services"][0] for look in looks]
    tasks = [task for look in looks for task in look["tasks"]]
    memory = {name: [task["memory"][name] for task in tasks] for name in ("working_set", "peak", "limit")}
    periods, throttled = (add_up(row[name] for row in services) for name in ("periods", "throttled_periods"))
    return {
        "at": measured_at,
        "source": "probe",
        "window_seconds": min((row["window_seconds"] for row in services), default=None),
        "service": services[0]["service"],
        "tasks": len(tasks),
        "cpu_used": add_up(row["cpu_used"] for row in services),
        "cpu_limit": add_up(row["cpu_limit"] for row in services),
        "throttled_ratio": throttled / periods if throttled is not None and periods else None,
        "demand": asdict(demand),
        # A sum tells nothing about what a task needs; None in a part: not measured.
        "memory": {name: None if None in sizes else max(sizes) for name, sizes in memory.items()},
        "oom_kills": _whole(add_up(row["oom_kills"] for row in services)),
        "restarts": _whole(add_up(row["restarts"] for row in services)),
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _wants(demand: Mapping[str, Any]) -> str:
    return f"{demand_text(demand)} ({demand['regime']})"


def _limit(cores: float) -> str:
    return f"{cores:g} {'core' if cores == 1 else 'cores'}"

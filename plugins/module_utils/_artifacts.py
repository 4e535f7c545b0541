# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run hands to the next one in a workflow: of each result the part that a decision needs, small and plain.

It ends in a controller's database and in the variables of every later job, so it holds names and figures only: no
environment of a service, no command line, no label. Plain data in, plain data out; None means "not measured".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._demand import Demand, add_demands
from ansible_collections.evenkeel.swarm.plugins.module_utils._report_compare import setting_changes, undo_table
from ansible_collections.evenkeel.swarm.plugins.module_utils._verdict import demand_of_all

Row = Mapping[str, Any]

_DEMAND = ("estimate", "lower", "upper", "regime")
_SERVES = ("within_ms", "p95", "largest")
# What became of a service that a run never touched, or left as it was.
_UNTOUCHED = ("unchanged", "skipped")


def limits_artifact(services: Sequence[Row]) -> dict[str, Any]:
    """Return what a run of service_limits did; `services` as that module returns them.

    `services` counts those that the table selects; `changed` and `failed` are names; `states` has the state of each
    that is not as it was; `undo` is a table of limits that sets back whatever was set.
    """
    touched = [row for row in services if row["state"] not in _UNTOUCHED]
    named = ((row["before"], {**row["after"], "service": row["service"]}) for row in touched)
    return {
        "services": len(services),
        "changed": [row["service"] for row in services if row["changed"]],
        # One that was put back has failed too.
        "failed": [row["service"] for row in services if row.get("error")],
        "states": {row["service"]: row["state"] for row in services if row["state"] != "unchanged"},
        "undo": undo_table(change for old, new in named for change in setting_changes(old, new)),
    }


def drift_artifact(services: Sequence[Row]) -> dict[str, Any]:
    """Return which services differ from the table; `services` as service_limits_info returns them.

    `services` counts those in the table, `drifted` those that differ, `differences` says in which fields.
    """
    differences = {row["service"]: dict(row["drift"]) for row in services if row["drift"]}
    return {
        "services": sum(bool(row["in_table"]) for row in services),
        "drifted": len(differences),
        "differences": differences,
    }


def report_artifact(report: Row) -> dict[str, Any]:
    """Return the sums of a throttling report (see _report.build_report), cores throughout.

    `cores` are those that exist; `held` and `drifted` are names of services; `changes` counts the settings that differ
    from the earlier report and `undo` is the table that sets them back, both None without an earlier report.
    """
    totals, comparison = report["totals"], report["comparison"]
    return {
        "measured_at": report["measured_at"],
        "window_seconds": report["window_seconds"],
        "verdict_grade": report["verdict_grade"],
        "verdict": report["verdict"]["cpu"],
        "text": report["verdict"]["text"],
        **_sums(totals, totals["cores"]["real"]),
        "nodes": {
            node["name"]: {**_sums(node, node["cores"]["real"]), "cpu_used": node["cpu_used"]}
            for node in report["nodes"]
        },
        "held": [row["service"] for row in report["services"] if row["held"] is True],
        "drifted": list(report["drifted"]),
        "changes": None if comparison is None else len(comparison["changes"]),
        "undo": None if comparison is None else list(comparison["undo"]["table"]),
    }


def _sums(row: Row, cores: float | None) -> dict[str, Any]:
    demand = demand_of_all(row)
    return {"cores": cores, "limits_cpus": row["limits_cpus"], "demand": {key: demand[key] for key in _DEMAND}}


def probe_artifact(probes: Sequence[Row], service: str) -> dict[str, Any]:
    """Return what a probe of `service` found; `probes`: `name` and `result` (of demand_probe) of each host.

    `demand` is that of all its tasks, None if it has none or in check mode; `limit` is that of one task, by host;
    `raised` are the limits that were set (in check mode: would be) and `refused` says why none or no higher one was.
    """
    found = {probe["name"]: probe["result"] for probe in probes if probe["result"]["found"]}
    demands = [Demand(**result["demand"]) for result in found.values() if "demand" in result]
    total = add_demands(demands) if demands else None
    return {
        "service": service,
        "demand": None if total is None else {key: getattr(total, key) for key in (*_DEMAND, "reason")},
        "limit": {name: result["limit"] for name, result in found.items()},
        "raised": {name: list(result["raised_limits"]) for name, result in found.items()},
        "refused": {name: result["refused"] for name, result in found.items() if result.get("refused")},
    }


def bursts_artifact(looks: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a row for each container of a service; `looks`: the results of burst_info.

    `bursts` counts them; it and `limits` are None if there is no telling (`reason` says why). `limits` are cores that
    serve a burst `within_ms`: `p95` and `largest`, None where no limit does.
    """
    return [
        {
            "service": container["service"],
            "node": container["node"],
            "cpu_limit": container["cpu_limit"],
            "bursts": container["bursts"] and container["bursts"]["count"],
            "reason": container["reason"],
            "limits": container["limits"] and [{key: limit[key] for key in _SERVES} for limit in container["limits"]],
        }
        for look in looks
        for container in look["containers"]
        if container["service"]
    ]


def recommendation_artifact(recommendation: Row) -> dict[str, Any]:
    """Return a recommendation's tables (see _recommendation.recommend).

    `table` and `undo` are tables of limits; `wants`, `gets` and `cores` are sums of cores; `left_out` has the reason
    for each service that was not sized.
    """
    return {
        "table": list(recommendation["table"]),
        "undo": list(recommendation["undo"]),
        **{key: recommendation["totals"][key] for key in ("wants", "gets", "cores")},
        "left_out": dict(recommendation["left_out"]),
    }


def migration_artifact(units: Mapping[str, Row], verb: str) -> dict[str, Any]:
    """Return where moves stand after a verb; `units`: the units that the module migration returns.

    By unit: `phase`, `runs_on`, `target`, `next` (verb) and `changed` as there; `plan` is a plan's hash, None without
    one; `refusals` are the codes of what stands in the way; `error` is a code.
    """
    return {"verb": verb, "units": {name: _unit(result) for name, result in units.items()}}


def _unit(result: Row) -> dict[str, Any]:
    plan, error = result.get("plan") or {}, result.get("error") or {}
    refusing = [trap["code"] for trap in plan.get("traps", ()) if trap["refuses"]]
    return {
        **{key: result[key] for key in ("phase", "runs_on", "target", "next", "changed")},
        # Never digits only: a controller would hand that on as a number.
        "plan": plan.get("hash") and f"sha256:{plan['hash']}",
        "refusals": refusing or list(error.get("details", {}).get("traps", ())),
        "error": error.get("code"),
    }


def scale_artifact(services: Sequence[Row]) -> dict[str, Any]:
    """Return what became of the one service that was scaled: its replicas `before` and `after`."""
    row = services[0]
    return {
        "service": row["service"],
        "before": row["before"]["replicas"],
        "after": row["after"]["replicas"],
        "changed": row["changed"],
    }

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Join what the modules returned: one report of a whole Swarm. Runs on the controller; plain data in, plain data out.

None means "not measured" throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _demand, _report_compare, _throttling, _verdict
from ansible_collections.evenkeel.swarm.plugins.module_utils._words import over

Row = Mapping[str, Any]


# What throttling_info knows of the host itself.
_OF_THE_HOST = (
    "load",
    "load_split",
    "cpu_used",
    "cpu_idle_share",
    "steal_share",
    "pressure",
    "memory_total",
    "memory_available",
    "accounting",
    "accounting_reason",
)
# What a node shows of each service's part on it.
_PART = ("containers", "cpu_used", "cpu_limit", "throttled_ratio", "demand")


def build_report(
    hosts: Sequence[Row], limits: Row, measured_at: str, before: Row | None = None, undo_command: str = ""
) -> dict[str, Any]:
    """Join what every host measured with what a manager knows.

    `hosts`: mappings with `name` (in the inventory), `vcpus` (declared cores or None) and `look` (the result of
    throttling_info there); `limits`: the result of service_limits_info; `measured_at`: a time for the reader;
    `before`: an earlier report to compare with; `undo_command`: what sets back the limits changed since then.
    Returns window_seconds, verdict_grade, verdict, nodes, services, totals, drifted, comparison (None without
    `before`). Raises _report_compare.NoReportError if the two are not of one Swarm.
    """
    containers = [container for host in hosts for container in host["look"]["containers"]]
    measured = {row["service"]: row for row in _throttling.service_rows(containers)}
    looked_at = {host["look"]["node"]["hostname"]: host for host in hosts}
    nodes = [_node_row(node, looked_at.get(node["hostname"])) for node in limits["nodes"]]
    services = [_service_row(service, measured.get(service["service"])) for service in limits["services"]]
    windows = [host["look"]["node"]["window_seconds"] for host in hosts]
    window = None if None in windows else min(windows, default=None)
    report = {
        "measured_at": measured_at,
        "window_seconds": window,
        "verdict_grade": window is not None and window >= _throttling.VERDICT_SECONDS,
        "nodes": nodes,
        "services": services,
        "totals": _totals(nodes, services, containers),
        "drifted": list(limits["drifted"]),
    }
    return report | {
        "verdict": _verdict.judge(report),
        "comparison": None if before is None else _report_compare.compare(before, report, undo_command),
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
        **{key: look.get(key) for key in _OF_THE_HOST},
        **_containers_of(node["cpus"], host["look"]["containers"] if host else None),
    }


def _containers_of(cores: float, containers: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    """Return what a node's containers want together and by service; None throughout if nobody looked there."""
    if containers is None:
        wanted: dict[str, float | None] = {"at_least": None, "at_most": None}
        return {"demand": None, "wanted": wanted, "verdict": _verdict.UNKNOWN, "services": None, "outside": None}
    wanted = _verdict.wanted([container["demand"] for container in containers])
    outside = [container for container in containers if not container["service"]]
    return {
        "demand": _throttling.roll_up(containers)["demand"],
        "wanted": wanted,
        "verdict": _verdict.cpu_verdict(cores, wanted),
        "services": [
            {"service": row["service"], **{key: row[key] for key in _PART}}
            for row in _throttling.service_rows(containers)
        ],
        # Containers that belong to no service; None if there are none.
        "outside": {key: _throttling.roll_up(outside)[key] for key in _PART} if outside else None,
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
        "held": _verdict.held_at_limit(service["limits"], measured),
        # None: no task of it was seen on the hosts that measured.
        "measured": {key: value for key, value in measured.items() if key != "service"} if measured else None,
    }


def _totals(nodes: Sequence[Row], services: Sequence[Row], containers: Sequence[dict[str, Any]]) -> dict[str, Any]:
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
        "demand": _throttling.roll_up(containers)["demand"],
        "wanted": _verdict.wanted([container["demand"] for container in containers]),
    }

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Join what the modules returned: one report of a whole Swarm. Runs on the controller; plain data in, plain data out.

None means "not measured" throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _demand, _throttling
from ansible_collections.evenkeel.swarm.plugins.module_utils._words import over

Row = Mapping[str, Any]


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

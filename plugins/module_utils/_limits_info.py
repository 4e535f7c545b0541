# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a swarm's services may use and what its nodes are promised for, added up. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import (
    REPLICAS,
    Change,
    Node,
    Service,
    cores,
    read_resources,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._tasks import occupies_node
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import NANO

Task = Mapping[str, Any]
_SUMMED = (
    "cpus",
    "memory",
    "tasks",
    "limits_cpus",
    "limits_memory",
    "unlimited_tasks",
    "reserved_cpus",
    "reserved_memory",
    "headroom_cpus",
    "headroom_memory",
)


def survey(
    services: Sequence[Service], nodes: Sequence[Node], tasks: Sequence[Task], changes: Iterable[Change]
) -> dict[str, Any]:
    """Return the results of service_limits_info; `changes` is what a table would change, empty without one."""
    by_service = {change.service.id: change for change in changes}
    hostnames = {node.id: node.hostname for node in nodes}
    running = [task for task in tasks if (task.get("Status") or {}).get("State") == "running"]
    rows = [
        _service_row(service, by_service.get(service.id), _nodes_of(service, running, hostnames))
        for service in sorted(services, key=lambda each: each.name)
    ]
    node_rows = [
        _node_row(node, [task for task in tasks if occupies_node(task) and task["NodeID"] == node.id])
        for node in sorted(nodes, key=lambda each: (each.hostname, each.id))
    ]
    return {
        "services": rows,
        "nodes": node_rows,
        "totals": _totals(node_rows, services=len(rows), running_tasks=len(running)),
        "drifted": [row["service"] for row in rows if row["drift"]],
    }


def _nodes_of(service: Service, running: Iterable[Task], hostnames: Mapping[str, str]) -> list[str]:
    """The node of each running task of a service, so with repetitions."""
    return [hostnames.get(task["NodeID"], task["NodeID"]) for task in running if task["ServiceID"] == service.id]


def _service_row(service: Service, change: Change | None, task_nodes: Sequence[str]) -> dict[str, Any]:
    settings = service.settings.report()
    return {
        "service": service.name,
        "id": service.id,
        "mode": service.mode,
        "replicas": service.settings.replicas,
        "running": len(task_nodes),
        "nodes": sorted(set(task_nodes)),
        "limits": settings["limits"],
        "reservations": settings["reservations"],
        "in_table": change is not None,
        "row": change.row.number if change else None,
        "drift": drift(change) if change else {},
    }


def drift(change: Change) -> dict[str, dict[str, Any]]:
    """Return the fields in which a service differs from its row, in the units that modules return."""
    differing: dict[str, dict[str, Any]] = {}
    for field in change.edit:
        expected, actual = change.after.get(field), change.before.get(field)
        if expected != actual:
            name = "replicas" if field == REPLICAS else ".".join(field)
            differing[name] = {"expected": _shown(name, expected), "actual": _shown(name, actual)}
    return differing


def _shown(name: str, value: int | None) -> float | int | None:
    if name == "replicas" or value is None:
        return value
    return cores(value) if name.endswith(".cpus") else value or None


def _node_row(node: Node, tasks: Sequence[Task]) -> dict[str, Any]:
    resources = [read_resources(task["Spec"]) for task in tasks]

    def total(section: str, key: str) -> int:
        return sum(each[section, key] for each in resources)

    limits_cpus, reserved_cpus, reserved_memory = (
        total("limits", "cpus"),
        total("reservations", "cpus"),
        total("reservations", "memory"),
    )
    return {
        "hostname": node.hostname,
        "id": node.id,
        "role": node.role,
        "state": node.state,
        "availability": node.availability,
        "cpus": node.nano_cpus / NANO,
        "memory": node.memory,
        "tasks": len(tasks),
        "limits_cpus": limits_cpus / NANO,
        "limits_memory": total("limits", "memory"),
        "unlimited_tasks": sum(not each["limits", "cpus"] or not each["limits", "memory"] for each in resources),
        "reserved_cpus": reserved_cpus / NANO,
        "reserved_memory": reserved_memory,
        "headroom_cpus": (node.nano_cpus - reserved_cpus) / NANO,
        "headroom_memory": node.memory - reserved_memory,
        "oversubscription": _ratio(limits_cpus / NANO, node.nano_cpus / NANO),
    }


def _ratio(limits_cpus: float, cpus: float) -> float | None:
    return round(limits_cpus / cpus, 3) if cpus else None


def _totals(nodes: Sequence[Mapping[str, Any]], *, services: int, running_tasks: int) -> dict[str, Any]:
    # Rounded to nano-CPUs: sums of floats would otherwise show their binary tails.
    sums = {key: round(sum(node[key] for node in nodes), 9) for key in _SUMMED}
    return {
        **sums,
        "oversubscription": _ratio(sums["limits_cpus"], sums["cpus"]),
        "services": services,
        "running_tasks": running_tasks,
    }

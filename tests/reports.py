# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports to test with, built by the real code from looks as throttling_info returns them."""

from __future__ import annotations

from typing import Any

import yaml
from ansible_collections.evenkeel.swarm.plugins.module_utils import _report
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_table import Selectable, match_rows, parse_table
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import NANO

from lab.estate import load as load_estate
from lab.settings import PROJECT

MIB = 2**20


def container(service: str, **changed: Any) -> dict[str, Any]:
    """One container's row as throttling_info returns it."""
    row: dict[str, Any] = {
        "id": "c1",
        "name": f"{service}.1",
        "state": "running",
        "service": service,
        "task": "t1",
        "slot": 1,
        "node": "one",
        "cpu_used": 0.25,
        "cpu_limit": 0.25,
        "periods": 100,
        "throttled_periods": 50,
        "throttled_ratio": 0.5,
        "throttled_seconds": 3.0,
        "bursts": 0,
        "burst_seconds": 0.0,
        "pressure": None,
        "run_seconds": 2.5,
        "run_delay_seconds": 9.5,
        "exited_run_seconds": None,
        "exited_delay_seconds": None,
        "runnable": 1.2,
        "cause": {"throttled": 0.95, "contention": 0.0, "siblings": 0.0, "steal": 0.0},
        "threads": 4,
        "demand": {"estimate": 1.2, "lower": 0.25, "upper": 1.2, "regime": "saturated", "reason": "held"},
        "memory": {"current": 70 * MIB, "working_set": 64 * MIB, "limit": 256 * MIB, "peak": None},
        "oom_kills": 0,
        "pids": 5,
        "restarts": 0,
        "window_seconds": 10.0,
        "verdict_grade": False,
    }
    return row | changed


def unmeasured(service: str) -> dict[str, Any]:
    """A container seen only once: everything that is a rate is missing."""
    rates = ("cpu_used", "periods", "throttled_periods", "throttled_ratio", "throttled_seconds", "run_seconds")
    nothing = {"estimate": None, "lower": None, "upper": None, "regime": None, "reason": "one look"}
    cause = dict.fromkeys(("throttled", "contention", "siblings", "steal"))
    return container(service, **dict.fromkeys(rates), window_seconds=None, demand=nothing, cause=cause)


def host(name: str, *containers: dict[str, Any], vcpus: float | None = 4, **changed: Any) -> dict[str, Any]:
    node = {
        "hostname": name,
        "load": [1.5, 1.0, 0.5],
        "cpu_used": 1.25,
        "cpu_idle_share": 0.4,
        "memory_total": 4096 * MIB,
        "memory_available": 3072 * MIB,
        "window_seconds": 10.02,
    }
    return {"name": name, "vcpus": vcpus, "look": {"node": node | changed, "containers": list(containers)}}


def service(name: str, **changed: Any) -> dict[str, Any]:
    """One service's row as service_limits_info returns it."""
    row: dict[str, Any] = {
        "service": name,
        "replicas": 1,
        "running": 1,
        "nodes": ["one"],
        "limits": {"cpus": 0.25, "memory": 256 * MIB, "pids": None},
        "reservations": {"cpus": None, "memory": None},
        "in_table": True,
        "drift": {},
    }
    return row | changed


def node(hostname: str, **changed: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "hostname": hostname,
        "role": "manager",
        "availability": "active",
        "cpus": 2.0,
        "tasks": 1,
        "limits_cpus": 9.5,
        "limits_memory": 256 * MIB,
        "unlimited_tasks": 0,
    }
    return row | changed


def report(
    hosts: list[dict[str, Any]],
    services: list[dict[str, Any]],
    nodes: list[dict[str, Any]],
    measured_at: str = "2026-11-22T00:00:00+00:00",
    **compared: Any,
) -> dict[str, Any]:
    """What the filter throttling_report makes of looks and limits."""
    drifted = [row["service"] for row in services if row["drift"]]
    limits = {"services": services, "nodes": nodes, "drifted": drifted}
    return _report.build_report(hosts, limits, measured_at, **compared)


# --- the seeds' estate, without a lab ---

MARKUP = '<script>document.title="taken"</script>&amp;'
# Held at their limits when limited: what throttling_info says of them then.
_REGIMES = {
    "backend-django-crm": "unidentifiable",
    "backend-saleor-api": "unidentifiable",
    "backend-ai-agents": "saturated",
    "infrastructure-shared-redis": "saturated",
    "backend-brain-gateway": "rough",
}
_ON_KVM2 = "infrastructureservices-"
# Less than its limit allows: its neighbours are in the way.
_CROWDED = {"backend-saleor-api": 1.18}
# Without limits, what wants more than this many cores gets this share of it.
_FIGHTING, _GETS = 0.3, 0.13
_REASONS = {
    "unsaturated": "uses less than its limit",
    "saturated": "held at its limit, its threads still idle at times",
    "rough": "threads came and went between the looks; usage over the time it was not stalled",
    "unidentifiable": "its threads are never idle: a small backlog and a large demand look alike",
}


def estate(limited: bool) -> dict[str, Any]:
    """A report on the seeds' 30 services over a minute, before or after the table of limits was applied."""
    hosts, services, nodes = _estate_parts(limited)
    return report(hosts, services, nodes, measured_at=f"2026-11-22T03:0{int(limited)}:00+00:00")


def estate_compared() -> dict[str, Any]:
    """The same with limits, compared with what was before them; with drift, gaps and a service named like markup."""
    hosts, services, nodes = _estate_parts(limited=True)
    command = "LAB_NAME=demo ansible-playbook -i inventory/lab playbooks/limits.yml -e @reports/demo/undo-limits.yml"
    measured_at = "2026-11-22T03:01:00+00:00"
    return report(hosts, services, nodes, measured_at=measured_at, before=estate(limited=False), undo_command=command)


def _estate_parts(limited: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    entries: dict[str, dict[str, Any]] = load_estate()["estate_services"]
    table = yaml.safe_load((PROJECT / "inventory" / "estate" / "limits.yml").read_text())["service_limits_table"]
    rows, errors = parse_table(table)
    assert not errors
    chosen, _ = match_rows(rows, [Selectable(name, {}) for name in entries])
    containers: dict[str, list[dict[str, Any]]] = {"kvm4": [], "kvm2": []}
    services = []
    for name, entry in entries.items():
        limits = chosen[name].limits if limited else {}
        cpus = limits["cpus"] / NANO if limits else None
        where = "kvm2" if name.startswith(_ON_KVM2) else "kvm4"
        shown = MARKUP if name == "infrastructure-mailhog" else name
        tasks = entry.get("replicas", 1)
        if tasks:
            containers[where].append(_estate_container(shown, entry.get("demand", 0.002), cpus, limits.get("memory")))
        services.append(
            service(
                shown,
                running=tasks,
                replicas=tasks + (name == "infrastructure-healthchecks"),
                nodes=[where] if tasks else [],
                limits={"cpus": cpus, "memory": limits.get("memory") if limits else None, "pids": None},
                drift={"limits.cpus": {"expected": 1.0, "actual": 0.5}} if limited and name == "dokploy" else {},
                in_table=limited,
            )
        )
    containers["kvm4"].append(container("", cpu_limit=None, **_wants(0.05, None, "")) | {"service": None})
    hosts = [
        host("kvm4", *containers["kvm4"], **_of_kvm4(limited)),
        host("kvm2", *containers["kvm2"], vcpus=2, cpu_used=1.72, cpu_idle_share=0.14, window_seconds=60.02),
    ]
    nodes = [
        node("kvm4", cpus=4.0, tasks=16, limits_cpus=_sum_of_limits(containers["kvm4"])),
        node("kvm2", cpus=2.0, tasks=5, role="worker", limits_cpus=_sum_of_limits(containers["kvm2"])),
    ]
    return hosts, services, nodes


def _of_kvm4(limited: bool) -> dict[str, Any]:
    share = 0.31 if limited else 0.93
    return {
        "window_seconds": 60.1,
        "cpu_used": 3.93 if limited else 3.99,
        "cpu_idle_share": 0.01 if limited else 0.0,
        "steal_share": 0.12,
        "pressure": {"some": {"share": share, "avg10": 31.0, "avg60": 30.0, "avg300": 28.0}},
        "load": [4.2, 6.0, 9.1] if limited else [21.93, 20.1, 19.8],
        "load_split": {"text": "Of the load of 4.2, backend-django-crm makes 1.0; nothing waits for a disk."},
        "accounting": "taskstats",
        "accounting_reason": "the kernel answers and the module runs as root",
    }


def _sum_of_limits(containers: list[dict[str, Any]]) -> float:
    return sum(each["cpu_limit"] or 0.0 for each in containers)


def _estate_container(name: str, wanted: float, limit: float | None, memory: int | None) -> dict[str, Any]:
    if name == "infrastructure-traefik":
        return unmeasured(name) | {"cpu_limit": limit}
    if limit is None and wanted > _FIGHTING:
        contended = _wants(wanted * _GETS, wanted, "unidentifiable")
        contended["demand"]["reason"] = "the node was only 0% idle: others may have held it up"
        return container(name, cpu_limit=None, periods=0, throttled_periods=0, throttled_ratio=None, **contended)
    held = limit is not None and wanted > limit
    regime = _REGIMES.get(name, "unidentifiable") if held else "unsaturated"
    used = _CROWDED.get(name, limit) if held and limit is not None else wanted
    return container(
        name,
        cpu_limit=limit,
        periods=600 if limit else 0,
        throttled_periods=590 if held else 12 if limit else 0,
        throttled_ratio=(0.98 if held else 0.02) if limit else None,
        memory={
            "current": 90 * MIB,
            "working_set": int((memory or 2**30) * (0.95 if "shared-redis" in name else 0.013 * len(name))),
            "limit": memory,
            "peak": None,
        },
        oom_kills={"backend-ai-agents": 3}.get(name, 0),
        restarts={"backend-ai-agents": 4, "dokploy": None}.get(name, 0),
        **_wants(used, wanted, regime),
    )


def _in_use(name: str, limit: int | None) -> int:
    return round((limit or 2**30) * (0.95 if name == "infrastructure-shared-redis" else 0.013 * len(name)))


def _wants(used: float, wanted: float | None, regime: str) -> dict[str, Any]:
    if not regime:
        nothing = dict.fromkeys(("throttled", "contention", "siblings", "steal"))
        point = {"estimate": used, "lower": used, "upper": used, "regime": "unsaturated", "reason": "no limit"}
        return {"cpu_used": used, "demand": point, "cause": nothing}
    estimate = None if regime == "unidentifiable" else wanted
    upper = None if regime == "rough" else wanted
    waiting = (wanted or used) - used
    return {
        "cpu_used": used,
        "demand": {
            "estimate": estimate,
            "lower": used,
            "upper": upper,
            "regime": regime,
            "reason": _REASONS[regime],
        },
        "cause": {"throttled": waiting * 0.8, "contention": waiting * 0.15, "siblings": 0.001, "steal": None},
        "window_seconds": 60.0,
        "verdict_grade": True,
    }

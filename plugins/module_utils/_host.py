# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the host itself: processors, load, idle and stolen time, pressure, memory.

On a host that is a container (a lab) the machine's /proc/stat shows more than the host may use: only the processors
this process may run on count, and where the root of the cgroup tree carries a quota, what is left of that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _cgroup


@dataclass(frozen=True)
class CpuTicks:
    """Clock ticks summed over processors: all of them, those without work, those the hypervisor kept."""

    total: int
    idle: int
    steal: int


@dataclass(frozen=True)
class HostReading:
    """One look at the host; `at` is monotonic seconds, `root` the root cgroup's counters."""

    at: float
    ticks: CpuTicks | None
    pressure: dict[str, _cgroup.Pressure] | None
    root: _cgroup.CpuReading | None


def parse_stat(content: bytes | None, processors: Collection[int]) -> CpuTicks | None:
    """Sum the given processors' lines of /proc/stat; None if one is missing.

    Fields: user nice system idle iowait irq softirq steal guest guest_nice; guest time is already in user and nice.
    """
    total = idle = steal = found = 0
    for line in (content or b"").splitlines():
        name, *fields = line.split()
        if not name.startswith(b"cpu") or not name[3:].isdigit() or int(name[3:]) not in processors:
            continue
        ticks = [int(value) for value in fields[:8]]
        if len(ticks) < 8:
            return None
        found += 1
        total += sum(ticks)
        idle += ticks[3] + ticks[4]
        steal += ticks[7]
    return CpuTicks(total, idle, steal) if found and found == len(processors) else None


def parse_load(content: bytes | None) -> list[float] | None:
    """Parse /proc/loadavg to the averages of 1, 5 and 15 minutes."""
    fields = (content or b"").split()[:3]
    try:
        return [float(value) for value in fields] if len(fields) == 3 else None
    except ValueError:
        return None


def parse_meminfo(content: bytes | None) -> dict[bytes, int]:
    """Parse /proc/meminfo to bytes."""
    values: dict[bytes, int] = {}
    for line in (content or b"").splitlines():
        name, _, rest = line.partition(b":")
        amount = rest.removesuffix(b"kB").strip()
        if amount.isdigit():
            values[name] = int(amount) * 1024
    return values


def read_host(tree: _cgroup.Hierarchy, proc_root: str) -> HostReading:
    """Look at the host."""
    return HostReading(
        at=time.monotonic(),
        ticks=parse_stat(_cgroup.read_bytes(f"{proc_root}/stat"), os.sched_getaffinity(0)),
        pressure=_cgroup.parse_pressure(_cgroup.read_bytes(f"{proc_root}/pressure/cpu")),
        root=_cgroup.read_cpu(tree, ""),
    )


def idle_and_steal(first: HostReading, last: HostReading) -> tuple[float | None, float | None]:
    """Return the shares of the window in which the host's processors were idle and were kept by the hypervisor."""
    if first.ticks is None or last.ticks is None or last.ticks.total <= first.ticks.total:
        return None, None
    total = last.ticks.total - first.ticks.total
    idle = max(0, last.ticks.idle - first.ticks.idle) / total
    steal = max(0, last.ticks.steal - first.ticks.steal) / total
    left = _quota_left(first.root, last.root)
    return (idle if left is None else min(idle, left)), steal


def host_report(
    first: HostReading, last: HostReading, windowed: bool, tree: _cgroup.Hierarchy, proc_root: str
) -> dict[str, Any]:
    """Return the host's part of the result; rates are None without a window."""
    elapsed = last.at - first.at if windowed else None
    idle, steal = idle_and_steal(first, last) if windowed else (None, None)
    memory = parse_meminfo(_cgroup.read_bytes(f"{proc_root}/meminfo"))
    return {
        "hostname": os.uname().nodename,
        "cpus": len(os.sched_getaffinity(0)),
        "load": parse_load(_cgroup.read_bytes(f"{proc_root}/loadavg")),
        "cpu_used": _cgroup.cores_used(first.root, last.root) if windowed else None,
        "cpu_idle_share": idle,
        "steal_share": steal,
        "pressure": _cgroup.pressure_shares(first.pressure, last.pressure, elapsed),
        "memory_total": memory.get(b"MemTotal"),
        "memory_available": memory.get(b"MemAvailable"),
        "cgroup_version": tree.version,
        "window_seconds": elapsed,
    }


def _quota_left(first: _cgroup.CpuReading | None, last: _cgroup.CpuReading | None) -> float | None:
    """Return the unused share of a quota on the whole cgroup tree, None if there is none."""
    used = _cgroup.cores_used(first, last)
    if used is None or last is None or last.limit is None or not last.limit.cores:
        return None
    return min(1.0, max(0.0, 1 - used / last.limit.cores))

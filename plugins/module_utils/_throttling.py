# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure this host's containers over a window and roll the numbers up: container, task, service, node."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _cause, _cgroup, _demand, _host, _load, _taskstats
from ansible_collections.evenkeel.swarm.plugins.module_utils._containers import Container
from ansible_collections.evenkeel.swarm.plugins.module_utils._schedstat import (
    ThreadShare,
    ThreadWindow,
    read_threads,
    unfollowed,
)

# From this length on a window is long enough to size a limit on; shorter ones are a look.
VERDICT_SECONDS = 60.0

_MEMORY = ("current", "working_set", "limit", "peak")
_NO_MEMORY: dict[str, int | None] = dict.fromkeys(_MEMORY)
_RATES = (
    "cpu_used",
    "periods",
    "throttled_periods",
    "throttled_ratio",
    "throttled_seconds",
    "bursts",
    "burst_seconds",
    "run_seconds",
    "run_delay_seconds",
    "exited_run_seconds",
    "exited_delay_seconds",
    "runnable",
    "window_seconds",
)
# Rolled up by adding; a missing part makes the sum missing.
_ADDED = (
    "cpu_used",
    "cpu_limit",
    "periods",
    "throttled_periods",
    "throttled_seconds",
    "bursts",
    "burst_seconds",
    "run_seconds",
    "run_delay_seconds",
    "exited_run_seconds",
    "exited_delay_seconds",
    "runnable",
    "threads",
    "oom_kills",
    "pids",
    "restarts",
)


@dataclass(frozen=True)
class Source:
    """Where the counters are read; `taskstats` None: schedstat alone."""

    tree: _cgroup.Hierarchy
    proc_root: str
    taskstats: _taskstats.Taskstats | None


@dataclass
class Watch:
    """A container under observation: what was read of it at both ends of the window and of its threads between."""

    container: Container
    path: str | None
    state: str
    first: _cgroup.CpuReading | None = None
    last: _cgroup.CpuReading | None = None
    memory: _cgroup.MemoryReading | None = None
    pids: int | None = None
    threads: ThreadWindow = field(default_factory=ThreadWindow)
    processes: _taskstats.ProcessWindow = field(default_factory=_taskstats.ProcessWindow)
    thread_count: int | None = None


def measure(
    list_containers: Callable[[], list[Container]],
    window: float,
    interval: float,
    cgroup_root: str,
    proc_root: str,
    *,
    accounting: str = _taskstats.AUTO,
) -> dict[str, Any]:
    """Watch every container for `window` seconds and return the module's result: node, containers, tasks, services.

    `list_containers` is asked at both ends, so that a container paused, stopped or started in between is not
    taken for one that ran through. Raises what it raises, FileNotFoundError where there are no cgroups, and
    TaskstatsUnavailableError where `accounting` insists on taskstats that don't answer.
    """
    cpu_before = time.process_time()
    tree = _cgroup.hierarchy(cgroup_root)
    taskstats, accounting_reason = _taskstats.choose(accounting, proc_root)
    source = Source(tree, proc_root, taskstats)
    watches = _watch(list_containers(), tree)
    load, paths = _load.LoadWindow(tree, proc_root), {watch.container.id: watch.path for watch in watches}
    node_first = _host.read_host(tree, proc_root)
    for watch in watches:
        watch.first = _look(watch, source)
    if window > 0:
        *between, end = look_times(time.monotonic(), window, interval)
        for due in between:
            load.sleep_until(due)
            load.look(paths)
            _look_at_threads(watches, source)
        load.sleep_until(end)
        for watch in watches:
            watch.last = _look(watch, source)
        watches = _compare_states(watches, list_containers(), source)
    node_last = _host.read_host(tree, proc_root)
    for watch in watches:
        _read_levels(watch, tree)
    node = _host.host_report(node_first, node_last, window > 0, tree, proc_root)
    rows = [container_row(watch, window, node["hostname"], node["cpu_idle_share"]) for watch in watches]
    for watch, row in zip(watches, rows, strict=True):
        row["cause"] = _cause.split_delay(_waiting(watch, row, node, tree))
    drivers = {_cgroup.driver_of(watch.path) for watch in watches if watch.path}
    node |= {
        "cgroup_driver": drivers.pop() if len(drivers) == 1 else None,
        "accounting": _taskstats.TASKSTATS if taskstats else _taskstats.SCHEDSTAT,
        "accounting_reason": accounting_reason,
        "load_split": load.split(rows, node),
        "totals": roll_up(rows),
        "sampler_cpu_seconds": time.process_time() - cpu_before,
    }
    return {"node": node, "containers": rows, "tasks": task_rows(rows), "services": service_rows(rows)}


def look_times(start: float, window: float, interval: float) -> list[float]:
    """Return when to look after `start`, monotonic seconds: every `interval`, and last at the window's end."""
    count = max(1, round(window / interval))
    return [start + number * interval for number in range(1, count)] + [start + window]


def container_row(watch: Watch, window: float, hostname: str, node_idle: float | None) -> dict[str, Any]:
    """Return one container's result row."""
    container = watch.container
    return {
        "id": container.id,
        "name": container.name,
        "state": watch.state,
        "service": container.service,
        "task": container.task,
        "slot": container.slot,
        "node": hostname,
        **_rates(watch, window, node_idle),
        "memory": {name: getattr(watch.memory, name) for name in _MEMORY} if watch.memory else dict(_NO_MEMORY),
        "oom_kills": watch.memory.oom_kills if watch.memory else None,
        "pids": watch.pids,
        "restarts": container.restarts,
    }


def task_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each Swarm task on this host, sorted by name."""
    return [
        {"task": task, "service": group[0]["service"], "slot": group[0]["slot"], **roll_up(group)}
        for task, group in _grouped(rows, "task")
    ]


def service_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each Swarm service with tasks on this host, sorted by name; other hosts' tasks are not in."""
    return [{"service": service, **roll_up(group)} for service, group in _grouped(rows, "service")]


def roll_up(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add rows up. A sum is None if a part is; pressure and memory peaks don't add up and are kept for single rows."""
    sums: dict[str, Any] = {name: _demand.add_up(row[name] for row in rows) for name in _ADDED}
    for name in ("periods", "throttled_periods", "bursts", "threads", "oom_kills", "pids", "restarts"):
        sums[name] = None if sums[name] is None else int(sums[name])
    memory = {name: _demand.add_up(row["memory"][name] for row in rows) for name in _MEMORY}
    if len(rows) != 1:
        memory["peak"] = None
    return {
        "containers": len(rows),
        **sums,
        "throttled_ratio": _ratio(sums["throttled_periods"], sums["periods"]),
        "cause": {name: _demand.add_up(row["cause"][name] for row in rows) for name in _cause.NAMES},
        "pressure": rows[0]["pressure"] if len(rows) == 1 else None,
        "demand": asdict(_demand.add_demands([_demand.Demand(**row["demand"]) for row in rows])),
        "memory": {name: None if size is None else int(size) for name, size in memory.items()},
        "window_seconds": min((row["window_seconds"] for row in rows if row["window_seconds"]), default=None),
        "verdict_grade": bool(rows) and all(row["verdict_grade"] for row in rows),
    }


def _watch(containers: Sequence[Container], tree: _cgroup.Hierarchy) -> list[Watch]:
    paths = _cgroup.container_paths(tree, [container.id for container in containers])
    return [Watch(container, paths.get(container.id), container.state) for container in containers]


def _look(watch: Watch, source: Source) -> _cgroup.CpuReading | None:
    if watch.path is None:
        return None
    reading = _cgroup.read_cpu(source.tree, watch.path)
    if reading is not None:
        _add_threads(watch, source, reading.at, first=watch.first is None)
    return reading


def _look_at_threads(watches: Sequence[Watch], source: Source) -> None:
    for watch in watches:
        if watch.first is not None:
            _add_threads(watch, source, time.monotonic())


def _add_threads(watch: Watch, source: Source, at: float, first: bool = False) -> None:
    # Processes before threads at the first look and after them at the others: what the processes did then covers what
    # their threads did, and the difference, what ended threads did, is never too small.
    if first:
        _add_processes(watch, source)
    threads = _cgroup.thread_ids(source.tree, watch.path or "")
    stats = None if threads is None else read_threads(threads, source.proc_root)
    watch.thread_count = None if stats is None else len(stats)
    since = watch.threads.looked
    watch.threads.look(at, stats)
    if not first:
        _add_processes(watch, source, since)


def _add_processes(watch: Watch, source: Source, since: float = 0.0) -> None:
    if source.taskstats is None:
        watch.processes.look(None)
        return
    processes = _cgroup.process_ids(source.tree, watch.path or "")
    sums = None if processes is None else source.taskstats.processes(processes)
    born = _taskstats.born_since(watch.processes.newcomers(sums or ()), since, source.proc_root)
    watch.processes.look(sums, born)


def _ended(watch: Watch) -> ThreadShare | None:
    """Return what threads did that ended between looks, as shares of the window; None if that was not counted."""
    totals = watch.processes.totals()
    if totals is None or not watch.threads.length:
        return None
    run, delay = (
        max(0, total - followed) / 1e9 / watch.threads.length
        for total, followed in zip(totals, watch.threads.totals(), strict=True)
    )
    return unfollowed(run, delay)


def _compare_states(watches: Sequence[Watch], now: Sequence[Container], source: Source) -> list[Watch]:
    """Bring the watches up to the engine's second answer: gone ones are marked, new ones join without rates."""
    later = {container.id: container for container in now}
    for watch in watches:
        container = later.pop(watch.container.id, None)
        if container is None:
            watch.state = "gone"
        else:
            watch.state = container.state if container.state != "running" else watch.state
            watch.container = container
    started = _watch(list(later.values()), source.tree)
    for watch in started:
        watch.last = _look(watch, source)
    return sorted([*watches, *started], key=lambda watch: watch.container.name)


def _read_levels(watch: Watch, tree: _cgroup.Hierarchy) -> None:
    """Read what is a level and not a rate."""
    if watch.path is not None and watch.state != "gone":
        watch.memory = _cgroup.read_memory(tree, watch.path)
        watch.pids = _cgroup.read_pids(tree, watch.path)


def _rates(watch: Watch, window: float, node_idle: float | None) -> dict[str, Any]:
    """Return everything that is a difference between the two ends of the window; None where there are none."""
    first, last = watch.first, watch.last
    problem = _window_problem(watch, window)
    if problem or first is None or last is None:
        return _no_rates(problem or "", last or first, watch.thread_count)
    elapsed = last.at - first.at
    periods = _cgroup.delta(first.stat.periods, last.stat.periods)
    throttled = _cgroup.delta(first.stat.throttled_periods, last.stat.throttled_periods)
    threads = watch.threads.shares()
    pressure = _cgroup.pressure_shares(first.pressure, last.pressure, elapsed)
    cpu = _demand.CpuWindow(
        usage=_cgroup.cores_used(first, last),
        limit=last.limit.cores if last.limit else None,
        window=elapsed,
        period=last.limit.period if last.limit else _demand.DEFAULT_PERIOD,
        limit_problem=_limit_problem(first.limit, last.limit),
        throttled_periods=throttled,
        threads=threads,
        ended=_ended(watch),
        node_idle=node_idle,
        pressure_full=pressure["full"]["share"] if pressure and "full" in pressure else None,
    )
    # Sums over threads are only a measurement if no thread was missed.
    counted = cpu.counted
    # A frozen thread neither runs nor waits: what it would want can't be seen.
    paused = watch.state == "paused"
    demand = _demand.unknown_demand(cpu.usage, "it is paused") if paused else _demand.estimate_demand(cpu)
    return {
        "cpu_used": cpu.usage,
        "cpu_limit": cpu.limit,
        "periods": periods,
        "throttled_periods": throttled,
        "throttled_ratio": _ratio(throttled, periods),
        "throttled_seconds": _cgroup.delta(first.stat.throttled_seconds, last.stat.throttled_seconds),
        "bursts": _cgroup.delta(first.stat.bursts, last.stat.bursts),
        "burst_seconds": _cgroup.delta(first.stat.burst_seconds, last.stat.burst_seconds),
        "pressure": pressure,
        "run_seconds": None if counted is None else elapsed * sum(thread.run for thread in counted),
        "run_delay_seconds": None if counted is None else elapsed * sum(thread.delay for thread in counted),
        "exited_run_seconds": None if cpu.ended is None else elapsed * cpu.ended.run,
        "exited_delay_seconds": None if cpu.ended is None else elapsed * cpu.ended.delay,
        "runnable": None if counted is None else _demand.runnable(counted),
        "threads": watch.thread_count,
        "demand": asdict(demand),
        "window_seconds": elapsed,
        "verdict_grade": elapsed >= VERDICT_SECONDS,
    }


def _waiting(watch: Watch, row: dict[str, Any], node: dict[str, Any], tree: _cgroup.Hierarchy) -> _cause.Waiting:
    """Put together what tells the causes of a container's waiting from each other."""
    window, idle, usage = row["window_seconds"], node["cpu_idle_share"], row["cpu_used"]
    limit = watch.last.limit if watch.last else None
    allowed = None if watch.path is None else _cgroup.read_cpu_count(tree, watch.path)
    unlimited = limit is not None and limit.cores is None and row["throttled_periods"] is None
    active = None if limit is None or not row["periods"] else row["periods"] * limit.period / window
    return _cause.Waiting(
        runnable=row["runnable"],
        run=_per_second(row["run_seconds"], window),
        usage=usage,
        cpus=min(allowed or node["cpus"], node["cpus"]),
        others=None if idle is None or usage is None else max(0.0, node["cpus"] * (1 - idle) - usage),
        idle=idle,
        steal=node["steal_share"],
        throttled_periods=0 if unlimited else row["throttled_periods"],
        throttled=_per_second(row["throttled_seconds"], window),
        active=1.0 if active is None else min(1.0, active),
    )


def _per_second(seconds: float | None, window: float | None) -> float | None:
    return None if seconds is None or not window else seconds / window


def _no_rates(reason: str, reading: _cgroup.CpuReading | None, threads: int | None) -> dict[str, Any]:
    return {
        **dict.fromkeys(_RATES),
        "cpu_limit": reading.limit.cores if reading and reading.limit else None,
        "pressure": _cgroup.pressure_shares(None, reading.pressure, None) if reading else None,
        "threads": threads,
        "demand": asdict(_demand.unknown_demand(None, reason)),
        "verdict_grade": False,
    }


def _window_problem(watch: Watch, window: float) -> str | None:
    """Say why a container has no rates, None if it was there and running from end to end."""
    problems = (
        (watch.path is None, "its cgroup was not found"),
        (watch.state == "gone", "it ended inside the window"),
        (window <= 0, "one look has no rates: give a window"),
        (watch.first is None, "it started inside the window"),
        (watch.last is None, "it ended inside the window"),
        (watch.first and watch.last and watch.first.inode != watch.last.inode, "it was restarted inside the window"),
    )
    return next((reason for applies, reason in problems if applies), None)


def _limit_problem(first: _cgroup.Limit | None, last: _cgroup.Limit | None) -> str | None:
    if first is None or last is None:
        return "the CPU limit can't be read"
    if first != last:
        return "the CPU limit changed inside the window"
    return None


def _ratio(part: int | None, whole: int | None) -> float | None:
    """Return part / whole; with no whole (no active period) there is no ratio."""
    return part / whole if part is not None and whole else None


def _grouped(rows: Sequence[dict[str, Any]], key: str) -> list[tuple[str, list[dict[str, Any]]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row[key]:
            groups.setdefault(row[key], []).append(row)
    return sorted(groups.items())

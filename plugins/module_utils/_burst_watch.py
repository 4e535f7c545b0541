# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sample the CPU counters of some containers fast, and report their bursts."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _burst, _cgroup, _demand, _host
from ansible_collections.evenkeel.swarm.plugins.module_utils._containers import Container

_READ_SIZE = 4096


@dataclass
class Series:
    """What was sampled of one container; `problem` says why that ended early or never began."""

    container: Container
    path: str | None
    limit: _cgroup.Limit | None
    samples: list[_burst.Sample] = field(default_factory=list)
    problem: str | None = None


def burst_report(
    containers: Sequence[Container],
    window: float,
    interval: float,
    within_ms: Sequence[float],
    tree: _cgroup.Hierarchy,
    *,
    proc_root: str = "/proc",
) -> dict[str, Any]:
    """Watch containers for `window` seconds, every `interval` seconds; return {"node": ..., "containers": [...]}."""
    node_first = _host.read_host(tree, proc_root)
    series = [_series(container, path, tree) for container, path in _places(containers, tree)]
    cpu_before, began = time.process_time(), time.monotonic()
    looks = _sample(series, tree, began, window, interval)
    sampler_cpu = time.process_time() - cpu_before
    idle, _ = _host.idle_and_steal(node_first, _host.read_host(tree, proc_root))
    busy = idle is None or idle < _demand.CONTENDED_IDLE_SHARE
    pause = _burst.PAUSE_ON_A_BUSY_NODE if busy else _burst.PAUSE
    cpus = len(os.sched_getaffinity(0))
    gaps = [later - earlier for earlier, later in pairwise(looks)]
    hostname = os.uname().nodename
    node = {
        "hostname": hostname,
        "cpus": cpus,
        "window_seconds": looks[-1] - looks[0],
        "interval_seconds": sum(gaps) / len(gaps),
        "longest_interval_seconds": max(gaps),
        "sampler_cpu_seconds": sampler_cpu,
        "cpu_idle_share": idle,
        "pause_ms": round(pause * 1000),
    }
    return {"node": node, "containers": [container_row(one, within_ms, cpus, hostname, pause) for one in series]}


def limited(containers: Sequence[Container], tree: _cgroup.Hierarchy) -> list[Container]:
    """Return the containers that have a CPU limit."""
    return [
        container
        for container, path in _places(containers, tree)
        if path is not None and (limit := _cgroup.read_limit(tree, path)) is not None and limit.cores is not None
    ]


def container_row(series: Series, within_ms: Sequence[float], cpus: int, hostname: str, pause: float) -> dict[str, Any]:
    """Return one container's result row."""
    container, limit = series.container, series.limit
    row: dict[str, Any] = {
        "id": container.id,
        "name": container.name,
        "service": container.service,
        "task": container.task,
        "node": hostname,
        "cpu_limit": limit.cores if limit else None,
        "cpu_used": None,
        "throttled_periods": None,
        "peaks": None,
        "bursts": None,
        "limits": None,
        "reason": series.problem,
    }
    if series.problem:
        return row
    first, last = series.samples[0], series.samples[-1]
    period = limit.period if limit else _demand.DEFAULT_PERIOD
    found = _burst.episodes(series.samples, period, pause)
    row |= {
        "cpu_used": (last.used - first.used) / (last.at - first.at),
        "throttled_periods": last.throttled - first.throttled,
        "peaks": [
            {"window_ms": round(window * 1000), "cores": cores}
            for window, cores in _burst.peaks(series.samples).items()
        ],
        "reason": _burst.why_no_bursts(found),
    }
    if row["reason"] is None:
        bursts = _burst.summary(found)
        row |= {"bursts": bursts, "limits": _burst.limit_rows(bursts, within_ms, period, cpus)}
    return row


def _places(containers: Sequence[Container], tree: _cgroup.Hierarchy) -> Iterator[tuple[Container, str | None]]:
    paths = _cgroup.container_paths(tree, [container.id for container in containers])
    for container in containers:
        yield container, paths.get(container.id)


def _series(container: Container, path: str | None, tree: _cgroup.Hierarchy) -> Series:
    if path is None:
        return Series(container, path, None, problem="its cgroup was not found")
    return Series(container, path, _cgroup.read_limit(tree, path))


def _sample(
    all_series: Sequence[Series], tree: _cgroup.Hierarchy, began: float, window: float, interval: float
) -> list[float]:
    """Fill the series; return when each round of looks began. At least two rounds, however late they come."""
    looks: list[float] = []
    with contextlib.ExitStack() as files:
        readers = [(series, _open(series, tree, files)) for series in all_series if series.problem is None]
        due = began
        while len(looks) < 2 or looks[-1] < began + window:
            time.sleep(max(0.0, due - time.monotonic()))
            looks.append(time.monotonic())
            for series, descriptors in readers:
                if series.problem is None:
                    _add_sample(series, descriptors, tree.version)
            # Rounds missed are gone: catching up would only add samples with no time between them.
            due = max(due + interval, time.monotonic() + interval / 2)
    return looks


def _open(series: Series, tree: _cgroup.Hierarchy, files: contextlib.ExitStack) -> list[int]:
    """Open a container's counters once for all looks."""
    names = [("cpu", "cpu.stat")] if tree.version == "v2" else [("cpu", "cpu.stat"), ("cpuacct", "cpuacct.usage")]
    descriptors = []
    try:
        for controller, name in names:
            descriptor = os.open(f"{tree.directory(controller, series.path or '')}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            files.callback(os.close, descriptor)
            descriptors.append(descriptor)
    except OSError as error:
        series.problem = f"its CPU counters can't be read: {error.strerror}"
    return descriptors


def _add_sample(series: Series, descriptors: Sequence[int], version: str) -> None:
    at = time.monotonic()
    try:
        contents = [os.pread(descriptor, _READ_SIZE, 0) for descriptor in descriptors]
    except OSError:
        series.problem = "it ended inside the window"
        return
    sample = parse_sample(at, contents, version)
    if sample is None:
        series.problem = "its CPU counters can't be read"
    elif series.samples and (sample.used < series.samples[-1].used or sample.throttled < series.samples[-1].throttled):
        series.problem = "its CPU counters were reset inside the window"
    else:
        series.samples.append(sample)


def parse_sample(at: float, contents: Sequence[bytes], version: str) -> _burst.Sample | None:
    """Parse cpu.stat (v2) or cpu.stat and cpuacct.usage (v1); None if the usage or the throttling is missing."""
    if version == "v2":
        stat = _cgroup.parse_cpu_stat_v2(contents[0])
        used = stat.usage_seconds
    else:
        stat = _cgroup.parse_cpu_stat_v1(contents[0])
        nanoseconds = _cgroup.parse_number(contents[1])
        used = None if nanoseconds is None else nanoseconds / 1e9
    if used is None or stat.throttled_periods is None:
        return None
    return _burst.Sample(at, used, stat.throttled_periods)

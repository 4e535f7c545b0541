"""Runs on a lab host: take looks at its containers and count the CPU they cost. Prints one JSON object.

Usage: python3 - <looks> <window> <interval>; needs the collection's module_utils on PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ansible_collections.evenkeel.swarm.plugins.module_utils._cgroup import DEFAULT_CGROUP_ROOT
from ansible_collections.evenkeel.swarm.plugins.module_utils._containers import list_containers
from ansible_collections.evenkeel.swarm.plugins.module_utils._throttling import measure

# The engine's own processes; a container's numbers come by way of its shim.
ENGINE = ("dockerd", "containerd", "containerd-shim")
TICK = os.sysconf("SC_CLK_TCK")
IDLE_SECONDS = 5.0


def engine_cpu() -> float:
    """CPU seconds of the engine's processes so far."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() in ENGINE:
                # The fields after the name, which is in brackets and may hold blanks: utime and stime are 14 and 15.
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        except FileNotFoundError:
            continue
    return ticks / TICK


def own_cpu() -> float:
    """CPU seconds of this process and of the children that it has waited for."""
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def cost(look: Callable[[], object], times: int) -> dict[str, float]:
    """Seconds that one look takes: CPU of the looker, CPU of the engine above its idle rate, wall time."""
    idle_began, idle_cpu = time.monotonic(), engine_cpu()
    time.sleep(IDLE_SECONDS)
    began, engine_before = time.monotonic(), engine_cpu()
    idle_rate = (engine_before - idle_cpu) / (began - idle_began)
    own_before = own_cpu()
    for _ in range(times):
        look()
    own = own_cpu() - own_before
    wall = time.monotonic() - began
    engine = engine_cpu() - engine_before - idle_rate * wall
    return {"own": own / times, "engine": max(engine, 0.0) / times, "wall": wall / times, "idle_rate": idle_rate}


def sample(window: float, interval: float) -> dict[str, object]:
    """Measure all containers as throttling_info does."""
    # As the module does: a single look leaves ended containers out.
    return measure(lambda: list_containers(with_restarts=window > 0), window, interval, DEFAULT_CGROUP_ROOT, "/proc")


def stats() -> None:
    """Take the engine's own look."""
    subprocess.run(["docker", "stats", "--no-stream"], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Print what a look costs on either side, and the sampler's share of a core at an interval."""
    looks, window, interval = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    # Twenty of ours to one of theirs: near the same time each, and ours are small against the clock's ticks.
    ours = cost(lambda: sample(0, 1), looks * 20)
    theirs = cost(stats, looks)
    before = own_cpu()
    node = sample(window, interval)["node"]
    sampler = own_cpu() - before
    print(json.dumps({"ours": ours, "stats": theirs, "sampler": sampler, "window": window, "node": node}))


main()

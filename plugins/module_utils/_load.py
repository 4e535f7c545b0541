# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Split the load average by container and by kind: ready to run (R), or waiting without being interruptible (D).

The kernel's load average counts threads that run or are ready to (not those that are throttled: they are taken off the
run queue) and those in state D, most of which wait for the disk. Here both are means over the window:

- ready in a container: run + delay of its threads without the throttled part (see _cause);
- ready on the whole machine: the fourth field of /proc/loadavg, sampled at odd times, as throttling follows a grid;
- in state D: /proc/<tid>/stat, sampled with each look at the threads. Outside of containers only processes' first
  threads are looked at, which is where kernel threads and most waiters are.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _cgroup, _demand

# Seconds between two samples of the run queues: at random between these.
_SHORTEST, _LONGEST = 0.05, 0.35
# More threads of one container than this stand for the others, so that a look stays cheap.
_MOST_STATES = 200
_NAMED_IN_TEXT = 3

Row = Mapping[str, Any]


def parse_running(content: bytes | None) -> int | None:
    """Parse the running threads out of /proc/loadavg ("0.20 0.18 0.12 3/80 11206"), without the one that reads it."""
    fields = (content or b"").split()
    running = fields[3].partition(b"/")[0] if len(fields) > 3 else b""
    return max(0, int(running) - 1) if running.isdigit() else None


def parse_state(content: bytes | None) -> bytes:
    """Parse the state letter out of /proc/<tid>/stat, empty if there is none; the name before it may hold anything."""
    _, end_of_name, rest = (content or b"").rpartition(b") ")
    return rest[:1] if end_of_name else b""


class LoadWindow:
    """Collects samples of the run queues and of threads' states over a window."""

    def __init__(self, tree: _cgroup.Hierarchy, proc_root: str) -> None:
        self._tree, self._proc_root = tree, proc_root
        self._running: list[int] = []
        self._blocked: dict[str, list[float]] = {}
        self._blocked_elsewhere: list[float] = []
        self._odd = random.Random()  # noqa: S311 - times, not secrets

    def sleep_until(self, due: float) -> None:
        """Sleep until `due`, monotonic seconds, and sample the run queues meanwhile. Late: no sleep."""
        while (left := due - time.monotonic()) > 0:
            time.sleep(min(left, self._odd.uniform(_SHORTEST, _LONGEST)))
            running = parse_running(_cgroup.read_bytes(f"{self._proc_root}/loadavg"))
            if running is not None:
                self._running.append(running)

    def look(self, paths: Mapping[str, str | None]) -> None:
        """Count the threads in state D; `paths` maps containers' ids to their cgroups."""
        inside: set[bytes] = set()
        for container, path in paths.items():
            threads = None if path is None else _cgroup.thread_ids(self._tree, path)
            if threads is not None:
                inside.update(threads)
                self._blocked.setdefault(container, []).append(self._count(threads))
        try:
            processes = [os.fsencode(name) for name in os.listdir(self._proc_root) if name.isdigit()]  # noqa: PTH208
        except OSError:
            return
        self._blocked_elsewhere.append(self._count([process for process in processes if process not in inside]))

    def split(self, rows: Sequence[Row], node: Row) -> dict[str, Any]:
        """Return `load_split`: containers by what they add, what is left elsewhere, and a sentence about it.

        `rows`: the containers' result rows with `cause`, `node`: the host's part of the result.
        """
        containers = [
            {
                "name": row["name"],
                "service": row["service"],
                "runnable": ready(row),
                "uninterruptible": None if row["runnable"] is None else _mean(self._blocked.get(row["id"])),
            }
            for row in rows
        ]
        containers.sort(key=lambda each: -(each["runnable"] or 0.0))
        inside = _demand.add_up(each["runnable"] for each in containers)
        everywhere = _mean(self._running)
        split = {
            "containers": containers,
            "runnable_elsewhere": None if everywhere is None or inside is None else max(0.0, everywhere - inside),
            "uninterruptible_elsewhere": _mean(self._blocked_elsewhere) if self._running else None,
        }
        throttled = _demand.add_up(row["cause"]["throttled"] for row in rows)
        return split | {"text": sentence(split, node["load"], node["cpus"], throttled)}

    def _count(self, threads: Sequence[bytes]) -> float:
        """Return how many of the threads are in state D; of very many, a random part stands for all."""
        chosen = threads if len(threads) <= _MOST_STATES else self._odd.sample(threads, _MOST_STATES)
        blocked = sum(
            parse_state(_cgroup.read_bytes(f"{self._proc_root}/{thread.decode()}/stat")) == b"D" for thread in chosen
        )
        return blocked * len(threads) / len(chosen) if chosen else 0.0


def ready(row: Row) -> float | None:
    """Return how many of a container's threads count into the load average as ready or running."""
    throttled = row["cause"]["throttled"]
    return None if row["runnable"] is None or throttled is None else max(0.0, row["runnable"] - throttled)


def sentence(split: Row, load: Sequence[float] | None, cpus: int, throttled: float | None) -> str:
    """Say what the load average of the last minute is made of."""
    begin = f"Load {'not measured' if not load else f'{load[0]:.1f}'} on {cpus} {'core' if cpus == 1 else 'cores'}"
    elsewhere = split["runnable_elsewhere"]
    if elsewhere is None:
        return f"{begin}; what it is made of was not measured."
    inside = sum(each["runnable"] for each in split["containers"])
    blocked = _demand.add_up(each["uninterruptible"] for each in split["containers"])
    waiting = _demand.add_up([blocked, split["uninterruptible_elsewhere"]])
    parts = [
        f"{inside:.1f} threads of containers ready to run{_names(split['containers'])}",
        f"{elsewhere:.1f} elsewhere",
        "waiting for the disk not measured" if waiting is None else f"{waiting:.1f} waiting for the disk or the like",
    ]
    stopped = "not measured" if throttled is None else f"{throttled:.1f}"
    return f"{begin}: {', '.join(parts)}; throttled threads ({stopped}) are not in it."


def _names(containers: Sequence[Row]) -> str:
    """Name the services (or containers) that add most, in brackets."""
    sums: dict[str, float] = {}
    for each in containers:
        name = each["service"] or each["name"]
        sums[name] = sums.get(name, 0.0) + each["runnable"]
    most = sorted(((amount, name) for name, amount in sums.items() if amount >= 0.05), reverse=True)
    if not most:
        return ""
    named = [f"{name} {amount:.1f}" for amount, name in most[:_NAMED_IN_TEXT]]
    return f" ({', '.join([*named, '...'] if len(most) > _NAMED_IN_TEXT else named)})"


def _mean(values: Iterable[float] | None) -> float | None:
    numbers = list(values or ())
    return sum(numbers) / len(numbers) if numbers else None

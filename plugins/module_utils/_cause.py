# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say what a container's threads waited for: its own limit, other work on the node, or each other.

A thread that is ready and does not run waits for whoever holds it back at that moment. With n threads ready or running
and c CPUs for them, U cores used, and O cores used by others, all of them means over the window:

- While the limit is used up all of them wait for it, whatever else goes on. The kernel sums that time over CPUs
  (throttled time, `thr` per second), and on each CPU n/c threads wait: throttled T = thr * max(1, n/c).
- A CPU that runs one of the n threads keeps n/c - 1 others waiting: siblings S = (n - c) * U/c, 0 where n <= c.
- The rest of the delay D = n - U goes to contention C, as far as others can have caused it: they hold a CPU for at most
  the share min(O, 1 - idle) of the time, so C <= n * min(O, 1 - idle).
- What is left over goes to T if the limit cut in at all, else to S; without throttled periods T is 0.

A container under a limit may work in bursts. Its enforcement periods are counted only while it works, so they tell the
share `a` of the window in which it did, and n/a, not n, is how many threads there were then.

Why C is the rest and not T: throttled time is the one counter that differs between kernels (before 6.18 a whole run
queue stops, since then each thread on its way to user mode). Reporting too little of it moves delay from T to C, but
no further than C's bound, which owes nothing to that counter. On an idle node T is right whatever the kernel reports.

Where it is weak:
- It blames whoever held the CPU, and does not say what would happen without them: two containers that compete both
  show contention, and the CPU that one leaves is also taken by the other's siblings.
- T comes out up to about a tenth of D too small with several threads on a CPU (they are not spread evenly over CPUs,
  and stop one by one); on a busy node that tenth is called contention, on an idle one it is given back.
- Without a limit a burst of many threads hides in the mean: S is then too small and C too large, up to C's bound.
- The bound takes the others' work as independent of the container's own.
- CPUs are those of its cpuset; threads that pinned themselves to fewer show their waiting as contention or siblings.
"""

from __future__ import annotations

from dataclasses import dataclass

NAMES = ("throttled", "contention", "siblings", "steal")


@dataclass(frozen=True)
class Waiting:
    """What a window showed of one container; every field may be None: not measured.

    `runnable`: threads ready or running, mean; `run`: what they ran, in cores; `usage`: cores by the cgroup's counter;
    `cpus`: how many CPUs it may run on; `others`: cores that were busy or kept by the hypervisor and not its own;
    `idle` and `steal`: the node's idle and stolen shares; `throttled_periods`: how often the limit cut in (0 without a
    limit); `throttled`: throttled time, summed over CPUs, per second of window; `active`: the share of the window in
    which it worked, 1 where unknown.
    """

    runnable: float | None
    run: float | None
    usage: float | None
    cpus: int | None
    others: float | None
    idle: float | None
    steal: float | None
    throttled_periods: int | None
    throttled: float | None
    active: float = 1.0


def split_delay(seen: Waiting) -> dict[str, float | None]:
    """Return {"throttled", "contention", "siblings", "steal"} in cores; the first three add up to the delay."""
    parts = dict.fromkeys(NAMES) | _parts(seen) | {"steal": stolen(seen.usage, seen.idle, seen.steal)}
    return {name: parts[name] for name in NAMES}


def stolen(usage: float | None, idle: float | None, steal: float | None) -> float | None:
    """Return the cores the hypervisor kept while this container's threads were on a CPU, None where unknown.

    The hypervisor takes CPUs that work, from all alike: usage * steal / (1 - idle - steal). Kernels with
    CONFIG_PARAVIRT_TIME_ACCOUNTING (distributions' have it) leave the stolen time out of the usage; where a kernel
    leaves it in, the result is up to the factor (1 - idle) / (1 - idle - steal) too large.
    """
    if usage is None or idle is None or steal is None:
        return None
    if steal == 0:
        return 0.0
    working = 1 - idle - steal
    return usage * steal / working if working > 0 else None


def _parts(seen: Waiting) -> dict[str, float | None]:
    if seen.runnable is None or seen.run is None or not seen.cpus:
        return {}
    delay = max(0.0, seen.runnable - seen.run)
    throttled = _throttled(seen, seen.runnable, seen.cpus)
    # While it works; the mean over the window would hide a burst's width.
    together = seen.runnable / seen.active if seen.active > 0 else seen.runnable
    siblings = min(delay, max(0.0, together - seen.cpus) * seen.run / seen.cpus)
    if throttled is None or seen.others is None or seen.idle is None:
        return {"throttled": 0.0 if throttled == 0 else None}
    bound = seen.runnable * min(seen.others, 1 - seen.idle)
    contention = min(max(0.0, delay - throttled - siblings), max(0.0, bound))
    if not seen.throttled_periods:
        return {"throttled": 0.0, "contention": contention, "siblings": delay - contention}
    # T comes from a counter, S from means: where they don't fit together T stands.
    siblings = min(siblings, max(0.0, delay - throttled))
    return {"throttled": delay - contention - siblings, "contention": contention, "siblings": siblings}


def _throttled(seen: Waiting, runnable: float, cpus: int) -> float | None:
    """Return the model's T, None where the counters are missing."""
    if seen.throttled_periods == 0:
        return 0.0
    if seen.throttled_periods is None or seen.throttled is None:
        return None
    together = runnable / seen.active if seen.active > 0 else runnable
    return seen.throttled * max(1.0, together / cpus)

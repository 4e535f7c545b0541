# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Estimate how many cores a limited container would use without its limit.

A closed-loop thread (work, wait for something else, work again) does the same work per round whether it is slowed
down or not, so its demand is its run time over the time it was not held up: run / (1 - delay), at most one core.
The sum over the threads, E, is the demand as long as the threads still reach their own waits. A thread that never
does (a spinner, or a backlog) hides how much it wants: then only the interval from usage to E is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ansible_collections.evenkeel.swarm.plugins.module_utils._schedstat import ThreadShare

# A container that uses less than this share of its limit is not held down by it.
SATURATED_SHARE = 0.97
# A limit that cut in in this share of all periods was used up in every one of them.
ALWAYS_THROTTLED_SHARE = 0.95
# Threads idle for less than this share of the window count as never idle.
NEVER_IDLE_SHARE = 0.05
# Throttled in at least this share of all periods, a container just below its limit is held down by it too.
OFTEN_THROTTLED_SHARE = 0.5
# Never-idle threads may carry this share of a point estimate: what they hide then stays inside its error.
HIDDEN_SHARE = 0.05
# A node with less idle time than this may hold up, at times, a container whose threads waited. (An average of 18 % idle
# was seen beside containers that got 5 % less than their limit lets through.)
CONTENDED_IDLE_SHARE = 0.25
# An interval from usage to E no wider than this share (or this many cores) is a point: waiting cost next to nothing.
NARROW_SHARE = 0.05
NARROW_CORES = 0.005
# A thread counts as active from this share of the window, running or waiting to.
ACTIVE_SHARE = 0.01
# Usage that no thread accounts for: above this share (and this many cores) threads came and went unseen.
UNSEEN_SHARE = 0.05
UNSEEN_CORES = 0.002
# Fewer periods than this, and where the window happens to begin decides how usage compares with the limit.
FEWEST_PERIODS = 10
# The kernel's and Docker's enforcement period in seconds, where none can be read.
DEFAULT_PERIOD = 0.1

UNSATURATED = "unsaturated"
SATURATED = "saturated"
ROUGH = "rough"
UNIDENTIFIABLE = "unidentifiable"
# From the firmest to the weakest: a sum is as firm as its weakest part.
REGIMES = (UNSATURATED, SATURATED, ROUGH, UNIDENTIFIABLE)


@dataclass(frozen=True)
class Demand:
    """Cores: `estimate` is a number or None, `lower` and `upper` the interval, `reason` a sentence for people."""

    estimate: float | None
    lower: float | None
    upper: float | None
    regime: str | None
    reason: str


@dataclass(frozen=True)
class CpuWindow:
    """What a window showed of one container. None: not measured.

    `usage` in cores, `window` and `period` in seconds; `limit` in cores, None when there is none;
    `limit_problem` says why `limit` can't be relied on (unreadable, changed inside the window), else None.
    `threads` None: not readable. `ended`: what ended threads did that no look saw, None where only schedstat counts.
    `node_idle` and `pressure_full` are shares of the window.
    """

    usage: float | None
    limit: float | None
    window: float
    period: float = DEFAULT_PERIOD
    limit_problem: str | None = None
    throttled_periods: int | None = None
    threads: Sequence[ThreadShare] | None = None
    ended: ThreadShare | None = None
    node_idle: float | None = None
    pressure_full: float | None = None

    @property
    def counted(self) -> Sequence[ThreadShare] | None:
        """All that is known of its threads, None if that doesn't account for the usage."""
        if self.threads is None or self.usage is None:
            return None
        every = [*self.threads, self.ended] if self.ended else self.threads
        return every if accounts_for(every, self.usage) else None


def idle_share(thread: ThreadShare) -> float:
    """Return the share of the window a thread spent neither running nor waiting for a CPU."""
    return thread.life - thread.run - thread.delay


def never_idle(thread: ThreadShare) -> bool:
    """Say whether a thread wanted to run all the time, as far as can be told.

    The ends of the window blur the delay by up to one wait, and waits differ, so idle time below two of a thread's mean
    waits is none either.
    """
    idle = idle_share(thread)
    # The shares of a life too short for a float are 0.
    return thread.run + thread.delay > 0 and (idle <= 0 or idle < max(NEVER_IDLE_SHARE * thread.life, 2 * thread.wait))


def thread_demand(thread: ThreadShare) -> float:
    """Return the cores a thread would use if it never had to wait for one: run / (1 - delay), at most its life.

    1 - delay is written as run + idle. A never idle thread counts whole: while delay approaches 1 the quotient would
    be nothing but the blur of the window's ends.
    """
    if thread.run + thread.delay <= 0:
        return 0.0
    return thread.life if never_idle(thread) else thread.life * thread.run / (thread.run + idle_share(thread))


def runnable(threads: Iterable[ThreadShare]) -> float:
    """Return how many threads ran or wanted to run, on average over the window.

    The kernel books a wait when it ends, so one that began before the window counts whole inside it: a never idle
    thread is one runnable thread for as long as it lived, not the 1.1 that its counters may say.
    """
    return sum(thread.life if never_idle(thread) else thread.run + thread.delay for thread in threads)


def accounts_for(threads: Iterable[ThreadShare], usage: float) -> bool:
    """Say whether the threads seen ran for the cgroup's usage; else some came and went between two looks."""
    unseen = usage - sum(thread.run for thread in threads)
    return unseen <= max(UNSEEN_SHARE * usage, UNSEEN_CORES)


def estimate_demand(cpu: CpuWindow) -> Demand:
    """Return the demand of one container with the regime it was measured in."""
    if cpu.usage is None:
        return Demand(None, None, None, None, "the CPU usage was not measured")
    upper = _upper(cpu, cpu.usage)
    unknown = _blocking_reason(cpu)
    if unknown:
        return Demand(None, cpu.usage, upper, UNIDENTIFIABLE, unknown)
    if not _saturated(cpu, cpu.usage):
        return _unsaturated(cpu, cpu.usage, upper)
    missing = _missing_threads(cpu, upper)
    if missing:
        return _without_threads(cpu, cpu.usage, missing)
    if upper is not None and not _always_throttled(cpu) and not _narrow(cpu.usage, upper):
        reason = "at its limit but not throttled all the time: what it works off after a burst looks like demand"
        return Demand(None, cpu.usage, upper, UNIDENTIFIABLE, reason)
    return _saturated_demand(cpu.counted or (), cpu.usage, upper)


def unknown_demand(usage: float | None, reason: str) -> Demand:
    """Return the demand of a container of which only the usage is known: at least that."""
    return Demand(None, usage, None, None if usage is None else UNIDENTIFIABLE, reason)


def add_demands(demands: Sequence[Demand]) -> Demand:
    """Sum demands up: a missing part makes the sum missing, and the weakest regime is the sum's regime."""
    if not demands:
        return Demand(0.0, 0.0, 0.0, UNSATURATED, "nothing runs here")
    regimes = [demand.regime for demand in demands]
    weakest = None if None in regimes else max((r for r in regimes if r), key=REGIMES.index)
    reasons = list(dict.fromkeys(demand.reason for demand in demands if demand.regime == weakest))
    return Demand(
        estimate=add_up(demand.estimate for demand in demands),
        lower=add_up(demand.lower for demand in demands),
        upper=add_up(demand.upper for demand in demands),
        regime=weakest,
        reason="; ".join(reasons),
    )


def add_up(values: Iterable[float | None]) -> float | None:
    """Sum values, None if one of them is missing: a partial sum would look like a measurement."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _blocking_reason(cpu: CpuWindow) -> str | None:
    if cpu.limit_problem:
        return cpu.limit_problem
    if cpu.limit is not None and cpu.window < FEWEST_PERIODS * cpu.period:
        return f"the window is shorter than {FEWEST_PERIODS} periods of the limit"
    return None


def _saturated(cpu: CpuWindow, usage: float) -> bool:
    if cpu.limit is None or cpu.throttled_periods == 0:
        return False
    # Old kernels lose a little of the quota each period: throttled in all of them is held down all the same.
    if _always_throttled(cpu):
        return True
    # Up to one period's allowance lies on the wrong side of the window's ends. To miss that a container is held down
    # would give a wrong number, so the doubt goes that way unless it was seldom throttled.
    return usage >= cpu.limit * (SATURATED_SHARE - (cpu.period / cpu.window if _throttled_often(cpu) else 0.0))


def _unsaturated(cpu: CpuWindow, usage: float, upper: float | None) -> Demand:
    held_up = _held_up(cpu, usage, upper)
    if held_up:
        return Demand(None, usage, upper, UNIDENTIFIABLE, held_up)
    return Demand(usage, usage, upper, UNSATURATED, "no limit" if cpu.limit is None else "uses less than its limit")


def _held_up(cpu: CpuWindow, usage: float, upper: float | None) -> str | None:
    """Say what kept a container below its limit from using what it wanted, None if nothing did."""
    if upper is not None and _narrow(usage, upper):
        return None
    if cpu.node_idle is None:
        return "the node's idle time was not measured"
    if cpu.node_idle < CONTENDED_IDLE_SHARE:
        return f"the node was only {cpu.node_idle:.0%} idle: others may have held it up"
    if cpu.limit is None or cpu.throttled_periods == 0:
        return "no limit cut in, yet its threads waited for a CPU" if upper is not None else None
    return _throttled_in_bursts(cpu, upper)


def _throttled_in_bursts(cpu: CpuWindow, upper: float | None) -> str | None:
    """Say why a container that a limit above its usage throttled may want more than it used, None if hardly.

    Work that arrives by its own clock wants what it uses, however late it is done. A closed loop whose threads work at
    the same time is slowed down by each burst and wants up to E (0.84 used of a limit of 1.0 was seen, 1.20 wanted).
    """
    if upper is not None:
        return "throttled in bursts: timed work wants what it uses, work that follows its own results up to the bound"
    share = _throttled_share(cpu)
    if share is not None and share <= NARROW_SHARE:
        return None  # no thread can have lost more than that
    return "throttled in bursts, and its threads were not followed"


def _narrow(usage: float, upper: float) -> bool:
    return upper - usage <= max(NARROW_SHARE * usage, NARROW_CORES)


def _hides_demand(threads: Sequence[ThreadShare]) -> bool:
    """Say whether never idle threads hide more than a point estimate's error."""
    hidden = sum(_hidden(thread) for thread in threads if never_idle(thread))
    return hidden > HIDDEN_SHARE * sum(thread_demand(thread) for thread in threads)


def _hidden(thread: ThreadShare) -> float:
    """Return what a never idle thread leaves open: it wants at least what it ran and at most its term."""
    return max(0.0, thread_demand(thread) - thread.run)


def _throttled_share(cpu: CpuWindow) -> float | None:
    return None if cpu.throttled_periods is None else cpu.throttled_periods * cpu.period / cpu.window


def _always_throttled(cpu: CpuWindow) -> bool:
    share = _throttled_share(cpu)
    return share is not None and share >= ALWAYS_THROTTLED_SHARE


def _throttled_often(cpu: CpuWindow) -> bool:
    share = _throttled_share(cpu)
    return share is None or share >= OFTEN_THROTTLED_SHARE


def _saturated_demand(threads: Sequence[ThreadShare], usage: float, upper: float | None) -> Demand:
    active = [thread for thread in threads if thread.run + thread.delay >= ACTIVE_SHARE]
    if not active or sum(idle_share(thread) for thread in active) / len(active) < NEVER_IDLE_SHARE:
        reason = "its threads are never idle: a small backlog and a large demand look alike; raise the limit to see"
        return Demand(None, usage, upper, UNIDENTIFIABLE, reason)
    if _hides_demand(active):
        reason = "some of its threads are never idle and hide what they want; raise the limit to see"
        return Demand(None, usage, upper, UNIDENTIFIABLE, reason)
    return Demand(upper, usage, upper, SATURATED, "held at its limit, its threads still idle at times")


def _missing_threads(cpu: CpuWindow, upper: float | None) -> str | None:
    """Say why the threads that were followed don't tell the demand, None if they do."""
    if cpu.threads is None:
        return "the threads' schedstat can't be read"
    if upper is None:
        return "threads came and went between the looks"
    if cpu.ended and _hidden(cpu.ended) > HIDDEN_SHARE * upper:
        return "threads that came and went hide what they want"
    return None


def _without_threads(cpu: CpuWindow, usage: float, problem: str) -> Demand:
    if cpu.counted is not None:
        # Whoever starts threads that come and go waits for them: its idle time is no pause of its own, so E is no
        # bound. With a bound there is no need for a rough number (four times too low was seen).
        return Demand(
            None, usage, max(usage, runnable(cpu.counted)), UNIDENTIFIABLE, f"{problem}; raise the limit to see"
        )
    if cpu.pressure_full is None or cpu.pressure_full >= 1:
        return Demand(None, usage, None, UNIDENTIFIABLE, problem)
    estimate = usage / (1 - cpu.pressure_full)
    return Demand(estimate, usage, None, ROUGH, f"{problem}; usage over the time it was not stalled")


def _upper(cpu: CpuWindow, usage: float) -> float | None:
    """Return E, None where the threads seen don't account for the usage."""
    counted = cpu.counted
    return None if counted is None else max(usage, sum(thread_demand(thread) for thread in counted))

"""What a look costs against the number of threads: 30 plain cgroups named like containers, on this machine."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise

from ansible_collections.evenkeel.swarm.plugins.module_utils._taskstats import SCHEDSTAT, TASKSTATS, connect
from ansible_collections.evenkeel.swarm.plugins.module_utils._throttling import measure

from benchmarks.bench import Bench
from benchmarks.plot import Line, draw
from benchmarks.report import RESULTS, Check, Report, Series, at_most
from lab.limited import ROOT, LimitedGroup, idle_threads, limited_group
from lab.run import LabError

QUESTION = "one look at 30 containers, by their threads"
CONTAINERS = 30
SIZES = (500, 1000, 2000, 5000, 10000, 20000)
PER_PROCESS = 250
ACCOUNTINGS = (TASKSTATS, SCHEDSTAT)
START_SECONDS = 120.0
# A thread of the largest size may cost this many times one of the whole range: more would not be linear.
STEEPER = 1.5
#: CPU seconds that a look at this many threads may cost.
TARGET_SIZE, TARGET = 500, 0.050
#: Looks of a window, and the seconds between them.
LOOKS, INTERVAL = 5, 0.25


def run(bench: Bench) -> Report:
    """Add threads size by size and look at all of them, with either accounting."""
    connect()
    samples: dict[tuple[str, int], list[float]] = {}
    in_window: list[float] = []
    with contextlib.ExitStack() as stack:
        groups = [stack.enter_context(limited_group()) for _ in range(CONTAINERS)]
        present = 0
        for size in SIZES:
            _add_threads(groups, size - present)
            present = size
            for accounting in ACCOUNTINGS:
                samples[accounting, size] = _costs(groups, accounting, bench.repetitions)
            if size == TARGET_SIZE:
                in_window = [_in_window(groups) for _ in range(bench.repetitions)]
    return _report(samples, in_window)


def slopes(medians: Sequence[tuple[int, float]]) -> list[float]:
    """Return the seconds for each further thread between neighbouring (threads, seconds)."""
    return [(after - before) / (more - fewer) for (fewer, before), (more, after) in pairwise(medians)]


def fit(medians: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Return (seconds for each thread, seconds without any) by least squares."""
    line = statistics.linear_regression([size for size, _ in medians], [cost for _, cost in medians])
    return line.slope, line.intercept


def _add_threads(groups: Sequence[LimitedGroup], count: int) -> None:
    wanted = sum(group.threads() for group in groups) + count
    share, rest = divmod(count, len(groups))
    for number, group in enumerate(groups):
        left = share + (number < rest)
        while left > 0:
            group.start(functools.partial(idle_threads, min(left, PER_PROCESS)))
            left -= PER_PROCESS
    deadline = time.monotonic() + START_SECONDS
    while sum(group.threads() for group in groups) < wanted:
        if time.monotonic() > deadline:
            raise LabError(f"{wanted} threads were not up in {START_SECONDS:g} s")
        time.sleep(0.2)


def _costs(groups: Sequence[LimitedGroup], accounting: str, times: int) -> list[float]:
    """CPU seconds of single looks, as the module takes them; without the first after adding threads, a dearer one."""
    containers = [group.container() for group in groups]
    costs = []
    for _ in range(1 + times):
        before = time.process_time()
        measure(lambda: list(containers), 0, 1, str(ROOT), "/proc", accounting=accounting)
        costs.append(time.process_time() - before)
    return costs[1:]


def _in_window(groups: Sequence[LimitedGroup]) -> float:
    """CPU seconds of one look of a window, where the threads' states and the run queues are sampled as well."""
    containers = [group.container() for group in groups]
    before = time.process_time()
    measure(lambda: list(containers), (LOOKS - 1) * INTERVAL, INTERVAL, str(ROOT), "/proc")
    return (time.process_time() - before) / LOOKS


def _report(samples: dict[tuple[str, int], list[float]], in_window: list[float]) -> Report:
    series = {key: Series(f"{key[0]}, {key[1]} threads", values, "ms") for key, values in samples.items()}
    curves = {
        accounting: [(size, series[accounting, size].median) for size in SIZES if (accounting, size) in series]
        for accounting in ACCOUNTINGS
    }
    window = Series(f"in a window, {TARGET_SIZE} threads", in_window, "ms")
    targets = [*(series[accounting, TARGET_SIZE] for accounting in ACCOUNTINGS), window]
    checks = [at_most(each.label, each, TARGET) for each in targets]
    notes = [
        "CPU time of the sampler for a look at all containers; listing them by the engine is not in it.",
        "In a window it also samples the threads' states and the run queues; taskstats.",
    ]
    for accounting, curve in curves.items():
        slope, rest = fit(curve)
        steps = slopes(curve)
        checks.append(Check(f"{accounting}, last step / whole", steps[-1] / slope, STEEPER, at_least=False, unit="x"))
        shown = ", ".join(f"{step * 1e6:.1f}" for step in steps)
        notes.append(f"{accounting}: {slope * 1e6:.1f} us for each thread + {rest * 1e3:.1f} ms; by step {shown} us.")
    lines = [Line(accounting, [(size, cost * 1e3) for size, cost in curve]) for accounting, curve in curves.items()]
    draw(RESULTS / "threads.svg", lines, x="threads in 30 containers", y="CPU for a look, ms")
    return Report("threads", QUESTION, [*series.values(), window], checks, notes)

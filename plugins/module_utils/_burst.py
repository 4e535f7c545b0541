# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the bursts in a series of fast samples, and the limit that serves a burst in time.

Pure: samples in, plain data out. CPU time in seconds, rates in cores, None for what can't be told.

An episode is a stretch of work between two pauses. Time a container stands still because its limit is used up belongs
to the episode: the kernel counts such a period when it ends and lets work go on, so a standstill that ends with a
larger `throttled` was none of the container's own making.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

# Below this many cores between two samples a container stands still; timers and the like don't make an episode.
IDLE_CORES = 0.05
# A pause this long, in seconds, ends an episode. Shorter ones are waits for neighbours and for the disk.
PAUSE = 0.025
# The same on a node with little idle time, where ten neighbours' turns may pass before a thread has its own.
PAUSE_ON_A_BUSY_NODE = 0.1
# CPU seconds below which work is no burst: the smallest limit (0.01 cores) lets that much through in every period.
SMALLEST = 0.001
# Windows for the peaks, in seconds.
PEAK_WINDOWS = (0.1, 0.2, 0.5, 1.0)
# The kernel books the work of a running thread at its clock's tick (4 ms at 250 Hz): a run may have begun that long
# before its counter moved.
TICK = 0.004
# A rate this little above a whole number of cores is that number.
WIDTH_TOLERANCE = 0.02
# Bursts of one kind differ by less than this share of their size.
SAME_SIZE = 0.1


class Sample(NamedTuple):
    """One reading: monotonic seconds, CPU seconds used so far, periods throttled so far."""

    at: float
    used: float
    throttled: int


@dataclass(frozen=True)
class Episode:
    """A stretch of work: when it began and ended, the CPU seconds in it, and the most cores seen at once."""

    began: float
    ended: float
    cpu: float
    rate: float
    whole: bool


def peaks(samples: Sequence[Sample]) -> dict[float, float | None]:
    """Return for each of PEAK_WINDOWS the most cores used over such a stretch, None if the samples are shorter.

    Between samples the work counts as evenly spread, so a late sample flattens a peak and never makes one.
    """
    return {window: _peak(samples, window) for window in PEAK_WINDOWS}


def episodes(samples: Sequence[Sample], period: float, pause: float = PAUSE) -> list[Episode]:
    """Split the samples into episodes; those that may go on beyond the window's ends are not `whole`.

    `period` is the enforcement period in seconds: for that long a standstill may be a throttled one not yet counted.
    `pause` is what ends an episode, in seconds.
    """
    found: list[Episode] = []
    for first, last in _stretches(samples, period, pause):
        # Between two episodes there was a pause; before the first, or after the last, there need not have been one.
        begins = bool(found) or (
            samples[first].at - samples[0].at >= pause and samples[first + 1].throttled == samples[0].throttled
        )
        ends = samples[-1].at - samples[last].at >= pause + period
        found.append(_episode(samples[first : last + 1], begins and ends))
    return [episode for episode in found if episode.cpu >= SMALLEST]


def why_no_bursts(found: Sequence[Episode]) -> str | None:
    """Say why the episodes don't tell how large a burst is, None if they do.

    Of bursts of one kind the largest is as likely as any to lie at the window's end: that alone is no reason.
    """
    whole = [episode.cpu for episode in found if episode.whole]
    cut = [episode.cpu for episode in found if not episode.whole]
    if not found:
        return "no burst of 1 ms or more inside the window"
    if not whole:
        return "it never paused inside the window: that is steady work and no burst, or the window is too short"
    if cut and max(cut) > max(whole) * (1 + SAME_SIZE):
        return "its largest burst went on beyond the window: take a longer one"
    return None


def summary(found: Sequence[Episode]) -> dict[str, Any]:
    """Return count, CPU and duration (ms: median, p95, largest) and cores at once of the whole episodes (at least one).

    `cores_at_once` is the least number of threads that explains the rates seen. A limit that is used up within a few
    samples hides part of it.
    """
    whole = [episode for episode in found if episode.whole]
    return {
        "count": len(whole),
        "cpu_ms": _distribution([episode.cpu * 1e3 for episode in whole]),
        "duration_ms": _distribution([(episode.ended - episode.began) * 1e3 for episode in whole]),
        "cores_at_once": max(1, math.ceil(max(episode.rate for episode in whole) - WIDTH_TOLERANCE)),
    }


def limit_for(cpu: float, within: float, period: float, cores: float) -> float | None:
    """Return the least limit, in cores, that serves a burst within a time; None if no limit does.

    `cpu`: the burst's CPU seconds, `within`: seconds from its first instruction to its last, `period`: the enforcement
    period in seconds, `cores`: how many the burst can use at once.

    A quota q per period is there when the burst begins and again at each period's end, at worst a whole period later.
    So q can be spent n = ceil(within / period) times, the last time only as far as the remaining time r lets it:
    (n - 1) * q + min(q, cores * r) >= cpu.
    """
    if cpu > within * cores:
        return None
    # A whole number of periods must not become one more by rounding.
    count = max(1, math.ceil(within / period - 1e-9))
    rest = cores * (within - (count - 1) * period)
    quota = cpu / count
    if quota > rest:
        quota = (cpu - rest) / (count - 1)
    return math.ceil(quota / period * 100 - 1e-9) / 100


def limit_rows(
    bursts: dict[str, Any], within_ms: Sequence[float], period: float, cpus: int
) -> list[dict[str, float | str | None]]:
    """Return, for each time, the limits that serve the p95 and the largest burst, and a reason where there is none.

    A burst uses no more cores at once than the node has, and so none of the limits is above that.
    """
    cores = min(bursts["cores_at_once"], cpus)
    fastest = bursts["cpu_ms"]["largest"] / cores
    on = "1 core" if cores == 1 else f"{cores} cores"
    too_short = f"it takes {fastest:.0f} ms on the {on} it was seen to use at once, whatever the limit"
    rows: list[dict[str, float | str | None]] = []
    for within in within_ms:
        p95, largest = (
            limit_for(bursts["cpu_ms"][name] / 1e3, within / 1e3, period, cores) for name in ("p95", "largest")
        )
        reason = too_short if largest is None else None
        rows.append({"within_ms": within, "p95": p95, "largest": largest, "reason": reason})
    return rows


def _peak(samples: Sequence[Sample], window: float) -> float | None:
    if len(samples) < 2 or samples[-1].at - samples[0].at < window:
        return None
    highest = 0.0
    ahead = behind = 0
    # The largest rise of a line of straight pieces over a fixed distance begins or ends at a sample.
    for sample in samples:
        if sample.at + window <= samples[-1].at:
            ahead = _segment(samples, sample.at + window, ahead)
            highest = max(highest, _used_at(samples, sample.at + window, ahead) - sample.used)
        if sample.at - window >= samples[0].at:
            behind = _segment(samples, sample.at - window, behind)
            highest = max(highest, sample.used - _used_at(samples, sample.at - window, behind))
    return highest / window


def _segment(samples: Sequence[Sample], at: float, start: int) -> int:
    """Return the index, from `start` on, of the sample that begins the segment in which `at` lies."""
    while start + 2 < len(samples) and samples[start + 1].at < at:
        start += 1
    return start


def _used_at(samples: Sequence[Sample], at: float, segment: int) -> float:
    left, right = samples[segment], samples[segment + 1]
    return left.used + (right.used - left.used) * (at - left.at) / (right.at - left.at)


def _busy(left: Sample, right: Sample) -> bool:
    return right.used - left.used >= IDLE_CORES * (right.at - left.at)


def _stretches(samples: Sequence[Sample], period: float, pause: float) -> Iterator[tuple[int, int]]:
    """Yield (first, last) sample of each episode.

    The kernel also counts a period as throttled when the work ended just as the quota did. So a count explains the
    standstill before it, for about a period, but not the one after it.
    """
    first = last = 0
    active = -math.inf
    for index, (left, right) in enumerate(pairwise(samples)):
        busy = _busy(left, right)
        refilled = right.throttled > left.throttled and right.at - active < period + pause
        if busy and left.at - active >= pause and not refilled:
            if last:
                yield first, last
            first = index
        if busy:
            last = index + 1
        if busy or refilled:
            active = right.at
    if last:
        yield first, last


def _episode(samples: Sequence[Sample], whole: bool) -> Episode:
    return Episode(
        began=samples[0].at,
        ended=samples[-1].at,
        cpu=samples[-1].used - samples[0].used,
        rate=max(_rates(samples)),
        whole=whole,
    )


def _rates(samples: Sequence[Sample]) -> Iterator[float]:
    """Yield the rate of each run between standstills: at least so many cores were in use at once.

    Of whole runs, because the counters lag behind by up to a tick inside of one.
    """
    start = 0
    for index, (left, right) in enumerate(pairwise(samples)):
        if not _busy(left, right):
            if index > start:
                yield (left.used - samples[start].used) / (left.at - samples[start].at + TICK)
            start = index + 1
    if start < len(samples) - 1:
        yield (samples[-1].used - samples[start].used) / (samples[-1].at - samples[start].at + TICK)


def _distribution(values: Sequence[float]) -> dict[str, float]:
    """Return median, p95 (nearest rank) and largest."""
    ordered = sorted(values)

    def rank(share: float) -> float:
        return ordered[math.ceil(share * len(ordered)) - 1]

    return {"median": rank(0.5), "p95": rank(0.95), "largest": ordered[-1]}

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Size a service's limits on its history: CPU on what it wanted, memory on its peaks. No I/O.

All figures are of one task, as limits are. The percentiles are load-adjusted: a window counts by the CPU time wanted
in it, so that idle nights don't talk a limit down; and they fade by half in CPU_HALF_LIFE (Rzadca et al., Autopilot:
workload autoscaling at Google, EuroSys 2020). That paper halves in 12 hours because its limits follow all day; ours
stay for days, so 24 hours, as in the Kubernetes VPA: 12 would size on the half of the day that happened to be last.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import combinations, pairwise
from typing import NamedTuple

from ansible_collections.evenkeel.swarm.plugins.module_utils._demand import (
    OFTEN_THROTTLED_SHARE,
    SATURATED,
    SATURATED_SHARE,
    UNSATURATED,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._history import PROBE, Record
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import (
    MIB,
    MIN_LIMIT_MEMORY,
    MIN_LIMIT_NANO_CPUS,
    NANO,
)

DAY = timedelta(days=1)
CPU_HALF_LIFE = timedelta(hours=24)
# Percentiles of the load for the two bounds; the target's is a setting.
LOWER_PERCENTILE = 0.5
UPPER_PERCENTILE = 0.99
# An upper bound is widened no further than half a day's history would.
MOST_WIDENING = 2.0
# Held at its limit with a demand that can't be known, a service is given a step, at most as large as a probe's.
MOST_STEP = 1.5
# Above this share of the load, windows whose demand can't be known are worth a word.
WORTH_SAYING = 0.05
# Memory is sized on the last days' peaks, as many as the VPA keeps.
MEMORY_DAYS = 8
# Room above the highest peak: three standard deviations of the daily peaks, within these shares of it.
MEMORY_DEVIATIONS = 3.0
LEAST_MEMORY_MARGIN = 0.05
MOST_MEMORY_MARGIN = 0.5
# With fewer days than this there is no deviation to speak of.
FEWEST_DAYS = 3
SHORT_HISTORY_MARGIN = 0.2
# After an OOM kill: the VPA's bump.
OOM_BYTES = 100 * MIB
OOM_RATIO = 1.2
# A task that was replaced with this share of its limit in use was most likely killed for it.
FULL_SHARE = 0.95
# Memory leaks if it grows by this share while so large a share of all pairs of peaks rises (Kendall's tau 0.8).
LEAK_GROWTH = 0.1
LEAK_CONCORDANCE = 0.9
LEAK_DAYS = 4
LEAK_HOURS = 4
# What grows without end gets room for this long, and never more than the limit it has.
LEAK_ROOM_DAYS = 14

LOW, MEDIUM, HIGH = "low", "medium", "high"


@dataclass(frozen=True)
class Settings:
    """`percentile` of the load the CPU limit is for, `margin` on top, `least_hours` of windows to say anything.

    `least_cpus` and `least_memory` (cores, bytes): no target is below them, unless today's limit is.
    """

    percentile: float = 0.95
    margin: float = 0.15
    least_hours: float = 1.0
    least_cpus: float = MIN_LIMIT_NANO_CPUS / NANO
    least_memory: int = MIN_LIMIT_MEMORY


class Bounds(NamedTuple):
    """A limit to set, what it should not be below, and what nothing measured asks to exceed; None: not known."""

    target: float | None = None
    lower: float | None = None
    upper: float | None = None


class Present(NamedTuple):
    """The limits of a task that hold now: cores and bytes, None for no limit."""

    cpus: float | None
    memory: int | None


@dataclass(frozen=True)
class Confidence:
    """`level` low, medium or high; hours of windows, days they span, share of the load whose demand was identified."""

    level: str
    hours: float
    days: float
    identified: float


@dataclass(frozen=True)
class Size:
    """What a service's history asks for, per task: cores and bytes."""

    service: str
    tasks: int
    last_seen: datetime
    now: Present
    cpu: Bounds
    memory: Bounds
    confidence: Confidence
    leak: bool
    reasons: Sequence[str]


class Sample(NamedTuple):
    """One window of a task, in cores: what it wanted at `least` and at `most` (None: not known), `need` to size on.

    `identified`: the three are one number; `held`: its limit held it down.
    """

    at: datetime
    seconds: float
    least: float
    need: float
    most: float | None
    identified: bool
    held: bool


@dataclass(frozen=True)
class _Memory:
    bounds: Bounds
    leak: bool = False
    reasons: Sequence[str] = field(default_factory=list)


def size_service(records: Sequence[Record], settings: Settings) -> Size:
    """Size one service on its records, which are in the order of time and at least one."""
    last = records[-1]
    measured = [record for record in records if record.cpu_used is not None]
    now = present_limits(measured or records)
    samples = cpu_samples(measured)
    confidence = _confidence(samples)
    cpu, memory, reasons = Bounds(), _Memory(Bounds()), [_too_little(confidence, settings)]
    if confidence.hours >= settings.least_hours:
        cpu, reasons = _cpu_bounds(samples, confidence, settings), _cpu_reasons(samples, confidence, settings, measured)
        memory = _size_memory(records)
    least_cpu = _at_least(cpu, settings.least_cpus, now.cpus)
    least_memory = _at_least(memory.bounds, settings.least_memory, now.memory)
    if (least_cpu, least_memory) != (cpu, memory.bounds):
        reasons = [*reasons, "more than it was seen to need, as a start takes more than idling"]
    return Size(
        service=last.service,
        tasks=last.tasks,
        last_seen=last.at,
        now=now,
        cpu=least_cpu,
        memory=least_memory,
        confidence=confidence,
        leak=memory.leak,
        reasons=[*reasons, *memory.reasons],
    )


def _at_least(bounds: Bounds, least: float, now: float | None) -> Bounds:
    """Raise a target to the least that is to be given, but not for that above a limit that holds today."""
    least = least if now is None else min(least, now)
    if bounds.target is None or bounds.target >= least:
        return bounds
    return bounds._replace(target=least, upper=None if bounds.upper is None else max(bounds.upper, least))


def present_limits(records: Sequence[Record]) -> Present:
    """Return the limits of the last window that ran under them: a probe's are raised for a while."""
    last = next((record for record in reversed(records) if record.source != PROBE), records[-1])
    return Present(None if last.cpu_limit is None else round(last.cpu_limit / last.tasks, 9), last.memory.limit)


# --- CPU ---------------------------------------------------------------------------------------------------------


def cpu_samples(records: Sequence[Record]) -> list[Sample]:
    """Return what a task wanted in each window. The most that a probe found stands in where a window couldn't tell.

    Without a probe, a window held at the limit with a demand that can't be known is given a step: the larger, the more
    of the service's load such windows are. A queue that soon drains wants little more than the limit; one that never
    does may want anything.
    """
    answers = [_known_demand(record) for record in records if record.source == PROBE]
    probed = max((answer for answer in answers if answer is not None), default=None)
    samples = [_sample(record, probed) for record in records]
    step = 1 + (MOST_STEP - 1) * (1 - identified_share(samples))
    return [_stepped(sample, step) if sample.held and not sample.identified else sample for sample in samples]


def _sample(record: Record, probed: float | None) -> Sample:
    used = (record.cpu_used or 0.0) / record.tasks
    known = _known_demand(record)
    upper = record.demand.upper
    most = None if upper is None else max(used, upper / record.tasks)
    if known is None and probed is not None:
        known = probed if most is None else min(probed, most)
    if known is None:
        return Sample(record.at, record.window_seconds, used, used, most, identified=False, held=_held(record))
    need = max(used, known)
    return Sample(record.at, record.window_seconds, need, need, need, identified=True, held=_held(record))


def _stepped(sample: Sample, step: float) -> Sample:
    need = sample.need * step
    return sample._replace(need=need if sample.most is None else min(need, sample.most))


def identified_share(samples: Sequence[Sample]) -> float:
    """Return the share of the load that lies in windows whose demand is known; 1 without any load."""
    load = math.fsum(sample.need * sample.seconds for sample in samples)
    known = math.fsum(sample.need * sample.seconds for sample in samples if sample.identified)
    return known / load if load else 1.0


def _known_demand(record: Record) -> float | None:
    """Return a task's demand in cores where the window identified it, else None; a rough estimate doesn't."""
    demand = record.demand
    if demand.estimate is None or demand.regime not in (UNSATURATED, SATURATED):
        return None
    return demand.estimate / record.tasks


def _held(record: Record) -> bool:
    if record.cpu_limit is None or record.cpu_used is None:
        return False
    often = record.throttled_ratio is not None and record.throttled_ratio >= OFTEN_THROTTLED_SHARE
    return record.demand.regime != UNSATURATED and (often or record.cpu_used >= SATURATED_SHARE * record.cpu_limit)


def weighted_percentile(samples: Iterable[tuple[float, float]], share: float) -> float:
    """Return the smallest value that `share` of the weight lies at or below; samples are (value, weight).

    0 without any weight.
    """
    ordered = sorted(sample for sample in samples if sample[1] > 0)
    remaining = share * math.fsum(weight for _, weight in ordered)
    for value, weight in ordered:
        remaining -= weight
        if remaining <= 1e-9 * weight:
            return value
    return ordered[-1][0] if ordered else 0.0


def _weights(samples: Sequence[Sample]) -> list[float]:
    """Return each window's weight: its length, fading with its age."""
    newest = samples[-1].at
    return [sample.seconds * 0.5 ** ((newest - sample.at) / CPU_HALF_LIFE) for sample in samples]


def _load_percentile(values: Sequence[float], weights: Sequence[float], share: float) -> float:
    return weighted_percentile(((value, value * weight) for value, weight in zip(values, weights, strict=True)), share)


def _cpu_bounds(samples: Sequence[Sample], confidence: Confidence, settings: Settings) -> Bounds:
    weights = _weights(samples)
    target = _load_percentile([sample.need for sample in samples], weights, settings.percentile)
    # The VPA's way to say that a short history proves little: it moves the bounds apart.
    lower = _load_percentile([sample.least for sample in samples], weights, LOWER_PERCENTILE)
    lower *= (1 + 0.001 / confidence.days) ** -2
    target *= 1 + settings.margin
    upper = None
    if all(sample.most is not None for sample in samples):
        highest = _load_percentile([sample.most or 0.0 for sample in samples], weights, UPPER_PERCENTILE)
        upper = highest * (1 + settings.margin) * (1 + min(1 / confidence.days, MOST_WIDENING))
    return Bounds(
        target=round_cpus(target),
        lower=round_cpus(min(lower, target)),
        upper=None if upper is None else round_cpus(max(upper, target)),
    )


def round_cpus(cores: float) -> float:
    """Round up to hundredths of a core, Docker's minimum at least."""
    hundredths = math.ceil(round(cores * 100, 6))
    return max(hundredths, MIN_LIMIT_NANO_CPUS * 100 // NANO) / 100


def _confidence(samples: Sequence[Sample]) -> Confidence:
    if not samples:
        return Confidence(LOW, 0.0, 0.0, 0.0)
    hours = math.fsum(sample.seconds for sample in samples) / 3600
    # The first window counts whole: a single one spans its own length.
    span = samples[-1].at - samples[0].at + timedelta(seconds=samples[0].seconds)
    identified = identified_share(samples)
    days = span / DAY
    level = MEDIUM
    if days < 1 or identified < 0.5:
        level = LOW
    elif days >= 7 and hours >= 24 and identified >= 0.9:
        level = HIGH
    return Confidence(level, hours, days, identified)


def _too_little(confidence: Confidence, settings: Settings) -> str:
    return f"only {confidence.hours:.2f} hours of windows, {settings.least_hours:g} are needed: measure more"


def _cpu_reasons(
    samples: Sequence[Sample], confidence: Confidence, settings: Settings, records: Sequence[Record]
) -> list[str]:
    weights = _weights(samples)
    total = math.fsum(weights)
    busy = _load_percentile([sample.need for sample in samples], weights, settings.percentile)
    held = math.fsum(weight for sample, weight in zip(samples, weights, strict=True) if sample.held) / total
    identified_held = any(sample.held and sample.identified for sample in samples)
    reasons = [f"{settings.percentile:.0%} of its load is in windows of {busy:.2f} cores or less"]
    if held >= WORTH_SAYING:
        what = "sized on what it would have used" if identified_held else "its usage there is the limit's, not its own"
        reasons.append(f"held at its limit for {held:.0%} of the time: {what}")
    if any(record.source == PROBE and _known_demand(record) is not None for record in records):
        reasons.append("a probe's answer stands in where the windows can't tell")
    if 1 - confidence.identified >= WORTH_SAYING:
        reasons.append(
            f"in {1 - confidence.identified:.0%} of its load the demand can't be known: the target is a step, "
            "not a size; a probe (playbooks/probe.yml) tells"
        )
    return reasons


# --- memory ------------------------------------------------------------------------------------------------------


def _size_memory(records: Sequence[Record]) -> _Memory:
    seen = [record for record in records if record.memory.working_set is not None]
    if not seen:
        return _Memory(Bounds(), reasons=["its memory was not measured"])
    recent = [record for record in seen if seen[-1].at - record.at < MEMORY_DAYS * DAY]
    peaks = peaks_by(recent, DAY)
    highest = max(peaks)
    kills = oom_kills(seen)
    growth = leak_per_day(seen, [at for at, _ in kills])
    if growth is not None:
        return _leaking(seen[-1], highest, growth, killed=bool(kills))
    target = highest * (1 + memory_margin(peaks))
    reasons = []
    needed = max((after_oom(used) for at, used in kills if seen[-1].at - at < MEMORY_DAYS * DAY), default=0)
    if needed:
        reasons.append(f"killed for lack of memory: at least {round_memory(needed) // MIB} MiB")
    target = max(target, needed)
    # With page cache, so no reason to grant it all; a peak at the limit only says that the cache filled it.
    kernel = max((record.memory.peak or 0 for record in recent if not _at_limit(record)), default=0)
    bounds = Bounds(round_memory(target), round_memory(highest), round_memory(max(kernel, target)))
    return _Memory(bounds, reasons=reasons)


def peaks_by(records: Sequence[Record], interval: timedelta) -> list[int]:
    """Return the highest working set of each interval, bytes, in the order of time; counted back from the last window.

    Intervals without a window are not there.
    """
    last = records[-1].at
    peaks: dict[int, int] = {}
    for record in records:
        number = (last - record.at) // interval
        peaks[number] = max(peaks.get(number, 0), record.memory.working_set or 0)
    return [peaks[number] for number in sorted(peaks, reverse=True)]


def memory_margin(peaks: Sequence[int]) -> float:
    """Return the share to add to the highest daily peak: steady memory needs little room, restless memory more."""
    if len(peaks) < FEWEST_DAYS:
        return SHORT_HISTORY_MARGIN
    if not max(peaks):
        return LEAST_MEMORY_MARGIN
    share = MEMORY_DEVIATIONS * statistics.stdev(peaks) / max(peaks)
    return min(max(share, LEAST_MEMORY_MARGIN), MOST_MEMORY_MARGIN)


def after_oom(used: float) -> float:
    """Return the bytes to allow after a kill at `used` bytes (the Kubernetes VPA's rule)."""
    return max(used + OOM_BYTES, used * OOM_RATIO)


def oom_kills(records: Sequence[Record]) -> list[tuple[datetime, int]]:
    """Return when tasks were killed for lack of memory, and the bytes they had: the limit, or the most that was seen.

    The counter is the container's own and dies with it, so a task that was replaced while nearly full counts too.
    """
    kills = []
    if records[0].oom_kills:
        kills.append((records[0].at, _full(records[0], records[0])))
    for before, after in pairwise(records):
        had, has = before.oom_kills or 0, after.oom_kills or 0
        counted = has > had or (has < had and has > 0)
        if counted or (_replaced(before, after) and _nearly_full(before)):
            kills.append((after.at, _full(before, after)))
    return kills


def _full(before: Record, after: Record) -> int:
    return before.memory.limit or max(before.memory.working_set or 0, after.memory.working_set or 0)


def _replaced(before: Record, after: Record) -> bool:
    return before.restarts is not None and after.restarts is not None and after.restarts > before.restarts


def _nearly_full(record: Record) -> bool:
    limit, used = record.memory.limit, record.memory.working_set
    return limit is not None and used is not None and used >= FULL_SHARE * limit


def _at_limit(record: Record) -> bool:
    limit, peak = record.memory.limit, record.memory.peak
    return limit is not None and peak is not None and peak >= FULL_SHARE * limit


def round_memory(size: float) -> int:
    """Round bytes up to whole MiB, Docker's minimum at least."""
    return max(math.ceil(size / MIB), MIN_LIMIT_MEMORY // MIB) * MIB


def leak_per_day(records: Sequence[Record], kills: Sequence[datetime]) -> float | None:
    """Return by how many bytes a day memory grows without end, None if it doesn't.

    Either the daily peaks since the last restart rise steadily, or every life that a kill ended was one steady rise.
    """
    lives = _lives(records, kills)
    days = peaks_by(lives[-1], DAY)
    if len(days) >= LEAK_DAYS and _rises(days):
        return _slope(days)
    ended = [peaks_by(life, timedelta(hours=1)) for life in lives[:-1]] if len(kills) >= 2 else []
    # The first life may have begun long before the history did.
    if ended and all(len(hours) >= LEAK_HOURS and _rises(hours) for hours in ended):
        return statistics.median(_slope(hours) * 24 for hours in ended)
    return None


def _lives(records: Sequence[Record], kills: Sequence[datetime]) -> list[list[Record]]:
    """Cut the history where the tasks were replaced or killed: memory begins anew there."""
    cuts = set(kills)
    lives = [[records[0]]]
    for before, after in pairwise(records):
        if after.at in cuts or _replaced(before, after):
            lives.append([])
        lives[-1].append(after)
    return lives


def _rises(peaks: Sequence[int]) -> bool:
    rising = [after > before for before, after in combinations(peaks, 2)]
    return sum(rising) >= LEAK_CONCORDANCE * len(rising) and peaks[-1] >= (1 + LEAK_GROWTH) * peaks[0]


def _slope(peaks: Sequence[int]) -> float:
    """Return the median growth from one interval to the next over all pairs (Theil and Sen's slope)."""
    return statistics.median((peaks[j] - peaks[i]) / (j - i) for i, j in combinations(range(len(peaks)), 2))


def _leaking(last: Record, highest: int, growth: float, *, killed: bool) -> _Memory:
    """Give memory that grows without end room for a while, but no larger limit: that would only move the kill."""
    limit = last.memory.limit
    target = round_memory(highest * (1 + LEAST_MEMORY_MARGIN) + LEAK_ROOM_DAYS * growth)
    advice = f"room for {LEAK_ROOM_DAYS} days: find the cause, or size anew before"
    if limit is not None and target >= limit:
        target = limit
        ends = "it has been killed for it" if killed else f"full in {max(limit - highest, 0) / growth:.0f} days"
        advice = f"the limit stays ({ends}): a larger one only delays the kill; find the cause, or restart it in time"
    grows = f"memory grows by {growth / MIB:.0f} MiB a day without end: a leak, or data that grows"
    return _Memory(Bounds(target, min(round_memory(highest), target), None), True, [f"{grows}; {advice}"])


def by_service(records: Iterable[Record]) -> Mapping[str, list[Record]]:
    """Return each service's records, in the order they came in."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.service, []).append(record)
    return groups

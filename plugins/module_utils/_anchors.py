# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What two well known recommenders would say of the same history, by their published formulas and defaults.

Kubernetes VPA: kubernetes/autoscaler, vertical-pod-autoscaler/pkg/recommender: logic/recommender.go (percentiles,
margin, confidence multipliers, minima), logic/estimator.go (confidence), model/aggregations_config.go (buckets,
half-lives, OOM bump), model/aggregate_container_state.go (a sample's weight), model/container.go (memory's daily
peaks), util/histogram*.go (bucket bounds, percentile). KRR: robusta-dev/krr, strategies/simple.py and models/config.py.
Both look at usage alone; neither knows what a throttled window would have used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from ansible_collections.evenkeel.swarm.plugins.module_utils._history import Record
from ansible_collections.evenkeel.swarm.plugins.module_utils._sizing import Bounds, after_oom, oom_kills
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import MIB

DAY = timedelta(days=1)
VPA_TARGET, VPA_LOWER, VPA_UPPER = 0.9, 0.5, 0.95
VPA_MARGIN = 0.15
VPA_HALF_LIFE = timedelta(hours=24)
VPA_LEAST_WEIGHT = 0.1
VPA_LEAST_CPUS = 0.025
VPA_LEAST_MEMORY = 250 * MIB
KRR_PERCENTILE = 0.95
KRR_MEMORY_MARGIN = 0.15
KRR_LEAST_CPUS = 0.010
KRR_LEAST_MEMORY = 100 * MIB


class Anchor(NamedTuple):
    """What a recommender says, per task: cores and bytes."""

    cpu: Bounds
    memory: Bounds


class Histogram:
    """The VPA's decaying histogram: buckets that widen by 5 %, samples that lose half their weight in 24 hours."""

    RATIO = 1.05
    EPSILON = 0.0001

    def __init__(self, first_bucket: float, highest: float, newest: datetime) -> None:
        self.first_bucket = first_bucket
        self.buckets = math.ceil(self._log(highest * (self.RATIO - 1) / first_bucket + 1)) + 1
        self.newest = newest
        self.weights: dict[int, float] = {}

    def add(self, value: float, weight: float, at: datetime) -> None:
        """Add a sample."""
        bucket = self._bucket(value)
        self.weights[bucket] = self.weights.get(bucket, 0.0) + weight * 2 ** ((at - self.newest) / VPA_HALF_LIFE)

    def percentile(self, share: float) -> float:
        """Return the end of the bucket that the percentile falls into; 0 for an empty histogram."""
        kept = sorted(bucket for bucket, weight in self.weights.items() if weight >= self.EPSILON)
        if not kept:
            return 0.0
        remaining = share * sum(self.weights.values())
        for bucket in kept:
            remaining -= self.weights[bucket]
            if remaining <= 0:
                return self._start(min(bucket + 1, self.buckets - 1))
        return self._start(min(kept[-1] + 1, self.buckets - 1))

    def _bucket(self, value: float) -> int:
        if value < self.first_bucket:
            return 0
        return min(int(self._log(value * (self.RATIO - 1) / self.first_bucket + 1)), self.buckets - 1)

    def _start(self, bucket: int) -> float:
        return float(self.first_bucket * (self.RATIO**bucket - 1) / (self.RATIO - 1))

    def _log(self, value: float) -> float:
        return math.log(value) / math.log(self.RATIO)


def vpa(records: Sequence[Record]) -> Anchor:
    """Return the VPA's target and bounds for records in the order of time; a task's limit stands for its request."""
    measured = [record for record in records if record.cpu_used is not None]
    cpu, memory = Bounds(), Bounds()
    if measured:
        cpu_histogram = Histogram(0.001, 1000.0, measured[-1].at)
        for record in measured:
            request = (record.cpu_limit or 0.0) / record.tasks
            used = (record.cpu_used or 0.0) / record.tasks
            cpu_histogram.add(used, max(request, VPA_LEAST_WEIGHT), record.at)
        cpu = _vpa_bounds(cpu_histogram, measured, VPA_LEAST_CPUS)
    seen = [record for record in records if record.memory.working_set is not None]
    if seen:
        memory = _vpa_bounds(_memory_histogram(seen), measured or seen, VPA_LEAST_MEMORY)
    return Anchor(cpu, memory)


def _vpa_bounds(histogram: Histogram, samples: Sequence[Record], least: float) -> Bounds:
    days = min((samples[-1].at - samples[0].at) / DAY, len(samples) / (24 * 60))
    target, lower, upper = (
        histogram.percentile(share) * (1 + VPA_MARGIN) for share in (VPA_TARGET, VPA_LOWER, VPA_UPPER)
    )
    return Bounds(
        target=max(target, least),
        lower=max(lower * (1 + 0.001 / days) ** -2 if days else 0.0, least),
        # Without any history the VPA's upper bound is infinite: not known.
        upper=max(upper * (1 + 1 / days), least) if days else None,
    )


def _memory_histogram(records: Sequence[Record]) -> Histogram:
    """One sample for each 24 hours since the first: the peak, or what an OOM kill asks for."""
    first = records[0].at
    kills = oom_kills(records)
    samples = [(record.at, float(record.memory.working_set or 0)) for record in records]
    samples += [(at, after_oom(used)) for at, used in kills]
    peaks: dict[int, float] = {}
    for at, size in samples:
        day = (at - first) // DAY
        peaks[day] = max(peaks.get(day, 0.0), size)
    ends = {day: first + (day + 1) * DAY for day in peaks}
    histogram = Histogram(1e7, 1e12, max(ends.values()))
    for day, peak in peaks.items():
        histogram.add(peak, 1.0, ends[day])
    return histogram


def krr(records: Sequence[Record]) -> Anchor:
    """Return what KRR's strategy `simple` says: CPU's 95th percentile, the highest memory plus 15 %; no bounds."""
    used = sorted(record.cpu_used / record.tasks for record in records if record.cpu_used is not None)
    memory = [record.memory.working_set for record in records if record.memory.working_set is not None]
    return Anchor(
        Bounds(max(_quantile(used, KRR_PERCENTILE), KRR_LEAST_CPUS)) if used else Bounds(),
        Bounds(max(max(memory) * (1 + KRR_MEMORY_MARGIN), KRR_LEAST_MEMORY)) if memory else Bounds(),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile as Prometheus' quantile_over_time does: linear between the two nearest samples."""
    rank = share * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)

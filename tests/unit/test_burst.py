# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils import _burst
from ansible_collections.evenkeel.swarm.plugins.module_utils._burst import Sample, episodes, limit_for, peaks
from hypothesis import given
from hypothesis import strategies as st

PERIOD = 0.1


class Bandwidth:
    """The kernel's bandwidth control: a quota per period, refilled on a grid that begins at `phase`."""

    def __init__(self, quota: float, phase: float = 0.0, step: float = 0.001) -> None:
        self.quota, self.phase, self.step = quota, phase, step

    def run(self, length: float, wanted: Callable[[float], float], cores: float) -> Iterable[Sample]:
        """Yield a sample per step; `wanted(t)` is the work, in CPU seconds, that has arrived until t."""
        used, left, throttled, waiting = 0.0, self.quota, 0, False
        for number in range(round(length / self.step)):
            at = number * self.step
            if number and (number - round(self.phase / self.step)) % round(PERIOD / self.step) == 0:
                throttled += waiting
                left, waiting = self.quota, False
            yield Sample(at, used, throttled)
            work = min(wanted(at) - used, cores * self.step)
            done = min(work, left)
            # The kernel also stops an empty queue whose quota is used up.
            waiting |= done < work - 1e-12 or done > left - 1e-12
            used, left = used + done, left - done


def every_second(cpu: float, first: float = 0.5) -> Callable[[float], float]:
    return lambda at: cpu * (math.floor(at - first) + 1)


def sampled(samples: Iterable[Sample], interval: float = 0.01) -> list[Sample]:
    """Take one sample each interval, at odd times: some come late."""
    late = random.Random(7)  # noqa: S311
    taken: list[Sample] = []
    due = 0.0
    for sample in samples:
        if sample.at >= due:
            taken.append(sample)
            due = sample.at + interval + late.choice([0, 0, 0, 0.004, 0.012])
    return taken


@pytest.mark.parametrize(("quota", "cores"), [(0.2, 1), (0.025, 1), (0.05, 2), (0.025, 2)])
def test_bursts_are_measured_whatever_the_limit_makes_of_them(quota: float, cores: int) -> None:
    found = episodes(sampled(Bandwidth(quota).run(8, every_second(0.150), cores)), PERIOD)
    assert _burst.why_no_bursts(found) is None
    bursts = _burst.summary(found)
    assert bursts["count"] in (7, 8)
    for name in ("median", "p95", "largest"):
        assert bursts["cpu_ms"][name] == pytest.approx(150, rel=0.01)
    # 150 ms at once, or so much of each period.
    unlimited = 0.150 / cores
    expected = unlimited if quota >= 0.2 else (math.ceil(0.150 / quota) - 1) * PERIOD
    assert bursts["duration_ms"]["median"] == pytest.approx(expected * 1000, abs=60)


def test_how_many_cores_a_burst_uses_at_once() -> None:
    for cores in (1, 2):
        for quota in (1.0, 0.05, 0.025):
            found = episodes(sampled(Bandwidth(quota).run(10, every_second(0.150), cores)), PERIOD)
            assert _burst.summary(found)["cores_at_once"] == cores


def test_bursts_cut_off_by_the_window_do_not_count() -> None:
    samples = sampled(Bandwidth(0.2).run(3.05, every_second(0.1, first=0.0), 1))
    found = episodes(samples, PERIOD)
    assert [episode.whole for episode in found] == [False, True, True, False]


def test_a_standstill_at_the_windows_end_may_be_a_throttled_one() -> None:
    # Begins at 1.5 s, has used its quota up 20 ms later, and goes on at 1.6 s.
    samples = sampled(Bandwidth(0.02).run(1.58, every_second(0.1), 1))
    assert not episodes(samples, PERIOD)[-1].whole


@pytest.mark.parametrize(
    ("wanted", "length", "reason"),
    [
        (lambda at: at, 3.0, "it never paused"),
        (lambda _: 0.0, 3.0, "no burst of 1 ms or more"),
        (lambda at: 0.0008 * (at >= 1), 3.0, "no burst of 1 ms or more"),
        (lambda at: 0.1 * (at >= 0.5) + 9 * (at >= 1.5), 3.0, "went on beyond the window"),
    ],
)
def test_what_has_no_bursts_says_why(wanted: Callable[[float], float], length: float, reason: str) -> None:
    found = episodes(sampled(Bandwidth(0.05).run(length, wanted, 1)), PERIOD)
    assert reason in (_burst.why_no_bursts(found) or "")


@pytest.mark.parametrize(("cpu", "told"), [(0.103, True), (0.115, False)])
def test_a_burst_of_the_same_size_at_the_windows_end_spoils_nothing(cpu: float, told: bool) -> None:
    # Over 80 ms before the window ends: too near it to know that nothing follows.
    wanted = lambda at: 0.1 * (at >= 0.5) + cpu * (at >= 1.5)  # noqa: E731
    found = episodes(sampled(Bandwidth(9.0).run(1.5 + cpu + 0.08, wanted, 1)), PERIOD)
    assert [episode.whole for episode in found] == [True, False]
    assert (_burst.why_no_bursts(found) is None) == told


def test_short_waits_do_not_split_a_burst_and_long_ones_do() -> None:
    def line(*pieces: tuple[float, float]) -> list[Sample]:
        samples = [Sample(0.0, 0.0, 0)]
        for length, rate in pieces:
            last = samples[-1]
            samples.append(Sample(last.at + length, last.used + length * rate, 0))
        return samples

    short = line((0.1, 0), (0.02, 1), (0.02, 0), (0.02, 1), (0.2, 0))
    assert [episode.cpu for episode in episodes(short, PERIOD)] == pytest.approx([0.04])
    long = line((0.1, 0), (0.02, 1), (0.03, 0), (0.02, 1), (0.2, 0))
    assert [episode.cpu for episode in episodes(long, PERIOD)] == pytest.approx([0.02, 0.02])


def test_peaks_over_several_windows() -> None:
    samples = sampled(Bandwidth(9.0).run(4, every_second(0.3), 2))
    assert peaks(samples) == pytest.approx({0.1: 2.0, 0.2: 1.5, 0.5: 0.6, 1.0: 0.3}, rel=0.12)
    assert peaks(samples[:15]) == {0.1: 0.0, 0.2: None, 0.5: None, 1.0: None}
    assert peaks([]) == dict.fromkeys(_burst.PEAK_WINDOWS)


def test_a_late_sample_makes_no_peak() -> None:
    steady = [Sample(at, at * 0.5, 0) for at in (0.0, 0.01, 0.02, 0.4, 0.41, 0.9, 1.5)]
    assert peaks(steady) == pytest.approx(dict.fromkeys(_burst.PEAK_WINDOWS, 0.5))


@pytest.mark.parametrize(
    ("cpu", "within", "cores", "expected"),
    [
        (0.150, 0.150, 1, 1.0),
        (0.150, 0.100, 1, None),
        (0.150, 0.100, 2, 1.5),
        (0.150, 0.250, 1, 0.5),
        (0.150, 0.400, 1, 0.38),
        (0.150, 1.000, 1, 0.15),
        (0.150, 1.000, 2, 0.15),
        # The last period has only 10 ms for it: what doesn't fit must come out of the two before.
        (0.150, 0.210, 1, 0.7),
        (0.150, 0.050, 4, 1.5),
        (0.010, 60.0, 1, 0.01),
    ],
)
def test_the_limit_for_a_burst(cpu: float, within: float, cores: float, expected: float | None) -> None:
    assert limit_for(cpu, within, PERIOD, cores) == expected


def time_to_serve(cpu: float, quota: float, cores: float, phase: float) -> float:
    """How long a burst takes that begins at 0 while the quota is whole and the first refill comes at `phase`."""
    for sample in Bandwidth(quota, phase, step=0.0005).run(10, lambda _: cpu, cores):
        if sample.used >= cpu - 1e-9:
            return sample.at
    return math.inf


@given(
    cpu=st.integers(5, 400).map(lambda ms: ms / 1000),
    within=st.integers(20, 1200).map(lambda ms: ms / 1000),
    cores=st.integers(1, 4),
    phase=st.integers(1, 100).map(lambda ms: ms / 1000),
)
def test_the_limit_serves_from_any_phase_and_is_tight_at_the_worst(
    cpu: float, within: float, cores: int, phase: float
) -> None:
    limit = limit_for(cpu, within, PERIOD, cores)
    if limit is None:
        assert cpu / cores > within
        return
    assert time_to_serve(cpu, limit * PERIOD, cores, phase) <= within + 0.002
    # Limits are written with two digits: one can't be tighter than that.
    less = (limit - 0.02) * PERIOD
    if less > 0.001:
        assert time_to_serve(cpu, less, cores, PERIOD) > within - 0.002


def test_rows_say_why_no_limit_serves() -> None:
    bursts = {"cpu_ms": {"p95": 90.0, "largest": 450.0}, "cores_at_once": 2}
    fast, slow = _burst.limit_rows(bursts, [100.0, 400.0], PERIOD, 2)
    assert (fast["within_ms"], fast["p95"], fast["largest"]) == (100.0, 0.9, None)
    assert fast["reason"] == "it takes 225 ms on the 2 cores it was seen to use at once, whatever the limit"
    assert (slow["largest"], slow["reason"]) == (1.13, None)
    [single] = _burst.limit_rows(bursts | {"cores_at_once": 1}, [400.0], PERIOD, 2)
    assert single["reason"] == "it takes 450 ms on the 1 core it was seen to use at once, whatever the limit"
    [short] = _burst.limit_rows(bursts, [230.0], 0.5, 2)
    assert (short["largest"], short["reason"]) == (0.9, None)

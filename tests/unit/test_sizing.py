# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._demand import Demand
from ansible_collections.evenkeel.swarm.plugins.module_utils._history import Memory
from ansible_collections.evenkeel.swarm.plugins.module_utils._sizing import (
    Present,
    Settings,
    cpu_samples,
    memory_margin,
    oom_kills,
    peaks_by,
    round_cpus,
    round_memory,
    size_service,
    weighted_percentile,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.sizing_data import DAY, HOUR, MIB, START, every, free, held, record, remembering, unknown

EXACT = Settings(percentile=0.95, margin=0.0)
MINUTE = timedelta(minutes=1)


# --- percentiles ---


def test_percentiles_by_weight() -> None:
    samples = [(3.0, 1.0), (1.0, 8.0), (2.0, 1.0)]
    assert [weighted_percentile(samples, share) for share in (0.5, 0.8, 0.85, 0.9, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert weighted_percentile([], 0.5) == 0.0


def test_load_counts_not_time() -> None:
    # 90 % of the time at 0.1 and 10 % at 2.0 cores: by time the 90th percentile is idle, by load it is busy.
    windows = [free(2.0) if number % 10 == 0 else free(0.1) for number in range(600)]
    assert size_service(every(MINUTE, windows), Settings(0.9, 0.0)).cpu.target == 2.0


def test_long_windows_count_for_their_length() -> None:
    short, long = every(HOUR, [free(2.0)] * 3, window_seconds=10.0), every(MINUTE, [free(0.5)] * 3)
    records = [*short, *(replace(each, window_seconds=7200.0, at=each.at + 5 * HOUR) for each in long)]
    assert size_service(records, EXACT).cpu.target == 0.5


def test_yesterday_counts_half() -> None:
    # The same load at 1 core a day ago and at 0.5 today: 1/3 and 2/3 of the weight.
    day = [*[free(1.0)] * 60, *[free(0.5)] * 120]
    records = every(MINUTE, day)
    records = [each if number < 60 else replace(each, at=each.at + DAY - HOUR) for number, each in enumerate(records)]
    assert size_service(records, Settings(0.6, 0.0)).cpu.target == 0.5
    assert size_service(records, Settings(0.7, 0.0)).cpu.target == 1.0


# --- what a window wanted ---


def test_a_held_window_counts_with_its_demand_for_each_task() -> None:
    (sample,) = cpu_samples(every(HOUR, [held(0.5, 2.4)], tasks=2))
    assert (sample.need, sample.most, sample.identified, sample.held) == (1.2, 1.2, True, True)


def test_an_estimate_below_the_usage_does_not_count_against_it() -> None:
    demand = Demand(0.3, 0.5, 0.3, "saturated", "")
    (sample,) = cpu_samples([record(START, cpu_used=0.5, cpu_limit=0.5, demand=demand)])
    assert sample.need == 0.5


def test_a_rough_estimate_identifies_nothing() -> None:
    demand = Demand(5.0, 0.5, None, "rough", "")
    (sample,) = cpu_samples([record(START, cpu_used=0.5, demand=demand)])
    assert (sample.need, sample.most, sample.identified) == (0.5, None, False)


@pytest.mark.parametrize(("upper", "need"), [(None, 0.75), (4.0, 0.75), (0.6, 0.6)])
def test_a_service_of_unknown_demand_is_given_a_step_inside_its_interval(upper: float | None, need: float) -> None:
    size = size_service(every(MINUTE, [unknown(0.5, upper)] * 120), EXACT)
    assert size.cpu.target == need
    # What was used, less what two hours leave open.
    assert size.cpu.lower == 0.49
    assert "a probe" in "; ".join(size.reasons)
    assert size.confidence.level == "low"
    assert size.confidence.identified == 0.0
    if upper is None:
        assert size.cpu.upper is None
    else:
        # A short history moves the bounds apart.
        assert size.cpu.upper == pytest.approx(3 * upper)


def test_the_step_is_small_where_little_is_unknown() -> None:
    # A tenth of the load is unknown: a step of 5 %.
    windows = [unknown(0.5, 4.0) if number % 10 == 0 else held(0.5, 0.5) for number in range(200)]
    assert size_service(every(MINUTE, windows), EXACT).cpu.target == pytest.approx(0.53)


def test_a_busy_neighbour_is_no_reason_for_a_step() -> None:
    demand = Demand(None, 0.3, 0.6, "unidentifiable", "the node was only 10 % idle")
    (sample,) = cpu_samples([record(START, cpu_used=0.3, cpu_limit=0.5, throttled_ratio=0.0, demand=demand)])
    assert (sample.need, sample.most) == (0.3, 0.6)


@pytest.mark.parametrize(("upper", "need"), [(None, 1.6), (4.0, 1.6), (1.1, 1.1)])
def test_a_probe_answers_for_the_windows_that_could_not(upper: float | None, need: float) -> None:
    windows = [*[unknown(0.5, upper)] * 120, free(1.6) | {"source": "probe", "cpu_limit": 2.0}, unknown(0.5, upper)]
    size = size_service(every(MINUTE, windows), EXACT)
    assert size.cpu.target == need
    assert size.confidence.identified == 1.0
    assert "a probe's answer" in "; ".join(size.reasons)
    # The probe's raised limit is not the one that holds.
    assert size.now == Present(0.5, None)


# --- bounds and confidence ---


def test_bounds_lie_around_the_target_and_close_in_with_history() -> None:
    widths = []
    for days in (1, 4, 14):
        windows = [free(0.4 + 0.2 * (number % 5)) for number in range(days * 24 * 6)]
        cpu = size_service(every(timedelta(minutes=10), windows, window_seconds=600.0), Settings()).cpu
        assert cpu.lower is not None
        assert cpu.target is not None
        assert cpu.upper is not None
        assert cpu.lower <= cpu.target <= cpu.upper
        widths.append(cpu.upper - cpu.lower)
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(
    ("hours", "known", "level"), [(20, True, "low"), (30, True, "medium"), (200, True, "high"), (200, False, "low")]
)
def test_confidence_grows_with_history_and_with_what_is_identified(hours: int, known: bool, level: str) -> None:
    window = free(0.5) if known else unknown(0.5, None)
    assert size_service(every(HOUR, [window] * hours, window_seconds=3600.0), EXACT).confidence.level == level


def test_a_week_of_looks_is_not_high_confidence() -> None:
    confidence = size_service(every(HOUR, [free(0.5)] * 200, window_seconds=60.0), EXACT).confidence
    assert (confidence.level, round(confidence.hours, 2)) == ("medium", 3.33)


def test_too_little_history_sizes_nothing_and_says_so() -> None:
    size = size_service(every(MINUTE, [free(0.5)] * 59), EXACT)
    assert size.cpu.target is None
    assert size.memory.target is None
    assert size.reasons == ["only 0.98 hours of windows, 1 are needed: measure more"]


def test_rounding_goes_up_and_respects_dockers_minima() -> None:
    assert [round_cpus(cores) for cores in (0.0, 0.001, 0.3, 0.301, 1.29)] == [0.01, 0.01, 0.3, 0.31, 1.29]
    assert [round_memory(size) for size in (0, 6 * MIB, 6 * MIB + 1)] == [6 * MIB, 6 * MIB, 7 * MIB]


@given(st.lists(st.tuples(st.floats(0, 8), st.floats(0, 8)), min_size=60, max_size=80), st.floats(0.5, 1))
def test_a_target_never_lies_outside_what_was_wanted(pairs: list[tuple[float, float]], share: float) -> None:
    records = every(MINUTE, [held(max(limit, 0.01), limit + more) for limit, more in pairs])
    cpu = size_service(records, Settings(share, 0.0, 0.0)).cpu
    assert cpu.lower is not None
    assert cpu.target is not None
    wanted = [max(limit, 0.01, limit + more) for limit, more in pairs]
    assert cpu.target <= round_cpus(max(wanted))
    assert cpu.lower <= cpu.target


# --- memory ---


def test_peaks_are_counted_back_from_the_last_window() -> None:
    records = remembering(timedelta(hours=6), [1, 9, 2, 3, 4, 8, 5, 6, 7])
    assert [peak // MIB for peak in peaks_by(records, DAY)] == [1, 9, 8]


@pytest.mark.parametrize(
    ("peaks", "margin"),
    [
        ([100], 0.2),
        ([100, 100], 0.2),
        ([100, 100, 100], 0.05),
        ([90, 100, 95], 0.15),
        ([20, 100, 30], 0.5),
        ([0] * 3, 0.05),
    ],
)
def test_restless_memory_gets_more_room(peaks: list[int], margin: float) -> None:
    assert memory_margin(peaks) == pytest.approx(margin, abs=0.005)


def test_memory_is_sized_on_the_peaks_of_the_last_days() -> None:
    size = size_service(remembering(HOUR, [*[900] * 24, *[100] * 24 * 9]), EXACT)
    assert (size.memory.target, size.memory.lower) == (105 * MIB, 100 * MIB)
    assert not size.leak


def test_the_kernels_peak_is_an_upper_bound_unless_the_cache_filled_the_limit() -> None:
    records = remembering(HOUR, [100] * 96)
    beside = [replace(each, memory=Memory(100 * MIB, 300 * MIB, 512 * MIB)) for each in records]
    assert size_service(beside, EXACT).memory.upper == 300 * MIB
    full = [replace(each, memory=Memory(100 * MIB, 512 * MIB, 512 * MIB)) for each in records]
    assert size_service(full, EXACT).memory.upper == 105 * MIB


@pytest.mark.parametrize(
    ("before", "after", "killed"),
    [
        ({"oom_kills": 0}, {"oom_kills": 1}, True),
        ({"oom_kills": 3}, {"oom_kills": 1}, True),
        ({"oom_kills": 3}, {"oom_kills": 0}, False),
        ({"oom_kills": 2}, {"oom_kills": 2}, False),
        ({"oom_kills": None}, {"oom_kills": None}, False),
        ({"restarts": 1, "memory": Memory(127 * MIB, None, 128 * MIB)}, {"restarts": 2}, True),
        ({"restarts": 1, "memory": Memory(60 * MIB, None, 128 * MIB)}, {"restarts": 2}, False),
        ({"restarts": None, "memory": Memory(127 * MIB, None, 128 * MIB)}, {"restarts": 2}, False),
    ],
)
def test_kills_are_counted_and_inferred(before: dict[str, object], after: dict[str, object], killed: bool) -> None:
    first, second = (record(START + number * HOUR, **each) for number, each in enumerate((before, after)))
    # Kills before the history began count at its first record.
    assert len(oom_kills([first, second])) == killed + bool(first.oom_kills)


def test_a_kill_asks_for_more_than_the_limit_that_killed() -> None:
    for limit, needed in ((200, 300), (1000, 1200)):
        records = remembering(HOUR, [limit * 0.7] * 96, limit=limit * MIB)
        killed = [*records[:-1], replace(records[-1], oom_kills=1)]
        size = size_service(killed, EXACT)
        assert size.memory.target == needed * MIB
        assert any("killed for lack of memory" in reason for reason in size.reasons)


def test_growth_without_end_is_called_a_leak_and_gets_no_larger_limit() -> None:
    sizes = [100 + number for number in range(24 * 7)]
    size = size_service(remembering(HOUR, sizes, limit=300 * MIB), EXACT)
    assert size.leak
    assert size.memory.target == 300 * MIB
    assert any("grows by 24 MiB a day" in reason and "full in 1 days" in reason for reason in size.reasons)


def test_a_leak_that_is_killed_again_and_again_gets_no_larger_limit() -> None:
    # Full every ten hours: no day's peak is above another's.
    sizes = [50 + 20 * (number % 10) for number in range(100)]
    records = [
        replace(each, restarts=number // 10) for number, each in enumerate(remembering(HOUR, sizes, limit=232 * MIB))
    ]
    size = size_service(records, EXACT)
    assert size.leak
    assert size.memory.target == 232 * MIB
    assert any("killed for it" in reason for reason in size.reasons)


@pytest.mark.parametrize("limit", [None, 2048 * MIB])
def test_growth_far_from_any_limit_gets_room_for_two_weeks(limit: int | None) -> None:
    size = size_service(remembering(HOUR, [100 + number for number in range(24 * 7)], limit=limit), EXACT)
    assert size.memory.target == round_memory((267 * 1.05 + 14 * 24) * MIB)
    assert any("room for 14 days" in reason for reason in size.reasons)


@pytest.mark.parametrize(
    "sizes",
    [
        # A day's pattern; a cache that fills up; noise; one step; a rise too small to matter.
        [100 + 50 * (number % 24 > 12) for number in range(24 * 7)],
        [min(100 + 5 * number, 200) for number in range(24 * 7)],
        [100 + number * 7919 % 13 for number in range(24 * 7)],
        [100 if number < 80 else 150 for number in range(24 * 7)],
        [1000 + number / 10 for number in range(24 * 7)],
    ],
)
def test_what_is_no_leak(sizes: list[float]) -> None:
    assert not size_service(remembering(HOUR, sizes, limit=2048 * MIB), EXACT).leak


def test_memory_that_was_not_measured_is_not_sized() -> None:
    size = size_service(every(MINUTE, [free(0.5)] * 90), EXACT)
    assert size.memory.target is None
    assert "its memory was not measured" in size.reasons

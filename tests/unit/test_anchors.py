# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The published formulas, on histories small enough to work them out by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._anchors import Histogram, krr, vpa

from tests.unit.sizing_data import DAY, HOUR, MIB, START, every, free, held, remembering

MINUTE = timedelta(minutes=1)


def test_buckets_widen_by_five_per_cent_and_a_percentile_is_the_end_of_one() -> None:
    histogram = Histogram(0.001, 1000.0, START)
    histogram.add(0.0015, 1.0, START)
    # The second bucket: from 0.001 to 0.001 + 0.001 * 1.05.
    assert histogram.percentile(0.9) == pytest.approx(0.00205)
    histogram.add(0.0005, 9.0, START)
    assert histogram.percentile(0.9) == pytest.approx(0.001)
    assert histogram.percentile(0.91) == pytest.approx(0.00205)
    # The last bucket has no end: its start is returned, at least the highest value.
    histogram.add(5000.0, 1000.0, START)
    assert 1000.0 <= histogram.percentile(1.0) < 1050.0


def test_a_day_halves_a_sample() -> None:
    histogram = Histogram(0.001, 1000.0, START + DAY)
    histogram.add(0.0005, 4.0, START)
    histogram.add(0.0015, 1.0, START + DAY)
    # 2 to 1.
    assert histogram.percentile(0.66) == pytest.approx(0.001)
    assert histogram.percentile(0.67) == pytest.approx(0.00205)


def test_an_empty_histogram_has_no_percentile() -> None:
    assert Histogram(0.001, 1000.0, START).percentile(0.9) == 0.0


def test_vpa_takes_the_90th_percentile_of_usage_plus_15_per_cent() -> None:
    windows = [free(1.0 if number % 5 == 0 else 0.1) for number in range(1440 * 2 + 1)]
    cpu = vpa(every(MINUTE, windows)).cpu
    # A fifth of the time at 1 core: target and upper bound are there, the lower bound is not.
    bucket = 1.0282
    assert cpu.target == pytest.approx(bucket * 1.15, rel=0.03)
    assert cpu.upper == pytest.approx((cpu.target or 0) * (1 + 1 / 2))
    assert cpu.lower == pytest.approx(0.1 * 1.15 * (1 + 0.001 / 2) ** -2, rel=0.06)


def test_vpa_takes_the_limit_for_the_demand() -> None:
    cpu = vpa(every(MINUTE, [held(0.5, 2.0)] * 1441)).cpu
    assert cpu.target == pytest.approx(0.5 * 1.15, rel=0.05)


def test_vpa_weighs_samples_by_the_request() -> None:
    # As many windows at 0.2 of 0.2 as at 1.0 of 2.0 cores: the latter weigh ten times as much.
    before = every(MINUTE, [held(0.2, 0.2)] * 500)
    after = [replace(each, cpu_used=1.0, cpu_limit=2.0, at=each.at + 500 * MINUTE) for each in before]
    assert vpa([*before, *after]).cpu.lower == pytest.approx(1.15, rel=0.06)


def test_vpas_minima_and_what_no_history_leaves_open() -> None:
    anchor = vpa(every(MINUTE, [free(0.001)] * 100))
    assert anchor.cpu.target == 0.025
    assert vpa(every(MINUTE, [free(0.1)])).cpu.upper is None
    assert vpa(remembering(HOUR, [20] * 48)).memory.target == 250 * MIB


def test_vpas_memory_is_the_90th_percentile_of_daily_peaks() -> None:
    # Ten days, a peak of 600 MiB a day but 900 on the last: with half the weight of all, the 90th percentile.
    # Buckets are 5 % wide, and wider by the first one's 10 MB at these sizes.
    sizes = [300 + 300 * (number % 24 == 12) + 300 * (number == 9 * 24 + 12) for number in range(240)]
    assert vpa(remembering(HOUR, sizes)).memory.target == pytest.approx(900 * MIB * 1.15, rel=0.05)
    sizes[9 * 24 + 12], sizes[2 * 24 + 12] = 600, 900
    assert vpa(remembering(HOUR, sizes)).memory.target == pytest.approx(600 * MIB * 1.15, rel=0.07)


def test_vpa_bumps_memory_after_a_kill() -> None:
    records = remembering(HOUR, [390] * 24, limit=400 * MIB)
    killed = [*records[:-1], replace(records[-1], oom_kills=1)]
    assert vpa(killed).memory.target == pytest.approx(500 * MIB * 1.15, rel=0.05)


def test_krr_takes_the_95th_percentile_and_the_highest_memory() -> None:
    records = every(MINUTE, [free(number / 100) for number in range(101)])
    assert krr(records).cpu.target == pytest.approx(0.95)
    between = every(MINUTE, [free(0.1), free(0.2)])
    assert krr(between).cpu.target == pytest.approx(0.195)
    assert krr(remembering(HOUR, [100, 400, 200])).memory.target == 400 * MIB * 1.15
    low = krr(remembering(HOUR, [10], **free(0.0)))
    assert (low.cpu.target, low.memory.target) == (0.01, 100 * MIB)


def test_figures_are_of_one_task() -> None:
    records = every(MINUTE, [free(1.0)] * 200, tasks=2)
    assert krr(records).cpu.target == 0.5
    assert vpa(records).cpu.target == pytest.approx(0.5 * 1.15, rel=0.05)


def test_what_was_not_measured_is_not_said() -> None:
    records = every(MINUTE, [free(1.0) | {"cpu_used": None}] * 5)
    for anchor in (vpa(records), krr(records)):
        assert (anchor.cpu.target, anchor.memory.target) == (None, None)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sizing benchmark's own rules, and a small version of what it must show."""

from __future__ import annotations

import random

import pytest

from benchmarks.sizing import (
    KRR,
    OURS,
    PER_DAY,
    PROBED,
    VPA,
    Case,
    Service,
    compare,
    compare_memory,
    diurnal,
    fleet,
    live,
    observe,
    play,
    table,
)

DAYS = 3


def test_a_closed_loop_loses_what_its_limit_cuts() -> None:
    played = play([0.5, 2.0, 0.5], 1.0, open_loop=False)
    assert (played.used, played.throttled, played.missed) == ([0.5, 1.0, 0.5], [False, True, False], 1.0)


def test_an_open_loop_does_it_later_until_it_is_given_up() -> None:
    played = play([0.5, 2.0, 0.5, 0.2], 1.0, open_loop=True)
    assert played.used == [0.5, 1.0, 1.0, pytest.approx(0.7)]
    assert played.throttled == [False, True, True, False]
    assert played.missed == 1.5
    # A queue of ten minutes at most: after an hour of overload it takes ten minutes to drain, not an hour.
    long = play([2.0] * 180 + [0.0] * 180, 1.0, open_loop=True)
    assert sum(long.used[180:]) == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("open_loop", "limit", "regime"),
    [(False, 3.0, "unsaturated"), (False, 0.5, "saturated"), (True, 0.5, "unidentifiable"), (True, 3.0, "unsaturated")],
)
def test_a_sampler_sees_what_the_estimator_would_say(open_loop: bool, limit: float, regime: str) -> None:
    records = observe(Service("a", [1.0] * 30, open_loop, 4, 1), limit, 0, 30)
    assert {record.demand.regime for record in records} == {regime}
    assert len(records) == 10
    assert records[-1].cpu_used == pytest.approx(min(limit, 1.0))
    if regime == "saturated":
        estimates = [record.demand.estimate for record in records]
        assert estimates == pytest.approx([1.0] * 10, rel=0.1)
        assert len(set(estimates)) == 10


def test_a_leak_is_freed_by_a_kill_and_a_peak_is_killed_once() -> None:
    used, killed = live([1.0, 2.0, 3.0, 4.0, 5.0], 3.5, leaks=True)
    assert (used, killed) == ([1, 2, 3, 1, 2], [0, 0, 0, 1, 1])
    used, killed = live([1.0, 4.0, 4.0, 1.0, 4.0], 3.5, leaks=False)
    assert (used, killed) == ([1, 3.5, 3.5, 1, 3.5], [0, 1, 1, 1, 2])


def small(*, open_loop: bool) -> list[Service]:
    """One service with a day's pattern: three days to size on, one to replay."""
    demand = diurnal(random.Random(7), (DAYS + 1) * PER_DAY)  # noqa: S311
    return [Service("diurnal", demand, open_loop, 4, 7)]


def test_held_down_ours_sees_the_demand_and_theirs_the_limit() -> None:
    lines = {line.name: line for line in compare(Case("", False, True), small(open_loop=False), DAYS)}
    assert lines[OURS].cut < 0.02
    assert min(lines[VPA].cut, lines[KRR].cut) > 0.03
    assert lines[OURS].cut < 0.1 * min(lines[VPA].cut, lines[KRR].cut)
    assert len(table(list(lines.values()))) == 1 + len(lines)


def test_free_ours_throttles_no_more_than_theirs() -> None:
    lines = {line.name: line for line in compare(Case("", False, False), small(open_loop=False), DAYS)}
    assert lines[OURS].cut <= min(lines[VPA].cut, lines[KRR].cut)
    # At the same cut, within three hundredths.
    assert lines[OURS].slack < min(line.alike for line in lines.values() if line.alike is not None) + 0.03


def test_an_open_loop_that_is_held_needs_steps_or_a_probe() -> None:
    lines = {line.name: line for line in compare(Case("", True, True), small(open_loop=True), DAYS)}
    assert lines[OURS].cut < lines[VPA].cut
    assert lines[PROBED].cut < lines[KRR].cut


@pytest.mark.parametrize("kind", ["steady", "jobs", "growing"])
@pytest.mark.parametrize("tight", [False, True])
def test_memory_is_not_killed_for_what_it_did_before(kind: str, tight: bool) -> None:
    lines = {line.name: line for line in compare_memory(kind, tight=tight, seeds=range(10))}
    assert lines[OURS].kills <= min(lines[VPA].kills, lines[KRR].kills)
    if kind == "steady" and not tight:
        assert lines[OURS].slack < min(lines[VPA].slack, lines[KRR].slack)


def test_fleets_are_reproducible_and_differ() -> None:
    first, again, other = fleet(1, days=1), fleet(1, days=1), fleet(2, days=1)
    assert [service.demand for service in first] == [service.demand for service in again]
    assert all(one.demand != two.demand for one, two in zip(first, other, strict=True))
    assert {(service.kind, service.open_loop) for service in first} == {
        (kind, loop) for kind in ("diurnal", "bursty", "growing") for loop in (False, True)
    }

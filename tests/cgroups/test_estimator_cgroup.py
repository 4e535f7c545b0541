# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The estimator against real processes in real, limited cgroups of this machine. Needs root; takes about 4 minutes.

The programs and the truth table are in lab/limited.py. Rows run one at a time. A machine busy with
other things can't refute a row: a wrong answer from a window short of idle time is measured again, and after three
of them the row is skipped with that reason.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils import _taskstats

from lab.limited import (
    ATTEMPTS,
    IDLE_NEEDED,
    PROGRAMS,
    SPINNER,
    TOLERANCE,
    TRUTH_TABLE,
    LimitedGroup,
    Program,
    Row,
    busy_threads,
    closed_loop,
    is_right,
    limit_for,
    observe,
    short_lived_processes,
    short_lived_threads,
    true_demand,
)


@pytest.fixture
def taskstats() -> None:
    source, reason = _taskstats.choose("auto", "/proc")
    if source is None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def truths() -> dict[str, float]:
    """Cores the programs use without a limit, as far as they were measured."""
    return {}


@pytest.mark.parametrize("limit", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("count", [1, 2, 4, 10])
def test_busy_threads_are_all_counted_and_hide_what_they_want(group: LimitedGroup, count: int, limit: float) -> None:
    for _ in range(ATTEMPTS):
        seen = observe(group, SPINNER * count, limit, window=5.0)
        row, idle = seen["container"], seen["node"]["cpu_idle_share"]
        print(f"SEEN {count} spinners at {limit}: idle {idle:.2f} {summary(row)}")
        assert row["demand"]["regime"] == "unidentifiable"
        assert row["demand"]["estimate"] is None
        counted = pytest.approx(count, rel=TOLERANCE)
        if row["runnable"] == counted and row["demand"]["upper"] == counted:
            return
        assert idle < IDLE_NEEDED, row
    pytest.skip(f"this machine was busy with other things in {ATTEMPTS} windows")


@pytest.mark.parametrize("row", TRUTH_TABLE, ids=lambda row: row.name)
def test_the_estimate_is_the_truth_or_null(group: LimitedGroup, truths: dict[str, float], row: Row) -> None:
    wanted = truths.setdefault(row.program, truths.get(row.program) or true_demand(group, row))
    processors = len(os.sched_getaffinity(0))
    for _ in range(ATTEMPTS):
        seen = observe(group, PROGRAMS[row.program](), limit_for(row, wanted))
        demand, idle = seen["container"]["demand"], seen["node"]["cpu_idle_share"]
        print(f"SEEN {row.name}: truth {wanted:.4f} idle {idle:.2f} {summary(seen['container'])}")
        if demand["regime"] in row.regimes and is_right(demand, wanted):
            return
        if demand["estimate"] is None and wanted > processors:
            pytest.skip(f"{processors} processor can't show what wants {wanted:.1f}; the answer was null")
        assert idle < IDLE_NEEDED, f"{demand} although the truth is {wanted}"
    pytest.skip(f"this machine was busy with other things in {ATTEMPTS} windows")


def test_threads_of_one_process_count_like_processes(group: LimitedGroup) -> None:
    seen = observe(group, (functools.partial(busy_threads, 4),), 0.25)["container"]
    print(f"SEEN 4 real threads at 0.25: {summary(seen)}")
    assert seen["threads"] == 4
    assert seen["runnable"] == pytest.approx(4, rel=TOLERANCE)
    assert seen["demand"]["upper"] == pytest.approx(4, rel=TOLERANCE)
    assert seen["demand"]["regime"] == "unidentifiable"


def test_processes_that_come_and_go_void_the_estimate(group: LimitedGroup) -> None:
    """No living process keeps what they did: only the usage is known, and PSI where there is some."""
    seen = observe(group, (short_lived_processes,) * 4, 0.25)["container"]
    print(f"SEEN short-lived processes at 0.25: {summary(seen)}")
    assert (seen["runnable"], seen["run_seconds"], seen["demand"]["upper"]) == (None, None, None)
    assert seen["demand"]["regime"] in {"rough", "unidentifiable"}


CLOSED: Program = (functools.partial(closed_loop, 0.030, 0.070),)
#: One thread for each 20 ms of work, one after the other: each process wants a core.
CHAINS: Program = (functools.partial(short_lived_threads, 0.020),)
#: A closed loop of 30 ms and 70 ms whose rounds are threads of their own.
THREAD_PER_ROUND: Program = (functools.partial(short_lived_threads, 0.030, 0.070),)


@pytest.mark.usefixtures("taskstats")
@pytest.mark.parametrize(
    ("program", "runnable", "wanted"),
    [(CHAINS * 4, 4.0, 4.0), (THREAD_PER_ROUND * 4, None, 1.2), (CLOSED * 2 + CHAINS * 2, None, 2.6)],
    ids=["short-lived", "thread per round", "long-lived and short-lived"],
)
def test_short_lived_threads_are_counted_and_hide_what_they_want(
    group: LimitedGroup, program: Program, runnable: float | None, wanted: float
) -> None:
    for _ in range(ATTEMPTS):
        seen = observe(group, program, 0.25)
        row, idle = seen["container"], seen["node"]["cpu_idle_share"]
        print(f"SEEN short-lived threads at 0.25: idle {idle:.2f} {summary(row)}")
        assert seen["node"]["accounting"] == "taskstats"
        assert (row["demand"]["regime"], row["demand"]["estimate"]) == ("unidentifiable", None)
        assert row["exited_run_seconds"] > 0
        assert row["exited_delay_seconds"] > row["exited_run_seconds"]
        counted = runnable is None or row["runnable"] == pytest.approx(runnable, rel=TOLERANCE)
        # Others on the machine: what they take from it is no longer the group's own want.
        whole = row["demand"]["upper"] == pytest.approx(row["runnable"])
        if counted and whole and row["demand"]["upper"] >= wanted * (1 - TOLERANCE):
            return
        assert idle < IDLE_NEEDED, row
    pytest.skip(f"this machine was busy with other things in {ATTEMPTS} windows")


def test_schedstat_alone_does_not_guess_what_short_lived_threads_did(group: LimitedGroup) -> None:
    seen = observe(group, CHAINS * 4, 0.25, accounting="schedstat")
    row = seen["container"]
    print(f"SEEN short-lived threads at 0.25, schedstat: {summary(row)}")
    assert seen["node"]["accounting"] == "schedstat"
    assert (row["runnable"], row["exited_run_seconds"], row["demand"]["upper"]) == (None, None, None)
    assert row["demand"]["regime"] in {"rough", "unidentifiable"}


def summary(seen: dict[str, Any]) -> str:
    demand = seen["demand"]
    return (
        f"U {seen['cpu_used']:.4f} ratio {seen['throttled_ratio']} runnable {seen['runnable']} "
        f"upper {demand['upper']} estimate {demand['estimate']} {demand['regime']}"
    )

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What threads wait for, told for real processes in real cgroups of this machine. Needs root and takes a minute or two.

Where the kernel shows a throttled thread's stack (it stops on its way to user mode since 6.18), that is a second
opinion that owes nothing to the counters the model works with. A machine busy with other things can't refute a split:
an unexpected one from such a window is measured again, and after three of them the test is skipped with that reason.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._throttling import measure

from lab.limited import ATTEMPTS, ROOT, SPINNER, LimitedGroup
from tests.cgroups.stacks import Stacks

CPUS = len(os.sched_getaffinity(0))
# Cores that neither of the groups under test used: above this, the machine's other work is part of the answer.
NOISE = 0.15
WINDOW = 5.0
# How far the split may be from what the threads' stacks show, as a share of the delay.
STACKS_TOLERANCE = 0.15

Pair = tuple[LimitedGroup, LimitedGroup]


@pytest.fixture
def groups(make_group: Callable[[], LimitedGroup]) -> Pair:
    return make_group(), make_group()


@dataclass(frozen=True)
class Split:
    """Causes as shares of the delay; `stacks` is the throttled share that stacks show, `noise` others' cores."""

    throttled: float
    contention: float
    siblings: float
    stacks: float | None
    noise: float

    def agrees_with_stacks(self) -> bool:
        return self.stacks is None or abs(self.throttled - self.stacks) <= STACKS_TOLERANCE


def start(groups: Pair, threads: int, limit: float | None, others: int) -> None:
    """Run spinners under a limit in the first group, beside others without one in the second."""
    group, other = groups
    group.limit(limit)
    for body in SPINNER * threads:
        group.start(body)
    for body in SPINNER * others:
        other.start(body)
    time.sleep(0.7)


def look(groups: Pair) -> Split:
    group, other = groups
    containers = [replace(group.container(), name="1"), replace(other.container(), name="2")]
    with Stacks(group) as stacks:
        result = measure(lambda: containers, WINDOW, 1.0, str(ROOT), "/proc")
    row, beside = result["containers"]
    cause, delay = row["cause"], row["runnable"] - row["run_seconds"] / row["window_seconds"]
    assert cause["steal"] is not None
    assert cause["throttled"] + cause["contention"] + cause["siblings"] == pytest.approx(delay)
    split = Split(
        throttled=cause["throttled"] / delay,
        contention=cause["contention"] / delay,
        siblings=cause["siblings"] / delay,
        stacks=None if stacks.mean is None else stacks.mean / delay,
        noise=CPUS * (1 - result["node"]["cpu_idle_share"]) - row["cpu_used"] - beside["cpu_used"],
    )
    print(f"SEEN delay {delay:.2f} {split}")
    return split


def expect(groups: Pair, *truths: Callable[[Split], bool]) -> Split:
    """Look until all of them hold; a quiet machine has one try."""
    for _ in range(ATTEMPTS):
        split = look(groups)
        if all(holds(split) for holds in truths):
            return split
        assert split.noise >= NOISE, split
    pytest.skip(f"this machine was busy with other things in {ATTEMPTS} windows")


@pytest.mark.parametrize(("threads", "limit"), [(1, 0.2), (CPUS, 0.3)])
def test_alone_under_a_limit_threads_wait_for_the_limit(groups: Pair, threads: int, limit: float) -> None:
    start(groups, threads, limit, others=0)
    expect(groups, lambda split: split.throttled >= 0.9, Split.agrees_with_stacks)


def test_without_a_limit_threads_wait_for_the_neighbours(groups: Pair) -> None:
    start(groups, CPUS, None, others=CPUS)
    split = expect(groups, lambda split: split.contention >= 0.9)
    assert split.throttled == 0


def test_more_threads_than_cpus_wait_for_each_other(groups: Pair) -> None:
    start(groups, 3 * CPUS, None, others=0)
    split = expect(groups, lambda split: split.siblings >= 0.85)
    assert split.throttled == 0


@pytest.mark.parametrize("threads", [1, CPUS])
def test_neighbours_take_their_part_of_a_limited_containers_waiting(groups: Pair, threads: int) -> None:
    limit = 0.25 * threads
    start(groups, threads, limit, others=0)
    alone = expect(groups, lambda split: split.throttled >= 0.9, Split.agrees_with_stacks)
    groups[0].stop()
    start(groups, threads, limit, others=CPUS)
    expect(
        groups,
        lambda split: split.contention > alone.contention + 0.1,
        lambda split: 0.2 < split.throttled < alone.throttled,
        lambda split: split.siblings < 0.05,
        Split.agrees_with_stacks,
    )

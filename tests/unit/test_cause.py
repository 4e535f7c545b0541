# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._cause import NAMES, Waiting, split_delay, stolen

# Two CPUs, nothing else on the node, no limit, nothing waits.
ALONE = Waiting(
    runnable=1.0, run=1.0, usage=1.0, cpus=2, others=0.0, idle=0.5, steal=0.0, throttled_periods=0, throttled=0.0
)
# By arithmetic: 4 spinners on 2 CPUs under a limit of 0.5 run together for 25 of every 100 ms.
LIMITED = replace(ALONE, runnable=4.0, run=0.5, usage=0.5, idle=0.75, throttled_periods=100, throttled=1.5)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (ALONE, (0, 0, 0)),
        # 6 spinners on 2 CPUs
        (replace(ALONE, runnable=6.0, run=2.0, usage=2.0, idle=0.0), (0, 0, 4)),
        # 2 spinners against 2 on 2 CPUs
        (replace(ALONE, runnable=2.0, others=1.0, idle=0.0), (0, 1, 0)),
        # 4 against 4: on each CPU one of two waits for the other, or, half of the time, both for the others
        (replace(ALONE, runnable=4.0, others=1.0, idle=0.0), (0, 2, 1)),
        # a wait that nobody on this node can have caused, without a limit
        (replace(ALONE, runnable=1.5), (0, 0, 0.5)),
        (LIMITED, (3, 0, 0.5)),
        # a kernel that reports half the throttled time: on an idle node that changes nothing
        (replace(LIMITED, throttled=0.75), (3, 0, 0.5)),
        # on a busy one it turns into contention, up to what the others can have caused
        (replace(LIMITED, throttled=0.75, others=0.25, idle=0.6), (2, 1, 0.5)),
        # a cpuset of one CPU: three of the four wait while one runs
        (replace(LIMITED, cpus=1, throttled=0.5), (2, 0, 1.5)),
        # one thread at 0.2 that gets its share late: 0.55 stopped, 0.25 behind others
        (
            replace(ALONE, run=0.2, usage=0.2, others=1.8, idle=0.0, throttled_periods=100, throttled=0.55),
            (0.55, 0.25, 0),
        ),
        # the same in one tenth of the window: ten times the threads while it works
        (replace(LIMITED, runnable=0.4, run=0.05, usage=0.05, throttled=0.15, active=0.1), (0.3, 0, 0.05)),
        # throttled time beyond the delay: never more than the delay is given out
        (replace(LIMITED, throttled=9.0), (3.5, 0, 0)),
    ],
)
def test_the_delay_goes_to_its_causes(seen: Waiting, expected: tuple[float, float, float]) -> None:
    parts = split_delay(seen)
    assert (parts["throttled"], parts["contention"], parts["siblings"]) == pytest.approx(expected)
    assert seen.runnable is not None and seen.run is not None
    assert sum(expected) == pytest.approx(seen.runnable - seen.run)


@pytest.mark.parametrize(
    ("seen", "known"),
    [
        (replace(LIMITED, runnable=None), {"steal"}),
        (replace(LIMITED, run=None), {"steal"}),
        (replace(LIMITED, cpus=None), {"steal"}),
        (replace(LIMITED, throttled_periods=None), {"steal"}),
        (replace(LIMITED, throttled=None), {"steal"}),
        (replace(LIMITED, others=None), {"steal"}),
        (replace(LIMITED, idle=None), set()),
        (replace(LIMITED, steal=None), {"throttled", "contention", "siblings"}),
        (replace(LIMITED, usage=None), {"throttled", "contention", "siblings"}),
        # Without a limit nothing is throttled, whatever else is missing.
        (replace(ALONE, others=None), {"throttled", "steal"}),
    ],
)
def test_what_was_not_measured_is_null(seen: Waiting, known: set[str]) -> None:
    parts = split_delay(seen)
    assert tuple(parts) == NAMES
    assert {name for name, value in parts.items() if value is not None} == known


@pytest.mark.parametrize(
    ("usage", "idle", "steal", "expected"),
    [
        (1.0, 0.0, 0.5, 1.0),
        (0.9, 0.1, 0.1, 0.9 * 0.1 / 0.8),
        (0.5, 0.2, 0.0, 0.0),
        (0.5, 1.0, 0.0, 0.0),
        (0.5, 0.0, 1.0, None),
        (None, 0.2, 0.1, None),
        (0.5, None, 0.1, None),
        (0.5, 0.2, None, None),
    ],
)
def test_steal(usage: float | None, idle: float | None, steal: float | None, expected: float | None) -> None:
    assert stolen(usage, idle, steal) == (None if expected is None else pytest.approx(expected))

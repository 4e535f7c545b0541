# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The split of the load average for real processes in real cgroups of this machine. Needs root and takes a minute."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils import _cgroup, _load
from ansible_collections.evenkeel.swarm.plugins.module_utils._throttling import measure

from lab.limited import ROOT, SPINNER, LimitedGroup
from tests.cgroups.stacks import Stacks

# vfork's parent waits in state D until the child, asleep here, is gone: no disk needed.
BLOCKED = """
import ctypes, time
libc = ctypes.CDLL(None)
pid = libc.syscall({vfork})
if pid == 0:
    time.sleep(60)
    libc._exit(0)
"""
VFORK = {"x86_64": 58, "ppc64le": 189, "s390x": 190}.get(os.uname().machine)


def look(group: LimitedGroup, window: float = 4.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the node's load split and the row of the group's container."""
    time.sleep(0.7)
    result = measure(lambda: [group.container()], window, 1.0, str(ROOT), "/proc")
    print("SEEN", result["node"]["load_split"])
    return result["node"]["load_split"], result["containers"][0]


def test_spinners_without_a_limit_all_count(group: LimitedGroup) -> None:
    for body in SPINNER * 5:
        group.start(body)
    split, _ = look(group)
    [mine] = split["containers"]
    assert mine["runnable"] == pytest.approx(5, rel=0.05)
    assert mine["uninterruptible"] == 0
    assert "5.0 threads of containers ready to run (under-test 5.0)" in split["text"]


def test_throttled_threads_do_not_count(group: LimitedGroup) -> None:
    group.limit(0.2)
    for body in SPINNER * 2:
        group.start(body)
    with Stacks(group) as stacks:
        split, row = look(group)
    [mine] = split["containers"]
    assert row["runnable"] == pytest.approx(2, rel=0.05)
    assert mine["runnable"] < 1.5
    # What runs, and what stands behind others: this machine may be busy.
    if stacks.mean is not None:
        assert mine["runnable"] == pytest.approx(2 - stacks.mean, abs=0.3)


@pytest.mark.skipif(VFORK is None, reason="the number of vfork on this processor is not known here")
def test_a_thread_in_state_d_is_seen(group: LimitedGroup) -> None:
    program = BLOCKED.format(vfork=VFORK)

    def body() -> None:
        os.execv(sys.executable, [sys.executable, "-c", program])  # noqa: S606

    group.start(body)
    time.sleep(1.0)
    states = [_load.parse_state(_cgroup.read_bytes(f"/proc/{process}/stat")) for process in group.processes]
    assert states == [b"D"]
    split, _ = look(group)
    [mine] = split["containers"]
    assert mine["uninterruptible"] == 1.0
    assert mine["runnable"] < 0.1


def test_a_look_at_500_threads_is_cheap(group: LimitedGroup) -> None:
    program = "import threading, time\nfor _ in range(500): threading.Thread(target=time.sleep, args=(60,)).start()"
    group.start(lambda: os.execv(sys.executable, [sys.executable, "-c", program]))  # noqa: S606
    time.sleep(2.0)
    tree = _cgroup.hierarchy(str(ROOT))
    [path] = _cgroup.container_paths(tree, [group.id]).values()
    window = _load.LoadWindow(tree, "/proc")
    costs = []
    for _ in range(5):
        before = time.process_time()
        window.look({group.id: path})
        costs.append(time.process_time() - before)
    print(f"SEEN look at 500 threads and the processes of this machine: {sorted(costs)}")
    assert sorted(costs)[2] < 0.02

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The estimator against real processes in real, limited cgroups of this machine. Needs root; takes about 3 minutes.

True demand: spinners and closed loops have it by arithmetic (run without a limit, two cores would hold four threads
up); the loads with arrivals of their own are measured without a limit. Rows run one at a time. A machine busy with
other things can't refute a row: a wrong answer from a window short of idle time is measured again, and after three
of them the row is skipped with that reason.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils import _cgroup
from ansible_collections.evenkeel.swarm.plugins.module_utils._containers import Container
from ansible_collections.evenkeel.swarm.plugins.module_utils._throttling import measure

ROOT = Path(_cgroup.DEFAULT_CGROUP_ROOT)
PERIOD_US = 100_000
TOLERANCE = 0.05
WINDOW = 6.0
ATTEMPTS = 3
# Below this idle share, others take what the programs under test would have used.
IDLE_NEEDED = 0.15

Program = tuple[Callable[[], None], ...]


class LimitedGroup:
    """A cgroup named like a container's, on whatever cgroup version this machine has."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(32)
        self.tree = _cgroup.hierarchy(str(ROOT))
        parents = [ROOT] if self.tree.version == "v2" else [ROOT / "cpu", ROOT / "cpuacct"]
        self.directories = [parent / "evenkeel-test" / self.id for parent in parents]
        self.processes: list[int] = []

    def create(self) -> None:
        if self.tree.version == "v2":
            (ROOT / "cgroup.subtree_control").write_text("+cpu")
        for directory in self.directories:
            directory.mkdir(parents=True)
            if self.tree.version == "v2":
                (directory.parent / "cgroup.subtree_control").write_text("+cpu")

    def limit(self, cores: float | None) -> None:
        quota = None if cores is None else round(cores * PERIOD_US)
        if self.tree.version == "v2":
            (self.directories[0] / "cpu.max").write_text(f"{quota or 'max'} {PERIOD_US}")
        else:
            (self.directories[0] / "cpu.cfs_quota_us").write_text(str(quota or -1))

    def start(self, body: Callable[[], None]) -> None:
        process = os.fork()
        if process == 0:
            with contextlib.suppress(BaseException):
                for directory in self.directories:
                    (directory / "cgroup.procs").write_text(str(os.getpid()))
                body()
            os._exit(0)
        self.processes.append(process)

    def stop(self) -> None:
        self.limit(None)
        # Also what the programs have started themselves.
        for process in {*self.processes, *map(int, (self.directories[0] / "cgroup.procs").read_text().split())}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for process in self.processes:
            os.waitpid(process, 0)
        self.processes = []

    def remove(self) -> None:
        for directory in self.directories:
            for path in (directory, directory.parent):
                for _ in range(50):
                    with contextlib.suppress(OSError):
                        path.rmdir()
                    if not path.exists():
                        break
                    time.sleep(0.05)

    def container(self) -> Container:
        return Container(self.id, "under-test", "running", None, None, None, None)


@pytest.fixture
def group() -> Iterator[LimitedGroup]:
    if os.geteuid() != 0:
        pytest.skip("making cgroups needs root")
    group = LimitedGroup()
    try:
        group.create()
    except OSError as error:
        group.remove()
        pytest.skip(f"cgroups can't be made here: {error}")
    yield group
    group.stop()
    group.remove()


def spin() -> None:
    while True:
        pass


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def closed_loop(busy: float, idle: float) -> None:
    while True:
        burn(busy)
        time.sleep(idle)


def hash_forever(buffer: bytes) -> None:
    while True:  # a large buffer: the lock of the interpreter is free while it is hashed
        hashlib.sha256(buffer)


def busy_threads(count: int) -> None:
    buffer = bytes(32 * 1024 * 1024)
    for _ in range(count - 1):
        threading.Thread(target=hash_forever, args=(buffer,), daemon=True).start()
    hash_forever(buffer)


def every(interval: float, action: Callable[[], object]) -> None:
    """Call `action` on a fixed grid, catching up when late: the arrivals of an open loop don't wait."""
    due = time.monotonic()
    while True:
        action()
        due += interval
        time.sleep(max(0.0, due - time.monotonic()))


def short_lived() -> None:
    while True:
        child = os.fork()
        if child == 0:
            burn(0.02)
            os._exit(0)
        os.waitpid(child, 0)


def open_loop(workers: int, interval: float, work: float) -> Program:
    """Jobs arrive whether or not the last one is done; workers take them from a pipe."""
    jobs, arrivals = os.pipe()

    def work_off() -> None:
        while os.read(jobs, 1):
            burn(work)

    return (lambda: every(interval, lambda: os.write(arrivals, b"j")), *[work_off] * workers)


SPINNER: Program = (spin,)
PROGRAMS: dict[str, Callable[[], Program]] = {
    "1 spinner": lambda: SPINNER,
    "2 spinners": lambda: SPINNER * 2,
    "closed 4 x (30, 70)": lambda: (functools.partial(closed_loop, 0.030, 0.070),) * 4,
    "closed 1 x (5, 45)": lambda: (functools.partial(closed_loop, 0.005, 0.045),),
    "open 3 ms every 10 ms": lambda: open_loop(4, 0.010, 0.003),
    "burst 2 x 150 ms/s": lambda: (lambda: every(1.0, lambda: burn(0.150)),) * 2,
}


def observe(group: LimitedGroup, program: Program, limit: float | None, window: float = WINDOW) -> dict[str, Any]:
    """Run a program under a limit and return {"node": ..., "container": ...} as the module reports them."""
    group.limit(limit)
    for body in program:
        group.start(body)
    time.sleep(0.7)
    result = measure(lambda: [group.container()], window, 1.0, str(ROOT), "/proc")
    group.stop()
    return {"node": result["node"], "container": result["containers"][0]}


@pytest.fixture(scope="module")
def truths() -> dict[str, float]:
    """Cores the programs use without a limit, as far as known; measured ones join."""
    return {"1 spinner": 1.0, "2 spinners": 2.0, "closed 4 x (30, 70)": 1.2, "closed 1 x (5, 45)": 0.1}


def truth(group: LimitedGroup, truths: dict[str, float], name: str) -> float:
    if name not in truths:
        truths[name] = observe(group, PROGRAMS[name](), None)["container"]["cpu_used"]
    return truths[name]


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


@pytest.mark.parametrize(
    ("name", "limit", "regimes"),
    [
        ("1 spinner", 0.2, {"unidentifiable"}),
        ("2 spinners", 0.2, {"unidentifiable"}),
        ("closed 4 x (30, 70)", 0.25, {"saturated"}),
        ("closed 4 x (30, 70)", 0.5, {"saturated"}),
        ("closed 4 x (30, 70)", 1.0, {"saturated"}),
        ("closed 1 x (5, 45)", 0.05, {"saturated"}),
        ("open 3 ms every 10 ms", 0.20, {"unidentifiable"}),
        ("open 3 ms every 10 ms", 0.32, {"unsaturated", "saturated"}),
        ("burst 2 x 150 ms/s", 0.35, {"unsaturated"}),
    ],
)
def test_the_estimate_is_the_truth_or_null(
    group: LimitedGroup, truths: dict[str, float], name: str, limit: float, regimes: set[str]
) -> None:
    wanted = truth(group, truths, name)
    for _ in range(ATTEMPTS):
        seen = observe(group, PROGRAMS[name](), limit)
        idle = seen["node"]["cpu_idle_share"]
        print(f"SEEN {name} at {limit}: truth {wanted:.4f} idle {idle:.2f} {summary(seen['container'])}")
        problem = contradiction(seen["container"]["demand"], wanted, regimes)
        if problem is None:
            return
        assert idle < IDLE_NEEDED, problem
    pytest.skip(f"this machine was busy with other things in {ATTEMPTS} windows")


def contradiction(demand: dict[str, Any], wanted: float, regimes: set[str]) -> str | None:
    """Say what is wrong with a demand, None if it is the truth or rightly null."""
    if demand["regime"] not in regimes:
        return f"regime {demand['regime']} is not one of {regimes}: {demand}"
    if demand["regime"] != "unidentifiable":
        right = demand["estimate"] == pytest.approx(wanted, rel=TOLERANCE)
    else:
        right = demand["estimate"] is None and demand["lower"] <= wanted <= demand["upper"] * (1 + TOLERANCE)
    return None if right else f"{demand} although the truth is {wanted}"


def test_threads_of_one_process_count_like_processes(group: LimitedGroup) -> None:
    seen = observe(group, (functools.partial(busy_threads, 4),), 0.25)["container"]
    print(f"SEEN 4 real threads at 0.25: {summary(seen)}")
    assert seen["threads"] == 4
    assert seen["runnable"] == pytest.approx(4, rel=TOLERANCE)
    assert seen["demand"]["upper"] == pytest.approx(4, rel=TOLERANCE)
    assert seen["demand"]["regime"] == "unidentifiable"


def test_threads_that_come_and_go_void_the_estimate(group: LimitedGroup) -> None:
    seen = observe(group, (short_lived,) * 4, 0.25)["container"]
    print(f"SEEN short-lived processes at 0.25: {summary(seen)}")
    assert seen["demand"]["upper"] is None
    assert seen["demand"]["regime"] in {"rough", "unidentifiable"}


def summary(seen: dict[str, Any]) -> str:
    demand = seen["demand"]
    return (
        f"U {seen['cpu_used']:.4f} ratio {seen['throttled_ratio']} runnable {seen['runnable']} "
        f"upper {demand['upper']} estimate {demand['estimate']} {demand['regime']}"
    )

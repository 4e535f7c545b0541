# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must neither crash the sampler nor make it say a wrong number, on real cgroups of this machine. Needs root."""

from __future__ import annotations

import ast
import contextlib
import functools
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils import _taskstats, _throttling

from lab.limited import ATTEMPTS, IDLE_NEEDED, ROOT, SPINNER, TOLERANCE, LimitedGroup, burn, idle_threads

MODULE_UTILS = Path(_throttling.__file__).parent
NOBODY = 65534


def look(groups: Sequence[LimitedGroup], window: float, accounting: str = "auto") -> dict[str, Any]:
    containers = [group.container() for group in groups]
    return _throttling.measure(lambda: list(containers), window, 0.5, str(ROOT), "/proc", accounting=accounting)


def spin_in(group: LimitedGroup, count: int, limit: float) -> None:
    group.limit(limit)
    for body in SPINNER * count:
        group.start(body)
    time.sleep(0.5)  # a slow (emulated) machine takes a while to fork: those not there yet would seem idle


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def at_limit(row: dict[str, Any]) -> bool:
    """Whether a group of one spinner shows what it must: its limit as usage, one runnable thread, no estimate."""
    assert row["demand"]["estimate"] is None
    return bool(
        row["cpu_used"] == pytest.approx(row["cpu_limit"], rel=TOLERANCE)
        and row["runnable"] == pytest.approx(1, rel=TOLERANCE)
        and row["demand"]["upper"] == pytest.approx(1, rel=TOLERANCE)
    )


def steadily(measured: Callable[[], dict[str, Any]], right: Callable[[dict[str, Any]], bool]) -> None:
    """Measure until the result is right; a wrong one counts unless other work had taken the processors."""
    for _ in range(ATTEMPTS):
        result = measured()
        if right(result):
            return
        assert result["node"]["cpu_idle_share"] < IDLE_NEEDED, result["containers"]
    pytest.skip(f"this machine was busy with other things in {ATTEMPTS} windows")


@pytest.mark.parametrize("accounting", ["taskstats", "schedstat"])
def test_two_thousand_threads_in_one_container(group: LimitedGroup, accounting: str) -> None:
    for _ in range(4):
        group.start(functools.partial(idle_threads, 500))
    until(lambda: group.threads() == 2000)
    spin_in(group, 2, 0.25)

    def right(result: dict[str, Any]) -> bool:
        [row] = result["containers"]
        assert row["threads"] == 2002
        assert row["demand"]["regime"] == "unidentifiable"
        return bool(
            row["runnable"] == pytest.approx(2, rel=TOLERANCE)
            and row["demand"]["upper"] == pytest.approx(2, rel=TOLERANCE)
        )

    steadily(lambda: look([group], 5, accounting), right)


def test_five_hundred_containers(make_group: Callable[[], LimitedGroup]) -> None:
    groups = [make_group() for _ in range(500)]
    busy, stopped = groups[250], groups[400]
    spin_in(busy, 1, 0.2)
    stopped.limit(0.5)

    def right(result: dict[str, Any]) -> bool:
        rows = {row["id"]: row for row in result["containers"]}
        assert len(rows) == 500
        assert (rows[stopped.id]["cpu_used"], rows[stopped.id]["threads"]) == (0, 0)
        assert all(row["demand"]["estimate"] == 0 for row in rows.values() if row["id"] != busy.id)
        assert result["node"]["totals"]["containers"] == 500
        return at_limit(rows[busy.id])

    steadily(lambda: look(groups, 4), right)


def test_a_container_that_vanishes_leaves_the_others_right(make_group: Callable[[], LimitedGroup]) -> None:
    stays = make_group()
    spin_in(stays, 1, 0.2)

    def measured() -> dict[str, Any]:
        goes = make_group()
        spin_in(goes, 1, 0.2)
        time.sleep(0.3)

        def vanish() -> None:
            goes.stop()
            goes.remove()

        timer = threading.Timer(1.2, vanish)
        timer.start()
        result = look([stays, goes], 4)
        timer.join()
        goes.create()  # so that it can be taken away like the others
        [row] = [row for row in result["containers"] if row["id"] == goes.id]
        assert (row["cpu_used"], row["runnable"], row["exited_run_seconds"]) == (None, None, None)
        assert row["demand"]["reason"] == "it ended inside the window"
        return result

    def right(result: dict[str, Any]) -> bool:
        return at_limit(next(row for row in result["containers"] if row["id"] == stays.id))

    steadily(measured, right)


def test_a_cgroup_made_anew_has_no_rates(group: LimitedGroup) -> None:
    spin_in(group, 1, 0.2)

    def renew() -> None:
        group.stop()
        group.remove()
        group.create()
        spin_in(group, 1, 0.2)

    timer = threading.Timer(1.2, renew)
    timer.start()
    [row] = look([group], 3)["containers"]
    timer.join()
    assert (row["cpu_used"], row["throttled_ratio"], row["runnable"]) == (None, None, None)
    assert row["demand"]["reason"] == "it was restarted inside the window"


def test_a_clock_that_is_set_changes_nothing(group: LimitedGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    spin_in(group, 1, 0.2)
    jumps = itertools.cycle((86400 * 365, -86400 * 365, 0))
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: next(jumps) * 10**9)
    steadily(lambda: look([group], 4), lambda result: at_limit(result["containers"][0]))


def test_nothing_reads_the_clock_that_can_be_set() -> None:
    """The process that runs the sampler could not fake it otherwise: the wall clock is not asked at all."""
    for name in ("_cgroup", "_host", "_schedstat", "_taskstats", "_throttling", "_demand"):
        for node in ast.walk(ast.parse((MODULE_UTILS / f"{name}.py").read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
                assert node.attr not in {"time", "time_ns", "localtime", "gmtime", "ctime"}, name
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "datetime" not in ast.unparse(node), name


def as_nobody(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `ask` returns in a process without any privilege."""
    answers, answer = os.pipe()
    process = os.fork()
    if process == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setuid(NOBODY)
            os.write(answer, json.dumps(ask()).encode())
        os._exit(0)
    os.close(answer)
    with open(answers, "rb") as file:  # noqa: PTH123 - a descriptor
        content = file.read()
    os.waitpid(process, 0)
    result: dict[str, Any] = json.loads(content)
    return result


def test_without_privileges_it_falls_back_and_says_why(group: LimitedGroup) -> None:
    spin_in(group, 1, 0.2)

    def right(result: dict[str, Any]) -> bool:
        assert result["node"]["accounting"] == "schedstat"
        assert "taskstats need the capability CAP_NET_ADMIN" in result["node"]["accounting_reason"]
        assert result["containers"][0]["exited_run_seconds"] is None
        return at_limit(result["containers"][0])

    steadily(lambda: as_nobody(lambda: look([group], 4)), right)


def test_unreadable_files_are_not_measured(group: LimitedGroup) -> None:
    """Of files that only root may read nothing is known, which is not nothing."""
    spin_in(group, 1, 0.2)
    hidden = [
        directory / name
        for directory in group.directories
        for name in ("cpu.stat", "cpu.cfs_quota_us", "cpu.max", "cpu.pressure", "cpuacct.usage")
        if (directory / name).exists()
    ]
    for path in hidden:
        path.chmod(0o000)
    [row] = as_nobody(lambda: look([group], 1))["containers"]
    for name in ("cpu_used", "cpu_limit", "periods", "throttled_ratio", "runnable", "run_seconds"):
        assert row[name] is None, name
    assert row["demand"] == {
        "estimate": None,
        "lower": None,
        "upper": None,
        "regime": None,
        "reason": "the CPU usage was not measured",
    }
    assert row["threads"] == 1


LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def fork_as(number: int, body: Callable[[], None]) -> bool:
    """Fork a process that gets this id, if nobody else is given it in the same moment."""
    LAST_PID.write_text(str(number - 1))
    process = os.fork()
    if process == 0:
        with contextlib.suppress(BaseException):
            if os.getpid() == number:
                body()
        os._exit(0)
    if process != number:
        os.waitpid(process, 0)
    return process == number


@pytest.mark.parametrize("accounting", ["taskstats", "schedstat"])
def test_an_id_given_to_a_new_process_in_the_window(group: LimitedGroup, accounting: str) -> None:
    if not os.access(LAST_PID, os.W_OK) or _taskstats.choose("auto", "/proc")[0] is None:
        pytest.skip("this kernel doesn't let an id be chosen, or has no taskstats")

    def work(seconds: float) -> None:
        group.join()
        burn(seconds)
        time.sleep(60)

    group.start(functools.partial(burn, 0.9))
    number = group.processes[0]
    reused: list[bool] = []

    def reuse() -> None:
        os.waitpid(number, 0)
        group.processes.clear()
        reused.append(fork_as(number, functools.partial(work, 0.4)))
        if reused[0]:
            group.processes.append(number)

    timer = threading.Timer(2.2, reuse)
    timer.start()
    [row] = look([group], 4, accounting)["containers"]
    timer.join()
    if not reused[0]:
        pytest.skip("another process was given the id first")
    # Nothing negative, nothing twice: a sum that matches the cgroup's own count, or none.
    used = row["cpu_used"] * row["window_seconds"]
    assert used == pytest.approx(1.3, abs=0.3)
    assert row["run_seconds"] is None or row["run_seconds"] == pytest.approx(used, rel=TOLERANCE)
    assert row["run_delay_seconds"] is None or row["run_delay_seconds"] >= 0
    assert row["demand"]["upper"] is None or row["demand"]["upper"] >= row["cpu_used"]

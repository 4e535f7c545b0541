# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils import _throttling
from ansible_collections.evenkeel.swarm.plugins.module_utils._containers import Container

A, B = "a" * 64, "b" * 64
SECOND = 1_000_000_000


def container(identity: str, service: str | None = "api", slot: int = 1, state: str = "running") -> Container:
    task = f"{service}.{slot}.t{identity[0]}" if service else None
    name = task or f"plain-{identity[0]}"
    return Container(identity, name, state, service, task, slot if service else None, 0 if service else None)


class Clock:
    """Monotonic time that only passes while the sampler sleeps; `events` happen at their second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.sleeps = 0
        self.events: list[Callable[[float], object]] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.now += seconds
        for event in self.events:
            event(self.now - 1000.0)


class Machine:
    """A cgroup v2 tree and a /proc of files; advance() lets each container use CPU as a spinner at its limit would."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self.root, self.clock = root, clock
        self.cgroup, self.proc = root / "cgroup", root / "proc"
        self.cgroup.mkdir()
        (self.cgroup / "cgroup.controllers").write_text("cpu\n")
        (self.proc / "pressure").mkdir(parents=True)
        (self.proc / "loadavg").write_text("1.5 2.5 3.5 2/345 6789\n")
        (self.proc / "meminfo").write_text("MemTotal:       1024 kB\nMemAvailable:    512 kB\n")
        self.quota: dict[str, float | None] = {}
        clock.events.append(self.advance)
        self.advance(0)

    def directory(self, identity: str) -> Path:
        return self.cgroup / "docker" / identity

    def start(self, identity: str, quota: float | None = 0.25) -> None:
        directory = self.directory(identity)
        directory.mkdir(parents=True)
        self.quota[identity] = quota
        limit = "max" if quota is None else str(round(quota * 1e5))
        (directory / "cpu.max").write_text(f"{limit} 100000\n")
        (directory / "cgroup.threads").write_text(f"{ord(identity[0])}\n")
        for name, value in {"memory.current": 4096, "memory.max": 8192, "memory.peak": 5000, "pids.current": 3}.items():
            (directory / name).write_text(f"{value}\n")
        (directory / "memory.stat").write_text("inactive_file 96\n")
        (directory / "memory.events").write_text("oom_kill 1\n")
        self.advance(self.clock.now - 1000.0)

    def stop(self, identity: str) -> None:
        del self.quota[identity]
        shutil.rmtree(self.directory(identity))

    def advance(self, elapsed: float) -> None:
        ticks = round(elapsed * 100)
        # Half of each processor idle.
        lines = [f"cpu{n} {500 + ticks // 2} 0 0 {500 + ticks - ticks // 2} 0 0 0 0 0 0" for n in range(1024)]
        (self.proc / "stat").write_text("\n".join(lines))
        for identity, quota in self.quota.items():
            used = (quota or 0.5) * elapsed
            throttled = 0 if quota is None else round(elapsed * 10)
            (self.directory(identity) / "cpu.stat").write_text(
                f"usage_usec {round(used * 1e6)}\nnr_periods {throttled}\nnr_throttled {throttled}\n"
                f"throttled_usec {throttled * 1000}\n"
            )
            thread = self.proc / str(ord(identity[0]))
            thread.mkdir(exist_ok=True)
            delay = 0 if quota is None else elapsed - used
            (thread / "schedstat").write_text(f"{round(used * SECOND)} {round(delay * SECOND)} {throttled}\n")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def machine(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    return Machine(tmp_path, clock)


def measure(
    machine: Machine, before: Sequence[Container], after: Sequence[Container] | None = None, window: float = 10
) -> dict[str, Any]:
    answers = iter([before, before if after is None else after])
    return _throttling.measure(lambda: list(next(answers)), window, 1, str(machine.cgroup), str(machine.proc))


def test_a_window_over_two_tasks_of_a_service(machine: Machine) -> None:
    machine.start(A)
    machine.start(B, quota=0.5)
    result = measure(machine, [container(A), container(B, slot=2)])
    first, second = result["containers"]
    assert first["cpu_used"] == pytest.approx(0.25, rel=1e-3)
    assert (first["cpu_limit"], first["periods"], first["throttled_periods"]) == (0.25, 100, 100)
    assert first["throttled_ratio"] == 1.0
    assert first["throttled_seconds"] == pytest.approx(0.1)
    assert first["run_seconds"] == pytest.approx(2.5)
    assert first["run_delay_seconds"] == pytest.approx(7.5)
    assert first["runnable"] == pytest.approx(1.0)
    # Others were busy half of the time, and the throttled time this machine reports is next to nothing.
    assert first["cause"] == pytest.approx({"throttled": 0.25, "contention": 0.5, "siblings": 0, "steal": 0}, abs=1e-3)
    assert (first["bursts"], first["pressure"]) == (None, None)
    assert first["demand"]["regime"] == "unidentifiable"
    assert first["memory"] == {"current": 4096, "working_set": 4000, "limit": 8192, "peak": 5000}
    assert (first["oom_kills"], first["pids"], first["threads"], first["verdict_grade"]) == (1, 3, 1, False)
    [service] = result["services"]
    assert (service["service"], service["containers"]) == ("api", 2)
    assert service["cpu_used"] == pytest.approx(0.75, rel=1e-3)
    assert service["cause"]["throttled"] == first["cause"]["throttled"] + second["cause"]["throttled"]
    assert (service["cpu_limit"], service["periods"], service["pids"]) == (0.75, 200, 6)
    assert service["demand"]["upper"] == pytest.approx(2.0)
    assert (service["memory"]["working_set"], service["memory"]["peak"]) == (8000, None)
    assert service["bursts"] is None
    assert [task["task"] for task in result["tasks"]] == [first["task"], second["task"]]
    node = result["node"]
    assert (node["cpus"], node["load"], node["memory_total"]) == (2, [1.5, 2.5, 3.5], 1024 * 1024)
    assert [each["runnable"] for each in node["load_split"]["containers"]] == pytest.approx([0.75, 0.75], abs=0.3)
    assert node["load_split"]["text"].startswith("Load 1.5 on 2 cores: ")
    assert node["cpu_idle_share"] == pytest.approx(0.5)
    assert (node["cgroup_version"], node["cgroup_driver"]) == ("v2", "cgroupfs")
    assert node["totals"]["cpu_used"] == pytest.approx(0.75, rel=1e-3)


def test_a_minute_is_verdict_grade(machine: Machine) -> None:
    machine.start(A)
    [row] = measure(machine, [container(A)], window=60)["containers"]
    assert row["verdict_grade"] is True
    assert row["window_seconds"] == pytest.approx(60)


def test_no_limit_is_null_and_not_saturated(machine: Machine) -> None:
    machine.start(A, quota=None)
    [row] = measure(machine, [container(A)])["containers"]
    assert (row["cpu_limit"], row["throttled_ratio"]) == (None, None)
    assert (row["demand"]["regime"], row["demand"]["estimate"]) == ("unsaturated", pytest.approx(0.5, rel=1e-3))


def test_one_look_has_levels_but_no_rates(machine: Machine, clock: Clock) -> None:
    machine.start(A)
    result = measure(machine, [container(A)], window=0)
    [row] = result["containers"]
    assert clock.sleeps == 0
    assert (row["cpu_used"], row["periods"], row["runnable"], row["window_seconds"]) == (None, None, None, None)
    assert (row["cpu_limit"], row["threads"], row["memory"]["current"]) == (0.25, 1, 4096)
    assert row["demand"]["regime"] is None
    assert (result["node"]["cpu_idle_share"], result["node"]["window_seconds"]) == (None, None)


def restart(machine: Machine) -> None:
    machine.stop(A)
    # A directory in between, so that the file system does not give the same inode again.
    (machine.root / "other").mkdir()
    machine.start(A)


@pytest.mark.parametrize(
    ("event", "after", "reason"),
    [
        (lambda machine: machine.stop(A), [], "it ended inside the window"),
        (lambda machine: machine.stop(A), [container(A)], "it ended inside the window"),
        (restart, [container(A)], "it was restarted inside the window"),
    ],
)
def test_what_does_not_run_through_has_no_rates(
    machine: Machine, clock: Clock, event: Callable[[Machine], None], after: list[Container], reason: str
) -> None:
    machine.start(A)
    clock.events.append(lambda elapsed: event(machine) if elapsed == pytest.approx(5) else None)
    result = measure(machine, [container(A)], after)
    [row] = result["containers"]
    assert row["state"] == ("running" if after else "gone")
    assert (row["cpu_used"], row["throttled_ratio"]) == (None, None)
    assert row["demand"] == {"estimate": None, "lower": None, "upper": None, "regime": None, "reason": reason}
    assert result["services"][0]["cpu_used"] is None


def test_a_container_that_starts_inside_joins_without_rates(machine: Machine, clock: Clock) -> None:
    machine.start(A)
    clock.events.append(lambda elapsed: machine.start(B) if elapsed == pytest.approx(5) else None)
    first, second = measure(machine, [container(A)], [container(A), container(B, slot=2)])["containers"]
    assert first["cpu_used"] is not None
    assert (second["cpu_used"], second["cpu_limit"], second["memory"]["current"]) == (None, 0.25, 4096)
    assert second["demand"]["reason"] == "it started inside the window"


@pytest.mark.parametrize(("before", "after"), [("paused", "running"), ("running", "paused"), ("paused", "paused")])
def test_the_demand_of_a_paused_container_is_not_known(machine: Machine, before: str, after: str) -> None:
    machine.start(A)
    [row] = measure(machine, [container(A, state=before)], [container(A, state=after)])["containers"]
    assert row["state"] == "paused"
    assert row["cpu_used"] == pytest.approx(0.25, rel=1e-3)
    assert row["demand"]["lower"] == row["cpu_used"]
    assert (row["demand"]["estimate"], row["demand"]["upper"]) == (None, None)
    assert row["demand"]["reason"] == "it is paused"


def test_a_limit_changed_inside_the_window_leaves_the_interval(machine: Machine, clock: Clock) -> None:
    machine.start(A)
    file = machine.directory(A) / "cpu.max"
    clock.events.append(lambda elapsed: file.write_text("50000 100000\n") if elapsed == pytest.approx(5) else None)
    [row] = measure(machine, [container(A)])["containers"]
    assert (row["cpu_limit"], row["demand"]["estimate"]) == (0.5, None)
    assert row["demand"]["reason"] == "the CPU limit changed inside the window"


def test_an_unreadable_limit_is_not_taken_for_none(machine: Machine) -> None:
    machine.start(A)
    (machine.directory(A) / "cpu.max").unlink()
    [row] = measure(machine, [container(A)])["containers"]
    assert (row["cpu_limit"], row["demand"]["estimate"]) == (None, None)
    assert row["demand"]["reason"] == "the CPU limit can't be read"


def test_sums_over_threads_are_null_when_threads_were_missed(machine: Machine) -> None:
    machine.start(A)
    (machine.directory(A) / "cgroup.threads").write_text("")
    [row] = measure(machine, [container(A)])["containers"]
    assert row["cpu_used"] == pytest.approx(0.25, rel=1e-3)
    assert (row["runnable"], row["run_seconds"], row["run_delay_seconds"]) == (None, None, None)
    assert (row["demand"]["upper"], row["demand"]["estimate"]) == (None, None)


def test_a_reset_counter_is_null(machine: Machine, clock: Clock) -> None:
    machine.start(A)
    clock.now += 100
    machine.advance(100)
    file = machine.directory(A) / "cpu.stat"
    clock.events.append(lambda _: file.write_text("usage_usec 1\nnr_periods 1\nnr_throttled 1\n"))
    [row] = measure(machine, [container(A)])["containers"]
    assert (row["cpu_used"], row["periods"], row["throttled_ratio"], row["throttled_seconds"]) == (None,) * 4
    assert row["demand"]["regime"] is None


def test_a_container_without_a_cgroup(machine: Machine) -> None:
    [row] = measure(machine, [container(A)])["containers"]
    assert (row["memory"]["current"], row["pids"], row["threads"]) == (None, None, None)
    assert row["demand"]["reason"] == "its cgroup was not found"


def test_outside_swarm_there_are_no_tasks_and_services(machine: Machine) -> None:
    machine.start(A)
    result = measure(machine, [container(A, service=None)])
    assert (result["tasks"], result["services"]) == ([], [])
    assert result["node"]["totals"]["containers"] == 1


def test_an_empty_host(machine: Machine) -> None:
    result = measure(machine, [])
    assert (result["containers"], result["node"]["cgroup_driver"]) == ([], None)
    assert result["node"]["totals"]["cpu_used"] == 0


def test_pressure_is_kept_for_single_rows_only(machine: Machine) -> None:
    for identity in (A, B):
        machine.start(identity)
        (machine.directory(identity) / "cpu.pressure").write_text("some avg10=1.00 avg60=2.00 avg300=3.00 total=0\n")
    both = measure(machine, [container(A), container(B, slot=2)])
    assert both["services"][0]["pressure"] is None
    assert both["tasks"][0]["pressure"]["some"] == {"share": 0.0, "avg10": 1.0, "avg60": 2.0, "avg300": 3.0}


@pytest.mark.parametrize(
    ("window", "interval", "looks"),
    [(4, 1, [1, 2, 3, 4]), (10, 60, [10]), (5, 2, [2, 5]), (0.5, 1, [0.5]), (3, 0.75, [0.75, 1.5, 2.25, 3])],
)
def test_looks_lie_on_a_grid_and_end_with_the_window(window: float, interval: float, looks: list[float]) -> None:
    assert _throttling.look_times(100.0, window, interval) == pytest.approx([100 + look for look in looks])


def test_late_looks_do_not_shift_the_grid(machine: Machine, clock: Clock) -> None:
    machine.start(A)
    clock.events.append(lambda _: setattr(clock, "now", clock.now + 0.4))
    [row] = measure(machine, [container(A)])["containers"]
    # Each of ten looks came up to 0.4 s late, the window ends no later than one of them.
    assert 10 <= row["window_seconds"] < 10.4 + 1e-6


def test_one_missing_part_makes_a_sum_missing(machine: Machine) -> None:
    machine.start(A)
    rows = measure(machine, [container(A), replace(container(B), name="z")])["containers"]
    total = _throttling.roll_up(rows)
    assert total["cause"] == dict.fromkeys(("throttled", "contention", "siblings", "steal"))
    assert (total["containers"], total["cpu_used"], total["pids"], total["memory"]["current"]) == (2, None, None, None)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils import _burst_text, _burst_watch, _cgroup
from ansible_collections.evenkeel.swarm.plugins.module_utils._containers import Container
from ansible_collections.evenkeel.swarm.plugins.modules import burst_info

A, B = "a" * 64, "b" * 64


def container(identity: str, service: str | None = "api") -> Container:
    return Container(identity, f"{service}.1.x", "running", service, f"{service}.1.x", 1, 0)


class Host:
    """A cgroup tree of files under a clock that only moves while the sampler sleeps."""

    def __init__(self, root: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.version, self.now = root, version, 0.0
        self.events: list[Callable[[float], object]] = []
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
        (root / "proc").mkdir()
        self.idle_share = 0.5
        self.ticks(0)
        self.events.append(self.ticks)
        if version == "v2":
            (root / "cgroup.controllers").write_text("cpu\n")
        else:
            (root / "cpu").mkdir()
            (root / "cpuacct").mkdir()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    @property
    def tree(self) -> _cgroup.Hierarchy:
        return _cgroup.hierarchy(str(self.root))

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for event in self.events:
            event(self.now)

    def ticks(self, now: float) -> None:
        idle = round(now * 100 * self.idle_share)
        lines = [f"cpu{number} {round(now * 100) - idle} 0 0 {idle} 0 0 0 0 0 0" for number in range(2)]
        (self.root / "proc" / "stat").write_text("\n".join(lines))

    def start(self, identity: str, quota: int | None = 25000) -> None:
        places = [self.root] if self.version == "v2" else [self.root / "cpu", self.root / "cpuacct"]
        for place in places:
            (place / "docker" / identity).mkdir(parents=True)
        if self.version == "v2":
            (self.root / "docker" / identity / "cpu.max").write_text(f"{quota or 'max'} 100000\n")
        else:
            (self.root / "cpu" / "docker" / identity / "cpu.cfs_quota_us").write_text(f"{quota or -1}\n")
            (self.root / "cpu" / "docker" / identity / "cpu.cfs_period_us").write_text("100000\n")
        self.counters(identity, 0.0)

    def counters(self, identity: str, used: float, throttled: int = 0) -> None:
        stat = f"nr_periods 9\nnr_throttled {throttled}\n"
        if self.version == "v2":
            (self.root / "docker" / identity / "cpu.stat").write_text(f"usage_usec {round(used * 1e6)}\n{stat}")
        else:
            (self.root / "cpu" / "docker" / identity / "cpu.stat").write_text(stat)
            (self.root / "cpuacct" / "docker" / identity / "cpuacct.usage").write_text(f"{round(used * 1e9)}\n")


@pytest.fixture(params=["v1", "v2"])
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, request.param, monkeypatch)


def watch(host: Host, *containers: Container) -> dict[str, Any]:
    return _burst_watch.burst_report(
        containers, 3.0, 0.01, [100.0, 1000.0], host.tree, proc_root=str(host.root / "proc")
    )


def test_a_burst_is_found_and_gets_its_limits(host: Host) -> None:
    host.start(A)
    # 60 ms of work from 1 s on.
    host.events.append(lambda now: host.counters(A, min(0.06, max(0.0, now - 1))))
    report = watch(host, container(A))
    [row] = report["containers"]
    assert row["bursts"]["count"] == 1
    assert row["bursts"]["cpu_ms"]["largest"] == pytest.approx(60)
    assert row["limits"] == [
        {"within_ms": 100.0, "p95": 0.6, "largest": 0.6, "reason": None},
        {"within_ms": 1000.0, "p95": 0.06, "largest": 0.06, "reason": None},
    ]
    assert (row["cpu_limit"], row["throttled_periods"], row["reason"]) == (0.25, 0, None)
    assert row["cpu_used"] == pytest.approx(0.02, rel=0.01)
    assert row["peaks"][0] == {"window_ms": 100, "cores": pytest.approx(0.6)}
    assert report["node"]["interval_seconds"] == pytest.approx(0.01)
    text = _burst_text.bursts_text([report])
    assert "api" in text
    assert text.splitlines()[3].split()[-2:] == ["0.6", "0.06"]


@pytest.mark.parametrize(("idle", "pause_ms", "count"), [(0.5, 25, 2), (0.1, 100, 1)])
def test_on_a_busy_node_a_wait_for_ones_turn_is_no_pause(host: Host, idle: float, pause_ms: int, count: int) -> None:
    host.start(A)
    host.idle_share = idle
    # 30 ms of work, 60 ms without, 30 ms of work
    host.events.append(lambda now: host.counters(A, min(0.03, max(0, now - 1)) + min(0.03, max(0, now - 1.09))))
    report = watch(host, container(A))
    assert report["node"]["cpu_idle_share"] == pytest.approx(idle, abs=0.01)
    assert report["node"]["pause_ms"] == pause_ms
    assert report["containers"][0]["bursts"]["count"] == count


def test_late_rounds_are_left_out_and_not_caught_up(host: Host) -> None:
    host.start(A)

    def lose_half_a_second(now: float) -> None:
        if 1.0 <= now < 1.05:
            host.now += 0.5

    host.events.append(lose_half_a_second)
    node = watch(host, container(A))["node"]
    assert node["longest_interval_seconds"] == pytest.approx(0.51, abs=0.02)
    assert node["window_seconds"] == pytest.approx(3.0, abs=0.02)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (lambda host, now: host.counters(A, 5.0 if now < 1 else 1.0), "its CPU counters were reset inside the window"),
        (lambda host, now: host.counters(A, 0, 5 if now < 1 else 1), "its CPU counters were reset inside the window"),
        (lambda host, _: [f.write_text("?") for f in host.root.rglob("cpu*.[su]*")], "its CPU counters can't be read"),
    ],
)
def test_what_goes_wrong_leaves_null_and_a_reason(
    host: Host, event: Callable[[Host, float], object], reason: str
) -> None:
    host.start(A)
    host.start(B)
    host.events.append(lambda now: event(host, now))
    first, second = watch(host, container(A), container(B, "gone"))["containers"]
    assert (first["cpu_used"], first["peaks"], first["bursts"], first["limits"]) == (None, None, None, None)
    assert first["reason"] == reason
    if reason.endswith("window"):
        assert second["reason"] == "no burst of 1 ms or more inside the window"


def test_a_container_without_a_cgroup_or_counters(host: Host) -> None:
    host.start(A)
    for file in host.root.rglob("cpu.stat"):
        file.unlink()
    first, second = watch(host, container(A), container(B))["containers"]
    assert first["reason"] == "its CPU counters can't be read: No such file or directory"
    assert second["reason"] == "its cgroup was not found"
    assert "api: its cgroup was not found." in _burst_text.bursts_text([watch(host, container(B))])


def test_without_names_the_limited_ones_are_watched(host: Host) -> None:
    host.start(A)
    host.start(B, quota=None)
    assert _burst_watch.limited([container(A), container(B), container("c" * 64)], host.tree) == [container(A)]


def test_the_text_says_why_a_burst_has_no_limit(host: Host) -> None:
    host.start(A, quota=None)
    # One thread, 300 ms of work from 1 s on.
    host.events.append(lambda now: host.counters(A, min(0.3, max(0.0, now - 1))))
    report = watch(host, container(A, "slow"))
    lines = _burst_text.bursts_text([report]).splitlines()
    cells = lines[3].split()
    assert (cells[0], cells[2], cells[-2], cells[-1]) == ("slow", "unlimited", "–", "0.3")
    assert lines[-1] == "slow: it takes 300 ms on the 1 core it was seen to use at once, whatever the limit."


def test_nothing_to_watch_is_said(host: Host) -> None:
    assert _burst_text.bursts_text([watch(host)]) == "No container to watch: none has a CPU limit."


def test_names_choose_containers_and_unknown_ones_are_told() -> None:
    here = [container(A, "api"), container(B, "web")]
    assert burst_info.chosen(here, ["api", "nope"], []) == ([here[0]], ["nope"])
    assert burst_info.chosen(here, [], ["web.1.x"]) == ([here[1]], [])


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"window": 0.5}, "window must be from 1 to 120 seconds: 0.5"),
        ({"window": float("nan")}, "window must be"),
        ({"interval": 0.05}, "interval must be from 0.002 to 0.02 seconds: 0.05"),
        ({"within": []}, "within must name at least one"),
        ({"within": [100, 0]}, "within must hold milliseconds from 1 to 60000: 0"),
        ({"within": [float("inf")]}, "within must hold"),
    ],
)
def test_bad_numbers_are_named(options: dict[str, Any], field: str) -> None:
    [error] = burst_info.option_errors({"window": 20, "interval": 0.01, "within": [100]} | options)
    assert field in error


def test_good_numbers_pass() -> None:
    assert burst_info.option_errors({"window": 120, "interval": 0.002, "within": [1, 60000]}) == []

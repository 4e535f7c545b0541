# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils import _cgroup, _load

NODE: dict[str, Any] = {"load": [21.93, 20.0, 18.0], "cpus": 4}


def row(name: str, runnable: float | None, throttled: float | None, service: str | None = None) -> dict[str, Any]:
    return {"id": name, "name": name, "service": service, "runnable": runnable, "cause": {"throttled": throttled}}


class Host:
    """A /proc and a cgroup tree of files; time only passes in sleep."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.now, self.sleeps = root, 0.0, 0
        (root / "cgroup.controllers").write_text("cpu\n")
        (root / "proc").mkdir()
        self.window = _load.LoadWindow(_cgroup.hierarchy(str(root)), str(root / "proc"))
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.sleeps += 1

    def running(self, count: int) -> None:
        (self.root / "proc" / "loadavg").write_text(f"1.00 1.00 1.00 {count}/90 4\n")

    def threads(self, name: str, states: dict[int, str]) -> None:
        """Put threads into a container; the name None leaves them outside of all."""
        for thread, state in states.items():
            (self.root / "proc" / str(thread)).mkdir(exist_ok=True)
            (self.root / "proc" / str(thread) / "stat").write_text(f"{thread} (a) D) {state} 1 2 3\n")
        if name:
            (self.root / name).mkdir(exist_ok=True)
            (self.root / name / "cgroup.threads").write_text("".join(f"{thread}\n" for thread in states))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_a_window_is_split_by_container_and_kind(host: Host) -> None:
    host.running(17)
    host.threads("a", {10: "R", 11: "D"})
    host.threads("b", {20: "S"})
    host.threads("", {1: "D", 2: "I", 3: "D"})
    host.window.look({"a": "a", "b": "b", "c": None})
    host.threads("a", {10: "R", 11: "S"})
    host.window.look({"a": "a", "b": "b", "c": None})
    host.window.sleep_until(3.0)
    assert host.now == pytest.approx(3.0)
    split = host.window.split([row("b", 1.5, 0.0, "web"), row("a", 20.0, 9.1, "crm")], NODE)
    assert split["containers"] == [
        {"name": "a", "service": "crm", "runnable": pytest.approx(10.9), "uninterruptible": 0.5},
        {"name": "b", "service": "web", "runnable": 1.5, "uninterruptible": 0.0},
    ]
    assert split["runnable_elsewhere"] == pytest.approx(16 - 12.4)
    assert split["uninterruptible_elsewhere"] == 2.0
    assert split["text"] == (
        "Load 21.9 on 4 cores: 12.4 threads of containers ready to run (crm 10.9, web 1.5), 3.6 elsewhere, "
        "2.5 waiting for the disk or the like; throttled threads (9.1) are not in it."
    )


def test_run_queues_are_sampled_off_the_grid_of_looks(host: Host) -> None:
    host.running(1)
    for due in range(1, 11):
        host.window.sleep_until(float(due))
    assert 10 / 0.35 <= host.sleeps <= 10 / 0.05
    host.window.sleep_until(3.0)
    assert host.now == pytest.approx(10.0)


def test_of_very_many_threads_some_stand_for_all(host: Host) -> None:
    host.threads("a", dict.fromkeys(range(1000, 1600), "D"))
    host.window.look({"a": "a"})
    host.running(1)
    host.window.sleep_until(1.0)
    assert host.window.split([row("a", 0.0, 0.0)], NODE)["containers"][0]["uninterruptible"] == 600


@pytest.mark.parametrize(
    ("rows", "running", "missing"),
    [
        ([row("a", None, None)], 5, {"runnable_elsewhere"}),
        ([row("a", 2.0, None)], 5, {"runnable_elsewhere"}),
        ([row("a", 1.0, 0.0)], None, {"runnable_elsewhere", "uninterruptible_elsewhere"}),
    ],
)
def test_what_was_not_measured_is_null(
    host: Host, rows: list[dict[str, Any]], running: int | None, missing: set[str]
) -> None:
    if running is not None:
        host.running(running)
    host.window.look({})
    host.window.sleep_until(1.0)
    split = host.window.split(rows, NODE)
    assert {name for name in split if split[name] is None} == missing
    assert split["text"] == "Load 21.9 on 4 cores; what it is made of was not measured."


def test_the_sentence_names_the_largest_services_and_what_is_missing(host: Host) -> None:
    host.running(9)
    host.window.sleep_until(1.0)
    rows = [row(name, amount, 0.0) for name, amount in (("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 0.5), ("e", 0.0))]
    text = host.window.split(rows, NODE | {"load": None, "cpus": 1})["text"]
    assert text == (
        "Load not measured on 1 core: 6.5 threads of containers ready to run (c 3.0, b 2.0, a 1.0, ...), "
        "1.5 elsewhere, waiting for the disk not measured; throttled threads (0.0) are not in it."
    )


@pytest.mark.parametrize(
    ("content", "running"),
    [(b"0.20 0.18 0.12 3/80 11206\n", 2), (b"0.20 0.18 0.12 1/80 1\n", 0), (b"0.2\n", None), (b"a b c d e", None)],
)
def test_running(content: bytes, running: int | None) -> None:
    assert _load.parse_running(content) == running


@pytest.mark.parametrize(("content", "state"), [(b"1 (a) b) D 2 3", b"D"), (b"", b""), (None, b""), (b"1 (a", b"")])
def test_state(content: bytes | None, state: bytes) -> None:
    assert _load.parse_state(content) == state

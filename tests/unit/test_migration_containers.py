# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a container as a switch waits for it: when its first process is gone, not when the engine has cleaned up.

The engine is a stand-in; the container's process is real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import stopping
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import Journal
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import containers

SERVICE = "com.docker.swarm.service.name"
CONTAINER = "a-container-of-this-test"
STUBBORN = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
MEEK = "import time; print(flush=True); time.sleep(60)"


class Engine:
    """A Docker engine with one container, that it goes on calling a running one after its end."""

    def __init__(self, program: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()
        self.asked: list[str] = []

    def request(self, method: str, path: str, _seconds: float) -> tuple[int, bytes]:
        words = path.partition("?")[0].split("/")[1:]
        if words == ["containers", "json"]:
            return 200, json.dumps([{"Id": CONTAINER, "Names": ["/db.1"], "Labels": {SERVICE: "db"}}]).encode()
        if method == "GET":
            state = {"Pid": self.process.pid, "Running": True}
            return 200, json.dumps({"State": state, "Config": {"StopSignal": "SIGTERM"}}).encode()
        self.asked.append(path)
        signal = 15 if path.endswith("SIGTERM") else 9
        os.kill(self.process.pid, signal)
        return 204, b""


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    engine = Engine(request.param)
    monkeypatch.setattr(containers, "_request", engine.request)
    yield engine
    engine.process.kill()
    engine.process.wait()


class Node:
    """A host whose functions run here."""

    name = "kvm4"

    def call(self, module: Any, function: str, *, timeout: float = 60, **arguments: Any) -> Any:
        del timeout
        return getattr(module, function)(**arguments)


@pytest.mark.parametrize(
    ("engine", "asked"),
    [(MEEK, ["SIGTERM"]), (STUBBORN, ["SIGTERM", "SIGKILL"])],
    indirect=["engine"],
    ids=["ends by itself", "is killed"],
)
def test_a_container_has_ended_when_its_process_has(
    engine: Engine, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "_handle", lambda _container, pid: os.pidfd_open(pid))
    host: Any = Node()
    began = time.monotonic()
    assert stopping.containers_of(host, ["db"]) == [CONTAINER]
    assert stopping.stop_containers(host, "db", 0.3)
    assert time.monotonic() - began < 5
    assert [path.partition("signal=")[2] for path in engine.asked] == asked
    assert stopping.containers_of(host, ["db"]) == []
    assert stopping.containers_on(host, ["data"]) == []
    stopping._ended.discard(CONTAINER)


@pytest.mark.parametrize("engine", [MEEK], indirect=True)
def test_a_process_that_is_not_the_containers_proves_nothing(engine: Engine) -> None:
    """Its number went to another since the engine said it: the engine's own stop, and its own account, then."""
    assert containers._handle(CONTAINER, engine.process.pid) is None
    host: Any = Node()
    assert not stopping.stop_containers(host, "db", 5)
    assert engine.asked == [f"/containers/{CONTAINER}/stop?t=5"]
    assert stopping.containers_of(host, ["db"]) == [CONTAINER]


def test_containers_are_asked_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen on Docker 26.1 after a full disk: an ended container stays listed as running, a running one as created."""
    states = {
        "ghost": ("running", False),
        "hidden": ("created", True),
        "plain": ("running", True),
        "old": ("exited", False),
    }
    broken, gone = {"dead": "dead", "kept": "running"}, {"removed": "running"}
    listed = {name: state for name, (state, _runs) in states.items()} | broken | gone

    def request(_method: str, path: str, _seconds: float) -> tuple[int, bytes]:
        words = path.partition("?")[0].split("/")[1:]
        if words == ["containers", "json"]:
            assert "all=true" in path
            rows = [
                {"Id": each, "Names": [f"/{each}"], "State": listed[each], "Labels": {SERVICE: "db"}} for each in listed
            ]
            other = {"Id": "other", "Names": ["/other"], "State": "running", "Labels": {SERVICE: "web"}}
            return 200, json.dumps([*rows, other]).encode()
        if words[1] in states:
            return 200, json.dumps({"State": {"Running": states[words[1]][1]}}).encode()
        return (404 if words[1] in gone else 500), b"{}"

    monkeypatch.setattr(containers, "_request", request)
    assert containers.running(["db"]) == ["hidden", "plain", "kept"]
    assert set(containers.mounting(["data"])) == {"hidden", "plain", "kept", "other"}


class Kernel:
    """A process table below a directory, with containers that have something mounted."""

    def __init__(self, tmp: Path) -> None:
        self.proc, self.docker = tmp / "proc", tmp / "docker"
        self.add("self", "host", "/init.scope", {})

    def directory(self, *parts: str) -> Path:
        path = self.docker.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def add(self, pid: str, space: str, cgroup: str, mounts: dict[str, Path]) -> None:
        """Add a process. `mounts`: where in it -> what."""
        process = self.proc / pid
        (process / "ns").mkdir(parents=True)
        (process / "ns/mnt").symlink_to(f"mnt:[{space}]")
        (process / "cgroup").write_text(f"0::{cgroup}\n")
        # As of a file system that is mounted at `docker`.
        lines = [
            f"7 1 0:5 /{path.relative_to(self.docker)} {at} rw - ext4 /dev/x rw\n".replace("a b", "a\\040b")
            for at, path in mounts.items()
        ]
        (process / "mountinfo").write_text("6 1 0:4 / / rw - overlay overlay rw\n" + "".join(lines))
        for at, path in mounts.items():
            there = process / f"root{at}"
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to(path)


FORGOTTEN, KNOWN, PODMANS, DEEPER = ("f" * 64, "a" * 64, "b" * 64, "d" * 64)


def test_who_has_a_directory_is_asked_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that was killed while it started a container does not know that it runs."""
    kernel = Kernel(tmp_path)
    live, parked = kernel.directory("volumes", "db", "_data"), kernel.directory("evenkeel", "db", "data")
    other, theirs = kernel.directory("volumes", "web", "_data"), kernel.directory("podman", "volumes", "db", "_data")
    part = kernel.directory("volumes", "db", "_data", "part")
    kernel.add("10", "1", f"/system.slice/docker-{FORGOTTEN}.scope", {"/var/lib/a b": parked})
    kernel.add("11", "1", f"/system.slice/docker-{FORGOTTEN}.scope", {"/var/lib/a b": parked})
    kernel.add("20", "2", f"/docker/{KNOWN}", {"/data": live})
    kernel.add("30", "3", f"/machine.slice/libpod-{PODMANS}.scope", {"/data": theirs})
    kernel.add("31", "31", f"/machine.slice/libpod-{PODMANS}.scope/container", {"/data": live})
    kernel.add("40", "4", f"/docker/{DEEPER}/init", {"/data": part})
    kernel.add("50", "5", f"/docker/{'e' * 64}", {"/data": other})
    kernel.add("60", "6", "/user.slice", {"/data": live})
    (kernel.proc / "70").mkdir()  # has just ended
    monkeypatch.setattr(containers, "_PROC", kernel.proc)
    monkeypatch.setattr(containers, "_listed_as_running", lambda: {"1" * 64})
    monkeypatch.setattr(containers, "_look", lambda each: {"State": {"Running": True}} if each == KNOWN else {})
    assert containers._having([str(live), str(parked)]) == {FORGOTTEN, KNOWN, DEEPER}
    assert containers.orphans([str(live), str(parked)]) == [DEEPER, FORGOTTEN]
    assert containers.orphans([str(other), str(tmp_path / "none/of/these")]) == ["e" * 64]


def test_one_that_ends_meanwhile_is_no_orphan_and_one_that_is_listed_is_not_asked(monkeypatch: Any) -> None:
    """Asked for a container that is just ending, the engine answers late; a switch would wait for that."""
    having, asked = [{KNOWN, DEEPER}, {KNOWN}], list[str]()

    def look(container: str) -> dict[str, Any]:
        asked.append(container)
        return {}

    monkeypatch.setattr(containers, "_having", lambda _directories: having.pop(0))
    monkeypatch.setattr(containers, "_request", lambda *_arguments: (200, json.dumps([{"Id": KNOWN}]).encode()))
    monkeypatch.setattr(containers, "_look", look)
    assert containers.orphans(["/d"]) == []
    assert asked == [DEEPER]


def test_one_that_the_engine_comes_to_know_is_no_orphan_and_others_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[bool] = []
    killed: list[str] = []
    monkeypatch.setattr(containers, "_MOMENT", 0.5)
    monkeypatch.setattr(containers, "_having", lambda _directories: {FORGOTTEN})
    monkeypatch.setattr(containers, "_listed_as_running", set)
    monkeypatch.setattr(containers, "_kill", killed.append)

    def look(_container: str) -> dict[str, dict[str, bool]]:
        known.append(len(known) > 1)
        return {"State": {"Running": known[-1]}}

    monkeypatch.setattr(containers, "_look", look)
    assert containers.end_orphans(["/d"]) == []
    assert killed == []
    monkeypatch.setattr(containers, "_look", lambda _container: {})
    assert containers.end_orphans(["/d"]) == killed == [FORGOTTEN]


def test_a_forgotten_containers_processes_are_killed_and_seen_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path("/proc")
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (tmp_path / str(process.pid)).mkdir()
        monkeypatch.setattr(containers, "_PROC", tmp_path)
        # Its control group is that of the tests.
        group = (real / str(process.pid) / "cgroup").read_text().strip().rpartition("::")[2]
        containers._kill(group)
        assert process.wait(5) == -9


def test_data_go_live_when_no_forgotten_container_has_them(tmp_path: Path) -> None:
    asked: list[tuple[str, Any]] = []

    class Host:
        name = "kvm2"

        def call(self, _module: Any, function: str, **arguments: Any) -> Any:
            asked.append((function, arguments))
            return [FORGOTTEN] if function == "end_orphans" else []

    journal = Journal("shop", "switch", tmp_path)
    stopping.bring_live(journal, cast("Any", Host()), "/docker", "db")
    directories = ["/docker/volumes/db/_data", "/docker/evenkeel/db/data"]
    assert asked == [
        ("end_orphans", {"directories": directories}),
        ("bring_live", {"root": "/docker", "volume": "db"}),
    ]
    assert journal.last("orphans_ended", node="kvm2", volumes=["db"], containers=[FORGOTTEN])
    assert stopping.orphans(cast("Any", Host()), "/docker", []) == []

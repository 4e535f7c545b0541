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
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import stopping
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

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A companion's command: it begins when the one before it has ended, as Swarm does not see to that."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import companion
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.companion import (
    alone,
    companion_spec,
    start_companion,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError

SAYS = ["sh", "-c", 'echo "$1 begins" >> "$0"; sleep "$2"; echo "$1 ends" >> "$0"']


def begin(parked: Path, said: Path, name: str, seconds: str) -> subprocess.Popen[bytes]:
    # Where these tests run in the background, SIGINT is ignored by all that they start: not so in a container.
    command = ["env", "--default-signal", *alone(str(parked), [*SAYS, str(said), name, seconds])]
    return subprocess.Popen(command, start_new_session=True)


def until_said(said: Path, what: str) -> None:
    deadline = time.monotonic() + 10
    while not (said.exists() and what in said.read_text()):
        assert time.monotonic() < deadline, said
        time.sleep(0.02)


def test_two_companions_never_have_one_copy_at_once(tmp_path: Path) -> None:
    parked, said = tmp_path / "data", tmp_path / "said"
    parked.mkdir()
    first = begin(parked, said, "first", "1")
    until_said(said, "first begins")
    second = begin(parked, said, "second", "0")
    assert [first.wait(), second.wait()] == [0, 0]
    assert said.read_text().splitlines() == ["first begins", "first ends", "second begins", "second ends"]
    assert not list(parked.iterdir()), "nothing is left where the service will find its data"


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_one_that_waits_ends_when_it_is_told_to(tmp_path: Path, told: signal.Signals) -> None:
    parked, said = tmp_path / "data", tmp_path / "said"
    parked.mkdir()
    first = begin(parked, said, "first", "60")
    try:
        until_said(said, "first begins")
        second = begin(parked, said, "second", "0")
        time.sleep(0.5)
        second.send_signal(told)
        second.wait(20)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert "second" not in said.read_text()


def test_the_command_itself_becomes_the_first_process(tmp_path: Path) -> None:
    """Its stop signal must reach the server, and the server's own arguments must be whole."""
    done = subprocess.Popen(alone(str(tmp_path), ["sh", "-c", 'echo "$$ $1"', "sh", "a b"]), stdout=subprocess.PIPE)
    assert done.communicate()[0].decode() == f"{done.pid} a b\n"
    without = alone(str(tmp_path / "nowhere"), ["echo", "runs all the same"])
    assert subprocess.run(without, capture_output=True, check=True, env=os.environ).stdout == b"runs all the same\n"


def test_a_companion_waits_for_the_copy_where_it_is_mounted() -> None:
    mounts = [{"Source": "other", "Target": "/other"}, {"Source": "data", "Target": "/var/lib/data"}]
    service = {"TaskTemplate": {"ContainerSpec": {"Image": "i", "Args": ["x"], "Mounts": mounts}}}
    spec = companion_spec(
        service, name="c", unit="shop", node_id="n", command=["server", "-x"], data={"data": "/root/parked"}
    )
    assert spec["TaskTemplate"]["ContainerSpec"]["Command"] == alone("/var/lib/data", ["server", "-x"])


class Cluster:
    """A Swarm with one service, whose task runs only if the service was made from the `works`-th creation on."""

    def __init__(self, *, there: bool, works: int) -> None:
        self.service: dict[str, Any] | None = {"ID": "s"} if there else None
        self.made, self.works, self.removed = 0, works, 0

    def find_service(self, _name: str) -> dict[str, Any] | None:
        return self.service

    def create_service(self, _spec: Any) -> None:
        self.service, self.made = {"ID": "s"}, self.made + 1

    def remove_service(self, _name: str) -> None:
        self.service, self.removed = None, self.removed + 1

    def running(self, _name: str) -> list[str]:
        return ["task"] if self.service and self.made >= self.works else []


@pytest.mark.parametrize(
    ("there", "works", "made", "removed"),
    [(True, 0, 0, 0), (True, 1, 1, 1), (False, 1, 1, 0)],
    ids=["runs", "is stuck", "is not there"],
)
def test_a_companion_that_is_stuck_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, there: bool, works: int, made: int, removed: int
) -> None:
    monkeypatch.setattr(companion, "_STUCK_SECONDS", 0)
    cluster: Any = Cluster(there=there, works=works)
    assert str(start_companion(cluster, {"Name": "c", "TaskTemplate": {}}, 0)) == "task"
    assert (cluster.made, cluster.removed) == (made, removed)


def test_a_manager_that_does_not_answer_has_nothing_removed() -> None:
    cluster: Any = Cluster(there=True, works=1)

    def running(_name: str) -> list[str]:
        raise MoveError("host_unreachable", "kvm4 does not answer")

    cluster.running = running
    with pytest.raises(MoveError, match="does not answer"):
        start_companion(cluster, {"Name": "c", "TaskTemplate": {}}, 0)
    assert cluster.removed == 0

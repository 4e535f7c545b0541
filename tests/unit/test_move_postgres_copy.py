# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PostgreSQL mover on servers that come and go: a copy that follows, a redeploy, a link that is cut."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster, Node
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Done, LocalHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Member, Part, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers import (
    postgres_context,
    postgres_copy,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Options, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import (
    Names,
    Server,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import postmaster

from tests.unit.test_move_postgres import LAYOUT


def test_a_copy_ends_when_its_node_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    # Swarm would call its task running for a day.
    def silent(_argv: object) -> None:
        raise MoveError("host_unreachable", "no answer")

    task = {"CreatedAt": "1", "Status": {"State": "running"}}
    cluster = SimpleNamespace(find_service=lambda _name: {"ID": "1"}, tasks=lambda _service: [task])
    context = SimpleNamespace(
        names=Names("shop", "db"),
        move=SimpleNamespace(cluster=cluster),
        primary=lambda: SimpleNamespace(ask=lambda _sql: None),
        part=SimpleNamespace(service="db"),
    )
    place = SimpleNamespace(name="kvm2", host=SimpleNamespace(run=silent))
    for name, seconds in (("_COPY_SECONDS", 3.0), ("_LOOK_SECONDS", 0.0), ("_SILENCE_SECONDS", 0.2)):
        monkeypatch.setattr(postgres_copy, name, seconds)
    began = time.monotonic()
    with pytest.raises(MoveError) as caught:
        postgres_copy.Copy(cast("Any", context), cast("Any", place))._await_copy(lambda **_numbers: None)
    assert caught.value.code == "host_unreachable"
    assert time.monotonic() - began > 0.2


class Unseen:
    """A copy that its service does not see before so many looks, and a log with trouble in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, log: str, looks: int) -> None:
        self.log, self.looks, self.now = log, looks, 0.0
        # The newest last, as Swarm shows them: none while one that was cut off is replaced.
        self.standbys: list[object] = ["there", None, None]
        context = SimpleNamespace(
            names=Names("shop", "db"),
            move=SimpleNamespace(options=Options()),
            primary=lambda: SimpleNamespace(ask=self._ask),
            standby=lambda _place: self.standbys.pop() if len(self.standbys) > 1 else self.standbys[0],
            last_words=lambda _place, since=None: self.log if since is None or since > 2 else "",
        )
        self.copy = postgres_copy.Copy(cast("Any", context), cast("Any", SimpleNamespace(name="kvm2")))
        monkeypatch.setattr(self.copy, "start", lambda: None)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self._sleep)

    def _ask(self, sql: str) -> Any:
        if "pg_replication_slots" in sql:
            return {"active": False, "wal_status": "reserved"}
        self.looks -= 1
        return {"state": "streaming", "lag": 0, "seconds": 0} if self.looks < 0 else None

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


GONE_ADDRESS = 'connection to server at "tasks.db" (10.0.1.52), port 5432 failed: Connection timed out'


def test_a_copy_that_met_an_address_of_before_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen after a switch with redeploys was given back: the receiver came through a moment later."""
    Unseen(monkeypatch, GONE_ADDRESS, looks=60).copy._catch_up(lambda **_numbers: None)
    for log, patience in ((GONE_ADDRESS, 90), ("FATAL: password authentication failed", 3)):
        unseen = Unseen(monkeypatch, log, looks=10**6)
        with pytest.raises(MoveError):
            unseen.copy._catch_up(lambda **_numbers: None)
        assert patience < unseen.now < patience + 2


BARE_LOG = "could not connect to the primary server: fe_sendauth: no password supplied"


def test_a_copy_without_its_secret_is_made_anew_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen with an engine that was killed while it made the companion's container: it ran without any secret."""
    unseen = Unseen(monkeypatch, BARE_LOG, looks=10**6)
    done: list[str] = []

    def stop(_place: object) -> None:
        done.append("stop")
        unseen.looks = 20

    monkeypatch.setattr(unseen.copy.context, "stop_companion", stop, raising=False)
    monkeypatch.setattr(unseen.copy, "start", lambda: done.append("start"))
    unseen.copy._catch_up(lambda **_numbers: None)
    assert done == ["start", "stop", "start"]

    unseen.looks, unseen.standbys = 10**6, ["there", None, None]
    monkeypatch.setattr(unseen.copy.context, "stop_companion", lambda _place: None)
    with pytest.raises(MoveError, match="without its secret") as caught:
        unseen.copy._catch_up(lambda **_numbers: None)
    assert caught.value.code == "no_secret", "once: what a second one does not end is said"


def test_a_standby_does_not_try_an_address_of_before_for_minutes() -> None:
    context = SimpleNamespace(
        names=Names("shop", "db"), layout=lambda: LAYOUT, part=SimpleNamespace(service="db"), passfile="/run/secrets/p"
    )
    copy = postgres_copy.Copy(cast("Any", context), cast("Any", SimpleNamespace(name="kvm2")))
    [conninfo] = [each for each in copy.command() if each.startswith("primary_conninfo=")]
    # Its receiver heeds no connect_timeout.
    assert conninfo.endswith("tcp_user_timeout=5000")
    assert "tcp_user_timeout" not in copy._conninfo(), "a backup outlives a link that is cut for a while"


def test_a_server_that_is_just_ending_is_said_to_be_so(tmp_path: Path) -> None:
    """A redeploy in a switch ends it at any moment: "No such file or directory" told nobody what to do."""
    with pytest.raises(ValueError, match="just starting, or just ending"):
        postmaster._describe(tmp_path)


#: As a server writes it, line by line: process, directory, start, port, socket, address, shared memory, status.
PID_FILE = ("7", "/data", "1795373627", "5432", "/tmp", "*", "  5794179         4", "ready   ")


def test_a_server_that_does_not_listen_yet_is_said_to_be_starting(tmp_path: Path) -> None:
    """Its socket is not known then, and by TCP it refused: seen in a reverse, after the intent."""
    (tmp_path / "cwd").symlink_to(tmp_path)
    (tmp_path / "environ").write_bytes(b"PGDATA=/data\0")
    (tmp_path / "cmdline").write_bytes(b"postgres\0")
    (tmp_path / "exe").symlink_to("/usr/bin/postgres")
    file = tmp_path / "postmaster.pid"
    for early in ((*PID_FILE[:4], ""), (*PID_FILE[:4], "", "*"), PID_FILE[:7]):
        file.write_text("\n".join(early) + "\n")
        with pytest.raises(ValueError, match="still starting"):
            postmaster._describe(tmp_path)
    file.write_text("\n".join(PID_FILE) + "\n")
    assert postmaster._describe(tmp_path)["socket"] == PID_FILE[4]


def test_a_server_that_a_redeploy_has_just_started_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen in redeploys at every step of a switch: the precopy after it came a second too early."""
    looks = iter([MoveError("failed_on_host", "no postmaster.pid yet"), MoveError("failed_on_host", "0 servers")])
    containers = iter(["ending", "new"])
    now = 0.0

    def find(_host: object, container: str, *_more: object) -> Any:
        error = next(looks, None)
        if error is not None:
            raise error
        return container

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(postgres_context, "server_in", find)
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    place = Place(LocalHost("kvm4"), Node("n", "kvm4", "10.0.0.2", 2.0, 2**30, True, True, {}), "/var/lib/docker")
    cluster = SimpleNamespace(
        running=lambda _service: [SimpleNamespace(node="kvm4", container=next(containers, "new"))],
        service=lambda _name: {"Spec": {"TaskTemplate": {"ContainerSpec": {}}}},
    )
    move = Move(Unit("shop", "kvm4", "kvm4", ()), place, place, cast("Cluster", cluster), cast("Any", None), Options())
    context = postgres_context.Context(move, Part("db", "postgres", "db", Member("db"), {}))
    assert cast("Any", context.primary()) == "new"
    looks = iter([MoveError("failed_on_host", "no server in it")] * 1000)
    context._servers.clear()
    began = now
    with pytest.raises(MoveError, match="no server in it"):
        context.primary()
    assert 15 < now - began < 16


def test_a_question_waits_for_a_server_that_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [Done(2, "", "FATAL:  the database system is starting up"), Done(0, "7\n", "")]
    host = SimpleNamespace(name="kvm4", run=lambda *_argv, **_named: answers.pop(0))
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    server = Server(cast("Any", host), "c", "/bin/postgres", "1:1", "/tmp", 5432, "postgres")
    assert server.ask("SELECT 7") == 7
    answers = [Done(2, "", "FATAL:  password authentication failed")]
    with pytest.raises(MoveError, match="password"):
        server.ask("SELECT 7")

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of a move on the target: what counts as one, and what a broken-off one leaves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Node
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Done, LocalHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers import backups
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.backups import Target
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import pg_backup


class Host(LocalHost):
    """A host with containers that nothing but `docker rm` ends."""

    def __init__(self, *containers: str) -> None:
        super().__init__("kvm2")
        self.containers = set(containers)

    def run(self, argv: Sequence[str], **more: Any) -> Done:
        if argv[0] != "docker":
            return super().run(argv, **more)
        assert argv[1] == "rm"
        self.containers.discard(argv[-1])
        return Done(0, "", "")


def target(directory: Path, prefix: str, *containers: str) -> tuple[Target, Host]:
    host = Host(*containers)
    node = Node("n", "kvm2", "10.0.0.2", 2.0, 2**30, True, False, {})
    return Target(Place(host, node, "/var/lib/docker"), str(directory), "move", prefix, "shop"), host


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """One proven backup of each of two parts, and what a kill left of a second one of the first."""
    for prefix in ("cache-", "cache-2-"):
        where, _host = target(tmp_path, prefix)
        path = Path(where.new("rdb"))
        path.write_bytes(b"data")
        where.prove(str(path), {"bytes": 4})
    (tmp_path / "cache-20200101T000000Z.rdb").write_bytes(b"whole, but nobody has loaded it")
    (tmp_path / "cache-20200102T000000Z.rdb.part").write_bytes(b"half")
    (tmp_path / "cache-20200103T000000Z.tar.unpacked" / "deep").mkdir(parents=True)
    # Another part's, that is being written now.
    (tmp_path / "cache-2-20200102T000000Z.rdb.part").write_bytes(b"half")
    return tmp_path


def test_what_a_broken_off_backup_left_goes_and_nothing_else(kept: Path) -> None:
    where, host = target(kept, "cache-", "evenkeel-scratch-shop-cache", "evenkeel-scratch-shop-cache-2")
    where.clear()
    left = sorted(each.name for each in kept.iterdir())
    assert [name for name in left if "2020010" in name] == ["cache-2-20200102T000000Z.rdb.part"]
    assert len(left) == 5
    # It would run for ever, with all data in it.
    assert host.containers == {"evenkeel-scratch-shop-cache-2"}
    assert where.proven()


def test_the_backup_of_a_part_with_a_longer_name_proves_nothing(kept: Path) -> None:
    for file in kept.glob("cache-20*.rdb*"):
        file.unlink()
    assert target(kept, "cache-2-")[0].proven()
    assert not target(kept, "cache-")[0].proven()


def test_an_unfinished_backup_of_postgresql_goes(tmp_path: Path) -> None:
    pg_backup.begin(str(tmp_path), "1")
    pg_backup.finish(str(tmp_path), "1", {"files": [], "proven": True}, 7)
    pg_backup.begin(str(tmp_path), "2")
    pg_backup.clear(str(tmp_path))
    assert [each.name for each in tmp_path.iterdir()] == ["1"]
    pg_backup.clear(str(tmp_path / "never made"))


class Prover(LocalHost):
    """A host that loads a backup in a container at once."""

    def __init__(self) -> None:
        super().__init__("kvm2")
        self.ran: list[list[str]] = []

    def run(self, argv: Sequence[str], **_more: Any) -> Done:
        self.ran.append(list(argv))
        return Done(0, "", "")

    def call(self, module: Any, function: str, *, timeout: float = 60, **arguments: Any) -> Any:
        del module, function, timeout, arguments
        return {"replies": ["loading:0\r\ndb0:keys=3,expires=0\r\n"]}


def test_the_server_that_proves_a_backup_takes_no_writes_and_goes() -> None:
    host = Prover()
    place = SimpleNamespace(host=host)
    servers = SimpleNamespace(
        move=SimpleNamespace(source=place, target=place, unit=SimpleNamespace(name="shop")),
        explore_service=lambda _place: {"info": {}, "modules": []},
        spec=lambda: {"TaskTemplate": {"ContainerSpec": {"Image": "redis"}}},
    )
    assert backups._loaded(cast("Any", servers), "/b.rdb", "scratch") == {"keys": {"db0": 3}}
    [created] = [argv for argv in host.ran if argv[1] == "create"]
    assert created[created.index("--min-slaves-to-write") + 1] == "1"
    assert created[created.index("--network") + 1] == "none"
    assert host.ran[-1] == ["docker", "rm", "-f", "-v", "scratch"]


#: A `docker` that lists containers from a file, and says of one of them that it runs and of one that it does not.
DOCKER = """#!/bin/sh
case "$1 $2" in
"ps -aq") cat "$LISTED" ;;
"inspect --format") case "$4" in hidden) echo true ;; ended) echo false ;; *) exit 1 ;; esac ;;
"exec -u") echo "exec $4" >> "$LISTED.asked" ;;
*) exit 9 ;;
esac
"""


@pytest.fixture
def daily(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The configuration of a daily backup, with a `docker` that plays the engine after a full disk."""
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LISTED", str(tmp_path / "listed"))
    settings = {"socket": "/tmp", "port": 5432, "superuser": "postgres", "user": "999", "programs": "/usr/bin"}
    return {"service": "shop-db", "directory": str(tmp_path / "backups"), "keep": 7, **settings}


def test_the_daily_backup_finds_a_server_that_the_engine_lists_as_not_started(
    daily: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "listed").write_text("removed\nended\nhidden\n")
    assert pg_backup.back_up(daily).startswith("shop-db is backed up in ")
    assert set((tmp_path / "listed.asked").read_text().split()) == {"exec", "hidden"}
    [kept] = (tmp_path / "backups").iterdir()
    assert (kept / "globals.sql").is_file()


def test_the_daily_backup_does_nothing_where_the_service_does_not_run(daily: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "listed").write_text("ended\n")
    assert pg_backup.back_up(daily) == "shop-db does not run here: nothing to back up"
    assert not (tmp_path / "backups").exists()

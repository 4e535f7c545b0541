"""Volumes of a move: removed though ended containers still name them; taken back whenever a kill came."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster, Node
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Done, Host, LocalHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import Journal
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Member, Part, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Options, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_context import Context
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_prepare import Preparation
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.volumes import Volume, remove_volume
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import containers, copies
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step


class Engine:
    """A host whose engine has one volume, and ended containers on it; as Docker does, it keeps a volume in use."""

    def __init__(self, *containers: str) -> None:
        self.containers = set(containers)
        self.volumes = {"data"}

    def run(self, argv: list[str], **_more: Any) -> Done:
        match argv[1:]:
            case ["volume", "inspect", name]:
                return Done(0 if name in self.volumes else 1, "", "")
            case ["ps", *_rest]:
                return Done(0, "\n".join(sorted(self.containers)), "")
            case ["rm", container]:
                self.containers.discard(container)
            case ["volume", "rm", name]:
                assert not self.containers, "volume is in use"
                self.volumes.discard(name)
        return Done(0, "", "")


def test_ended_containers_of_a_volume_go_with_it() -> None:
    """Swarm keeps a few of each service: a cancel after a switch there and back met them."""
    engine = Engine("c1", "c2")
    remove_volume(cast("Host", engine), "data")
    assert engine.volumes == set()


def test_without_the_volume_nothing_is_touched() -> None:
    engine = Engine("c1")
    engine.volumes.clear()
    remove_volume(cast("Host", engine), "data")
    assert engine.containers == {"c1"}


class Killed(BaseException):
    """A kill -9 of the engine."""


class Target(LocalHost):
    """The other host: its volumes are directories. `kill`: how many more of its calls come through, None for all."""

    def __init__(self, root: Path) -> None:
        super().__init__("kvm2")
        self.root = root
        self.kill: int | None = None

    def come_through(self) -> None:
        if self.kill is not None:
            self.kill -= 1
            if self.kill < 0:
                raise Killed

    def call(self, module: ModuleType, function: str, *, timeout: float = 60, **arguments: Any) -> Any:
        del timeout
        self.come_through()
        return {} if module is containers else getattr(module, function)(**arguments)

    def run(self, argv: Sequence[str], **more: Any) -> Done:
        self.come_through()
        if argv[0] != "docker":
            return super().run(argv, **more)
        volume = self.root / "volumes" / argv[-1]
        match argv[1:3]:
            case ["volume", "inspect"]:
                return Done(0 if volume.exists() else 1, "", "")
            case ["volume", "create"]:
                (volume / "_data").mkdir(parents=True, exist_ok=True)
            case ["volume", "rm"]:
                for directory in (volume / "_data", volume):
                    if directory.exists():
                        directory.rmdir()
        return Done(0, "", "")

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.glob("*/*"))


LAYOUT = {
    "volume": "data", "mount": "/data", "relative": "pg", "exe": "/pg/bin/postgres", "argv": ["postgres"], "uid": 0,
    "gid": 0, "pgdata": None, "socket": "/tmp", "port": 5432, "superuser": "postgres", "owner": [0, 0], "mode": 0o700,
}  # fmt: skip


def making(kind: str, host: Target, journal: Journal) -> Step:
    """Return the step that makes the target's place for a copy."""
    place = Place(host, Node("n", "kvm2", "10.0.0.2", 2.0, 2**30, True, False, {}), str(host.root))
    home = Place(
        LocalHost("kvm4"), Node("m", "kvm4", "10.0.0.1", 4.0, 2**30, True, True, {}), str(host.root.with_name("home"))
    )
    service = {"Spec": {"Name": "db", "TaskTemplate": {"ContainerSpec": {"Mounts": [{"Source": "data"}]}}}}
    cluster = cast("Cluster", type("Swarm", (), {"service": lambda _self, _name: service})())
    move = Move(Unit("shop", "kvm4", "kvm2", ()), home, place, cluster, journal, Options())
    part = Part("db", kind, "db", Member("db"), {"data": "/data"})
    if kind == "postgres":
        journal.before("layout:db", lambda: LAYOUT)
        return Preparation(Context(move, part)).place()
    return Volume(move, part, "data").make()


@pytest.mark.parametrize("kind", ["postgres", "redis"])
@pytest.mark.parametrize("calls", range(12))
def test_a_place_that_was_half_made_when_the_kill_came_is_taken_back(kind: str, calls: int, tmp_path: Path) -> None:
    """Left live on the target the volume would be a second one, and cancel would not know it."""
    host, journal = Target(tmp_path / "docker"), Journal("shop", "prepare", tmp_path / "state")
    host.root.mkdir()
    step = making(kind, host, journal)
    host.kill = calls
    with contextlib.suppress(Killed):
        step.do(lambda **_numbers: None)
    host.kill = None
    # A second live one would be a contradiction, and no verb would lead on.
    assert copies.states(str(host.root), ["data"])["data"] in (copies.EMPTY, copies.NEITHER, copies.PARKED)
    undo = making(kind, host, journal).undo
    assert undo is not None
    undo()
    assert host.left() == []


@pytest.mark.parametrize("kind", ["postgres", "redis"])
@pytest.mark.parametrize("calls", range(8))
def test_taking_a_place_back_goes_on_after_a_kill(kind: str, calls: int, tmp_path: Path) -> None:
    host, journal = Target(tmp_path / "docker"), Journal("shop", "prepare", tmp_path / "state")
    host.root.mkdir()
    step = making(kind, host, journal)
    step.do(lambda **_numbers: None)
    assert step.probe()
    assert step.undo is not None
    host.kill = calls
    with contextlib.suppress(Killed):
        step.undo()
    host.kill = None
    step.undo()
    assert host.left() == []

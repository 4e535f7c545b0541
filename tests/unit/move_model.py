# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A model of two hosts on which the engine moves a unit: test_migration_model.py breaks it at every touch.

The services' own workings are the model's; the order of things is the engine's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster, Node
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.engine import Engine
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import PROMOTION, Journal
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Member, Part, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import (
    Move,
    Mover,
    Options,
    Place,
    Readiness,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.setting import Setting
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.tools import Tools
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.watch import Watcher

HOME, TARGET = "kvm4", "kvm2"
MEMBERS = (Member("db"), Member("api"))
UNIT = Unit("shop", HOME, TARGET, MEMBERS)
PARTS = (Part("db", "postgres", "db", MEMBERS[0], {"data": "/data"}), Part("api", "app", "api", MEMBERS[1], {}))
BEFORE = {"prepare": (), "precopy": ("prepare",), "switch": ("prepare", "precopy")}
BEFORE["reverse"] = (*BEFORE["switch"], "switch")


class Killed(BaseException):
    """A kill -9 of the engine."""


class World:
    """Two hosts with a database on a volume. Clients write at every moment that it runs; each write is acknowledged.

    `left`: touches until the fault, None for none. `failing`: how many touches fail then; 0: the engine is killed, and
    below 0 somebody redeploys.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self.at: dict[str, str] = {HOME: "live", TARGET: "neither"}
        self.lease: set[str] = set()
        self.runs: dict[str, set[str]] = {"db": {HOME}, "api": {HOME}}
        self.holds: dict[str, int] = {HOME: 0, TARGET: 0}
        self.follows: set[str] = set()
        self.pinned = False
        self.acknowledged = 0
        self.until: float | None = None
        self.instructions: dict[str, Any] = {}
        self.left: int | None = None
        self.failing = 0
        self.dead = False
        self.lock = threading.RLock()

    def touch(self) -> None:
        """Let clients write; then the fault comes if it is its turn."""
        with self.lock:
            if self.dead:
                raise Killed
            assert sum(state == "live" for state in self.at.values()) <= 1, self.at
            for node in self.runs["db"]:
                self.acknowledged += 1
                self.holds[node] += 1
                for copy in self.follows - {node}:
                    self.holds[copy] = self.holds[node]
            if self.left is None:
                return
            self.left -= 1
            if self.left < 0:
                self._break()

    def _break(self) -> None:
        if self.failing < 0:
            self.left = None
            self.redeploy()
            return
        if not self.failing:
            self.dead = True
            raise Killed
        self.failing -= 1
        if not self.failing:
            self.left = None
        raise MoveError("host_unreachable", "no answer")

    def redeploy(self) -> None:
        """Replace the services' whole specs, as Dokploy does: no lease, to run on the manager, where home is."""
        self.pinned = False
        self.runs.update(db={HOME} if self.at[HOME] == "live" else set(), api={HOME})

    def do(self, change: Callable[[], object]) -> None:
        """Change the world: what breaks does so before or after it."""
        self.touch()
        with self.lock:
            change()
        self.touch()

    def move_data(self, node: str, now: str) -> None:
        self.do(lambda: self.at.__setitem__(node, now))

    def start(self, service: str, node: str) -> None:
        if service == "db" and (self.at[node] != "live" or self.lease != {node}):
            raise MoveError("start_failed", f"no data or no lease on {node}: {self.at}, {self.lease}")
        self.do(lambda: self.runs.__setitem__(service, {node}))


class Model:
    """Steps on the world."""

    def __init__(self, world: World, move: Move) -> None:
        self.world, self.move = world, move
        self.source, self.target = move.source.name, move.target.name

    def step(
        self, what: str, probe: Callable[[], bool], do: Callable[[], object], undo: Callable[[], object] | None = None
    ) -> Step:
        def looked() -> bool:
            self.world.touch()
            return probe()

        identifier = f"{self.move.journal.verb}.{what}"
        return Step(identifier, what, HOME, looked, lambda _tell: cast("None", do()), undo=cast("Any", undo))

    def check(self, what: str, holds: Callable[[], bool]) -> Step:
        def look() -> bool:
            self.world.touch()
            if not holds():
                raise MoveError("not_so", what)
            return True

        return Step(what, what, HOME, look, lambda _tell: None, changes=False)


class Lease(Model):
    """Stands for the module lease."""

    def give_to(self, nodes: set[str]) -> None:
        self.world.do(lambda: setattr(self.world, "lease", nodes))

    def pin(self) -> Sequence[Step]:
        world = self.world
        label = self.step("lease", lambda: world.lease == {self.source}, lambda: self.give_to({self.source}))
        pins = self.step("pin", lambda: world.pinned, lambda: world.do(lambda: setattr(world, "pinned", True)))
        return [label, pins]

    def unpin(self) -> Sequence[Step]:
        world = self.world
        pins = self.step("unpin", lambda: not world.pinned, lambda: world.do(lambda: setattr(world, "pinned", False)))
        return [pins, self.step("unlease", lambda: not world.lease, lambda: self.give_to(set()))]

    def withdraw(self) -> Step:
        return self.step("withdraw", lambda: not self.world.lease, lambda: self.give_to(set()))

    def give(self, node: str) -> Step:
        return self.step("give", lambda: self.world.lease == {node}, lambda: self.give_to({node}))

    def stop(self, service: str) -> Step:
        runs = self.world.runs
        return self.step(
            f"stop {service}", lambda: not runs[service], lambda: self.world.do(lambda: runs.update({service: set()}))
        )

    def start(self, service: str, node: str) -> Step:
        runs = self.world.runs
        return self.step(f"start {service}", lambda: runs[service] == {node}, lambda: self.world.start(service, node))


class Leases:
    """The module lease on a world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(move: Move, *given: Any) -> Any:
            named = [getattr(each, "name", each) for each in given]
            return getattr(Lease(self.world, move), name)(*(named if name not in ("pin", "unpin") else ()))

        return ask


class Database(Model):
    """A database with a copy that follows, and is let go at the end of a switch's first half, as that of Redis."""

    def __init__(self, world: World, move: Move, part: Part) -> None:
        super().__init__(world, move)
        self.part = part

    def prepare(self) -> Sequence[Step]:
        at, target = self.world.at, self.target
        return [self.step("place", lambda: at[target] == "parked", self._make, self._remove)]

    def _make(self) -> None:
        # As Docker makes a volume.
        self.world.move_data(self.target, "empty")
        self.world.move_data(self.target, "parked")

    def _remove(self) -> None:
        if self.world.at[self.target] in ("empty", "parked"):
            self.world.move_data(self.target, "neither")

    def backup(self) -> Sequence[Step]:
        return []

    def precopy(self) -> Sequence[Step]:
        return [self._following(self.target)]

    def follow(self) -> Sequence[Step]:
        return [self._following(self.source)]

    def _following(self, node: str) -> Step:
        world = self.world
        [other] = {self.source, self.target} - {node}

        def begin() -> None:
            if world.runs["db"] != {other} or world.at[node] != "parked":
                raise MoveError("not_running", f"{world.runs} {world.at}")
            world.do(lambda: world.holds.update({node: world.holds[other]}))
            world.do(lambda: world.follows.add(node))

        end = lambda: world.do(lambda: world.follows.discard(node))  # noqa: E731
        return self.step("follow", lambda: node in world.follows, begin, end)

    def readiness(self) -> Readiness:
        self.world.touch()
        return Readiness(self.target in self.world.follows, "follows or not")

    def settle(self) -> Sequence[Step]:
        return [self.step("settle", self._settled, self._settle)]

    def _settle(self) -> None:
        self.move.journal.write("settled", source=self.source)
        self.world.touch()

    def _settled(self) -> bool:
        return self.move.journal.last("settled", source=self.source) is not None

    def park(self) -> Sequence[Step]:
        at, source = self.world.at, self.source
        return [
            self.step(
                "park", lambda: at[source] == "parked", lambda: self.world.move_data(source, "parked"), self._bring_back
            )
        ]

    def _bring_back(self) -> None:
        if self.world.at[self.source] == "parked":
            self.world.move_data(self.source, "live")

    def meanwhile(self) -> Sequence[Step]:
        return []

    def stopped(self) -> Sequence[Step]:
        world = self.world
        end = lambda: world.do(lambda: world.follows.discard(self.target))  # noqa: E731
        return [
            self.check("off", lambda: not world.runs["db"]),
            self.check("gate", lambda: world.holds[self.target] == world.acknowledged),
            self.step("let go", lambda: self.target not in world.follows, end),
        ]

    def undo_on_hosts(self) -> Sequence[Any]:
        return []

    def take_over(self) -> Sequence[Step]:
        def live() -> None:
            marks = [each["event"] for each in Journal(UNIT.name, "look", self.world.state).entries]
            assert PROMOTION in marks, "nothing may be promoted before its intent"
            self.world.move_data(self.target, "live")

        return [self.step("live", lambda: self.world.at[self.target] == "live", live)]

    def verify(self) -> Sequence[Step]:
        return [self.check("identity", lambda: self.world.runs["db"] == {self.target})]


class Application(Model):
    """A service without data."""

    def __init__(self, world: World, move: Move, part: Part) -> None:
        super().__init__(world, move)
        self.part = part

    def readiness(self) -> Readiness:
        return Readiness(True, "can start")

    def verify(self) -> Sequence[Step]:
        return [self.check("healthy", lambda: bool(self.world.runs["api"] and self.world.runs["db"]))]

    def __getattr__(self, _stage: str) -> Callable[[], Sequence[Step]]:
        return lambda: []


class ModelTools(Tools):
    """The world behind the engine."""

    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def lease(self) -> Any:
        return Leases(self.world)

    def find_parts(self, *_given: Any) -> tuple[Part, ...]:
        return PARTS

    def mover(self, move: Move, part: Part) -> Mover:
        return cast("Mover", (Database if part.key == "db" else Application)(self.world, move, part))

    def plan(self, *_given: Any) -> dict[str, Any]:
        return {"traps": []}


class ModelWatcher(Watcher):
    """The watcher, without systemd."""

    def __init__(self, world: World) -> None:
        super().__init__(UNIT.name, world.state / UNIT.name)
        self.world = world

    def until(self) -> float | None:
        return self.world.until

    def arm(self, instructions: Any, seconds: float) -> None:
        self.world.touch()
        self.world.until, self.world.instructions = time.time() + seconds, dict(instructions)
        self.world.touch()

    def armed(self) -> bool:
        return self.world.until is not None

    def wait_for_strays(self) -> None:
        self.world.touch()

    def give_back(self, verb: str) -> bool:
        world, source = self.world, self.world.instructions["source"]
        journal = Journal(UNIT.name, verb, world.state)
        if not journal.unfence():
            return False
        if world.at[source] == "parked":
            world.move_data(source, "live")
        world.do(lambda: setattr(world, "lease", {source}))
        for service in world.instructions["services"] or ("db", "api"):
            world.start(service, source)
        journal.write("given_back", source=source)
        self.disarm()
        return True

    def disarm(self) -> None:
        self.world.do(lambda: setattr(self.world, "until", None))


class ModelHost(Host):
    """A host that says where the volume's data are."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name

    def call(self, module: Any, function: str, *, timeout: float = 60, **arguments: Any) -> Any:
        del module, timeout, arguments
        assert function == "states"
        self.world.touch()
        return {"data": self.world.at[self.name]}

    def _argv(self, argv: Sequence[str], env: Any) -> list[str]:
        raise NotImplementedError

    def _raise_if_unreachable(self, done: Any) -> None:
        raise NotImplementedError


class ModelCluster:
    """The Swarm of a world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def nodes(self) -> dict[str, Node]:
        self.world.touch()
        labels = {name: {UNIT.lease: "1"} if name in self.world.lease else {} for name in (HOME, TARGET)}
        return {name: Node(name, name, "", 2.0, 1, True, name == HOME, labels[name]) for name in labels}

    def running(self, service: str) -> list[Any]:
        self.world.touch()
        return [type("Task", (), {"node": node})() for node in self.world.runs[service]]


def run(world: World, verb: str) -> dict[str, Any]:
    """Run a verb in an engine of its own; returns its result, with an error if it failed."""
    cluster = ModelCluster(world)
    node = Node("n", "n", "", 2.0, 1, True, True, {})
    places = {name: Place(ModelHost(world, name), Node(name, name, *_rest(node)), "/root") for name in (HOME, TARGET)}
    setting = Setting(UNIT, cast("Cluster", cluster), places, Options(), world.state, "", ModelTools(world))
    engine = Engine(setting, verb, lambda _event, _data: None)
    engine.watcher = ModelWatcher(world)
    write = engine.journal.write

    def written(event: str, **data: Any) -> None:
        world.touch()
        write(event, **data)
        world.touch()

    engine.journal.write = written  # type: ignore[method-assign]
    try:
        return engine.run()
    except MoveError as error:
        return engine.after(error)


def _rest(node: Node) -> tuple[Any, ...]:
    return node.address, node.cpus, node.memory, node.ready, node.manager, node.labels

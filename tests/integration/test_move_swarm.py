"""The Swarm side of a move on a real Swarm: lease, start and stop, images, health, drain, traps, plan."""

from __future__ import annotations

import copy
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import lease
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import SshHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import Journal
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Member, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Options, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage, Step, Walk
from ansible_collections.evenkeel.swarm.plugins.module_utils._swarm import Swarm as Api

from lab import hosts
from lab.settings import Settings
from tests.integration.harness import LEFT_BY_TESTS, Spec, Swarm, wait_for

# Takes its time to stop, and writes down what happens to it.
SLOW_TO_STOP = (
    'echo "start $HOSTNAME" >> /data/log; trap \'sleep 2; echo "end $HOSTNAME" >> /data/log; exit 0\' TERM; '
    "while :; do sleep 0.1; done"
)


@dataclass
class World:
    """One unit of one test: its move, and the Swarm as a bystander sees it."""

    move: Move
    swarm: Swarm
    settings: Settings
    image: str

    @property
    def prefix(self) -> str:
        return self.move.unit.name

    def walk(self, *stages: Stage) -> list[str]:
        """Walk stages; returns the ids of the steps that changed something."""
        walk = Walk(self.move.journal, lambda _event, _data: None)
        walk.forward(stages)
        return [outcome["step"] for outcome in walk.outcomes if outcome["outcome"] == "did"]

    def back(self, *steps: Step) -> None:
        Walk(self.move.journal, lambda _event, _data: None).back(steps)

    def shell(self, host: str, command: str) -> str:
        return hosts.ssh(self.settings, host, command)

    def create(self, suffix: str, *, command: str = SLOW_TO_STOP, **more: Any) -> str:
        """Make a service as Dokploy does: whole spec, on the manager, start-first, rollback."""
        name = f"{self.prefix}-{suffix}"
        self.swarm.create(dokploy_spec(name, self.image, command, **more))
        self.swarm.wait_running(name)
        return name

    def redeploy(self, name: str, spec: Spec) -> None:
        """Replace the whole spec, as Dokploy's deploy does: nothing that was set from outside stays."""

        def whole(now: Spec) -> None:
            force = now["TaskTemplate"].get("ForceUpdate", 0) + 1
            now.clear()
            now.update(copy.deepcopy(spec))
            now["TaskTemplate"]["ForceUpdate"] = force

        self.swarm.update(name, whole)

    def at(self, name: str) -> dict[str, str]:
        """Container -> hostname, by the engines."""
        return lease.containers(self.move, name)

    def task_ids(self, name: str) -> set[str]:
        return {task["ID"] for task in self.swarm.running(name)}

    def log(self, host: str, volume: str) -> list[str]:
        return self.shell(host, f"cat /var/lib/docker/volumes/{volume}/_data/log").splitlines()

    def lease_at(self) -> list[str]:
        nodes = self.move.cluster.nodes().values()
        return sorted(node.hostname for node in nodes if self.move.unit.lease in node.labels)


def dokploy_spec(name: str, image: str, command: str, *, volume: bool = True, **container: Any) -> Spec:
    mounts = [{"Type": "volume", "Source": f"{name}-data", "Target": "/data"}] if volume else []
    return {
        "Name": name,
        "Labels": {LEFT_BY_TESTS: name},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": image,
                "Command": ["sh", "-c", command],
                "Mounts": mounts,
                "StopGracePeriod": 10_000_000_000,
                **container,
            },
            "Placement": {"Constraints": ["node.role==manager"]},
            "Resources": {"Limits": {"MemoryBytes": 128 * 2**20}},
            "RestartPolicy": {"Condition": "any", "Delay": 500_000_000},
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "UpdateConfig": {"Parallelism": 1, "FailureAction": "rollback", "Order": "start-first"},
        "EndpointSpec": {"Mode": "dnsrr"},
    }


@pytest.fixture(scope="module")
def image(lab: Settings) -> str:
    return (lab.directory / "pushed-app").read_text()


@pytest.fixture(scope="module")
def cluster(lab: Settings) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="evenkeel-") as directory:
        socket = Path(directory) / "docker.sock"
        with hosts.tunnel(lab, "kvm4", socket):
            yield Cluster(Api(f"unix://{socket}"))


@pytest.fixture
def world(lab: Settings, swarm: Swarm, cluster: Cluster, image: str, tmp_path: Path) -> Iterator[World]:
    prefix = f"m{uuid.uuid4().hex[:6]}"
    mux = tempfile.mkdtemp(prefix="evenkeel-ssh-")
    options = ["-F", str(lab.ssh_config), "-oControlMaster=auto", f"-oControlPath={mux}/%C", "-oControlPersist=20"]
    nodes = cluster.nodes()
    kvm4, kvm2 = (
        Place(SshHost(name, options, f"{name}.{lab.name}"), nodes[name], "/var/lib/docker") for name in ("kvm4", "kvm2")
    )
    unit = Unit(prefix, "kvm4", "kvm2", (Member(f"{prefix}-db"), Member(f"{prefix}-app*")))
    move = Move(unit, kvm4, kvm2, cluster, Journal(prefix, "test", tmp_path), Options())
    made = World(move, swarm, lab, image)
    yield made
    mine = [name for name in swarm.specs() if name.startswith(prefix)]
    ids = {swarm.remove(name) for name in mine}
    wait_for(lambda: not ids & {task["ServiceID"] for task in swarm.client.tasks()}, 30, "removed tasks")
    for name in made.lease_at():
        cluster.label_node(name, unit.lease, None)
    for name in ("kvm4", "kvm2"):
        hosts.ssh(lab, name, f"docker volume ls -q --filter name=^{prefix} | xargs -r docker volume rm -f")


# --- the lease ---


def test_pin_and_unpin_restart_no_task_and_leave_the_spec_as_it_was(world: World) -> None:
    db, app = world.create("db"), world.create("app", volume=False)
    before = {name: world.swarm.specs()[name] for name in (db, app)}
    tasks = world.task_ids(db) | world.task_ids(app)

    did = world.walk(*lease.pin(world.move, [db, app]))
    assert did == [f"test.{world.prefix}.lease", f"test.{db}.pin", f"test.{app}.pin"]
    spec = world.swarm.specs()[db]
    assert spec["TaskTemplate"]["Placement"]["Constraints"] == [f"node.labels.evenkeel.lease.{world.prefix}==1"]
    assert spec["TaskTemplate"]["Placement"]["MaxReplicas"] == 1
    assert (spec["UpdateConfig"]["Order"], spec["UpdateConfig"]["FailureAction"]) == ("stop-first", "pause")
    assert world.lease_at() == ["kvm4"]
    assert world.walk(*lease.pin(world.move, [db, app])) == []
    time.sleep(3)  # an update that replaces tasks would have begun by now
    assert world.task_ids(db) | world.task_ids(app) == tasks

    world.walk(*lease.unpin(world.move, [db, app]))
    assert world.walk(*lease.unpin(world.move, [db, app])) == []
    time.sleep(3)
    assert {name: world.swarm.specs()[name] for name in (db, app)} == before
    assert world.task_ids(db) | world.task_ids(app) == tasks
    assert world.lease_at() == []


def test_release_keeps_the_lease_and_puts_update_settings_back_where_that_is_safe(world: World) -> None:
    db, app = world.create("db"), world.create("app", volume=False)
    tasks = world.task_ids(db) | world.task_ids(app)
    world.walk(*lease.pin(world.move, [db, app]))
    world.walk(*lease.release(world.move, [db, app]))
    specs = world.swarm.specs()
    assert (specs[db]["UpdateConfig"]["Order"], specs[app]["UpdateConfig"]["Order"]) == ("stop-first", "start-first")
    assert {specs[name]["UpdateConfig"]["FailureAction"] for name in (db, app)} == {"rollback"}
    assert "MaxReplicas" not in specs[app]["TaskTemplate"]["Placement"]
    assert world.walk(*lease.release(world.move, [db, app])) == []
    time.sleep(3)
    assert world.task_ids(db) | world.task_ids(app) == tasks


def test_a_service_that_runs_elsewhere_is_not_pinned(world: World) -> None:
    db = world.create("db")
    move = replace(world.move, source=world.move.target, target=world.move.source)
    with pytest.raises(MoveError, match="runs on kvm4, not on kvm2") as error:
        world.walk(*lease.pin(replace(world, move=move).move, [db]))
    assert (error.value.code, error.value.field, world.lease_at()) == ("runs_elsewhere", "home", [])


# --- stop, withdraw, give, start ---


def switch_to(world: World, place: Place, services: list[str]) -> None:
    move = world.move
    world.walk(
        lease.withdraw(move),
        *(lease.stop(move, service) for service in services),
        lease.give(move, place),
        *(lease.start(move, service, place) for service in services),
    )


def test_there_and_back_never_two_containers(world: World) -> None:
    db = world.create("db")
    world.walk(*lease.pin(world.move, [db]))
    most, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.is_set():
            most = max(most, len(world.at(db)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        switch_to(world, world.move.target, [db])
        assert set(world.at(db).values()) == {"kvm2"}
        switch_to(world, world.move.source, [db])
    finally:
        ended.set()
        watcher.join()
    assert set(world.at(db).values()) == {"kvm4"}
    assert most == 1
    events = [line.split()[0] for line in world.log("kvm4", f"{db}-data")]
    assert events == ["start", "end", "start"]


def test_stop_waits_for_the_engine_not_for_swarms_word(world: World) -> None:
    db = world.create("db")
    world.walk(*lease.pin(world.move, [db]), lease.withdraw(world.move))
    # Swarm has called the task rejected by now, or will at once; its container takes two seconds more.
    wait_for(lambda: not world.swarm.running(db), 5, "the task rejected")
    assert len(world.at(db)) == 1
    world.walk(lease.stop(world.move, db))
    assert world.at(db) == {}
    assert [line.split()[0] for line in world.log("kvm4", f"{db}-data")] == ["start", "end"]


def test_the_lease_given_back_while_the_old_container_stops_starts_no_second(world: World) -> None:
    db = world.create("db")
    world.walk(*lease.pin(world.move, [db]))
    withdraw = lease.withdraw(world.move)
    world.walk(withdraw)
    world.back(withdraw)
    wait_for(lambda: len(world.swarm.running(db)) == 1, 20, "a running task")
    assert [line.split()[0] for line in world.log("kvm4", f"{db}-data")] == ["start", "end", "start"]


def test_a_stop_taken_back_starts_where_it_was(world: World) -> None:
    db = world.create("db")
    world.walk(*lease.pin(world.move, [db]))
    steps = [lease.withdraw(world.move), lease.stop(world.move, db)]
    world.walk(*steps)
    world.back(*steps)
    world.walk(lease.start(world.move, db, world.move.source))
    assert set(world.at(db).values()) == {"kvm4"}
    assert [line.split()[0] for line in world.log("kvm4", f"{db}-data")] == ["start", "end", "start"]


def test_a_redeploy_while_it_stops_is_stopped_again(world: World) -> None:
    db = world.create("db")
    original = world.swarm.specs()[db]
    world.walk(*lease.pin(world.move, [db]), lease.withdraw(world.move))
    redeploy = threading.Timer(0.5, lambda: world.redeploy(db, original))
    redeploy.start()
    world.walk(lease.stop(world.move, db))
    redeploy.join()
    world.walk(lease.stop(world.move, db))
    assert world.at(db) == {}
    assert world.swarm.specs()[db]["Mode"]["Replicated"]["Replicas"] == 0


@pytest.mark.parametrize("moment", ["stopped", "given", "started"])
def test_after_a_redeploy_at_any_moment_the_same_steps_end_right(world: World, moment: str) -> None:
    app = world.create("app", volume=False)
    original = world.swarm.specs()[app]
    move = world.move
    world.walk(*lease.pin(move, [app]), lease.withdraw(move), lease.stop(move, app))
    if moment == "stopped":
        world.redeploy(app, original)
        world.swarm.wait_running(app)
        world.walk(lease.stop(move, app))
    world.walk(lease.give(move, move.target))
    if moment == "given":
        world.redeploy(app, original)
    world.walk(lease.start(move, app, move.target))
    if moment == "started":
        world.redeploy(app, original)
        wait_for(lambda: set(world.at(app).values()) == {"kvm4"}, 30, "the redeploy take it home")
        world.walk(lease.start(move, app, move.target))
    assert set(world.at(app).values()) == {"kvm2"}
    assert world.walk(lease.start(move, app, move.target)) == []


def test_limits_of_the_target_hold_there_and_those_of_before_at_home(world: World) -> None:
    member = Member(f"{world.prefix}-app", limits={"cpus": 0.5, "memory": "64M"})
    world.move = replace(world.move, unit=replace(world.move.unit, members=(member,)))
    app = world.create("app", volume=False)
    world.walk(*lease.pin(world.move, [app]))
    switch_to(world, world.move.target, [app])
    limits = world.swarm.specs()[app]["TaskTemplate"]["Resources"]["Limits"]
    assert limits == {"NanoCPUs": 500_000_000, "MemoryBytes": 64 * 2**20}
    switch_to(world, world.move.source, [app])
    limits = world.swarm.specs()[app]["TaskTemplate"]["Resources"]["Limits"]
    assert limits == {"MemoryBytes": 128 * 2**20}


def test_a_task_that_cannot_start_says_why(world: World) -> None:
    app = world.create("app", volume=False)
    move = world.move
    world.walk(*lease.pin(move, [app]), lease.withdraw(move), lease.stop(move, app), lease.give(move, move.target))
    world.swarm.update(app, lambda spec: spec["TaskTemplate"]["ContainerSpec"].update(Command=["/not-there"]))
    with pytest.raises(MoveError, match=r"does not stay up: task .* on kvm2 .*not-there") as error:
        world.walk(lease.start(move, app, move.target))
    assert error.value.code == "start_failed"


def test_a_service_of_no_replicas_stays_without(world: World) -> None:
    app = world.create("app", volume=False)
    world.swarm.update(app, lambda spec: spec["Mode"]["Replicated"].update(Replicas=0))
    wait_for(lambda: not world.at(app), 30, "no container")
    world.walk(*lease.pin(world.move, [app]))
    switch_to(world, world.move.target, [app])
    assert world.at(app) == {}
    assert lease.replicas_before(world.move, app) == 0

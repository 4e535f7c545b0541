"""The Swarm side of a move on a real Swarm: lease, start and stop, images, health, drain, traps, plan."""

from __future__ import annotations

import copy
import json
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import (
    drain,
    health,
    image,
    lease,
    patience,
    survey,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.discover import find_parts
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import SshHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import Journal
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Drain, Health, Member, Part, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.app import AppMover
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Facts, Move, Options, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.plan import build_plan
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.plan_text import plan_text
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

pytestmark = pytest.mark.movers


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

    def heartbeat(self) -> str:
        """Return the seconds between two heartbeats of the Swarm's nodes, as its command line has them."""
        shown = "'{{.Swarm.Cluster.Spec.Dispatcher.HeartbeatPeriod.Seconds}}'"
        return hosts.ssh(self.settings, "kvm4", f"docker info --format {shown}").strip()

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
                "Init": True,
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
def app_image(lab: Settings) -> str:
    return (lab.directory / "pushed-app").read_text()


@pytest.fixture(scope="module")
def cluster(lab: Settings) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="evenkeel-") as directory:
        socket = Path(directory) / "docker.sock"
        with hosts.tunnel(lab, "kvm4", socket):
            yield Cluster(Api(f"unix://{socket}"))


@pytest.fixture
def world(lab: Settings, swarm: Swarm, cluster: Cluster, app_image: str, tmp_path: Path) -> Iterator[World]:
    prefix = f"m{uuid.uuid4().hex[:6]}"
    mux = tempfile.mkdtemp(prefix="evenkeel-ssh-")
    options = ["-F", str(lab.ssh_config), "-oControlMaster=auto", f"-oControlPath={mux}/%C", "-oControlPersist=20"]
    nodes = cluster.nodes()
    kvm4, kvm2 = (
        Place(SshHost(name, options, f"{name}.{lab.name}"), nodes[name], "/var/lib/docker") for name in ("kvm4", "kvm2")
    )
    unit = Unit(prefix, "kvm4", "kvm2", (Member(f"{prefix}-db"), Member(f"{prefix}-app*")))
    move = Move(unit, kvm4, kvm2, cluster, Journal(prefix, "test", tmp_path), Options())
    made = World(move, swarm, lab, app_image)
    cluster.edit_swarm(patience.impatient)  # an earlier test's move may not have ended
    yield made
    cluster.edit_swarm(patience.impatient)
    mine = [name for name in swarm.specs() if name.startswith(prefix)]
    ids = {swarm.remove(name) for name in mine}
    wait_for(lambda: not ids & {task["ServiceID"] for task in swarm.client.tasks()}, 30, "removed tasks")
    wait_for(lambda: not any(made.at(name) for name in mine), 30, "no container")
    for name in made.lease_at():
        cluster.label_node(name, unit.lease, None)
    for name in ("kvm4", "kvm2"):
        # Swarm clears an ended container away some time after it has ended.
        hosts.ssh(lab, name, f"docker ps -aq --filter name=^{prefix} | xargs -r docker rm -f >/dev/null 2>&1 || true")
        hosts.ssh(lab, name, f"docker volume ls -q --filter name=^{prefix} | xargs -r docker volume rm -f")


# --- the lease ---


def test_pin_and_unpin_restart_no_task_and_leave_the_spec_as_it_was(world: World) -> None:
    db, app = world.create("db"), world.create("app", volume=False)
    before = {name: world.swarm.specs()[name] for name in (db, app)}
    itself = world.move.cluster.swarm_spec()
    tasks = world.task_ids(db) | world.task_ids(app)

    did = world.walk(*lease.pin(world.move, [db, app]))
    unit = f"test.{world.prefix}"
    assert did == [f"{unit}.patience", f"{unit}.lease", f"test.{db}.pin", f"test.{app}.pin"]
    assert world.heartbeat() == "60"
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
    assert (world.heartbeat(), world.move.cluster.swarm_spec()) == ("5", itself)


def test_cancel_of_a_second_move_leaves_the_lease_that_was_there(world: World) -> None:
    db = world.create("db")
    world.walk(*lease.pin(world.move, [db]))
    world.move.journal.write("ended", how="complete")
    before = world.swarm.specs()[db]
    world.walk(*lease.pin(world.move, [db]))
    world.walk(*lease.unpin(world.move, [db]))
    assert (world.swarm.specs()[db], world.lease_at()) == (before, ["kvm4"])
    assert len(world.swarm.running(db)) == 1


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
    world.swarm.update(
        app, lambda spec: spec["TaskTemplate"]["ContainerSpec"].update(Command=["/not-there"], Init=False)
    )
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


def test_a_service_that_its_owner_starts_after_prepare_runs_after_the_switch(world: World) -> None:
    app = world.create("app", volume=False)
    world.swarm.update(app, lambda spec: spec["Mode"]["Replicated"].update(Replicas=0))
    wait_for(lambda: not world.at(app), 30, "no container")
    world.walk(*lease.pin(world.move, [app]))
    world.swarm.update(app, lambda spec: spec["Mode"]["Replicated"].update(Replicas=1))
    world.swarm.wait_running(app)
    world.walk(*lease.pin(world.move, [app]))
    switch_to(world, world.move.target, [app])
    assert set(world.at(app).values()) == {"kvm2"}


# --- images ---


def built_on(world: World, host: str, tag: str, line: str) -> str:
    """Make an image on one host only, as a build without a registry does; returns its id."""
    command = f"""printf 'FROM {world.image}\\nLABEL made="{line}"\\n' | DOCKER_BUILDKIT=0 docker build -q -t {tag} -"""
    return world.shell(host, command).strip()


def image_id(world: World, host: str, reference: str) -> str:
    return world.shell(host, f"docker image inspect --format '{{{{.Id}}}}' {reference} 2>/dev/null || true").strip()


def remove_image(world: World, host: str, reference: str) -> None:
    world.shell(host, f"docker rmi -f {reference} >/dev/null 2>&1 || true")


def test_an_image_of_a_registry_comes_by_digest(world: World) -> None:
    remove_image(world, "kvm2", world.image)
    step = image.image_present(world.move, world.move.target, world.image)
    assert world.walk(step) == [step.id]
    assert image_id(world, "kvm2", world.image) == image_id(world, "kvm4", world.image) != ""
    assert world.walk(step) == []
    assert image.runnable(world.move, world.move.target, world.image, "any") == world.image


def test_a_tag_means_what_runs_now_not_what_it_was_built_to_since(world: World) -> None:
    tag = f"{world.prefix}:latest"
    first = built_on(world, "kvm4", tag, "first")
    stale = built_on(world, "kvm2", tag, "another, on the target")
    app = world.create("app", volume=False, Image=tag)
    second = built_on(world, "kvm4", tag, "second")
    assert len({first, stale, second}) == 3
    try:
        step = image.image_present(world.move, world.move.target, tag, app)
        assert world.walk(step) == [step.id]
        assert image_id(world, "kvm2", first) == first
        world.walk(*lease.pin(world.move, [app]))
        switch_to(world, world.move.target, [app])
        assert world.swarm.specs()[app]["TaskTemplate"]["ContainerSpec"]["Image"] == first
        [container] = world.at(app)
        assert world.shell("kvm2", f"docker inspect --format '{{{{.Image}}}}' {container}").strip() == first
    finally:
        world.swarm.remove(app)
        for host in ("kvm4", "kvm2"):
            for each in (first, second, stale):
                remove_image(world, host, each)


def test_a_digest_that_no_registry_gives_is_carried_and_run_by_id(world: World) -> None:
    """The registry has gone, or does not let the target in."""
    app = world.create("app", volume=False)
    world.walk(*lease.pin(world.move, [app]))
    wanted = image_id(world, "kvm4", world.image)
    world.shell("kvm2", "iptables -I OUTPUT -p tcp --dport 5000 -j REJECT")
    try:
        remove_image(world, "kvm2", world.image)
        world.walk(image.image_present(world.move, world.move.target, world.image, app))
        assert image_id(world, "kvm2", wanted) == wanted
        switch_to(world, world.move.target, [app])
        assert set(world.at(app).values()) == {"kvm2"}
        assert world.swarm.specs()[app]["TaskTemplate"]["ContainerSpec"]["Image"] == wanted
    finally:
        world.shell("kvm2", "iptables -D OUTPUT -p tcp --dport 5000 -j REJECT")
        world.swarm.remove(app)
        wait_for(lambda: not world.at(app), 30, "no container")
        remove_image(world, "kvm2", wanted)
        world.shell("kvm2", f"docker pull -q {world.image}")


def test_a_digest_that_does_not_exist_is_an_error_before_anything_stops(world: World) -> None:
    with pytest.raises(MoveError, match="has no image") as error:
        world.walk(image.image_present(world.move, world.move.target, f"{world.image[:-4]}0000"))
    assert error.value.code == "image_missing"


# --- health and drain ---


def member_of(name: str, **more: Any) -> Part:
    return Part(name, "app", name, Member(name, **more), {})


SERVER = "exec python3 /srv/app.py"


def test_health_by_http_inside_the_container(world: World) -> None:
    app = world.create("app", command=SERVER, volume=False)
    place, move = world.move.source, world.move
    health.wait_healthy(move, place, app, Health(port=8000, path="/healthz", expect="true"))
    for asked, said in (
        (Health(port=8000, path="/", expect="nonsense", seconds=1), "answered 200 without 'nonsense'"),
        (Health(port=8000, status=204, seconds=1), "answered 200, not 204"),
        (Health(port=8000, method="POST", body="{}", seconds=1), "answered 501, not 200"),
        (Health(port=8001, seconds=1), "Connection refused"),
        (Health(command=("sh", "-c", "echo no luck >&2; exit 3"), seconds=1), "sh exited 3: no luck"),
    ):
        with pytest.raises(MoveError, match=said) as error:
            health.wait_healthy(move, place, app, asked)
        assert error.value.code == "unhealthy"
    health.wait_healthy(move, place, app, Health(command=("true",)))
    with pytest.raises(MoveError, match="no task of it runs on kvm2"):
        health.wait_healthy(move, move.target, app, Health(seconds=0.5))


def test_drain_tells_then_waits_and_is_undone_by_a_restart(world: World) -> None:
    app = world.create("app", volume=False)
    how = Drain(
        command=("sh", "-c", "(sleep 2; touch /tmp/empty) >/dev/null 2>&1 &"),
        done=("test", "-e", "/tmp/empty"),
        seconds=20,
    )
    step = drain.drain(world.move, app, how)
    world.walk(*lease.pin(world.move, [app]))
    assert world.walk(step) == [step.id]
    assert world.walk(step) == []
    tasks = world.task_ids(app)
    world.back(step)
    wait_for(lambda: bool(world.task_ids(app)) and not world.task_ids(app) & tasks, 30, "a new task")
    assert not step.probe()
    with pytest.raises(MoveError, match="last: false exited 1") as error:
        world.walk(drain.drain(world.move, app, Drain(command=("true",), done=("false",), seconds=1)))
    assert error.value.code == "drain_timeout"


# --- the mover of services without state ---


def test_the_app_mover_brings_image_and_files_and_checks_health(world: World) -> None:
    path = f"/etc/evenkeel-test/{world.prefix}/app.conf"
    world.shell("kvm4", f"mkdir -p {path.rpartition('/')[0]}; echo secret-word > {path}; chmod 640 {path}")
    mount = {"Type": "bind", "Source": path, "Target": "/app.conf", "ReadOnly": True}
    app = world.create("app", command=SERVER, Mounts=[mount])
    mover = AppMover(world.move, member_of(app, health=Health(port=8000, path="/healthz")))
    try:
        assert [trap.code for trap in mover.facts().traps] == ["file_mount"]
        assert not mover.readiness().ready
        world.walk(*mover.prepare())
        assert world.shell("kvm2", f"stat -c %a {path}; cat {path}").split() == ["640", "secret-word"]
        assert mover.readiness().ready
        assert world.walk(*mover.prepare()) == []
        world.shell("kvm4", f"echo newer > {path}")
        assert "is not the same" in mover.readiness().text
        world.walk(*mover.precopy())
        assert mover.readiness().ready
        world.walk(*lease.pin(world.move, [app]))
        switch_to(world, world.move.target, [app])
        world.walk(*mover.verify())
        world.shell("kvm2", f"echo foreign > {path}")
        journal = Journal("other", "test", Path(tempfile.mkdtemp()))
        stranger = AppMover(replace(world.move, journal=journal), mover.part)
        with pytest.raises(MoveError, match="another file on the target"):
            world.walk(*stranger.prepare())
        steps = [step for step in mover.prepare() if isinstance(step, Step)]
        world.back(*steps)
        assert world.shell("kvm2", f"ls {path} 2>/dev/null || echo gone").strip() == "gone"
        assert "secret-word" not in world.move.journal.path.read_text()
    finally:
        for host in ("kvm4", "kvm2"):
            world.shell(host, f"rm -rf /etc/evenkeel-test/{world.prefix}")


# --- discovery, traps, plan ---


def test_discovery_tells_kinds_by_what_runs_and_who_shares_volumes(world: World, lab: Settings) -> None:
    prefix = world.prefix
    postgres, redis = ((lab.directory / f"pushed-{name}").read_text() for name in ("postgres", "redis"))
    media = {"Type": "volume", "Source": f"{prefix}-media", "Target": "/media"}
    home = "node.hostname==kvm4"
    world.shell(
        "kvm4",
        f"docker service create -qd --name {prefix}-pg --endpoint-mode dnsrr --constraint {home} "
        f"--mount type=volume,source={prefix}-pg-data,target=/var/lib/postgresql {postgres} >/dev/null",
    )
    stack = f"""
version: "3.8"
services:
  redis:
    image: {redis}
    command: ["sh", "-c", "redis-server --dir /var/lib/redis"]
    volumes: ["data:/var/lib/redis"]
    deploy: {{endpoint_mode: dnsrr, placement: {{constraints: ["{home}"]}}}}
volumes: {{data: {{}}}}
"""
    world.shell("kvm4", f"docker stack deploy -c - {prefix}-stack >/dev/null 2>&1 <<'EOF'\n{stack}\nEOF")
    api, worker = (world.create(name, Mounts=[media]) for name in ("api", "worker"))
    world.swarm.wait_running(f"{prefix}-pg")
    world.swarm.wait_running(f"{prefix}-stack_redis")
    places = {"kvm4": world.move.source, "kvm2": world.move.target}
    members = tuple(Member(f"{prefix}-{each}") for each in ("pg", "stack_*", "api", "worker"))
    unit = replace(world.move.unit, members=members)
    # The servers need a moment until their processes stand.
    wait_for(lambda: kinds(unit, world, places)[:2] == ["postgres", "redis"], 20, "both servers")
    parts = find_parts(unit, world.move.cluster, places)
    assert [(part.kind, part.service) for part in parts] == [
        ("postgres", f"{prefix}-pg"),
        ("redis", f"{prefix}-stack_redis"),
        ("app", api),
        ("app", worker),
        ("files", api),
    ]
    assert parts[-1].users == (api, worker)
    assert parts[-1].volumes == {f"{prefix}-media": "/media"}
    assert parts[1].volumes == {f"{prefix}-stack_data": "/var/lib/redis"}

    seen = survey.look(replace(world.move, unit=unit), parts)
    codes = {(trap.code, trap.refuses) for trap in seen.traps}
    assert {("shell_pid_1", False), ("constraint", False), ("start_first", False), ("no_health", False)} <= codes
    assert not any(refuses for _, refuses in codes), [trap for trap in seen.traps if trap.refuses]
    facts = {part.key: Facts(1000, None, {}) for part in parts}
    move = replace(world.move, unit=unit)
    steps = {"prepare": lease.pin(move, [api])}
    made = build_plan(move, parts, facts, seen, phase="new", steps=steps)
    again = build_plan(move, parts, facts, survey.look(move, parts), phase="new", steps=steps)
    assert made["hash"] == again["hash"]
    assert json.loads(json.dumps(made)) == made
    text = "\n".join(plan_text(made))
    for word in (f"{prefix}-pg", "files of", "Room on kvm2", "Outage of writes: not measured", "placementSwarm"):
        assert word in text
    assert made["target_after"]["tasks"] == made["target_before"]["tasks"] + 4

    world.shell(
        "kvm4", f"docker run -d --name {prefix}-stranger -v {prefix}-media:/m {world.image} sleep 600 >/dev/null"
    )
    try:
        refused = build_plan(move, parts, facts, survey.look(move, parts), phase="new", steps=steps)
    finally:
        world.shell("kvm4", f"docker rm -f {prefix}-stranger >/dev/null")
    assert refused["refused"]
    assert refused["hash"] != made["hash"]
    assert f"container {prefix}-stranger" in "\n".join(plan_text(refused))


def kinds(unit: Unit, world: World, places: dict[str, Place]) -> list[str]:
    try:
        return [part.kind for part in find_parts(unit, world.move.cluster, places)]
    except MoveError as error:
        assert error.code == "kind_unclear"
        return []


def test_traps_seen_on_a_real_service(world: World) -> None:
    app = world.create("app", Mounts=[{"Type": "volume", "Target": "/loose"}])
    busy = {"PublishedPort": 22, "TargetPort": 8000, "PublishMode": "host", "Protocol": "tcp"}

    def edit(spec: Spec) -> None:
        spec["TaskTemplate"]["Resources"] = {"Limits": {"NanoCPUs": 3_000_000_000, "MemoryBytes": 2**50}}
        spec["TaskTemplate"]["ContainerSpec"]["Image"] = world.image.partition("@")[0]
        spec["EndpointSpec"]["Ports"] = [busy]
        spec["Mode"]["Replicated"]["Replicas"] = 0

    world.swarm.update(app, edit)
    parts = (member_of(app),)
    codes = {trap.code for trap in survey.look(world.move, parts).traps if trap.refuses}
    assert codes == {"anonymous_volume", "cpus_above_target", "memory_above_target", "port_taken"}


def test_who_is_connected_is_named(world: World) -> None:
    network = f"{world.prefix}-net"
    world.shell("kvm4", f"docker network create -d overlay --attachable {network} >/dev/null")
    try:
        server, client = f"{world.prefix}-app", f"{world.prefix}-user"
        for name, command in ((server, SERVER), (client, "sleep 600")):
            spec = dokploy_spec(name, world.image, command, volume=False)
            spec["TaskTemplate"]["Networks"] = [{"Target": network}]
            world.swarm.create(spec)
        world.swarm.wait_running(server)
        world.swarm.wait_running(client)
        [container] = world.at(client)
        hold = f"import socket,time; s=socket.create_connection(('tasks.{server}',8000)); time.sleep(30)"
        world.shell("kvm4", f'docker exec -d {container} python3 -c "{hold}"')
        parts = (member_of(server),)
        wait_for(lambda: survey.look(world.move, parts).clients[server] == [client], 20, "the client seen")
    finally:
        for name in (server, client):
            world.swarm.remove(name)
        wait_for(lambda: not world.at(server) and not world.at(client), 30, "no container")
        world.shell("kvm4", f"sleep 2; docker network rm {network} >/dev/null")

"""The verbs on a real Swarm: a service that writes all the time moves with its volume, whatever happens on the way."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.settings import PROJECT
from tests.integration.harness import Ansible, Run, Spec, Swarm, wait_for

pytestmark = pytest.mark.movers

STATE = "/var/lib/evenkeel/migration"
OnHost = Callable[..., str]
#: Writes a line ten times a second, each with the number after the last one that is there.
WRITER = "n=$(tail -n1 /data/log 2>/dev/null || echo 0); while :; do n=$((n+1)); echo $n >> /data/log; sleep 0.1; done"


class Unit:
    """A unit of one writing service, on its way between the lab's hosts."""

    def __init__(self, service: str, ansible: Ansible, swarm: Swarm, on_host: OnHost, tmp: Path) -> None:
        self.name, self.service = f"u{uuid.uuid4().hex[:6]}", service
        self.volume = f"{service}-data"
        self.ansible, self.swarm, self.on_host = ansible, swarm, on_host
        self.variables = tmp / "units.json"
        self.member: dict[str, Any] = {
            "service": service,
            "health": {"command": ["test", "-s", "/data/log"], "seconds": 20},
        }

    @property
    def units(self) -> dict[str, Any]:
        return {self.name: {"home": "kvm4", "target": "kvm2", "members": [self.member]}}

    def play(self, verb: str, *more: str) -> Run:
        self.variables.write_text(json.dumps({"migration_units": self.units}))
        given = ["-e", f"@{self.variables}", "-e", f"verb={verb}", "-e", f"unit={self.name}"]
        return self.ansible.playbook("playbooks/migrate.yml", *given, *more)

    def run(self, verb: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
        arguments = {"units": self.units, "unit": self.name, "verb": verb, **options}
        return self.ansible.module("kvm4", "migration", arguments, check=check)

    def act(self, verb: str, **options: Any) -> dict[str, Any]:
        """Run a verb that must succeed; returns the unit's result."""
        result = self.run(verb, **options)
        assert not result.get("failed"), result["msg"]
        unit: dict[str, Any] = result["units"][self.name]
        return unit

    def kill(self, verb: str, step: str, *, undo: bool = False, **options: Any) -> None:
        """Run a verb and kill -9 its process as soon as a step of it, or the undoing of one, has begun."""
        events = f"/run/evenkeel-{uuid.uuid4().hex}"
        arguments = {"units": self.units, "unit": self.name, "verb": verb, "progress_file": events, **options}
        argv = self.ansible.module_argv("kvm4", "migration", arguments)
        environment = self.ansible.environment()
        with subprocess.Popen(
            argv, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            begins = f'"undo_started", "step": ".*{step}' if undo else f'"step_started", "step": "{verb}.*{step}'
            pattern = f'{begins}"'
            wait = f"for _ in $(seq 1500); do grep -qs {shlex.quote(pattern)} {events} && break; sleep 0.02; done"
            wait += f"; grep -q {shlex.quote(pattern)} {events}"
            pid = f"$(sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p' {events})"
            self.on_host("kvm4", f"{wait} && kill -9 {pid}; rm {events}", timeout=90)
            said, _ = process.communicate(timeout=60)
        assert process.returncode != 0, said

    def nodes(self) -> list[str]:
        """Where its tasks run."""
        names = {node["ID"]: node["Description"]["Hostname"] for node in self.swarm.client.nodes()}
        return [names[task["NodeID"]] for task in self.swarm.running(self.service)]

    def data(self, host: str) -> str:
        """Whether a host has the data live, parked, both or neither."""
        root = "/var/lib/docker"
        live, parked = f"{root}/volumes/{self.volume}/_data", f"{root}/evenkeel/{self.volume}/data"
        found = self.on_host(host, f"test -d {live} && echo live; test -d {parked} && echo parked; true").split()
        return {("live",): "live", ("parked",): "parked", (): "neither"}.get(tuple(found), "both")

    def log(self, host: str, place: str = "live") -> list[int]:
        root = "/var/lib/docker"
        paths = {"live": f"{root}/volumes/{self.volume}/_data", "parked": f"{root}/evenkeel/{self.volume}/data"}
        return [int(line) for line in self.on_host(host, f"cat {paths[place]}/log").split()]

    def events(self) -> list[str]:
        text = self.on_host("kvm4", f"cat {STATE}/{self.name}/journal.jsonl")
        return [json.loads(line)["event"] for line in text.splitlines()]

    def watcher(self) -> str:
        """What is left of the deadline's watcher on the manager."""
        files = f"/etc/systemd/system/evenkeel-give-back-{self.name}.* {STATE}/{self.name}/give_back.json"
        return self.on_host("kvm4", f"ls {files} 2>/dev/null; true").strip()

    def lives(self, host: str) -> None:
        """It runs there alone, on the only live data, has lost no line, and goes on writing."""
        other = {"kvm4": "kvm2", "kvm2": "kvm4"}[host]
        assert self.nodes() == [host]
        assert (self.data(host), self.data(other) == "live") == ("live", False)
        lines = self.log(host)
        assert lines == list(range(1, len(lines) + 1))
        wait_for(lambda: len(self.log(host)) > len(lines), 10, "new lines")


@pytest.fixture
def unit(
    service: Callable[..., str], ansible: Ansible, swarm: Swarm, on_host: OnHost, tmp_path: Path
) -> Iterator[Unit]:
    """A writing unit on kvm4; everything that a move may leave is removed afterwards."""
    volumes: list[str] = []

    def edit(spec: Spec) -> None:
        volumes.append(f"{spec['Name']}-data")
        mount = {"Type": "volume", "Source": volumes[0], "Target": "/data"}
        spec["TaskTemplate"]["ContainerSpec"]["Mounts"] = [mount]

    name = service("writer", command=["sh", "-c", WRITER], edit=edit)
    made = Unit(name, ansible, swarm, on_host, tmp_path)
    yield made
    swarm.update(name, lambda spec: spec["Mode"]["Replicated"].update(Replicas=0))
    wait_for(lambda: not swarm.running(name), 30, "no task of it")
    on_host("kvm4", f"docker node update --label-rm evenkeel.lease.{made.name} kvm4 >/dev/null; true")
    on_host("kvm4", f"docker node update --label-rm evenkeel.lease.{made.name} kvm2 >/dev/null; true")
    timer = f"evenkeel-give-back-{made.name}"
    on_host("kvm4", f"systemctl disable --now -q {timer}.timer; rm -f /etc/systemd/system/{timer}.*; true")
    for host in ("kvm4", "kvm2"):
        # The link stays: making it takes a playbook's time.
        left = f"/var/lib/docker/volumes/{volumes[0]} /var/lib/docker/evenkeel/{volumes[0]}"
        on_host(host, f"rm -rf {STATE}/{made.name} {left}")


@pytest.fixture
def copied(unit: Unit) -> Unit:
    """A unit that is ready to switch."""
    linked = unit.on_host("kvm4", f"test -e {STATE}/ssh && echo yes; true")
    if linked:
        unit.act("prepare")
    else:
        made = unit.play("prepare")
        assert made.status == 0, made.text
    assert unit.act("precopy")["phase"] == "copied"
    return unit


def test_there_and_back_and_as_before(unit: Unit, swarm: Swarm, on_host: OnHost) -> None:
    before = swarm.specs()[unit.service]
    container = on_host("kvm4", f"docker ps -q --filter label=com.docker.swarm.service.name={unit.service}")

    on_host("kvm4", f"rm -rf {STATE}")
    plan = unit.play("plan")
    assert plan.status == 0, plan.text
    # Before there is any link the plan is whole: the other host was looked at over Ansible's connection. Only the last
    # round is said; what the first could not see went into its questions.
    [said] = [each["msg"] for each in plan.results("Say what came of it") if "msg" in each]
    assert "the speed of the way to kvm2 was not looked at" in said
    assert re.search(r"Disk: [^ ]+ to copy, [^ ]+ of [^ ]+ free", said)
    assert not re.search(r"can't be looked at|not in this plan", said)
    assert not any(host["changed"] for host in plan.document["stats"].values())
    assert on_host("kvm4", f"ls {STATE} 2>/dev/null; true") == ""

    prepared = unit.play("prepare")
    assert prepared.status == 0, prepared.text
    [key] = [line for line in on_host("kvm2", "cat /root/.ssh/authorized_keys").splitlines() if "migration@" in line]
    assert key.startswith('restrict,from="10.')
    assert (
        on_host("kvm4", f"stat -c %a {STATE}/ssh/id_ed25519 {STATE}/{unit.name}/journal.jsonl").split() == ["600"] * 2
    )
    # Pinned without a restart, and the target's volume parked before anything could start on it.
    assert on_host("kvm4", f"docker ps -q --filter label=com.docker.swarm.service.name={unit.service}") == container
    assert unit.data("kvm2") == "parked"
    assert unit.act("prepare")["changed"] is False

    assert [each["outcome"] for each in unit.act("precopy", check=True)["outcomes"]].count("would") == 1
    assert unit.act("status")["phase"] == "prepared"
    assert unit.act("precopy")["phase"] == "copied"
    assert unit.act("verify")["readiness"]

    would = unit.act("switch", check=True)
    assert "would" in {each["outcome"] for each in would["outcomes"]}
    assert unit.data("kvm4") == "live"
    switched = unit.act("switch")
    assert (switched["phase"], switched["runs_on"], switched["next"]) == ("switched", "kvm2", "complete")
    unit.lives("kvm2")
    assert unit.watcher() == ""
    assert unit.act("switch")["changed"] is False
    assert "run verb=reverse first" in unit.run("cancel")["msg"]
    assert "complete waits for 24.0 h" in unit.run("complete", confirm=True)["msg"]
    assert "Say confirm=true" in unit.run("complete", min_age=0)["msg"]
    mirrored = on_host("kvm2", f"cat {STATE}/{unit.name}/journal.jsonl; stat -c %a {STATE}/{unit.name}/journal.jsonl")
    assert '"switched"' in mirrored
    assert mirrored.endswith("600")

    assert unit.act("reverse")["runs_on"] == "kvm4"
    unit.lives("kvm4")
    assert unit.act("reverse")["changed"] is False

    cancelled = unit.play("cancel")
    assert cancelled.status == 0, cancelled.text
    assert unit.act("status")["phase"] == "cancelled"
    assert unit.act("cancel")["changed"] is False
    assert swarm.specs()[unit.service]["TaskTemplate"]["Placement"] == before["TaskTemplate"]["Placement"]
    assert swarm.specs()[unit.service]["UpdateConfig"] == before["UpdateConfig"]
    assert unit.data("kvm2") == "neither"
    assert "migration@" not in on_host("kvm2", "cat /root/.ssh/authorized_keys")
    assert on_host("kvm4", f"test -e {STATE}/ssh || echo gone") == "gone"
    unit.lives("kvm4")


@pytest.mark.parametrize(
    "step", ["fence", "stop", "withdraw", "park-.*", "promotion", "live-.*", "give-kvm2", "start-kvm2"]
)
def test_a_killed_switch_is_ended_by_switch(copied: Unit, step: str) -> None:
    copied.kill("switch", step)
    assert copied.act("status")["next"] == "switch"
    copied.act("switch")
    copied.lives("kvm2")
    assert copied.watcher() == ""
    assert copied.act("switch")["changed"] is False


@pytest.mark.parametrize("step", ["stop", "park-.*", "last-pass-.*"])
def test_a_killed_switch_is_taken_back_by_cancel(copied: Unit, step: str) -> None:
    copied.kill("switch", step)
    result = copied.run("cancel")
    if "promotion_intended" in copied.events():  # it was faster than the kill
        assert "run verb=switch again" in result["msg"]
        return
    copied.lives("kvm4")
    assert copied.act("status")["phase"] == "cancelled"
    assert copied.watcher() == ""
    assert copied.data("kvm2") == "neither"


@pytest.mark.parametrize("way_on", ["cancel", "prepare"])
def test_a_cancel_that_was_killed_half_way_says_so_and_is_ended(copied: Unit, way_on: str) -> None:
    copied.kill("cancel", "mark-.*", undo=True)
    assert copied.data("kvm2") == "neither"
    status = copied.act("status")
    assert (status["phase"], status["next"]) == ("cancelling", "cancel")
    assert "a cancel was begun" in copied.run("switch")["msg"]
    if way_on == "cancel":
        assert copied.act("cancel")["phase"] == "cancelled"
        assert copied.act("cancel")["changed"] is False
        copied.lives("kvm4")
        return
    assert copied.act("prepare")["next"] == "precopy"
    copied.act("precopy")
    copied.act("switch")
    copied.lives("kvm2")


def test_a_second_cancel_of_a_reverse_that_was_taken_back_does_nothing(copied: Unit) -> None:
    copied.act("switch")
    # Early enough: without a database the intent follows the withdrawal at once.
    copied.kill("reverse", "stop")
    assert copied.act("cancel")["phase"] == "switched"
    copied.lives("kvm2")
    again = copied.act("cancel")
    assert (again["changed"], again["phase"]) == (False, "switched")
    assert "taken back already" in again["warnings"][0]
    # The watcher has gone, and the way back is open still.
    copied.act("switch")
    copied.act("reverse")
    copied.lives("kvm4")


def test_at_the_deadline_the_watcher_gives_the_unit_back(copied: Unit) -> None:
    # Early enough: without a database the intent follows the withdrawal of the lease at once.
    copied.kill("switch", "park-.*", deadline=10)
    assert copied.nodes() == []
    timer = copied.on_host("kvm4", f"cat /etc/systemd/system/evenkeel-give-back-{copied.name}.timer")
    assert "Persistent=true" in timer
    wait_for(lambda: "given_back" in copied.events(), 40, "giving back")
    wait_for(lambda: copied.watcher() == "", 20, "end of the watcher")
    copied.lives("kvm4")
    assert copied.events()[-2:] == ["unfenced", "given_back"]
    assert copied.act("status")["phase"] == "copied"
    copied.act("precopy")
    copied.act("switch")
    copied.lives("kvm2")


def test_after_the_intent_the_watcher_does_nothing(copied: Unit) -> None:
    # Long enough to come to the intent on a busy machine, too.
    copied.kill("switch", "live-.*", deadline=40)
    assert copied.watcher() != ""
    wait_for(lambda: copied.watcher() == "", 90, "end of the watcher")
    assert "unfenced" not in copied.events()
    assert "run verb=switch again" in copied.run("cancel")["msg"]
    copied.act("switch")
    copied.lives("kvm2")


def test_a_switch_that_fails_gives_the_unit_back_and_says_so(copied: Unit) -> None:
    copied.member["drain"] = {"command": ["false"], "seconds": 5}
    result = copied.run("switch")
    assert result["failed"]
    assert "Now the unit was given back and runs on kvm4" in result["msg"]
    assert "Next: verb=precopy" in result["msg"]
    copied.lives("kvm4")
    assert copied.watcher() == ""


#: Kills the engine of its host when a container's program has just begun, which the engine has not noted then: until
#: one runs on that the engine does not know when it is back. Prints its id. From the moment that a container is there,
#: the engine runs for a millisecond at a time, and is looked at as it stands.
KILLER = """
import os, signal, subprocess, sys, time
tasks, deadline = "/run/containerd/io.containerd.runtime.v2.task/moby", time.monotonic() + 60

def kill_as_one_begins():
    engine, before = int(open("/run/docker.pid").read()), set(os.listdir(tasks))
    while time.monotonic() < deadline:
        for task in set(os.listdir(tasks)) - before:
            os.kill(engine, signal.SIGSTOP)
            try:
                pid = int(open(f"{tasks}/{task}/init.pid").read())
                program = os.readlink(f"/proc/{pid}/exe")
            except (OSError, ValueError):
                program = ""
            if program.strip("/") and "runc" not in program:
                os.kill(engine, signal.SIGKILL)
                return task, pid
            os.kill(engine, signal.SIGCONT)
        time.sleep(0.001)
    sys.exit("no container has begun")

def docker(*arguments):
    return subprocess.run(["docker", *arguments], capture_output=True, text=True)

os.makedirs(tasks, exist_ok=True)
while True:
    subprocess.run(["systemctl", "reset-failed", "docker"], check=True)
    task, pid = kill_as_one_begins()
    while docker("info").returncode:
        time.sleep(0.1)
    if os.path.exists(f"/proc/{pid}") and "true" not in docker("inspect", "-f", "{{.State.Running}}", task).stdout:
        print(task)
        break
"""


def test_a_container_that_docker_has_forgotten_does_not_go_on_writing(
    network: str, unit: Unit, swarm: Swarm, on_host: OnHost
) -> None:
    """Two writers on one volume: on Docker 26.1 a kill -9 as it starts a container in an overlay network leaves one."""
    swarm.update(unit.service, lambda spec: spec["TaskTemplate"].update(Networks=[{"Target": network}]))
    wait_for(lambda: unit.nodes() == ["kvm4"], 60, "the service in its network")
    made = unit.play("prepare")
    assert made.status == 0, made.text
    unit.act("precopy")
    on_host("kvm2", "cat > /tmp/killer.py", stdin=KILLER)
    on_host("kvm2", "python3 /tmp/killer.py >/tmp/killed 2>&1 </dev/null &")
    unit.run("switch", deadline=900)
    on_host("kvm2", "until docker info >/dev/null 2>&1; do sleep 0.2; done")
    forgotten = on_host("kvm2", "cat /tmp/killed; rm -f /tmp/killed /tmp/killer.py").strip()
    assert re.fullmatch("[0-9a-f]{64}", forgotten), f"Docker has forgotten none: {forgotten}"
    unit.act("switch")
    assert unit.act("status")["runs_on"] == "kvm2"
    assert "orphans_ended" in unit.events()
    processes = on_host("kvm2", f"grep -l {forgotten} /proc/[0-9]*/cgroup 2>/dev/null; true").split()
    assert processes == []
    seen = len(unit.log("kvm2"))
    wait_for(lambda: len(unit.log("kvm2")) > seen + 20, 10, "new lines")
    lines = unit.log("kvm2")[seen:]
    assert lines == list(range(lines[0], lines[0] + len(lines))), "one writer alone"


def test_two_operators_at_once(copied: Unit) -> None:
    hold = threading.Thread(target=copied.on_host, args=("kvm4", f"flock {STATE}/lock sleep 15"))
    hold.start()
    wait_for(lambda: "held" in copied.on_host("kvm4", f"flock -n {STATE}/lock true || echo held"), 5, "the lock")
    result = copied.run("switch")
    hold.join()
    assert "another move is under way" in result["msg"]
    assert copied.act("status")["phase"] == "copied"
    copied.lives("kvm4")


def test_a_worker_refuses(unit: Unit) -> None:
    result = unit.ansible.module("kvm2", "migration", {"units": unit.units})
    assert "no Swarm manager" in result["msg"]

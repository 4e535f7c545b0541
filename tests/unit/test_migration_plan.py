"""The plan of a move, and how it reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import read_node
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster, Node
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import LocalHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import Journal
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Member, Part, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import (
    Facts,
    Move,
    Options,
    Place,
    Readiness,
    Trap,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.plan import build_plan
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.plan_text import plan_text
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.survey import HostSeen, ImageSeen, Seen
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step, Together

GIB = 2**30
UNIT = Unit("saleor", "kvm4", "kvm2", (Member("pg"), Member("api")))


def raw_node(name: str, role: str, cpus: int) -> dict[str, Any]:
    return {
        "ID": f"id-{name}",
        "Spec": {"Role": role, "Availability": "active", "Labels": {}},
        "Status": {"State": "ready"},
        "Description": {
            "Hostname": name,
            "Resources": {"NanoCPUs": cpus * 10**9, "MemoryBytes": 8 * GIB},
            "Platform": {"OS": "linux", "Architecture": "x86_64"},
        },
    }


def place(name: str, cpus: int) -> Place:
    node = Node(f"id-{name}", name, "", cpus, 8 * GIB, ready=True, manager=name == "kvm4", labels={})
    return Place(LocalHost(name), node, "/var/lib/docker")


def service(name: str, image: str, **resources: int) -> dict[str, Any]:
    return {
        "ID": f"id-{name}",
        "Spec": {
            "Name": name,
            "Labels": {},
            "TaskTemplate": {
                "ContainerSpec": {"Image": image, "StopGracePeriod": 30 * 10**9},
                "Placement": {"Constraints": ["node.role==manager", "node.labels.zone!=b"]},
                "Resources": {"Limits": resources},
                "Networks": [{"Target": "n1"}],
            },
            "Mode": {"Replicated": {"Replicas": 1}},
        },
    }


def task(owner: str, node: str, state: str = "running", **limits: int) -> dict[str, Any]:
    return {
        "ServiceID": f"id-{owner}",
        "NodeID": f"id-{node}",
        "Status": {"State": state},
        "Spec": {"Resources": {"Limits": limits}},
    }


PARTS = (
    Part("pg", "postgres", "pg", UNIT.members[0], {"pg-data": "/var/lib/postgresql"}, ("pg",)),
    Part("api", "app", "api", Member("api", limits={"cpus": 1.5}), {}),
    Part("files-media", "files", "api", UNIT.members[1], {"media": "/media"}, ("api", "worker")),
)
SEEN = Seen(
    services={
        "pg": service("pg", "postgres@sha256:00", NanoCPUs=5 * 10**8, MemoryBytes=GIB),
        "api": service("api", "shop:latest", NanoCPUs=4 * 10**9),
    },
    tasks=[
        task("other", "kvm2", NanoCPUs=10**9, MemoryBytes=GIB),
        task("other", "kvm2", "shutdown", NanoCPUs=10**9),
        task("loose", "kvm2"),
        task("pg", "kvm4", NanoCPUs=5 * 10**8),
    ],
    nodes={"kvm4": read_node(raw_node("kvm4", "manager", 4)), "kvm2": read_node(raw_node("kvm2", "worker", 2))},
    networks=[{"Id": "n1", "Name": "dokploy-network", "Driver": "overlay"}],
    source=HostSeen(10 * GIB, 20 * GIB, 4 * GIB, frozenset(), {}),
    target=HostSeen(10 * GIB, 20 * GIB, 6 * GIB, frozenset(), {}),
    images={
        "pg": ImageSeen("postgres@sha256:00", "sha256:00", GIB, True),
        "api": ImageSeen("shop:latest", "sha256:11", GIB // 2, False),
    },
    clients={"pg": ["api", "10.0.0.9"]},
    link_rate=GIB / 8,
    traps=[
        Trap("constraint", "pg: node.role==manager keeps it off one of the two nodes", "replaced by the lease"),
        Trap("constraint", "pg: node.role==manager keeps it off one of the two nodes", "replaced by the lease"),
    ],
)
FACTS = {"pg": Facts(GIB, 0.4, {"version": 17}), "api": Facts(None, None, {}), "files-media": Facts(GIB // 2, 3.0, {})}


def step(name: str) -> Step:
    return Step(f"prepare.{name}", f"do {name}", "kvm2", probe=lambda: True, do=lambda _tell: None)


STEPS = {"prepare": [step("a"), Together([[step("b")], [step("c")]])]}


@pytest.fixture
def move(tmp_path: Path) -> Move:
    journal = Journal("saleor", "plan", tmp_path, read_only=True)
    return Move(UNIT, place("kvm4", 4), place("kvm2", 2), cast("Cluster", None), journal, Options())


def made(move: Move, seen: Seen = SEEN, facts: dict[str, Facts] | None = None, **more: Any) -> dict[str, Any]:
    given = {"phase": "new", "steps": STEPS, **more}
    return build_plan(move, PARTS, FACTS if facts is None else facts, seen, **given)


def test_what_is_there_and_what_comes_is_summed_for_the_target(move: Move) -> None:
    plan = made(move)
    before, after = plan["target_before"], plan["target_after"]
    assert (before["tasks"], before["limits_cpus"], before["limits_memory"]) == (2, 1.0, GIB)
    assert (after["tasks"], after["limits_cpus"], after["limits_memory"]) == (4, 3.0, 2 * GIB)
    assert (before["without_cpu_limit"], after["without_memory_limit"]) == (1, 2)
    assert plan["disk"] == {"needed": 2 * GIB, "free": 10 * GIB, "total": 20 * GIB}
    assert plan["duration"]["seconds"] == 16
    assert plan["outage"]["seconds"] == pytest.approx(3.4)
    assert not plan["refused"]
    assert len(plan["traps"]) == 1
    assert [each["id"] for each in plan["steps"]["prepare"]] == ["prepare.a", "prepare.b", "prepare.c"]
    assert plan["networks"] == [{"name": "dokploy-network", "driver": "overlay", "services": ["pg", "api"]}]
    assert json.loads(json.dumps(plan)) == plan


def test_a_task_that_is_on_the_target_already_does_not_come_again(move: Move) -> None:
    there = replace(SEEN, tasks=[*SEEN.tasks, task("pg", "kvm2", NanoCPUs=5 * 10**8)])
    assert made(move, there)["target_after"]["tasks"] == 4


@pytest.mark.parametrize(
    ("facts", "outage", "needed", "how"),
    [
        ({**FACTS, "pg": Facts(GIB, None, {})}, None, 2 * GIB, "not measured yet for pg"),
        ({**FACTS, "pg": Facts(None, 0.4, {})}, 3.4, None, "sum over"),
        ({"api": FACTS["api"]}, None, None, "not measured yet for pg, files-media"),
    ],
)
def test_what_nobody_measured_is_not_zero(
    move: Move, facts: dict[str, Facts], outage: float | None, needed: int | None, how: str
) -> None:
    plan = made(move, facts=facts)
    assert plan["outage"]["seconds"] == (None if outage is None else pytest.approx(outage))
    assert how in plan["outage"]["how"]
    assert plan["disk"]["needed"] == needed
    assert (plan["duration"]["seconds"] is None) == (needed is None)


def test_a_full_disk_refuses(move: Move) -> None:
    full = replace(SEEN, target=replace(SEEN.target, disk_free=3 * GIB - 1))
    plan = made(move, full)
    assert plan["refused"]
    assert plan["traps"][0]["code"] == "disk_full"
    enough = replace(SEEN, target=replace(SEEN.target, disk_free=3 * GIB))
    assert not made(move, enough)["refused"]


def test_a_host_that_was_not_seen_is_no_full_disk(move: Move) -> None:
    plan = made(move, replace(SEEN, target=HostSeen(unreachable="no way to it yet")))
    assert not plan["refused"]
    assert "Disk: 2G to copy, – of – free." in "\n".join(plan_text(plan))


def test_the_hash_is_of_what_is_done_not_of_loads_and_sizes(move: Move) -> None:
    same = [
        made(move),
        made(move, facts={**FACTS, "pg": Facts(2 * GIB, 0.5, {"lag": 3})}),
        made(move, replace(SEEN, link_rate=None, clients={}, target=replace(SEEN.target, disk_free=9 * GIB))),
        made(move, readiness={"pg": Readiness(True, "0 bytes behind", {"lag": 0})}),
    ]
    other = [
        made(move, phase="prepared"),
        made(move, steps={}),
        made(move, replace(SEEN, images={**SEEN.images, "api": ImageSeen("shop:latest", "sha256:22", GIB, False)})),
        made(move, replace(SEEN, services={**SEEN.services, "pg": service("pg", "postgres@sha256:01")})),
        made(move, replace(SEEN, traps=[Trap("port_taken", "x", "y", refuses=True)])),
    ]
    assert len({plan["hash"] for plan in same}) == 1
    assert len({plan["hash"] for plan in (same[0], *other)}) == len(other) + 1


def test_dokploys_record_has_its_own_units(move: Move) -> None:
    record = made(move)["dokploy"]
    assert json.loads(record["pg"]["placementSwarm"]) == {
        "Constraints": ["node.labels.zone!=b", "node.labels.evenkeel.lease.saleor==1"],
        "MaxReplicas": 1,
    }
    assert json.loads(record["pg"]["updateConfigSwarm"])["Order"] == "stop-first"
    assert record["pg"]["stopGracePeriodSwarm"] == 30_000_000_000
    assert (record["pg"]["cpuLimit"], record["pg"]["memoryLimit"]) == ("500000000", str(GIB))
    assert record["api"]["cpuLimit"] == "1500000000"
    assert "memoryLimit" not in record["api"]


@pytest.mark.parametrize("phase", ["switched", "completed"])
def test_after_a_finished_move_the_plan_is_empty_and_says_so(move: Move, phase: str) -> None:
    back = replace(move, source=move.target, target=move.source)  # as the engine hands it over then
    plan = made(back, phase=phase)
    assert plan["empty"]
    assert plan["steps"] == {}
    assert plan_text(plan) == [f"saleor: nothing to do, the move from kvm4 to kvm2 is {phase}."]


def test_the_text_says_first_what_refuses_and_then_all_the_rest(move: Move) -> None:
    refusing = Trap("port_taken", "api: host port 80/tcp is taken on the target", "free it there", refuses=True)
    seen = replace(SEEN, traps=[*SEEN.traps, refusing])
    lines = plan_text(made(move, seen, readiness={"pg": Readiness(False, "3M behind")}))
    text = "\n".join(lines)
    assert lines[0].startswith("saleor: kvm4 -> kvm2, new, plan ")
    assert lines[2:4] == [
        "REFUSED until this is mended:",
        "- api: host port 80/tcp is taken on the target. Free it there.",
    ]
    for said in (
        "3M behind",
        "files of api, worker",
        "will be brought",
        "CPU limits will be 1.50x its cores",
        "1 of 4 tasks after the move have no CPU limit",
        "Disk: 2G to copy, 10G of 20G free.",
        "Outage of writes: about 3.4 s",
        "connected to pg now: api, 10.0.0.9",
        "   2. do b [kvm2]",
        'placementSwarm = {"Constraints"',
    ):
        assert said in text
    assert all(len(line) <= 160 for line in lines)


def test_the_text_says_what_was_not_measured(move: Move) -> None:
    unknown = replace(SEEN, target=replace(SEEN.target, memory_available=None), link_rate=None)
    text = "\n".join(plan_text(made(move, unknown, {"api": FACTS["api"]})))
    assert "Memory available now: not measured." in text
    assert "Disk: not measured to copy" in text
    assert "Outage of writes: not measured" in text
    assert "REFUSED" not in text

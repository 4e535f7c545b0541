"""The edits of a pin: before -> after."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import Node, read_node
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import pin
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Member, Unit

UNIT = Unit("saleor", "kvm4", "kvm2", (Member("saleor-*"),))
LEASE = "node.labels.evenkeel.lease.saleor==1"
VOLUME = {"Type": "volume", "Source": "data", "Target": "/data"}


def node(name: str, role: str, labels: dict[str, str]) -> Node:
    return read_node(
        {
            "ID": f"id-{name}",
            "Spec": {"Role": role, "Availability": "active", "Labels": labels},
            "Status": {"State": "ready"},
            "Description": {
                "Hostname": name,
                "Resources": {"NanoCPUs": 4 * 10**9, "MemoryBytes": 2**34},
                "Platform": {"OS": "linux", "Architecture": "x86_64"},
            },
        }
    )


NODES = [
    node("kvm4", "manager", {"tier": "gold", "zone": "a", "evenkeel.lease.saleor": "1"}),
    node("kvm2", "worker", {"zone": "a"}),
]


def spec(
    constraints: list[str] | None = None, update: dict[str, Any] | None = None, *, data: bool = True, replicas: int = 1
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "Name": "saleor-db",
        "TaskTemplate": {"ContainerSpec": {"Mounts": [VOLUME] if data else []}, "ForceUpdate": 3},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }
    if constraints is not None:
        made["TaskTemplate"]["Placement"] = {"Constraints": constraints, "Platforms": [{"OS": "linux"}]}
    if update is not None:
        made["UpdateConfig"] = update
    return made


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, [LEASE]),
        ([], [LEASE]),
        (["node.role==manager"], [LEASE]),
        (["node.role == manager"], [LEASE]),
        (["node.role!=manager"], [LEASE]),  # excludes the home
        (["node.hostname==kvm4"], [LEASE]),
        (["node.hostname!=kvm9"], ["node.hostname!=kvm9", LEASE]),
        (["node.id==id-kvm4"], [LEASE]),
        (["node.labels.tier==gold"], [LEASE]),
        (["node.labels.zone==a", "node.platform.os==linux"], ["node.labels.zone==a", "node.platform.os==linux", LEASE]),
        ([LEASE, "node.labels.zone==a"], [LEASE, "node.labels.zone==a"]),
        ([LEASE.replace("==", " == ")], [LEASE.replace("==", " == ")]),
    ],
)
def test_pinned_keeps_what_both_nodes_satisfy(before: list[str] | None, after: list[str]) -> None:
    original = spec(before)
    untouched = copy.deepcopy(original)
    edited = pin.pinned(original, UNIT, NODES, 1)
    assert edited["TaskTemplate"]["Placement"]["Constraints"] == after
    assert edited["TaskTemplate"]["Placement"]["MaxReplicas"] == 1
    assert original == untouched
    assert pin.pinned(edited, UNIT, NODES, 1) == edited
    assert pin.is_pinned(edited, UNIT)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, None),  # Swarm's defaults are the safe ones
        (
            {"Parallelism": 2, "Order": "start-first", "FailureAction": "rollback"},
            {"Parallelism": 2, "Order": "stop-first", "FailureAction": "pause"},
        ),
        ({"Parallelism": 1}, {"Parallelism": 1, "Order": "stop-first", "FailureAction": "pause"}),
    ],
)
def test_pinned_makes_updates_safe_and_unpinned_puts_all_back(before: Any, after: Any) -> None:
    original = spec(["node.role==manager"], before)
    edited = pin.pinned(original, UNIT, NODES, 1)
    assert edited.get("UpdateConfig") == after
    remembered = {"placement": original["TaskTemplate"]["Placement"], "update": before}
    assert pin.unpinned(edited, UNIT, remembered) == original


def test_unpinned_restores_an_absent_placement_and_leaves_a_redeployed_spec_alone() -> None:
    original = spec()
    edited = pin.pinned(original, UNIT, NODES, 1)
    assert pin.unpinned(edited, UNIT, {"placement": None, "update": None}) == original
    redeployed = spec(["node.hostname==kvm4"], {"Order": "start-first"})
    assert pin.unpinned(redeployed, UNIT, {"placement": None, "update": None}) == redeployed
    assert pin.released(redeployed, UNIT, {"placement": None, "update": None}) == redeployed


def test_a_service_that_was_tied_to_the_lease_before_stays_so() -> None:
    original = spec([LEASE], {"Order": "start-first", "FailureAction": "rollback"})
    remembered = {"placement": original["TaskTemplate"]["Placement"], "update": original["UpdateConfig"]}
    assert pin.unpinned(pin.pinned(original, UNIT, NODES, 1), UNIT, remembered) == original


@pytest.mark.parametrize(
    ("data", "order", "most"),
    [(True, "stop-first", 1), (False, "start-first", None)],
)
def test_released_keeps_two_copies_off_one_volume(data: bool, order: str, most: int | None) -> None:
    update = {"Order": "start-first", "FailureAction": "rollback"}
    original = spec(["node.role==manager"], update, data=data)
    remembered = {"placement": original["TaskTemplate"]["Placement"], "update": update}
    edited = pin.released(pin.pinned(original, UNIT, NODES, 1), UNIT, remembered)
    assert edited["UpdateConfig"] == {"Order": order, "FailureAction": "rollback"}
    assert edited["TaskTemplate"]["Placement"].get("MaxReplicas") == most
    assert pin.is_pinned(edited, UNIT)


def test_replicas_of_a_stateless_service_fit_the_one_node() -> None:
    edited = pin.pinned(spec(data=False, replicas=0), UNIT, NODES, 3)
    assert edited["TaskTemplate"]["Placement"]["MaxReplicas"] == 3


@pytest.mark.parametrize("replicas", [0, 1])
def test_a_start_makes_tasks_anew_whatever_tasks_there_are(replicas: int) -> None:
    now = spec(replicas=replicas)
    assert pin.woken(now, spec())["TaskTemplate"]["ForceUpdate"] == 4


@pytest.mark.parametrize(
    ("mounts", "holds"),
    [
        ([], False),
        ([VOLUME], True),
        ([{**VOLUME, "ReadOnly": True}], False),
        ([{"Type": "bind", "Source": "/srv", "Target": "/srv"}], True),
        ([{"Type": "tmpfs", "Target": "/tmp"}], False),
    ],
)
def test_what_holds_data(mounts: list[dict[str, Any]], holds: bool) -> None:
    made = spec()
    made["TaskTemplate"]["ContainerSpec"]["Mounts"] = mounts
    assert pin.holds_data(made) is holds


@pytest.mark.parametrize(("given", "seconds"), [(None, 10), (0, 0), (30_000_000_000, 30)])
def test_stop_grace(given: int | None, seconds: float) -> None:
    made = spec()
    if given is not None:
        made["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"] = given
    assert pin.stop_grace(made) == seconds

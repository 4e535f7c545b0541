# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_info import survey
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import (
    REPLICAS,
    Change,
    apply_edit,
    eligible_nodes,
    plan,
    preflight,
    read_node,
    read_service,
    restore_spec,
    satisfies,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_table import parse_table
from hypothesis import given, settings
from hypothesis import strategies as st

MIB = 2**20
CPUS = ("limits", "cpus")


def raw_service(name: str, **changes: Any) -> dict[str, Any]:
    """A service as GET /services has it; `changes`: resources, mode, labels, mounts, placement, status, update."""
    template: dict[str, Any] = {
        "ContainerSpec": {
            "Image": "i@sha256:0",
            "Env": ["A=b"],
            "Labels": {"c": "l"},
            "Mounts": changes.get("mounts", []),
        },
        "Placement": changes.get("placement", {}),
        "ForceUpdate": 3,
    }
    if "resources" in changes:
        template["Resources"] = changes["resources"]
    return {
        "ID": f"id-{name}",
        "Version": {"Index": 7},
        "Spec": {
            "Name": name,
            "Labels": changes.get("labels", {}),
            "TaskTemplate": template,
            "Mode": changes.get("mode", {"Replicated": {"Replicas": 1}}),
            "UpdateConfig": changes.get("update", {"Order": "stop-first"}),
        },
        **({"UpdateStatus": {"State": changes["status"]}} if "status" in changes else {}),
    }


def raw_node(name: str, cpus: float = 4, memory: int = 8192 * MIB, **changes: Any) -> dict[str, Any]:
    return {
        "ID": f"id-{name}",
        "Spec": {"Role": "worker", "Availability": changes.get("availability", "active"), "Labels": {"Disk": "SSD"}},
        "Status": {"State": changes.get("state", "ready"), "Addr": "10.1.2.3"},
        "Description": {
            "Hostname": name,
            "Platform": {"OS": "linux", "Architecture": changes.get("arch", "x86_64")},
            "Resources": {"NanoCPUs": round(cpus * 10**9), "MemoryBytes": memory},
            "Engine": {"Labels": {"zone": "a"}},
        },
    }


def raw_task(service: str, node: str, state: str = "running", **resources: Any) -> dict[str, Any]:
    return {
        "ID": f"task-{service}-{node}",
        "ServiceID": f"id-{service}",
        "NodeID": f"id-{node}",
        "DesiredState": "running",
        "Status": {"State": state},
        "Spec": {"Resources": resources},
    }


def planned(row: dict[str, Any], *services: dict[str, Any]) -> list[Change]:
    changes, errors = plan([row], [read_service(raw) for raw in services])
    assert errors == []
    return changes


def refusals(
    changes: list[Change], nodes: list[Any], tasks: tuple[Any, ...] = (), in_use: dict[str, int] | None = None
) -> list[str]:
    return preflight(changes, [read_node(raw) for raw in nodes], tasks, in_use or {}, allow_memory_below_use=False)


def test_a_plan_holds_before_and_after_in_units_of_the_report() -> None:
    raw = raw_service(
        "a", resources={"Limits": {"NanoCPUs": 10**9, "Pids": 9}, "Reservations": {"MemoryBytes": MIB * 8}}
    )
    (change,) = planned({"service": "a", "limits": {"cpus": 0.5, "memory": "1G", "pids": "unlimited"}}, raw)
    assert change.before.report() == {
        "limits": {"cpus": 1.0, "memory": None, "pids": 9},
        "reservations": {"cpus": None, "memory": 8 * MIB},
        "replicas": 1,
    }
    assert change.after.report() == {
        "limits": {"cpus": 0.5, "memory": 1024 * MIB, "pids": None},
        "reservations": {"cpus": None, "memory": 8 * MIB},
        "replicas": 1,
    }
    assert change.changed
    assert "limits.cpus: 1\n" in change.diff()["before"]
    assert "limits.cpus: 0.5\n" in change.diff()["after"]


@pytest.mark.parametrize("resources", [{}, None, {"Limits": {}}, {"Limits": None}, {"Limits": {"NanoCPUs": 0}}])
def test_absent_null_and_zero_all_mean_unlimited(resources: Any) -> None:
    (change,) = planned({"glob": "*", "limits": {"cpus": "unlimited"}}, raw_service("a", resources=resources))
    assert not change.changed


@pytest.mark.parametrize("mode", [{"Global": {}}, {"GlobalJob": {}}, {"ReplicatedJob": {"MaxConcurrent": 1}}])
def test_replicas_of_what_has_none_are_an_error(mode: Any) -> None:
    _, errors = plan([{"service": "a", "replicas": 2}], [read_service(raw_service("a", mode=mode))])
    assert len(errors) == 1
    assert "row 1 (service: a): replicas: service a is" in errors[0]


def test_a_job_is_changed_only_by_its_exact_name() -> None:
    job = read_service(raw_service("a", mode={"ReplicatedJob": {}}))
    assert "runs a job again" in plan([{"glob": "a", "limits": {"cpus": 1}}], [job])[1][0]
    assert plan([{"service": "a", "limits": {"cpus": 1}}], [job])[1] == []


def test_a_limit_below_the_reservation_the_service_has_already_is_refused() -> None:
    raw = raw_service("a", resources={"Reservations": {"NanoCPUs": 10**9}})
    _, errors = plan([{"service": "a", "limits": {"cpus": 0.5}}], [read_service(raw)])
    assert errors == [
        "row 1 (service: a): service a: limits.cpus: 0.5 is below reservations.cpus, 1; "
        "a service can't be promised more than it may use"
    ]


@pytest.mark.parametrize(
    ("mounts", "stateful"),
    [
        ([], False),
        ([{"Type": "tmpfs"}], False),
        ([{"Type": "volume"}], True),
        ([{"Type": "bind"}], True),
        ([{"Type": "bind", "ReadOnly": True}], False),
    ],
)
def test_what_is_stateful(mounts: Any, stateful: bool) -> None:
    assert read_service(raw_service("a", mounts=mounts)).stateful is stateful


# --- edits ---


resources_shapes = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "Limits": st.one_of(
                st.none(), st.fixed_dictionaries({}, optional={"NanoCPUs": st.integers(1, 9), "Pids": st.just(5)})
            ),
            "Reservations": st.fixed_dictionaries(
                {}, optional={"MemoryBytes": st.integers(1, 9), "GenericResources": st.just([{"x": 1}])}
            ),
        },
    ),
)
edits = st.dictionaries(
    st.sampled_from([CPUS, ("limits", "memory"), ("limits", "pids"), ("reservations", "memory"), REPLICAS]),
    st.integers(0, 9),
)


@settings(deadline=None)  # a busy machine is no failure
@given(resources_shapes, edits)
def test_an_edit_changes_its_fields_only_and_is_undone_to_the_letter(resources: Any, edit: Any) -> None:
    spec = raw_service("a", resources=resources)["Spec"]
    original = copy.deepcopy(spec)
    (row,) = parse_table([{"service": "a", "replicas": 1}])[0]
    change = Change(read_service({"ID": "x", "Spec": original}), row, edit, read(original), read(original).merged(edit))
    edited = apply_edit(spec, edit)
    assert spec == original
    assert read(edited) == change.after
    assert outside_resources(edited) == outside_resources(original)
    assert generic(edited) == generic(original)
    assert restore_spec(edited, change.restore, original) == original


def read(spec: Any) -> Any:
    return read_service({"ID": "x", "Spec": spec}).settings


def generic(spec: Any) -> Any:
    return ((spec["TaskTemplate"].get("Resources") or {}).get("Reservations") or {}).get("GenericResources")


def outside_resources(spec: Any) -> Any:
    rest = copy.deepcopy(spec)
    rest["TaskTemplate"].pop("Resources", None)
    rest["Mode"]["Replicated"].pop("Replicas")
    return rest


def test_putting_back_keeps_what_others_changed_meanwhile() -> None:
    original = raw_service("a", resources={"Limits": {"MemoryBytes": 8 * MIB}})["Spec"]
    edited = apply_edit(original, {CPUS: 5})
    edited["TaskTemplate"]["ContainerSpec"]["Env"].append("NEW=1")
    edited["TaskTemplate"]["Resources"]["Limits"]["Pids"] = 77
    edited["Mode"]["Replicated"]["Replicas"] = 4
    restored = restore_spec(edited, {CPUS: 0}, original)
    assert restored["TaskTemplate"]["Resources"]["Limits"] == {"MemoryBytes": 8 * MIB, "Pids": 77}
    assert restored["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=b", "NEW=1"]
    assert restored["Mode"]["Replicated"]["Replicas"] == 4


# --- placement ---


@pytest.mark.parametrize(
    ("constraint", "satisfied"),
    [
        ("node.hostname==kvm4", True),
        ("node.hostname == KVM4", True),
        ("node.hostname!=kvm4", False),
        ("node.id==id-kvm4", True),
        ("node.role==manager", False),
        ("node.role!=manager", True),
        ("node.labels.Disk==ssd", True),
        ("node.labels.missing==x", False),
        ("node.labels.missing!=x", True),
        ("engine.labels.zone==a", True),
        ("node.platform.os==linux", True),
        ("node.ip==10.1.0.0/16", True),
        ("node.ip!=10.1.2.3", False),
        ("node.ip==nonsense", False),
    ],
)
def test_constraints(constraint: str, satisfied: bool) -> None:
    assert satisfies(read_node(raw_node("kvm4")), constraint) is satisfied


def test_nodes_that_take_no_tasks_are_not_eligible() -> None:
    nodes = [raw_node("ok"), raw_node("down", state="down"), raw_node("drained", availability="drain")]
    arm = raw_node("arm", arch="aarch64")
    placement = {"Platforms": [{"Architecture": "amd64", "OS": "linux"}, {"OS": "windows"}]}
    service = read_service(raw_service("a", placement=placement))
    assert [node.hostname for node in eligible_nodes(service, map(read_node, [*nodes, arm]))] == ["ok"]


# --- preflight ---


def test_a_cpu_limit_above_an_eligible_node_is_refused_naming_it() -> None:
    changes = planned({"service": "a", "limits": {"cpus": 2.5}}, raw_service("a"))
    (error,) = refusals(changes, [raw_node("kvm4", 4), raw_node("kvm2", 2)])
    assert "row 1 (service: a): service a: limits.cpus: 2.5 is more than the CPUs of kvm2 (2)" in error


def test_a_cpu_limit_is_not_held_against_nodes_the_service_never_gets() -> None:
    pinned = raw_service("a", placement={"Constraints": ["node.hostname==kvm4"]})
    changes = planned({"service": "a", "limits": {"cpus": 2.5}}, pinned)
    assert refusals(changes, [raw_node("kvm4", 4), raw_node("kvm2", 2)]) == []


def test_a_service_without_a_node_is_refused_unless_it_is_stopped() -> None:
    nowhere = raw_service("a", placement={"Constraints": ["node.labels.gpu==yes"]})
    (error,) = refusals(planned({"service": "a", "limits": {"cpus": 1}}, nowhere), [raw_node("kvm4")])
    assert "no node that takes tasks fits its placement (constraints: node.labels.gpu==yes)" in error
    assert refusals(planned({"service": "a", "replicas": 0}, nowhere), [raw_node("kvm4")]) == []


@pytest.mark.parametrize(
    ("limit", "in_use", "refused"),
    [("64M", 65 * MIB, True), ("64M", 64 * MIB, False), ("unlimited", 65 * MIB, False), ("64M", None, False)],
)
def test_memory_below_present_use_is_refused(limit: str, in_use: int | None, refused: bool) -> None:
    raw = raw_service("a", resources={"Limits": {"MemoryBytes": 128 * MIB}})
    changes = planned({"service": "a", "limits": {"memory": limit}}, raw)
    measured = {} if in_use is None else {"a": in_use}
    found = refusals(changes, [raw_node("n")], (), measured)
    assert bool(found) is refused
    assert preflight(changes, [read_node(raw_node("n"))], [], measured, allow_memory_below_use=True) == []


def test_a_memory_limit_that_stays_is_not_judged() -> None:
    raw = raw_service("a", resources={"Limits": {"MemoryBytes": 64 * MIB}})
    changes = planned({"service": "a", "limits": {"cpus": 1, "memory": "64M"}}, raw)
    assert refusals(changes, [raw_node("n")], (), {"a": 65 * MIB}) == []


GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("order", "wanted", "refused"),
    [
        ("stop-first", "4G", False),  # its own 4 GiB come back first
        ("stop-first", "5G", True),
        ("start-first", "4G", True),  # the new task must fit beside the old one: 2 GiB are left
        ("start-first", "2G", False),
    ],
)
def test_headroom_counts_the_services_own_reservation_as_the_update_order_does(
    order: str, wanted: str, refused: bool
) -> None:
    raw = raw_service("a", resources={"Reservations": {"MemoryBytes": 2 * GIB}}, update={"Order": order})
    tasks = (
        raw_task("a", "n", Reservations={"MemoryBytes": 2 * GIB}),
        raw_task("b", "n", Reservations={"MemoryBytes": 4 * GIB}),
        raw_task("b", "n", "shutdown", Reservations={"MemoryBytes": 4 * GIB}),
    )
    changes = planned({"service": "a", "reservations": {"memory": wanted}}, raw)
    found = refusals(changes, [raw_node("n", memory=8 * GIB)], tasks)
    assert bool(found) is refused, found


def test_reservations_of_several_services_add_up() -> None:
    changes = planned({"glob": "*", "reservations": {"cpus": 3}}, raw_service("a"), raw_service("b"))
    (error,) = refusals(changes, [raw_node("n", 4)])
    assert "service b: reservations: 3 CPUs for each task fit no node" in error
    assert "left to reserve: n 1 CPUs" in error
    assert refusals(changes, [raw_node("n", 4), raw_node("m", 4)]) == []


def test_a_global_service_needs_room_on_every_node() -> None:
    changes = planned({"service": "a", "reservations": {"cpus": 3}}, raw_service("a", mode={"Global": {}}))
    assert refusals(changes, [raw_node("n", 4), raw_node("m", 4)]) == []
    assert len(refusals(changes, [raw_node("n", 4), raw_node("m", 2)])) == 1


def test_unchanged_services_are_not_judged() -> None:
    raw = raw_service("a", resources={"Limits": {"NanoCPUs": 8 * 10**9}})
    assert refusals(planned({"service": "a", "limits": {"cpus": 8}}, raw), [raw_node("small", 1)]) == []


# --- the survey ---


def test_a_survey_adds_up_per_node_and_finds_drift() -> None:
    limits = {"NanoCPUs": 25 * 10**7, "MemoryBytes": 256 * MIB}
    raws = [raw_service("a", resources={"Limits": limits}), raw_service("b")]
    services = [read_service(raw) for raw in raws]
    changes, _ = plan([{"glob": "*", "limits": {"cpus": 0.25}}], services)
    tasks = [
        raw_task("a", "kvm4", Limits=limits, Reservations={"MemoryBytes": GIB}),
        raw_task("a", "kvm4", "failed", Limits=limits),
        raw_task("b", "kvm4"),
    ]
    found = survey(services, [read_node(raw_node("kvm4", 0.1)), read_node(raw_node("kvm2", 2))], tasks, changes)
    assert found["drifted"] == ["b"]
    assert found["services"][1]["drift"] == {"limits.cpus": {"expected": 0.25, "actual": None}}
    assert found["services"][0]["running"] == 1
    assert found["services"][0]["nodes"] == ["kvm4"]
    kvm2, kvm4 = found["nodes"]
    assert (kvm2["tasks"], kvm2["oversubscription"], kvm2["headroom_cpus"]) == (0, 0.0, 2.0)
    assert (kvm4["tasks"], kvm4["limits_cpus"], kvm4["limits_memory"]) == (2, 0.25, 256 * MIB)
    assert (kvm4["unlimited_tasks"], kvm4["oversubscription"]) == (1, 2.5)
    assert kvm4["headroom_memory"] == 7 * GIB
    assert found["totals"]["cpus"] == 2.1
    assert (found["totals"]["services"], found["totals"]["running_tasks"]) == (2, 2)

"""What would hurt in a move, each trap by a spec or facts that have it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import Node, read_node
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import traps
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Health, Member, Part, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Trap

UNIT = Unit("saleor", "kvm4", "kvm2", (Member("db"),))
GIB = 2**30
VOLUME = {"Type": "volume", "Source": "data", "Target": "/data"}


def node(name: str, role: str, cpus: int, memory: int, **more: Any) -> Node:
    return read_node(
        {
            "ID": f"id-{name}",
            "Spec": {"Role": role, "Availability": more.get("availability", "active"), "Labels": {}},
            "Status": {"State": more.get("state", "ready")},
            "Description": {
                "Hostname": name,
                "Resources": {"NanoCPUs": cpus * 10**9, "MemoryBytes": memory},
                "Platform": {"OS": "linux", "Architecture": "x86_64"},
            },
        }
    )


NODES = [node("kvm4", "manager", 4, 16 * GIB), node("kvm2", "worker", 2, 8 * GIB)]
QUIET: dict[str, Any] = {
    "Name": "db",
    "TaskTemplate": {"ContainerSpec": {"Image": f"postgres:17@sha256:{'0' * 64}", "Mounts": [VOLUME]}},
    "Mode": {"Replicated": {"Replicas": 1}},
    "UpdateConfig": {"Order": "stop-first", "FailureAction": "pause"},
}
HEALTHY = Member("db", health=Health(command=("true",)))


def spec(changes: Mapping[str, Any]) -> dict[str, Any]:
    """A spec without traps, with values at dotted paths."""
    made = copy.deepcopy(QUIET)
    for path, value in changes.items():
        *above, last = path.split(".")
        inner = made
        for key in above:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return made


def seen(found: list[Trap]) -> list[tuple[str, bool]]:
    return [(trap.code, trap.refuses) for trap in found]


IMAGE, CONTAINER, PLACEMENT = (
    "TaskTemplate.ContainerSpec.Image",
    "TaskTemplate.ContainerSpec",
    "TaskTemplate.Placement",
)
LIMITS, RESERVATIONS = "TaskTemplate.Resources.Limits", "TaskTemplate.Resources.Reservations"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"Mode": {"Global": {}}}, [("mode", True)]),
        ({"Mode.Replicated.Replicas": 0}, []),
        ({"Mode.Replicated.Replicas": 2}, [("replicas", True)]),
        ({f"{PLACEMENT}.Constraints": ["node.role==manager"]}, [("constraint", False)]),
        ({f"{PLACEMENT}.Constraints": ["node.hostname==kvm4"]}, [("constraint", False)]),
        ({f"{PLACEMENT}.Constraints": ["node.hostname!=kvm9"]}, []),
        ({f"{PLACEMENT}.Constraints": ["node.labels.evenkeel.lease.saleor==1"]}, []),
        ({f"{PLACEMENT}.Constraints": ["node.labels.evenkeel.lease.temporal == 1"]}, [("two_units", True)]),
        ({f"{PLACEMENT}.Preferences": [{"Spread": {}}]}, [("preference", False)]),
        ({f"{PLACEMENT}.MaxReplicas": 3}, [("max_replicas", False)]),
        ({f"{PLACEMENT}.Platforms": [{"OS": "linux", "Architecture": "arm64"}]}, [("target_unfit", True)]),
        ({"UpdateConfig.Order": "start-first"}, [("start_first", False)]),
        ({"UpdateConfig.FailureAction": "rollback"}, [("rollback_action", False)]),
        ({"UpdateConfig": None}, []),
        ({f"{CONTAINER}.Mounts": [{"Type": "volume", "Target": "/data"}]}, [("anonymous_volume", True)]),
        ({f"{CONTAINER}.Mounts": [{"Type": "cluster", "Source": "x", "Target": "/x"}]}, [("volume_driver", True)]),
        (
            {f"{CONTAINER}.Mounts": [{**VOLUME, "VolumeOptions": {"DriverConfig": {"Name": "nfs"}}}]},
            [("volume_driver", True)],
        ),
        (
            {f"{CONTAINER}.Mounts": [{**VOLUME, "VolumeOptions": {"DriverConfig": {"Options": {"type": "nfs"}}}}]},
            [("volume_driver", True)],
        ),
        ({f"{CONTAINER}.Mounts": [{**VOLUME, "VolumeOptions": {"DriverConfig": {"Name": "local"}}}]}, []),
        ({IMAGE: "registry:5000/postgres:17"}, [("tag_without_digest", False)]),
        ({IMAGE: f"sha256:{'1' * 64}"}, []),
        ({f"{CONTAINER}.Command": ["sh", "-c", "redis-server --save 60 1"]}, [("shell_pid_1", False)]),
        ({f"{CONTAINER}.Args": ["/bin/sh", "-c", "redis-server --save 60 1"]}, [("shell_pid_1", False)]),
        ({f"{CONTAINER}.Command": ["sh", "-c", "exec redis-server --save 60 1"]}, []),
        ({f"{CONTAINER}.Command": ["sh", "-c", "redis-server"], f"{CONTAINER}.Init": True}, []),
        ({f"{LIMITS}.NanoCPUs": 2 * 10**9}, []),
        ({f"{LIMITS}.NanoCPUs": 2 * 10**9 + 1}, [("cpus_above_target", True)]),
        ({f"{RESERVATIONS}.NanoCPUs": 3 * 10**9}, [("cpus_above_target", True)]),
        ({f"{LIMITS}.MemoryBytes": 8 * GIB}, []),
        ({f"{LIMITS}.MemoryBytes": 9 * GIB}, [("memory_above_target", True)]),
    ],
)
def test_traps_of_a_spec(changes: dict[str, Any], expected: list[tuple[str, bool]]) -> None:
    found = traps.service_traps(spec(changes), UNIT, NODES, HEALTHY, kind="postgres")
    assert seen(found) == expected
    assert all(trap.text.startswith("db: ") and trap.remedy for trap in found)


def test_a_members_limits_replace_those_that_do_not_fit() -> None:
    large = spec({f"{LIMITS}.NanoCPUs": 4 * 10**9})
    fits = Member("db", limits={"cpus": 2}, health=Health())
    assert traps.service_traps(large, UNIT, NODES, fits) == []
    with pytest.raises(MoveError, match="limits of db") as error:
        traps.service_traps(large, UNIT, NODES, Member("db", limits={"cpu": 2}))
    assert error.value.field == "limits"


@pytest.mark.parametrize(("state", "availability"), [("down", "active"), ("ready", "drain")])
def test_a_target_that_takes_no_tasks(state: str, availability: str) -> None:
    target = node("kvm2", "worker", 2, 8 * GIB, state=state, availability=availability)
    assert seen(traps.service_traps(QUIET, UNIT, [NODES[0], target], HEALTHY)) == [("target_unfit", True)]


@pytest.mark.parametrize(
    ("changes", "member", "expected"),
    [
        ({}, None, [("no_health", False)]),
        ({}, HEALTHY, []),
        ({f"{CONTAINER}.Healthcheck": {"Test": ["CMD", "true"]}}, None, []),
        ({f"{CONTAINER}.Healthcheck": {"Test": ["NONE"]}}, None, [("no_health", False)]),
        ({"Mode.Replicated.Replicas": 2, f"{CONTAINER}.Mounts": []}, HEALTHY, []),
    ],
)
def test_traps_of_a_service_without_state(
    changes: dict[str, Any], member: Member | None, expected: list[tuple[str, bool]]
) -> None:
    assert seen(traps.service_traps(spec(changes), UNIT, NODES, member)) == expected


@pytest.mark.parametrize(
    ("mounted", "kind", "expected"),
    [
        ("/var/lib/postgresql/data", "postgres", []),
        ("/var/lib/postgresql/data/", "postgres", []),
        ("/var/lib/postgresql", "postgres", [("anonymous_volume", True)]),  # the data would lie below the mount
        ("/elsewhere", "app", [("image_volume", False)]),
    ],
)
def test_a_volume_that_the_image_declares_needs_a_mount_at_that_very_path(
    mounted: str, kind: str, expected: list[tuple[str, bool]]
) -> None:
    made = spec({f"{CONTAINER}.Mounts": [{**VOLUME, "Target": mounted}]})
    assert seen(traps.image_volume_traps(made, ["/var/lib/postgresql/data"], kind)) == expected


FILE = {"kind": "file", "bytes": 10, "sha256": "a", "mode": 0o644, "owner": [0, 0]}
MISSING = {"kind": "missing"}


@pytest.mark.parametrize(
    ("here", "there", "ours", "expected"),
    [
        (FILE, MISSING, [], ("file_mount", False)),
        (FILE, FILE, [], ("file_mount", False)),
        (FILE, {**FILE, "sha256": "b"}, [], ("bind_mount", True)),
        (FILE, {**FILE, "sha256": "b"}, ["/f"], ("file_mount", False)),
        (FILE, {"kind": "directory"}, [], ("bind_mount", True)),
        ({**FILE, "bytes": traps.MAX_FILE + 1}, MISSING, [], ("bind_mount", True)),
        ({"kind": "directory"}, MISSING, [], ("bind_mount", True)),
        ({"kind": "other"}, {"kind": "other"}, [], ("bind_mount", True)),  # docker.sock
        (MISSING, MISSING, [], ("bind_mount", True)),
    ],
)
def test_bind_mounts(here: dict[str, Any], there: dict[str, Any], ours: list[str], expected: tuple[str, bool]) -> None:
    assert seen(traps.bind_traps("api", {"/f": here}, {"/f": there}, ours)) == [expected]


def test_a_file_that_a_server_mounts_refuses() -> None:
    """The companion that holds the copy has none of the service's bind mounts."""
    found = traps.bind_traps("pg", {"/f": FILE}, {"/f": MISSING}, kind="postgres")
    assert seen(found) == [("bind_mount", True)]


@pytest.mark.parametrize(
    ("mode", "used", "expected"),
    [
        ("host", set(), [("host_port", False)]),
        ("host", {(80, "tcp")}, [("port_taken", True)]),
        ("host", {(80, "udp")}, [("host_port", False)]),
        ("ingress", {(80, "tcp")}, []),
    ],
)
def test_published_ports(mode: str, used: set[tuple[int, str]], expected: list[tuple[str, bool]]) -> None:
    made = spec({"EndpointSpec.Ports": [{"PublishedPort": 80, "PublishMode": mode, "Protocol": "tcp"}]})
    assert seen(traps.port_traps(made, used)) == expected


NETWORKS = [
    {"Id": "n1", "Name": "dokploy-network", "Driver": "overlay"},
    {"Id": "n2", "Name": "other", "Driver": "overlay"},
    {"Id": "n3", "Name": "host", "Driver": "host"},
]


@pytest.mark.parametrize(
    ("targets", "image", "expected"),
    [
        (["n1"], "temporalio/server:1", []),
        (["dokploy-network"], "app", []),
        (["gone"], "app", [("network_missing", True)]),
        (["n3"], "app", [("network_not_overlay", True)]),
        (["n1", "n2"], "temporalio/auto-setup:1", [("temporal_networks", False)]),
        (["n1", "n2"], "temporalio/ui:2", []),
        (["n1", "n2"], "app", []),
    ],
)
def test_networks(targets: list[str], image: str, expected: list[tuple[str, bool]]) -> None:
    made = spec({"TaskTemplate.Networks": [{"Target": each} for each in targets], IMAGE: image})
    assert seen(traps.network_traps(made, NETWORKS)) == expected


@pytest.mark.parametrize(
    ("kind", "mover", "address", "options", "expected"),
    [
        ("postgres", None, "1.1.1.1", None, [("open_network", False)]),
        (
            "redis",
            None,
            "2606:4700::1",
            {"com.docker.network.driver.overlay.vxlanid_list": "1"},
            [("open_network", False)],
        ),
        ("postgres", None, "1.1.1.1", {"encrypted": ""}, []),
        ("postgres", None, "10.0.0.2", None, []),
        ("postgres", None, "", None, []),
        ("postgres", "dump", "1.1.1.1", None, []),
        ("app", None, "1.1.1.1", None, []),
    ],
)
def test_data_that_would_cross_the_internet_in_clear(
    kind: str, mover: str | None, address: str, options: dict[str, str] | None, expected: list[tuple[str, bool]]
) -> None:
    made = spec({"TaskTemplate.Networks": [{"Target": "n1"}]})
    nodes = [NODES[0]._replace(address="0.0.0.0"), NODES[1]._replace(address=address)]  # noqa: S104 - as a manager calls itself
    assert (
        seen(traps.open_network_traps(made, [{**NETWORKS[0], "Options": options}], nodes, kind=kind, mover=mover))
        == expected
    )


@pytest.mark.parametrize(
    ("kind", "replicas", "nodes", "expected"),
    [
        ("postgres", 1, {"kvm4"}, []),
        ("postgres", 1, set(), [("not_running", True)]),
        ("postgres", 0, set(), []),
        ("app", 1, set(), [("not_running", False)]),
        ("app", 1, {"kvm2"}, [("runs_elsewhere", True)]),
    ],
)
def test_whereabouts(kind: str, replicas: int, nodes: set[str], expected: list[tuple[str, bool]]) -> None:
    assert seen(traps.whereabouts_traps("db", kind, replicas, nodes, "kvm4")) == expected


def test_volumes_that_somebody_else_mounts_are_named() -> None:
    parts = [Part("files-media", "files", "api", Member("api"), {"media": "/m"}, ("api", "worker"))]
    services = [
        {"Spec": {"Name": name, "TaskTemplate": {"ContainerSpec": {"Mounts": [{**VOLUME, "Source": source}]}}}}
        for name, source in (("api", "media"), ("worker", "media"), ("thumbs", "media"), ("else", "other"))
    ]
    [trap] = traps.shared_volume_traps(parts, services, {"media": ["backup"]})
    assert (trap.code, trap.refuses) == ("volume_shared", True)
    assert "thumbs, container backup" in trap.text
    assert traps.shared_volume_traps(parts, services[:2], {}) == []

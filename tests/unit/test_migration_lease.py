"""The end, and the start, of a service that is redeployed meanwhile, without a Swarm."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import lease
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move


class Swarm:
    """A cluster with one service that its owner redeploys as soon as it has been scaled to 0."""

    def __init__(self) -> None:
        self.spec: dict[str, Any] = {
            "Name": "db",
            "TaskTemplate": {"ContainerSpec": {"Image": "db:1"}},
            "Mode": {"Replicated": {"Replicas": 1}},
        }
        self.redeploys = True
        self.scaled = 0
        self.version = 7

    def service(self, _name: str) -> dict[str, Any]:
        return {"ID": "s1", "Version": {"Index": self.version}, "Spec": self.spec}

    def write_service(self, service: dict[str, Any], spec: dict[str, Any]) -> bool:
        if service["Version"]["Index"] != self.version:
            return False
        self.spec, self.version = spec, self.version + 1
        return True

    def tasks(self, _id: str) -> list[Any]:
        if self.redeploys and self.scaled:
            self.redeploys = False
            self.spec["Mode"]["Replicated"]["Replicas"] = 1
        return []

    def edit_service(self, _name: str, edit: Any) -> None:
        before = copy.deepcopy(self.spec)
        edit(self.spec)
        self.scaled += self.spec != before


class Around:
    """A journal and a place, as far as a stop asks for them."""

    host, root, name, verb, node = None, "/docker", "kvm4", "switch", type("Node", (), {"id": "n"})

    def __init__(self) -> None:
        self.written: list[tuple[str, dict[str, Any]]] = []

    def write(self, event: str, **fields: Any) -> None:
        self.written.append((event, fields))

    def before(self, _key: str, _value: object) -> int:
        return 1


def test_a_redeploy_just_after_the_stop_does_not_fail_it(monkeypatch: Any) -> None:
    swarm = Swarm()
    move = cast("Move", type("M", (), {"cluster": swarm, "journal": Around(), "source": Around(), "target": Around()}))
    running: list[str] = []
    monkeypatch.setattr(lease, "containers_of", lambda _host, _service: running)
    monkeypatch.setattr(lease, "stop_containers", lambda _host, _service, _grace: True)
    monkeypatch.setattr(lease, "remember_running", lambda _move, _image, _service: None)
    step = lease.stop(move, "db")
    assert not step.probe()
    step.do(lambda **_numbers: None)
    assert swarm.spec["Mode"]["Replicated"]["Replicas"] == 1, "redeployed"
    assert step.probe()
    running.append("c2")
    assert not step.probe(), "one that it started counts"


def starting(monkeypatch: Any, swarm: Swarm, there: set[str]) -> Move:
    """A move whose place has the images `there` and can be brought others; whatever is started there runs at once."""
    swarm.redeploys = False
    move = cast("Move", type("M", (), {"cluster": swarm, "journal": Around(), "source": Around(), "target": Around()}))

    def runnable(_move: Move, _place: object, image: str, service: str) -> str:
        if image not in there:
            raise MoveError("image_missing", f"no image of {service}")
        return image

    monkeypatch.setattr(lease, "runnable", runnable)
    monkeypatch.setattr(lease, "bring", lambda _move, _place, image, _service, _tell: there.add(image))
    monkeypatch.setattr(lease, "_pinned", lambda _move, spec: copy.deepcopy(spec))
    monkeypatch.setattr(lease, "_limits_at", lambda _move, _service, _place: {})
    monkeypatch.setattr(lease, "_on_its_way", lambda _move, _service, _place: False)
    monkeypatch.setattr(lease, "_wait_for_start", lambda *_all: None)
    monkeypatch.setattr(lease, "_runs_only_at", lambda *_all: True)
    monkeypatch.setattr(lease, "orphans", lambda _host, _root, _volumes: [])
    monkeypatch.setattr(lease, "end_orphans", lambda *_arguments: [])
    return move


def test_a_service_starts_with_an_image_that_a_redeploy_has_just_brought(monkeypatch: Any) -> None:
    """After the intent nothing else brings it: prepare is refused then."""
    swarm, there = Swarm(), set[str]()
    move = starting(monkeypatch, swarm, there)
    step = lease.start(move, "db", cast("Any", Around()))
    assert not step.probe()
    step.do(lambda **_numbers: None)
    assert there == {"db:1"}
    assert step.probe()


def test_a_redeploy_between_the_look_for_strays_and_the_start_is_looked_at_anew(monkeypatch: Any) -> None:
    """What it stopped may still run on the data, and Swarm would start another beside it."""
    swarm, looks = Swarm(), 0
    swarm.spec["TaskTemplate"]["ContainerSpec"]["Mounts"] = [{"Type": "volume", "Source": "data", "Target": "/data"}]
    move = starting(monkeypatch, swarm, {"db:1", "db:2"})

    def look(_move: Move, _specs: object) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            redeployed = copy.deepcopy(swarm.spec)
            redeployed["TaskTemplate"]["ContainerSpec"]["Image"] = "db:2"
            assert swarm.write_service(swarm.service("db"), redeployed)

    monkeypatch.setattr(lease, "_wait_for_strays", look)
    lease.start(move, "db", cast("Any", Around())).do(lambda **_numbers: None)
    assert looks == 2
    assert swarm.spec["TaskTemplate"]["ContainerSpec"]["Image"] == "db:2"


def test_a_start_is_not_over_while_a_forgotten_container_has_the_data(monkeypatch: Any) -> None:
    """Docker was killed as it started it, and Swarm started another beside it."""
    swarm, forgotten, told = Swarm(), ["f" * 64], list[str]()
    swarm.spec["TaskTemplate"]["ContainerSpec"]["Mounts"] = [{"Type": "volume", "Source": "data", "Target": "/data"}]
    move = starting(monkeypatch, swarm, {"db:1"})

    def end(_journal: object, _host: object, root: str, volumes: list[str]) -> list[str]:
        assert (root, volumes) == ("/docker", ["data"])
        ended = [*forgotten]
        forgotten.clear()
        return ended

    monkeypatch.setattr(lease, "_wait_for_strays", lambda _move, _specs: None)
    monkeypatch.setattr(lease, "orphans", lambda _host, _root, _volumes: forgotten)
    monkeypatch.setattr(lease, "end_orphans", end)
    step = lease.start(move, "db", cast("Any", Around()))
    swarm.spec["Mode"]["Replicated"]["Replicas"] = 1
    assert not step.probe()
    step.do(lambda **numbers: told.append(str(numbers["text"])))
    assert step.probe()
    assert told[-1] == "ended on kvm4, as Docker had forgotten that it runs: ffffffffffff"


@pytest.mark.parametrize(
    ("state", "seconds", "containers", "expected"),
    [
        ("preparing", 5, [], True),
        ("preparing", 300, [], False),
        ("running", 300, ["c1"], True),
        ("starting", 300, ["c1"], True),
        ("running", 300, [], False),
    ],
)
def test_a_task_that_swarm_has_forgotten_is_not_on_its_way(
    monkeypatch: pytest.MonkeyPatch, state: str, seconds: float, containers: list[str], expected: bool
) -> None:
    """Seen on Docker 26.1 after a full disk; without a new task a switch that is run again would wait in vain."""
    since = (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.123456789Z")
    task = {"ID": "t1", "NodeID": "n", "DesiredState": "running", "Status": {"State": state, "Timestamp": since}}
    swarm = Swarm()
    swarm.tasks = lambda _id: [task]  # type: ignore[method-assign]
    monkeypatch.setattr(lease, "containers_of", lambda _host, _services: containers)
    move, place = cast("Move", type("M", (), {"cluster": swarm})), cast("Any", Around())
    assert lease._on_its_way(move, "db", place) == expected

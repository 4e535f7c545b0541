"""The end of a service that is redeployed meanwhile, without a Swarm."""

from __future__ import annotations

import copy
from typing import Any, cast

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import lease
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

    def service(self, _name: str) -> dict[str, Any]:
        return {"ID": "s1", "Spec": self.spec}

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

    host, name, verb, node = None, "kvm4", "switch", type("Node", (), {"id": "n"})

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

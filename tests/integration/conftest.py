"""Fixtures on a real lab: two Swarm hosts over SSH. `make test` brings the lab `test` up; LAB_NAME names another."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest

from lab import estate, hosts
from lab.settings import Settings, from_environment
from tests.integration.harness import LEFT_BY_TESTS, MONITOR, Ansible, Spec, Swarm, wait_for
from tests.integration.launcher_deployed import client, deployed

__all__ = ["client", "deployed"]  # fixtures of more than one file


@pytest.fixture(scope="session")
def lab() -> Settings:
    settings = from_environment({"LAB_NAME": "test", **os.environ})
    if not settings.ssh_config.exists():
        pytest.exit(f"the lab {settings.name!r} is not up: LAB_NAME={settings.name} make lab-up", returncode=2)
    return settings


@pytest.fixture(scope="session")
def ansible(lab: Settings) -> Ansible:
    return Ansible(lab)


@pytest.fixture(scope="session")
def swarm(lab: Settings) -> Iterator[Swarm]:
    with estate.api(lab, "kvm4") as client:
        swarm = Swarm(client)
        for name, spec in swarm.specs().items():
            if LEFT_BY_TESTS in spec["Labels"]:
                swarm.remove(name)
        yield swarm


@pytest.fixture(scope="session")
def on_host(lab: Settings) -> Callable[..., str]:
    """Run a shell command on a lab host over SSH."""
    return lambda host, command, **options: hosts.ssh(lab, host, command, **options)


@pytest.fixture(scope="session")
def app_image(swarm: Swarm) -> str:
    """The estate's small HTTP application, by digest."""
    image: str = swarm.specs()["backend-brain-gateway"]["TaskTemplate"]["ContainerSpec"]["Image"]
    return image


@pytest.fixture
def service(swarm: Swarm, app_image: str) -> Iterator[Callable[..., str]]:
    """Make services for one test; returns their names. Removed afterwards."""
    made: list[str] = []
    prefix = f"t{uuid.uuid4().hex[:6]}"

    def make(
        suffix: str = "a",
        *,
        node: str = "kvm4",
        replicas: int = 1,
        command: list[str] | None = None,
        resources: Spec | None = None,
        failure_action: str = "pause",
        edit: Callable[[Spec], None] = lambda _spec: None,
    ) -> str:
        name = f"{prefix}-{suffix}"
        spec: Spec = {
            "Name": name,
            "Labels": {LEFT_BY_TESTS: prefix},
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": app_image,
                    "Command": command or ["sleep", "infinity"],
                    "StopGracePeriod": 1_000_000_000,
                    "Init": True,
                },
                "Placement": {"Constraints": [f"node.hostname=={node}"]},
                "Resources": resources or {},
                "RestartPolicy": {"Condition": "any", "Delay": 500_000_000},
            },
            "Mode": {"Replicated": {"Replicas": replicas}},
            "UpdateConfig": {
                "Parallelism": 1,
                "Monitor": MONITOR,
                "FailureAction": failure_action,
                "Order": "stop-first",
            },
            "RollbackConfig": {"Parallelism": 1, "Monitor": MONITOR, "Order": "stop-first"},
            "EndpointSpec": {"Mode": "dnsrr"},
        }
        edit(spec)
        swarm.create(spec)
        made.append(name)
        swarm.wait_running(name, replicas)
        return name

    yield make
    ids = {swarm.remove(name) for name in made}
    # Their tasks outlive them for a moment, and would count in the next test's sums.
    wait_for(lambda: not ids & {task["ServiceID"] for task in swarm.client.tasks()}, 30, "removed tasks")


@pytest.fixture(scope="module")
def network(swarm: Swarm) -> Iterator[str]:
    """Make an overlay network for a module's tests; returns its name."""
    name = f"m{uuid.uuid4().hex[:6]}-net"
    swarm.client.create_network(name, driver="overlay", attachable=True, scope="swarm")
    yield name
    wait_for(lambda: _network_removed(swarm, name), 60, "the network to be free")


def _network_removed(swarm: Swarm, name: str) -> bool:
    try:
        swarm.client.remove_network(name)
    except Exception:
        return not swarm.client.networks(names=[name])
    return True

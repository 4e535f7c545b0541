"""demand_probe on a lab's worker: the limit goes up, the truth comes out, the limit is back, whatever happens."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.harness import Ansible, Swarm

NODE = "kvm2"
TOLERANCE = 0.05
WINDOW = 6
#: min_idle 0, as the lab's node is as busy as this machine happens to be.
QUICK = {"window": WINDOW, "duration": 5 * WINDOW, "min_idle": 0}
#: Below this, other work on this machine takes what the tasks would have used; such a probe proves nothing.
IDLE_NEEDED = 0.25
ATTEMPTS = 3


def loops(groups: str) -> list[str]:
    """Closed loops, as the estate's demand is made of."""
    return ["python3", "/usr/local/lib/closed_loops.py", *groups.split()]


def cpus(limit: float) -> dict[str, Any]:
    return {"Limits": {"NanoCPUs": round(limit * 1e9)}}


class Task:
    """The one running task of a service, as its host sees it."""

    def __init__(self, swarm: Swarm, on_host: Callable[..., str], name: str) -> None:
        self.swarm, self.on_host, self.name = swarm, on_host, name
        self.container = swarm.running(name)[0]["Status"]["ContainerStatus"]["ContainerID"]

    def limits(self) -> tuple[int, str]:
        """Nano-CPUs as the engine tells them, and the kernel's quota."""
        inspect = ["docker", "inspect", "--format", "{{.HostConfig.NanoCpus}}", self.container]
        quota = f"cat $(find /sys/fs/cgroup -path '*{self.container}*' -name cpu.cfs_quota_us -o -path '*{self.container}*' -name cpu.max)"
        return int(self.on_host(NODE, shlex.join(inspect))), self.on_host(NODE, quota).strip()

    def place(self) -> tuple[int, str]:
        """What changes as soon as a task is replaced or its service updated."""
        service = self.swarm.service(self.name)
        container = self.swarm.running(self.name)[0]["Status"]["ContainerStatus"]["ContainerID"]
        return service["Version"]["Index"], container


@pytest.fixture
def task(swarm: Swarm, on_host: Callable[..., str], service: Callable[..., str]) -> Callable[..., Task]:
    def make(command: list[str], limit: float | None) -> Task:
        resources = cpus(limit) if limit else {}
        return Task(swarm, on_host, service(node=NODE, command=command, resources=resources))

    return make


@pytest.fixture(autouse=True)
def nothing_left(on_host: Callable[..., str]) -> Any:
    """After each test: no intent, no timer."""
    yield
    assert left(on_host) == ""


def left(on_host: Callable[..., str]) -> str:
    return on_host(
        NODE,
        "cat /run/evenkeel-probe/intent.json 2>/dev/null; systemctl list-units --all --plain --no-legend 'evenkeel-probe-*'",
    ).strip()


@pytest.mark.parametrize(
    ("groups", "limit", "truth", "raised_to"),
    [
        # Held so tight that it is never seen to pause: 0.57 of a core wanted, a twentieth of it given.
        ("1x0.57", 0.03, 0.57, 0.03 * 4),
        # Two spinners' worth in many small loops.
        ("4x0.15", 0.05, 0.60, 0.05 * 4),
    ],
    ids=["one", "four"],
)
def test_dummy(
    ansible: Ansible, task: Callable[..., Task], groups: str, limit: float, truth: float, raised_to: float
) -> None:
    held = task(loops(groups), limit)
    before = held.limits(), held.place()
    result = ansible.module(NODE, "demand_probe", {"service": held.name, **QUICK})
    print(json.dumps({k: v for k, v in result.items() if k != "throttling"}, indent=1))
    assert (held.limits(), held.place()) == before

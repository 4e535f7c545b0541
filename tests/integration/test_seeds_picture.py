"""The seeds' picture: their services want 26 cores under their limits, and the report says so.

The demand is what LAB_LOAD=1 gives: the images' own `demand` script, with the environment that lab/estate.py makes for
a service, started once more inside each running container. It counts into the container's cgroup and ends by itself,
so no service changes, and nothing is left even if this test is killed.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab import estate
from tests.integration.harness import Ansible, Swarm

pytestmark = pytest.mark.quiet

#: Cores wanted in the seeds' measurement, and the CPU limit of the table.
SEEDS = {
    "backend-django-crm": (10.8, 1.0),
    "backend-saleor-api": (10.3, 1.5),
    "backend-ai-agents": (2.6, 0.5),
    "infrastructureservices-temporalserver-k3v9qa": (1.6, 2.0),
    "infrastructure-shared-redis": (1.2, 0.25),
}
TRUTH = {name: wanted for name, (wanted, _) in SEEDS.items()}
TOTAL = 26
TOLERANCE = 0.10
WINDOW = 30
#: Seconds until every loop has begun, and until the module looks and has looked.
WARM_UP = 5
SLACK = 15
#: With this share of their limits the five services fit on two cores, so that the limits alone hold them.
SMALL = 0.2


@contextmanager
def full_load(swarm: Swarm, on_host: Callable[..., str], services: Iterable[str]) -> Iterator[dict[str, str]]:
    """Give running services their real demand for a while; yields their containers by name."""
    seconds = WARM_UP + WINDOW + SLACK
    entries = estate.load()["estate_services"]
    containers = {
        name: task["Status"]["ContainerStatus"]["ContainerID"] for name in services for task in swarm.running(name)
    }
    commands = []
    for name, container in containers.items():
        wanted = estate.demand(entries[name]["demand"], entries[name]["demand"])
        variables = [f"--env={key}={value}" for key, value in wanted.items()]
        # timeout ends its whole process group: the loops too.
        program = ["timeout", str(seconds), "demand", "sleep", "infinity"]
        commands.append(shlex.join(["docker", "exec", "--detach", *variables, container, *program]))
    on_host("kvm4", " && ".join(commands))
    over = time.monotonic() + seconds + 1
    try:
        time.sleep(WARM_UP)
        yield containers
    finally:
        time.sleep(max(0.0, over - time.monotonic()))


def seen_by(ansible: Ansible) -> dict[str, dict[str, Any]]:
    """What a look of one window finds of the five services."""
    result = ansible.module("kvm4", "throttling_info", {"window": WINDOW})
    seen = {each["service"]: each for each in result["services"] if each["service"] in SEEDS}
    for name, mine in seen.items():
        used, ratio, demand = mine["cpu_used"], mine["throttled_ratio"], mine["demand"]
        print(f"SEEN {name}: used {used:.3f} of {mine['cpu_limit']}, throttled {ratio}, {demand}")
    return seen


def is_the_picture(seen: dict[str, dict[str, Any]]) -> None:
    wanted = {name: each["demand"]["upper"] for name, each in seen.items()}
    assert wanted == pytest.approx(TRUTH, rel=TOLERANCE)
    assert sum(wanted.values()) == pytest.approx(TOTAL, rel=TOLERANCE)
    assert all(each["cpu_used"] <= each["cpu_limit"] * 1.05 for each in seen.values())


@pytest.fixture(scope="module", autouse=True)
def tables_limits(ansible: Ansible) -> None:
    applied = ansible.playbook("playbooks/limits.yml")
    assert applied.status == 0, applied.text[-3000:]


def test_the_whole_estate_wants_26_cores_under_the_tables_limits(
    ansible: Ansible, swarm: Swarm, on_host: Callable[..., str]
) -> None:
    every = [name for name, entry in estate.load()["estate_services"].items() if entry.get("demand")]
    with full_load(swarm, on_host, every):
        seen = seen_by(ansible)
    assert {name: each["cpu_limit"] for name, each in seen.items()} == pytest.approx(
        {name: limit for name, (_, limit) in SEEDS.items()}
    )
    is_the_picture(seen)


def test_the_five_want_the_same_where_only_their_limits_hold_them(
    ansible: Ansible, swarm: Swarm, on_host: Callable[..., str]
) -> None:
    """On two cores the table's limits hardly bite: with a fifth of them every period ends throttled, as on kvm4."""
    with full_load(swarm, on_host, SEEDS) as containers:
        try:
            for name, (_, limit) in SEEDS.items():
                on_host("kvm4", f"docker update --cpus {limit * SMALL:g} {containers[name]}")
            time.sleep(1)
            seen = seen_by(ansible)
        finally:
            for name, (_, limit) in SEEDS.items():
                on_host("kvm4", f"docker update --cpus {limit:g} {containers[name]}")
    is_the_picture(seen)
    assert all(each["throttled_ratio"] > 0.9 for each in seen.values())

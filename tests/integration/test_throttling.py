"""throttling_info on a real worker: Swarm tasks with known demand under real limits.

tests/cgroups/test_estimator_cgroup.py has the whole truth table on plain cgroups; here the same estimator reads
containers that Swarm placed on kvm2, over SSH, as an operator does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.harness import Ansible, Swarm

pytestmark = pytest.mark.quiet

WINDOW = 8
TOLERANCE = 0.05
ATTEMPTS = 3
#: Below this, other work on this machine takes what the tasks would have used; such a window proves nothing.
IDLE_NEEDED = 0.15

CLOSED_LOOP = """
import os, sys, time
count, busy, idle = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
while count > 1 and os.fork():
    count -= 1
while True:
    end = time.thread_time() + busy
    while time.thread_time() < end:
        pass
    time.sleep(idle)
"""


def spinners(count: int) -> list[str]:
    return ["stress-ng", "--quiet", "--cpu", str(count), "--cpu-method", "int64"]


def closed_loop(count: int, busy: float, idle: float) -> list[str]:
    return ["python3", "-c", CLOSED_LOOP, str(count), str(busy), str(idle)]


def cpus(limit: float) -> dict[str, Any]:
    return {"Limits": {"NanoCPUs": round(limit * 1e9)}}


def look(ansible: Ansible, window: float = WINDOW) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    result = ansible.module("kvm2", "throttling_info", {"window": window})
    return result["node"], {each["service"]: each for each in result["services"]}


@pytest.mark.parametrize(
    "batch",
    [
        [(1, 0.1), (2, 0.1), (4, 0.1), (10, 0.1)],
        [(1, 0.25), (2, 0.25), (4, 0.25), (10, 0.25)],
        [(1, 0.5), (2, 0.5)],
        [(4, 0.5), (10, 0.5)],
    ],
    ids=["0.1", "0.25", "0.5-few", "0.5-many"],
)
def test_busy_threads_are_counted_on_a_worker(
    ansible: Ansible, service: Callable[..., str], batch: list[tuple[int, float]]
) -> None:
    names = {
        service(f"n{threads}", node="kvm2", command=spinners(threads), resources=cpus(limit)): (threads, limit)
        for threads, limit in batch
    }
    time.sleep(1)
    wrong = 0
    for _ in range(ATTEMPTS):
        node, seen = look(ansible)
        problems: list[str] = []
        for name, (threads, limit) in names.items():
            mine = seen[name]
            print(
                f"SEEN {threads} at {limit}: idle {node['cpu_idle_share']:.2f} runnable {mine['runnable']:.3f}",
                mine["demand"],
            )
            assert mine["demand"]["regime"] == "unidentifiable"
            assert mine["demand"]["estimate"] is None
            assert mine["cpu_limit"] == pytest.approx(limit)
            for what, value in (("runnable", mine["runnable"]), ("upper", mine["demand"]["upper"])):
                if value != pytest.approx(threads, rel=TOLERANCE):
                    problems.append(f"{threads} threads at {limit}: {what} is {value}")
            if mine["throttled_ratio"] <= 0.9:
                problems.append(f"{threads} threads at {limit}: throttled in {mine['throttled_ratio']:.0%} of periods")
        if not problems:
            return
        # Once, of all runs so far, a container of two threads had 2.25 runnable, for a reason not found yet.
        wrong += node["cpu_idle_share"] >= IDLE_NEEDED
        assert wrong < 2, problems
    pytest.skip(f"this machine was busy with other things in {ATTEMPTS} windows")


def test_closed_loops_are_estimated_or_left_open(ansible: Ansible, service: Callable[..., str]) -> None:
    cases = {
        service("c025", node="kvm2", command=closed_loop(4, 0.030, 0.070), resources=cpus(0.25)): 1.2,
        service("c050", node="kvm2", command=closed_loop(4, 0.030, 0.070), resources=cpus(0.5)): 1.2,
        service("c005", node="kvm2", command=closed_loop(1, 0.005, 0.045), resources=cpus(0.05)): 0.1,
    }
    time.sleep(1)
    problems: list[str] = []
    for _ in range(ATTEMPTS):
        node, seen = look(ansible)
        print("SEEN", node["cpu_idle_share"], {name: seen[name]["demand"] for name in cases})
        problems = [
            f"{name}: {seen[name]['demand']} although the truth is {truth}"
            for name, truth in cases.items()
            if seen[name]["demand"]["estimate"] is not None
            and seen[name]["demand"]["estimate"] != pytest.approx(truth, rel=TOLERANCE)
        ]
        if not problems:
            return
        assert node["cpu_idle_share"] < IDLE_NEEDED, problems
    pytest.skip(f"this machine was busy with other things in {ATTEMPTS} windows")


def test_a_single_look_has_memory_but_no_rates(ansible: Ansible, service: Callable[..., str]) -> None:
    name = service(node="kvm2", resources={"Limits": {"MemoryBytes": 64 * 1024**2, "NanoCPUs": 500_000_000}})
    _, seen = look(ansible, window=0)
    mine = seen[name]
    assert mine["memory"]["limit"] == 64 * 1024**2
    assert 0 < mine["memory"]["working_set"] < 64 * 1024**2
    assert mine["cpu_limit"] == pytest.approx(0.5)
    for rate in ("cpu_used", "throttled_ratio", "runnable"):
        assert mine[rate] is None
    assert mine["demand"]["estimate"] is None
    assert mine["restarts"] is None


def test_out_of_memory_kills_and_restarts_are_counted(
    ansible: Ansible, swarm: Swarm, service: Callable[..., str]
) -> None:
    # A child is killed, the task lives: what `docker service ps` never shows.
    program = "import os, time; os.fork() or bytearray(200 << 20); time.sleep(1e9)"
    name = service(node="kvm2", command=["python3", "-c", program], resources={"Limits": {"MemoryBytes": 48 * 1024**2}})
    time.sleep(3)
    _, seen = look(ansible, window=0)
    assert seen[name]["oom_kills"] >= 1
    assert swarm.running(name)


def test_a_container_that_goes_in_the_window_does_not_spoil_the_look(
    ansible: Ansible, swarm: Swarm, service: Callable[..., str]
) -> None:
    stays, goes = service("stays", node="kvm2"), service("goes", node="kvm2")

    def scale_down(spec: dict[str, Any]) -> None:
        spec["Mode"]["Replicated"]["Replicas"] = 0

    swarm.update(goes, scale_down)
    _, seen = look(ansible, window=4)
    assert seen[stays]["cpu_used"] is not None
    assert goes not in seen or seen[goes]["cpu_used"] is None, "a number for a container that was gone"

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._convergence import (
    CONVERGED,
    FAILED,
    FAILURES_TO_GIVE_UP,
    UNPLACED_PATIENCE,
    WAITING,
    Verdict,
    Watch,
    is_stalled,
    judge,
    timed_out,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import plan, read_service

NEW, OLD = 5 * 10**8, 10**9
CPUS = ("limits", "cpus")


def service(status: str | None = None, cpus: int = NEW, started: str = "after", **spec: Any) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "ID": "s",
        "Spec": {
            "Name": "web",
            "Mode": {"Replicated": {"Replicas": 1}},
            "TaskTemplate": {"Resources": {"Limits": {"NanoCPUs": cpus}}, **spec.pop("template", {})},
            **spec,
        },
        "JobStatus": {"JobIteration": {"Index": 2}} if "Job" in str(spec.get("Mode")) else None,
    }
    if status:
        raw["UpdateStatus"] = {"State": status, "StartedAt": started, "Message": f"update {status}"}
    return raw


def task(name: str, state: str = "running", cpus: int = NEW, desired: str = "running", **more: Any) -> dict[str, Any]:
    status: dict[str, Any] = {"State": state}
    if "error" in more:
        status["Err"] = more.pop("error")
    if "exit_code" in more:
        status["ContainerStatus"] = {"ExitCode": more.pop("exit_code")}
    return {
        "ID": name,
        "ServiceID": "s",
        "Slot": 1,
        "NodeID": "n",
        "CreatedAt": "" if name == "old" else name,
        "DesiredState": desired,
        "Status": status,
        "Spec": {"Resources": {"Limits": {"NanoCPUs": cpus}}},
        **more,
    }


def watch(**more: Any) -> Watch:
    return Watch("s", "web", {CPUS: NEW}, 0.0, earlier_tasks=frozenset({"old"}), node_names={"n": "kvm4"}, **more)


OLD_DONE = task("old", "shutdown", OLD, "shutdown")
OLD_STOPPING = task("old", "running", OLD, "shutdown")
OLD_RUNS = task("old", "running", OLD)


@pytest.mark.parametrize(
    ("raw", "tasks", "state", "rolling"),
    [
        # stop-first, from the POST to the end
        (service(), [OLD_RUNS], WAITING, True),
        (service("updating"), [OLD_STOPPING, task("new", "assigned", desired="ready")], WAITING, True),
        (service("updating"), [OLD_DONE, task("new", "starting")], WAITING, True),
        (service("updating"), [OLD_DONE, task("new")], WAITING, False),
        (service("completed"), [OLD_DONE, task("new")], CONVERGED, False),
        # start-first: the old task runs beside the new one, then stops
        (service("updating"), [OLD_RUNS, task("new")], WAITING, True),
        (service("updating"), [OLD_STOPPING, task("new")], WAITING, True),
        # completed (FailureAction=continue) is not convergence without running tasks
        (service("completed"), [OLD_DONE, task("new", "failed")], WAITING, True),
        # Docker rolls back by itself: wait for that, too
        (service("rollback_started", OLD), [OLD_DONE, task("new", "failed")], WAITING, True),
        (service("rollback_completed", OLD), [task("x", cpus=OLD)], FAILED, True),
        (service("rollback_paused", OLD), [task("x", "failed", OLD)], FAILED, True),
        # a rollback of another writer's later change ended at our limits
        (service("rollback_completed"), [OLD_DONE, task("new")], CONVERGED, False),
        (service("paused"), [OLD_RUNS, task("new", "rejected")], FAILED, True),
        (service("updating", OLD), [OLD_RUNS], FAILED, True),
        (None, [], FAILED, True),
    ],
)
def test_one_look(raw: Any, tasks: list[Any], state: str, rolling: bool) -> None:
    verdict = judge(watch(), raw, tasks, 10.0)
    assert (verdict.state, verdict.rolling) == (state, rolling), verdict


def test_a_task_that_dies_and_comes_back_is_not_convergence_while_it_happens_to_run() -> None:
    """Seen with FailureAction=continue: Docker says completed, the task lives for a third of a second each time."""
    raw, seen = service("completed"), watch()
    dead = [OLD_DONE, task("x1", "failed", desired="shutdown", error="exit 137")]
    assert judge(seen, raw, [*dead, task("x2")], 10.0).state == WAITING
    dead.append(task("x2", "failed", desired="shutdown", error="exit 137"))
    assert judge(seen, raw, [*dead, task("x3", "starting")], 11.0).state == WAITING
    assert judge(seen, raw, [*dead, task("x3")], 12.0).state == WAITING
    assert judge(seen, raw, [*dead, task("x3")], 17.0).state == CONVERGED, "five seconds without a new death"
    dead.append(task("x3", "failed", desired="shutdown", error="exit 137"))
    given_up = judge(watch(), raw, [*dead, task("x4")], 12.0)
    assert given_up.state == FAILED
    assert "exit 137" in given_up.message


def test_a_status_of_before_our_post_does_not_count() -> None:
    stale = watch(stale_status_started="before")
    raw = service("paused", started="before")
    assert judge(stale, raw, [OLD_RUNS], 1.0).state == WAITING
    assert judge(stale, service("completed", started="before"), [OLD_RUNS], 1.0).state == WAITING
    assert judge(stale, service("paused", started="after"), [OLD_RUNS], 1.0).state == FAILED


def test_no_replicas_converge_at_once_and_without_a_status() -> None:
    raw = service(Mode={"Replicated": {"Replicas": 0}})
    assert judge(watch(), raw, [], 0.1).state == CONVERGED


def test_scaling_to_zero_waits_until_the_tasks_have_stopped() -> None:
    raw = service(Mode={"Replicated": {"Replicas": 0}})
    stopping = task("old", "running", NEW, "shutdown")
    assert judge(watch(), raw, [stopping], 1.0).state == WAITING
    assert judge(watch(down_nodes=frozenset({"n"})), raw, [stopping], 1.0).state == CONVERGED
    assert judge(watch(), raw, [task("old", "shutdown", NEW, "shutdown")], 1.0).state == CONVERGED


def test_a_task_that_was_taken_back_before_it_had_a_node_is_not_waited_for() -> None:
    """Seen on Docker 26: it stays `pending` for good."""
    taken_back = task("old", "pending", OLD, "shutdown", NodeID="")
    assert judge(watch(), service("completed"), [taken_back, task("new")], 1.0).state == CONVERGED


def test_without_a_status_new_tasks_are_watched_as_long_as_swarm_would() -> None:
    raw = service(Mode={"Replicated": {"Replicas": 2}}, UpdateConfig={"Monitor": 3 * 10**9})
    seen, tasks = watch(), [task("old"), task("new")]
    assert judge(seen, raw, tasks, 10.0) == Verdict(WAITING, rolling=False)
    assert judge(seen, raw, tasks, 12.9).state == WAITING
    assert judge(seen, raw, tasks, 13.0).state == CONVERGED


def test_the_watch_begins_anew_when_a_task_falls() -> None:
    seen = watch()
    assert judge(seen, service(), [task("new")], 10.0).state == WAITING
    assert judge(seen, service(), [task("new", "failed"), task("new2", "starting")], 14.0).state == WAITING
    assert judge(seen, service(), [task("new2")], 15.5).state == WAITING
    assert judge(seen, service(), [task("new2")], 20.5).state == CONVERGED


def test_tasks_that_ran_before_need_no_watching() -> None:
    assert judge(watch(), service(), [task("old")], 0.1).state == CONVERGED


def test_without_a_status_a_task_that_keeps_failing_is_given_up() -> None:
    failed = [task(f"new{i}", "failed", error="boom") for i in range(FAILURES_TO_GIVE_UP)]
    assert judge(watch(), service(), failed[:-1], 5.0).state == WAITING
    verdict = judge(watch(), service(), failed, 5.0)
    assert (verdict.state, verdict.code) == (FAILED, "task_failed")
    assert verdict.message == "task web.1 on kvm4 failed: boom"


def test_completed_with_failing_tasks_fails_after_patience_and_not_before() -> None:
    seen, tasks = watch(), [OLD_DONE, task("new", "failed", error="boom"), task("new2", "starting")]
    assert judge(seen, service("completed"), tasks, 10.0).state == WAITING
    assert judge(seen, service("completed"), tasks, 14.9).state == WAITING
    assert judge(seen, service("completed"), tasks, 15.0).code == "task_failed"


def test_completed_and_slow_to_start_is_waited_for() -> None:
    seen, tasks = watch(), [task("new"), task("new2", "preparing")]
    raw = service("completed", Mode={"Replicated": {"Replicas": 2}})
    assert judge(seen, raw, tasks, 10.0).state == WAITING
    assert judge(seen, raw, tasks, 60.0).state == WAITING


def test_a_task_without_a_node_fails_after_patience_with_swarms_words() -> None:
    seen = watch()
    tasks = [OLD_DONE, task("new", "pending", error="no suitable node (insufficient resources on 1 node)", NodeID="")]
    assert judge(seen, service("updating"), tasks, 10.0).state == WAITING
    verdict = judge(seen, service("updating"), tasks, 10.0 + UNPLACED_PATIENCE)
    assert verdict.code == "no_suitable_node"
    assert verdict.message == "task web.1 pending: no suitable node (insufficient resources on 1 node)"


def test_no_node_while_the_predecessor_still_stops_is_no_failure() -> None:
    seen, tasks = watch(), [OLD_STOPPING, task("new", "pending", desired="ready", error="no suitable node", NodeID="")]
    for now in (10.0, 10.0 + UNPLACED_PATIENCE, 100.0):
        assert judge(seen, service("updating"), tasks, now).state == WAITING


def test_a_failure_carries_the_newest_tasks_own_error() -> None:
    tasks = [
        task("new1", "rejected", error="first"),
        task("new2", "rejected", error="Range of CPUs is from 0.01 to 2.00"),
        task("old", "failed", OLD, error="an old story"),
    ]
    verdict = judge(watch(), service("paused"), tasks, 1.0)
    assert verdict.code == "update_paused"
    assert verdict.message == "update paused: task web.1 on kvm4 rejected: Range of CPUs is from 0.01 to 2.00"


def test_a_killed_task_with_a_memory_limit_gets_a_hint() -> None:
    killed = task("new", "failed", error="task: non-zero exit (137)", exit_code=137)
    killed["Spec"]["Resources"]["Limits"]["MemoryBytes"] = 2**24
    assert "out of memory, most likely" in judge(watch(), service("paused"), [killed], 1.0).message


@pytest.mark.parametrize(("condition", "state"), [("none", CONVERGED), ("on-failure", CONVERGED), ("any", FAILED)])
def test_the_end_of_a_one_shot_task_is_success(condition: str, state: str) -> None:
    raw = service("paused", template={"RestartPolicy": {"Condition": condition}})
    raw["Spec"]["TaskTemplate"]["Resources"] = {"Limits": {"NanoCPUs": NEW}}
    assert judge(watch(), raw, [OLD_DONE, task("new", "complete", desired="shutdown")], 1.0).state == state


@pytest.mark.parametrize(
    ("state", "iteration", "expected"),
    [("complete", 2, CONVERGED), ("running", 2, CONVERGED), ("complete", 1, WAITING), ("starting", 2, WAITING)],
)
def test_a_job_has_its_limits_when_its_new_iteration_runs_or_is_done(state: str, iteration: int, expected: str) -> None:
    raw = service(Mode={"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}})
    done = task("new", state, desired="complete", JobIteration={"Index": iteration})
    assert judge(watch(), raw, [done], 1.0).state == expected


def test_a_global_service_is_up_when_every_node_runs_the_new_task() -> None:
    raw = service("completed", Mode={"Global": {}})
    both = [task("a", NodeID="n1", Slot=0), task("b", NodeID="n2", Slot=0)]
    assert judge(watch(), raw, both, 1.0).state == CONVERGED
    assert judge(watch(), raw, [both[0], task("b", "starting", NodeID="n2")], 1.0).state == WAITING
    assert judge(watch(), raw, [both[0], task("b", cpus=OLD, NodeID="n2")], 1.0).state == WAITING
    assert judge(watch(), raw, [], 1.0).state == CONVERGED


def test_a_timeout_says_what_the_task_last_was() -> None:
    verdict = timed_out(watch(), [OLD_DONE, task("new", "preparing")], 30)
    assert verdict == Verdict(FAILED, "timeout", "not converged after 30 s: its last task is preparing")


@pytest.mark.parametrize(
    ("status", "tasks", "stalled"),
    [
        ("paused", [OLD_RUNS], True),
        ("paused", [task("new", "failed", desired="shutdown"), task("new2", "starting")], True),
        ("rollback_paused", [OLD_RUNS, task("new")], True),
        ("paused", [OLD_DONE, task("new")], False),  # what failed once runs by now
        ("completed", [OLD_RUNS], False),
        ("updating", [OLD_RUNS], False),
        (None, [OLD_RUNS], False),
    ],
)
def test_a_paused_update_that_left_tasks_behind_is_stalled(status: str | None, tasks: list[Any], stalled: bool) -> None:
    (change,) = plan([{"service": "web", "limits": {"cpus": 0.5}}], [read_service(service(status))])[0]
    assert not change.changed
    assert is_stalled(change, tasks) is stalled

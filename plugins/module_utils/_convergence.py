# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Has an update of a service come to its end, and to which? Decided from Docker's JSON and a clock, without I/O.

Docker's own word, UpdateStatus, is not enough: it is absent when only replicas change or none run, it says
`completed` for FailureAction=continue even if no task ever ran, and it never ends while a task can't be placed.
Nor are running tasks: Swarm watches them for a while (UpdateConfig.Monitor) before it calls them good.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import (
    Change,
    Edit,
    read_resources,
    read_settings,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._tasks import is_meant_to_run, is_over, task_state

WAITING = "waiting"
CONVERGED = "converged"
FAILED = "failed"

# Swarm's default for UpdateConfig.Monitor and RollbackConfig.Monitor.
DEFAULT_MONITOR = 5.0
# A task is without a suitable node for a moment while the one it replaces still holds its reservation.
UNPLACED_PATIENCE = 10.0
# Without an UpdateStatus Swarm restarts a failing task for ever; this many failures are no accident.
FAILURES_TO_GIVE_UP = 3
_NANO = 10**9


class Verdict(NamedTuple):
    """`state` with, for FAILED, a code and a message; `rolling`: tasks are still being replaced (or not at all yet)."""

    state: str
    code: str = ""
    message: str = ""
    rolling: bool = True


@dataclass
class Watch:
    """One service whose update is waited for, and what was seen of it so far. Times are monotonic seconds."""

    service_id: str
    name: str
    wanted: Edit
    started: float
    # Of before our own POST: an UpdateStatus that began then is not the answer to it, and these tasks are not its work.
    stale_status_started: str | None = None
    earlier_tasks: frozenset[str] = frozenset()
    # Nodes that can't report: what they last said of their tasks would never change.
    down_nodes: frozenset[str] = frozenset()
    node_names: Mapping[str, str] = field(default_factory=dict)
    all_up_since: float | None = None
    unplaced_since: float | None = None
    completed_since: float | None = None


class _Tasks(NamedTuple):
    """The tasks of a service, sorted by what they mean for an update."""

    running: int  # with the wanted spec, and running (or ended well where that is how they end)
    outdated: int  # meant to run, but with another spec
    stopping: int
    new_failed: Sequence[Mapping[str, Any]]
    unplaced: Sequence[Mapping[str, Any]]
    only_earlier: bool  # every running one ran before our POST


def judge(watch: Watch, service: Mapping[str, Any] | None, tasks: Iterable[Mapping[str, Any]], now: float) -> Verdict:
    """Judge one look at a service (an element of GET /services) and its tasks; updates what `watch` remembers."""
    if service is None:
        return Verdict(FAILED, "service_removed", "the service was removed during the update")
    all_tasks = list(tasks)
    status = _fresh_status(watch, service)
    state = status.get("State", "")
    if state == "rollback_started":
        return Verdict(WAITING)
    cause = last_error(watch, all_tasks)
    mine = _sort_tasks(watch, service, all_tasks)
    up = mine.running >= _expected(service, all_tasks) and not mine.outdated and not mine.stopping
    watch.all_up_since = (watch.all_up_since or now) if up else None
    kept = _still_wanted(watch, service["Spec"])
    if kept and up and state == "paused" and _ends_well(service):
        # To Swarm the end of a one-shot task is an "early termination", whatever its exit code.
        return Verdict(CONVERGED, rolling=False)
    return (
        _docker_gave_up(status, cause, kept=kept)
        or _stuck(watch, mine, now)
        or _by_state(watch, service, mine, cause, now)
    )


def _docker_gave_up(status: Mapping[str, Any], cause: str, *, kept: bool) -> Verdict | None:
    """The failure that UpdateStatus or a spec that is no longer ours tells of, if any."""
    state = status.get("State", "")
    if not kept and not state.startswith("rollback"):
        return Verdict(FAILED, "overwritten", "another writer changed the limits during the update")
    if not kept or state in ("paused", "rollback_paused"):
        message = status.get("Message") or f"Docker says {state}"
        rolled_back = "Docker rolled the update back: " if state.startswith("rollback") else ""
        return Verdict(FAILED, f"update_{state}", rolled_back + _because(message, cause))
    return None


def _by_state(watch: Watch, service: Mapping[str, Any], mine: _Tasks, cause: str, now: float) -> Verdict:
    state = _fresh_status(watch, service).get("State", "")
    if state in ("completed", "rollback_completed"):
        return _after_completion(watch, service, mine, cause, now)
    if state == "updating":
        return Verdict(WAITING, rolling=watch.all_up_since is None)
    return _without_status(watch, service, mine, cause, now)


def _without_status(watch: Watch, service: Mapping[str, Any], mine: _Tasks, cause: str, now: float) -> Verdict:
    """Replicas alone changed, none run, a job, or another writer's update wiped the status: the tasks tell."""
    if watch.all_up_since is not None:
        is_job = _mode(service["Spec"]).endswith("Job")
        if mine.only_earlier or is_job or now - watch.all_up_since >= monitor_seconds(service["Spec"]):
            return Verdict(CONVERGED, rolling=False)
        return Verdict(WAITING, rolling=False)
    if len(mine.new_failed) >= FAILURES_TO_GIVE_UP:
        return Verdict(FAILED, "task_failed", cause)
    return Verdict(WAITING)


def _after_completion(watch: Watch, service: Mapping[str, Any], mine: _Tasks, cause: str, now: float) -> Verdict:
    """Docker is done. With FailureAction=continue that says nothing about the tasks, so they must all run, too.

    A task that dies and is started again runs at some moment, so after a failure they must run for a while.
    """
    monitor = monitor_seconds(service["Spec"])
    if watch.all_up_since is not None and (not mine.new_failed or now - watch.all_up_since >= monitor):
        return Verdict(CONVERGED, rolling=False)
    if len(mine.new_failed) >= FAILURES_TO_GIVE_UP:
        return Verdict(FAILED, "task_failed", cause)
    watch.completed_since = watch.completed_since or now
    if watch.all_up_since is None and mine.new_failed and now - watch.completed_since >= max(monitor, DEFAULT_MONITOR):
        return Verdict(FAILED, "task_failed", cause)
    return Verdict(WAITING)


def _stuck(watch: Watch, mine: _Tasks, now: float) -> Verdict | None:
    if not mine.unplaced or mine.stopping:
        watch.unplaced_since = None
        return None
    watch.unplaced_since = watch.unplaced_since or now
    if now - watch.unplaced_since < UNPLACED_PATIENCE:
        return None
    return Verdict(FAILED, "no_suitable_node", task_error(watch, mine.unplaced[-1]))


def is_stalled(change: Change, tasks: Iterable[Mapping[str, Any]]) -> bool:
    """Tell whether a spec is right already while a paused update left its tasks outdated or failing."""
    service = change.service
    if change.before != change.after or service.update_status.get("State") not in ("paused", "rollback_paused"):
        return False
    own = [task for task in tasks if task["ServiceID"] == service.id]
    seen = Watch(service.id, service.name, change.edit, 0.0, earlier_tasks=frozenset(task["ID"] for task in own))
    return judge(seen, {"Spec": service.spec}, own, 0.0).state != CONVERGED


def timed_out(watch: Watch, tasks: Iterable[Mapping[str, Any]], seconds: float) -> Verdict:
    """The verdict when patience has run out: with what the tasks last said."""
    recent = sorted(tasks, key=_created)
    cause = last_error(watch, recent) or (f"its last task is {task_state(recent[-1])}" if recent else "it has no task")
    return Verdict(FAILED, "timeout", f"not converged after {seconds:g} s: {cause}")


def _because(message: str, cause: str) -> str:
    return f"{message}: {cause}" if cause else message


def _fresh_status(watch: Watch, service: Mapping[str, Any]) -> Mapping[str, Any]:
    """An accepted POST clears UpdateStatus, so one with the start time of before is left over, not an answer."""
    status: Mapping[str, Any] = service.get("UpdateStatus") or {}
    stale = watch.stale_status_started
    return {} if stale is not None and status.get("StartedAt") == stale else status


def _still_wanted(watch: Watch, spec: Mapping[str, Any]) -> bool:
    settings = read_settings(spec)
    return all(settings.get(each) == value for each, value in watch.wanted.items())


def monitor_seconds(spec: Mapping[str, Any]) -> float:
    """How long Swarm watches new tasks before it calls an update completed."""
    nanoseconds = (spec.get("UpdateConfig") or {}).get("Monitor")
    return nanoseconds / _NANO if nanoseconds else DEFAULT_MONITOR


def _mode(spec: Mapping[str, Any]) -> str:
    return next(iter(spec.get("Mode") or {}), "Replicated")


def _expected(service: Mapping[str, Any], tasks: Iterable[Mapping[str, Any]]) -> int:
    """How many tasks must be up; a global service's are as many as Swarm made."""
    spec = service["Spec"]
    mode = _mode(spec)
    if mode == "Replicated":
        return read_settings(spec).replicas or 0
    if mode == "ReplicatedJob":
        job = spec["Mode"]["ReplicatedJob"]
        total = int(job.get("TotalCompletions", 1))
        return min(int(job.get("MaxConcurrent") or total), total)
    iteration = _iteration(service.get("JobStatus"))
    return len({task.get("NodeID") for task in tasks if is_meant_to_run(task) and _iteration(task) == iteration})


def _iteration(holder: Mapping[str, Any] | None) -> int | None:
    index = ((holder or {}).get("JobIteration") or {}).get("Index")
    return None if index is None else int(index)


def _created(task: Mapping[str, Any]) -> tuple[str, int]:
    return str(task.get("CreatedAt", "")), int((task.get("Version") or {}).get("Index", 0))


def _ends_well(service: Mapping[str, Any]) -> bool:
    """Tell whether tasks of a service may end: jobs, and one-shot services that Swarm doesn't restart on success."""
    policy = (service["Spec"].get("TaskTemplate") or {}).get("RestartPolicy") or {}
    return _mode(service["Spec"]).endswith("Job") or policy.get("Condition", "any") in ("none", "on-failure")


def _sort_tasks(watch: Watch, service: Mapping[str, Any], tasks: Iterable[Mapping[str, Any]]) -> _Tasks:
    wanted = read_resources(service["Spec"].get("TaskTemplate") or {})
    iteration = _iteration(service.get("JobStatus"))
    good = {"running", "complete"} if _ends_well(service) else {"running"}
    running = outdated = stopping = 0
    only_earlier = True
    failed, unplaced = [], []
    for task in tasks:
        state, is_new = task_state(task), task["ID"] not in watch.earlier_tasks
        is_current = read_resources(task["Spec"]) == wanted and _iteration(task) == iteration
        if is_current and is_new and state in ("failed", "rejected"):
            failed.append(task)
        if is_current and state in good and (is_meant_to_run(task) or state == "complete"):
            running += 1
            only_earlier = only_earlier and not is_new
        elif is_over(task) or task.get("NodeID") in watch.down_nodes:
            continue
        elif not is_meant_to_run(task):
            stopping += 1
        elif not is_current:
            outdated += 1
        elif state == "pending" and (task.get("Status") or {}).get("Err"):
            unplaced.append(task)
    return _Tasks(running, outdated, stopping, failed, unplaced, only_earlier)


def last_error(watch: Watch, tasks: Iterable[Mapping[str, Any]]) -> str:
    """Return the error of the newest task that has one and is the update's own work; '' if there is none."""
    own = [task for task in tasks if task["ID"] not in watch.earlier_tasks]
    return next(filter(None, (task_error(watch, task) for task in sorted(own, key=_created, reverse=True))), "")


def task_error(watch: Watch, task: Mapping[str, Any]) -> str:
    """Say what a task itself says of why it doesn't run, and where; '' if it says nothing."""
    status = task.get("Status") or {}
    error = status.get("Err")
    if not error:
        return ""
    node_id = task.get("NodeID")
    where = f" on {watch.node_names.get(node_id, node_id)}" if node_id else ""
    killed = (status.get("ContainerStatus") or {}).get("ExitCode") == 137
    limit = read_resources(task["Spec"])[("limits", "memory")]
    hint = (
        f"; exit code 137 with a memory limit of {limit} bytes: out of memory, most likely" if killed and limit else ""
    )
    return f"task {watch.name}.{task.get('Slot') or task['ID']}{where} {task_state(task)}: {error}{hint}"

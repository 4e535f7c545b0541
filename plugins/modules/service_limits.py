#!/usr/bin/python
# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Apply a table of limits to the services of a Docker Swarm."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_limits
short_description: Apply one table of CPU and memory limits to Docker Swarm services
version_added: 0.1.0
description:
  - Brings limits, reservations and (where a row says so) replicas of all services of a swarm to what one table says.
  - Nothing else in a service's specification changes, and what other writers change meanwhile is kept.
  - Everything is checked before anything is changed. Then services without volumes are updated a few at a time,
    when all of those have converged the ones with volumes one at a time, and each is waited for until Swarm calls its
    tasks good.
  - While Swarm merely watches a service's new tasks, which run already, the next service of its kind is begun.
options:
  table:
    required: true
  on_failure:
    description:
      - What one service that doesn't converge means for the others.
      - With V(rollback), no further service is begun and all that were changed are put back and waited for.
      - With V(keep_going), only the failed service is put back and all others are still brought to the table.
      - With V(stop), no further service is begun, those under way are waited for, and nothing is put back.
    type: str
    choices: [rollback, keep_going, stop]
    default: rollback
  parallel:
    description:
      - How many services without volumes may be replacing their tasks at the same time.
    type: int
    default: 8
  timeout:
    description:
      - Seconds that each service may take to converge, and again to be put back; also how long to wait for another
        run on the same manager to end.
    type: float
    default: 120
  memory_in_use:
    description:
      - Bytes that the most demanding task of a service uses now (working set), by service name, measured on all hosts.
      - Without it only the containers of the host that the module runs on are looked at.
    type: dict
  allow_memory_below_use:
    description:
      - Whether a memory limit may be set below what a task uses now. Such a task may be killed as it starts.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Predicts exactly what a run does, all checks included.
  diff_mode:
    support: full
    description: One difference for each service that changes.
  idempotent:
    support: full
    description: Values are compared as nano-CPUs and bytes, however they were written.
extends_documentation_fragment:
  - evenkeel.swarm.swarm
  - evenkeel.swarm.swarm.table
  - evenkeel.swarm.progress
notes:
  - Runs on a Swarm manager. Two runs at a time on one manager are refused.
  - A limit of more CPUs than an eligible node has is refused, since Swarm ignores limits when it chooses a node and the
    engine then rejects the task. So are reservations that fit no node and memory limits below present use.
  - Swarm runs a job again when its limits change, so a job is only changed by a row with its exact name.
  - A run that gets SIGINT, SIGTERM or SIGHUP begins no further service; with O(on_failure=rollback) it puts back what
    it changed.
  - Swarm watches new tasks for C(UpdateConfig.Monitor), 5 seconds by default, before it calls them good. That is the
    shortest time in which a service can truthfully be called converged.
seealso:
  - module: evenkeel.swarm.service_limits_info
  - module: evenkeel.swarm.throttling_info
  - name: Docker service resource options
    description: What limits and reservations mean to Docker.
    link: https://docs.docker.com/reference/cli/docker/service/update/
"""

EXAMPLES = r"""
- name: Limit everything that matters
  evenkeel.swarm.service_limits:
    table:
      - service: backend-saleor-api
        limits: {cpus: 1.5, memory: 1G}
      - glob: "*redis*"
        limits: {cpus: 0.25, memory: 256M}
      - labels: {evenkeel.tier: frontend}
        limits: {cpus: 0.25, memory: 512M, pids: 200}

- name: Stop Superset for now
  evenkeel.swarm.service_limits:
    table:
      - service: infrastructure-superset
        replicas: 0

- name: See what would change
  evenkeel.swarm.service_limits:
    table: "{{ service_limits_table }}"
  check_mode: true
  diff: true
"""

RETURN = r"""
services:
  description: One row per service that the table selects, sorted by name.
  returned: when the table is valid
  type: list
  elements: dict
  contains:
    service:
      description: Name of the service.
      type: str
    id:
      description: Id of the service.
      type: str
    row:
      description: Number of the table's row that it gets, from 1.
      type: int
    stateful:
      description: Whether it has a writable volume or bind mount, and so is updated alone.
      type: bool
    before:
      description:
        - What its specification said. C(limits) has C(cpus) (cores), C(memory) (bytes) and C(pids), C(reservations) has
          C(cpus) and C(memory); null is no limit. C(replicas) is null for services that aren't replicated.
      type: dict
      sample: {limits: {cpus: null, memory: null, pids: null}, reservations: {cpus: null, memory: null}, replicas: 1}
    after:
      description: What its specification says now (in check mode, would say), in the same shape.
      type: dict
      sample: {limits: {cpus: 0.25, memory: 268435456, pids: 99}, reservations: {cpus: null, memory: null}, replicas: 1}
    changed:
      description: Whether it was (in check mode, would be) changed.
      type: bool
    state:
      description:
        - V(unchanged), V(converged), V(predicted) (check mode), V(rolled_back) (changed and put back), V(failed) or
          V(skipped) (never begun because another failed).
      type: str
    seconds:
      description: How long its update took to converge or fail.
      type: float
    error:
      description: Why it failed, with what its task itself said; null if it did not.
      type: str
errors:
  description: Everything that is wrong with the table or that preflight refuses.
  returned: when nothing was changed because of such errors
  type: list
  elements: str
error:
  description: The failure as C(code), C(message) and C(details).
  returned: on failure
  type: dict
  sample: {code: not_a_manager, message: This node is not a swarm manager., details: {status: 503}}
"""

import contextlib
import fcntl
import hashlib
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.evenkeel.swarm.plugins.module_utils._cgroup import working_sets
from ansible_collections.evenkeel.swarm.plugins.module_utils._convergence import CONVERGED, FAILED, is_stalled
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_apply import (
    Clock,
    Job,
    Loop,
    NodesSeen,
    Policy,
    Signals,
    forward_job,
    restore_job,
    settings_now,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import (
    Change,
    Node,
    plan,
    preflight,
    read_node,
    read_service,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._progress import (
    EventWriter,
    event_writer,
    progress_argument_spec,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._swarm import (
    Swarm,
    SwarmError,
    fail,
    open_swarm,
    swarm_argument_spec,
)

LOCK_DIRECTORY = Path("/run/lock")
LOCK_PAUSE = 0.5
AT_FAILURE = {"rollback": "drop", "keep_going": "continue", "stop": "finish"}


class ServiceLimits:
    """One run: plan, check, apply, put back, report."""

    def __init__(self, module: AnsibleModule, swarm: Swarm) -> None:
        self.module = module
        self.swarm = swarm
        self.params = module.params
        self.nodes: list[Node] = []
        self.tasks: list[Any] = []
        self.interrupted = False

    def run(self) -> None:
        """Do what the options say and end the module."""
        changes = self._plan()
        if self.module.check_mode or not any(_needs_attention(change) for change in changes):
            self._exit(changes)
        with _lock(self.params["docker_host"], self.params["timeout"]):
            # Planned again: what was planned without the lock may be what another run has just done.
            self._apply(self._plan())

    def _plan(self) -> list[Change]:
        changes, errors = plan(self.params["table"], [read_service(raw) for raw in self.swarm.services()])
        paused = any(str(change.service.update_status.get("State", "")).endswith("paused") for change in changes)
        if paused or any(change.changed for change in changes):
            self.tasks = self.swarm.tasks()
            changes = [change._replace(stalled=is_stalled(change, self.tasks)) for change in changes]
        refusals: list[str] = []
        if any(change.changed for change in changes):
            self.nodes = [read_node(raw) for raw in self.swarm.nodes()]
            refusals = self._preflight(changes)
        self._refuse([*errors, *refusals], "invalid_table" if errors else "preflight")
        return changes

    def _preflight(self, changes: Sequence[Change]) -> list[str]:
        in_use: Mapping[str, int] = {}
        if not self.params["allow_memory_below_use"] and any("memory" in each.sets_new_limit for each in changes):
            given = self.params["memory_in_use"]
            in_use = self._local_memory(changes) if given is None else _whole_numbers(given)
        return preflight(
            changes,
            self.nodes,
            self.tasks,
            in_use,
            allow_memory_below_use=self.params["allow_memory_below_use"],
        )

    def _local_memory(self, changes: Sequence[Change]) -> dict[str, int]:
        """The highest working set of a service's tasks on this host, by service name; bytes."""
        try:
            containers = working_sets()
        except OSError as error:
            self.module.warn(f"memory limits are not compared with present use, which can't be read here: {error}")
            return {}
        names = {change.service.id: change.service.name for change in changes}
        highest: dict[str, int] = {}
        for task in self.tasks:
            container = ((task.get("Status") or {}).get("ContainerStatus") or {}).get("ContainerID")
            name = names.get(task["ServiceID"])
            if name and container in containers:
                highest[name] = max(highest.get(name, 0), containers[container])
        return highest

    def _refuse(self, errors: Sequence[str], code: str) -> None:
        if errors:
            count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
            message = f"{count}, nothing was changed: " + "; ".join(errors)
            fail(self.module, SwarmError(code, message, errors=list(errors)), errors=list(errors))

    def _apply(self, changes: Sequence[Change]) -> None:
        jobs = {change.service.name: forward_job(change) for change in changes if _needs_attention(change)}
        with _events(self.params["progress_file"]) as event, self._signals():
            event("begin", {"services": sorted(jobs)})
            nodes = NodesSeen(
                {node.id: node.hostname for node in self.nodes},
                frozenset(node.id for node in self.nodes if node.state == "down"),
            )
            signals = Signals(event, lambda: self.interrupted)
            clock = Clock(time.monotonic, time.sleep)
            policy = Policy(self.params["parallel"], self.params["timeout"], AT_FAILURE[self.params["on_failure"]])
            Loop(self.swarm, clock, policy, nodes, signals).run(jobs.values(), "update")
            was_interrupted, self.interrupted = self.interrupted, False
            restored: dict[str, Job] = {}
            if any(_failed(job) for job in jobs.values()) or was_interrupted:
                back = {change.service.name: restore_job(change) for change in changes if self._goes_back(change, jobs)}
                Loop(self.swarm, clock, policy._replace(at_failure="continue"), nodes, signals).run(
                    back.values(), "restore"
                )
                restored = back
            event("end", {"failed": sorted(name for name, job in jobs.items() if _failed(job))})
        self._exit(changes, jobs, restored, was_interrupted=was_interrupted)

    def _goes_back(self, change: Change, jobs: Mapping[str, Job]) -> bool:
        job = jobs.get(change.service.name)
        if job is None or not job.posted or not change.restore:
            return False
        return self.params["on_failure"] == "rollback" or (self.params["on_failure"] == "keep_going" and _failed(job))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn signals into a wish that the loop looks at, so that no spec is left half way."""

        def remember(*_: Any) -> None:
            self.interrupted = True

        kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        earlier = [signal.signal(kind, remember) for kind in kinds]
        try:
            yield
        finally:
            for kind, handler in zip(kinds, earlier):  # noqa: B905
                signal.signal(kind, handler)

    def _exit(
        self,
        changes: Sequence[Change],
        jobs: Mapping[str, Job] | None = None,
        restored: Mapping[str, Job] | None = None,
        *,
        was_interrupted: bool = False,
    ) -> None:
        """End the module with one row per service; what is in force after a failure is read, not assumed."""
        jobs, restored = jobs or {}, restored or {}
        failed = was_interrupted or any(_failed(job) for job in jobs.values())
        actual = settings_now(self.swarm) if failed else {}
        rows, differences = [], []
        for change in changes:
            after = actual.get(change.service.id, change.before) if failed else change.after
            name = change.service.name
            rows.append(
                {
                    "service": name,
                    "id": change.service.id,
                    "row": change.row.number,
                    "stateful": change.service.stateful,
                    "before": change.before.report(),
                    "after": after.report(),
                    "changed": change.before != after or (change.stalled and not failed),
                    **_outcome(change, jobs.get(name), restored.get(name), checking=self.module.check_mode),
                }
            )
            if change.before != after:
                differences.append(change._replace(after=after).diff())
        results = {"changed": any(row["changed"] for row in rows), "services": rows, "diff": differences}
        if not failed:
            self.module.exit_json(**results)
        fail(self.module, _failure(rows, interrupted=was_interrupted), **results)


def _needs_attention(change: Change) -> bool:
    """Tell whether there is something to do or (left by an earlier run) to wait for."""
    return change.changed or change.service.update_status.get("State") in ("updating", "rollback_started")


def _failed(job: Job) -> bool:
    return job.verdict is not None and job.verdict.state == FAILED


def _outcome(change: Change, job: Job | None, back: Job | None, *, checking: bool) -> dict[str, Any]:
    """The part of a service's result row that tells how it went."""
    if job is None:
        state = "predicted" if checking and change.changed else "unchanged"
        return {"state": state, "seconds": 0.0, "error": None}
    error = job.verdict.message if job.verdict and _failed(job) else None
    if back is not None:
        put_back = back.verdict is not None and back.verdict.state == CONVERGED
        state = "rolled_back" if put_back else "failed"
        if not put_back:
            reason = back.verdict.message if back.verdict else "interrupted before it was begun"
            error = "; ".join(filter(None, [error, f"putting it back failed: {reason}"]))
    elif job.verdict is None:
        state = "skipped" if change.changed else "unchanged"
    elif _failed(job):
        state = "failed"
    else:
        state = "converged" if change.changed else "unchanged"
    return {"state": state, "seconds": round(job.seconds, 2), "error": error}


def _failure(rows: Sequence[Mapping[str, Any]], *, interrupted: bool) -> SwarmError:
    counts = {
        state: sum(row["state"] == state for row in rows) for state in ("converged", "rolled_back", "failed", "skipped")
    }
    summary = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in counts.items() if count)
    reasons = "; ".join(f"{row['service']}: {row['error']}" for row in rows if row["error"])
    what = "interrupted" if interrupted else "not every service got its limits"
    code = "interrupted" if interrupted else "not_converged"
    return SwarmError(
        code, f"{what} ({summary or 'nothing was begun'})" + (f": {reasons}" if reasons else ""), **counts
    )


def _whole_numbers(given: Mapping[str, Any]) -> dict[str, int]:
    """Read memory_in_use; templates may have made text of its numbers."""
    try:
        return {str(name): int(size) for name, size in given.items() if size is not None}
    except (TypeError, ValueError) as error:
        raise SwarmError("invalid_option", f"memory_in_use: {error}; give whole numbers of bytes") from error


@contextlib.contextmanager
def _lock(docker_host: str, timeout: float) -> Iterator[None]:
    """Let one run at a time change a swarm; the kernel drops the lock whatever ends this process.

    A run whose controller was killed goes on for a while, so the next one waits for it, `timeout` seconds at most.
    """
    path = LOCK_DIRECTORY / f"evenkeel-service-limits-{hashlib.sha256(docker_host.encode()).hexdigest()[:12]}.lock"
    with _opened(path, "w", "lock") as handle:
        deadline = time.monotonic() + timeout
        while not _locked(handle):
            if time.monotonic() > deadline:
                message = f"another run of service_limits has been changing this swarm for {timeout:g} s"
                raise SwarmError("locked", f"{message} (it holds {path}); wait for it to end")
            time.sleep(LOCK_PAUSE)
        yield


def _locked(handle: TextIO) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _opened(path: Path, mode: str, purpose: str) -> TextIO:
    try:
        return cast("TextIO", path.open(mode, encoding="utf-8"))
    except OSError as error:
        raise SwarmError("file_unusable", f"the {purpose} file {path} can't be written: {error.strerror}") from error


@contextlib.contextmanager
def _events(path: str | None) -> Iterator[EventWriter]:
    """Yield a function that appends events to the progress file, if there is one."""
    if path is None:
        yield event_writer(None)
        return
    with _opened(Path(path), "a", "progress") as handle:
        yield event_writer(handle)


def define_module() -> AnsibleModule:
    """Build the module with its options."""
    return AnsibleModule(
        argument_spec={
            **swarm_argument_spec(),
            "table": {"type": "list", "elements": "dict", "required": True},
            "on_failure": {"type": "str", "choices": list(AT_FAILURE), "default": "rollback"},
            "parallel": {"type": "int", "default": 8},
            "timeout": {"type": "float", "default": 120},
            "memory_in_use": {"type": "dict"},
            "allow_memory_below_use": {"type": "bool", "default": False},
            # Read by the action plugin; here for those who call the module without it.
            **progress_argument_spec(),
        },
        supports_check_mode=True,
    )


def main() -> None:
    """Run the module."""
    module = define_module()
    for option in ("parallel", "timeout"):
        if not module.params[option] > 0:
            fail(module, SwarmError("invalid_option", f"{option}: {module.params[option]} is not more than 0"))
    try:
        ServiceLimits(module, open_swarm(module)).run()
    except SwarmError as error:
        fail(module, error)


if __name__ == "__main__":
    main()

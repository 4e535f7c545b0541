# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Apply planned changes: a bounded number of services at a time, one look at the swarm for all of them.

One thread is enough: a write takes milliseconds, the waiting is Swarm's. A service holds its place among the
`parallel` only while its tasks are being replaced; while Swarm merely watches the new ones (UpdateConfig.Monitor),
the next may begin. Services with volumes come last, when all the others have converged, and while the tasks of one
are being replaced nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ansible_collections.evenkeel.swarm.plugins.module_utils._convergence import (
    CONVERGED,
    FAILED,
    WAITING,
    Verdict,
    Watch,
    judge,
    timed_out,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import (
    Change,
    Edit,
    Settings,
    Spec,
    apply_edit,
    read_settings,
    restore_spec,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._swarm import SwarmError

# Between two looks, in seconds: soon after something happened, then rarer.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 0.5
_PAUSE_GROWTH = 1.3
# An engine that restarts answers again within seconds.
_SILENCE_PATIENCE = 30.0


class SwarmApi(Protocol):
    """What the loop needs of a swarm."""

    def services(self) -> list[Any]:
        """GET /services."""

    def tasks(self) -> list[Any]:
        """GET /tasks."""

    def update_service(self, service_id: str, edit: Callable[[Spec], Spec]) -> Any:
        """Rewrite a spec on a fresh read; returns the service as read."""


class Clock(NamedTuple):
    """Monotonic seconds and how to wait."""

    now: Callable[[], float]
    sleep: Callable[[float], None]


class Policy(NamedTuple):
    """How many services at a time, how long for each (seconds), and what one failure means for the others.

    `at_failure`: `continue` with all, `finish` those under way, or `drop` them as they are (they get put back).
    """

    parallel: int
    timeout: float
    at_failure: str


@dataclass
class Job:
    """One service to bring to `wanted`: by rewriting its spec, or (no `edit`) by waiting for what is under way."""

    service_id: str
    name: str
    stateful: bool
    start_first: bool
    wanted: Edit
    edit: Callable[[Spec], Spec] | None
    # The outcome.
    verdict: Verdict | None = None
    posted: bool = False
    seconds: float = 0.0
    watch: Watch | None = field(default=None, repr=False)


class Signals(NamedTuple):
    """The way out (progress events) and the way in (has someone asked to stop?)."""

    event: Callable[[str, Mapping[str, Any]], None]
    interrupted: Callable[[], bool]


class NodesSeen(NamedTuple):
    """What of the nodes matters to convergence."""

    names: Mapping[str, str]
    down: frozenset[str]


def forward_job(change: Change) -> Job:
    """The job that brings a service where its row wants it; an unchanged one's is only waited for."""
    edit = (lambda spec: apply_edit(spec, change.edit)) if change.changed else None
    service = change.service
    return Job(service.id, service.name, service.stateful, service.start_first, change.edit, edit)


def restore_job(change: Change) -> Job:
    """The job that puts back what the forward job changed, and nothing that others did since."""
    service, earlier = change.service, change.restore
    return Job(
        service.id,
        service.name,
        service.stateful,
        service.start_first,
        earlier,
        lambda spec: restore_spec(spec, earlier, service.spec),
    )


class Loop:
    """Runs jobs to their verdicts."""

    def __init__(
        self,
        swarm: SwarmApi,
        clock: Clock,
        policy: Policy,
        nodes: NodesSeen,
        signals: Signals,
    ) -> None:
        self.swarm = swarm
        self.clock = clock
        self.policy = policy
        self.nodes = nodes
        self.event = signals.event
        self.interrupted = signals.interrupted
        self._silent_since: float | None = None

    def run(self, jobs: Iterable[Job], verb: str) -> list[Job]:
        """Run jobs until each has a verdict, or none of the rest shall be started; `verb` names events."""
        # Stop-first takes longest (Swarm lets the network settle before it stops a task), so it begins first.
        waiting = sorted(jobs, key=lambda job: (job.stateful, job.start_first, job.name))
        every, active = list(waiting), list[Job]()
        stopped = False
        pause = _FIRST_PAUSE
        while (waiting and not stopped) or active:
            services, tasks = self._look(waiting + active)
            for job in active:
                self._judge(job, services, tasks, verb)
            failed = any(job.verdict and job.verdict.state == FAILED for job in every)
            if self.interrupted() or (failed and self.policy.at_failure != "continue"):
                stopped = True
            settled = [job for job in active if job.verdict and job.verdict.state != WAITING]
            active = [job for job in active if job not in settled]
            if stopped and self._leaves(active):
                break
            started = [] if stopped else self._start(waiting, active, services, tasks, verb)
            active += [job for job in started if job.verdict is None]
            pause = _FIRST_PAUSE if started or settled else min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE)
            if active:
                self.clock.sleep(pause)
        return every

    def _leaves(self, active: Sequence[Job]) -> bool:
        """Tell whether to stop waiting for those under way, too; only an interrupt makes that their failure."""
        if self.interrupted():
            for job in active:
                job.verdict = Verdict(FAILED, "interrupted", "the run was interrupted before the service converged")
            return True
        return self.policy.at_failure == "drop"

    def _look(self, jobs: Sequence[Job]) -> tuple[Mapping[str, Any], Mapping[str, list[Any]]]:
        while True:
            try:
                services = {raw["ID"]: raw for raw in self.swarm.services()}
                tasks: dict[str, list[Any]] = {job.service_id: [] for job in jobs}
                for task in self.swarm.tasks():
                    if task["ServiceID"] in tasks:
                        tasks[task["ServiceID"]].append(task)
            except SwarmError:
                now = self.clock.now()
                self._silent_since = self._silent_since or now
                if now - self._silent_since > _SILENCE_PATIENCE or self.interrupted():
                    raise
                self.clock.sleep(_LONGEST_PAUSE)
            else:
                self._silent_since = None
                return services, tasks

    def _start(
        self,
        waiting: list[Job],
        active: Sequence[Job],
        services: Mapping[str, Any],
        tasks: Mapping[str, list[Any]],
        verb: str,
    ) -> list[Job]:
        started: list[Job] = []
        while waiting and self._has_room(waiting[0], [*active, *started]):
            job = waiting.pop(0)
            self._begin(job, services.get(job.service_id), tasks.get(job.service_id, []), verb)
            started.append(job)
            if job.verdict and self.policy.at_failure != "continue":
                break
        return started

    def _has_room(self, job: Job, active: Sequence[Job]) -> bool:
        pending = [other for other in active if other.verdict is None or other.verdict.state == WAITING]
        rolling = [other for other in pending if other.verdict is None or other.verdict.rolling]
        if job.stateful:
            # No database is touched before every service without a volume is proven good.
            return not rolling and all(other.stateful for other in pending)
        return len(rolling) < self.policy.parallel

    def _begin(self, job: Job, service: Any, tasks: Sequence[Any], verb: str) -> None:
        now = self.clock.now()
        watch = Watch(
            job.service_id, job.name, job.wanted, now, down_nodes=self.nodes.down, node_names=self.nodes.names
        )
        if job.edit:
            watch.earlier_tasks = frozenset(task["ID"] for task in tasks)
            self.event(f"{verb}_started", {"service": job.name})
            try:
                before = self.swarm.update_service(job.service_id, job.edit)
            except SwarmError as error:
                job.verdict = Verdict(FAILED, error.code, error.message)
                self.event(f"{verb}_failed", {"service": job.name, "error": error.message})
                return
            job.posted = True
            watch.stale_status_started = (before.get("UpdateStatus") or {}).get("StartedAt")
        else:
            self.event("waiting_for_earlier_update", {"service": job.name})
            watch.earlier_tasks = _running(service, tasks)
        job.watch = watch

    def _judge(self, job: Job, services: Mapping[str, Any], tasks: Mapping[str, list[Any]], verb: str) -> None:
        watch = job.watch
        if watch is None:
            return
        now = self.clock.now()
        own = tasks.get(job.service_id, [])
        job.seconds = now - watch.started
        job.verdict = judge(watch, services.get(job.service_id), own, now)
        if job.verdict.state == WAITING and job.seconds >= self.policy.timeout:
            job.verdict = timed_out(watch, own, self.policy.timeout)
        if job.verdict.state == CONVERGED:
            self.event(f"{verb}_converged", {"service": job.name, "seconds": round(job.seconds, 2)})
        elif job.verdict.state == FAILED:
            self.event(f"{verb}_failed", {"service": job.name, "error": job.verdict.message})


def _running(service: Any, tasks: Iterable[Any]) -> frozenset[str]:
    """The tasks that an earlier run's update is not to be blamed for: those that run."""
    return frozenset(task["ID"] for task in tasks if service and (task.get("Status") or {}).get("State") == "running")


def settings_now(swarm: SwarmApi) -> dict[str, Settings]:
    """What every service's spec says now, by service id."""
    return {raw["ID"]: read_settings(raw["Spec"]) for raw in swarm.services()}

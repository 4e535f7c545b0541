# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the units of all runs: fair between runs, within the limits, staggered while the number of workers grows."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from job_launcher.execution.attempt import Attempt, outcome
from job_launcher.execution.executor import STOPPED, Ending, Executor, Job
from job_launcher.logs.logs import Logs
from job_launcher.logs.records import own_lines
from job_launcher.model import Balance, Event, Run, Unit
from job_launcher.store import ledger, numbers, runs
from job_launcher.store.connection import Store, StoreError
from job_launcher.templates import LIMITS, Template
from job_launcher.tunables import Tunables

#: How long a start waits for the database after it failed, s.
DATABASE_WAIT = 1.0
#: Progress of a unit is shown so far apart at least, s.
PROGRESS = 1.0


@dataclass
class Active:
    """A run that hasn't ended: what the database last said of it, and its attempts by worker number."""

    run: Run
    workers: dict[int, str] = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    served: int = 0
    ending: bool = False
    #: Set if the run must fail whatever its units say.
    failure: str | None = None

    @property
    def wants(self) -> bool:
        """Whether another unit could start now."""
        return (
            self.run.status in {"queued", "running"}
            and self.run.counts.waiting > 0
            and len(self.workers) < self.run.max_parallel
        )

    def free_worker(self) -> int:
        """Return the lowest worker number that isn't taken."""
        return next(number for number in range(1, self.run.max_parallel + 1) if number not in self.workers)


def fairest(candidates: list[Active]) -> Active | None:
    """Return whose turn it is: who has the fewest workers, among those who waited longest."""
    return min(candidates, key=lambda each: (len(each.workers), each.served), default=None)


class Supervisor:
    """Runs the units of all active runs. It is the desk that attempts hand on to."""

    def __init__(
        self,
        store: Store,
        logs: Logs,
        executors: Mapping[str, Executor],
        templates: Mapping[str, Template],
        tunables: Tunables,
        *,
        limit: int,
        emit: Callable[[Event], None],
    ) -> None:
        self._store = store
        self._logs = logs
        self._executors = executors
        self._templates = templates
        self._tunables = tunables
        self._limit = limit
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self.active: dict[str, Active] = {}
        #: Units that run, as they were last shown, and when: the clock of the loop.
        self._live: dict[str, tuple[Unit, float]] = {}
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._turn = 0
        self._grow_after = 0.0
        #: Workers that ended and whose place nobody has taken yet.
        self._places = 0
        self._pause: asyncio.TimerHandle | None = None
        self.draining = False
        #: Called when the pause for want of numbers begins (True) or ends.
        self.on_pause: Callable[[bool], None] = lambda _: None
        #: Called when a number was acquired, or a unit that may hold one has ended.
        self.on_numbers: Callable[[str], None] = lambda _: None
        self.totals = {"started": 0, "succeeded": 0, "failed": 0, "stopped": 0, "retried": 0}

    @property
    def running(self) -> int:
        """Return how many workers there are."""
        return sum(len(each.workers) for each in self.active.values())

    @property
    def waiting(self) -> int:
        """Return how many units wait."""
        return sum(each.run.counts.waiting for each in self.active.values())

    @property
    def paused(self) -> bool:
        """Whether templates that need numbers wait for some."""
        return self._pause is not None

    async def add(self, run: Run) -> None:
        """Take a run into the queue."""
        await self._logs.load(run.id)
        self.active[run.id] = Active(run)
        self._wake.set()
        self._end_if_done(self.active[run.id])

    async def stop_run(self, run_id: str, message: str, failure: str | None = None) -> Run:
        """Stop what waits, end what runs; returns the run as it is then."""
        run, stopped, balance = await self._store.write(partial(_stop, run_id=run_id, message=message))
        active = self.active.get(run_id)
        if active is None or not stopped:
            return run
        active.run, active.failure = run, failure
        self.say(run_id, message)
        self._tell(active, None, balance)
        active.stop.set()
        self._end_if_done(active)
        return self.shown(active.run)

    def resume(self) -> None:
        """End the pause for want of numbers: one has become free, or it is time to look again."""
        if self._pause:
            self._pause.cancel()
            self._pause = None
            self.on_pause(False)
            self._wake.set()

    async def drain(self, timeout: float) -> None:
        """Start nothing more, wait for what runs, end what is left after so many seconds."""
        self.draining = True
        deadline = self._loop.time() + timeout
        while self._tasks and self._loop.time() < deadline:
            await asyncio.wait(self._tasks, timeout=deadline - self._loop.time())
        for active in self.active.values():
            active.stop.set()
        if self._tasks:
            longest = max(
                [self._grace(self._templates.get(each.run.template)) for each in self.active.values()] + [0.0]
            )
            await asyncio.wait(self._tasks, timeout=longest + self._tunables.status_report_wait + 5)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve(self) -> None:
        """Start units until cancelled."""
        while True:
            self._wake.clear()
            wait = await self._start_one()
            if wait is None or wait > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), wait)

    async def _start_one(self) -> float | None:
        """Start a unit if one may; returns when to look again, s (None: when something happens)."""
        candidates = [each for each in self.active.values() if each.wants]
        if self.draining or not candidates or self.running >= self._limit:
            # A place that nobody takes at once is lost: the number of workers then grows anew.
            self._places = self._places if candidates and not self.draining else 0
            return None
        active = fairest([each for each in candidates if not (self.paused and self._needs_numbers(each))])
        if active is None:
            return None
        now = self._loop.time()
        if not self._places and now < self._grow_after:
            return self._grow_after - now
        return await self._start_unit(active)

    def _needs_numbers(self, active: Active) -> bool:
        template = self._templates.get(active.run.template)
        return template is not None and template.needs_numbers

    async def _start_unit(self, active: Active) -> float:
        worker = active.free_worker()
        active.workers[worker] = ""
        try:
            unit, run = await self._store.write(partial(_start, run_id=active.run.id, worker=worker))
        except StoreError:
            del active.workers[worker]
            return DATABASE_WAIT
        active.run = run
        if unit is None:
            del active.workers[worker]
            self._end_if_done(active)
            return 0.0
        self._turn += 1
        active.served = self._turn
        active.workers[worker] = unit.id
        if self._places:
            self._places -= 1
        else:
            self._grow_after = self._loop.time() + self._tunables.worker_start_stagger
        self.totals["started"] += 1
        self._tell(active, unit)
        self._spawn(self._attend(active, unit, worker))
        return 0.0

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attend(self, active: Active, unit: Unit, worker: int) -> None:
        """Run an attempt and write down how it ended."""
        template = self._templates[active.run.template]
        self._live[unit.id] = (unit, 0.0)
        attempt = Attempt(self._job(active.run, unit, worker, template), self, self._tunables)
        try:
            ending = await self._executors[template.executor].run(attempt.job, attempt, active.stop)
        except Exception as error:
            # One attempt must not take the others with it.
            ending = Ending(reason=f"the launcher failed: {type(error).__name__}: {error}")
        attempt.close()
        if ending.reason == STOPPED and active.run.status != "stopping":
            ending = replace(ending, reason="ended with the launcher")
        elif ending.reason == STOPPED and active.failure:
            ending = replace(ending, reason=active.failure)
        stopping = active.run.status == "stopping" and not active.failure
        judged = outcome(ending, attempt.reports, stopping=stopping)
        if judged.reason:
            attempt.say(judged.reason)
        retries = self._tunables.unit_retries if template.retries is None else template.retries
        ended, run, balance = await self._store.write_surely(
            partial(
                _end,
                unit_id=unit.id,
                judged=judged,
                retries=retries,
                found_none=template.needs_numbers and attempt.reports.no_numbers,
            )
        )
        del active.workers[worker], self._live[unit.id]
        active.run = run
        self._places += 1
        self.totals["retried" if ended.status == "waiting" else ended.status] += 1
        self._tell(active, ended, balance)
        if template.needs_numbers:
            self.on_numbers(run.owner)
        self._wake.set()
        self._end_if_done(active)

    def _job(self, run: Run, unit: Unit, worker: int, template: Template) -> Job:
        tunables = self._tunables
        argv, env = template.command(run.parameters)
        idle = tunables.unit_idle_timeout if template.idle_timeout is None else template.idle_timeout
        return Job(
            run_id=run.id,
            unit_id=unit.id,
            number=unit.number,
            attempt=unit.attempt,
            worker=worker,
            template=template,
            argv=argv,
            env=env,
            timeout=tunables.unit_timeout if template.timeout is None else template.timeout,
            idle_timeout=idle,
            term_grace=self._grace(template),
            limits={name: template.limits.get(name, getattr(tunables, f"worker_{name}")) for name in LIMITS},
        )

    def _grace(self, template: Template | None) -> float:
        if template is None or template.term_grace is None:
            return self._tunables.term_grace
        return template.term_grace

    def _end_if_done(self, active: Active) -> None:
        counts = active.run.counts
        if not (counts.waiting or counts.running or active.workers or active.ending):
            active.ending = True
            self._spawn(self._end_run(active))

    async def _end_run(self, active: Active) -> None:
        run_id = active.run.id
        counts = active.run.counts
        self.say(run_id, f"ended: {counts.succeeded} succeeded, {counts.failed} failed, {counts.stopped} stopped")
        # Its size is said once it is true on disk, too; a full disk isn't waited for.
        await self._logs.flush()
        size = await self._logs.load(run_id)
        end = partial(runs.end, run_id=run_id, log_size=size, failure=active.failure)
        active.run = await self._store.write_surely(end)
        del self.active[run_id]
        self._logs.unload(run_id)
        self._emit(Event("run", active.run.owner, run_id, active.run.to_json()))

    def _tell(self, active: Active, unit: Unit | None, balance: Balance | None = None) -> None:
        owner, run_id = active.run.owner, active.run.id
        if unit is not None:
            self._emit(Event("unit", owner, run_id, unit.to_json()))
        self._emit(Event("run", owner, run_id, self.shown(active.run).to_json()))
        if balance is not None:
            self._emit(Event("balance", owner, None, balance.to_json()))

    def shown(self, run: Run) -> Run:
        """Return a run with the size that its log has now."""
        size = self._logs.size(run.id)
        return run if size is None else replace(run, log_size=size)

    def say(self, run_id: str, text: str) -> None:
        """Write the launcher's own words into a run's log."""
        records = own_lines(text)
        self.log(run_id, records, records.count(b"\n"))

    def log(self, run_id: str, records: bytes, lines: int) -> None:
        """Add records to the log of an active run, and tell who listens."""
        offset = self._logs.append(run_id, records, lines)
        owner = self.active[run_id].run.owner
        self._emit(Event("log", owner, run_id, {"offset": offset, "data": records}))

    def log_full(self) -> bool:
        """Whether output must wait."""
        return self._logs.full

    def note_process(self, unit_id: str, key: str) -> None:
        """Keep what finds a worker again; its end is written after it, so nobody waits."""
        self._spawn(self._quietly(partial(runs.note_process, unit_id=unit_id, process_key=key)))

    async def _quietly(self, work: Callable[[sqlite3.Connection], None]) -> None:
        # Without it recovery finds the worker by its environment.
        with contextlib.suppress(StoreError):
            await self._store.write(work)

    def acquired(self, job: Job, number: str) -> None:
        """Take the lease of a number into the queue."""
        self._spawn(self._acquire(job, number))

    async def _acquire(self, job: Job, number: str) -> None:
        acquire = partial(_acquire, unit_id=job.unit_id, value=number, min_hold=self._tunables.number_min_hold)
        wrong, unit = await self._store.write_surely(acquire)
        active = self.active.get(job.run_id)
        if active is None:
            return
        if wrong:
            self.say(job.run_id, f"unit {job.number}: {wrong}: ignored")
        else:
            self._tell(active, unit)
        self.on_numbers(active.run.owner)

    def progressed(self, job: Job, report: dict[str, Any]) -> None:
        """Show how far a worker is, a second apart at least; the database gets the last report with the end."""
        unit, told = self._live[job.unit_id]
        now = self._loop.time()
        unit = replace(unit, report=report)
        due = now - told >= PROGRESS
        self._live[job.unit_id] = (unit, now if due else told)
        if due:
            self._emit(Event("unit", self.active[job.run_id].run.owner, job.run_id, unit.to_json()))

    def live(self, unit: Unit) -> Unit:
        """Return a unit with the progress that it has now."""
        found = self._live.get(unit.id)
        return replace(unit, report=found[0].report) if found and unit.status == "running" else unit

    def found_none(self) -> None:
        """Pause the templates that need numbers: a worker found none."""
        if self._pause:
            self._pause.cancel()
        self._pause = self._loop.call_later(self._tunables.no_numbers_pause, self.resume)
        self.on_pause(True)


def _start(connection: sqlite3.Connection, run_id: str, worker: int) -> tuple[Unit | None, Run]:
    unit = runs.start_next(connection, run_id, worker)
    return unit, runs.get(connection, run_id)


def _end(
    connection: sqlite3.Connection, unit_id: str, judged: runs.Outcome, retries: int, *, found_none: bool
) -> tuple[Unit, Run, Balance]:
    unit = runs.end_attempt(connection, unit_id, judged, retries=retries, found_none=found_none)
    run, balance = _state(connection, unit.run_id)
    return unit, run, balance


def _stop(connection: sqlite3.Connection, run_id: str, message: str) -> tuple[Run, bool, Balance]:
    run, stopped = runs.stop(connection, run_id, message)
    return run, stopped, ledger.balance(connection, run.owner)


def _state(connection: sqlite3.Connection, run_id: str) -> tuple[Run, Balance]:
    run = runs.get(connection, run_id)
    return run, ledger.balance(connection, run.owner)


def _acquire(connection: sqlite3.Connection, unit_id: str, value: str, min_hold: float) -> tuple[str | None, Unit]:
    wrong = numbers.acquire(connection, unit_id, value, min_hold)
    if wrong is None:
        runs.note_lease(connection, unit_id, value)
    return wrong, runs.unit(connection, unit_id)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine: runs, units, numbers and the ledger behind one class, which the web layer and the CLI talk to."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from job_launcher.execution import machine
from job_launcher.execution.executor import Executor
from job_launcher.execution.local import LocalExecutor
from job_launcher.execution.supervisor import Supervisor
from job_launcher.logs.logs import Logs
from job_launcher.model import Balance, Banner, Event, LedgerEntry, Page, Run, now_ms
from job_launcher.number_queue import NumberQueue
from job_launcher.refused import Refused
from job_launcher.store import ledger, numbers, runs
from job_launcher.store.connection import Store, StoreError
from job_launcher.store.reserve import Reserve
from job_launcher.templates import Template
from job_launcher.tunables import Tunables, effective_limit

T = TypeVar("T")
Listener = Callable[[Event], None]

log = logging.getLogger(__name__)

MOST_LISTED = 1000
MOST_READ = 2**20
KEY_LENGTH = 128
HOUSEKEEPING = 3600.0
INTERRUPTED = "the launcher was ended while it ran"
#: The first of these that there is is shown.
BANNERS = ("degraded", "draining", "no_numbers")


@dataclass(frozen=True)
class EngineConfig:
    """What an engine needs. `cpu_quota` (CPUs) and `memory_limit` (bytes): None takes the machine's or cgroup's.

    `executors` makes those besides `local`, by the name that templates use.
    """

    data_dir: Path
    templates: Mapping[str, Template]
    tunables: Tunables = field(default_factory=Tunables)
    cpu_quota: float | None = None
    memory_limit: int | None = None
    executors: Mapping[str, Callable[[], Executor]] = field(default_factory=dict)


class Engine:
    """Everything but the web. All methods are for the event loop that `start` ran in.

    Methods raise Refused for what a caller got wrong, and for what can't be done now (status 503).
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        tunables = config.tunables
        quota = machine.cpu_quota() if config.cpu_quota is None else config.cpu_quota
        memory = machine.memory_limit() if config.memory_limit is None else config.memory_limit
        #: (workers at once over all runs, what bounds it)
        self.effective_limit = effective_limit(tunables, quota, memory)
        #: Another one after each start: a client that sees a new one reads the end of its logs anew.
        self.instance = secrets.token_hex(8)
        self._listeners: list[Listener] = []
        self._banners: dict[str, Banner] = {}
        self._troubles: dict[str, str] = {}
        self._numbers = {"held": 0, "releasing": 0, "dead": 0}
        self._tasks: list[asyncio.Task[None]] = []
        self._passing: set[asyncio.Task[Any]] = set()
        self._lock = -1
        self._stalled: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Lock the data directory, recover what an earlier end left, begin to work. Raises Refused if it is in use."""
        config = self.config
        self._check_templates()
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _locked(config.data_dir / "lock")
        self._loop = asyncio.get_running_loop()
        self._reserve = Reserve(config.data_dir / "reserve", config.tunables.disk_reserve)
        with contextlib.suppress(OSError):
            # A full disk: the logs wait until there is room.
            self._reserve.keep()
        self._store = Store(config.data_dir / "launcher.sqlite")
        self._store.on_trouble = partial(self._trouble, "database")
        await _asked(self._store.open())
        self._logs = Logs(config.data_dir / "logs", self._store, self._reserve, config.tunables)
        self._logs.on_trouble = partial(self._trouble, "log")
        await self._logs.open()
        self._local = LocalExecutor(config.tunables.status_report_wait)
        self._executors: dict[str, Executor] = {
            "local": self._local,
            **{name: make() for name, make in config.executors.items()},
        }
        self._supervisor = Supervisor(
            self._store,
            self._logs,
            self._executors,
            config.templates,
            config.tunables,
            limit=self.effective_limit[0],
            emit=self._emit,
        )
        self._queue = NumberQueue(self._store, config.templates, config.tunables, self._local.children)
        self._supervisor.on_pause = self._paused
        self._supervisor.on_numbers = self._numbers_changed
        self._queue.on_change = self._released
        await self._recover()
        for work in (self._supervisor.serve(), self._queue.serve(), self._keep_house()):
            self._tasks.append(self._loop.create_task(work))

    def _check_templates(self) -> None:
        for template in self.config.templates.values():
            if template.executor != "local" and template.executor not in self.config.executors:
                raise Refused(f"templates.{template.name}.executor", f"{template.executor} is not set up here")

    async def _recover(self) -> None:
        """End what an earlier launcher left running, judge its units, take its runs on."""
        left = await self._store.read(lambda db: list(runs.left_running(db)))
        for name, executor in self._executors.items():
            await executor.recover(
                {row["id"]: row["process_key"] for row in left if self._executor_of(row["template"]) == name}
            )
        retries = {row["id"]: self._retries(row["template"]) for row in left}
        await self._store.write(partial(_end_left, retries=retries))
        for run in await self._store.read(runs.active):
            await self._supervisor.add(run)
            interrupted = sum(row["run_id"] == run.id for row in left)
            self._supervisor.say(run.id, f"the launcher was started anew; {interrupted} units had been interrupted")
            if run.template not in self.config.templates and run.counts.waiting:
                gone = f"the template {run.template} is not there any more"
                await self._supervisor.stop_run(run.id, gone, failure=gone)
        self._numbers = await self._store.read(partial(numbers.counts, owner=None))

    def _executor_of(self, template: str) -> str:
        found = self.config.templates.get(template)
        return found.executor if found else "local"

    def _retries(self, template: str) -> int:
        found = self.config.templates.get(template)
        if found is None:
            return 0
        return self.config.tunables.unit_retries if found.retries is None else found.retries

    async def drain(self, timeout: float | None = None) -> None:
        """Start nothing more; wait for running units; end those that are left after drain_timeout."""
        self._set_banner("draining", "The launcher is about to stop: nothing new is started.")
        await self._supervisor.drain(self.config.tunables.drain_timeout if timeout is None else timeout)
        await self._logs.flush()

    async def stop(self) -> None:
        """End what runs, write everything, unlock. Units ended by it are tried again or failed at the next start."""
        if not self._supervisor.draining:
            await self._supervisor.drain(0)
        if self._stalled:
            self._stalled.cancel()
        passing = [*self._tasks, *self._passing]
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
        self._queue.close()
        for executor in self._executors.values():
            await executor.close()
        await self._logs.close()
        await self._store.close()
        os.close(self._lock)

    async def start_run(
        self,
        owner: str,
        template: str,
        total: int,
        max_parallel: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> tuple[Run, bool]:
        """Check, hold the credits, queue the units; returns (run, True), or (the run of the same key, False)."""
        if self._supervisor.draining:
            raise Refused("", "the launcher is about to stop; ask again in a minute", 503)
        wanted = self._wanted(owner, template, total, max_parallel, parameters, key=idempotency_key)
        # A caller who goes away must not leave a run that is kept and not queued.
        return await asyncio.shield(self._loop.create_task(self._create(wanted)))

    async def _create(self, wanted: runs.Wanted) -> tuple[Run, bool]:
        run, created = await _asked(self._store.write(partial(runs.create, wanted=wanted)))
        if not created:
            return self._supervisor.shown(run), False
        await self._supervisor.add(run)
        self._supervisor.say(run.id, f"run {run.id}: {run.total} x {run.template}, {run.max_parallel} at a time")
        self._emit(Event("run", run.owner, run.id, self._supervisor.shown(run).to_json()))
        await self._tell_balance(run.owner)
        return self._supervisor.shown(run), True

    def _wanted(
        self, owner: str, template: str, total: Any, max_parallel: Any, parameters: Any, *, key: str | None
    ) -> runs.Wanted:
        """Check each field of a request; raises Refused that names it."""
        limit = self.effective_limit[0]
        found = self.config.templates.get(template) if isinstance(template, str) else None
        if found is None:
            raise Refused("template", f"must be one of {', '.join(sorted(self.config.templates))}")
        most = self.config.tunables.run_max_units
        if not _whole(total, most):
            raise Refused("total", f"must be a whole number from 1 to {most}")
        if max_parallel is not None and not _whole(max_parallel, limit):
            raise Refused("max_parallel", f"must be a whole number from 1 to {limit}")
        if key is not None and not (isinstance(key, str) and 0 < len(key) <= KEY_LENGTH and key.isprintable()):
            raise Refused("Idempotency-Key", f"must be a text of 1 to {KEY_LENGTH} characters")
        return runs.Wanted(
            owner=owner,
            template=template,
            title=found.title,
            total=total,
            max_parallel=max_parallel or min(self.config.tunables.max_parallel, limit),
            parameters=found.checked({} if parameters is None else parameters),
            price=found.price,
            key=key,
        )

    async def stop_run(self, run_id: str, by: str) -> Run:
        """Begin to stop a run; one that has ended stays as it is."""
        stopping = self._loop.create_task(self._supervisor.stop_run(run_id, f"stopped by {by}"))
        return await _asked(asyncio.shield(stopping))

    async def get_run(self, run_id: str) -> Run:
        """Return a run; Refused 404 if there is none."""
        return self._supervisor.shown(await _asked(self._store.read(partial(runs.get, run_id=run_id))))

    async def list_runs(
        self, owner: str | None, status: str | None = None, before: str | None = None, limit: int = 50
    ) -> Page:
        """Return runs, the newest first; owner None: everyone's."""
        listed = partial(runs.listed, owner=owner, status=status, before=before, limit=_limit(limit))
        page = await _asked(self._store.read(listed))
        return Page([self._supervisor.shown(run) for run in page.items], page.next)

    async def units(self, run_id: str, after: str | None = None, limit: int = 200) -> Page:
        """Return a run's units by their number."""
        listed = partial(runs.units, run_id=run_id, after=after, limit=_limit(limit))
        page = await _asked(self._store.read(listed))
        return Page([self._supervisor.live(unit) for unit in page.items], page.next)

    async def read_log(self, run_id: str, start: int, limit: int) -> tuple[bytes, int, int]:
        """Return (bytes from `start`, the next offset, the log's size). What retention has removed is skipped:
        the bytes then end at the next offset, which is later than start + their number."""
        if start < 0:
            raise Refused("from", "must be an offset of 0 or more")
        if not 0 < limit <= MOST_READ:
            raise Refused("limit", f"must be a whole number from 1 to {MOST_READ}")
        await self.get_run(run_id)
        return await _asked(self._logs.read(run_id, start, limit))

    def download_log(self, run_id: str) -> AsyncIterator[bytes]:
        """Return the whole log in pieces, up to its size when it began."""
        return self._logs.stream(run_id)

    async def balance(self, owner: str) -> Balance:
        """Return an owner's balance; nothing yet is 0."""
        return await _asked(self._store.read(partial(ledger.balance, owner=owner)))

    async def ledger(self, owner: str, before: str | None = None, limit: int = 50) -> Page:
        """Return ledger entries, the newest first."""
        return await _asked(self._store.read(partial(ledger.entries, owner=owner, before=before, limit=_limit(limit))))

    async def credit(self, owner: str, amount: int, by: str, reason: str) -> LedgerEntry:
        """Add credits."""
        work = partial(ledger.credit, owner=owner, amount=amount, by=by, reason=reason)
        entry = await _asked(self._store.write(work))
        await self._tell_balance(owner)
        return entry

    async def numbers(
        self, owner: str | None, status: str | None = None, before: str | None = None, limit: int = 50
    ) -> Page:
        """Return numbers, the newest first; owner None: everyone's."""
        listed = partial(numbers.listed, owner=owner, status=status, before=before, limit=_limit(limit))
        return await _asked(self._store.read(listed))

    async def retry_number(self, number_id: str, by: str, owner: str | None = None) -> None:
        """Release a held or dead number anew, as soon as its hold allows; another owner's is a 404."""
        number = await _asked(self._store.write(partial(numbers.retry, number_id=number_id, owner=owner)))
        log.info("number %s is tried again by %s", number_id, by)
        self._numbers_changed(number.owner)

    async def drop_number(self, number_id: str, by: str, reason: str) -> None:
        """Call a number released without its hook: someone has released it by hand."""
        number = await _asked(self._store.write(partial(numbers.drop, number_id=number_id, reason=reason)))
        log.info("number %s was dropped by %s", number_id, by)
        self._released(number.owner, free=True)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call the listener in the loop for each event until the returned function is called. It must not block."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    def banner(self) -> Banner | None:
        """Return what everyone should know now."""
        return next((self._banners[kind] for kind in BANNERS if kind in self._banners), None)

    def status(self) -> dict[str, Any]:
        """Return {banner, running_units, queued_units, numbers, draining}, numbers of all owners."""
        banner = self.banner()
        return {
            "banner": banner.to_json() if banner else None,
            "running_units": self._supervisor.running,
            "queued_units": self._supervisor.waiting,
            "numbers": dict(self._numbers),
            "draining": self._supervisor.draining,
        }

    def metrics(self) -> dict[str, float]:
        """Return counters (names end in _total) and gauges."""
        return {
            "runs_active": len(self._supervisor.active),
            "units_running": self._supervisor.running,
            "units_waiting": self._supervisor.waiting,
            **{f"units_{name}_total": count for name, count in self._supervisor.totals.items()},
            **{f"numbers_{name}": count for name, count in self._numbers.items()},
            "number_queue_wakes_total": self._queue.wakes,
            "log_writes_total": self._logs.writes,
            "log_written_bytes_total": self._logs.written_bytes,
            "log_waiting_bytes": self._logs.waiting_bytes,
            "database_commits_total": self._store.commits,
            "max_parallel_limit_effective": self.effective_limit[0],
            "degraded": int(bool(self._troubles)),
        }

    async def check(self) -> None:
        """Write to and read from the database; raises Refused 503 if that fails."""

        def touch(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO checks VALUES (1, ?)", (now_ms(),))

        await _asked(self._store.write(touch))
        await _asked(self._store.read(lambda db: db.execute("SELECT at FROM checks").fetchone()))

    def _emit(self, event: Event) -> None:
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:
                # Who listens badly must not stop the work.
                log.exception("a listener failed")

    def _later(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    async def _tell_balance(self, owner: str) -> None:
        balance = await self.balance(owner)
        self._emit(Event("balance", owner, None, balance.to_json()))

    def _set_banner(self, kind: str, message: str | None) -> None:
        """Show a banner, or take it away (None)."""
        before = self.banner()
        if message is None:
            self._banners.pop(kind, None)
        elif kind not in self._banners or self._banners[kind].message != message:
            self._banners[kind] = Banner(kind, message, now_ms())
        banner = self.banner()
        if banner != before:
            self._emit(Event("banner", None, None, {"banner": banner.to_json() if banner else None}))

    def _paused(self, paused: bool) -> None:
        message = "No numbers are free: runs that need some wait until one is released."
        self._set_banner("no_numbers", message if paused else None)

    def _released(self, owner: str, free: bool) -> None:
        if free:
            self._supervisor.resume()
        self._numbers_changed(owner)

    def _numbers_changed(self, owner: str) -> None:
        self._queue.poke()
        self._later(self._tell_numbers(owner))

    async def _tell_numbers(self, owner: str) -> None:
        with contextlib.suppress(StoreError):
            self._numbers = await self._store.read(partial(numbers.counts, owner=None))
            own = await self._store.read(partial(numbers.counts, owner=owner))
            self._emit(Event("numbers", owner, None, own))

    def _trouble(self, what: str, trouble: str | None) -> None:
        """Note that the disk takes nothing, or does again: give the database the reserve, say it, fail runs in time."""
        if trouble is None:
            self._troubles.pop(what, None)
        else:
            if not self._troubles:
                self._later(self._loop.run_in_executor(None, self._reserve.give))
            self._troubles[what] = trouble
            log.error("%s: %s", what, trouble)
        self._set_banner("degraded", "; ".join(self._troubles.values()) or None)
        if "log" in self._troubles and self._stalled is None:
            wait = self.config.tunables.log_stall_timeout
            self._stalled = self._loop.call_later(wait, lambda: self._later(self._fail_runs()))
        elif "log" not in self._troubles and self._stalled:
            self._stalled.cancel()
            self._stalled = None

    async def _fail_runs(self) -> None:
        """Fail the runs whose log can't be written: their workers would wait for ever."""
        while trouble := self._troubles.get("log"):
            left = [run_id for run_id, each in self._supervisor.active.items() if each.run.status != "stopping"]
            for run_id in left:
                with contextlib.suppress(StoreError):
                    await self._supervisor.stop_run(run_id, trouble, failure=trouble)
            await asyncio.sleep(1.0)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            try:
                await self._logs.clean()
            except (StoreError, OSError):
                log.exception("old log segments could not be removed")


async def _asked(work: Awaitable[T]) -> T:
    """Return what the database says; raises Refused 503 if it can't."""
    try:
        return await work
    except StoreError as error:
        raise Refused("", f"the database can't be used now: {error}", 503) from error


def _locked(path: Path) -> int:
    """Return a descriptor that holds the lock of the data directory; raises Refused if another launcher has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Refused("data_dir", f"{path.parent} is in use by another launcher", 409) from None
    return descriptor


def _end_left(db: sqlite3.Connection, retries: Mapping[str, int]) -> None:
    numbers.recover(db)
    for unit_id, allowed in retries.items():
        runs.end_attempt(db, unit_id, runs.Outcome("failed", reason=INTERRUPTED), retries=allowed)


def _whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _limit(limit: int) -> int:
    if not _whole(limit, MOST_LISTED):
        raise Refused("limit", f"must be a whole number from 1 to {MOST_LISTED}")
    return limit

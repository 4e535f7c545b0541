# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The executor that runs workers as processes beside the launcher."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from job_launcher.execution.executor import STOPPED, Ending, Job, Sink
from job_launcher.execution.processes import (
    Children,
    Process,
    Snapshots,
    by_key,
    key_of,
    kill_all,
    marked,
    send,
    snapshot,
)
from job_launcher.execution.pump import Pipe, Pump

GATE = Path(__file__).with_name("gate.py")
#: Memory, strays and unended lines are looked at so often while workers run, s.
WATCH = 1.0
#: Rounds of SIGKILL, 20 ms each, before a process that doesn't die (it waits for a disk) is left to itself.
ROUNDS = 50
RECOVERY_ROUNDS = 250
MB = 10**6
RLIMITS = {
    "open_files": ("RLIMIT_NOFILE", 1),
    "address_space": ("RLIMIT_AS", MB),
    "cpu_time": ("RLIMIT_CPU", 1),
    "file_size": ("RLIMIT_FSIZE", MB),
}


def gate_limits(limits: Mapping[str, int]) -> str:
    """Return the limits as the gate reads them; no worker leaves a core dump."""
    given = [f"{name}={limits[key] * factor}" for key, (name, factor) in RLIMITS.items() if limits.get(key, 0) > 0]
    return ",".join([*given, "RLIMIT_CORE=0"])


class Worker:
    """A worker that runs: its processes, its pipes, and why the launcher ends it if it does."""

    def __init__(self, job: Job, sink: Sink, pump: Pump, stop: asyncio.Event) -> None:
        self.job = job
        self.sink = sink
        self.pump = pump
        self.stop = stop
        self.reason: str | None = None
        self.ended = asyncio.Event()
        #: Set with `ended` or when there is a reason to end it.
        self.changed = asyncio.Event()
        self.last_sign = asyncio.get_running_loop().time()
        self.pipes: list[Pipe] = []
        self.started: subprocess.Popen[bytes] | None = None
        self.known: dict[int, int] = {}

    def output(self, data: bytes) -> None:
        """Hand output on."""
        self.last_sign = asyncio.get_running_loop().time()
        self.sink.output(data)

    def reported(self, data: bytes) -> None:
        """Hand reports on."""
        self.last_sign = asyncio.get_running_loop().time()
        self.sink.reported(data)

    def end_for(self, reason: str) -> None:
        """Ask for its end; the first reason counts."""
        self.reason = self.reason or reason
        self.changed.set()


class LocalExecutor:
    """Starts, watches, ends and sweeps worker processes."""

    def __init__(self, report_wait: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._report_wait = report_wait
        self._children = Children()
        self._pump = Pump()
        self._snapshots = Snapshots()
        #: Its thread lives as long as the launcher: workers get SIGKILL when the thread that started them ends.
        self._spawning = ThreadPoolExecutor(1, "spawn")
        self._sweeping = ThreadPoolExecutor(8, "sweep")
        self._workers: set[Worker] = set()
        self._watch: asyncio.Task[None] | None = None
        self._never = threading.Event()

    @property
    def children(self) -> Children:
        """Return who starts processes, so that others who start some are not taken for strays."""
        return self._children

    async def run(self, job: Job, sink: Sink, stop: asyncio.Event) -> Ending:
        """Run an attempt to its end; nothing of it is left running then."""
        worker = Worker(job, sink, self._pump, stop)
        try:
            await self._start(worker)
        except OSError as error:
            self._close_pipes(worker)
            return Ending(reason=f"could not be started: {error.strerror or error}")
        self._workers.add(worker)
        if self._watch is None:
            self._watch = self._loop.create_task(self._keep_watch())
        try:
            return await self._attend(worker)
        finally:
            self._workers.discard(worker)

    async def _start(self, worker: Worker) -> None:
        job = worker.job
        output, output_end = self._pump.open(worker.output, worker.sink.full)
        reports, reports_end = self._pump.open(worker.reported, _never_full)
        worker.pipes = [output, reports]
        gate = [sys.executable, "-I", "-S", str(GATE), str(os.getpid()), gate_limits(job.limits), *job.argv]
        spawn = partial(
            self._children.spawn,
            gate,
            env={**job.env, **job.contract(), "LAUNCHER_REPORT_FD": str(reports_end)},
            stdin=subprocess.DEVNULL,
            stdout=output_end,
            stderr=subprocess.STDOUT,
            pass_fds=(reports_end,),
            cwd="/",
        )
        try:
            worker.started = await self._loop.run_in_executor(self._spawning, spawn)
        finally:
            os.close(output_end)
            os.close(reports_end)
        key = key_of(worker.started.pid)
        if key:
            worker.sink.started(key)

    async def _attend(self, worker: Worker) -> Ending:
        assert worker.started  # noqa: S101 # _start has set it
        pid = worker.started.pid
        descriptor = os.pidfd_open(pid)
        self._loop.add_reader(descriptor, _ended, self._loop, descriptor, worker)
        try:
            await self._until_end(worker)
            if not worker.ended.is_set():
                await self._terminate(worker)
            await worker.ended.wait()
        except asyncio.CancelledError:
            worker.end_for(STOPPED)
            raise
        finally:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
            # Not reaped before that: so its pid, by which the sweep knows its session, is nobody else's.
            await asyncio.shield(self._clear(worker))
        code = await self._loop.run_in_executor(self._spawning, self._children.reap, worker.started)
        return Ending(code, None, worker.reason) if code >= 0 else Ending(None, -code, worker.reason)

    async def _until_end(self, worker: Worker) -> None:
        """Wait until it has ended or there is a reason to end it."""
        job = worker.job
        began = self._loop.time()
        stopped = self._loop.create_task(worker.stop.wait())
        stopped.add_done_callback(lambda task: None if task.cancelled() else worker.end_for(STOPPED))
        try:
            while not worker.changed.is_set():
                ends = [began + job.timeout]
                if job.idle_timeout:
                    ends.append(worker.last_sign + job.idle_timeout)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(worker.changed.wait(), max(0.0, min(ends) - self._loop.time()))
                now = self._loop.time()
                if now >= began + job.timeout:
                    worker.end_for(f"ran longer than {job.timeout:g} s")
                elif job.idle_timeout and now >= worker.last_sign + job.idle_timeout:
                    worker.end_for(f"printed and reported nothing for {job.idle_timeout:g} s")
        finally:
            stopped.cancel()

    async def _terminate(self, worker: Worker) -> None:
        """SIGTERM to all that belong to it; those that are there after the grace get SIGKILL."""
        for each in await self._family(worker):
            send(each, signal.SIGTERM)
        deadline = self._loop.time() + worker.job.term_grace
        wait = 0.01
        while self._loop.time() < deadline:
            if worker.ended.is_set() and not await self._family(worker):
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(worker.ended.wait()), wait)
            if worker.ended.is_set():
                await asyncio.sleep(min(wait, max(0.0, deadline - self._loop.time())))
            wait = min(2 * wait, 0.1)
        await self._kill(worker)

    async def _clear(self, worker: Worker) -> None:
        """Take what output is still there, kill what is still there, close the pipes."""
        with contextlib.suppress(TimeoutError):
            every = asyncio.gather(*(pipe.ended.wait() for pipe in worker.pipes))
            await asyncio.wait_for(every, self._report_wait)
        await self._kill(worker)
        self._close_pipes(worker)

    async def _kill(self, worker: Worker) -> None:
        await self._loop.run_in_executor(self._sweeping, self._sweep, worker)

    def _sweep(self, worker: Worker) -> None:
        kill_all(partial(self._to_sweep, worker), ROUNDS, self._never)
        self._children.reap_strays()

    def _to_sweep(self, worker: Worker) -> list[Process]:
        """Return the worker's processes, and those that may be its own as they belong to no other."""
        processes = self._snapshots.get()

        def claimed() -> set[int]:
            others = self._workers - {worker}
            return {each.pid for other in others for each in self._family_in(other, processes)}

        return self._family_in(worker, processes) + self._children.unclaimed(processes, claimed)

    async def _family(self, worker: Worker) -> list[Process]:
        return await self._loop.run_in_executor(self._sweeping, self._members, worker)

    def _members(self, worker: Worker) -> list[Process]:
        return self._family_in(worker, self._snapshots.get())

    def _family_in(self, worker: Worker, processes: Mapping[int, Process]) -> list[Process]:
        leader = worker.started.pid if worker.started else None
        return self._children.family(worker.job.unit_id, leader, worker.known, processes)

    def _close_pipes(self, worker: Worker) -> None:
        for pipe in worker.pipes:
            self._pump.close(pipe)

    async def _keep_watch(self) -> None:
        while self._workers:
            await asyncio.sleep(WATCH)
            for worker in list(self._workers):
                if self._loop.time() - worker.last_sign >= WATCH:
                    worker.sink.quiet()
            for worker, size in await self._loop.run_in_executor(self._sweeping, self._sizes, list(self._workers)):
                limit = worker.job.limits.get("rss_kill", 0)
                if limit and size > limit * MB:
                    worker.end_for(f"used {size / MB:.0f} MB, more than {limit} MB")
        self._watch = None

    def _sizes(self, workers: list[Worker]) -> list[tuple[Worker, int]]:
        self._children.reap_strays()
        processes = self._snapshots.get()
        return [(worker, sum(each.rss for each in self._family_in(worker, processes))) for worker in workers]

    async def recover(self, left: Mapping[str, str | None]) -> None:
        """Kill what an earlier launcher left running of these units."""
        if not left:
            return

        def find() -> list[Process]:
            processes = snapshot()
            found = {each.pid: each for each in marked(left, processes)}
            for key in filter(None, left.values()):
                found |= {each.pid: each for each in by_key(key, processes)}
            return list(found.values())

        await self._loop.run_in_executor(self._sweeping, kill_all, find, RECOVERY_ROUNDS, self._never)

    async def close(self) -> None:
        """Give the threads back."""
        if self._watch:
            self._watch.cancel()
        self._spawning.shutdown(wait=False)
        self._sweeping.shutdown(wait=False)


def _never_full() -> bool:
    return False


def _ended(loop: asyncio.AbstractEventLoop, descriptor: int, worker: Worker) -> None:
    loop.remove_reader(descriptor)
    worker.ended.set()
    worker.changed.set()

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The executor that runs workers as Swarm jobs, on any node, by way of the gateway (swarm_gateway.py)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from job_launcher.execution.executor import STOPPED, Ending, Job, Sink
from job_launcher.execution.swarm_jobs import LONGEST_GRACE, STDERR, Errors, Frames, job_name, request

GATEWAY_SOCKET = Path("/run/job-launcher/engine.sock")
#: The Swarm is asked for a job's state so often, s: Swarm itself takes longer than that to start one.
POLL = 0.5
#: While a log is quiet for so long, an unended line is shown, s.
QUIET = 1.0
#: A gateway or engine that is restarted answers again within this time, s.
SILENCE = 60.0
#: Beyond the grace, how long a node may take to end and clear away a job, s.
CLEARING = 30.0
_FULL_WAIT = 0.05
_TIMEOUT = aiohttp.ClientTimeout(total=40)
_FOLLOWING = aiohttp.ClientTimeout(total=None, sock_connect=30)
_BASE = "http://gateway"


class GatewayError(Exception):
    """The gateway can't be reached (`status` None) or refused."""

    def __init__(self, status: int | None, message: str) -> None:
        super().__init__(message)
        self.status = status


class SwarmExecutor:
    """Runs attempts as Swarm jobs. The gateway's socket is opened with the first of them."""

    def __init__(self, socket: Path = GATEWAY_SOCKET) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def run(self, job: Job, sink: Sink, stop: asyncio.Event) -> Ending:
        """Run an attempt to its end; nothing of it is left running then."""
        name = job_name(job)
        sink.started(name)
        try:
            await self.patiently("PUT", f"/jobs/{name}", request(job))
        except GatewayError as error:
            with contextlib.suppress(GatewayError):
                await self.remove(name, 0)
            return Ending(reason=f"could not be started: {error}")
        try:
            return await _Attempt(self, job, sink, name).until_end(stop)
        except GatewayError as error:
            return Ending(reason=f"was lost sight of: {error}")
        finally:
            # What can't be removed now is at the next start.
            with contextlib.suppress(GatewayError):
                await asyncio.shield(self.remove(name, job.term_grace))

    async def recover(self, left: Mapping[str, str | None]) -> None:
        """End what an earlier launcher left running: every job that the Swarm still has of this launcher."""
        try:
            names = await self.ask("GET", "/jobs")
        except GatewayError:
            # With nothing of the Swarm's left, a gateway that isn't there is no reason not to start.
            if not left:
                return
            names = await self.patiently("GET", "/jobs")
        await asyncio.gather(*(self.remove(name, LONGEST_GRACE) for name in names))

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the gateway once; raises GatewayError."""
        try:
            async with self.session.request(method, _BASE + path, json=body, timeout=_TIMEOUT) as answer:
                content = await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise GatewayError(None, f"the way to the Swarm is closed: {error or type(error).__name__}") from error
        if answer.status >= 400:
            raise GatewayError(answer.status, str(content.get("error", answer.status)))
        return content

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connections to the gateway."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._socket), limit=0))
        return self._session

    async def patiently(self, method: str, path: str, body: Any = None) -> Any:
        """Ask again while nobody answers; each request does no harm a second time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SILENCE
        while True:
            try:
                return await self.ask(method, path, body)
            except GatewayError as error:
                if error.status not in (None, 502, 503) or loop.time() > deadline:
                    raise
            await asyncio.sleep(POLL)

    async def remove(self, name: str, grace: float) -> None:
        """Remove a job and wait until nothing of it is left."""
        await self.patiently("DELETE", f"/jobs/{name}")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace + CLEARING
        while (await self.patiently("GET", f"/jobs/{name}"))["state"] in ("waiting", "running"):
            if loop.time() > deadline:
                return
            await asyncio.sleep(POLL / 2)


class _Attempt:
    """One job that runs: its state, its log, why the launcher ends it if it does."""

    def __init__(self, executor: SwarmExecutor, job: Job, sink: Sink, name: str) -> None:
        self.executor = executor
        self.job = job
        self.sink = sink
        self.name = name
        self.frames_seen = 0
        self.errors = Errors()
        self.loop = asyncio.get_running_loop()
        self.began = self.last_sign = self.loop.time()

    async def until_end(self, stop: asyncio.Event) -> Ending:
        """Wait for its end, or end it; its log has been handed on then."""
        state = await self._state()
        reading: asyncio.Task[None] | None = None
        try:
            while state["state"] != "ended":
                if reading is None and state["state"] == "running":
                    reading = asyncio.create_task(self._follow())
                reason = self._reason(stop, state)
                if reason:
                    # What it prints while it ends is still read.
                    await self.executor.remove(self.name, self.job.term_grace)
                    return Ending(reason=reason)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), POLL)
                state = await self._state()
        finally:
            await _ended(reading)
        await self._read_rest()
        for take, data in zip((self.sink.reported, self.sink.output), self.errors.close(), strict=True):
            if data:
                take(data)
        return _ending(state)

    async def _state(self) -> Any:
        return await self.executor.patiently("GET", f"/jobs/{self.name}")

    def _reason(self, stop: asyncio.Event, state: Mapping[str, Any]) -> str | None:
        """Why it must be ended now, None if it needn't."""
        now, job = self.loop.time(), self.job
        if stop.is_set():
            return STOPPED
        if now >= self.began + job.timeout:
            waits = f" and waited for a node: {state['error']}" if state["state"] != "running" else ""
            return f"ran longer than {job.timeout:g} s{waits}"
        if state["state"] == "none":
            return "somebody removed it from the Swarm" if now > self.began + CLEARING else None
        if job.idle_timeout and now >= self.last_sign + job.idle_timeout:
            return f"printed and reported nothing for {job.idle_timeout:g} s"
        return None

    async def _follow(self) -> None:
        """Hand its log on as it comes; go on after the last frame where the connection broke."""
        while True:
            with contextlib.suppress(GatewayError):
                await self._read(follow=True)
            await asyncio.sleep(POLL)

    async def _read_rest(self) -> None:
        """Hand on what following it has not brought; say so in the log if that can't be read."""
        deadline = self.loop.time() + SILENCE
        while True:
            try:
                return await self._read(follow=False)
            except GatewayError as error:
                if self.loop.time() > deadline:
                    self.sink.output(f"launcher: the end of this log is missing: {error}\n".encode())
                    return None
            await asyncio.sleep(POLL)

    async def _read(self, *, follow: bool) -> None:
        """Read its log from the first frame, and hand on what hasn't been yet; raises GatewayError."""
        frames = Frames(self.frames_seen)
        url = f"{_BASE}/jobs/{self.name}/log?follow={int(follow)}"
        try:
            async with self.executor.session.get(url, timeout=_FOLLOWING) as answer:
                if answer.status != 200:
                    raise GatewayError(answer.status, "no log")
                async for piece in _with_pauses(answer.content, self.sink.quiet):
                    for stream, data in frames.feed(piece):
                        self._take(stream, data)
                    self.frames_seen = max(self.frames_seen, frames.seen)
                    while self.sink.full():
                        await asyncio.sleep(_FULL_WAIT)
        except aiohttp.ClientError as error:
            raise GatewayError(None, str(error)) from error

    def _take(self, stream: int, data: bytes) -> None:
        self.last_sign = self.loop.time()
        reports, log = self.errors.feed(data) if stream == STDERR else (b"", data)
        if reports:
            self.sink.reported(reports)
        if log:
            self.sink.output(log)


async def _with_pauses(content: aiohttp.StreamReader, quiet: Any) -> Any:
    """Yield what comes; call `quiet` when nothing has come for a while."""
    while not content.at_eof():
        try:
            piece = await asyncio.wait_for(content.readany(), QUIET)
        except TimeoutError:
            quiet()
            continue
        if piece:
            yield piece


async def _ended(reading: asyncio.Task[None] | None) -> None:
    if reading:
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading


def _ending(state: Mapping[str, Any]) -> Ending:
    code = state["exit_code"]
    if code is None:
        return Ending(reason=f"could not be started: {state['error'] or 'the Swarm says no reason'}")
    # Docker gives the end by a signal as a shell does.
    return Ending(None, code - 128) if code > 128 else Ending(code)

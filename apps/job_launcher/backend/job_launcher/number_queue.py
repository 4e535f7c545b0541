# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The number queue: it sleeps until the next number is due, releases what is due, tries again with back-off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from job_launcher.execution.processes import Children
from job_launcher.model import Number, now_ms
from job_launcher.store import numbers
from job_launcher.store.connection import Store, StoreError
from job_launcher.templates import Release, Template, filled
from job_launcher.tunables import Tunables

AT_ONCE = 4
LONGEST_BACKOFF = 3600.0
ERROR_LENGTH = 500


class NumberQueue:
    """Releases leased numbers by their templates' hooks, each one not before its time."""

    def __init__(self, store: Store, templates: Mapping[str, Template], tunables: Tunables, children: Children) -> None:
        self._store = store
        self._templates = templates
        self._tunables = tunables
        self._children = children
        self._hooks = ThreadPoolExecutor(AT_ONCE, "release")
        self._wake = asyncio.Event()
        #: Called with the owner of a number that has changed, and whether it is free again.
        self.on_change: Callable[[str, bool], None] = lambda _owner, _free: None
        self.wakes = 0

    def poke(self) -> None:
        """Look at the queue anew: something has become due, or may have."""
        self._wake.set()

    async def serve(self) -> None:
        """Work until cancelled."""
        while True:
            self._wake.clear()
            try:
                due = await self._store.read(numbers.next_due)
                wait = None if due is None else (due - now_ms()) / 1000
                if wait is not None and wait <= 0:
                    await self._release_due()
                    continue
            except StoreError:
                wait = self._tunables.number_queue_interval
            await self._sleep(wait)
            self.wakes += 1

    async def _sleep(self, wait: float | None) -> None:
        """Sleep so long, at most number_queue_interval (clocks are set); without anything to wait for until poked."""
        if wait is None:
            await self._wake.wait()
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), min(wait, self._tunables.number_queue_interval))

    async def _release_due(self) -> None:
        taken = await self._store.write(partial(numbers.take_due, limit=AT_ONCE))
        await asyncio.gather(*(self._release(number) for number in taken))

    async def _release(self, number: Number) -> None:
        self.on_change(number.owner, False)
        template = self._templates.get(number.template)
        if template is None or template.release is None:
            error: str | None = f"the template {number.template} has no release hook any more"
        elif template.release.url:
            error = await self._post(template.release.url, number)
        else:
            hook = partial(self._command, template.release, template.env, number)
            error = await asyncio.get_running_loop().run_in_executor(self._hooks, hook)
        if error is None:
            await self._store.write_surely(partial(numbers.released, number_id=number.id))
        else:
            next_try = self._next_try(number.attempts)
            await self._store.write_surely(
                partial(numbers.failed, number_id=number.id, error=error[:ERROR_LENGTH], next_try_at=next_try)
            )
        self.on_change(number.owner, error is None)

    def _next_try(self, attempts: int) -> int | None:
        wait = backoff(attempts, self._tunables.number_retry_backoff)
        return None if attempts >= self._tunables.number_release_attempts else now_ms() + round(wait * 1000)

    async def _post(self, url: str, number: Number) -> str | None:
        # Only templates with a URL need the client.
        import aiohttp  # noqa: PLC0415

        body = {"number": number.value, "run_id": number.run_id, "unit_id": number.unit_id}
        timeout = aiohttp.ClientTimeout(total=self._tunables.number_release_timeout)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(url, json=body, allow_redirects=False) as answer,
            ):
                return None if answer.status < 300 else f"the release hook answered {answer.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"the release hook can't be reached: {type(error).__name__}: {error}"

    def _command(self, release: Release, env: Mapping[str, str], number: Number) -> str | None:
        """Run the hook; returns what went wrong. For a worker thread."""
        argv = [filled(element, {"number": number.value}) for element in release.argv]
        literal = {name: value for name, value in env.items() if not value.startswith("{")}
        with tempfile.TemporaryFile() as said:
            try:
                started = self._children.spawn(
                    argv,
                    env={**literal, "LAUNCHER_NUMBER": number.value, "LAUNCHER_RUN_ID": number.run_id},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    cwd="/",
                )
            except OSError as error:
                return f"the release hook could not be started: {error.strerror or error}"
            code = self._wait(started)
            if code == 0:
                return None
            said.seek(0)
            words = said.read(ERROR_LENGTH).decode(errors="replace").strip()
        how = "took too long" if code is None else f"ended with {code}"
        return f"the release hook {how}{': ' if words else ''}{words}"

    def _wait(self, started: subprocess.Popen[bytes]) -> int | None:
        """Return the exit code; None if it took too long and was killed with its session's group."""
        descriptor = os.pidfd_open(started.pid)
        try:
            if select.select([descriptor], [], [], self._tunables.number_release_timeout)[0]:
                return self._children.reap(started)
            os.killpg(started.pid, signal.SIGKILL)
            self._children.reap(started)
        finally:
            os.close(descriptor)
        return None

    def close(self) -> None:
        """Give the threads back; a hook that runs is not waited for."""
        self._hooks.shutdown(wait=False)


def backoff(attempts: int, first: float) -> float:
    """Return the wait after so many failed attempts (1 or more), s: it doubles up to an hour."""
    return float(min(first * 2 ** min(attempts - 1, 30), LONGEST_BACKOFF))

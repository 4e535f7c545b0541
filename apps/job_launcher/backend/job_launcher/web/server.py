# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all routes share: the engine, the accounts, the limits, the open sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiohttp import web

from job_launcher.config import Config
from job_launcher.engine import Engine
from job_launcher.model import now_ms
from job_launcher.store import audit
from job_launcher.store.accounts import Accounts
from job_launcher.web.limits import Buckets, Failures, Limits
from job_launcher.web.metrics import Metrics

HEALTH_SECONDS = 1.0  # a flood of health checks costs one synced write in so much time


class Server:
    """One for each process. `draining` is true from the first sign of an end."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        accounts: Accounts,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.engine = engine
        self.accounts = accounts
        self.limits = limits
        self.clock = clock
        self.draining = False
        self.port = config.port  # the real one, once it is bound
        self.metrics = Metrics(engine)
        self.buckets = Buckets(limits.requests_per_second, limits.request_burst, clock)
        self.failures_by_name = Failures(limits.failures_by_name, limits.failure_window, clock)
        self.failures_by_address = Failures(limits.failures_by_address, limits.failure_window, clock)
        self.hashing = asyncio.Lock()
        self.hashes_waiting = 0
        # Called with the hash of each session or token that has ended, and with the name of each user whose all have.
        self.on_revoked: list[Callable[[str], None]] = []
        self._checked: tuple[float, asyncio.Future[None]] | None = None

    async def audit(
        self,
        actor: str | None,
        action: str,
        target: str | None = None,
        address: str | None = None,
        detail: str | None = None,
    ) -> None:
        """Write down what was done."""
        entry = audit.Entry(now_ms(), actor, action, target, address, detail)
        await self.accounts.write(lambda db: audit.write(db, entry))

    def revoked(self, credential: str) -> None:
        """Let go of everything that hangs on a session or token."""
        for listener in self.on_revoked:
            listener(credential)

    async def check_health(self) -> None:
        """Write to and read from the databases; raises what goes wrong. Many at once share one check."""
        if self._checked is None or self.clock() - self._checked[0] >= HEALTH_SECONDS:
            self._checked = (self.clock(), asyncio.ensure_future(self._check()))
        await asyncio.shield(self._checked[1])

    async def _check(self) -> None:
        await self.engine.check()
        await self.accounts.write(lambda db: db.execute("PRAGMA user_version = 1"))


SERVER = web.AppKey("server", Server)

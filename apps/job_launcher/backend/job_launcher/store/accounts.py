# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The database of users, sessions, tokens and audit, apart from the engine's: logins don't wait behind its writes,
and the command line changes it while a server runs."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from job_launcher.store import audit, sessions, users

FILE = "accounts.sqlite3"
_BUSY_MS = 5000  # another process may be writing

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class Accounts:
    """One connection in one thread. `work` functions get the connection and run whole or not at all."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="accounts")
        self._db: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open the file, and make it (for the owner's eyes only) if there is none."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    async def close(self) -> None:
        """Close the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def read(self, work: Work[T]) -> T:
        """Run `work`, which only reads."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._connection()))

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction; it is on the disk when this returns."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transaction, work)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        self._db = sqlite3.connect(self._path, isolation_level=None)
        self._db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(users.SCHEMA + sessions.SCHEMA + audit.SCHEMA)

    def _close(self) -> None:
        self._connection().close()

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise RuntimeError("the accounts are not open")
        return self._db

    def _transaction(self, work: Work[T]) -> T:
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        try:
            result = work(db)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return result

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One writer thread that gathers what waits into one transaction, one reader thread; the loop never waits for a disk.

Each piece of work is a function of the connection. It runs within a savepoint: what it raises undoes it alone and
goes to its caller. A caller gets its result only after the commit.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from job_launcher.store.schema import migrate

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Waiting = tuple[Work[Any], "asyncio.Future[Any]"]

#: Pieces of work that one transaction takes at most.
BATCH = 200
FULL_RETRY = 1.0


class StoreError(Exception):
    """The database could not be read or written: the disk is full, or worse."""


class Store:
    """The database of one data directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._loop = asyncio.get_running_loop()
        self._queues: dict[str, queue.SimpleQueue[Waiting | None]] = {}
        self._threads: list[threading.Thread] = []
        #: Called in the loop with the error when writing fails, with None when it goes again.
        self.on_trouble: Callable[[str | None], None] = lambda _: None
        self._trouble = False
        self.commits = 0

    async def open(self) -> None:
        """Make or migrate the database and start both threads. Raises StoreError."""
        for name, serve in (("writer", self._write_batches), ("reader", self._read_each)):
            waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
            ready = self._loop.create_future()
            thread = threading.Thread(
                target=self._run, args=(serve, waiting, ready, name), name=f"store-{name}", daemon=True
            )
            self._queues[name] = waiting
            self._threads.append(thread)
            thread.start()
            await ready

    async def close(self) -> None:
        """Finish what waits and end both threads."""
        for waiting in self._queues.values():
            waiting.put(None)
        for thread in self._threads:
            await self._loop.run_in_executor(None, thread.join)

    async def write(self, work: Work[T]) -> T:
        """Run the work in a transaction and return its result once that is on disk. Raises StoreError."""
        return await self._submit("writer", work)

    async def write_surely(self, work: Work[T]) -> T:
        """Like write, but wait for better times as long as the database can't be written."""
        while True:
            try:
                return await self.write(work)
            except StoreError:
                await asyncio.sleep(FULL_RETRY)

    async def read(self, work: Work[T]) -> T:
        """Run the work, which only reads. Raises StoreError."""
        return await self._submit("reader", work)

    async def _submit(self, name: str, work: Work[T]) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self._queues[name].put((work, future))
        return await future

    def _run(
        self,
        serve: Callable[[sqlite3.Connection, queue.SimpleQueue[Waiting | None]], None],
        waiting: queue.SimpleQueue[Waiting | None],
        ready: asyncio.Future[None],
        name: str,
    ) -> None:
        try:
            connection = sqlite3.connect(self.path, isolation_level=None)
            connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 5000"):
                connection.execute(f"PRAGMA {pragma}")
            # The cache is for hot pages only: the launcher's memory stays small.
            connection.execute("PRAGMA cache_size = -1024")
            if name == "writer":
                migrate(connection)
            else:
                connection.execute("PRAGMA query_only = ON")
        except (sqlite3.Error, RuntimeError) as error:
            self._settle([(ready, None, StoreError(f"{self.path}: {error}"))])
            return
        self._settle([(ready, None, None)])
        serve(connection, waiting)
        connection.close()

    def _write_batches(self, connection: sqlite3.Connection, waiting: queue.SimpleQueue[Waiting | None]) -> None:
        going = True
        while going:
            batch, going = _take(waiting, BATCH)
            if batch:
                self._settle(self._commit(connection, batch))

    def _commit(self, connection: sqlite3.Connection, batch: list[Waiting]) -> list[Any]:
        """Return [(future, result, error), ...] after one transaction with all of the batch's work that succeeded."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            done = [_in_savepoint(connection, work, future) for work, future in batch]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._tell(str(error))
            return [(future, None, StoreError(str(error))) for _, future in batch]
        self.commits += 1
        self._tell(None)
        return done

    def _tell(self, trouble: str | None) -> None:
        if trouble or self._trouble:
            self._trouble = trouble is not None
            self._call(lambda: self.on_trouble(trouble))

    def _read_each(self, connection: sqlite3.Connection, waiting: queue.SimpleQueue[Waiting | None]) -> None:
        while (item := waiting.get()) is not None:
            work, future = item
            try:
                self._settle([(future, work(connection), None)])
            except sqlite3.Error as error:
                self._settle([(future, None, StoreError(str(error)))])
            except Exception as error:  # it goes to the caller
                self._settle([(future, None, error)])

    def _settle(self, results: list[Any]) -> None:
        self._call(lambda: _resolve(results))

    def _call(self, function: Callable[[], Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            return


def _take(waiting: queue.SimpleQueue[Waiting | None], most: int) -> tuple[list[Waiting], bool]:
    """Return what waits, at least one thing, and whether to go on."""
    batch: list[Waiting] = []
    item = waiting.get()
    while item is not None:
        batch.append(item)
        if len(batch) == most:
            return batch, True
        try:
            item = waiting.get_nowait()
        except queue.Empty:
            return batch, True
    return batch, False


def _in_savepoint(connection: sqlite3.Connection, work: Work[Any], future: asyncio.Future[Any]) -> Any:
    connection.execute("SAVEPOINT work")
    try:
        result = work(connection)
    except sqlite3.OperationalError:
        # Full disk, I/O error: the whole transaction is lost.
        raise
    except Exception as error:  # it goes to the caller
        connection.execute("ROLLBACK TO work")
        connection.execute("RELEASE work")
        return future, None, error
    connection.execute("RELEASE work")
    return future, result, None


def _resolve(results: list[Any]) -> None:
    for future, result, error in results:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The logs of all runs: what waits in memory, one timer that writes it, and the reader."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from job_launcher.logs.segments import (
    Block,
    Extent,
    append,
    encode,
    pack,
    pick,
    scan,
    segment_numbers,
    segment_path,
    unpack,
)
from job_launcher.model import now_ms
from job_launcher.store.connection import Store
from job_launcher.store.reserve import Reserve
from job_launcher.tunables import Tunables

DOWNLOAD_PIECE = 262144
#: After a failed write the next try comes so much later, s.
RETRY = 1.0
CLOSE_SECONDS = 5.0
DAY = 86400.0


class Segment:
    """A segment that the database doesn't know yet: its file is being written or was just closed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.size = 0
        self.began = time.monotonic()
        self.extents: dict[str, list[Extent]] = {}

    def place(self, placed: list[tuple[str, Extent]]) -> None:
        """Note where blocks are."""
        for run_id, extent in placed:
            self.extents.setdefault(run_id, []).append(extent)


class Logs:
    """The log of each run is one stream of bytes; `append` and `size` never wait, the disk is a thread's matter."""

    def __init__(self, directory: Path, store: Store, reserve: Reserve, tunables: Tunables) -> None:
        self._directory = directory
        self._store = store
        self._reserve = reserve
        self._tunables = tunables
        self._loop = asyncio.get_running_loop()
        self._writer = ThreadPoolExecutor(1, "log-writer")
        self._reader = ThreadPoolExecutor(1, "log-reader")
        self._descriptor = -1
        self._segments: list[Segment] = []
        #: What waits for the next write, and what the present one writes: run -> (its first offset, bytes).
        self._waiting: dict[str, tuple[int, bytearray]] = {}
        self._writing: list[Block] = []
        self._sizes: dict[str, int] = {}
        self._waiting_bytes = 0
        self._waiting_lines = 0
        self._last_write = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._flushed = asyncio.Event()
        self._closing = False
        self._retiring: set[asyncio.Task[None]] = set()
        #: Called with what is wrong when writing fails, and with None when it goes again.
        self.on_trouble: Callable[[str | None], None] = lambda _: None
        self._trouble: str | None = None
        self.writes = 0
        self.written_bytes = 0

    async def open(self) -> None:
        """Read what an earlier launcher left, and begin a new segment. Raises OSError."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        rows = await self._store.read(lambda db: db.execute("SELECT segment FROM log_segments").fetchall())
        known = {row["segment"] for row in rows}
        numbers = segment_numbers(self._directory)
        for number in numbers:
            if number not in known:
                await self._adopt(number)
        await self._begin(max([0, *known, *numbers]) + 1)
        await self.clean()

    async def close(self) -> None:
        """Write what waits and close the segment, as far as the disk lets."""
        await self.flush()
        self._closing = True
        if self._timer:
            self._timer.cancel()
        if self._flushing:
            await self._flushing
        # What the database can't take now is found in the segment itself at the next start.
        retiring = self._loop.create_task(self._retire(self._segments[-1], self._descriptor))
        await asyncio.wait([retiring, *self._retiring], timeout=CLOSE_SECONDS)
        self._writer.shutdown()
        self._reader.shutdown()

    async def _adopt(self, number: int) -> None:
        path = segment_path(self._directory, number)
        placed, size = await self._loop.run_in_executor(self._reader, scan, path)
        if size == 0:
            path.unlink()
            return
        os.truncate(path, size)
        segment = Segment(number)
        segment.size = size
        segment.place(placed)
        await self._index(segment)

    async def _begin(self, number: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        path = segment_path(self._directory, number)
        self._descriptor = await self._loop.run_in_executor(self._writer, os.open, path, flags, 0o600)
        self._segments.append(Segment(number))

    @property
    def full(self) -> bool:
        """Whether so much waits that workers' output must wait, too."""
        return self._waiting_bytes >= self._tunables.log_memory

    @property
    def waiting_bytes(self) -> int:
        """Return how much isn't written yet."""
        return self._waiting_bytes

    def append(self, run_id: str, data: bytes, lines: int) -> int:
        """Add records to a run's log and return the offset of the first byte. The run's size must be loaded."""
        offset = self._sizes[run_id]
        if run_id not in self._waiting:
            self._waiting[run_id] = (offset, bytearray())
        self._waiting[run_id][1].extend(data)
        self._sizes[run_id] = offset + len(data)
        self._waiting_bytes += len(data)
        self._waiting_lines += lines
        self._arm()
        return offset

    def size(self, run_id: str) -> int | None:
        """Return the size of a run's log, None if it isn't loaded."""
        return self._sizes.get(run_id)

    async def load(self, run_id: str) -> int:
        """Load and return the size of a run's log."""
        if run_id not in self._sizes:
            self._sizes[run_id] = await self._stored_size(run_id)
        return self._sizes[run_id]

    def unload(self, run_id: str) -> None:
        """Forget a run that prints no more and whose log is written."""
        if run_id not in self._waiting:
            self._sizes.pop(run_id, None)

    async def flush(self) -> None:
        """Wait until what waits now is written; returns at once while the disk is full."""
        while (self._waiting or self._writing) and self._trouble is None:
            self._flushed.clear()
            self._arm()
            await self._flushed.wait()

    def _arm(self) -> None:
        """Set the timer: a write comes log_flush_interval after the last one, or after the first line that waits."""
        if self._closing or self._flushing or (self._timer and not self._gathered()):
            return
        now = self._loop.time()
        interval = self._tunables.log_flush_interval
        since = now - self._last_write
        if self._trouble:
            wait = max(RETRY, interval)
        elif since >= interval:
            wait = 0.0 if self._gathered() else interval
        else:
            wait = interval - since
        if self._timer:
            if now + wait >= self._timer.when():
                return
            self._timer.cancel()
        self._timer = self._loop.call_later(wait, self._fire)

    def _gathered(self) -> bool:
        return (
            self._waiting_lines >= self._tunables.log_buffer_lines
            or self._waiting_bytes >= self._tunables.log_file_buffer
        )

    def _fire(self) -> None:
        self._timer = None
        self._flushing = self._loop.create_task(self._write())

    async def _write(self) -> None:
        segment = self._segments[-1]
        taken = [Block(run_id, offset, bytes(data)) for run_id, (offset, data) in self._waiting.items()]
        self._writing += taken
        self._waiting.clear()
        self._waiting_lines = 0
        self._last_write = self._loop.time()
        size = sum(len(block.data) for block in self._writing)
        try:
            placed, written = await self._loop.run_in_executor(self._writer, self._append, segment.size)
        except OSError as error:
            self._failed(error)
        else:
            segment.place(placed)
            segment.size += written
            self._writing = []
            self._waiting_bytes -= size
            self.writes += 1
            self.written_bytes += written
            self._tell(None)
            if segment.size >= self._tunables.log_segment_size or time.monotonic() - segment.began > DAY:
                await self._next_segment()
        self._flushing = None
        self._flushed.set()
        if self._waiting or self._writing:
            self._arm()

    def _append(self, size: int) -> tuple[list[tuple[str, Extent]], int]:
        self._reserve.require()
        data, placed = encode(self._writing, size)
        append(self._descriptor, data, size)
        return placed, len(data)

    def _failed(self, error: OSError) -> None:
        self._tell(f"the log can't be written: {error.strerror or error}")

    def _tell(self, trouble: str | None) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self.on_trouble(trouble)

    async def _next_segment(self) -> None:
        segment, descriptor = self._segments[-1], self._descriptor
        try:
            await self._begin(segment.number + 1)
        except OSError as error:
            # The old one grows on meanwhile.
            self._failed(error)
            return
        task = self._loop.create_task(self._retire(segment, descriptor))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _retire(self, segment: Segment, descriptor: int) -> None:
        """Close a segment and hand its index to the database."""
        await self._loop.run_in_executor(self._writer, _sync_and_close, descriptor)
        if segment.size:
            await self._index(segment)
        else:
            segment_path(self._directory, segment.number).unlink(missing_ok=True)
        self._segments.remove(segment)
        await self.clean()

    async def _index(self, segment: Segment) -> None:
        rows = [
            (run_id, segment.number, extents[0].offset, extents[-1].end, pack(extents))
            for run_id, extents in segment.extents.items()
        ]

        def insert(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO log_segments VALUES (?, ?, ?)", (segment.number, segment.size, now_ms()))
            db.executemany("INSERT INTO log_index VALUES (?, ?, ?, ?, ?)", rows)

        await self._store.write_surely(insert)

    async def clean(self) -> None:
        """Remove closed segments that are too old, and the oldest while all are too large together."""
        oldest = now_ms() - round(self._tunables.log_retention_days * DAY * 1000)
        rows = await self._store.read(lambda db: db.execute("SELECT * FROM log_segments ORDER BY segment").fetchall())
        excess = sum(row["size"] for row in rows) - self._tunables.log_retention_size
        for row in rows:
            if row["closed_at"] >= oldest and excess <= 0:
                break
            excess -= row["size"]
            await self._store.write_surely(partial(_forget, segment=row["segment"]))
            segment_path(self._directory, row["segment"]).unlink(missing_ok=True)

    async def _stored_size(self, run_id: str) -> int:
        ends = [segment.extents[run_id][-1].end for segment in self._segments if run_id in segment.extents]
        if ends:
            return ends[-1]
        row = await self._store.read(
            lambda db: db.execute("SELECT max(last) AS size FROM log_index WHERE run_id = ?", (run_id,)).fetchone()
        )
        return row["size"] or 0

    async def read(self, run_id: str, start: int, limit: int) -> tuple[bytes, int, int]:
        """Return (bytes from `start`, the next offset, the log's size); what retention removed is skipped.

        The first byte given is at the next offset minus the number of bytes.
        """
        size = self._sizes.get(run_id)
        if size is None:
            size = await self._stored_size(run_id)
        if start >= size or limit <= 0:
            return b"", min(start, size), size
        found = await self._pieces(run_id, start, min(start + limit, size))
        if not found:
            later = await self._first_after(run_id, start)
            if later is None:
                return b"", size, size
            start = later
            found = await self._pieces(run_id, start, min(start + limit, size))
        data, following = joined(found, start)
        return data, following, size

    async def stream(self, run_id: str) -> AsyncIterator[bytes]:
        """Yield a log in pieces, up to the size that it has at the first one."""
        at, end = 0, None
        while end is None or at < end:
            left = DOWNLOAD_PIECE if end is None else min(DOWNLOAD_PIECE, end - at)
            data, at, size = await self.read(run_id, at, left)
            end = size if end is None else end
            if data:
                yield data
            elif at >= size:
                return

    async def _pieces(self, run_id: str, start: int, end: int) -> list[tuple[int, bytes]]:
        """Return (offset, bytes) in order, as far as they are there. What is in memory is taken before any waiting."""
        memory = [
            (max(block.offset, start), block.data[max(0, start - block.offset) : end - block.offset])
            for block in self._in_memory(run_id)
            if block.offset < end and block.offset + len(block.data) > start
        ]
        places = {
            segment.number: chosen
            for segment in self._segments
            if (chosen := between(segment.extents.get(run_id, []), start, end))
        }
        first = min([each[0].offset for each in places.values()] + [offset for offset, _ in memory], default=end)
        if first > start:
            for row in await self._store.read(partial(_rows, run_id=run_id, start=start, end=end)):
                places[row["segment"]] = between(list(unpack(row["extents"])), start, end)
        pieces = []
        for number, extents in sorted(places.items()):
            path = segment_path(self._directory, number)
            try:
                data = await self._loop.run_in_executor(self._reader, pick, path, extents, start, end)
            except FileNotFoundError:
                # Retention was faster.
                continue
            pieces.append((max(extents[0].offset, start), data))
        return pieces + memory

    def _in_memory(self, run_id: str) -> list[Block]:
        blocks = [block for block in self._writing if block.run_id == run_id]
        if run_id in self._waiting:
            offset, data = self._waiting[run_id]
            blocks.append(Block(run_id, offset, bytes(data)))
        return blocks

    async def _first_after(self, run_id: str, start: int) -> int | None:
        """Return the first offset after `start` that is still there."""
        here = [
            extent.offset
            for segment in self._segments
            for extent in segment.extents.get(run_id, [])
            if extent.offset > start
        ]
        here += [block.offset for block in self._in_memory(run_id) if block.offset > start]
        row = await self._store.read(
            lambda db: db.execute(
                "SELECT min(first) AS first FROM log_index WHERE run_id = ? AND first > ?", (run_id, start)
            ).fetchone()
        )
        return min([*here, *([] if row["first"] is None else [row["first"]])], default=None)


def between(extents: list[Extent], start: int, end: int) -> list[Extent]:
    """Return those of a run's extents, which are in order, that have bytes from start to end."""
    first = bisect_right(extents, start, key=lambda extent: extent.end)
    last = bisect_left(extents, end, key=lambda extent: extent.offset)
    return extents[first:last]


def joined(pieces: list[tuple[int, bytes]], start: int) -> tuple[bytes, int]:
    """Return (bytes up to the first gap after their beginning, the offset after them)."""
    parts: list[bytes] = []
    at = start
    for offset, data in pieces:
        if offset > at and parts:
            break
        at = max(at, offset)
        part = data[at - offset :]
        if part:
            parts.append(part)
            at += len(part)
    return b"".join(parts), at


def _rows(db: sqlite3.Connection, run_id: str, start: int, end: int) -> list[sqlite3.Row]:
    return db.execute(
        "SELECT segment, extents FROM log_index WHERE run_id = ? AND last > ? AND first < ?", (run_id, start, end)
    ).fetchall()


def _forget(db: sqlite3.Connection, segment: int) -> None:
    db.execute("DELETE FROM log_index WHERE segment = ?", (segment,))
    db.execute("DELETE FROM log_segments WHERE segment = ?", (segment,))


def _sync_and_close(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

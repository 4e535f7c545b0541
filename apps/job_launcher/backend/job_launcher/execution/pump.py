# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the pipes of all workers: at once when one is quiet, gathered while it prints, never more than is taken."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable

#: A pipe that has just given something is read again so much later: 25 reads a second, not one for each line.
GATHER = 0.04
#: So soon if it gave all that was asked for.
HURRY = 0.004
PIECE = 65536
PIECES = 4
PIPE_SIZE = 262144


class Pipe:
    """The reading end of a pipe; `ended` is set at its end."""

    def __init__(self, descriptor: int, take: Callable[[bytes], None], full: Callable[[], bool]) -> None:
        self.descriptor = descriptor
        self.take = take
        self.full = full
        self.ended = asyncio.Event()


class Pump:
    """One timer for all pipes that print; quiet ones cost nothing."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._gathering: list[Pipe] = []
        self._timer: asyncio.TimerHandle | None = None

    def open(self, take: Callable[[bytes], None], full: Callable[[], bool]) -> tuple[Pipe, int]:
        """Make a pipe; returns (it, the descriptor of its writing end, which the caller closes)."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        # Without room for a larger one the usual size does.
        with contextlib.suppress(OSError):
            fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        pipe = Pipe(reading, take, full)
        self._listen(pipe)
        return pipe, writing

    def close(self, pipe: Pipe) -> None:
        """Read what is still there, at most what a pipe holds, and close."""
        if not pipe.ended.is_set():
            self._loop.remove_reader(pipe.descriptor)
            self._read(pipe, PIPE_SIZE // PIECE)
        if not pipe.ended.is_set():
            self._end(pipe)
        if pipe in self._gathering:
            self._gathering.remove(pipe)

    def _listen(self, pipe: Pipe) -> None:
        self._loop.add_reader(pipe.descriptor, self._readable, pipe)

    def _readable(self, pipe: Pipe) -> None:
        self._loop.remove_reader(pipe.descriptor)
        more = not pipe.full() and self._read(pipe, PIECES)
        if not pipe.ended.is_set():
            self._gathering.append(pipe)
            self._arm(HURRY if more else GATHER)

    def _arm(self, wait: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(wait, self._tick)

    def _tick(self) -> None:
        self._timer = None
        gathering, self._gathering = self._gathering, []
        hurry = False
        for pipe in gathering:
            if pipe.full():
                self._gathering.append(pipe)
                continue
            state = self._read(pipe, PIECES)
            if pipe.ended.is_set():
                continue
            if state is None:
                self._listen(pipe)
                continue
            hurry = hurry or state
            self._gathering.append(pipe)
        if self._gathering:
            self._arm(HURRY if hurry else GATHER)

    def _read(self, pipe: Pipe, pieces: int) -> bool | None:
        """Read up to so many pieces; True if there may be more, False if not, None if there was nothing."""
        parts = []
        for _ in range(pieces):
            try:
                data = os.read(pipe.descriptor, PIECE)
            except BlockingIOError:
                break
            if not data:
                self._end(pipe)
                break
            parts.append(data)
            if len(data) < PIECE:
                # That was all for now.
                break
        if parts:
            pipe.take(b"".join(parts))
        return sum(map(len, parts)) == pieces * PIECE if parts else None

    def _end(self, pipe: Pipe) -> None:
        os.close(pipe.descriptor)
        pipe.ended.set()

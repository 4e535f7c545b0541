# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Speak with a process by lines: one that stays saves the start of one for every question."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import NoReturn

_CHUNK = 1 << 16


class TalkEnded(Exception):  # noqa: N818 - that it ends is no error by itself
    """The process ended. `status`: its exit status; `said`: what it wrote to standard error."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status
        self.said = said

    @property
    def last_line(self) -> str:
        """Return the last line that it wrote to standard error."""
        return (self.said.splitlines() or ["no answer"])[-1]


class Talk:
    """A process with its standard input and output; for one thread at a time. Times are of the monotonic clock."""

    def __init__(self, argv: Sequence[str]) -> None:
        there, self._out = os.pipe()
        self._in, back = os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is open as long as the process
        self._read = bytearray()
        try:
            self._process = subprocess.Popen(list(argv), stdin=there, stdout=back, stderr=self._errors)
        except OSError:
            self._close()
            raise
        finally:
            os.close(there)
            os.close(back)

    def write(self, text: str, deadline: float) -> None:
        """Send text; raises TalkEnded, TimeoutError."""
        raw = text.encode()
        try:
            while raw:
                if not _ready(self._out, deadline - time.monotonic(), write=True):
                    raise TimeoutError
                # No more than a pipe that is ready takes at once.
                raw = raw[os.write(self._out, raw[: select.PIPE_BUF]) :]
        except BrokenPipeError:
            self._raise_ended()

    def line(self, deadline: float) -> str:
        """Return the next line without its end; raises TalkEnded, TimeoutError."""
        while (end := self._read.find(b"\n")) < 0:
            if not _ready(self._in, deadline - time.monotonic()):
                raise TimeoutError
            piece = os.read(self._in, _CHUNK)
            if not piece:
                self._raise_ended()
            self._read += piece
        line = self._read[:end].decode(errors="replace")
        del self._read[: end + 1]
        return line

    def end(self) -> None:
        """End the process here; what it began elsewhere goes on to its end."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        self._errors.close()

    def _raise_ended(self) -> NoReturn:
        status = self._process.wait()
        self._errors.seek(0)
        raise TalkEnded(status, self._errors.read().decode(errors="replace").strip())


def _ready(descriptor: int, seconds: float, *, write: bool = False) -> bool:
    wanted = [descriptor]
    found = select.select([] if write else wanted, wanted if write else [], [], max(0.0, seconds))
    return bool(found[0] or found[1])

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pour what a command on one host writes into a command on another, with a checksum of what went through."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import IO

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host

_CHUNK = 1024 * 1024
_LAST_WORDS = 600


def pour(
    origin: Host,
    argv: Sequence[str],
    goal: Host,
    into: Sequence[str],
    *,
    stdin: str = "",
    told: Callable[[int], None] = lambda _bytes: None,
) -> tuple[str, int, str]:
    """Run `argv` on `origin` with `stdin`, and feed its output to `into` on `goal`.

    `told` gets the bytes so far. Returns the sha256, the bytes, and what `argv` wrote to its standard error.
    Raises MoveError `command_failed` if either side fails; nothing goes on behind it.
    """
    with (
        origin.start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as giving,
        goal.start(into, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as taking,
    ):
        said = [_Listener(giving.stderr), _Listener(taking.stderr)]
        try:
            digest, count = _pump(giving, taking, stdin, told)
        except BaseException:
            giving.kill()
            taking.kill()
            raise
        statuses = giving.wait(), taking.wait()
        texts = [each.text() for each in said]
    for host, command, status, text in zip((origin, goal), (argv, into), statuses, texts, strict=True):
        if status:
            last = text.strip()[-_LAST_WORDS:]
            raise MoveError("command_failed", f"{command[0]} on {host.name} failed (exit {status}): {last}")
    return digest, count, texts[0]


def _pump(
    giving: subprocess.Popen[bytes], taking: subprocess.Popen[bytes], stdin: str, told: Callable[[int], None]
) -> tuple[str, int]:
    digest, count = hashlib.sha256(), 0
    if giving.stdin is None or giving.stdout is None or taking.stdin is None:
        raise ValueError("both commands need pipes")
    giving.stdin.write(stdin.encode())
    giving.stdin.close()
    while chunk := giving.stdout.read(_CHUNK):
        digest.update(chunk)
        count += len(chunk)
        try:
            taking.stdin.write(chunk)
        except BrokenPipeError:
            giving.kill()
            break  # its exit status and its words say why
        told(count)
    try:
        taking.stdin.close()
    except BrokenPipeError:
        taking.stdin = None
    return digest.hexdigest(), count


class _Listener:
    """Reads a stream to its end beside everything else, so that no pipe fills up."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._raw = b""
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        if self._stream is not None:
            self._raw = self._stream.read()

    def text(self) -> str:
        self._thread.join()
        return self._raw.decode(errors="replace")

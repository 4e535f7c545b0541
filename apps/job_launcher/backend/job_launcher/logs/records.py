# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a worker's bytes to records of its run's log: `<unit>.<attempt>|<line>\n`, or `+` for a line not yet ended."""

from __future__ import annotations

LAUNCHER = "0.0"


class Records:
    """Cuts one worker's output into records; what it printed can be put together again byte for byte.

    A `|` record stands for its bytes and a newline, a `+` record for its bytes alone.
    """

    def __init__(self, unit: int, attempt: int, line_cap: int) -> None:
        self._whole = f"{unit}.{attempt}|".encode()
        self._piece = f"{unit}.{attempt}+".encode()
        self._cap = line_cap
        self._rest = b""

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Return (records, their number) that the bytes complete; the beginning of a line is kept for later."""
        head, newline, rest = (self._rest + data).rpartition(b"\n")
        lines = head.split(b"\n") if newline else []
        records = b""
        count = len(lines)
        if lines and max(map(len, lines)) <= self._cap:
            records = self._whole + (b"\n" + self._whole).join(lines) + b"\n"
        elif lines:
            cut = [self._cut(line) for line in lines]
            count = sum(len(pieces) for pieces in cut)
            records = b"".join(piece for pieces in cut for piece in pieces)
        if len(rest) > self._cap:
            pieces, rest = self._split(rest)
            records += b"".join(pieces)
            count += len(pieces)
        self._rest = rest
        return records, count

    def flush(self) -> bytes:
        """Return the kept beginning of a line as a record, b"" if there is none."""
        rest, self._rest = self._rest, b""
        return self._piece + rest + b"\n" if rest else b""

    def _split(self, line: bytes) -> tuple[list[bytes], bytes]:
        """Return (records of whole pieces, the rest of at most the cap)."""
        ends = range(self._cap, len(line), self._cap)
        pieces = [self._piece + line[end - self._cap : end] + b"\n" for end in ends]
        return pieces, line[len(pieces) * self._cap :]

    def _cut(self, line: bytes) -> list[bytes]:
        pieces, rest = self._split(line)
        return [*pieces, self._whole + rest + b"\n"]


def own_lines(text: str) -> bytes:
    """Return the launcher's own words as records."""
    return b"".join(f"{LAUNCHER}|{line}\n".encode(errors="replace") for line in text.splitlines())

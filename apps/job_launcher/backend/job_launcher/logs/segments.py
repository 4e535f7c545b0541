# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Segment files: blocks of the logs of all runs one after the other, and where in them a run's bytes are.

A block is `@<run> <offset> <length> <crc32>\n` and so many bytes, whole lines of that run's log from that offset on.
So a file tells what it holds, and one write serves all runs.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HEADER = re.compile(rb"@([a-z0-9_]{1,40}) (\d{1,18}) (\d{1,18}) ([0-9a-f]{8})\n")
LONGEST_HEADER = 128
PACKED = struct.Struct("<QQQ")
SUFFIX = ".log"


class Extent(NamedTuple):
    """Some bytes of a run's log: their offset in it, their position in the segment, their number."""

    offset: int
    position: int
    length: int

    @property
    def end(self) -> int:
        """Return the offset after the last byte."""
        return self.offset + self.length


class Block(NamedTuple):
    """Bytes of a run's log that go into a segment."""

    run_id: str
    offset: int
    data: bytes


def segment_path(directory: Path, number: int) -> Path:
    """Return the file of a segment."""
    return directory / f"{number:010d}{SUFFIX}"


def segment_numbers(directory: Path) -> list[int]:
    """Return the segments that are there, in order."""
    return sorted(int(path.stem) for path in directory.glob(f"*{SUFFIX}") if path.stem.isdigit())


def encode(blocks: Iterable[Block], position: int) -> tuple[bytes, list[tuple[str, Extent]]]:
    """Return (bytes to write at the position, where each block's data then is)."""
    parts: list[bytes] = []
    placed = []
    for run_id, offset, data in blocks:
        header = f"@{run_id} {offset} {len(data)} {zlib.crc32(data):08x}\n".encode()
        placed.append((run_id, Extent(offset, position + len(header), len(data))))
        parts += (header, data)
        position += len(header) + len(data)
    return b"".join(parts), placed


def scan(path: Path) -> tuple[list[tuple[str, Extent]], int]:
    """Return (where each block's data is, the size up to the last whole block); what follows was torn by a crash."""
    placed = []
    position = 0
    with path.open("rb") as file:
        while match := HEADER.fullmatch(file.readline(LONGEST_HEADER)):
            length = int(match[3])
            data = file.read(length)
            if len(data) != length or zlib.crc32(data) != int(match[4], 16):
                break
            placed.append((match[1].decode(), Extent(int(match[2]), position + len(match[0]), length)))
            position += len(match[0]) + length
    return placed, position


def pack(extents: Sequence[Extent]) -> bytes:
    """Return the extents as the database keeps them."""
    return b"".join(PACKED.pack(*extent) for extent in extents)


def unpack(packed: bytes) -> Iterator[Extent]:
    """Return the extents of `pack`."""
    return (Extent(*each) for each in PACKED.iter_unpack(packed))


def append(descriptor: int, data: bytes, size: int) -> None:
    """Write all of the data at the end, which is `size`; raises OSError with the file as it was before."""
    try:
        written = os.write(descriptor, data)
        while written < len(data):
            written += os.write(descriptor, data[written:])
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def pick(path: Path, extents: Sequence[Extent], start: int, end: int) -> bytes:
    """Return the bytes from offset start to end out of consecutive extents of one segment."""
    with path.open("rb") as file:
        parts = []
        for extent in extents:
            first, last = max(extent.offset, start), min(extent.end, end)
            if first < last:
                file.seek(extent.position + first - extent.offset)
                parts.append(file.read(last - first))
    return b"".join(parts)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a tree of files is, to the last attribute, as one digest that two hosts can compare.

Standard library only: its source is sent to the host. A line per entry says type, mode, owner, group, size, time of
modification, extended attributes (access control lists are among them), and by type the SHA-256 of the content, the
target of a link, the device's number, or the first name of the same file (hard links). The lines go into digests, by
the entry's name into one of BUCKETS, and are forgotten: a million files take no more memory than a directory's names.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

BUCKETS = 256
#: What a host puts on files by itself.
_NOT_OURS = ("security.selinux",)


def summary(path: str) -> dict[str, Any]:
    """Return {"digest", "entries", "bytes" of regular files, "buckets": digests of BUCKETS shares of the entries}."""
    shares = [hashlib.sha256() for _ in range(BUCKETS)]
    count = size = 0
    for name, line, length in _lines(path):
        shares[bucket(name)].update(line)
        count += 1
        size += length
    digests = [share.hexdigest() for share in shares]
    return {
        "digest": hashlib.sha256("".join(digests).encode()).hexdigest(),
        "entries": count,
        "bytes": size,
        "buckets": digests,
    }


def entries(path: str, buckets: Sequence[int], limit: int = 1000) -> dict[str, str]:
    """Return name -> line of up to so many entries in these buckets."""
    found: dict[str, str] = {}
    for name, line, _length in _lines(path):
        if bucket(name) in buckets:
            found[os.fsdecode(name)] = line.decode(errors="surrogateescape")
            if len(found) >= limit:
                break
    return found


def changed_since(path: str, names: Sequence[str], since: float) -> list[str]:
    """Return which of these entries are gone or were changed after that second since 1970."""
    changed = []
    for name in names:
        try:
            found = os.lstat(os.path.join(path, name))  # noqa: PTH118
        except FileNotFoundError:
            changed.append(name)
            continue
        if found.st_ctime >= since:
            changed.append(name)
    return changed


def size(path: str) -> dict[str, int]:
    """Return {"bytes": as they would be read, "allocated": on disk, "entries"} of a tree; hard links count once."""
    seen: set[tuple[int, int]] = set()
    total = allocated = count = 0
    for _name, _full, found in _walk(os.fsencode(path)):
        count += 1
        if stat.S_ISREG(found.st_mode):
            if found.st_nlink > 1:
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            total += found.st_size
            allocated += found.st_blocks * 512
    return {"bytes": total, "allocated": allocated, "entries": count}


def bucket(name: bytes) -> int:
    """Return which share of the entries a name belongs to."""
    return zlib.crc32(name) % BUCKETS


def _lines(path: str) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield name, line and bytes of content of every entry, in an order that depends on the names alone."""
    first_names: dict[tuple[int, int], bytes] = {}
    for name, full, found in _walk(os.fsencode(path)):
        try:
            line, length = _line(name, full, found, first_names)
        except FileNotFoundError:
            continue  # somebody still works in here, and has removed it since it was listed
        yield name, line, length


def _line(
    name: bytes, full: bytes, found: os.stat_result, first_names: dict[tuple[int, int], bytes]
) -> tuple[bytes, int]:
    kind = stat.S_IFMT(found.st_mode)
    fields = [
        repr(name),
        f"{kind:o} {stat.S_IMODE(found.st_mode):04o} {found.st_uid}:{found.st_gid} {found.st_mtime_ns}",
        *_attributes(full),
    ]
    length = 0
    if kind == stat.S_IFLNK:
        fields.append(repr(os.readlink(full)))  # noqa: PTH115
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        fields.append(f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")
    elif kind == stat.S_IFREG:
        inode = (found.st_dev, found.st_ino)
        if found.st_nlink > 1 and inode in first_names:
            fields.append(f"= {first_names[inode]!r}")
        else:
            if found.st_nlink > 1:
                first_names[inode] = name
            length = found.st_size
            fields.append(f"{length} {_content(full)}")
    return ("\t".join(fields) + "\n").encode(errors="surrogateescape"), length


def _content(full: bytes) -> str:
    descriptor = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _attributes(full: bytes) -> list[str]:
    names = sorted(os.listxattr(full, follow_symlinks=False))
    return [f"{name}={os.getxattr(full, name, follow_symlinks=False).hex()}" for name in names if name not in _NOT_OURS]


def _walk(top: bytes) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """Yield (name below the top, full path, status) of the top itself, as b".", and of everything below it."""
    yield b".", top, os.lstat(top)
    levels = [(b"", iter(sorted(os.listdir(top))))]  # noqa: PTH208
    while levels:
        above, names = levels[-1]
        entry = next(names, None)
        if entry is None:
            levels.pop()
            continue
        name = above + entry
        full = os.path.join(top, name)  # noqa: PTH118
        try:
            found = os.lstat(full)
            below = sorted(os.listdir(full)) if stat.S_ISDIR(found.st_mode) else None  # noqa: PTH208
        except FileNotFoundError:
            continue  # as in _lines
        yield name, full, found
        if below is not None:
            levels.append((name + b"/", iter(below)))

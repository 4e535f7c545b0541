# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that keeps room on the data volume, so that a full disk still lets the database say how runs ended."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


class Reserve:
    """Room for the database: taken by the file until the disk is full. Methods are for worker threads."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._given = False

    def keep(self) -> None:
        """Take the room; raises OSError if it isn't there twice, so that what asks for it can go on, too."""
        free = os.statvfs(self._path.parent)
        if self._path.exists() and self._path.stat().st_size == self._size:
            self._given = False
            return
        if free.f_bavail * free.f_frsize < 2 * self._size:
            self._given = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        with self._path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self._size)
        self._given = False

    def give(self) -> None:
        """Give the room to the database."""
        self._given = True
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def require(self) -> None:
        """Return only if the room is kept; raises OSError as long as the disk is full."""
        if self._given:
            self.keep()

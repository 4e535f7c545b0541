# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a server's memory small. Import `socketio` from here."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of glibc's malloc.h
_BIG = 1_048_576

# The client half of engineio comes along, and would load requests where it is installed: 6 MB that nobody uses here.
_BARRED = "requests" not in sys.modules
if _BARRED:
    sys.modules["requests"] = None  # type: ignore[assignment]
import socketio  # noqa: E402

if _BARRED:
    del sys.modules["requests"]

__all__ = ["give_memory_back", "socketio"]


def give_memory_back() -> None:
    """Let big pieces go back to the system when they are freed. By default glibc keeps the 16 MiB that a password
    takes, once for each thread. Other C libraries have no such setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BIG)
        mallopt(_M_ARENA_MAX, 2)

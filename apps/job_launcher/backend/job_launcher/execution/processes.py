# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes by /proc: who belongs to a worker, how large they are, and how to end exactly those.

The launcher is the subreaper of all it starts, so whatever a worker starts stays below the launcher, also after
setsid and a double fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PROC = Path("/proc")
PR_SET_CHILD_SUBREAPER = 36
PAGE = os.sysconf("SC_PAGE_SIZE")
SHARED = 0.015
UNIT_VARIABLE = "LAUNCHER_UNIT_ID"


class Process(NamedTuple):
    """A line of /proc/<pid>/stat: `start` in clock ticks since boot, `rss` in bytes."""

    pid: int
    parent: int
    group: int
    session: int
    state: str
    start: int
    rss: int


def parse_stat(text: str) -> Process:
    """Return the process of a line of /proc/<pid>/stat; its name may hold anything, also `) `."""
    pid, _, rest = text.partition(" (")
    values = rest[rest.rindex(")") + 2 :].split()
    parent, group, session = map(int, values[1:4])
    return Process(int(pid), parent, group, session, values[0], int(values[19]), int(values[21]) * PAGE)


def process(pid: int) -> Process | None:
    """Return the process with this pid, None if there is none."""
    try:
        # Read by hundreds: pathlib and text files would cost three times as much.
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return parse_stat(os.read(descriptor, 4096).decode(errors="replace"))
    except ProcessLookupError:
        return None
    finally:
        os.close(descriptor)


def snapshot() -> dict[int, Process]:
    """Return all processes by pid."""
    found = (process(int(name)) for name in os.listdir(PROC) if name.isdigit())  # noqa: PTH208 # names are enough
    return {each.pid: each for each in found if each}


class Snapshots:
    """Shares snapshots between those who ask at the same time: eight sweeps at once read /proc once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[int, Process] = {}
        self._at = float("-inf")

    def get(self) -> dict[int, Process]:
        """Return all processes, as they were at most SHARED seconds ago.

        Old enough to show an ended one, which costs one more round; never so that a family that is gone in it comes
        back, for only a member could have started another.
        """
        with self._lock:
            if time.monotonic() > self._at + SHARED:
                # The time of its beginning: what it missed is newer than that.
                self._at, self._last = time.monotonic(), snapshot()
            return self._last


def unit_of(pid: int) -> str | None:
    """Return the unit that a process was started for, by its environment; None if that doesn't tell."""
    prefix = f"{UNIT_VARIABLE}=".encode()
    try:
        environment = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((each[len(prefix) :].decode(errors="replace") for each in environment if each.startswith(prefix)), None)


def boot_id() -> str:
    """Return what is another one after each boot."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def key_of(pid: int) -> str | None:
    """Return what finds a process again and no other: boot id, pid and start time."""
    found = process(pid)
    return f"{boot_id()} {found.pid} {found.start}" if found else None


def descendants(processes: Mapping[int, Process], roots: Iterable[int]) -> set[int]:
    """Return the roots that are there and all that descends from them."""
    children: dict[int, list[int]] = {}
    for each in processes.values():
        children.setdefault(each.parent, []).append(each.pid)
    found: set[int] = set()
    left = [pid for pid in roots if pid in processes]
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += children.get(pid, [])
    return found


def send(target: Process, number: signal.Signals) -> None:
    """Signal exactly this process: one that has got its pid since is left alone."""
    try:
        descriptor = os.pidfd_open(target.pid)
    except OSError:
        return
    try:
        now = process(target.pid)
        if now and now.start == target.start:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


class Children:
    """All that this launcher has started itself; what else is its child was left behind by a worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._own: set[int] = set()
        # The subreaper gets who lost its parent; without it setsid would get away.
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")

    def spawn(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own; for a worker thread."""
        with self._lock:
            started = subprocess.Popen(argv, start_new_session=True, **options)
            self._own.add(started.pid)
        return started

    def reap(self, started: subprocess.Popen[bytes]) -> int:
        """Wait for one that has ended; only then can its pid be another's."""
        with self._lock:
            code = started.wait()
            self._own.discard(started.pid)
        return code

    def strays(self, processes: Mapping[int, Process]) -> list[Process]:
        """Return who lost its parent and came to the launcher."""
        me = os.getpid()
        return [each for each in processes.values() if each.parent == me and each.pid not in self._own]

    def reap_strays(self) -> None:
        """Clear away strays that have ended."""
        with self._lock:
            for stray in self.strays(snapshot()):
                if stray.state == "Z":
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(stray.pid, os.WNOHANG)

    def unclaimed(self, processes: Mapping[int, Process], claimed: Callable[[], set[int]]) -> list[Process]:
        """Return strays that hide which unit they belong to: not in `claimed`, and without its environment.

        Only a worker's have a session that isn't the launcher's own.
        """
        mine = os.getsid(0)
        # Under the lock no start is under way, whose process would not be known yet.
        with self._lock:
            hidden = [
                each
                for each in self.strays(processes)
                if each.state not in "ZX" and each.session != mine and unit_of(each.pid) is None
            ]
        known = claimed() if hidden else set()
        return [each for each in hidden if each.pid not in known]

    def family(
        self, unit_id: str, leader: int | None, known: dict[int, int], processes: Mapping[int, Process]
    ) -> list[Process]:
        """Return who belongs to a unit and lives: its session, what descends from it, and its strays.

        `known` (pid -> start) remembers who was seen: one that has since left its session, its parent and its
        environment is still found.
        """
        roots = {each.pid for each in processes.values() if leader is not None and each.session == leader}
        roots |= {each.pid for each in self.strays(processes) if unit_of(each.pid) == unit_id}
        roots |= {pid for pid, start in known.items() if pid in processes and processes[pid].start == start}
        found = [processes[pid] for pid in descendants(processes, roots) if processes[pid].state not in "ZX"]
        known.update((each.pid, each.start) for each in found)
        return found


def marked(units: Iterable[str], processes: Mapping[int, Process]) -> list[Process]:
    """Return who was started for these units, wherever it is now, with all that descends from it."""
    wanted = set(units)
    roots = {pid for pid in processes if unit_of(pid) in wanted}
    return [processes[pid] for pid in descendants(processes, roots) if processes[pid].state not in "ZX"]


def by_key(key: str, processes: Mapping[int, Process]) -> list[Process]:
    """Return the session of the process of `key_of`, if this is the same boot and nobody else has got its pid."""
    boot, pid, start = key.split()
    if boot != boot_id():
        return []
    leader = processes.get(int(pid))
    if leader and leader.start != int(start):
        return []
    return [
        each
        for each in processes.values()
        if each.session == int(pid) and each.start >= int(start) and each.state not in "ZX"
    ]


def kill_all(find: Callable[[], list[Process]], rounds: int, pause: threading.Event) -> list[Process]:
    """SIGKILL whom `find` finds until it finds nobody; returns who is left after so many rounds of 20 ms."""
    left = find()
    for _ in range(rounds):
        if not left:
            break
        for each in left:
            send(each, signal.SIGKILL)
        pause.wait(0.02)
        left = find()
    return left

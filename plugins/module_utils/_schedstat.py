# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run time and run delay of every thread, from /proc/<tid>/schedstat: "run ns, delay ns, times on a CPU".

The delay of a thread is the time it was runnable without running: throttled, or waiting for somebody else on the CPU.
The kernel adds a wait to the counter when it ends, so at both ends of a window up to one wait is on the wrong side.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

# (run ns, delay ns, times put on a CPU) since the thread began
Schedstat = tuple[int, int, int]


@dataclass(frozen=True)
class ThreadShare:
    """One thread inside a window, every field a share of the window's wall time.

    `life`: how long it was followed; `wait`: the mean length of one wait, which is how sharp `delay` is.
    """

    run: float
    delay: float
    life: float = 1.0
    wait: float = 0.0


def parse_schedstat(content: bytes) -> Schedstat:
    """Parse "run delay count"; raises ValueError for anything else."""
    run, delay, count = content.split()
    return int(run), int(delay), int(count)


def read_threads(threads: Iterable[bytes], proc_root: str = "/proc") -> dict[bytes, Schedstat] | None:
    """Read the schedstat of the threads that still exist, None if one exists but must not or can't be read."""
    root = os.fsencode(proc_root)
    stats: dict[bytes, Schedstat] = {}
    for thread in threads:
        # /proc/<tid> also answers for threads that are no process: shorter than /proc/<pid>/task/<tid>.
        try:
            descriptor = os.open(b"%s/%s/schedstat" % (root, thread), os.O_RDONLY)
            try:
                stats[thread] = parse_schedstat(os.read(descriptor, 128))
            finally:
                os.close(descriptor)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except (OSError, ValueError):
            return None
    return stats


def unfollowed(run: float, delay: float) -> ThreadShare:
    """Return a share for what threads did outside any pair of looks, when how long they lived isn't known.

    No idle time is granted to it, so it counts with run + delay. That is the most it can stand for: a thread's term
    life * run / (run + idle) is run + delay * run / (run + idle).
    """
    return ThreadShare(run, delay, run + delay)


@dataclass
class _Track:
    """A thread's counters at the first and the last look at it, with both times in seconds."""

    first: Schedstat
    last: Schedstat
    began: float
    seen: float


class ThreadWindow:
    """Collects looks at one cgroup's threads and turns them into shares of the window.

    A thread is followed from its first look to its last. What it did before the first, if it began inside the window,
    its counters tell; how long it took for that is not known. What it did after its last look is lost to schedstat
    (the estimator notices: its run time is then missing from the cgroup's usage).
    """

    def __init__(self) -> None:
        self._tracks: dict[bytes, _Track] = {}
        self._ended: list[_Track] = []
        self._born_run = self._born_delay = 0
        self._started: float | None = None
        self.looked = 0.0
        self.complete = True

    def look(self, at: float, stats: dict[bytes, Schedstat] | None) -> None:
        """Add a look: `at` in monotonic seconds, `stats` as read_threads gives them (None spoils the window)."""
        if stats is None:
            self.complete = False
            return
        tracks: dict[bytes, _Track] = {}
        for thread, now in stats.items():
            track = self._tracks.pop(thread, None)
            if track is not None and all(new >= old for new, old in zip(now, track.last, strict=True)):
                track.last, track.seen = now, at
            else:
                if track is not None:  # the id was given to a new thread
                    self._ended.append(track)
                self._count_birth(now, at)
                track = _Track(now, now, at, at)
            tracks[thread] = track
        self._ended += self._tracks.values()
        self._tracks = tracks
        self._started = at if self._started is None else self._started
        self.looked = at

    def shares(self) -> list[ThreadShare] | None:
        """Return every thread seen as shares of the window, None before the second look or if a look failed."""
        window = self.length
        if not self.complete or not window:
            return None
        tracks = (*self._ended, *self._tracks.values())
        shares = [_share(track, window) for track in tracks if track.seen > track.began]
        if self._born_run + self._born_delay:
            shares.append(unfollowed(self._born_run / 1e9 / window, self._born_delay / 1e9 / window))
        return shares

    def totals(self) -> tuple[int, int]:
        """Return (run ns, delay ns) of all that shares() counts."""
        tracks = (*self._ended, *self._tracks.values())
        return (
            self._born_run + sum(track.last[0] - track.first[0] for track in tracks),
            self._born_delay + sum(track.last[1] - track.first[1] for track in tracks),
        )

    @property
    def length(self) -> float:
        """Seconds from the first look to the last, 0 before the second."""
        return 0.0 if self._started is None else self.looked - self._started

    def _count_birth(self, now: Schedstat, at: float) -> None:
        # More than fits between two looks: it was moved in from another cgroup, what it did there is not ours.
        if self._started is not None and now[0] + now[1] <= (at - self.looked) * 1e9:
            self._born_run += now[0]
            self._born_delay += now[1]


def _share(track: _Track, window: float) -> ThreadShare:
    run = (track.last[0] - track.first[0]) / 1e9 / window
    delay = (track.last[1] - track.first[1]) / 1e9 / window
    count = track.last[2] - track.first[2]
    # A wait that began before the first look counts whole after it; no life is shorter than what was done in it.
    life = min(1.0, max((track.seen - track.began) / window, run + delay))
    return ThreadShare(run, delay, life, delay / max(1, count))

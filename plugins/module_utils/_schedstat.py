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

    `life`: how long it existed; `wait`: the mean length of one wait, which is how sharp `delay` is.
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


@dataclass
class _Track:
    """A thread's counters when the window (or its life) began and at the last look, with both times in seconds."""

    first: Schedstat
    last: Schedstat
    began: float
    seen: float


class ThreadWindow:
    """Collects looks at one cgroup's threads and turns them into shares of the window.

    A thread that appears between looks began half way between them with counters at zero; one that vanishes ended
    half way to the next look, and what it did after its last look is lost (the estimator notices: its run time is
    then missing from the cgroup's usage).
    """

    def __init__(self) -> None:
        self._tracks: dict[bytes, _Track] = {}
        self._ended: list[_Track] = []
        self._started: float | None = None
        self._looked = 0.0
        self.complete = True

    def look(self, at: float, stats: dict[bytes, Schedstat] | None) -> None:
        """Add a look: `at` in monotonic seconds, `stats` as read_threads gives them (None spoils the window)."""
        if stats is None:
            self.complete = False
            return
        begin = at if self._started is None else (self._looked + at) / 2
        tracks: dict[bytes, _Track] = {}
        for thread, now in stats.items():
            track = self._tracks.pop(thread, None)
            if track is not None and now[0] >= track.last[0] and now[1] >= track.last[1]:
                track.last, track.seen = now, at
            else:
                if track is not None:  # the id was given to a new thread
                    self._end(track, begin)
                track = self._new_track(now, begin, at)
            tracks[thread] = track
        for track in self._tracks.values():
            self._end(track, begin)
        self._tracks = tracks
        self._started = at if self._started is None else self._started
        self._looked = at

    def shares(self) -> list[ThreadShare] | None:
        """Return every thread seen as shares of the window, None before the second look or if a look failed."""
        if not self.complete or self._started is None or self._looked <= self._started:
            return None
        window = self._looked - self._started
        return [_share(track, window) for track in (*self._ended, *self._tracks.values())]

    def _new_track(self, now: Schedstat, begin: float, at: float) -> _Track:
        if self._started is None:
            return _Track(now, now, at, at)
        if now[0] + now[1] > (at - self._looked) * 1e9:
            # Older than the last look: it was moved in from another cgroup, what it did there is not ours.
            return _Track(now, now, at, at)
        return _Track((0, 0, 0), now, begin, at)

    def _end(self, track: _Track, at: float) -> None:
        track.seen = at
        self._ended.append(track)


def _share(track: _Track, window: float) -> ThreadShare:
    run = (track.last[0] - track.first[0]) / 1e9 / window
    delay = (track.last[1] - track.first[1]) / 1e9 / window
    count = track.last[2] - track.first[2]
    # Half a look's uncertainty about birth and death must not make a life shorter than what was done in it.
    life = min(1.0, max((track.seen - track.began) / window, run + delay))
    return ThreadShare(run, delay, life, delay / max(1, count))

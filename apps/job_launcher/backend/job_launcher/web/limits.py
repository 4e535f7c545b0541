# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much one caller may ask: token buckets for requests, counted failures for passwords."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

MAX_KEYS = 10_000


@dataclass(frozen=True)
class Limits:
    """What a server allows. Times are seconds, sizes bytes."""

    requests_per_second: float = 20.0
    request_burst: int = 200
    failures_by_name: int = 10
    failures_by_address: int = 30
    failure_window: float = 300.0
    hashes_waiting: int = 8
    body_size: int = 65_536
    body_seconds: float = 15.0
    sockets_per_user: int = 16
    sockets: int = 200


class Buckets:
    """A token bucket for each key. Keys that were idle longest are forgotten first, so memory is bounded."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take one; 0 if it was there, else the seconds until there is one."""
        now = self._clock()
        level, then = self._buckets.pop(key, (float(self._burst), now))
        level = min(self._burst, level + (now - then) * self._per_second)
        wait = 0.0 if level >= 1 else (1 - level) / self._per_second
        self._buckets[key] = (level if wait else level - 1, now)
        if len(self._buckets) > MAX_KEYS:
            self._buckets.popitem(last=False)
        return wait


class Failures:
    """Attempts of the last `window` seconds by key. An attempt counts when it begins, so that many
    at once can't slip through, and is taken back if it turns out right."""

    def __init__(self, limit: int, window: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, key: str) -> float:
        """Seconds until another attempt is allowed; 0 if it is now."""
        attempts = self._attempts.get(key)
        while attempts and attempts[0] <= self._clock() - self._window:
            attempts.popleft()
        if attempts is None or len(attempts) < self._limit:
            return 0.0
        return attempts[0] + self._window - self._clock()

    def begin(self, key: str) -> None:
        """Count an attempt."""
        attempts = self._attempts.setdefault(key, deque())
        attempts.append(self._clock())
        self._attempts.move_to_end(key)
        if len(self._attempts) > MAX_KEYS:
            self._attempts.popitem(last=False)

    def forgive(self, key: str) -> None:
        """The last attempt was right: it doesn't count."""
        attempts = self._attempts.get(key)
        if attempts:
            attempts.pop()


def retry_after(seconds: float) -> dict[str, str]:
    """The header that says when to come again."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}

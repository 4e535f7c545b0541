# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A second opinion on throttling: what the kernel shows of threads that it stopped on their way to user mode (6.18)."""

from __future__ import annotations

import random
import threading
from pathlib import Path

from lab.limited import LimitedGroup

_ODD = random.Random(1)  # noqa: S311 - odd times, not secrets


class Stacks:
    """Samples how many of a group's threads are throttled, at odd times: a fixed grid would follow the periods."""

    def __init__(self, group: LimitedGroup) -> None:
        self._group = group
        self._counts: list[int] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Stacks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def mean(self) -> float | None:
        """Throttled threads on average, None where stacks don't show them."""
        return sum(self._counts) / len(self._counts) if any(self._counts) else None

    def _sample(self) -> None:
        while not self._done.wait(_ODD.uniform(0.01, 0.05)):
            stacks = [Path(f"/proc/{process}/stack").read_text() for process in self._group.processes]
            self._counts.append(sum("task_work_run" in stack for stack in stacks))

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an executor is: it runs one attempt of a unit, wherever that is, and gives back how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from job_launcher.templates import Template

#: The reason of an ending that `stop` asked for.
STOPPED = "stopped"


@dataclass(frozen=True)
class Job:
    """One attempt of a unit. Times in s; `limits` has each of templates.LIMITS, 0 is no limit."""

    run_id: str
    unit_id: str
    number: int
    attempt: int
    worker: int
    template: Template
    argv: Sequence[str]
    env: Mapping[str, str]
    timeout: float
    idle_timeout: float
    term_grace: float
    limits: Mapping[str, int] = field(default_factory=dict)

    def contract(self) -> dict[str, str]:
        """Return the contract's variables, without that of the report pipe."""
        return {
            "LAUNCHER_RUN_ID": self.run_id,
            "LAUNCHER_UNIT_ID": self.unit_id,
            "LAUNCHER_WORKER_NO": str(self.worker),
        }


@dataclass(frozen=True)
class Ending:
    """How an attempt ended. `reason` is set if the launcher ended it or couldn't start it: it has failed then."""

    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None


class Sink(Protocol):
    """Where an attempt's output and reports go. All methods are called in the loop."""

    def started(self, key: str) -> None:
        """Keep what finds the attempt again after a crash of the launcher."""

    def output(self, data: bytes) -> None:
        """Take bytes that the worker printed, as they came."""

    def reported(self, data: bytes) -> None:
        """Take bytes of the worker's reports, as they came."""

    def quiet(self) -> None:
        """Nothing has come for a while: show a line that isn't ended yet."""

    def full(self) -> bool:
        """Whether output must wait, because the log can't take it now."""


class Executor(Protocol):
    """Runs attempts; `run` may be called many times at once."""

    async def run(self, job: Job, sink: Sink, stop: asyncio.Event) -> Ending:
        """Run an attempt to its end, and end it when `stop` is set; nothing of it is left running then."""

    async def recover(self, left: Mapping[str, str | None]) -> None:
        """End what an earlier launcher left running: unit id -> what `Sink.started` got, None if it came not so far."""

    async def close(self) -> None:
        """Give everything back; no attempt runs any more."""

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine: runs, units, numbers and the ledger behind one class, which the web layer and the CLI talk to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from job_launcher.model import Balance, Banner, Event, LedgerEntry, Page, Run
from job_launcher.templates import Template
from job_launcher.tunables import Tunables

Listener = Callable[[Event], None]


@dataclass(frozen=True)
class EngineConfig:
    """What an engine needs. `cpu_quota` (CPUs) and `memory_limit` (bytes): None takes the machine's or cgroup's."""

    data_dir: Path
    templates: Mapping[str, Template]
    tunables: Tunables = field(default_factory=Tunables)
    cpu_quota: float | None = None
    memory_limit: int | None = None


class Engine:
    """Everything but the web. All methods are for the event loop that `start` ran in.

    Methods raise Refused for what a caller got wrong, and for what can't be done now (status 503).
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        #: (workers at once over all runs, what bounds it)
        self.effective_limit: tuple[int, str] = (1, "max_parallel_limit")
        #: Another one after each start: a client that sees a new one reads the end of its logs anew.
        self.instance = ""

    async def start(self) -> None:
        """Lock the data directory, recover what an earlier end left, begin to work. Raises Refused if it is in use."""
        raise NotImplementedError

    async def drain(self, timeout: float | None = None) -> None:
        """Start nothing more; wait for running units; end those that are left after drain_timeout."""
        raise NotImplementedError

    async def stop(self) -> None:
        """End what runs, write everything, unlock. Units ended by it are tried again or failed at the next start."""
        raise NotImplementedError

    async def start_run(
        self,
        owner: str,
        template: str,
        total: int,
        max_parallel: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> tuple[Run, bool]:
        """Check, hold the credits, queue the units; returns (run, True), or (the run of the same key, False)."""
        raise NotImplementedError

    async def stop_run(self, run_id: str, by: str) -> Run:
        """Begin to stop a run; one that has ended stays as it is."""
        raise NotImplementedError

    async def get_run(self, run_id: str) -> Run:
        """Return a run; Refused 404 if there is none."""
        raise NotImplementedError

    async def list_runs(
        self, owner: str | None, status: str | None = None, before: str | None = None, limit: int = 50
    ) -> Page:
        """Return runs, the newest first; owner None: everyone's."""
        raise NotImplementedError

    async def units(self, run_id: str, after: str | None = None, limit: int = 200) -> Page:
        """Return a run's units by their number."""
        raise NotImplementedError

    async def read_log(self, run_id: str, start: int, limit: int) -> tuple[bytes, int, int]:
        """Return (bytes from `start`, the next offset, the log's size). What retention has removed is skipped:
        the bytes then end at the next offset, which is later than start + their number."""
        raise NotImplementedError

    def download_log(self, run_id: str) -> AsyncIterator[bytes]:
        """Return the whole log in pieces, up to its size when it began."""
        raise NotImplementedError

    async def balance(self, owner: str) -> Balance:
        """Return an owner's balance; nothing yet is 0."""
        raise NotImplementedError

    async def ledger(self, owner: str, before: str | None = None, limit: int = 50) -> Page:
        """Return ledger entries, the newest first."""
        raise NotImplementedError

    async def credit(self, owner: str, amount: int, by: str, reason: str) -> LedgerEntry:
        """Add credits."""
        raise NotImplementedError

    async def numbers(
        self, owner: str | None, status: str | None = None, before: str | None = None, limit: int = 50
    ) -> Page:
        """Return numbers, the newest first; owner None: everyone's."""
        raise NotImplementedError

    async def retry_number(self, number_id: str, by: str, owner: str | None = None) -> None:
        """Release a held or dead number anew, as soon as its hold allows; another owner's is a 404."""
        raise NotImplementedError

    async def drop_number(self, number_id: str, by: str, reason: str) -> None:
        """Call a number released without its hook: someone has released it by hand."""
        raise NotImplementedError

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call the listener in the loop for each event until the returned function is called. It must not block."""
        raise NotImplementedError

    def banner(self) -> Banner | None:
        """Return what everyone should know now."""
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        """Return {banner, running_units, queued_units, numbers, draining}, numbers of all owners."""
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """Return counters (names end in _total) and gauges."""
        raise NotImplementedError

    async def check(self) -> None:
        """Write to and read from the database; raises Refused 503 if that fails."""
        raise NotImplementedError

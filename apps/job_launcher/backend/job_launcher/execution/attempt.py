# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One attempt of a unit: what its worker prints and reports, and what follows from how it ended."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, Protocol

from job_launcher.execution.executor import Ending, Job
from job_launcher.execution.reports import Reports
from job_launcher.logs.records import Records, own_lines
from job_launcher.store.runs import Outcome
from job_launcher.tunables import Tunables


class Desk(Protocol):
    """What an attempt hands on."""

    def log(self, run_id: str, records: bytes, lines: int) -> None:
        """Add records to the run's log."""

    def log_full(self) -> bool:
        """Whether output must wait."""

    def note_process(self, unit_id: str, key: str) -> None:
        """Keep what finds the worker again."""

    def acquired(self, job: Job, number: str) -> None:
        """Take the lease of a number into the queue."""

    def progressed(self, job: Job, report: dict[str, Any]) -> None:
        """Show how far a worker is."""

    def found_none(self) -> None:
        """A worker found no free number."""


class Attempt:
    """The sink of one attempt (`executor.Sink`)."""

    def __init__(self, job: Job, desk: Desk, tunables: Tunables) -> None:
        self.job = job
        self._desk = desk
        self._records = Records(job.number, job.attempt, tunables.log_line_cap)
        self.reports = Reports(tunables.report_max_size, tunables.report_max_count)
        self._numbers = 0

    def started(self, key: str) -> None:
        """Keep what finds the worker again."""
        self._desk.note_process(self.job.unit_id, key)

    def output(self, data: bytes) -> None:
        """Take bytes that the worker printed."""
        records, lines = self._records.feed(data)
        if records:
            self._desk.log(self.job.run_id, records, lines)

    def quiet(self) -> None:
        """Show a line that isn't ended yet."""
        records = self._records.flush()
        if records:
            self._desk.log(self.job.run_id, records, 1)

    def full(self) -> bool:
        """Whether output must wait."""
        return self._desk.log_full()

    def reported(self, data: bytes) -> None:
        """Take bytes of the worker's reports."""
        self._read(lambda: self.reports.feed(data))

    def close(self) -> None:
        """Take what is left once the worker has ended."""
        self.quiet()
        self._read(self.reports.close)

    def say(self, text: str) -> None:
        """Write the launcher's own words into the log."""
        records = own_lines(f"unit {self.job.number} attempt {self.job.attempt}: {text}")
        self._desk.log(self.job.run_id, records, records.count(b"\n"))

    def _read(self, read: Callable[[], list[str]]) -> None:
        had_none, progress = self.reports.no_numbers, self.reports.progress
        for complaint in read():
            self.say(complaint)
        fresh = self.reports.numbers[self._numbers :]
        self._numbers += len(fresh)
        for number in fresh:
            if self.job.template.needs_numbers:
                self._desk.acquired(self.job, number)
            else:
                self.say("a number was reported, and the template doesn't need any: ignored")
        if self.reports.progress != progress and self.reports.shown:
            self._desk.progressed(self.job, self.reports.shown)
        if self.reports.no_numbers and not had_none:
            self._desk.found_none()


def outcome(ending: Ending, reports: Reports, *, stopping: bool) -> Outcome:
    """Return how an attempt that ended so is judged; `stopping`: someone has stopped its run."""
    code, number, report = ending.exit_code, ending.signal, reports.shown
    if ending.reason is not None:
        return Outcome("stopped" if stopping else "failed", code, number, ending.reason, report)
    if reports.success if reports.success is not None else code == 0:
        return Outcome("succeeded", code, number, None, report)
    return Outcome("failed", code, number, _reason(ending, reports), report)


def _reason(ending: Ending, reports: Reports) -> str:
    if reports.success is False:
        return "the worker reported a failure"
    if reports.no_numbers:
        return "the worker found no free number"
    if ending.signal is not None:
        return f"killed by {_signal_name(ending.signal)}"
    return f"ended with exit code {ending.exit_code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A long run's events: written by a module as JSON lines, turned into lines for people on the controller."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

#: Takes an event's name and its details.
EventWriter = Callable[[str, Mapping[str, Any]], None]

# What the events' names say, and whether such an event ends a service's turn.
_WORDS = {
    "update_started": "changing",
    "update_converged": "converged",
    "update_failed": "FAILED",
    "restore_started": "putting back",
    "restore_converged": "put back",
    "restore_failed": "could NOT be put back",
    "waiting_for_earlier_update": "waiting for an update that was already under way",
}
_ENDS = frozenset({"update_converged", "update_failed"})


def event_writer(handle: TextIO | None) -> EventWriter:
    """Return a function that appends events to an open file, if there is one; times are seconds since the epoch."""

    def write(name: str, details: Mapping[str, Any]) -> None:
        if handle is not None:
            handle.write(json.dumps({"time": round(time.time(), 3), "event": name, **details}) + "\n")
            handle.flush()

    return write


def progress_argument_spec() -> dict[str, Any]:
    """Return the options of a module that tells its progress, as the documentation fragment `progress` has them."""
    return {"progress": {"type": "bool", "default": False}, "progress_file": {"type": "path"}}


class Progress(ABC):
    """Reads a growing file of JSON lines; remembers how far it has read."""

    def __init__(self, host: str) -> None:
        self.host = host
        # Lines, not bytes: a terminal on the way puts a carriage return before each newline.
        self.lines_read = 0

    def read(self, text: str) -> Iterator[str]:
        """Yield a line for each whole event in text, which begins `lines_read` lines into the file."""
        whole, _, _ = text.rpartition("\n")
        for line in whole.splitlines():
            self.lines_read += 1
            said = self.line(json.loads(line))
            if said:
                yield f"{self.host}: {said}"

    @abstractmethod
    def line(self, event: dict[str, Any]) -> str | None:
        """Return what to say of an event, None for nothing."""


class LimitsProgress(Progress):
    """The progress of service_limits: counts how many services are done."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self._done = 0
        self._all = 0

    def line(self, event: dict[str, Any]) -> str | None:
        """Return what becomes of a service."""
        name = event["event"]
        if name == "begin":
            self._all = len(event["services"])
            return f"{self._all} {'service' if self._all == 1 else 'services'} to bring where the table wants them"
        if name not in _WORDS:
            return None
        self._done += name in _ENDS
        parts = [f"{event['service']} {_WORDS[name]}"]
        if "seconds" in event:
            parts.append(f"after {event['seconds']:.1f} s")
        if name in _ENDS:
            parts.append(f"({self._done} of {self._all})")
        if "error" in event:
            parts.append(f"- {event['error']}")
        return " ".join(parts)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn the events of a progress file into lines for people, without I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

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


class Progress:
    """Reads a growing file of JSON lines; remembers how far it has read and how many services are done."""

    def __init__(self, host: str) -> None:
        self.host = host
        # Lines, not bytes: a terminal on the way puts a carriage return before each newline.
        self.lines_read = 0
        self._done = 0
        self._all = 0

    def read(self, text: str) -> Iterator[str]:
        """Yield a line for each whole event in text, which begins `lines_read` lines into the file."""
        whole, _, _ = text.rpartition("\n")
        for line in whole.splitlines():
            self.lines_read += 1
            said = self._line(json.loads(line))
            if said:
                yield f"{self.host}: {said}"

    def _line(self, event: dict[str, Any]) -> str | None:
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

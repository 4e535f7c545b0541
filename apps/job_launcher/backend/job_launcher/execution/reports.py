# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What workers report: JSON lines, bounded in size and number; anything else is said in the log and ignored."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

NUMBER_LENGTH = 256
#: Ignored reports that the log mentions one by one.
MENTIONED = 5


@dataclass
class Reports:
    """Reads one attempt's reports and keeps what they say."""

    longest: int
    most: int
    numbers: list[str] = field(default_factory=list)
    no_numbers: bool = False
    success: bool | None = None
    data: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    taken: int = 0
    ignored: int = 0
    _rest: bytes = b""
    _skipping: bool = False

    def feed(self, data: bytes) -> list[str]:
        """Take bytes as they came; returns what the log should say about ignored ones."""
        *lines, rest = (self._rest + data).split(b"\n")
        complaints = []
        for line in lines:
            if self._skipping:
                self._skipping = False
            elif line.strip():
                complaints += self._line(line)
        self._rest = b"" if self._skipping else rest
        if len(self._rest) > self.longest:
            self._skipping, self._rest = True, b""
            complaints += self._ignore(f"longer than {self.longest} bytes")
        return complaints

    def close(self) -> list[str]:
        """Take a last line without its newline."""
        return self.feed(b"\n") if self._rest else []

    @property
    def shown(self) -> dict[str, Any] | None:
        """Return what the unit shows as its report."""
        if self.success is not None:
            return {"success": self.success, "data": self.data or {}}
        return None if self.progress is None else {"progress": self.progress}

    def _line(self, line: bytes) -> list[str]:
        if len(line) > self.longest:
            return self._ignore(f"longer than {self.longest} bytes")
        if self.taken >= self.most:
            return self._ignore(f"one more than {self.most}")
        self.taken += 1
        try:
            report = json.loads(line)
            # NaN and the infinities are no JSON for others.
            json.dumps(report, allow_nan=False)
        except (ValueError, RecursionError):
            return self._ignore("not JSON")
        return [] if isinstance(report, dict) and self._known(report) else self._ignore("not one of the contract's")

    def _known(self, report: dict[str, Any]) -> bool:
        kind = report.get("type")
        if kind == "acquired" and _number(report.get("number")):
            self.numbers.append(report["number"])
        elif kind == "no_numbers":
            self.no_numbers = True
        elif kind == "progress" and _count(report.get("done")) and _count(report.get("of")):
            self.progress = {"done": report["done"], "of": report["of"]}
        elif kind == "result" and isinstance(report.get("success"), bool) and isinstance(report.get("data", {}), dict):
            self.success, self.data = report["success"], report.get("data", {})
        else:
            return False
        return True

    def _ignore(self, why: str) -> list[str]:
        self.ignored += 1
        return [f"a report was ignored: {why}"] if self.ignored <= MENTIONED else []


def _number(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NUMBER_LENGTH and value.isprintable()


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53

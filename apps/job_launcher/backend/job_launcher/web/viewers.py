# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What waits for push clients: the last bytes of each watched run, and for each client its offsets and states."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from job_launcher.model import Event
from job_launcher.web.channel import Channel
from job_launcher.web.routes import Principal


class Tail:
    """The last bytes of a run's log, at most `limit` and one event, kept once for all who watch it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self.end = 0
        self.viewers: set[str] = set()

    @property
    def start(self) -> int:
        """The offset of the first byte kept."""
        return self.end - self._size

    def add(self, offset: int, piece: bytes) -> None:
        """Keep the bytes that begin at `offset`. After a gap all that was before it is let go."""
        if offset != self.end:
            self._pieces.clear()
            self._size = 0
        self._pieces.append(piece)
        self._size += len(piece)
        self.end = offset + len(piece)
        while self._size - len(self._pieces[0]) >= self._limit:
            self._size -= len(self._pieces.popleft())

    def since(self, offset: int) -> bytes | None:
        """The bytes from `offset` to the end; None if they aren't all here."""
        if offset >= self.end:
            return b""
        if offset < self.start:
            return None
        wanted, found = self.end - offset, []
        for piece in reversed(self._pieces):
            found.append(piece[-wanted:] if wanted < len(piece) else piece)
            wanted -= len(found[-1])
            if not wanted:
                break
        return b"".join(reversed(found))


@dataclass(eq=False)
class Viewer:
    """One connection. `offsets`: by run, the next byte to send; `lagged`: where to pull from."""

    sid: str
    principal: Principal
    channel: Channel
    offsets: dict[str, int] = field(default_factory=dict)
    lagged: dict[str, int] = field(default_factory=dict)
    states: dict[tuple[str, str], Any] = field(default_factory=dict)

    def may_see(self, event: Event) -> bool:
        """Owners see their own; admins see everyone's but balances; what has no owner is for all."""
        if event.owner is None or event.owner == self.principal.name:
            return True
        return self.principal.admin and event.kind != "balance"

    def note(self, event: Event, data: Any) -> None:
        """Keep a state until it is sent; an older one of the same thing is forgotten."""
        of = event.data["id"] if event.kind in ("run", "unit") else ""
        self.states.pop((event.kind, of), None)
        self.states[event.kind, of] = data

    def waiting(self, tails: Mapping[str, Tail]) -> bool:
        """Whether there is anything to send."""
        return bool(
            self.states
            or self.lagged
            or any(run_id in tails and tails[run_id].end > offset for run_id, offset in self.offsets.items())
        )

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of a unit: what was intended and what came of it, one JSON object a line, on disk before it is acted on.

What is observed beats the journal: it decides nothing that can be looked at. It keeps what can't be: values of before
the move, the order of events, and whether a promotion was intended.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError

STATE = Path("/var/lib/evenkeel/migration")
#: A move was taken back or completed: what was before is past.
ENDED = "ended"
MARKS = FENCED, UNFENCED, PROMOTION = "fenced", "unfenced", "promotion_intended"
_OWN = frozenset({"at", "verb", "event"})


class Journal:
    """One unit's journal, on the manager. `verb` stands in every line that this run writes. For several threads."""

    def __init__(self, unit: str, verb: str, directory: Path = STATE, *, read_only: bool = False) -> None:
        self.path = directory / unit / "journal.jsonl"
        self.verb = verb
        self.read_only = read_only
        self._lock = threading.Lock()
        self._capturing = threading.RLock()
        self._entries = self._read()

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Return everything written so far, oldest first."""
        with self._lock:
            return list(self._entries)

    def intent(self, step: str) -> None:
        """Write down that a step begins."""
        self.write("intent", step=step)

    def outcome(self, step: str, event: str, details: Mapping[str, Any]) -> None:
        """Write down what came of a step."""
        self.write(event, step=step, **details)

    def write(self, event: str, **data: Any) -> None:
        """Append an entry and wait until it is on disk. No secrets: whoever reads a backup reads this.

        Raises ValueError for data that would take the place of what every entry says.
        """
        taken = _OWN.intersection(data)
        if taken:
            raise ValueError(f"{event}: {', '.join(sorted(taken))} stands in every entry and means something else")
        if self.read_only:
            return
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        entry = {"at": at, "verb": self.verb, "event": event, **data}
        with self._lock:
            self._append(entry)
            self._entries.append(entry)

    def before(self, key: str, capture: Callable[[], Any]) -> Any:
        """Return a value (JSON) of before the move: captured on the first call, later as written down then."""
        with self._capturing:  # of two threads that ask at once, one captures
            found = self.last("before", key=key)
            if found is not None:
                return found["value"]
            value = capture()
            self.write("before", key=key, value=value)
            return value

    def last(self, event: str, **data: Any) -> dict[str, Any] | None:
        """Return the newest entry of that event whose data agree, None if there is none since the last move ended."""
        entry: dict[str, Any]
        for entry in reversed(self.entries):
            if entry["event"] == ENDED:
                return None
            if entry["event"] == event and all(entry.get(key) == value for key, value in data.items()):
                return entry
        return None

    def fence(self, arm: Callable[[], None], **data: Any) -> None:
        """Arm the deadline's watcher, then write the fence down; under the lock, so that no watcher acts in between."""
        with exclusive(self.path.with_name("promotion.lock")):
            arm()
            self.write(FENCED, **data)

    def unfence(self) -> bool:
        """Take the right to promote away; returns False if it was used already: then the unit only goes forward."""
        with exclusive(self.path.with_name("promotion.lock")):
            last = self._last_mark()
            if last == FENCED:
                self.write(UNFENCED)
            return last != PROMOTION

    def claim_promotion(self) -> None:
        """Write the promotion's intent, unless the unit was given back (see unfence).

        Raises MoveError `deadline_passed`. Whoever of the two comes first under the lock wins; the other sees it.
        """
        with exclusive(self.path.with_name("promotion.lock")):
            last = self._last_mark()
            if last == PROMOTION:
                return
            if last != FENCED:
                message = "the deadline passed and the unit was given back to its source; nothing was promoted"
                raise MoveError("deadline_passed", f"{message}: run switch again")
            self.write(PROMOTION)

    def _last_mark(self) -> str | None:
        """Return the last of the marks about the fence, on a fresh read: another process may have written it."""
        with self._lock:
            self._entries = self._read()
        return last_mark(self)

    def _append(self, entry: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # A line that a kill cut off must not swallow this one.
            size = os.fstat(descriptor).st_size
            cut_off = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, (("\n" if cut_off else "") + json.dumps(entry) + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read(self) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError):
            return parse(self.path.read_text(encoding="utf-8", errors="replace"))
        return []


def last_mark(journal: Journal) -> str | None:
    """Return the last of the marks about the fence in what this process knows."""
    return next((entry["event"] for entry in reversed(journal.entries) if entry["event"] in MARKS), None)


def of_this_fence(journal: Journal, event: str, **data: Any) -> dict[str, Any] | None:
    """Return the newest entry of that event as `Journal.last` does, None if it is of an earlier fence.

    A fence ends when the unit is given back, or when the next begins after its promotion: clients write in between. A
    switch that was killed and is run again goes on behind its first fence.
    """
    found, entries = journal.last(event, **data), journal.entries
    if found is None:
        return None
    marks = [entry["event"] for entry in entries[entries.index(found) :] if entry["event"] in MARKS]
    promoted = marks.index(PROMOTION) if PROMOTION in marks else len(marks)
    return None if UNFENCED in marks or FENCED in marks[promoted:] else found


def open_moves(directory: Path, *, but: str) -> list[str]:
    """Return the units, without one, whose move has begun and not ended by cancel or complete."""
    found = []
    for path in sorted(directory.glob("*/journal.jsonl")):
        entries = Journal(path.parent.name, "", directory, read_only=True).entries
        if path.parent.name != but and entries and entries[-1]["event"] != ENDED:
            found.append(path.parent.name)
    return found


def parse(text: str) -> list[dict[str, Any]]:
    """Return the entries of a journal's text; a line that a kill cut off is none."""
    entries = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and "event" in entry:
                entries.append(entry)
    return entries


@contextlib.contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that the kernel gives back when this process ends, however it ends. Its file goes with it.

    Without `wait` raises MoveError `locked` if somebody else has it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = _locked(path, wait=wait)
    try:
        yield
    finally:
        # Only who holds the lock removes its file, so this is the one that it holds.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _locked(path: Path, *, wait: bool) -> int:
    """Return a descriptor that holds the lock of the file that is at the path now."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            message = (
                "another move is under way on this Swarm: one at a time; wait for it, or look at it with verb=status"
            )
            raise MoveError("locked", message) from error
        # Who had it before has removed its file, and others lock the next one.
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False

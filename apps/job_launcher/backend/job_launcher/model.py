# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the launcher speaks of: runs, units, balances, ledger entries, numbers, events; and each as JSON.

Times are milliseconds since the epoch here and ISO 8601 in JSON; amounts are whole credits.
"""

from __future__ import annotations

import base64
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

RUN_STATUSES = ("queued", "running", "stopping", "succeeded", "partly", "failed", "stopped")
ACTIVE = ("queued", "running", "stopping")
UNIT_STATUSES = ("waiting", "running", "succeeded", "failed", "stopped")
LEDGER_KINDS = ("credit", "hold", "capture", "release")
NUMBER_STATUSES = ("held", "releasing", "released", "dead")
EVENT_KINDS = ("run", "unit", "balance", "log", "numbers", "banner")

Json = dict[str, Any]


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def iso(at: int | None) -> str | None:
    """Return a time as ISO 8601 in UTC with milliseconds; None stays None."""
    if at is None:
        return None
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_id(prefix: str) -> str:
    """Return a fresh id: the prefix, `_`, 20 characters of base32 (100 random bits)."""
    return f"{prefix}_{base64.b32encode(secrets.token_bytes(13)).decode()[:20].lower()}"


@dataclass(frozen=True)
class Counts:
    """How many units of a run are where; `retried` counts attempts that were tried again."""

    waiting: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    stopped: int = 0
    retried: int = 0

    def to_json(self) -> Json:
        """Return the counts by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class Run:
    """`total` units of one template, `max_parallel` at a time; `price` is of one unit."""

    id: str
    owner: str
    template: str
    title: str
    status: str
    total: int
    max_parallel: int
    parameters: Json
    counts: Counts
    price: int
    held: int
    captured: int
    created_at: int
    started_at: int | None
    ended_at: int | None
    log_size: int
    message: str | None

    def to_json(self) -> Json:
        """Return the shape of the API and of push."""
        return {
            **vars(self),
            "counts": self.counts.to_json(),
            "created_at": iso(self.created_at),
            "started_at": iso(self.started_at),
            "ended_at": iso(self.ended_at),
        }


@dataclass(frozen=True)
class Unit:
    """One worker execution; the last attempt is shown."""

    id: str
    run_id: str
    number: int
    attempt: int
    worker: int | None
    status: str
    exit_code: int | None
    signal: int | None
    reason: str | None
    lease: str | None
    started_at: int | None
    ended_at: int | None
    report: Json | None

    def to_json(self) -> Json:
        """Return the shape of the API and of push."""
        return {**vars(self), "started_at": iso(self.started_at), "ended_at": iso(self.ended_at)}


@dataclass(frozen=True)
class Balance:
    """Credits of one owner: all, and those that running units may still take."""

    total: int
    held: int

    def to_json(self) -> Json:
        """Return the shape of the API and of push."""
        return {"total": self.total, "held": self.held, "available": self.total - self.held}


@dataclass(frozen=True)
class LedgerEntry:
    """One line of the ledger, never changed once written."""

    id: int
    at: int
    owner: str
    kind: str
    amount: int
    run_id: str | None
    unit_id: str | None
    by: str
    reason: str | None
    total_after: int
    held_after: int

    def to_json(self) -> Json:
        """Return the shape of the API."""
        values = {**vars(self), "at": iso(self.at)}
        del values["owner"]
        return values


@dataclass(frozen=True)
class Number:
    """A leased number on its way to be released."""

    id: str
    owner: str
    value: str
    run_id: str
    unit_id: str
    template: str
    status: str
    acquired_at: int
    release_after: int
    attempts: int
    next_try_at: int | None
    last_error: str | None

    def to_json(self) -> Json:
        """Return the shape of the API."""
        values = {
            **vars(self),
            "acquired_at": iso(self.acquired_at),
            "release_after": iso(self.release_after),
            "next_try_at": iso(self.next_try_at),
        }
        del values["owner"], values["template"]
        return values


@dataclass(frozen=True)
class Banner:
    """What everyone should know now; kind: no_numbers, draining, degraded."""

    kind: str
    message: str
    since: int

    def to_json(self) -> Json:
        """Return the shape of the API and of push."""
        return {**vars(self), "since": iso(self.since)}


@dataclass(frozen=True)
class Event:
    """Something that happened. `data` by kind.

    run: Run.to_json(); unit: Unit.to_json(); balance: Balance.to_json(); numbers: {held, releasing, dead};
    banner: {"banner": Banner.to_json() or None}; log: {"offset": of its first byte, "data": bytes}.
    numbers of one owner; banner is for everyone: owner and run_id are None.
    """

    kind: str
    owner: str | None
    run_id: str | None
    data: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """Some items, and the cursor for more (None: no more)."""

    items: list[Any]
    next: str | None

    def to_json(self) -> Json:
        """Return the shape of the API."""
        return {"items": [item.to_json() for item in self.items], "next": self.next}

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The margin balance: an append-only ledger by owner. Every function runs inside a transaction of its caller.

A run holds price x total when it is made; each unit then takes its price out of the hold, once: captured (the total
shrinks, too) or released. So held_after is what running and waiting units may still take, and total_after never
falls below it.
"""

from __future__ import annotations

import sqlite3

from job_launcher.model import Balance, LedgerEntry, Page, now_ms
from job_launcher.refused import Refused
from job_launcher.store.pages import cursor, page

MOST_CREDITS = 10**15


def balance(connection: sqlite3.Connection, owner: str) -> Balance:
    """Return an owner's balance: that after the last entry."""
    row = connection.execute(
        "SELECT total_after, held_after FROM ledger WHERE owner = ? ORDER BY id DESC LIMIT 1", (owner,)
    ).fetchone()
    return Balance(row["total_after"], row["held_after"]) if row else Balance(0, 0)


def credit(connection: sqlite3.Connection, owner: str, amount: int, by: str, reason: str) -> LedgerEntry:
    """Add credits; raises Refused for an amount that isn't a positive whole number."""
    if isinstance(amount, bool) or not isinstance(amount, int) or not 0 < amount <= MOST_CREDITS:
        raise Refused("amount", f"must be a whole number from 1 to {MOST_CREDITS}")
    now = balance(connection, owner)
    if now.total + amount > MOST_CREDITS:
        raise Refused("amount", f"would raise the balance above {MOST_CREDITS}", 409)
    return _append(connection, owner, "credit", amount, Balance(now.total + amount, now.held), by=by, reason=reason)


def hold(connection: sqlite3.Connection, owner: str, amount: int, run_id: str, by: str) -> None:
    """Hold a run's whole price; raises Refused 402 if the available credits don't cover it. 0 writes nothing."""
    if amount == 0:
        return
    now = balance(connection, owner)
    available = now.total - now.held
    if amount > available:
        raise Refused("total", f"costs {amount} credits, and {available} are available", 402)
    _append(connection, owner, "hold", amount, Balance(now.total, now.held + amount), by=by, run_id=run_id)


def settle(connection: sqlite3.Connection, run_id: str, unit_id: str, *, success: bool, reason: str | None) -> None:
    """Capture (success) or release a unit's price. A second time for one unit raises sqlite3.IntegrityError."""
    run = connection.execute("SELECT owner, price FROM runs WHERE id = ?", (run_id,)).fetchone()
    amount = run["price"]
    if amount == 0:
        return
    now = balance(connection, run["owner"])
    after = Balance(now.total - amount if success else now.total, now.held - amount)
    kind = "capture" if success else "release"
    _append(connection, run["owner"], kind, amount, after, by="launcher", run_id=run_id, unit_id=unit_id, reason=reason)


def entries(connection: sqlite3.Connection, owner: str, before: str | None, limit: int) -> Page:
    """Return the entries of an owner, the newest first."""
    rows = connection.execute(
        "SELECT * FROM ledger WHERE owner = ? AND id < ? ORDER BY id DESC LIMIT ?",
        (owner, cursor("before", before), limit + 1),
    ).fetchall()
    return page(rows, limit, LedgerEntry, key="id")


def _append(
    connection: sqlite3.Connection,
    owner: str,
    kind: str,
    amount: int,
    after: Balance,
    *,
    by: str,
    run_id: str | None = None,
    unit_id: str | None = None,
    reason: str | None = None,
) -> LedgerEntry:
    at = now_ms()
    done = connection.execute(
        'INSERT INTO ledger (at, owner, kind, amount, run_id, unit_id, "by", reason, total_after, held_after)'
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (at, owner, kind, amount, run_id, unit_id, by, reason, after.total, after.held),
    )
    entry_id = done.lastrowid or 0
    return LedgerEntry(entry_id, at, owner, kind, amount, run_id, unit_id, by, reason, after.total, after.held)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who did what, when and from where."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

SCHEMA = """
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    actor TEXT,
    action TEXT NOT NULL,
    object TEXT,
    address TEXT,
    detail TEXT
) STRICT;
"""
MAX_ENTRIES = 100_000


@dataclass(frozen=True)
class Entry:
    """One deed. `actor` is null where nobody had logged in, `address` where it was done on the machine itself."""

    at: int
    actor: str | None
    action: str
    object: str | None = None
    address: str | None = None
    detail: str | None = None


def write(db: sqlite3.Connection, entry: Entry) -> None:
    """Keep an entry. The oldest beyond MAX_ENTRIES go, so that guessing at passwords can't fill the disk."""
    done = db.execute(
        "INSERT INTO audit (at, actor, action, object, address, detail) VALUES (?, ?, ?, ?, ?, ?)",
        (entry.at, entry.actor, entry.action, entry.object, entry.address, entry.detail),
    )
    db.execute("DELETE FROM audit WHERE id <= ?", ((done.lastrowid or 0) - MAX_ENTRIES,))


def page(db: sqlite3.Connection, before: int, limit: int) -> list[tuple[int, Entry]]:
    """Up to `limit` entries with their ids, the newest first, those with ids below `before`."""
    found = db.execute(
        "SELECT id, at, actor, action, object, address, detail FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?",
        (before, limit),
    )
    return [(row[0], Entry(*row[1:])) for row in found]

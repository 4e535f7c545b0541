# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may log in. Functions over an open connection; the caller's transaction makes them whole."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    name TEXT PRIMARY KEY,
    role TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    password TEXT NOT NULL,
    configured TEXT,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;
"""
_COLUMNS = "name, role, password, configured, created_at, changed_at"


@dataclass(frozen=True)
class User:
    """One user. `password` and `configured` are scrypt hashes; times are milliseconds since 1970.

    `configured` is the hash of the password that the configuration gave last, so that a start knows
    a new secret (it wins) from a password that the user has changed since (it stays).
    """

    name: str
    role: str
    password: str
    configured: str | None
    created_at: int
    changed_at: int


def find(db: sqlite3.Connection, name: str) -> User | None:
    """The user of that name."""
    row = db.execute(f"SELECT {_COLUMNS} FROM users WHERE name = ?", (name,)).fetchone()  # noqa: S608 - our own columns
    return User(*row) if row else None


def page(db: sqlite3.Connection, after: str, limit: int) -> list[User]:
    """Up to `limit` users in the order of their names, those after `after`."""
    found = db.execute(
        f"SELECT {_COLUMNS} FROM users WHERE name > ? ORDER BY name LIMIT ?",  # noqa: S608 - our own columns
        (after, limit),
    )
    return [User(*row) for row in found]


def add(db: sqlite3.Connection, user: User) -> bool:
    """Add a user; False if the name is taken."""
    done = db.execute(
        f"INSERT INTO users ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",  # noqa: S608 - our own columns
        (user.name, user.role, user.password, user.configured, user.created_at, user.changed_at),
    )
    return done.rowcount == 1


def set_password(db: sqlite3.Connection, name: str, password: str, now: int) -> bool:
    """Change a password (a hash); False if there is no such user."""
    done = db.execute("UPDATE users SET password = ?, changed_at = ? WHERE name = ?", (password, now, name))
    return done.rowcount == 1


def set_configured(db: sqlite3.Connection, name: str, role: str, configured: str) -> None:
    """Remember what the configuration said last."""
    db.execute("UPDATE users SET role = ?, configured = ? WHERE name = ?", (role, configured, name))

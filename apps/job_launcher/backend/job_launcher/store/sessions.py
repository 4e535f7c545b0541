# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions of browsers and tokens of scripts, both kept as hashes. Times are milliseconds since 1970."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    hash TEXT PRIMARY KEY,
    user TEXT NOT NULL REFERENCES users (name),
    created_at INTEGER NOT NULL,
    used_at INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS sessions_of_user ON sessions (user, created_at);
CREATE TABLE IF NOT EXISTS tokens (
    id TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    user TEXT NOT NULL REFERENCES users (name),
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS tokens_of_user ON tokens (user, id);
"""
IDLE_MS = 8 * 3_600_000
ABSOLUTE_MS = 7 * 24 * 3_600_000
# A use is written down at most this often: a read must not cost a synced write.
NOTE_USE_MS = 60_000
MAX_SESSIONS = 20  # of one user; the oldest goes
MAX_TOKENS = 20  # of one user; one more is refused


@dataclass(frozen=True)
class Holder:
    """Whose session or token it is, and whether its use is due to be written down."""

    user: str
    role: str
    note_use: bool


@dataclass(frozen=True)
class Token:
    """A script's token, without its secret."""

    id: str
    name: str
    created_at: int
    expires_at: int
    used_at: int | None


def open_session(db: sqlite3.Connection, new: str, old: str | None, user: str, now: int) -> None:
    """Start a session (`new` is its hash). `old`, which the browser had before, is worth nothing from now on."""
    db.execute("DELETE FROM sessions WHERE hash = ?", (old,))
    db.execute("DELETE FROM sessions WHERE used_at < ? OR created_at < ?", (now - IDLE_MS, now - ABSOLUTE_MS))
    db.execute("INSERT INTO sessions (hash, user, created_at, used_at) VALUES (?, ?, ?, ?)", (new, user, now, now))
    db.execute(
        "DELETE FROM sessions WHERE hash IN"
        " (SELECT hash FROM sessions WHERE user = ? ORDER BY created_at DESC, rowid DESC LIMIT -1 OFFSET ?)",
        (user, MAX_SESSIONS),
    )


def session_holder(db: sqlite3.Connection, session: str, now: int) -> Holder | None:
    """Whose session it is; None if there is none or it is over, by idling or by age."""
    row = db.execute(
        "SELECT users.name, users.role, used_at FROM sessions JOIN users ON users.name = user"
        " WHERE hash = ? AND used_at >= ? AND sessions.created_at >= ?",
        (session, now - IDLE_MS, now - ABSOLUTE_MS),
    ).fetchone()
    return Holder(row[0], row[1], now - row[2] >= NOTE_USE_MS) if row else None


def note_session_use(db: sqlite3.Connection, session: str, now: int) -> None:
    """Put off the end by idling."""
    db.execute("UPDATE sessions SET used_at = ? WHERE hash = ?", (now, session))


def close_session(db: sqlite3.Connection, session: str) -> None:
    """End a session."""
    db.execute("DELETE FROM sessions WHERE hash = ?", (session,))


def close_all(db: sqlite3.Connection, user: str) -> None:
    """End all sessions and tokens of a user, as a new password must."""
    db.execute("DELETE FROM sessions WHERE user = ?", (user,))
    db.execute("DELETE FROM tokens WHERE user = ?", (user,))


def add_token(db: sqlite3.Connection, token: Token, secret_hash: str, user: str) -> bool:
    """Keep a token; False if the user has as many as are allowed."""
    db.execute("DELETE FROM tokens WHERE expires_at <= ?", (token.created_at,))
    if db.execute("SELECT count(*) FROM tokens WHERE user = ?", (user,)).fetchone()[0] >= MAX_TOKENS:
        return False
    db.execute(
        "INSERT INTO tokens (id, hash, user, name, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
        (token.id, secret_hash, user, token.name, token.created_at, token.expires_at),
    )
    return True


def token_holder(db: sqlite3.Connection, secret_hash: str, now: int) -> Holder | None:
    """Whose token it is; None if there is none or it is over."""
    row = db.execute(
        "SELECT users.name, users.role, used_at FROM tokens JOIN users ON users.name = user"
        " WHERE hash = ? AND expires_at > ?",
        (secret_hash, now),
    ).fetchone()
    return Holder(row[0], row[1], row[2] is None or now - row[2] >= NOTE_USE_MS) if row else None


def note_token_use(db: sqlite3.Connection, secret_hash: str, now: int) -> None:
    """Say when a token was used last."""
    db.execute("UPDATE tokens SET used_at = ? WHERE hash = ?", (now, secret_hash))


def tokens(db: sqlite3.Connection, user: str, now: int) -> list[Token]:
    """The user's tokens, the newest first."""
    found = db.execute(
        "SELECT id, name, created_at, expires_at, used_at FROM tokens WHERE user = ? AND expires_at > ?"
        " ORDER BY created_at DESC, id",
        (user, now),
    )
    return [Token(*row) for row in found]


def delete_token(db: sqlite3.Connection, user: str, token_id: str) -> str | None:
    """Take a token back; the hash of its secret, or None if the user has none of that id."""
    row = db.execute("SELECT hash FROM tokens WHERE id = ? AND user = ?", (token_id, user)).fetchone()
    db.execute("DELETE FROM tokens WHERE id = ? AND user = ?", (token_id, user))
    return row[0] if row else None

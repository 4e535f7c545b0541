# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The database's tables. A change is a further entry of MIGRATIONS; those that are there are never edited."""

from __future__ import annotations

import sqlite3

ENGINE = """
CREATE TABLE runs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    template TEXT NOT NULL,
    title TEXT NOT NULL,
    status TEXT NOT NULL,
    total INTEGER NOT NULL CHECK (total > 0),
    max_parallel INTEGER NOT NULL CHECK (max_parallel > 0),
    parameters TEXT NOT NULL,
    price INTEGER NOT NULL CHECK (price >= 0),
    retried INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    log_size INTEGER NOT NULL DEFAULT 0,
    message TEXT,
    idempotency_key TEXT,
    body_hash TEXT,
    UNIQUE (owner, idempotency_key)
);
CREATE INDEX runs_of_owner ON runs (owner, seq);
CREATE INDEX runs_of_status ON runs (status, seq);
CREATE TABLE units (
    id TEXT PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (id),
    number INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    worker INTEGER,
    status TEXT NOT NULL,
    exit_code INTEGER,
    signal INTEGER,
    reason TEXT,
    lease TEXT,
    started_at INTEGER,
    ended_at INTEGER,
    report TEXT,
    process_key TEXT,
    UNIQUE (run_id, number)
) WITHOUT ROWID;
CREATE INDEX units_of_status ON units (run_id, status, number);
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    owner TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('credit', 'hold', 'capture', 'release')),
    amount INTEGER NOT NULL CHECK (amount > 0),
    run_id TEXT,
    unit_id TEXT,
    "by" TEXT NOT NULL,
    reason TEXT,
    total_after INTEGER NOT NULL CHECK (total_after >= held_after),
    held_after INTEGER NOT NULL CHECK (held_after >= 0)
);
CREATE INDEX ledger_of_owner ON ledger (owner, id);
CREATE INDEX ledger_of_run ON ledger (run_id) WHERE run_id IS NOT NULL;
CREATE UNIQUE INDEX ledger_settles_once ON ledger (unit_id) WHERE unit_id IS NOT NULL;
CREATE UNIQUE INDEX ledger_holds_once ON ledger (run_id) WHERE kind = 'hold';
CREATE TRIGGER ledger_keeps BEFORE UPDATE ON ledger BEGIN SELECT raise(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_stays BEFORE DELETE ON ledger BEGIN SELECT raise(ABORT, 'the ledger is append-only'); END;
CREATE TABLE numbers (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    value TEXT NOT NULL,
    run_id TEXT NOT NULL,
    unit_id TEXT NOT NULL,
    template TEXT NOT NULL,
    status TEXT NOT NULL,
    acquired_at INTEGER NOT NULL,
    release_after INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_try_at INTEGER,
    last_error TEXT
);
CREATE INDEX numbers_of_status ON numbers (status, seq);
CREATE UNIQUE INDEX numbers_held_once ON numbers (template, value) WHERE status IN ('held', 'releasing');
CREATE TABLE log_segments (
    segment INTEGER PRIMARY KEY,
    size INTEGER NOT NULL,
    closed_at INTEGER NOT NULL
);
CREATE TABLE log_index (
    run_id TEXT NOT NULL,
    segment INTEGER NOT NULL REFERENCES log_segments (segment),
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    extents BLOB NOT NULL,
    PRIMARY KEY (run_id, segment)
) WITHOUT ROWID;
CREATE INDEX log_index_of_segment ON log_index (segment);
CREATE TABLE checks (id INTEGER PRIMARY KEY CHECK (id = 1), at INTEGER NOT NULL);
"""

#: What `PRAGMA user_version` n + 1 adds to n.
MIGRATIONS: tuple[str, ...] = (ENGINE,)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to the newest version, each step in a transaction of its own.

    Raises RuntimeError if it was written by a newer launcher.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise RuntimeError(f"the database is of version {version}, this launcher knows {len(MIGRATIONS)}")
    for number, statements in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {number}; COMMIT;")

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Leased numbers in the database. Every function runs inside a transaction of its caller.

held -> releasing -> released, or back to held with a later try, or dead when the attempts are used up.
"""

from __future__ import annotations

import sqlite3

from job_launcher.model import NUMBER_STATUSES, Number, Page, new_id, now_ms
from job_launcher.refused import Refused
from job_launcher.store.pages import cursor, page

COLUMNS = (
    "id, owner, value, run_id, unit_id, template, status, acquired_at, release_after, attempts, next_try_at, last_error"
)
#: A number is due once its hold is over and the unit that uses it has ended; a later try has a time of its own.
RELEASABLE = (
    "numbers.status = 'held' AND NOT EXISTS"
    " (SELECT 1 FROM units WHERE units.id = numbers.unit_id AND units.status = 'running')"
)
DUE_AT = "max(release_after, coalesce(next_try_at, 0))"


def acquire(connection: sqlite3.Connection, unit_id: str, value: str, min_hold: float) -> str | None:
    """Note that a running unit holds a number; returns what is wrong with that, None if nothing."""
    row = connection.execute(
        "SELECT run_id, owner, template FROM units JOIN runs ON runs.id = units.run_id WHERE units.id = ?", (unit_id,)
    ).fetchone()
    now = now_ms()
    after = now + round(min_hold * 1000)
    earlier = connection.execute(
        "SELECT id, unit_id, status FROM numbers WHERE template = ? AND value = ? AND status IN ('held', 'releasing')",
        (row["template"], value),
    ).fetchone()
    if earlier and (earlier["unit_id"] != unit_id or earlier["status"] != "held"):
        return f"{value} is still held by another unit"
    if earlier:
        connection.execute(
            "UPDATE numbers SET acquired_at = ?, release_after = ?, attempts = 0, next_try_at = NULL WHERE id = ?",
            (now, after, earlier["id"]),
        )
        return None
    connection.execute(
        "INSERT INTO numbers (id, owner, value, run_id, unit_id, template, status, acquired_at, release_after)"
        " VALUES (?, ?, ?, ?, ?, ?, 'held', ?, ?)",
        (new_id("n"), row["owner"], value, row["run_id"], unit_id, row["template"], now, after),
    )
    return None


def next_due(connection: sqlite3.Connection) -> int | None:
    """Return when the next number becomes due, ms; None if none waits for a time."""
    row = connection.execute(f"SELECT min({DUE_AT}) AS due FROM numbers WHERE {RELEASABLE}").fetchone()  # noqa: S608 # constants
    return int(row["due"]) if row["due"] is not None else None


def take_due(connection: sqlite3.Connection, limit: int) -> list[Number]:
    """Make numbers that are due `releasing` and return them, the longest due first."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM numbers WHERE {RELEASABLE} AND {DUE_AT} <= ? ORDER BY {DUE_AT} LIMIT ?",  # noqa: S608 # constants
        (now_ms(), limit),
    ).fetchall()
    for row in rows:
        connection.execute(
            "UPDATE numbers SET status = 'releasing', attempts = attempts + 1 WHERE id = ?", (row["id"],)
        )
    return [get(connection, row["id"]) for row in rows]


def released(connection: sqlite3.Connection, number_id: str) -> None:
    """Note that the release hook has done it."""
    connection.execute("UPDATE numbers SET status = 'released', next_try_at = NULL WHERE id = ?", (number_id,))


def failed(connection: sqlite3.Connection, number_id: str, error: str, next_try_at: int | None) -> None:
    """Note a failed release; without a next try the number is dead."""
    status = "dead" if next_try_at is None else "held"
    connection.execute(
        "UPDATE numbers SET status = ?, last_error = ?, next_try_at = ? WHERE id = ?",
        (status, error, next_try_at, number_id),
    )


def retry(connection: sqlite3.Connection, number_id: str, owner: str | None) -> Number:
    """Try a held or dead number anew, with all its attempts; raises Refused 404 or 409."""
    number = _owned(connection, number_id, owner)
    if number.status not in {"held", "dead"}:
        raise Refused("id", f"is {number.status}; only a held or dead number can be tried again", 409)
    twin = connection.execute(
        "SELECT 1 FROM numbers WHERE template = ? AND value = ? AND id != ? AND status IN ('held', 'releasing')",
        (number.template, number.value, number_id),
    ).fetchone()
    if twin:
        raise Refused("id", f"{number.value} is held by another unit now; drop this one", 409)
    connection.execute(
        "UPDATE numbers SET status = 'held', attempts = 0, next_try_at = NULL WHERE id = ?", (number_id,)
    )
    return get(connection, number_id)


def drop(connection: sqlite3.Connection, number_id: str, reason: str) -> Number:
    """Call a held or dead number released without its hook; raises Refused 404 or 409."""
    number = _owned(connection, number_id, None)
    if number.status not in {"held", "dead"}:
        raise Refused("id", f"is {number.status}; only a held or dead number can be dropped", 409)
    connection.execute(
        "UPDATE numbers SET status = 'released', next_try_at = NULL, last_error = ? WHERE id = ?", (reason, number_id)
    )
    return get(connection, number_id)


def recover(connection: sqlite3.Connection) -> None:
    """Hold again what an earlier launcher was releasing: the hook may have run or not, and runs again."""
    connection.execute("UPDATE numbers SET status = 'held' WHERE status = 'releasing'")


def counts(connection: sqlite3.Connection, owner: str | None) -> dict[str, int]:
    """Return how many numbers are held, releasing, dead."""
    rows = connection.execute(
        "SELECT status, count(*) AS n FROM numbers WHERE status != 'released' AND (?1 IS NULL OR owner = ?1)"
        " GROUP BY status",
        (owner,),
    ).fetchall()
    return {"held": 0, "releasing": 0, "dead": 0} | {row["status"]: row["n"] for row in rows}


def get(connection: sqlite3.Connection, number_id: str) -> Number:
    """Return a number; raises Refused 404."""
    row = connection.execute(f"SELECT {COLUMNS} FROM numbers WHERE id = ?", (number_id,)).fetchone()  # noqa: S608 # a constant
    if row is None:
        raise Refused("id", "there is no such number", 404)
    return Number(**dict(row))


def _owned(connection: sqlite3.Connection, number_id: str, owner: str | None) -> Number:
    number = get(connection, number_id)
    if owner is not None and number.owner != owner:
        raise Refused("id", "there is no such number", 404)
    return number


def listed(
    connection: sqlite3.Connection, owner: str | None, status: str | None, before: str | None, limit: int
) -> Page:
    """Return numbers, the newest first."""
    if status is not None and status not in NUMBER_STATUSES:
        raise Refused("status", f"must be one of {', '.join(NUMBER_STATUSES)}")
    rows = connection.execute(
        "SELECT * FROM numbers WHERE (?1 IS NULL OR owner = ?1) AND (?2 IS NULL OR status = ?2) AND seq < ?3"
        " ORDER BY seq DESC LIMIT ?4",
        (owner, status, cursor("before", before), limit + 1),
    ).fetchall()
    return page(rows, limit, Number, key="seq")

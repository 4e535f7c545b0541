# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs and their units in the database. Every function runs inside a transaction of its caller.

Whatever ends a unit settles its price in the same transaction, so the ledger is exact after any crash.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from job_launcher.model import ACTIVE, RUN_STATUSES, Counts, Page, Run, Unit, new_id, now_ms
from job_launcher.refused import Refused
from job_launcher.store import ledger
from job_launcher.store.pages import cursor

UNIT_COLUMNS = (
    "id, run_id, number, attempt, worker, status, exit_code, signal, reason, lease, started_at, ended_at, report"
)


@dataclass(frozen=True)
class Wanted:
    """A checked request for a run."""

    owner: str
    template: str
    title: str
    total: int
    max_parallel: int
    parameters: Mapping[str, Any]
    price: int
    key: str | None = None

    def body_hash(self) -> str:
        """Return what tells whether two requests with one key are the same."""
        body = [self.template, self.total, self.max_parallel, self.parameters]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended; `status` is succeeded, failed or stopped."""

    status: str
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    report: Mapping[str, Any] | None = None


def create(connection: sqlite3.Connection, wanted: Wanted) -> tuple[Run, bool]:
    """Make a run with its units and hold its price; (run, False) if the key has made it before.

    Raises Refused 409 for a key that came with another body, 402 if the balance doesn't cover it.
    """
    if wanted.key is not None:
        earlier = connection.execute(
            "SELECT id, body_hash FROM runs WHERE owner = ? AND idempotency_key = ?", (wanted.owner, wanted.key)
        ).fetchone()
        if earlier and earlier["body_hash"] != wanted.body_hash():
            raise Refused("Idempotency-Key", "was used for another request; take a fresh one", 409)
        if earlier:
            return get(connection, earlier["id"]), False
    run_id = new_id("r")
    connection.execute(
        "INSERT INTO runs (id, owner, template, title, status, total, max_parallel, parameters, price, created_at,"
        " idempotency_key, body_hash) VALUES (?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?)",
        (
            run_id,
            wanted.owner,
            wanted.template,
            wanted.title,
            wanted.total,
            wanted.max_parallel,
            json.dumps(wanted.parameters),
            wanted.price,
            now_ms(),
            wanted.key,
            wanted.body_hash(),
        ),
    )
    ledger.hold(connection, wanted.owner, wanted.price * wanted.total, run_id, wanted.owner)
    units = ((new_id("u"), run_id, number, "waiting") for number in range(1, wanted.total + 1))
    connection.executemany("INSERT INTO units (id, run_id, number, status) VALUES (?, ?, ?, ?)", units)
    return get(connection, run_id), True


def get(connection: sqlite3.Connection, run_id: str) -> Run:
    """Return a run; raises Refused 404."""
    row = connection.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
    if row is None:
        raise Refused("run_id", "there is no such run", 404)
    return _runs(connection, [row])[0]


def listed(
    connection: sqlite3.Connection, owner: str | None, status: str | None, before: str | None, limit: int
) -> Page:
    """Return runs, the newest first."""
    if status is not None and status not in RUN_STATUSES:
        raise Refused("status", f"must be one of {', '.join(RUN_STATUSES)}")
    rows = connection.execute(
        "SELECT * FROM runs WHERE (?1 IS NULL OR owner = ?1) AND (?2 IS NULL OR status = ?2) AND seq < ?3"
        " ORDER BY seq DESC LIMIT ?4",
        (owner, status, cursor("before", before), limit + 1),
    ).fetchall()
    shown = rows[:limit]
    return Page(list(_runs(connection, shown)), str(shown[-1]["seq"]) if len(rows) > limit else None)


def active(connection: sqlite3.Connection) -> list[Run]:
    """Return the runs that haven't ended, the oldest first."""
    marks = ", ".join("?" * len(ACTIVE))
    rows = connection.execute(f"SELECT * FROM runs WHERE status IN ({marks}) ORDER BY seq", ACTIVE)  # noqa: S608 # marks only
    return _runs(connection, rows.fetchall())


def _runs(connection: sqlite3.Connection, rows: list[sqlite3.Row]) -> list[Run]:
    marks = ", ".join("?" * len(rows))
    counted: dict[str, dict[str, int]] = {row["id"]: {"retried": row["retried"]} for row in rows}
    for each in connection.execute(
        f"SELECT run_id, status, count(*) AS units FROM units WHERE run_id IN ({marks}) GROUP BY run_id, status",  # noqa: S608 # marks only
        [row["id"] for row in rows],
    ):
        counted[each["run_id"]][each["status"]] = each["units"]
    return [_run(row, Counts(**counted[row["id"]])) for row in rows]


def _run(row: sqlite3.Row, counts: Counts) -> Run:
    values = {name: row[name] for name in row.keys() if name not in {"seq", "retried", "idempotency_key", "body_hash"}}  # noqa: SIM118 # a row iterates over its values
    values["parameters"] = json.loads(row["parameters"])
    held = (counts.waiting + counts.running) * row["price"]
    return Run(**values, counts=counts, held=held, captured=counts.succeeded * row["price"])


def units(connection: sqlite3.Connection, run_id: str, after: str | None, limit: int) -> Page:
    """Return the units of a run by their number; raises Refused 404."""
    get(connection, run_id)
    rows = connection.execute(
        f"SELECT {UNIT_COLUMNS} FROM units WHERE run_id = ? AND number > ? ORDER BY number LIMIT ?",  # noqa: S608 # a constant
        (run_id, cursor("after", after, none=0), limit + 1),
    ).fetchall()
    shown = [_unit(row) for row in rows[:limit]]
    return Page(list(shown), str(shown[-1].number) if len(rows) > limit else None)


def unit(connection: sqlite3.Connection, unit_id: str) -> Unit:
    """Return a unit that is there."""
    return _unit(connection.execute(f"SELECT {UNIT_COLUMNS} FROM units WHERE id = ?", (unit_id,)).fetchone())  # noqa: S608 # a constant


def _unit(row: sqlite3.Row) -> Unit:
    values = dict(row)
    values["report"] = json.loads(row["report"]) if row["report"] else None
    return Unit(**values)


def start_next(connection: sqlite3.Connection, run_id: str, worker: int) -> Unit | None:
    """Make the next waiting unit of a run a running one; None if none waits or the run has been stopped."""
    row = connection.execute(
        "SELECT units.id FROM units JOIN runs ON runs.id = units.run_id WHERE run_id = ? AND units.status = 'waiting'"
        " AND runs.status IN ('queued', 'running') ORDER BY number LIMIT 1",
        (run_id,),
    ).fetchone()
    if row is None:
        return None
    now = now_ms()
    connection.execute(
        "UPDATE units SET status = 'running', attempt = attempt + 1, worker = ?, started_at = ?, ended_at = NULL,"
        " exit_code = NULL, signal = NULL, reason = NULL, lease = NULL, report = NULL, process_key = NULL WHERE id = ?",
        (worker, now, row["id"]),
    )
    connection.execute(
        "UPDATE runs SET status = 'running', started_at = coalesce(started_at, ?) WHERE id = ?", (now, run_id)
    )
    return unit(connection, row["id"])


def note_process(connection: sqlite3.Connection, unit_id: str, process_key: str) -> None:
    """Keep what finds a unit's process after a crash of the launcher."""
    connection.execute("UPDATE units SET process_key = ? WHERE id = ? AND status = 'running'", (process_key, unit_id))


def note_lease(connection: sqlite3.Connection, unit_id: str, value: str) -> None:
    """Keep the number that a unit has acquired."""
    connection.execute("UPDATE units SET lease = ? WHERE id = ?", (value, unit_id))


def end_attempt(
    connection: sqlite3.Connection, unit_id: str, outcome: Outcome, *, retries: int, found_none: bool = False
) -> Unit:
    """End a running unit's attempt and settle its price, or let it wait for another attempt; returns the unit.

    A failed one waits again as long as it has failed no more than `retries` times; one that found no numbers always
    does. Not when its run is stopping.
    """
    row = connection.execute(
        "SELECT units.run_id, failures, runs.status FROM units JOIN runs ON runs.id = units.run_id"
        " WHERE units.id = ? AND units.status = 'running'",
        (unit_id,),
    ).fetchone()
    if row is None:
        raise ValueError(f"{unit_id} isn't running")
    again = outcome.status == "failed" and row["status"] == "running" and (found_none or row["failures"] < retries)
    status = "waiting" if again else outcome.status
    connection.execute(
        "UPDATE units SET status = ?, failures = failures + ?, ended_at = ?, exit_code = ?, signal = ?, reason = ?,"
        " report = ?, worker = NULL, process_key = NULL WHERE id = ?",
        (
            status,
            int(outcome.status == "failed" and not found_none),
            now_ms(),
            outcome.exit_code,
            outcome.signal,
            outcome.reason,
            None if outcome.report is None else json.dumps(outcome.report),
            unit_id,
        ),
    )
    if again:
        connection.execute("UPDATE runs SET retried = retried + 1 WHERE id = ?", (row["run_id"],))
    else:
        ledger.settle(connection, row["run_id"], unit_id, success=outcome.status == "succeeded", reason=outcome.reason)
    return unit(connection, unit_id)


def stop(connection: sqlite3.Connection, run_id: str, message: str) -> tuple[Run, bool]:
    """Stop a run: what waits is stopped and released, what runs is for the supervisor. (run, False): it had ended."""
    if get(connection, run_id).status not in {"queued", "running"}:
        return get(connection, run_id), False
    connection.execute("UPDATE runs SET status = 'stopping', message = ? WHERE id = ?", (message, run_id))
    waiting = connection.execute("SELECT id FROM units WHERE run_id = ? AND status = 'waiting'", (run_id,)).fetchall()
    connection.execute(
        "UPDATE units SET status = 'stopped', reason = ?, ended_at = ? WHERE run_id = ? AND status = 'waiting'",
        (message, now_ms(), run_id),
    )
    for row in waiting:
        ledger.settle(connection, run_id, row["id"], success=False, reason=message)
    return get(connection, run_id), True


def end(connection: sqlite3.Connection, run_id: str, log_size: int, failure: str | None = None) -> Run:
    """End a run all of whose units have ended; its status follows from theirs, or is failed for `failure`."""
    run = get(connection, run_id)
    if run.counts.waiting or run.counts.running:
        raise ValueError(f"{run_id} has units that haven't ended")
    status = "failed" if failure else final_status(run.counts, stopping=run.status == "stopping")
    connection.execute(
        "UPDATE runs SET status = ?, ended_at = ?, log_size = ?, message = coalesce(?, message) WHERE id = ?",
        (status, now_ms(), log_size, failure, run_id),
    )
    return get(connection, run_id)


def final_status(counts: Counts, *, stopping: bool) -> str:
    """Return how a run with these ended units has ended."""
    if stopping and counts.stopped:
        return "stopped"
    if counts.succeeded and counts.failed + counts.stopped:
        return "partly"
    return "succeeded" if counts.succeeded else "failed"


def left_running(connection: sqlite3.Connection) -> Iterable[sqlite3.Row]:
    """Return (id, run_id, attempt, process_key, template) of the units that an earlier launcher left running."""
    return connection.execute(
        "SELECT units.id, run_id, attempt, process_key, template FROM units JOIN runs ON runs.id = units.run_id"
        " WHERE units.status = 'running'"
    ).fetchall()

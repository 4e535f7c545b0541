# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger as a state machine: whatever happens in whatever order, its sums are those of a plain model."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from job_launcher.model import Balance
from job_launcher.refused import Refused
from job_launcher.store import ledger, runs
from job_launcher.store.schema import MIGRATIONS, migrate

OWNERS = st.sampled_from(["ann", "bob"])


def database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    migrate(connection)
    return connection


class LedgerMachine(RuleBasedStateMachine):
    """Runs are made, units start, end, wait again, runs are stopped; work that fails midway is undone whole."""

    def __init__(self) -> None:
        super().__init__()
        self.db = database()
        self.total = {"ann": 0, "bob": 0}
        self.open: dict[str, dict[str, tuple[str, int]]] = {"ann": {}, "bob": {}}
        self.running: list[tuple[str, str]] = []
        self.runs: list[tuple[str, str]] = []

    @rule(owner=OWNERS, amount=st.integers(-5, 200))
    def credit(self, owner: str, amount: int) -> None:
        if amount > 0:
            ledger.credit(self.db, owner, amount, "admin", "x")
            self.total[owner] += amount
        else:
            with pytest.raises(Refused):
                ledger.credit(self.db, owner, amount, "admin", "x")

    @rule(owner=OWNERS, units=st.integers(1, 6), price=st.integers(0, 9), crash=st.booleans())
    def run(self, owner: str, units: int, price: int, crash: bool) -> None:
        held = sum(price for _, price in self.open[owner].values())
        covered = units * price <= self.total[owner] - held
        wanted = runs.Wanted(owner, "t", "t", units, 2, {}, price)
        self.db.execute("BEGIN")
        try:
            run, _ = runs.create(self.db, wanted)
        except Refused as refused:
            self.db.execute("ROLLBACK")
            assert refused.status == 402 and not covered
            return
        assert covered
        if crash:
            self.db.execute("ROLLBACK")
            return
        self.db.execute("COMMIT")
        self.runs.append((owner, run.id))
        for unit in runs.units(self.db, run.id, None, 10).items:
            self.open[owner][unit.id] = (run.id, price)

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        if self.runs:
            owner, run_id = data.draw(st.sampled_from(self.runs))
            unit = runs.start_next(self.db, run_id, 1)
            if unit:
                self.running.append((owner, unit.id))

    @rule(data=st.data(), status=st.sampled_from(["succeeded", "failed", "stopped"]), retries=st.integers(0, 2))
    def end(self, data: st.DataObject, status: str, retries: int) -> None:
        if not self.running:
            return
        owner, unit_id = data.draw(st.sampled_from(self.running))
        self.running.remove((owner, unit_id))
        unit = runs.end_attempt(self.db, unit_id, runs.Outcome(status), retries=retries)
        if unit.status != "waiting":
            _, price = self.open[owner].pop(unit_id)
            self.total[owner] -= price if status == "succeeded" else 0
        with pytest.raises(ValueError, match="isn't running"):
            runs.end_attempt(self.db, unit_id, runs.Outcome("succeeded"), retries=0)

    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        if not self.runs:
            return
        owner, run_id = data.draw(st.sampled_from(self.runs))
        runs.stop(self.db, run_id, "stopped")
        going = {unit_id for _, unit_id in self.running}
        for unit_id, (of_run, _) in list(self.open[owner].items()):
            if of_run == run_id and unit_id not in going:
                del self.open[owner][unit_id]

    @invariant()
    def sums_are_exact(self) -> None:
        for owner, total in self.total.items():
            held = sum(price for _, price in self.open[owner].values())
            assert ledger.balance(self.db, owner) == Balance(total, held)

    @invariant()
    def runs_say_the_same(self) -> None:
        for owner, run_id in self.runs:
            run = runs.get(self.db, run_id)
            assert run.held == sum(price for of_run, price in self.open[owner].values() if of_run == run_id)

    def teardown(self) -> None:
        self.db.close()


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestLedger = LedgerMachine.TestCase


def test_a_unit_is_settled_once() -> None:
    with contextlib.closing(database()) as db:
        ledger.credit(db, "ann", 10, "admin", "x")
        run, _ = runs.create(db, runs.Wanted("ann", "t", "t", 1, 1, {}, 3))
        unit = runs.start_next(db, run.id, 1)
        assert unit
        runs.end_attempt(db, unit.id, runs.Outcome("succeeded"), retries=0)
        with pytest.raises(sqlite3.IntegrityError):
            ledger.settle(db, run.id, unit.id, success=False, reason=None)


def test_a_database_of_a_newer_launcher_is_refused() -> None:
    with contextlib.closing(database()) as db:
        migrate(db)
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        with pytest.raises(RuntimeError, match="knows"):
            migrate(db)

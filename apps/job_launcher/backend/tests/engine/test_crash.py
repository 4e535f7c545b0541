# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 of the launcher at random points: nothing left running, every unit ends, the ledger is exact."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.helpers import ledger_is_exact, of_units, unit_ids

BACKEND = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def server(data_dir: Path, template: str = "work", runs: int = 0, units: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A launcher that is ready; killed at the end if it still runs."""
    arguments = [str(data_dir), template, str(runs), str(units)]
    started = subprocess.Popen(
        [sys.executable, "-m", "tests.engine.server", *arguments],
        cwd=BACKEND,
        env={**os.environ, "PYTHONPATH": str(BACKEND)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stdout
        assert started.stdout.readline() == "ready\n"
        yield started
    finally:
        started.kill()
        started.wait()


def idle(started: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait until it has nothing to do, then end it as an operator would."""
    watchdog = subprocess.Popen(["sleep", str(seconds)])
    assert started.stdout
    line = started.stdout.readline()
    watchdog.kill()
    watchdog.wait()
    assert line == "idle\n"
    started.send_signal(signal.SIGTERM)
    assert started.wait(20) == 0


def all_ended(data_dir: Path) -> None:
    with contextlib.closing(sqlite3.connect(data_dir / "launcher.sqlite")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        statuses = {row[0] for row in db.execute("SELECT status FROM units UNION SELECT status FROM runs")}
        assert statuses <= {"succeeded", "partly", "failed", "stopped"}
        twice = "SELECT count(*) FROM (SELECT 1 FROM units GROUP BY run_id, number HAVING count(*) > 1)"
        assert db.execute(twice).fetchone() == (0,)
    ledger_is_exact(data_dir)
    assert of_units(unit_ids(data_dir)) == []


def test_killed_mid_run_nothing_is_left_and_every_unit_ends(tmp_path: Path) -> None:
    """Acceptance 3, with workers that never end by themselves and children in sessions of their own."""
    with server(tmp_path, "lasting", 1, 8) as first:
        deadline = time.monotonic() + 20
        while len(of_units(units := unit_ids(tmp_path))) < 16:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.wait()
    with server(tmp_path) as second:
        # Ready means recovered.
        assert of_units(units) == []
        idle(second)
    all_ended(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "launcher.sqlite")) as db:
        assert {row[0] for row in db.execute("SELECT reason FROM units")} == {"the launcher was ended while it ran"}


def torment(data_dir: Path, runs: int, units: int, kills: int, longest: float) -> None:
    """Start runs, kill the launcher at random points, let the last one finish.

    Each launcher is asked for all runs again: their keys make a run only of what the one before didn't get to.
    """
    for _ in range(kills):
        with server(data_dir, "work", runs, units) as started:
            time.sleep(random.random() * longest)  # noqa: S311 # any point will do
            started.send_signal(signal.SIGKILL)
            started.wait()
        ledger_is_exact(data_dir)
    with server(data_dir, "work", runs, units) as last:
        idle(last, 600)
    all_ended(data_dir)
    with contextlib.closing(sqlite3.connect(data_dir / "launcher.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM runs").fetchone() == (runs,)


def test_killed_at_random_points_the_ledger_is_exact(tmp_path: Path) -> None:
    torment(tmp_path, runs=4, units=5, kills=4, longest=0.8)


def test_many_runs_short(tmp_path: Path) -> None:
    """The soak, small: 40 runs of one unit, killed twice."""
    torment(tmp_path, runs=40, units=1, kills=2, longest=2.0)


@pytest.mark.soak
def test_two_hundred_runs_of_eight_units(tmp_path: Path) -> None:
    torment(tmp_path, runs=200, units=8, kills=40, longest=6.0)

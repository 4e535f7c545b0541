# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the engine share: engines on a directory, templates out of a few lines, what a worker printed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from job_launcher import templates, tunables
from job_launcher.engine import Engine, EngineConfig
from job_launcher.execution.processes import snapshot, unit_of
from job_launcher.model import Run

PYTHON = [sys.executable, "-I", "-S"]
FAST = {"worker_start_stagger": 0.0, "term_grace": 1.0, "log_flush_interval": 0.1}
RECORD = re.compile(rb"(\d+)\.(\d+)([|+])")


def script(code: str, **fields: Any) -> dict[str, Any]:
    """A template whose worker is this Python code."""
    return {"argv": [*PYTHON, "-c", code], "price": 1, **fields}


def config(data_dir: Path, jobs: dict[str, Any], **values: Any) -> EngineConfig:
    loaded = tunables.load({**FAST, **values})
    return EngineConfig(data_dir, templates.load(jobs), loaded, cpu_quota=8, memory_limit=16 * 2**30)


@contextlib.asynccontextmanager
async def running(wanted: EngineConfig, credits: int = 1000) -> AsyncIterator[Engine]:
    engine = Engine(wanted)
    await engine.start()
    try:
        if credits:
            await engine.credit("ann", credits, "admin", "for tests")
        yield engine
    finally:
        await engine.stop()


async def until(happened: Callable[[], Any], seconds: float = 20.0, pause: float = 0.02) -> None:
    """Wait until something is true; fails after so long."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not happened():
        assert asyncio.get_running_loop().time() < deadline, "it did not happen in time"
        await asyncio.sleep(pause)


def stretch() -> float:
    """How many times longer than alone this process takes now (1 on a quiet machine): other work runs beside it."""
    wall, cpu = time.monotonic(), time.process_time()
    while time.process_time() - cpu < 0.05:
        pass
    return max(1.0, (time.monotonic() - wall) / 0.05)


async def ended(engine: Engine, run_id: str, seconds: float = 40.0) -> Run:
    deadline = asyncio.get_running_loop().time() + seconds
    while (run := await engine.get_run(run_id)).ended_at is None:
        assert asyncio.get_running_loop().time() < deadline, f"not ended in time: {run}"
        await asyncio.sleep(0.05)
    return run


async def whole_log(engine: Engine, run_id: str) -> bytes:
    return b"".join([piece async for piece in engine.download_log(run_id)])


def printed(log: bytes) -> dict[tuple[int, int], bytes]:
    """What each attempt printed, out of a run's log: the reverse of what the agreement says."""
    parts: dict[tuple[int, int], list[bytes]] = {}
    for line in log.split(b"\n")[:-1]:
        match = RECORD.match(line)
        assert match, line[:80]
        end = b"\n" if match[3] == b"|" else b""
        parts.setdefault((int(match[1]), int(match[2])), []).append(line[match.end() :] + end)
    return {key: b"".join(each) for key, each in parts.items()}


def of_units(units: set[str]) -> list[int]:
    """The living processes that were started for these units."""
    return [pid for pid, each in snapshot().items() if each.state not in "ZX" and unit_of(pid) in units]


def unit_ids(data_dir: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(data_dir / "launcher.sqlite")) as db:
        return {row[0] for row in db.execute("SELECT id FROM units")}


def ledger_is_exact(data_dir: Path) -> None:
    """The ledger's sums, computed anew, and each unit settled once and as it ended."""
    with contextlib.closing(sqlite3.connect(data_dir / "launcher.sqlite")) as db:
        totals: dict[str, tuple[int, int]] = {}
        for owner, kind, amount, total_after, held_after in db.execute(
            "SELECT owner, kind, amount, total_after, held_after FROM ledger ORDER BY id"
        ):
            total, held = totals.get(owner, (0, 0))
            total += {"credit": amount, "capture": -amount}.get(kind, 0)
            held += {"hold": amount, "capture": -amount, "release": -amount}.get(kind, 0)
            assert (total, held) == (total_after, held_after)
            totals[owner] = (total, held)
        for unit, status, kinds in db.execute(
            "SELECT units.id, status, (SELECT group_concat(kind) FROM ledger WHERE unit_id = units.id) FROM units"
        ):
            wanted = {"succeeded": "capture", "failed": "release", "stopped": "release"}.get(status)
            assert kinds == wanted, (unit, status, kinds)
        open_price = db.execute(
            "SELECT coalesce(sum(price), 0) FROM units JOIN runs ON runs.id = run_id"
            " WHERE units.status IN ('waiting', 'running')"
        ).fetchone()[0]
        assert sum(held for _, held in totals.values()) == open_price


@contextlib.contextmanager
def ended_with(pid: int) -> Iterator[None]:
    """Kill this process at the end, whatever happens."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

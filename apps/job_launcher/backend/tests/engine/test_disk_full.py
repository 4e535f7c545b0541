# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A full disk: runs fail with a clear message or go on, the database still says how, the service lives."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_launcher.refused import Refused
from tests.engine.helpers import config, ended, ledger_is_exact, printed, running, script, until, whole_log

MB = 2**20
#: Prints until it is stopped.
FLOOD = "import time\nwhile True: print('x' * 1000); time.sleep(0.0005)"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], check=False).returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextlib.contextmanager
def filled(place: Path) -> Iterator[Path]:
    """Fill the disk by a file that something else has written."""
    file = place / "other"
    with file.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"\0" * 4096)
    yield file


def test_a_run_that_fills_the_disk_fails_and_says_so(small: Path) -> None:
    values = {"disk_reserve": 2 * MB, "log_memory": 262144, "log_line_cap": 2000, "log_stall_timeout": 1.0}

    async def go() -> None:
        async with running(config(small / "data", {"flood": script(FLOOD)}, **values)) as engine:
            run, _ = await engine.start_run("ann", "flood", 2, 2)
            done = await ended(engine, run.id, 60)
            assert done.status == "failed" and done.counts.failed + done.counts.stopped == 2
            assert done.message == "the log can't be written: No space left on device"
            banner = engine.banner()
            assert banner and banner.kind == "degraded"
            assert (await engine.balance("ann")).held == 0
            # It still answers, and still works for what needs no room in the log's file.
            await engine.check()

    asyncio.run(go())
    ledger_is_exact(small / "data")


def test_a_run_goes_on_when_there_is_room_again(small: Path) -> None:
    code = "import time\nfor i in range(40): print(i, flush=True); time.sleep(0.1)"

    async def go() -> None:
        async with running(config(small / "data", {"job": script(code)}, disk_reserve=MB)) as engine:
            run, _ = await engine.start_run("ann", "job", 1)
            await until(lambda: engine.metrics()["log_writes_total"] > 1)
            with filled(small) as file:
                await until(lambda: engine.banner() is not None)
                file.unlink()
            done = await ended(engine, run.id)
            assert done.status == "succeeded" and engine.banner() is None
            assert printed(await whole_log(engine, run.id))[1, 1] == b"".join(b"%d\n" % n for n in range(40))

    asyncio.run(go())
    ledger_is_exact(small / "data")


def test_a_database_without_any_room_refuses_and_recovers(small: Path) -> None:
    async def go() -> None:
        async with running(config(small / "data", {"job": script("print(1)")}, disk_reserve=65536)) as engine:
            with filled(small) as file:
                # The reserve goes first; then there is really nothing.
                refusals = 0
                for _ in range(200):
                    try:
                        await engine.credit("ann", 1, "admin", "x" * 20000)
                    except Refused as refused:
                        assert refused.status == 503
                        refusals += 1
                assert refusals
                assert (await engine.balance("ann")).total > 0
                file.unlink()
            run, _ = await engine.start_run("ann", "job", 1)
            assert (await ended(engine, run.id)).status == "succeeded"

    asyncio.run(go())
    ledger_is_exact(small / "data")

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The number queue: not before the hold, tried again, dead in the end; and the pause when there are none."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from job_launcher.engine import Engine
from job_launcher.model import Event
from job_launcher.refused import Refused
from tests.engine.helpers import PYTHON, config, ended, ledger_is_exact, running, script, until, whole_log

REPORT = (
    "import json, os\n"
    "say = lambda **report: os.write(int(os.environ['LAUNCHER_REPORT_FD']), json.dumps(report).encode() + b'\\n')\n"
)
LEASE = REPORT + "say(type='acquired', number='n-' + os.environ['LAUNCHER_UNIT_ID']); "


def leasing(tmp_path: Path, hook: str = "", work: str = "") -> dict[str, Any]:
    """A template whose hook writes the number and the time into a file, and then does as told."""
    write = f"import sys, time; open({str(tmp_path / 'hook')!r}, 'a').write(f'{{sys.argv[1]}} {{time.time()}}\\n'); "
    release = {"argv": [*PYTHON, "-c", write + hook, "{number}"]}
    return script(LEASE + work, needs_numbers=True, release=release)


def released(tmp_path: Path) -> list[tuple[str, float]]:
    file = tmp_path / "hook"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(line.split()[0], float(line.split()[1])) for line in lines]


async def statuses(engine: Engine) -> dict[str, int]:
    counts: dict[str, int] = {}
    for number in (await engine.numbers(None)).items:
        counts[number.status] = counts.get(number.status, 0) + 1
    return counts


def test_numbers_are_released_after_their_hold(tmp_path: Path) -> None:
    async def go() -> None:
        wanted = config(tmp_path / "data", {"lease": leasing(tmp_path)}, number_min_hold=1.5)
        async with running(wanted) as engine:
            run, _ = await engine.start_run("ann", "lease", 3, 3)
            await ended(engine, run.id)
            held = (await engine.numbers("ann")).items
            assert {number.status for number in held} == {"held"} and len(held) == 3
            assert (await engine.numbers("bob")).items == []
            leases = {unit.lease for unit in (await engine.units(run.id)).items}
            assert leases == {number.value for number in held}
            await until(lambda: len(released(tmp_path)) == 3)
            due = {number.value: number.release_after / 1000 for number in held}
            for value, at in released(tmp_path):
                assert due[value] <= at < due[value] + 1.5
            await until(lambda: engine.status()["numbers"] == {"held": 0, "releasing": 0, "dead": 0})
            assert await statuses(engine) == {"released": 3}
            # Nothing waits: it doesn't wake any more, whatever the interval.
            wakes = engine.metrics()["number_queue_wakes_total"]
            await asyncio.sleep(1.2)
            assert engine.metrics()["number_queue_wakes_total"] == wakes

    asyncio.run(go())


def test_a_number_in_use_is_not_released(tmp_path: Path) -> None:
    async def go() -> None:
        job = leasing(tmp_path, work="import time; time.sleep(1.5)")
        async with running(config(tmp_path / "data", {"lease": job}, number_min_hold=0.2)) as engine:
            run, _ = await engine.start_run("ann", "lease", 1)
            done = await ended(engine, run.id)
            await until(lambda: released(tmp_path))
            assert done.ended_at is not None
            (unit,) = (await engine.units(run.id)).items
            assert released(tmp_path)[0][1] * 1000 >= unit.ended_at

    asyncio.run(go())


def test_a_failed_release_is_tried_again_then_dead_then_retried_by_hand(tmp_path: Path) -> None:
    fixed = tmp_path / "fixed"
    hook = f"import os; os.path.exists({str(fixed)!r}) or sys.exit('the other side says no')"

    async def go() -> None:
        values = {"number_min_hold": 0.1, "number_retry_backoff": 0.2, "number_release_attempts": 3}
        async with running(config(tmp_path / "data", {"lease": leasing(tmp_path, hook)}, **values)) as engine:
            run, _ = await engine.start_run("ann", "lease", 1)
            await ended(engine, run.id)
            await until(lambda: engine.status()["numbers"]["dead"] == 1)
            times = [at for _, at in released(tmp_path)]
            assert len(times) == 3 and times[1] - times[0] >= 0.2 and times[2] - times[1] >= 0.4
            (number,) = (await engine.numbers(None, status="dead")).items
            assert number.last_error == "the release hook ended with 1: the other side says no"
            with pytest.raises(Refused) as refused:
                await engine.retry_number(number.id, "bob", owner="bob")
            assert refused.value.status == 404
            fixed.touch()
            await engine.retry_number(number.id, "ann", owner="ann")
            await until(lambda: engine.status()["numbers"]["dead"] == 0)
            await until(lambda: len(released(tmp_path)) == 4)
            await until(lambda: engine.status()["numbers"] == {"held": 0, "releasing": 0, "dead": 0})
            with pytest.raises(Refused) as refused:
                await engine.drop_number(number.id, "admin", "by hand")
            assert refused.value.status == 409

    asyncio.run(go())


def test_a_hook_that_hangs_is_ended(tmp_path: Path) -> None:
    async def go() -> None:
        values = {"number_min_hold": 0.1, "number_release_timeout": 1.0, "number_release_attempts": 1}
        async with running(
            config(tmp_path / "data", {"lease": leasing(tmp_path, "time.sleep(60)")}, **values)
        ) as engine:
            await engine.start_run("ann", "lease", 1)
            await until(lambda: engine.status()["numbers"]["dead"] == 1)
            (number,) = (await engine.numbers(None)).items
            assert number.last_error == "the release hook took too long"
            await engine.drop_number(number.id, "admin", "done by hand")
            assert await statuses(engine) == {"released": 1}

    asyncio.run(go())


def test_a_hook_over_http_gets_the_number(tmp_path: Path) -> None:
    got: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        got.append(await request.json())
        return web.Response(status=500 if len(got) == 1 else 204)

    async def go() -> None:
        app = web.Application()
        app.router.add_post("/release", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        job = script(LEASE, needs_numbers=True, release={"url": f"http://127.0.0.1:{port}/release"})
        values = {"number_min_hold": 0.1, "number_retry_backoff": 0.1}
        async with running(config(tmp_path, {"lease": job}, **values)) as engine:
            run, _ = await engine.start_run("ann", "lease", 1)
            await until(lambda: len(got) == 2)
            (number,) = (await engine.numbers(None)).items
            assert got[0] == got[1] == {"number": number.value, "run_id": run.id, "unit_id": number.unit_id}
            await until(lambda: engine.status()["numbers"]["held"] + engine.status()["numbers"]["releasing"] == 0)
            assert number.last_error in {None, "the release hook answered 500"}
        await runner.cleanup()

    asyncio.run(go())


def test_no_numbers_pauses_raises_the_banner_and_goes_on_when_one_is_free(tmp_path: Path) -> None:
    """Two numbers in all: four units need one each, so two of them wait for a release."""
    pool = tmp_path / "pool"
    pool.mkdir()
    for name in ("a", "b"):
        (pool / name).touch()
    take = (
        REPORT + f"import sys, time; pool = {str(pool)!r}\n"
        "for name in sorted(os.listdir(pool)):\n"
        "    try: os.rename(f'{pool}/{name}', f'{pool}/../{name}.taken')\n"
        "    except OSError: continue\n"
        "    say(type='acquired', number=name); time.sleep(0.3); sys.exit(0)\n"
        "say(type='no_numbers'); sys.exit(1)\n"
    )
    give = (
        f"import os, sys; os.rename({str(tmp_path)!r} + f'/{{sys.argv[1]}}.taken', {str(pool)!r} + f'/{{sys.argv[1]}}')"
    )
    jobs = {
        "lease": script(take, needs_numbers=True, release={"argv": [*PYTHON, "-c", give, "{number}"]}),
        "plain": script("print(1)"),
    }
    banners: list[str | None] = []

    def watch(event: Event) -> None:
        if event.kind == "banner":
            banners.append(event.data["banner"] and event.data["banner"]["kind"])

    async def go() -> None:
        values = {"number_min_hold": 2.0, "no_numbers_pause": 60.0}
        async with running(config(tmp_path / "data", jobs, **values)) as engine:
            engine.subscribe(watch)
            began = time.monotonic()
            run, _ = await engine.start_run("ann", "lease", 4, 4)
            await until(lambda: engine.banner() is not None)
            other, _ = await engine.start_run("ann", "plain", 2)
            assert (await ended(engine, other.id)).status == "succeeded"
            assert (await engine.get_run(run.id)).ended_at is None
            done = await ended(engine, run.id)
            # Found none isn't held against a unit: no retries are allowed here, and all four succeed.
            assert (done.status, done.counts.succeeded) == ("succeeded", 4) and done.counts.retried >= 2
            assert time.monotonic() - began < 30, "it waited for the pause instead of the release"
            assert banners[0] == "no_numbers" and banners[-1] is None and engine.banner() is None
            assert b"found no free number" in await whole_log(engine, run.id)

    asyncio.run(go())
    ledger_is_exact(tmp_path / "data")

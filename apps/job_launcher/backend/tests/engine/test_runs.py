# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs from the request to their end: what is held, what is charged, who may start when."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from job_launcher.engine import Engine
from job_launcher.model import Event
from job_launcher.refused import Refused
from tests.engine.helpers import config, ended, ledger_is_exact, running, script, until, whole_log

OK = script("print('done')")
MIXED = script("import os, sys; sys.exit(int(os.environ['LAUNCHER_WORKER_NO']) % 2)")


def test_a_run_is_held_captured_and_released(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(config(tmp_path, {"mixed": {**MIXED, "price": 3}})) as engine:
            run, created = await engine.start_run("ann", "mixed", 8, 2)
            assert created and run.held == 24
            done = await ended(engine, run.id)
            assert done.status == "partly" and done.counts.succeeded + done.counts.failed == 8
            balance = await engine.balance("ann")
            assert balance.total == 1000 - 3 * done.counts.succeeded and balance.held == 0
            page = await engine.units(run.id)
            assert {unit.status for unit in page.items} == {"succeeded", "failed"}
            assert {unit.reason for unit in page.items} == {None, "ended with exit code 1"}

    asyncio.run(go())
    ledger_is_exact(tmp_path)


def test_fifty_posts_with_one_key_make_one_run(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(config(tmp_path, {"ok": OK})) as engine:
            answers = await asyncio.gather(*(engine.start_run("ann", "ok", 3, idempotency_key="k") for _ in range(50)))
            assert len({run.id for run, _ in answers}) == 1
            assert sum(created for _, created in answers) == 1
            with pytest.raises(Refused) as refused:
                await engine.start_run("ann", "ok", 4, idempotency_key="k")
            assert (refused.value.status, refused.value.field) == (409, "Idempotency-Key")
            await engine.credit("bob", 5, "admin", "x")
            other, created = await engine.start_run("bob", "ok", 3, idempotency_key="k")
            assert created and other.id != answers[0][0].id

    asyncio.run(go())
    ledger_is_exact(tmp_path)


def test_a_caller_who_goes_away_leaves_no_run_behind_that_nobody_starts(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(config(tmp_path, {"ok": OK})) as engine:
            asking = asyncio.create_task(engine.start_run("ann", "ok", 1))
            await asyncio.sleep(0)
            asking.cancel()
            await until(lambda: engine.metrics()["units_succeeded_total"] == 1)

    asyncio.run(go())
    ledger_is_exact(tmp_path)


def test_fifty_posts_over_the_balance_leave_it_exact(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(config(tmp_path, {"ok": OK}), credits=20) as engine:
            answers = await asyncio.gather(
                *(engine.start_run("ann", "ok", 3, idempotency_key=f"k{n}") for n in range(50)),
                return_exceptions=True,
            )
            refused = [each for each in answers if isinstance(each, Refused)]
            assert len(refused) == 44 and {each.status for each in refused} == {402}
            for run, _ in (each for each in answers if not isinstance(each, BaseException)):
                await ended(engine, run.id)
            assert (await engine.balance("ann")).to_json() == {"total": 2, "held": 0, "available": 2}

    asyncio.run(go())
    ledger_is_exact(tmp_path)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("template", {"template": "nothing"}),
        ("template", {"template": ["ok"]}),
        ("total", {"total": 0}),
        ("total", {"total": True}),
        ("total", {"total": 1.0}),
        ("total", {"total": 10001}),
        ("max_parallel", {"max_parallel": 9}),
        ("max_parallel", {"max_parallel": 0}),
        ("parameters", {"parameters": []}),
        ("parameters.x", {"parameters": {"x": 1}}),
        ("Idempotency-Key", {"idempotency_key": ""}),
        ("total", {"total": 1001}),
    ],
)
def test_bad_fields_are_named_and_nothing_is_changed(tmp_path: Path, field: str, values: dict[str, Any]) -> None:
    async def go() -> None:
        async with running(config(tmp_path, {"ok": OK})) as engine:
            with pytest.raises(Refused) as refused:
                await engine.start_run(**{"owner": "ann", "template": "ok", "total": 1, **values})
            assert refused.value.field == field
            assert (await engine.list_runs(None)).items == []
            assert (await engine.balance("ann")).held == 0

    asyncio.run(go())


def test_one_slow_unit_leaves_the_other_places_busy(tmp_path: Path) -> None:
    """Acceptance 11."""
    slow = script("import os, time; time.sleep(6 if os.environ['LAUNCHER_WORKER_NO'] == '1' else 0.2)")

    async def go() -> None:
        async with running(config(tmp_path, {"slow": slow}, worker_start_stagger=0.3)) as engine:
            run, _ = await engine.start_run("ann", "slow", 16, 4)
            await until(lambda: engine.metrics()["units_running"] == 4)
            began = time.monotonic()
            done = await ended(engine, run.id)
            assert done.counts.succeeded == 16
            # 15 short ones on 3 places are through long before the slow one; staggered they would not be.
            units = (await engine.units(run.id)).items
            slowest = max(units, key=lambda unit: unit.ended_at - unit.started_at)
            others = [unit for unit in units if unit is not slowest]
            assert max(unit.ended_at for unit in others) < slowest.ended_at - 500
            assert time.monotonic() - began < 8

    asyncio.run(go())


def test_starts_are_staggered_while_the_number_of_workers_grows(tmp_path: Path) -> None:
    async def go() -> None:
        jobs = {"sleep": script("import time; time.sleep(2)")}
        async with running(config(tmp_path, jobs, worker_start_stagger=0.4)) as engine:
            run, _ = await engine.start_run("ann", "sleep", 4, 4)
            await ended(engine, run.id)
            starts = sorted(unit.started_at for unit in (await engine.units(run.id)).items)
            assert all(later - sooner >= 380 for sooner, later in itertools.pairwise(starts))

    asyncio.run(go())


def test_the_limit_is_over_all_runs_and_they_share_it_fairly(tmp_path: Path) -> None:
    async def go() -> None:
        jobs = {"sleep": script("import time; time.sleep(0.3)")}
        async with running(config(tmp_path, jobs, max_parallel_limit=4)) as engine:
            most, shares = 0, []

            def watch(event: Event) -> None:
                nonlocal most
                if event.kind == "run":
                    seen[event.run_id or ""] = event.data["counts"]["running"]
                    most = max(most, sum(seen.values()))
                    shares.append(dict(seen))

            seen: dict[str, int] = {}
            first, _ = await engine.start_run("ann", "sleep", 12, 4)
            await until(lambda: engine.metrics()["units_running"] == 4)
            engine.subscribe(watch)
            second, _ = await engine.start_run("ann", "sleep", 6, 4)
            await ended(engine, second.id)
            assert most <= 4
            assert any(share.get(first.id) == 2 and share.get(second.id) == 2 for share in shares)
            await ended(engine, first.id)

    asyncio.run(go())


def test_failed_units_are_tried_again(tmp_path: Path) -> None:
    async def go() -> None:
        jobs = {"bad": script("import sys; sys.exit(3)", retries=2)}
        async with running(config(tmp_path, jobs)) as engine:
            run, _ = await engine.start_run("ann", "bad", 2)
            done = await ended(engine, run.id)
            assert (done.status, done.counts.failed, done.counts.retried) == ("failed", 2, 4)
            assert [unit.attempt for unit in (await engine.units(run.id)).items] == [3, 3]

    asyncio.run(go())
    ledger_is_exact(tmp_path)


def test_pages_go_on_where_they_ended(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(config(tmp_path, {"ok": OK})) as engine:
            made = [(await engine.start_run("ann", "ok", 5))[0].id for _ in range(5)]
            first = await engine.list_runs("ann", limit=3)
            second = await engine.list_runs("ann", before=first.next, limit=3)
            assert [run.id for run in (*first.items, *second.items)] == made[::-1] and second.next is None
            units = await engine.units(made[0], limit=3)
            rest = await engine.units(made[0], after=units.next)
            assert [unit.number for unit in (*units.items, *rest.items)] == [1, 2, 3, 4, 5]
            for bad in ("x", "-1", "1" * 30):
                with pytest.raises(Refused):
                    await engine.list_runs("ann", before=bad)

    asyncio.run(go())


def test_a_drain_lets_units_finish_and_a_later_launcher_does_the_rest(tmp_path: Path) -> None:
    jobs = {"short": script("import time; time.sleep(0.6); print('whole')")}

    async def first() -> str:
        async with running(config(tmp_path, jobs)) as engine:
            run, _ = await engine.start_run("ann", "short", 6, 2)
            await until(lambda: engine.metrics()["units_running"] == 2)
            await engine.drain()
            assert engine.banner() is not None
            with pytest.raises(Refused) as refused:
                await engine.start_run("ann", "short", 1)
            assert refused.value.status == 503
            assert (await engine.get_run(run.id)).counts.succeeded == 2
            return str(run.id)

    async def second(run_id: str) -> None:
        async with running(config(tmp_path, jobs), credits=0) as engine:
            done = await ended(engine, run_id)
            assert (done.status, done.counts.succeeded) == ("succeeded", 6)
            assert (await whole_log(engine, run_id)).count(b"whole") == 6

    asyncio.run(second(asyncio.run(first())))
    ledger_is_exact(tmp_path)


def test_a_drain_ends_what_takes_too_long_and_it_is_tried_again(tmp_path: Path) -> None:
    once = tmp_path / "once"
    code = f"import os, time; e = os.path.exists({str(once)!r}); open({str(once)!r}, 'w'); e or time.sleep(60)"
    jobs = {"patient": script(code, retries=1), "single": script("import time; time.sleep(60)")}

    async def first() -> tuple[str, str]:
        async with running(config(tmp_path / "data", jobs)) as engine:
            patient, _ = await engine.start_run("ann", "patient", 1)
            single, _ = await engine.start_run("ann", "single", 1)
            await until(once.exists)
            await until(lambda: engine.metrics()["units_running"] == 2)
            began = time.monotonic()
            await engine.drain(0.3)
            assert time.monotonic() - began < 5
            (unit,) = (await engine.units(single.id)).items
            assert (unit.status, unit.reason) == ("failed", "ended with the launcher")
            assert (await engine.balance("ann")).held == 1
            return patient.id, single.id

    async def second(patient: str, single: str) -> None:
        async with running(config(tmp_path / "data", jobs), credits=0) as engine:
            done = await ended(engine, patient)
            assert (done.status, done.counts.retried) == ("succeeded", 1)
            assert (await ended(engine, single)).status == "failed"

    asyncio.run(second(*asyncio.run(first())))
    ledger_is_exact(tmp_path / "data")


def test_progress_is_shown_while_a_unit_runs(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "fd = int(os.environ['LAUNCHER_REPORT_FD'])\n"
        'for i in range(200): os.write(fd, b\'{"type": "progress", "done": %d, "of": 200}\\n\' % i); time.sleep(0.01)'
    )

    async def go() -> None:
        async with running(config(tmp_path, {"job": script(code)})) as engine:
            seen: list[int] = []

            def take(event: Event) -> None:
                if event.kind == "unit" and event.data["status"] == "running" and event.data["report"]:
                    seen.append(event.data["report"]["progress"]["done"])

            engine.subscribe(take)
            run, _ = await engine.start_run("ann", "job", 1)
            await until(lambda: seen)
            (unit,) = (await engine.units(run.id)).items
            assert unit.status == "running" and unit.report
            await ended(engine, run.id)
            assert 2 <= len(seen) <= 5
            (unit,) = (await engine.units(run.id)).items
            assert unit.report == {"progress": {"done": 199, "of": 200}}

    asyncio.run(go())


def test_a_second_launcher_is_refused_the_data_directory(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(config(tmp_path, {"ok": OK})):
            with pytest.raises(Refused, match="in use by another launcher"):
                await Engine(config(tmp_path, {"ok": OK})).start()

    asyncio.run(go())


def test_the_ledger_can_only_be_appended_to(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(config(tmp_path, {"ok": OK})):
            pass

    asyncio.run(go())
    with sqlite3.connect(tmp_path / "launcher.sqlite") as db:
        for statement in ("UPDATE ledger SET amount = 2", "DELETE FROM ledger"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(statement)

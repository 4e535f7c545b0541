# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes: what a stop, a timeout or a limit leaves behind (nothing), and what a worker gets to see (little)."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from job_launcher.execution.processes import snapshot
from tests.engine.helpers import config, ended, of_units, printed, running, script, stretch, unit_ids, until, whole_log

#: A shell tree that ignores SIGTERM, a grandchild in a session of its own, one that has cleared its environment, too.
TREE = """
import os, signal, subprocess, time
subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; (sleep 300; true) & sleep 300; true"])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(300)
    os._exit(0)
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.execve("/bin/sleep", ["sleep", "300.125"], {})
print("tree", flush=True)
time.sleep(300)
"""


def sleepers() -> list[int]:
    """The living processes that cleared their environment."""
    return [pid for pid in snapshot() if _command(pid) == b"sleep\x00300.125\x00"]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_stop_leaves_nothing_of_eight_trees(tmp_path: Path) -> None:
    """Acceptance 4: within term grace + 1 s, all eight at once."""

    async def go() -> None:
        async with running(config(tmp_path, {"tree": script(TREE)}, max_parallel_limit=8)) as engine:
            run, _ = await engine.start_run("ann", "tree", 12, 8)
            units = unit_ids(tmp_path)
            await until(lambda: len(of_units(units)) >= 8 * 5 and len(sleepers()) == 8)
            began = time.monotonic()
            assert (await engine.stop_run(run.id, "ann")).status == "stopping"
            await until(lambda: not of_units(units) and not sleepers(), 5, pause=0.1)
            assert time.monotonic() - began < 1.0 + 1.0 * stretch()
            done = await ended(engine, run.id)
            assert (done.status, done.counts.stopped, done.message) == ("stopped", 12, "stopped by ann")
            assert (await engine.balance("ann")).to_json() == {"total": 1000, "held": 0, "available": 1000}
            assert (await engine.stop_run(run.id, "ann")).status == "stopped"
            mine = [each for each in snapshot().values() if each.parent == os.getpid()]
            assert mine == [], "zombies are left"

    asyncio.run(go())


def test_what_a_worker_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    left = "import subprocess; subprocess.Popen(['sleep', '300'], start_new_session=True); print('bye')"

    async def go() -> None:
        async with running(config(tmp_path, {"left": script(left)}, status_report_wait=0.3)) as engine:
            run, _ = await engine.start_run("ann", "left", 1)
            done = await ended(engine, run.id)
            assert done.status == "succeeded" and not of_units(unit_ids(tmp_path))
            assert printed(await whole_log(engine, run.id))[1, 1] == b"bye\n"

    asyncio.run(go())


def test_who_hides_its_unit_before_anybody_looked_ends_with_a_worker(tmp_path: Path) -> None:
    """Two forks, a session and an empty environment of its own, and the worker is gone: no look saw them together."""
    hiding = """
        import os
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execve("/bin/sleep", ["sleep", "300.125"], {})
            os._exit(0)
        os.wait()
    """

    async def go() -> None:
        async with running(config(tmp_path, {"hiding": script(dedent(hiding))})) as engine:
            for _ in range(5):
                run, _ = await engine.start_run("ann", "hiding", 4, 4)
                assert (await ended(engine, run.id)).status == "succeeded"
                assert sleepers() == []

    asyncio.run(go())


@pytest.mark.parametrize(
    ("code", "fields", "reason"),
    [
        ("import time; time.sleep(60)", {"timeout": 0.5}, "ran longer than 0.5 s"),
        (
            "import time\nfor _ in range(3): print(1, flush=True); time.sleep(0.3)\ntime.sleep(60)",
            {"idle_timeout": 0.6},
            "printed and reported nothing for 0.6 s",
        ),
        ("x = b'x' * 300000000; import time; time.sleep(60)", {"limits": {"rss_kill": 100}}, "more than 100 MB"),
        ("import os; os.kill(os.getpid(), 9)", {}, "killed by SIGKILL"),
        ("x = b'x' * 300000000", {"limits": {"address_space": 200}}, "ended with exit code 1"),
        ("while True: pass", {"limits": {"cpu_time": 1}}, "killed by SIGKILL"),
        ("f = [open('/dev/null') for _ in range(100)]", {"limits": {"open_files": 50}}, "ended with exit code 1"),
        (
            'import os; os.write(int(os.environ[\'LAUNCHER_REPORT_FD\']), b\'{"type": "result", "success": false}\')',
            {},
            "the worker reported a failure",
        ),
    ],
)
def test_why_a_unit_failed_is_said(tmp_path: Path, code: str, fields: dict[str, Any], reason: str) -> None:
    async def go() -> None:
        async with running(config(tmp_path, {"job": script(code, **fields)})) as engine:
            run, _ = await engine.start_run("ann", "job", 1)
            done = await ended(engine, run.id)
            (unit,) = (await engine.units(run.id)).items
            assert done.status == "failed" and reason in unit.reason
            assert reason in (await whole_log(engine, run.id)).decode()

    asyncio.run(go())


def test_a_program_that_is_not_there_fails_its_unit(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(config(tmp_path, {"none": {"argv": ["/nowhere/at-all"]}})) as engine:
            run, _ = await engine.start_run("ann", "none", 1)
            assert (await ended(engine, run.id)).status == "failed"
            assert b"could not be started" in await whole_log(engine, run.id)

    asyncio.run(go())


def test_a_worker_sees_the_contract_and_its_template_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCHER_SECRET", "not for workers")
    code = (
        "import json, os; "
        "print(json.dumps([dict(os.environ), sorted(os.listdir('/proc/self/fd')), os.getsid(0) == os.getpid()]))"
    )
    parameters = {"word": {"type": "string"}}
    job = script(code, env={"WORD": "{word}", "LANG": "C"}, parameters=parameters)
    job["argv"] = [*job["argv"], "{word}"]

    async def go() -> None:
        async with running(config(tmp_path, {"job": job})) as engine:
            hostile = "$(touch x); `id` | rm; 'a' \"b\" {word}"
            run, _ = await engine.start_run("ann", "job", 1, 1, {"word": hostile})
            assert (await ended(engine, run.id)).status == "succeeded"
            environment, descriptors, leads = json.loads(printed(await whole_log(engine, run.id))[1, 1])
            fd = environment.pop("LAUNCHER_REPORT_FD")
            assert environment.pop("LAUNCHER_UNIT_ID").startswith("u_")
            environment.pop("LC_CTYPE", None)
            assert environment == {
                "LAUNCHER_RUN_ID": run.id,
                "LAUNCHER_WORKER_NO": "1",
                "WORD": hostile,
                "LANG": "C",
            }
            # The three standard ones, the report pipe, and that of the listing itself.
            assert set(descriptors) <= {"0", "1", "2", "3", fd} and len(descriptors) == 5
            assert leads

    asyncio.run(go())


def test_reports_are_bounded_and_what_is_forged_is_ignored(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "fd = int(os.environ['LAUNCHER_REPORT_FD'])\n"
        "def say(b):\n"
        "    while b: b = b[os.write(fd, b):]\n"
        'say(b\'{"type": "progress", "done": 1, "of": 2}\\n\')\n'
        "say(b'x' * 3000000 + b'\\n')\n"
        "say(b'[' * 60000 + b'\\n')\n"
        'say(b\'{"type": "result", "success": 1}\\n\')\n'
        'say(b\'{"type": "acquired", "number": "7"}\\n\')\n'
        'say(b\'{"type": "result", "success": true, "data": {"x": NaN}}\\n\')\n'
        'say(b\'{"type": "result", "success": true, "data": {"x": 1}}\')\n'
        "os._exit(5)\n"
    )

    async def go() -> None:
        async with running(config(tmp_path, {"job": script(code)})) as engine:
            run, _ = await engine.start_run("ann", "job", 1)
            done = await ended(engine, run.id)
            (unit,) = (await engine.units(run.id)).items
            assert done.status == "succeeded" and unit.exit_code == 5
            assert unit.report == {"success": True, "data": {"x": 1}}
            log = (await whole_log(engine, run.id)).decode()
            assert log.count("a report was ignored") == 4 and "doesn't need any: ignored" in log
            assert (await engine.numbers(None)).items == []

    asyncio.run(go())


def test_the_end_of_a_worker_is_seen_at_once(tmp_path: Path) -> None:
    """status_report_wait is an upper bound: with everything in, nobody waits."""

    async def go() -> None:
        jobs = {"job": script("import time; time.sleep(0.5)")}
        async with running(config(tmp_path, jobs, status_report_wait=30)) as engine:
            run, _ = await engine.start_run("ann", "job", 1)
            await ended(engine, run.id, 10)
            (unit,) = (await engine.units(run.id)).items
            assert unit.ended_at - unit.started_at < 2500

    asyncio.run(go())

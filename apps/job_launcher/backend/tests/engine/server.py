# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A launcher of its own process, to be killed: `server.py <data dir> <runs> <units>`; says `ready`, then `idle`.

With 0 runs it only takes on what an earlier one left. `idle`: nothing is left to do.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from job_launcher.engine import Engine
from tests.engine.helpers import config, script

#: Prints, starts a child in a session of its own, ends in one of several ways, each by chance.
WORK = """
import os, random, subprocess, sys, time
for i in range(random.randrange(1, 6)):
    print("line", i, flush=True)
    time.sleep(random.random() * 0.05)
if random.random() < 0.3:
    subprocess.Popen(["sleep", "300"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
chance = random.random()
if chance < 0.1:
    os.kill(os.getpid(), 9)
sys.exit(chance < 0.2)
"""
#: Lasts until it is killed: what is left of it can't have ended by itself.
LASTING = "import subprocess, time; subprocess.Popen(['sleep', '300'], start_new_session=True); time.sleep(300)"
JOBS = {"work": script(WORK, retries=1), "lasting": script(LASTING)}


async def main(data_dir: Path, template: str, count: int, units: int) -> None:
    """Serve until SIGTERM."""
    engine = Engine(config(data_dir, JOBS, max_parallel_limit=8, status_report_wait=0.3))
    await engine.start()
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    print("ready", flush=True)
    if count:
        await engine.credit("ann", count * units, "admin", "for tests")
    for number in range(count):
        await engine.start_run("ann", template, units, 8, idempotency_key=f"{data_dir}-{number}")
    while not ending.is_set():
        if not engine.metrics()["runs_active"]:
            print("idle", flush=True)
            await ending.wait()
        await asyncio.sleep(0.05)
    await engine.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))

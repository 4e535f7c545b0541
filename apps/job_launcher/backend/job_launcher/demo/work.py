# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's worker, also an example of the worker contract: `work.py print|lease <lines> <pause ms> <ending>`."""

import json
import os
import random
import signal
import sys
import time

COLOURS = (32, 33, 36)


def report(message: dict[str, object]) -> None:
    """Send one report: a JSON line on the descriptor that the launcher names."""
    os.write(int(os.environ["LAUNCHER_REPORT_FD"]), json.dumps(message).encode() + b"\n")


def work(kind: str, lines: int, pause: float, ending: str) -> int:
    """Print so many lines, report progress and how it went; returns the exit code."""
    worker = int(os.environ["LAUNCHER_WORKER_NO"])
    if kind == "lease":
        report({"type": "acquired", "number": f"demo-{os.environ['LAUNCHER_UNIT_ID']}"})
    step = max(1, lines // 100)
    for line in range(1, lines + 1):
        colour = COLOURS[worker % len(COLOURS)]
        print(f"\x1b[{colour}mworker {worker}\x1b[0m line {line} of {lines}", flush=True)
        if line % step == 0:
            report({"type": "progress", "done": line, "of": lines})
        time.sleep(pause)
    if ending == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    success = ending == "succeed" or (ending == "mixed" and random.randrange(3) > 0)  # noqa: S311 # it is a demo
    report({"type": "result", "success": success, "data": {"lines": lines}})
    return 0 if success else 1


def main() -> int:
    """Work, or release a number, which needs nothing here."""
    kind, *arguments = sys.argv[1:]
    if kind == "release":
        return 0
    lines, pause, ending = arguments
    return work(kind, int(lines), int(pause) / 1000, ending)


if __name__ == "__main__":
    sys.exit(main())

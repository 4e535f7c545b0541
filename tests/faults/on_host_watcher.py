"""Runs on the manager: looks at a unit's journal and acts on the engine when an event of a step is written.

Argument: JSON {"unit", "step", "event", "act", "delay", "but", "state"}. Only entries written from now on count, and
only the first that agrees; a step may be a glob, and is none of `but`. `act`: `kill` (-9), `hold` (stop until a line
comes on the standard input) or `none`. Says `looking`, then `killed <pid>` or `held <pid>`, then `seen <entry>`. Ends
with its standard input.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

EVERY = 0.003


def main() -> None:
    """Look until the event comes or nobody wants to know any more."""
    given = json.loads(sys.argv[1])
    journal = Path(given["state"], given["unit"], "journal.jsonl")
    read = journal.stat().st_size if journal.exists() else 0
    print("looking", flush=True)
    while True:
        try:
            size = journal.stat().st_size
        except FileNotFoundError:
            size = read = 0
        if size > read:
            with journal.open() as file:
                file.seek(read)
                text = file.read()
            whole = text[: text.rfind("\n") + 1]
            read += len(whole.encode())
            for line in whole.splitlines():
                if act(given, line):
                    return
        if select.select([sys.stdin], [], [], EVERY)[0] and not os.read(0, 1):
            return


def act(given: dict[str, Any], line: str) -> bool:
    """Act if a line of the journal is the one; returns whether it was."""
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    step = entry.get("step", "")
    if entry.get("event") != given["event"] or step in given["but"] or not fnmatch.fnmatchcase(step, given["step"]):
        return False
    time.sleep(given["delay"])
    held = []
    for pid in engines(f"{given['state']}/lock") if given["act"] != "none" else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if given["act"] == "kill" else signal.SIGSTOP)
            print(f"{'killed' if given['act'] == 'kill' else 'held'} {pid}", flush=True)
            held.append(pid)
    print(f"seen {json.dumps(entry)}", flush=True)
    if given["act"] == "hold":
        os.read(0, 1)
        for pid in held:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    return True


def engines(lock: str) -> list[int]:
    """Return who has the lock of moves open: that is the engine, whatever Ansible calls the process."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                if any(_leads_to(each, lock) for each in (process / "fd").iterdir()):
                    found.append(int(process.name))
    return found


def _leads_to(link: Path, goal: str) -> bool:
    try:
        return str(link.readlink()) == goal
    except OSError:
        return False


if __name__ == "__main__":
    main()

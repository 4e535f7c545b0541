"""Runs on the manager: looks at a unit's journal and runs a command when an event of a step is written.

Argument: JSON {"unit", "step", "event", "command", "delay", "state"}. Only entries written from now on count, and only
the first that agrees; a step may be a glob. Says `looking`, then `seen <entry>`. Ends with its standard input.
"""

from __future__ import annotations

import fnmatch
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

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


def act(given: dict[str, str | float], line: str) -> bool:
    """Run the command if a line of the journal is the one; returns whether it was."""
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    if entry.get("event") != given["event"] or not fnmatch.fnmatchcase(entry.get("step", ""), str(given["step"])):
        return False
    time.sleep(float(given["delay"]))
    done = subprocess.run(["sh", "-c", str(given["command"])], capture_output=True, text=True, check=False)
    print(f"seen {json.dumps(entry)}\n{done.stdout}{done.stderr}", flush=True)
    return True


if __name__ == "__main__":
    main()

"""Runs on a lab host: writes down every command line that any process has, looking 20 times a second.

Argument: the file to write, one JSON object a line: {"at", "argv": [...], "service"}; `service` is the Swarm service
whose container the process is in, "" for none. Only new ones are written.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

EVERY = 0.05
CONTAINER = re.compile(r"[0-9a-f]{64}")


def service_of(process: Path, known: dict[str, str]) -> str:
    """Return the service that a process belongs to."""
    found = CONTAINER.findall((process / "cgroup").read_text())
    # The host is a container itself: what is innermost counts, and its own id is no service's.
    if not found:
        return ""
    if found[-1] not in known:
        template = '{{index .Config.Labels "com.docker.swarm.service.name"}}'
        asked = subprocess.run(
            ["docker", "inspect", "--format", template, found[-1]], capture_output=True, text=True, check=False
        )
        known[found[-1]] = asked.stdout.strip()
    return known[found[-1]]


def main() -> None:
    """Look until killed."""
    seen: set[bytes] = set()
    known: dict[str, str] = {}
    with Path(sys.argv[1]).open("a", buffering=1) as file:
        while True:
            for process in Path("/proc").iterdir():
                if not process.name.isdigit():
                    continue
                try:
                    raw = (process / "cmdline").read_bytes()
                    if not raw or raw in seen:
                        continue
                    service = service_of(process, known)
                except OSError:
                    continue
                seen.add(raw)
                argv = raw.decode(errors="replace").rstrip("\0").split("\0")
                file.write(json.dumps({"at": time.time(), "argv": argv, "service": service}) + "\n")
            time.sleep(EVERY)


if __name__ == "__main__":
    main()

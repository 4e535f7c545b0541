# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Arm the deadline's watcher: a systemd timer on the manager that gives a fenced unit back if nobody goes on with it.

The timer and its service lie in /etc and the instructions in /var, so they outlive a reboot: a deadline that passed
while the machine was down is acted on at the next boot.
"""

from __future__ import annotations

import datetime
import io
import json
import os
import subprocess
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _engine
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import (
    calls,
    errors,
    host,
    journal,
    stopping,
    talk,
    walk,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.calls import source_of
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import (
    answering,
    containers,
    copies,
    give_back,
)

_MODULES: tuple[ModuleType, ...] = (
    *(_engine, errors, host, calls, talk, journal, walk),
    *(answering, containers, copies, stopping, give_back),
)
_RETRY_SECONDS = 5


class Watcher:
    """The watcher of one unit. `directory`: where the unit's journal lies."""

    def __init__(self, unit: str, directory: Path) -> None:
        self.unit = unit
        self.instructions = directory / "give_back.json"
        self.program = directory / "give_back.zip"
        self.timer = f"evenkeel-give-back-{unit}"

    def until(self) -> float | None:
        """Return when it is due (seconds since the epoch), None if it has nothing to do."""
        try:
            return float(json.loads(self.instructions.read_text(encoding="utf-8"))["until"])
        except FileNotFoundError:
            return None

    def arm(self, instructions: Mapping[str, Any], seconds: float) -> None:
        """Have the unit given back after so many seconds. Raises MoveError if systemd does not take the timer."""
        until = time.time() + seconds
        write(self.program, program())
        write(self.instructions, json.dumps({**instructions, "until": until}).encode())
        due = datetime.datetime.fromtimestamp(until, datetime.UTC) + datetime.timedelta(seconds=1)
        python = "/usr/bin/python3"
        service = (
            f"[Unit]\nDescription=Give {self.unit} back to its source if its switch is not done in time\n"
            "After=docker.service\nStartLimitIntervalSec=0\n"
            f"[Service]\nType=oneshot\nRestart=on-failure\nRestartSec={_RETRY_SECONDS}\n"
            f"ExecStart={python} -I {self.program} {self.instructions} {self.timer}\n"
        )
        timer = (
            f"[Unit]\nDescription=The deadline of the switch of {self.unit}\n"
            f"[Timer]\nOnCalendar={due:%Y-%m-%d %H:%M:%S} UTC\nPersistent=true\nAccuracySec=1s\n"
            "[Install]\nWantedBy=timers.target\n"
        )
        # A timer of an earlier switch would count from its own last run.
        _systemctl("disable", "--now", "--quiet", f"{self.timer}.timer", check=False)
        (give_back.STAMPS / f"stamp-{self.timer}.timer").unlink(missing_ok=True)
        write(give_back.UNITS / f"{self.timer}.service", service.encode(), mode=0o644)
        write(give_back.UNITS / f"{self.timer}.timer", timer.encode(), mode=0o644)
        _systemctl("daemon-reload")
        _systemctl("enable", "--now", "--quiet", f"{self.timer}.timer")

    def armed(self) -> bool:
        """Return whether the timer will come."""
        active = _systemctl("is-active", "--quiet", f"{self.timer}.timer", check=False)
        return self.instructions.exists() and active

    def wait_for_strays(self) -> None:
        """Wait until no container is still stopping on the source (see give_back.wait_for_strays)."""
        give_back.wait_for_strays(give_back.read(self.instructions))

    def give_back(self, verb: str) -> bool:
        """Do now what the watcher would do at the deadline; returns False where a promotion was intended."""
        given = give_back.give_back(self.instructions, verb)
        self.disarm()
        return given

    def disarm(self) -> None:
        """Take the watcher away."""
        give_back.disarm(self.instructions, self.timer)


def program() -> bytes:
    """Return the watcher's archive: the modules that it needs, as they are here."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        packages = {""}
        for module in _MODULES:
            path = module.__name__.replace(".", "/")
            parts = path.split("/")[:-1]
            packages |= {"/".join(parts[: index + 1]) + "/" for index in range(len(parts))}
            archive.writestr(f"{path}.py", source_of(module))
        for package in packages - {""}:
            archive.writestr(f"{package}__init__.py", "")
        archive.writestr("__main__.py", f"from {give_back.__name__} import main\n\nmain()\n")
    return packed.getvalue()


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file whole or not at all, and on disk when the call returns."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    fresh.replace(path)


def _systemctl(*arguments: str, check: bool = True) -> bool:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False, timeout=60)
    if check and done.returncode:
        raise MoveError("no_watcher", f"systemctl {arguments[0]} failed: {done.stderr.strip()}")
    return done.returncode == 0

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a probe keeps on the host so that it is undone whatever happens: a lock, an intent, a timer."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _put_back

# Not kept over a reboot, as raised limits aren't either: Swarm then makes new containers from the services' specs.
STATE = Path("/run/evenkeel-probe")
INTENT = STATE / "intent.json"
PROGRAM = STATE / "put_back.py"
LOCK = STATE / "lock"
_SYSTEMD = Path("/run/systemd/system")
# The engine may be restarting when the timer is due.
_RETRY_SECONDS = 5


class GuardError(Exception):
    """Nothing may be raised, for a reason that the message says."""


def missing_means() -> str:
    """Say what this host lacks for a timer that puts limits back, "" if nothing."""
    if os.geteuid() != 0:
        return "a probe needs root (become: true): the timer that puts the limit back is a system timer"
    if shutil.which("systemd-run") is None or not _SYSTEMD.is_dir():
        return "a probe needs systemd on the host, for the timer that puts the limit back if the probe is killed"
    return ""


@contextlib.contextmanager
def locked(*, read_only: bool = False) -> Iterator[None]:
    """Keep other probes off this host while the block runs; raises GuardError where there is one.

    With `read_only` nothing is written: a lock that isn't there is nobody's.
    """
    if read_only and not LOCK.exists():
        yield
        return
    STATE.mkdir(mode=0o700, exist_ok=True)
    # The kernel gives the lock back when this process ends, however it ends.
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        whose = (leftover() or {}).get("service")
        raise GuardError(
            f"another probe{f' ({whose})' if whose else ''} is under way on this host; wait for it to end"
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)


def leftover() -> dict[str, Any] | None:
    """Return the intent on this host, None if there is none. Under the lock it is that of a probe that was killed."""
    try:
        intent: dict[str, Any] = json.loads(INTENT.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return intent


def arm(service: str, docker_host: str, limits: Mapping[str, int], seconds: float) -> str:
    """Record the limits (nano-CPUs by container) and have a timer put them back after `seconds`; returns its unit."""
    unit = f"evenkeel-probe-{secrets.token_hex(4)}"
    _write(PROGRAM, inspect.getsource(_put_back))
    intent = {"service": service, "pid": os.getpid(), "docker_host": docker_host, "limits": limits, "unit": unit}
    _write(INTENT, json.dumps(intent))
    command = [
        *("systemd-run", "--quiet", f"--unit={unit}", f"--description=Put the CPU limit of {service} back"),
        *(f"--on-active={seconds:.0f}s", "--timer-property=AccuracySec=1s", "--property=Type=oneshot"),
        *("--property=Restart=on-failure", f"--property=RestartSec={_RETRY_SECONDS}"),
        *(sys.executable, "-I", str(PROGRAM), str(INTENT)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        INTENT.unlink()
        raise GuardError(f"systemd-run did not take the timer that puts the limit back: {done.stderr.strip()}")
    return unit


def undo() -> list[str]:
    """Put back what the intent says, stop its timer; returns the containers put back. Raises _put_back.UpdateError.

    If that is raised the timer stays armed, and tries again.
    """
    intent = leftover()
    done = _put_back.put_back(INTENT)
    if intent is not None:
        units = [f"{intent['unit']}.timer", f"{intent['unit']}.service"]
        # What has run or is gone can't be stopped: that is no problem.
        subprocess.run(["systemctl", "stop", *units], capture_output=True, check=False)
    return done


def _write(path: Path, content: str) -> None:
    """Write a file whole or not at all, for root only."""
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(content)
    fresh.replace(path)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher as a process of its own, for what is measured from outside or told by signals."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.web.harness import TEMPLATES, USERS, WORD, Who

BACKEND = Path(__file__).parents[2]
TICKS = os.sysconf("SC_CLK_TCK")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(BACKEND), **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "job_launcher.cli", *arguments]


@dataclass
class Launched:
    """A running process."""

    process: subprocess.Popen[bytes]
    port: int
    root: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident(self) -> int:
        """Bytes of memory in use now."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) * 1024

    def cli(self, *arguments: str, feed: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the same configuration."""
        settings = {"JOB_LAUNCHER_CONFIG": str(self.root / "config.yml"), "JOB_LAUNCHER_URL": self.url, **more}
        return subprocess.run(
            command(*arguments), input=feed, env=environment(**settings), capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip

    def token(self, name: str) -> Who:
        made = self.cli("user", "token", name)
        assert made.returncode == 0, made.stderr
        return Who(self.port, {"Authorization": f"Bearer {made.stdout.strip()}"})

    def end(self, number: int = signal.SIGTERM, seconds: float = 30.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def process(
    root: Path, tunables: Mapping[str, Any] | None = None, names: Iterable[str] = USERS, **templates: Any
) -> Iterator[Launched]:
    """The launcher with some users of USERS; its standard error is in `root`/stderr."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (root / "secret").write_text(WORD + "\n")
    document = {
        "data_dir": "data",
        "listen": f"127.0.0.1:{port}",
        "public_url": f"http://127.0.0.1:{port}",
        "secrets_dir": ".",
        "templates": {**TEMPLATES, **templates},
        "tunables": {"worker_start_stagger": 0, **(tunables or {})},
        "users": [{"name": name, "role": USERS[name], "balance": 1000, "password_file": "secret"} for name in names],
    }
    (root / "config.yml").write_text(yaml.safe_dump(document))
    with (root / "stderr").open("wb") as stderr:
        child = subprocess.Popen(
            command("serve", "--config", str(root / "config.yml")), env=environment(), stderr=stderr
        )
    try:
        _wait_ready(child, port)
        yield Launched(child, port, root)
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait_ready(child: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and child.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise AssertionError("the launcher does not answer")

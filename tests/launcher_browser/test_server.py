# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages against the real server with its demo template: log in, run, watch, stop, lose the wire, read history."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from lab.settings import PROJECT
from tests.launcher_browser import flows
from tests.launcher_browser.conftest import Reader
from tests.launcher_browser.loops import Loop
from tests.launcher_browser.wire import Cut, Wire

BACKEND = PROJECT / "apps" / "job_launcher" / "backend"
START_SECONDS = 60


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Launcher:
    """`job-launcher serve --demo` behind a wire."""

    def __init__(self, data: Path, bundle: Path) -> None:
        self.data = data
        self.port = free_port()
        self._bundle = bundle
        self._loop = Loop()
        self._wire = Wire(self.port)
        self._loop.run(self._wire.open())
        self.url = f"http://127.0.0.1:{self._wire.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "job_launcher.cli", "serve", "--demo", "--data-dir", str(self.data)]
        command += ["--listen", f"127.0.0.1:{self.port}", "--static-dir", str(self._bundle)]
        environment = {**os.environ, "PYTHONPATH": str(BACKEND)}
        log = (self.data.parent / "server.log").open("ab")
        self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self._await()

    def _await(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self.process.poll() is None, (self.data.parent / "server.log").read_text()
                time.sleep(0.2)
            else:
                return
        pytest.fail("the server doesn't listen")

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(60)

    def cut(self, what: Cut) -> None:
        self._loop.run(self._wire.cut(what))

    def password(self) -> str:
        return (self.data / "admin-password").read_text().strip()

    def close(self) -> None:
        self._loop.run(self._wire.close())
        self._loop.close()
        self.stop()


@pytest.fixture(scope="module")
def launcher(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    started = Launcher(tmp_path_factory.mktemp("launcher") / "data", bundle)
    yield started
    started.close()


@pytest.fixture
def admin(browser: Browser, launcher: Launcher) -> Iterator[Reader]:
    """The first user, signed in."""
    reader = Reader(browser, launcher.url)
    reader.log_in("admin", launcher.password())
    yield reader
    reader.close()


def test_a_run_of_eight_pushes_its_log_and_the_balance(admin: Reader) -> None:
    flows.run_of_eight(admin)


def test_a_run_is_stopped(admin: Reader) -> None:
    flows.stopped_run(admin)


@pytest.mark.parametrize("seconds", [4, pytest.param(30, marks=pytest.mark.soak)])
def test_the_log_is_the_files_after_the_wire_was_cut(admin: Reader, launcher: Launcher, seconds: float) -> None:
    flows.log_after_a_cut(admin, launcher.cut, seconds)


def test_a_restarted_server_is_found_again(admin: Reader, launcher: Launcher) -> None:
    page = admin.page
    launcher.stop()
    expect(page.locator(".banner", has_text="Connection lost")).to_be_visible(timeout=20_000)
    launcher.start()
    expect(page.locator(".banner")).to_have_count(0, timeout=30_000)
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(page.get_by_role("row").nth(1)).to_be_visible()


def test_every_page_is_accessible_and_quiet(admin: Reader) -> None:
    flows.every_page(admin)


def test_bad_input_names_its_field(admin: Reader) -> None:
    page = admin.page
    page.get_by_label("Units in all").fill("999999999")
    expect(page.get_by_text("The balance lacks")).to_be_visible()
    page.get_by_label("Units in all").fill("1")
    page.get_by_label("Pause").fill("60001")
    page.get_by_role("button", name="Start the run").click()
    expect(page.get_by_label("Pause")).to_have_attribute("aria-invalid", "true")

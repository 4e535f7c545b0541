# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages against the real server with its demo template: log in, run, watch, stop, lose the wire, read history."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from lab.settings import PROJECT
from tests.launcher_browser.conftest import Reader, fits, violations
from tests.launcher_browser.loops import Loop
from tests.launcher_browser.wire import Cut, Wire

BACKEND = PROJECT / "apps" / "job_launcher" / "backend"
START_SECONDS = 60
TOTAL = 8
PAGES = ("/", "/runs", "/logs", "/numbers", "/ledger", "/settings")


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


def start(page: Page, lines: int, pause: int, total: int = TOTAL) -> None:
    """Start a run and wait for its card; the pause is in ms."""
    before = page.locator(".run-card").count()
    page.get_by_label("Lines").fill(str(lines))
    page.get_by_label("Pause").fill(str(pause))
    page.get_by_label("Units in all").fill(str(total))
    slider = page.get_by_label("At a time")
    slider.fill(slider.get_attribute("max") or "")
    page.get_by_role("button", name="Start the run").click()
    expect(page.locator(".run-card")).to_have_count(before + 1, timeout=20_000)


def test_a_run_of_eight_pushes_its_log_and_the_balance(admin: Reader) -> None:
    page = admin.page
    expect(page.get_by_test_id("available")).to_have_text(re.compile(r"\d"))
    available = int(page.get_by_test_id("available").inner_text().replace(",", ""))
    start(page, lines=60, pause=100)
    expect(page.get_by_test_id("available")).to_have_text(f"{available - TOTAL:,}")
    card = page.locator(".run-card").first
    expect(card.locator(".unit-running").first).to_be_visible(timeout=20_000)
    admin.screenshot("server-running", full=True)
    assert violations(page) == []
    card.get_by_role("link", name="Follow the log").click()
    expect(page.locator(".log-text", has_text="line 1 of 60").first).to_be_visible(timeout=20_000)
    expect(page.get_by_test_id("log-state")).to_have_text("complete", timeout=120_000)
    page.get_by_label("Unit", exact=True).select_option("3")
    expect(page.get_by_test_id("log-lines")).to_have_text("60 lines")
    admin.screenshot("server-log")
    page.get_by_role("link", name="Ledger", exact=True).click()
    expect(page.get_by_role("row").filter(has_text="paid")).to_have_count(TOTAL)
    admin.screenshot("server-ledger", full=True)


def test_a_run_is_stopped(admin: Reader) -> None:
    page = admin.page
    start(page, lines=10_000, pause=100)
    card = page.locator(".run-card").first
    expect(card.locator(".unit-running").first).to_be_visible(timeout=20_000)
    card.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop the run").click()
    expect(page.locator(".run-card")).to_have_count(0, timeout=60_000)
    page.get_by_role("link", name="Runs", exact=True).click()
    row = page.get_by_role("row").nth(1)
    expect(row).to_contain_text("stopped")
    row.get_by_role("link").click()
    expect(page.locator(".unit-stopped")).to_have_count(TOTAL)
    admin.screenshot("server-stopped", full=True)


def test_the_log_is_the_files_after_the_wire_was_cut(admin: Reader, launcher: Launcher) -> None:
    page = admin.page
    start(page, lines=100, pause=100)
    page.get_by_role("link", name="Follow the log").first.click()
    run_id = page.url.rsplit("/", 1)[1]
    expect(page.locator(".log-text", has_text="line 1 of 100").first).to_be_visible(timeout=20_000)
    launcher.cut("everything")
    expect(page.locator(".banner", has_text="Connection lost")).to_be_visible(timeout=20_000)
    time.sleep(4)
    launcher.cut("nothing")
    expect(page.locator(".banner")).to_have_count(0, timeout=30_000)
    expect(page.get_by_test_id("log-state")).to_have_text("complete", timeout=120_000)
    log = admin.context.request.get(f"/api/runs/{run_id}/log/download").text()
    lines = log.count("\n")
    expect(page.get_by_test_id("log-lines")).to_have_text(f"{lines:,} lines")
    for unit in (1, TOTAL):
        page.get_by_label("Unit", exact=True).select_option(str(unit))
        expect(page.get_by_test_id("log-lines")).to_have_text("100 lines")
        expect(page.locator(".log-text").last).to_contain_text("line 100 of 100")


def test_a_restarted_server_is_found_again(admin: Reader, launcher: Launcher) -> None:
    page = admin.page
    launcher.stop()
    expect(page.locator(".banner", has_text="Connection lost")).to_be_visible(timeout=20_000)
    launcher.start()
    expect(page.locator(".banner")).to_have_count(0, timeout=30_000)
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(page.get_by_role("row").nth(1)).to_be_visible()


def test_every_page_is_accessible_and_quiet(admin: Reader) -> None:
    page = admin.page
    for path in PAGES:
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator(".state .spinner")).to_have_count(0)
        admin.screenshot(f"server{path.replace('/', '-')}", full=True)
        assert fits(page), path
        assert violations(page) == [], path


def test_bad_input_names_its_field(admin: Reader) -> None:
    page = admin.page
    page.get_by_label("Units in all").fill("999999999")
    expect(page.get_by_text("The balance lacks")).to_be_visible()
    page.get_by_label("Units in all").fill("1")
    page.get_by_label("Pause").fill("60001")
    page.get_by_role("button", name="Start the run").click()
    expect(page.get_by_label("Pause")).to_have_attribute("aria-invalid", "true")

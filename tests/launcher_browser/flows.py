# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a reader does with a real launcher whose first template is the demo's, wherever that launcher runs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.launcher_browser.conftest import Reader, fits, violations
from tests.launcher_browser.wire import Cut

TOTAL = 8
PAGES = ("/", "/runs", "/logs", "/numbers", "/ledger", "/settings")


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


def run_of_eight(admin: Reader) -> None:
    """Start it, see balance and log pushed to their end, and what it cost."""
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
    for row in range(1, TOTAL + 1):  # the newest first, below the head
        expect(page.get_by_role("row").nth(row)).to_contain_text("paid")
    admin.screenshot("server-ledger", full=True)


def stopped_run(admin: Reader) -> None:
    """Stop a run and find it in the history."""
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


def log_after_a_cut(admin: Reader, cut: Callable[[Cut], None], seconds: float = 4) -> None:
    """Lose the wire while workers print; afterwards the page has what the file has."""
    page = admin.page
    lines = round(25 * seconds)
    start(page, lines=lines, pause=100)
    page.get_by_role("link", name="Follow the log").first.click()
    run_id = page.url.rsplit("/", 1)[1]
    expect(page.locator(".log-text", has_text=f"line 1 of {lines}").first).to_be_visible(timeout=20_000)
    cut("everything")
    expect(page.locator(".banner", has_text="Connection lost")).to_be_visible(timeout=20_000)
    time.sleep(seconds)
    cut("nothing")
    expect(page.locator(".banner")).to_have_count(0, timeout=30_000)
    expect(page.get_by_test_id("log-state")).to_have_text("complete", timeout=120_000)
    log = admin.context.request.get(f"/api/runs/{run_id}/log/download").text()
    there = log.count("\n")
    expect(page.get_by_test_id("log-lines")).to_have_text(f"{there:,} lines")
    for unit in (1, TOTAL):
        page.get_by_label("Unit", exact=True).select_option(str(unit))
        expect(page.get_by_test_id("log-lines")).to_have_text(f"{lines} lines")
        expect(page.locator(".log-text").last).to_contain_text(f"line {lines} of {lines}")


def every_page(admin: Reader) -> None:
    """Look at each page with axe's eyes."""
    page = admin.page
    for path in PAGES:
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator(".state .spinner")).to_have_count(0)
        admin.screenshot(f"server{path.replace('/', '-')}", full=True)
        assert fits(page), path
        assert violations(page) == [], path

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting, watching and stopping runs; what happens when the socket or the whole wire is cut."""

from __future__ import annotations

import hashlib
import time

from playwright.sync_api import Page, expect

from tests.launcher_browser.conftest import Reader, Served, violations
from tests.launcher_browser.standin import refusal

TOTAL = 8


def start(page: Page, lines: int = 40, pause: float = 0.05) -> None:
    page.get_by_label("Lines").fill(str(lines))
    page.get_by_label("Pause").fill(str(pause))
    page.get_by_label("Units in all").fill(str(TOTAL))
    page.get_by_label("At a time").fill("8")
    page.get_by_role("button", name="Start the run").click()


def shown_log(page: Page) -> list[str]:
    """The rows that are in the page, as text."""
    texts: list[str] = page.locator(".log-text").all_inner_texts()
    return [text.rstrip("\n") for text in texts]


def test_a_run_of_eight_is_started_watched_and_ends(reader: Reader, served: Served) -> None:
    page = reader.log_in()
    expect(page.get_by_test_id("available")).to_have_text("1,000")
    page.get_by_label("Units in all").fill(str(TOTAL))
    expect(page.get_by_test_id("after")).to_have_text("976")
    start(page)
    card = page.locator(".run-card")
    expect(card.locator(".unit-running")).to_have_count(TOTAL)
    expect(page.get_by_test_id("available")).to_have_text("976")
    reader.screenshot("running", full=True)
    assert violations(page) == []
    before = len(served.server.requests)
    expect(card).to_have_count(0, timeout=20_000)
    expect(page.get_by_test_id("available")).to_have_text("979")
    expect(page.locator(".recent li").first).to_contain_text("partly succeeded")
    asked = served.server.requests[before:]
    assert len(asked) <= 1, "while the socket is up nothing is polled; the units are read once when the run ends"
    assert all(each.endswith("/units") for each in asked)


def test_the_log_is_pushed_whole(reader: Reader, served: Served) -> None:
    page = reader.log_in()
    start(page)
    page.get_by_role("link", name="Follow the log").click()
    expect(page.get_by_test_id("log-lines")).to_have_text(f"{40 * TOTAL} lines", timeout=20_000)
    reader.screenshot("log-live")
    assert sum("/log" in each for each in served.server.requests) <= 3, "the log comes by push"
    expect(page.locator(".log-text").last).to_have_text("line 39 of the unit")
    page.get_by_label("Unit", exact=True).select_option("5")
    expect(page.get_by_test_id("log-lines")).to_have_text("40 lines")
    assert shown_log(page)[-1] == "line 39 of the unit"


def test_a_click_is_answered_at_once_and_sent_once(reader: Reader, served: Served) -> None:
    page = reader.log_in()
    served.server.hold = 1.0
    page.get_by_role("button", name="Start the run").click()
    card = page.locator(".launch-card")
    expect(card).to_have_attribute("aria-busy", "true", timeout=200)
    expect(page.get_by_role("button", name="Start the run")).to_be_disabled()
    page.keyboard.press("Enter")
    expect(card).to_have_attribute("aria-busy", "false")
    assert served.server.started() == 1
    assert len(served.server.keys) == 1


def test_one_intent_has_one_key_whatever_happens_on_the_way(reader: Reader, served: Served) -> None:
    page = reader.log_in()
    page.route("**/api/run", lambda route: route.abort(), times=1)
    page.get_by_role("button", name="Start the run").click()
    expect(page.get_by_role("alert")).to_contain_text("can't be reached")
    served.server.refuse = refusal("", "")
    page.get_by_role("button", name="Start the run").click()
    expect(page.get_by_role("alert")).to_contain_text("refused")
    page.get_by_role("button", name="Start the run").click()
    expect(page.locator(".run-card")).to_have_count(1)
    page.get_by_role("button", name="Start the run").click()
    expect(page.locator(".run-card")).to_have_count(2)
    first, second, third = served.server.keys
    assert first == second
    assert second != third
    assert len(first) >= 32


def test_what_is_wrong_is_said_at_its_field(reader: Reader, served: Served) -> None:
    page = reader.log_in()
    page.get_by_label("Lines").fill("1001")
    page.get_by_role("button", name="Start the run").click()
    expect(page.get_by_label("Lines")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Lines")).to_be_focused()
    expect(page.get_by_text("Enter a whole number from 1 to 1000.")).to_be_visible()
    assert served.server.keys == []
    page.get_by_label("Lines").fill("10")
    served.server.refuse = refusal("parameters.pause", "must not be that long")
    page.get_by_role("button", name="Start the run").click()
    expect(page.get_by_text("Must not be that long.")).to_be_visible()
    expect(page.get_by_label("Pause")).to_be_focused()
    reader.screenshot("field-error", full=True)
    assert violations(page) == []
    page.get_by_label("Units in all").fill("400")
    expect(page.get_by_text("The balance lacks 200 for this run")).to_be_visible()
    expect(page.get_by_role("button", name="Start the run")).to_be_disabled()


def test_a_run_is_stopped_after_a_question(reader: Reader, served: Served) -> None:
    page = reader.log_in()
    start(page, lines=1000)
    card = page.locator(".run-card")
    expect(card.locator(".unit-running")).to_have_count(TOTAL)
    card.get_by_role("button", name="Stop").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("8 units that haven't ended will be stopped")
    reader.screenshot("stop-question")
    assert violations(page) == []
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    served.server.hold = 0.5
    card.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop the run").click()
    expect(card).to_have_attribute("aria-busy", "true", timeout=200)
    expect(card).to_have_count(0)
    expect(page.get_by_test_id("available")).to_have_text("1,000")
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(page.get_by_role("row").nth(1)).to_contain_text("stopped")
    page.get_by_role("row").nth(1).get_by_role("link").click()
    expect(page.locator(".unit-stopped")).to_have_count(TOTAL)


def copied(page: Page, lines: int) -> list[str]:
    """Every row of a log, read off the page from its begin to its end."""
    page.get_by_role("button", name="Begin").click()
    rows: dict[int, str] = {}
    frame = page.locator(".log-frame")
    while len(rows) < lines:
        found = page.locator(".log-line").evaluate_all(
            "(all) => all.map((each) => [Number(each.querySelector('.log-gutter').dataset.number), "
            "each.querySelector('.log-gutter').dataset.unit, each.querySelector('.log-text').textContent])"
        )
        before = len(rows)
        rows |= {number: f"{unit}|{text}" for number, unit, text in found}
        at_end = frame.evaluate(
            "(f) => { f.scrollTop += f.clientHeight * 0.7; return f.scrollTop + f.clientHeight >= f.scrollHeight; }"
        )
        page.wait_for_timeout(60)
        if at_end and len(rows) == before:
            break
    return [rows[number] for number in sorted(rows)]


def test_a_log_is_whole_after_the_wire_was_cut_under_load(reader: Reader, served: Served) -> None:
    page = reader.log_in()
    start(page, lines=100, pause=0.05)
    page.get_by_role("link", name="Follow the log").click()
    run_id = page.url.rsplit("/", 1)[1]
    expect(page.locator(".log-text").first).to_be_visible()
    served.cut("everything")
    expect(page.locator(".banner", has_text="Connection lost")).to_be_visible()
    reader.screenshot("connection-lost")
    assert violations(page) == []
    time.sleep(2)
    served.cut("nothing")
    expect(page.locator(".banner")).to_have_count(0, timeout=15_000)
    expect(page.get_by_test_id("log-lines")).to_have_text("800 lines", timeout=20_000)
    expect(page.get_by_test_id("log-state")).to_have_text("complete")
    kept = served.server.log_of(run_id).decode().replace(".1|", "|")
    plain = "".join(part if at == 0 else part.split("m", 1)[1] for at, part in enumerate(kept.split("\x1b[")))
    shown = "".join(copied(page, 800))
    assert hashlib.sha256(shown.encode()).hexdigest() == hashlib.sha256(plain.encode()).hexdigest()


def test_without_a_socket_the_page_asks_at_the_interval_and_stops_asking_when_it_is_back(
    reader: Reader, served: Served
) -> None:
    page = reader.log_in()
    start(page, lines=1000)
    expect(page.locator(".unit-running")).to_have_count(TOTAL)
    page.get_by_role("link", name="Follow the log").click()
    served.cut("sockets")
    expect(page.locator(".banner", has_text="Live updates are interrupted")).to_contain_text("every 1 s")
    reader.screenshot("polling")
    before = len(served.server.requests)
    page.wait_for_timeout(4200)
    asked = served.server.requests[before:]
    assert 3 <= sum(each == "GET /api/status" for each in asked) <= 5
    assert 3 <= sum(each.endswith("/log") for each in asked) <= 6
    lines = page.get_by_test_id("log-lines").inner_text()
    page.wait_for_timeout(1500)
    assert page.get_by_test_id("log-lines").inner_text() != lines, "the log grows by asking"
    served.cut("nothing")
    expect(page.locator(".banner")).to_have_count(0, timeout=15_000)
    page.wait_for_timeout(1500)
    before = len(served.server.requests)
    page.wait_for_timeout(3000)
    assert served.server.requests[before:] == []


def test_pages_that_are_left_leave_nothing_behind(reader: Reader, served: Served) -> None:
    page = reader.log_in()
    start(page, lines=400)
    for _ in range(5):
        page.get_by_role("link", name="Logs", exact=True).click()
        expect(page.locator(".log-text").first).to_be_visible()
        page.get_by_role("link", name="Launch", exact=True).click()
        expect(page.locator(".run-card")).to_be_visible()
    page.wait_for_timeout(500)
    assert served.server.followed() == 0

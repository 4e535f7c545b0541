# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A million lines, one line of ten megabytes, bytes that are no text: the page stays quick and shows them harmless."""

from __future__ import annotations

import time

from playwright.sync_api import Page, expect

from tests.launcher_browser.conftest import Reader, Served

MILLION = 1_000_000
NEEDLE = 765_432
# The longest that the page may be deaf while it works on a million lines; a reader takes 100-200 ms for "at once".
LONGEST_BLOCK_MS = 500
# Notes the times in which the page could do nothing else, as the browser saw them.
WATCH = """() => { window.blocks = [];
new PerformanceObserver((list) => list.getEntries().forEach((e) => window.blocks.push(e.duration)))
  .observe({ type: 'longtask' }); }"""


# The longest time in which the machine itself lets the page wait while it has nothing to do but look at the clock.
STALL = """() => { let longest = 0, last = performance.now(); const end = last + 1000;
while (last < end) { const now = performance.now(); longest = Math.max(longest, now - last); last = now; }
return longest; }"""


def longest_block(page: Page) -> float:
    page.wait_for_timeout(300)
    blocks: list[float] = page.evaluate("window.blocks.splice(0)")
    return max(blocks, default=0.0)


def opened(reader: Reader, served: Served, log: bytes, lines: str) -> Page:
    page = reader.log_in()
    run_id = served.loop.run(served.server.add_log("Long", log, 8))
    page.evaluate(WATCH)
    page.evaluate(
        "(path) => { history.pushState({}, '', path); dispatchEvent(new PopStateEvent('popstate')); }",
        f"/logs/{run_id}",
    )
    expect(page.get_by_test_id("log-lines")).to_have_text(lines, timeout=120_000)
    expect(page.get_by_test_id("log-state")).to_have_text("complete", timeout=120_000)
    return page


def test_a_million_short_lines_stay_responsive(reader: Reader, served: Served) -> None:
    log = b"".join(b"%d.1|line %d\n" % (1 + at % 8, at) for at in range(MILLION))
    begin = time.monotonic()
    page = opened(reader, served, log, "1,000,000 lines")
    measured = {"load, s": time.monotonic() - begin, "load, longest block, ms": longest_block(page)}
    frame = page.locator(".log-frame")
    expect(page.locator(".log-text").last).to_have_text("line 999999")

    for key in ("PageUp", "PageUp", "PageDown"):
        frame.focus()
        page.keyboard.press(key)
    for _ in range(30):
        frame.evaluate("(frame) => { frame.scrollTop -= 30000; }")
        page.wait_for_timeout(16)
    expect(page.locator(".log-text").nth(5)).to_be_visible()
    measured["scroll, longest block, ms"] = longest_block(page)

    page.get_by_role("button", name="Begin").click()
    expect(page.locator(".log-text").first).to_have_text("line 0")
    begin = time.monotonic()
    page.get_by_label("Search in the log").fill(f"LINE {NEEDLE}")
    expect(page.locator(".log-found")).to_have_text("1 lines", timeout=60_000)
    measured["search, s"] = time.monotonic() - begin
    page.keyboard.press("Enter")
    expect(page.locator(".log-line.current")).to_have_text(f"line {NEEDLE}")
    expect(page.locator(".log-line.current")).to_be_in_viewport()
    measured["search, longest block, ms"] = longest_block(page)
    reader.screenshot("million-found")

    begin = time.monotonic()
    page.get_by_label("Unit", exact=True).select_option("3")
    expect(page.get_by_test_id("log-lines")).to_have_text("125,000 lines")
    measured["filter, s"] = time.monotonic() - begin
    page.get_by_role("button", name="Wrap").click()
    page.get_by_role("button", name="Follow").click()
    expect(page.locator(".log-text").last).to_have_text("line 999994")
    measured["filter and wrap, longest block, ms"] = longest_block(page)

    measured["the machine's own stall, ms"] = stall = page.evaluate(STALL)
    print("\n" + "\n".join(f"{name}: {value:.1f}" for name, value in measured.items()))
    assert page.locator(".log-line").count() < 200, "only what is seen is in the page"
    blocks = [value for name, value in measured.items() if name.endswith("block, ms")]
    assert max(blocks) < LONGEST_BLOCK_MS + 3 * stall


def test_every_end_of_a_long_log_is_reached_by_scrolling(reader: Reader, served: Served) -> None:
    lines = 500_000
    log = b"".join(b"1.1|line %d\n" % at for at in range(lines))
    page = opened(reader, served, log, "500,000 lines")
    frame = page.locator(".log-frame")
    for _ in range(20):
        frame.evaluate("(frame) => { frame.scrollTop = 0; }")
        page.wait_for_timeout(120)
    expect(page.locator(".log-text").first).to_have_text("line 0")
    for _ in range(20):
        frame.evaluate("(frame) => { frame.scrollTop = frame.scrollHeight; }")
        page.wait_for_timeout(120)
    expect(page.locator(".log-text").last).to_have_text(f"line {lines - 1}")


def test_ten_megabytes_in_one_line_and_bytes_that_are_no_text(reader: Reader, served: Served) -> None:
    piece = 65536
    log = b"".join(b"1.1+" + b"x" * piece + b"\n" for _ in range(160))
    log += b"1.1|the end of it\n2.1|a\x00b\xff\xfe\xc3(\n3.1|<script>alert(1)</script>\n"
    log += b"4.1|\x1b[31mred\x1b[2J\x1b]0;t\x07!\n"
    page = opened(reader, served, log, f"{160 * 16 + 4:,} lines")
    texts = [text.strip() for text in page.locator(".log-text").all_inner_texts()[-4:]]
    assert texts == ["the end of it", "a\u2400b\ufffd\ufffd\ufffd(", "<script>alert(1)</script>", "red!"]
    reader.screenshot("harmless")
    page.get_by_role("button", name="Wrap").click()
    expect(page.locator(".log-text").last).to_be_in_viewport()
    expect(page.locator(".log-text").last).to_have_text("red!")
    reader.screenshot("harmless-wrapped")
    assert longest_block(page) < LONGEST_BLOCK_MS + 3 * page.evaluate(STALL)


def test_pause_keeps_the_page_still_and_copies_are_text(reader: Reader, served: Served) -> None:
    page = opened(reader, served, b"".join(b"1.1|line %d\n" % at for at in range(100)), "100 lines")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".log-foot")).to_contain_text("Paused")
    page.get_by_role("button", name="Pause").click()
    for _ in range(2):
        page.get_by_role("button", name="Begin").click()
        expect(page.locator(".log-text").first).to_have_text("line 0")
        page.locator(".log-frame").evaluate("(frame) => { frame.scrollTop = 1000; }")
        expect(page.locator(".log-text").first).not_to_have_text("line 0")
    page.get_by_role("button", name="Begin").click()
    expect(page.locator(".log-text").first).to_have_text("line 0")
    copied = page.evaluate(
        "() => { const all = document.querySelectorAll('.log-text'); const range = document.createRange();"
        "range.setStartBefore(all[0]); range.setEndAfter(all[2]); getSelection().removeAllRanges();"
        "getSelection().addRange(range); return getSelection().toString(); }"
    )
    assert [line for line in copied.splitlines() if line] == ["line 0", "line 1", "line 2"]
    page.locator(".log-frame").focus()
    page.keyboard.press("Control+f")
    expect(page.get_by_label("Search in the log")).to_be_focused()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.path().read_bytes().count(b"\n") == 100

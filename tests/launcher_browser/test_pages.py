# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each page, at a desk and on a phone, light and dark: accessible, inside the screen, quiet."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.launcher_browser.conftest import DESK, PHONE, Reader, Scheme, Served, fits, violations

COLOURS = "".join(
    f"{1 + n % 8}.1|line {n} \x1b[{c}mcolour {c}\x1b[0m plain\n"
    for n, c in enumerate([*range(30, 48), *range(90, 108)])
)
PAGES = {
    "launch": "/",
    "runs": "/runs",
    "run": "/runs/{run}",
    "logs": "/logs/{run}",
    "numbers": "/numbers",
    "ledger": "/ledger",
    "settings": "/settings",
    "unknown": "/nothing/here",
}


def filled(served: Served) -> str:
    """Runs, numbers and a log in colours; returns the run's id."""
    server = served.server
    run = served.loop.run(server.add_log("Demo: sleep and print", COLOURS.encode(), 8))
    served.loop.run(server.add_number("+49 30 5550100", "held"))
    served.loop.run(server.add_number("+49 30 5550101", "dead", "the hook ended with exit code 7 after five tries"))
    return run


@pytest.mark.parametrize(
    ("scheme", "device"), [("light", "desk"), ("dark", "desk"), ("light", "phone"), ("dark", "phone")]
)
def test_every_page_is_accessible_fits_and_is_quiet(
    browser: Browser, served: Served, scheme: Scheme, device: str
) -> None:
    run = filled(served)
    reader = Reader(browser, served.url, DESK if device == "desk" else PHONE, scheme)
    reader.page.goto("/")
    expect(reader.page.get_by_role("button", name="Log in")).to_be_visible()
    assert violations(reader.page) == []
    reader.screenshot(f"login-{scheme}-{device}")
    page = reader.log_in()
    page.get_by_label("Units in all").fill("8")
    page.get_by_role("button", name="Start the run").click()
    expect(page.locator(".unit-running").first).to_be_visible()
    for name, path in PAGES.items():
        page.goto(path.format(run=run))
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator(".state .spinner")).to_have_count(0)
        if name in ("run", "logs"):
            expect(page.get_by_test_id("log-lines")).to_have_text("36 lines")
        assert fits(page), f"{name} scrolls sideways"
        reader.screenshot(f"{name}-{scheme}-{device}", full=True)
        assert violations(page) == [], name
    reader.close()


def test_light_and_dark_are_chosen_by_the_system_or_the_reader(reader: Reader) -> None:
    page = reader.log_in()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert light != dark
    page.get_by_label("Colours").select_option("light")
    assert page.evaluate(ground) == light
    page.reload()
    expect(page.get_by_label("Colours")).to_have_value("light")
    assert page.evaluate(ground) == light


def test_the_keyboard_reaches_everything(reader: Reader, served: Served) -> None:
    filled(served)
    page = reader.log_in()
    page.reload()
    expect(page.get_by_role("button", name="Start the run")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    assert page.get_by_role("link", name="Skip to the content").bounding_box()["y"] >= 0  # type: ignore[index]
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Template")).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    page.get_by_label("At a time").focus()
    before = int(page.get_by_label("At a time").input_value())
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("At a time")).to_have_value(str(before + 1))


def test_wrong_credentials_are_said_at_the_form(reader: Reader) -> None:
    page = reader.page
    page.goto("/runs")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("Enter your password.")).to_be_visible()
    page.get_by_label("Name").fill("demo")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")


def test_a_session_that_ended_leads_to_the_login_and_back(reader: Reader) -> None:
    page = reader.log_in()
    page.get_by_role("link", name="Settings").click()
    reader.context.clear_cookies()
    page.get_by_role("link", name="Ledger", exact=True).click()
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    page.get_by_label("Name").fill("demo")
    page.get_by_label("Password").fill("correct horse battery")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Ledger")).to_be_visible()


@pytest.mark.parametrize(
    ("kind", "title"),
    [("no_numbers", "No numbers are left"), ("draining", "about to restart"), ("degraded", "not well")],
)
def test_banners_come_and_go_by_push(reader: Reader, served: Served, kind: str, title: str) -> None:
    page = reader.log_in()
    banner = {"kind": kind, "message": "More about it.", "since": "2026-05-07T10:00:00.000Z"}
    served.loop.run(served.server.show_banner(banner))
    expect(page.locator(".banner", has_text=title)).to_contain_text("More about it.")
    reader.screenshot(f"banner-{kind}")
    assert violations(page) == []
    served.loop.run(served.server.show_banner(None))
    expect(page.locator(".banner")).to_have_count(0)


def test_a_banner_of_before_the_page_goes_by_push(reader: Reader, served: Served) -> None:
    banner = {"kind": "degraded", "message": "More about it.", "since": "2026-05-07T10:00:00.000Z"}
    served.loop.run(served.server.show_banner(banner))
    page = reader.log_in()
    expect(page.locator(".banner")).to_contain_text("More about it.")
    served.loop.run(served.server.show_banner(None))
    expect(page.locator(".banner")).to_have_count(0)


def test_a_page_of_an_older_version_says_so(reader: Reader, served: Served) -> None:
    page = reader.log_in()
    page.get_by_role("link", name="Settings").click()
    page.wait_for_timeout(500)
    served.loop.run(served.server.greet("1.0.1"))
    page.locator(".banner", has_text="was updated").get_by_role("button", name="Load the new page").click()
    expect(page.get_by_role("heading", name="Settings")).to_be_visible()
    expect(page.locator(".banner")).to_have_count(0)


def test_a_dead_number_is_tried_again(reader: Reader, served: Served) -> None:
    filled(served)
    page = reader.log_in()
    page.get_by_role("link", name="Numbers").click()
    page.get_by_role("button", name="Try again to release +49 30 5550101").click()
    row = page.get_by_role("row").filter(has_text="+49 30 5550101")
    expect(row).to_contain_text("being released")


def test_settings_name_value_default_bounds_and_help(reader: Reader) -> None:
    page = reader.log_in()
    page.get_by_role("link", name="Settings").click()
    row = page.get_by_role("row").filter(has_text="status_poll_interval")
    expect(row).to_contain_text(re.compile(r"1000 ms\s*3000 ms\s*500 to 60,000\s*How often the page asks"))
    expect(row.locator("strong")).to_have_text("1000 ms")
    assert page.locator("main input, main textarea").count() == 0


def test_a_page_that_fails_says_so_and_tries_again(reader: Reader) -> None:
    page = reader.log_in()
    page.route("**/api/ledger*", lambda route: route.fulfill(status=403, json={"title": "Not for you.", "status": 403}))
    page.get_by_role("link", name="Ledger", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Not for you.")
    assert violations(page) == []
    page.unroute("**/api/ledger*")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("No credit has moved yet")).to_be_visible()

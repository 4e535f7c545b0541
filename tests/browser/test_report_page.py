# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report's page in Chromium, as a reader opens it: from a file, light or dark, on a desk or a phone, on paper."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils import _report_page
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Locator, Page

from lab.settings import PROJECT
from tests.reports import MARKUP, estate, estate_compared

TEMPLATES = str(PROJECT / "roles" / "report" / "templates")
ARTIFACTS = PROJECT / "tests" / "artifacts"
DESK, PHONE = (1280, 900), (390, 844)
SIZES = {"desk": DESK, "phone": PHONE}
TABLES = ("services", "stopped", "nodes-compared", "services-compared")
Scheme = Literal["light", "dark"]


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page for a single moment and the one that compares, as files."""
    directory = tmp_path_factory.mktemp("pages")
    reports = {"moment": estate(limited=True), "compared": estate_compared()}
    for name, built in reports.items():
        (directory / f"{name}.html").write_text(_report_page.page(built, TEMPLATES), encoding="utf-8")
    return {name: directory / f"{name}.html" for name in reports}


class Reader:
    """Someone who opens a page and notes everything that goes wrong or out."""

    def __init__(self, browser: Browser, size: tuple[int, int], scheme: Scheme, scripts: bool = True) -> None:
        self.noted: list[str] = []
        self.requests: list[str] = []
        self.context: BrowserContext = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            java_script_enabled=scripts,
        )
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.noted.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.noted.append(f"error: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, file: Path) -> Page:
        self.page.goto(file.as_uri())
        return self.page


@pytest.fixture
def desk(browser: Browser, pages: dict[str, Path]) -> Iterator[Page]:
    """The comparing page on a desk."""
    reader = Reader(browser, DESK, "light")
    yield reader.open(pages["compared"])
    reader.context.close()


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['help']} at {[node['target'] for node in each['nodes']]}" for each in found]


def values(table: Locator, column: int) -> list[str | None]:
    cells: list[str | None] = table.locator("tbody tr").evaluate_all(
        "(rows, column) => rows.map((row) => row.cells[column].dataset.value ?? null)", column
    )
    return cells


@pytest.mark.parametrize(
    ("name", "scheme", "device"),
    [
        ("compared", "light", "desk"),
        ("compared", "dark", "desk"),
        ("compared", "light", "phone"),
        ("compared", "dark", "phone"),
        # Part of the other one, so two are enough.
        ("moment", "light", "desk"),
        ("moment", "dark", "phone"),
    ],
)
def test_opens_quietly_alone_accessible_and_inside_the_screen(
    browser: Browser, pages: dict[str, Path], name: str, scheme: Scheme, device: str
) -> None:
    reader = Reader(browser, SIZES[device], scheme)
    page = reader.open(pages[name])
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"report-{name}-{scheme}-{device}.png", full_page=True)
    assert reader.requests == [pages[name].as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    for each in page.locator("details").all():
        each.evaluate("(details) => { details.open = true; }")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "unfolded, it scrolls sideways"
    assert reader.noted == []
    reader.context.close()


def test_light_and_dark_differ(browser: Browser, pages: dict[str, Path]) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    bar = "getComputedStyle(document.querySelector('.chart .fill-used')).fill"
    seen = {}
    schemes: tuple[Scheme, ...] = ("light", "dark")
    for scheme in schemes:
        reader = Reader(browser, DESK, scheme)
        page = reader.open(pages["moment"])
        seen[scheme] = (page.evaluate(background), page.evaluate(bar))
        reader.context.close()
    assert seen["light"][0] != seen["dark"][0]
    assert seen["light"][1] != seen["dark"][1]


def test_the_answer_comes_first(desk: Page) -> None:
    assert desk.locator("h1").inner_text() == estate_compared()["verdict"]["text"]
    bottom = desk.locator("h1").bounding_box()
    assert bottom is not None
    assert bottom["y"] + bottom["height"] < DESK[1]


@pytest.mark.parametrize("way", ["click", "keyboard"])
@pytest.mark.parametrize("ident", TABLES)
def test_every_column_sorts_both_ways_with_what_was_not_measured_last(desk: Page, ident: str, way: str) -> None:
    desk.locator("details.fold").evaluate_all("(all) => all.forEach((each) => { each.open = true; })")
    table = desk.locator(f"#{ident}")
    rows = sorted(table.locator("tbody th").all_inner_texts())
    for column, header in enumerate(table.locator("thead th").all()):
        numeric = "number" in (header.get_attribute("class") or "")
        button = header.get_by_role("button")
        seen: set[str] = set()
        for _ in range(2):
            if way == "click":
                button.click()
            else:
                button.focus()
                desk.keyboard.press("Enter" if seen else "Space")
            order = header.get_attribute("aria-sort")
            assert order is not None
            seen.add(order)
            found = values(table, column)
            known = [value for value in found if value is not None]
            assert found[len(known) :] == [None] * (len(found) - len(known)), "not measured must be last"
            if numeric:
                numbers = [math.inf if value == "inf" else float(value) for value in known]
                assert numbers == sorted(numbers, reverse=order == "descending")
            else:
                assert len(set(known)) < 2 or known[0] != known[-1]
                assert known in (sorted_names(known), sorted_names(known)[::-1])
                assert known == (sorted_names(known) if order == "ascending" else sorted_names(known)[::-1])
        assert seen == {"ascending", "descending"}
        assert table.locator("[aria-sort]").count() == 1
    assert sorted(table.locator("tbody th").all_inner_texts()) == rows, "sorting lost a row"


def sorted_names(names: list[str]) -> list[str]:
    """Sort as a dictionary does, markup first."""
    return sorted(names, key=lambda name: (not name.startswith("<"), name.casefold()))


def test_the_order_it_comes_in_is_the_order_it_names(desk: Page) -> None:
    table = desk.locator("#services")
    assert table.locator("[aria-sort=descending]").inner_text().startswith("Used")
    used = [float(value) for value in values(table, 4) if value is not None]
    assert used == sorted(used, reverse=True)


def test_a_reason_opens_by_keyboard(desk: Page) -> None:
    summary = desk.locator("#services details summary").first
    details = desk.locator("#services details").first
    assert not details.locator(".more").first.is_visible()
    summary.focus()
    desk.keyboard.press("Enter")
    assert details.locator(".more").first.is_visible()


def test_a_wide_table_scrolls_in_its_own_frame_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    reader = Reader(browser, PHONE, "light")
    page = reader.open(pages["compared"])
    frame = page.locator("div.scroll", has=page.locator("#services"))
    assert frame.evaluate("(frame) => frame.scrollWidth > frame.clientWidth")
    frame.focus()
    page.keyboard.press("ArrowRight")
    # Scrolling is animated; the page's policy forbids waiting for an expression.
    for _ in range(50):
        if frame.evaluate("(frame) => frame.scrollLeft") > 0:
            break
        page.wait_for_timeout(50)
    assert frame.evaluate("(frame) => frame.scrollLeft") > 0
    reader.context.close()


def test_names_are_text(desk: Page) -> None:
    assert desk.title().startswith("Throttling, 2026")
    assert desk.locator("#services tbody th", has_text=MARKUP).count() == 1


def test_no_script_but_its_own_runs(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    tampered = tmp_path / "tampered.html"
    page_text = pages["moment"].read_text(encoding="utf-8")
    foreign = "<script>document.title = 'taken'</script><img src='https://example.invalid/x.png'></main>"
    tampered.write_text(page_text.replace("</main>", foreign), encoding="utf-8")
    reader = Reader(browser, DESK, "light")
    page = reader.open(tampered)
    assert page.title().startswith("Throttling, ")
    assert len(reader.noted) == 2, "the policy must have refused both"
    assert page.locator("#services thead button").count() > 0
    reader.context.close()


def test_without_scripts_everything_is_there(browser: Browser, pages: dict[str, Path]) -> None:
    reader = Reader(browser, DESK, "light", scripts=False)
    page = reader.open(pages["compared"])
    assert page.locator("#services tbody tr").count() == 21
    assert page.locator("thead button").count() == 0, "a button that does nothing"
    assert page.locator("svg.chart:visible").count() == 4
    reader.context.close()


def test_a_screen_reader_gets_the_charts_as_text(desk: Page) -> None:
    chart = desk.get_by_role("img", name="Services against their limits, on kvm4")
    assert chart.count() == 1, "the layout for the other screen must not be read out"
    described = chart.get_attribute("aria-describedby")
    text = desk.locator(f"#{described}").text_content() or ""
    assert "backend-django-crm: used 1.00, demand 1.00..10.80, limit 1" in text


def test_on_paper_nothing_is_cut_off(desk: Page) -> None:
    # A4 across without its margins, at 96 dots per inch.
    desk.set_viewport_size({"width": 1032, "height": 703})
    desk.emulate_media(media="print", color_scheme="dark")
    assert desk.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for ident in ("services", "services-compared"):
        fits = desk.locator(f"#{ident}").evaluate("(table) => table.getBoundingClientRect().right <= window.innerWidth")
        assert fits, ident
    desk.pdf(path=ARTIFACTS / "report.pdf", format="A4", landscape=True)

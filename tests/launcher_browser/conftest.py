# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher's pages in Chromium: the bundle as it is built, a server, a wire that can be cut, a reader."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from lab.settings import PROJECT
from tests.launcher_browser.loops import Loop
from tests.launcher_browser.standin import PASSWORD, StandIn
from tests.launcher_browser.wire import Cut, Wire

FRONTEND = PROJECT / "apps" / "job_launcher" / "frontend"
ARTIFACTS = PROJECT / "tests" / "artifacts"
DESK, PHONE = (1280, 900), (390, 844)
Scheme = Literal["light", "dark"]
# What Chromium itself says of a cut wire or a refused request; a page can't keep it from saying so.
_NETWORK = ("Failed to load resource", "WebSocket connection to")


@pytest.fixture(scope="session")
def bundle() -> Path:
    """The built pages, built now if a source is newer."""
    built = FRONTEND / "dist" / "index.html"
    sources = [path for part in ("src", "public") for path in (FRONTEND / part).rglob("*") if path.is_file()]
    sources += [FRONTEND / name for name in ("index.html", "package-lock.json", "vite.config.ts")]
    if not (FRONTEND / "node_modules").is_dir():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=FRONTEND, check=True)
    if not built.exists() or built.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        subprocess.run(["npm", "run", "build"], cwd=FRONTEND, check=True)
    return built.parent


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "there is no chromium: run tests/browser/install-chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


class Served:
    """The stand-in behind the wire, driven from a test."""

    def __init__(self, bundle: Path) -> None:
        self.loop = Loop()
        self.server = StandIn(bundle)
        self.loop.run(self.server.open())
        self.wire = Wire(self.server.port)
        self.loop.run(self.wire.open())
        self.url = f"http://127.0.0.1:{self.wire.port}"

    def cut(self, what: Cut) -> None:
        self.loop.run(self.wire.cut(what))

    def close(self) -> None:
        self.loop.run(self.wire.close())
        self.loop.run(self.server.close())
        self.loop.close()


@pytest.fixture
def served(bundle: Path) -> Iterator[Served]:
    started = Served(bundle)
    yield started
    started.close()


class Reader:
    """Someone at a browser, who notes what goes wrong."""

    def __init__(self, browser: Browser, url: str, size: tuple[int, int] = DESK, scheme: Scheme = "light") -> None:
        self.url = url
        self.noted: list[str] = []
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            base_url=url,
            reduced_motion="reduce",  # axe must not measure a colour that is on its way to another
        )
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.noted.append(f"error: {error}"))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not text.startswith(_NETWORK):
            self.noted.append(f"{kind}: {text}")

    def log_in(self, name: str = "demo", password: str = PASSWORD) -> Page:
        page = self.page
        page.goto("/")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Launch", exact=True)).to_be_visible()
        return page

    def screenshot(self, name: str, full: bool = False) -> None:
        ARTIFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTIFACTS / f"launcher-{name}.png", full_page=full)

    def close(self) -> None:
        self.context.close()
        assert self.noted == []


@pytest.fixture
def reader(browser: Browser, served: Served) -> Iterator[Reader]:
    """A reader at a desk, in the light."""
    at_desk = Reader(browser, served.url)
    yield at_desk
    at_desk.close()


def violations(page: Page) -> list[str]:
    """What axe finds serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {[(node['target'], node['failureSummary']) for node in each['nodes']]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages' own checks: types, lint, tests of the pure parts, the bundle's size, the lock file."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.launcher_browser.conftest import FRONTEND

MOST_BYTES = 150 * 1024


@pytest.mark.parametrize("script", ["check", "lint", "test"])
def test_its_own_checks_pass(bundle: Path, script: str) -> None:
    assert bundle.is_dir()
    done = subprocess.run(["npm", "run", script], cwd=FRONTEND, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_that_a_browser_loads_is_small(bundle: Path) -> None:
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) <= MOST_BYTES


def test_the_page_holds_nothing_that_a_strict_policy_refuses(bundle: Path) -> None:
    page = (bundle / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?://", page) == []


def test_the_lock_file_pins_everything_and_names_no_host() -> None:
    lock = json.loads((FRONTEND / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert [name for name, package in packages.items() if not package["integrity"].startswith("sha512-")] == []

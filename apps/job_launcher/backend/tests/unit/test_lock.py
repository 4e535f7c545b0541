# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the image installs: pinned by version and hash, from nowhere in particular, and nothing that is not needed."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

BACKEND = Path(__file__).parents[2]
NAMES = {"pyyaml": "yaml", "python-socketio": "socketio", "prometheus-client": "prometheus_client"}


def locked() -> dict[str, str]:
    """Blocks of the lock file by the name of their package."""
    text = re.sub(r"^\s*#.*\n", "", (BACKEND / "requirements.txt").read_text(), flags=re.MULTILINE)
    blocks = text.replace("\\\n", " ").splitlines()
    return {re.split(r"[=\[ ]", block, maxsplit=1)[0].lower(): block for block in blocks if block.strip()}


def wanted() -> set[str]:
    lines = (BACKEND / "requirements.in").read_text().splitlines()
    return {re.split(r"[=<>~!\[ ;]", line, maxsplit=1)[0].lower() for line in lines if line and line[0].isalpha()}


def test_every_package_has_one_version_and_hashes() -> None:
    packages = locked()
    assert wanted() <= packages.keys()
    for name, block in packages.items():
        assert re.match(r"\S+==[0-9][^\s*]*(\s|$)", block), name
        assert re.findall(r"--hash=sha256:[0-9a-f]{64}", block), f"{name} has no hash"


def test_nothing_comes_from_an_address() -> None:
    text = (BACKEND / "requirements.txt").read_text()
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host|-e ", text)


def test_the_tests_run_with_the_versions_of_the_image() -> None:
    for name, block in locked().items():
        assert f"=={metadata.version(name)}" in block, f"{name}: {metadata.version(name)} is installed"


def test_what_is_imported_is_wanted_and_what_is_wanted_is_imported() -> None:
    found: set[str] = set()
    for file in (BACKEND / "job_launcher").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.partition(".")[0])
    foreign = found - sys.stdlib_module_names - {"job_launcher", "__future__"}
    assert foreign == {NAMES.get(name, name) for name in wanted()}

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running the project's playbooks as a person would, against the stand-in or against hosts that don't answer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.awx.controller import TOKEN, Controller

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
#: Files that templates may name.
PLAYBOOKS = {"site.yml", *(f"playbooks/{path.name}" for path in (ROOT / "playbooks").glob("*.yml"))}
NEEDED = {"awx_project_url": "https://git.example/even-keel.git", "awx_execution_environment_image": "even-keel:1"}


@dataclass(frozen=True)
class Run:
    """What a playbook's run left."""

    status: int
    text: str

    @property
    def changed(self) -> int:
        """How many tasks changed something on localhost."""
        [recap] = re.findall(r"^localhost +:.* changed=(\d+)", self.text, re.MULTILINE)
        return int(recap)


def playbook(name: str, *arguments: str, variables: dict[str, Any] | None = None, **environment: str) -> Run:
    """Run a playbook of the project, away from the user's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONTROLLER_", "TOWER_"))}
    env = kept | {"PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"} | environment
    command = ("ansible-playbook", name, *arguments, "-e", json.dumps(variables or {}))
    ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300)
    return Run(ran.returncode, ran.stdout + ran.stderr)


@dataclass(frozen=True)
class Setup:
    """playbooks/awx.yml against one controller."""

    controller: Controller

    def run(
        self, *arguments: str, variables: dict[str, Any] | None = None, environment: dict[str, str] | None = None
    ) -> Run:
        """Run it with a good token, unless the environment says otherwise."""
        access = {"CONTROLLER_HOST": self.controller.url, "CONTROLLER_OAUTH_TOKEN": TOKEN} | (environment or {})
        return playbook("playbooks/awx.yml", *arguments, variables=NEEDED | (variables or {}), **access)


class _Loader(yaml.SafeLoader):
    """YAML as Ansible writes it."""


def _unsafe(loader: _Loader, node: yaml.ScalarNode) -> Any:
    return loader.construct_scalar(node)


_Loader.add_constructor("!unsafe", _unsafe)


def load(*parts: str | Path) -> Any:
    """Read one of the project's YAML files, templates as they stand."""
    return yaml.load(ROOT.joinpath(*parts).read_text(), _Loader)  # noqa: S506 - made of the safe loader

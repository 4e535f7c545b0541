# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.modules import throttling_info

REPO = Path(__file__).parents[2]


def run(**options: Any) -> dict[str, Any]:
    """Run the module in a process of its own, as Ansible does, and return its answer."""
    done = subprocess.run(
        [sys.executable, "-m", throttling_info.__name__],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": options}),
        env={"PYTHONPATH": str(REPO / "collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(
    ("window", "interval", "count"),
    [(10, 1, 0), (0, 1, 0), (60, 60, 0), (-1, 1, 1), (float("inf"), 1, 1), (float("nan"), 0, 2), (10, -1, 1)],
)
def test_durations_are_checked(window: float, interval: float, count: int) -> None:
    assert len(throttling_info.option_errors(window, interval)) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"docker_host": "unix:///nowhere/docker.sock"}, "no engine answers at unix:///nowhere/docker.sock"),
        ({"docker_host": "tcp://127.0.0.1:2375"}, "must be a unix:// socket"),
        ({"cgroup_root": "/nowhere"}, "no cgroup hierarchy at /nowhere"),
        ({"window": -1, "interval": 0}, "window must be from 0 to 86400 seconds: -1.0; interval must be at least"),
        ({"windw": 3}, "Unsupported parameters"),
        ({"accounting": "perf"}, "value of accounting must be one of: auto, taskstats, schedstat, got: perf"),
        ({"accounting": "taskstats", "proc_root": "/nowhere"}, "accounting=taskstats is not possible here: /nowhere"),
        ({"window": "1e400"}, "window must be from 0"),
    ],
)
def test_bad_input_fails_with_a_clear_message(options: dict[str, Any], message: str) -> None:
    answer = run(**options)
    assert answer["failed"] is True
    assert message in answer["msg"]


def test_only_the_standard_library_is_imported() -> None:
    """The docker SDK takes longer to import than a look takes, and workers don't have it."""
    utils = REPO / "plugins" / "module_utils"
    ours = (
        "_cgroup",
        "_schedstat",
        "_taskstats",
        "_demand",
        "_containers",
        "_throttling",
        "_host",
        "_cause",
        "_burst",
        "_burst_watch",
        "_load",
    )
    for file in (utils / f"{name}.py" for name in ours):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                top = name.split(".")[0]
                assert top in sys.stdlib_module_names or top == "ansible_collections", f"{file.name}: {name}"

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the state of a Swarm task (an element of GET /tasks) means. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Nothing of such a task runs any more.
TERMINAL_STATES = frozenset({"complete", "shutdown", "failed", "rejected", "remove", "orphaned"})


def task_state(task: Mapping[str, Any]) -> str:
    """Return how far a task has come; a task without a status is new."""
    return str((task.get("Status") or {}).get("State", "new"))


def is_meant_to_run(task: Mapping[str, Any]) -> bool:
    """Tell whether Swarm wants a task to run, now or later."""
    # `complete` is what a job's task is meant to become; `ready` is one that waits for its predecessor to stop.
    return task.get("DesiredState") in ("ready", "running", "complete")


def is_over(task: Mapping[str, Any]) -> bool:
    """Tell whether nothing of a task runs, nor will."""
    if task_state(task) in TERMINAL_STATES:
        return True
    # One that is taken back before it had a node keeps its state for good.
    return not is_meant_to_run(task) and not task.get("NodeID")


def occupies_node(task: Mapping[str, Any]) -> bool:
    """Tell whether Swarm counts a task's reservation on its node."""
    return bool(task.get("NodeID")) and task_state(task) not in TERMINAL_STATES

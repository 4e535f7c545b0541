# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: throttling_history
short_description: The records of one window for the history that limits are sized on
version_added: 0.1.0
author: Even Keel contributors
description:
  - Turns the results of M(evenkeel.swarm.throttling_info) on every host into one record for each service, summed over
    its tasks on all hosts. The role report appends them as JSON lines to its history.
  - Tasks without rates, because they came or went inside the window or because there was none, are left out.
options:
  _input:
    description: Each host's C(look) (what M(evenkeel.swarm.throttling_info) returned); other keys are ignored.
    type: list
    elements: dict
    required: true
  measured_at:
    description: The time of the window, ISO 8601 with its zone.
    type: str
    required: true
  source:
    description: What measured it, a V(look) under the limits that hold or a V(probe) with raised ones.
    type: str
    choices: [look, probe]
    default: look
positional: measured_at, source
"""

EXAMPLES = r"""
- name: Keep what this window showed
  ansible.builtin.set_fact:
    records: "{{ hosts | evenkeel.swarm.throttling_history(now(utc=true).isoformat(timespec='seconds') ~ '+00:00') }}"
"""

RETURN = r"""
_value:
  description:
    - C(at), C(source), C(window_seconds), C(service), C(tasks), C(cpu_used) and C(cpu_limit) (cores, summed over the
      tasks), C(throttled_ratio), C(demand) (C(estimate), C(lower), C(upper), C(regime), C(reason)), C(memory)
      (C(working_set) and C(peak), each the highest of a task, and C(limit) of a task), C(oom_kills), C(restarts).
  type: list
  elements: dict
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.module_utils import _history


def throttling_history(
    hosts: Iterable[Mapping[str, Any]], measured_at: str, source: str = _history.LOOK
) -> list[dict[str, Any]]:
    """Return the records as plain data."""
    try:
        return _history.records_of(list(hosts), measured_at, source)
    except _history.HistoryError as error:
        raise AnsibleFilterError(f"throttling_history: {error}") from error


class FilterModule:
    """The filter throttling_history."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"throttling_history": throttling_history}

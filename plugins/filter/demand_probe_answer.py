# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: demand_probe_answer
short_description: What a probe found on several hosts, in words and as a record
version_added: 0.1.0
author: Even Keel contributors
description:
  - Adds up what M(evenkeel.swarm.demand_probe) found on all hosts that run tasks of a service.
  - With results of check mode it says what a run would do.
options:
  _input:
    description: One mapping for each host, with its C(name) and the C(result) of M(evenkeel.swarm.demand_probe).
    type: list
    elements: dict
    required: true
  measured_at:
    description: The time of the probe, ISO 8601.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Say what the service wants
  ansible.builtin.debug:
    msg: "{{ (probes | evenkeel.swarm.demand_probe_answer(now(utc=true).isoformat())).lines }}"
"""

RETURN = r"""
_value:
  description: C(lines), the answer in words, and C(record), a line for history.jsonl (V(null) if nothing was measured).
  type: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _probe_answer


def demand_probe_answer(probes: Sequence[Mapping[str, Any]], measured_at: str) -> dict[str, Any]:
    """Return the answer's lines and its record."""
    if any("seconds" in probe["result"] for probe in probes):
        return {"lines": _probe_answer.predicted_lines(probes), "record": None}
    return _probe_answer.probe_answer(probes, measured_at)


class FilterModule:
    """The filter demand_probe_answer."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"demand_probe_answer": demand_probe_answer}

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: throttling_report
short_description: One report of a whole Swarm from what each host measured
version_added: 0.1.0
author: Even Keel contributors
description:
  - Joins the results of M(evenkeel.swarm.throttling_info) on every host with those of
    M(evenkeel.swarm.service_limits_info) on a manager.
  - A service's tasks on several hosts are added up. What was not measured is null, never 0.
options:
  _input:
    description: Each host's C(name) in the inventory, C(vcpus) (the cores it is declared to have, or null) and C(look)
      (what M(evenkeel.swarm.throttling_info) returned).
    type: list
    elements: dict
    required: true
  limits:
    description: What M(evenkeel.swarm.service_limits_info) returned.
    type: dict
    required: true
  measured_at:
    description: The time to put on the report.
    type: str
    required: true
positional: limits, measured_at
"""

EXAMPLES = r"""
- name: Build the report
  ansible.builtin.set_fact:
    report: "{{ hosts | evenkeel.swarm.throttling_report(limits, now(utc=true).isoformat()) }}"
"""

RETURN = r"""
_value:
  description: C(measured_at), C(window_seconds), C(verdict_grade), C(nodes), C(services), C(totals), C(drifted).
  type: dict
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _report


def throttling_report(
    hosts: Iterable[Mapping[str, Any]], limits: Mapping[str, Any], measured_at: str
) -> dict[str, Any]:
    """Return the report as plain data."""
    return _report.build_report(list(hosts), limits, measured_at)


class FilterModule:
    """The filter throttling_report."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"throttling_report": throttling_report}

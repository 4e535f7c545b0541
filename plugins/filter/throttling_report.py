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
  before:
    description: An earlier report to compare with, read by P(evenkeel.swarm.throttling_before#filter); null for none.
    type: dict
  undo_command:
    description: The command that sets back the limits changed since then, kept in the report for its readers.
    type: str
    default: ""
positional: limits, measured_at, before, undo_command
"""

EXAMPLES = r"""
- name: Build the report
  ansible.builtin.set_fact:
    report: "{{ hosts | evenkeel.swarm.throttling_report(limits, now(utc=true).isoformat() ~ '+00:00') }}"
"""

RETURN = r"""
_value:
  description:
    - C(measured_at), C(window_seconds), C(verdict_grade), C(verdict) (C(cpu), C(text), C(attention)), C(nodes),
      C(services), C(totals), C(drifted).
    - C(comparison), null without O(before). C(nodes), C(services) and C(totals) with their figures C(before), C(after)
      and C(change), C(changes) of limits, reservations and replicas, and C(undo) with the C(table) and the C(command)
      that set them back.
  type: dict
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.module_utils import _report
from ansible_collections.evenkeel.swarm.plugins.module_utils._report_compare import NoReportError


def throttling_report(
    hosts: Iterable[Mapping[str, Any]],
    limits: Mapping[str, Any],
    measured_at: str,
    before: Mapping[str, Any] | None = None,
    undo_command: str = "",
) -> dict[str, Any]:
    """Return the report as plain data; raise AnsibleFilterError if `before` is of another Swarm."""
    try:
        return _report.build_report(list(hosts), limits, measured_at, before, undo_command)
    except NoReportError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """The filter throttling_report."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"throttling_report": throttling_report}

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: limits_drift
short_description: Which services differ from the table of limits, and in what
version_added: 0.1.0
author: Even Keel contributors
description:
  - Turns the drift that M(evenkeel.swarm.service_limits_info) found into lines for people.
options:
  _input:
    description: The return value RV(evenkeel.swarm.service_limits_info#module:services).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Name the differences
  ansible.builtin.debug:
    msg: "{{ info.services | evenkeel.swarm.limits_drift }}"
  # - "dokploy: cpus is unlimited, should be 0.5"
"""

RETURN = r"""
_value:
  description: A line for each service with drift; empty when there is none.
  type: list
  elements: str
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _limits_text


def limits_drift(services: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each service that differs from its row."""
    return _limits_text.drift_lines(services)


class FilterModule:
    """The filter limits_drift."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"limits_drift": limits_drift}

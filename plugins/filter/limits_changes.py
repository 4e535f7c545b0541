# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: limits_changes
short_description: What service_limits did, one line for each service it changed
version_added: 0.1.0
author: Even Keel contributors
description:
  - Turns the rows that M(evenkeel.swarm.service_limits) returns into lines for people.
options:
  _input:
    description: The return value RV(evenkeel.swarm.service_limits#module:services).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Say what changed
  ansible.builtin.debug:
    msg: "{{ result.services | evenkeel.swarm.limits_changes }}"
  # - "backend-ai-agents: cpus unlimited -> 0.5 (converged, 3.2 s)"
  # - 29 services unchanged
"""

RETURN = r"""
_value:
  description: A line for each service that changed or should have, then one that counts the unchanged ones.
  type: list
  elements: str
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _limits_text


def limits_changes(services: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each service that isn't simply unchanged."""
    return _limits_text.change_lines(services)


class FilterModule:
    """The filter limits_changes."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"limits_changes": limits_changes}

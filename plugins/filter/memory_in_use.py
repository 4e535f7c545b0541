# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: memory_in_use
short_description: Highest working set of a task for each service
version_added: 0.1.0
author: Even Keel contributors
description:
  - Reads what M(evenkeel.swarm.throttling_info) measured on several hosts and returns what the option
    O(evenkeel.swarm.service_limits#module:memory_in_use) takes.
  - A service whose memory could not be measured is left out.
options:
  _input:
    description: Results of M(evenkeel.swarm.throttling_info), one for each host.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Keep the working sets of all hosts
  ansible.builtin.set_fact:
    in_use: "{{ ansible_play_hosts | map('extract', hostvars, 'look') | evenkeel.swarm.memory_in_use }}"
"""

RETURN = r"""
_value:
  description: Bytes, by the service's name.
  type: dict
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _limits_text


def memory_in_use(looks: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return bytes by service."""
    return _limits_text.highest_working_sets(looks)


class FilterModule:
    """The filter memory_in_use."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"memory_in_use": memory_in_use}

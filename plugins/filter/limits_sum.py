# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: limits_sum
short_description: What a table of limits sums to, without a connection
version_added: 0.1.0
author: Even Keel contributors
description:
  - Gives every service its row by the rules of M(evenkeel.swarm.service_limits) and sums the limits of the tasks that
    run.
  - Fails for a table in which that module would find an error.
options:
  _input:
    description: The table of limits.
    type: list
    elements: dict
    required: true
  services:
    description: The services. Each has a C(name), C(replicas) (how many of its tasks run) and, where rows select by
      them, C(labels).
    type: list
    elements: dict
    required: true
  cores:
    description: The cores to compare the sum with.
    type: float
    required: true
positional: services, cores
"""

EXAMPLES = r"""
- name: Show how far the limits exceed the cores
  ansible.builtin.debug:
    msg: "{{ (service_limits_table | evenkeel.swarm.limits_sum(services, swarm_node_vcpus)).oversubscription }}"
  vars:
    services:
      - {name: dokploy, replicas: 1}
      - {name: dokploy-redis, replicas: 1}
"""

RETURN = r"""
_value:
  description: >-
    C(services), C(running_tasks), C(limits_cpus) in cores, C(limits_memory) in bytes, C(unlimited_cpus) and
    C(unlimited_memory) (tasks without such a limit), C(cores), C(oversubscription) (limits for each core).
  type: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.module_utils import _limits_text


def limits_sum(table: Sequence[Any], services: Sequence[Mapping[str, Any]], cores: float) -> dict[str, Any]:
    """Return the sums; raise AnsibleFilterError with every error in the table."""
    try:
        return _limits_text.sum_limits(table, services, float(cores))
    except _limits_text.TableError as error:
        raise AnsibleFilterError(f"limits_sum: {error}") from error


class FilterModule:
    """The filter limits_sum."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"limits_sum": limits_sum}

#!/usr/bin/python
# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Report the limits of a Docker Swarm's services, their drift from a table, and what each node is promised for."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_limits_info
short_description: Report limits of Docker Swarm services, drift and oversubscription
version_added: 0.1.0
description:
  - Reports limits, reservations and running tasks of all services of a swarm, and their sums for each node.
  - With a table of limits, also reports where services differ from it.
options:
  table:
    required: false
attributes:
  check_mode:
    support: full
    description: Changes nothing, so it does the same in check mode.
  diff_mode:
    support: none
    description: Changes nothing.
  idempotent:
    support: full
    description: Changes nothing.
extends_documentation_fragment:
  - evenkeel.swarm.swarm
  - evenkeel.swarm.swarm.table
notes:
  - Runs on a Swarm manager.
seealso:
  - module: evenkeel.swarm.service_limits
  - module: evenkeel.swarm.throttling_info
"""

EXAMPLES = r"""
- name: Look at all services and nodes
  evenkeel.swarm.service_limits_info:
  register: limits

- name: Fail if someone changed a limit by hand
  evenkeel.swarm.service_limits_info:
    table:
      - glob: "*redis*"
        limits: {cpus: 0.25, memory: 256M}
  register: limits
  failed_when: limits.drifted | length > 0
"""

RETURN = r"""
services:
  description: All services, sorted by name.
  returned: success
  type: list
  elements: dict
  contains:
    service:
      description: Name of the service.
      type: str
    id:
      description: Id of the service.
      type: str
    mode:
      description: V(replicated), V(global), V(replicated-job) or V(global-job).
      type: str
    replicas:
      description: Tasks it is meant to have; null for services that aren't replicated.
      type: int
    running:
      description: Tasks it has running.
      type: int
    nodes:
      description: Names of the nodes they run on.
      type: list
      elements: str
    limits:
      description: Limits as C(cpus) (cores), C(memory) (bytes) and C(pids); null is no limit.
      type: dict
      sample: {cpus: 0.25, memory: 268435456, pids: null}
    reservations:
      description: Reservations as C(cpus) (cores) and C(memory) (bytes); null is none.
      type: dict
      sample: {cpus: null, memory: 67108864}
    in_table:
      description: Whether a row of the table selects it.
      type: bool
    row:
      description: Number of that row, from 1; null if there is none.
      type: int
    drift:
      description: What differs from its row, by field, each as C(expected) and C(actual).
      type: dict
      sample: {limits.cpus: {expected: 0.25, actual: null}}
nodes:
  description:
    - All nodes, sorted by name. Sums are over tasks that run or are about to.
    - Headroom may be negative where a node lost resources.
  returned: success
  type: list
  elements: dict
  contains:
    hostname:
      description: Name of the node.
      type: str
    id:
      description: Id of the node.
      type: str
    role:
      description: V(manager) or V(worker).
      type: str
    state:
      description: V(ready), V(down) or what else Swarm says of it.
      type: str
    availability:
      description: V(active), V(pause) or V(drain).
      type: str
    cpus:
      description: Its cores.
      type: float
    memory:
      description: Its memory, bytes.
      type: int
    tasks:
      description: Tasks on it.
      type: int
    limits_cpus:
      description: Sum of their CPU limits.
      type: float
    limits_memory:
      description: Sum of their memory limits, bytes.
      type: int
    unlimited_tasks:
      description: Tasks that lack a CPU limit, a memory limit or both.
      type: int
    reserved_cpus:
      description: Sum of their reservations of CPU.
      type: float
    reserved_memory:
      description: Sum of their reservations of memory, bytes.
      type: int
    headroom_cpus:
      description: Cores that can still be reserved.
      type: float
    headroom_memory:
      description: Bytes that can still be reserved.
      type: int
    oversubscription:
      description: CPU limits per core; null for a node without cores.
      type: float
totals:
  description: The sums of C(nodes), with the number of C(services) and of C(running_tasks).
  returned: success
  type: dict
drifted:
  description: Names of the services that differ from the table.
  returned: success
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_info import survey
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import Change, plan, read_node, read_service
from ansible_collections.evenkeel.swarm.plugins.module_utils._swarm import (
    SwarmError,
    fail,
    open_swarm,
    swarm_argument_spec,
)


def define_module() -> AnsibleModule:
    """Build the module with its options."""
    return AnsibleModule(
        argument_spec={**swarm_argument_spec(), "table": {"type": "list", "elements": "dict"}},
        supports_check_mode=True,
    )


def main() -> None:
    """Run the module."""
    module = define_module()
    try:
        module.exit_json(changed=False, **_look(module))
    except SwarmError as error:
        fail(module, error)


def _look(module: AnsibleModule) -> dict[str, Any]:
    swarm = open_swarm(module)
    services = [read_service(raw) for raw in swarm.services()]
    changes: list[Change] = []
    table = module.params["table"]
    if table is not None:
        changes, errors = plan(table, services)
        if errors:
            message = "the table does not fit this swarm: " + "; ".join(errors)
            fail(module, SwarmError("invalid_table", message, errors=errors), errors=errors)
    return survey(services, [read_node(raw) for raw in swarm.nodes()], swarm.tasks(), changes)


if __name__ == "__main__":
    main()

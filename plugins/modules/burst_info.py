#!/usr/bin/python

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Report CPU bursts of the containers on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: burst_info
short_description: Report CPU bursts of containers and the limits that would serve them
version_added: 0.1.0
extends_documentation_fragment:
  - evenkeel.swarm.host
  - evenkeel.swarm.host.look
description:
  - Samples the CPU counters of containers many times a second for a short while, and reports the highest usage over
    100 to 1000 milliseconds, how large the bursts of work are, and which CPU limit would serve one within a given time.
  - It is for services that are throttled although they use less than their limit on average.
notes:
  - A burst is a stretch of work between two pauses of 25 milliseconds or more, of 100 milliseconds or more while less
    than a quarter of the node is idle, where a thread may wait that long for its turn. Time a container stands still
    because its limit is used up belongs to the burst. Work of less than one CPU millisecond is
    none, and what never pauses inside the window has no bursts.
  - A limit is right for any moment a burst may begin, as long as the quota of that period is still there. It holds for
    a node that has CPUs free; work for other containers comes on top.
  - How many cores a burst can use at once is only seen as far as the limit lets it. With a limit that is used up within
    a few milliseconds it may be more than C(cores_at_once).
options:
  services:
    description:
      - Watch the containers of these Swarm services. Without O(services) and O(containers) every container that has a
        CPU limit is watched.
    type: list
    elements: str
    default: []
  containers:
    description:
      - Watch the containers of these names.
    type: list
    elements: str
    default: []
  window:
    description:
      - How long to watch, in seconds, from 1 to 120. It should hold several bursts.
    type: float
    default: 20
  interval:
    description:
      - Seconds between two samples, from 0.002 to 0.02. Each sample costs CPU time for each container watched.
    type: float
    default: 0.01
  within:
    description:
      - Milliseconds within which a burst should be served, up to 60000. There is a limit for each of them.
    type: list
    elements: float
    default: [100, 250, 1000]
"""

EXAMPLES = r"""
- name: Watch everything that has a CPU limit for 20 seconds
  evenkeel.swarm.burst_info:
  register: bursts

- name: Watch one service for a minute; which limit answers a request in half a second?
  evenkeel.swarm.burst_info:
    services: [applicationsaleor-api]
    window: 60
    within: [500]
  register: bursts
"""

RETURN = r"""
node:
  description: The host and how the sampling went.
  returned: success
  type: dict
  contains:
    hostname:
      description: The host's own name.
      type: str
    cpus:
      description: Processors the host may use.
      type: int
    window_seconds:
      description: Length of the window, measured.
      type: float
    interval_seconds:
      description: Mean time between two samples, measured.
      type: float
      sample: 0.0101
    longest_interval_seconds:
      description: The longest time without a sample. What happened inside it counts as evenly spread.
      type: float
    sampler_cpu_seconds:
      description: CPU time used for the sampling.
      type: float
    cpu_idle_share:
      description: Share of the window the processors were idle, V(null) if it can't be read.
      type: float
    pause_ms:
      description: How long a pause had to be to end a burst.
      type: int
not_found:
  description: Those of O(services) and O(containers) that have no container on this host.
  returned: success
  type: list
  elements: str
containers:
  description: The containers watched, sorted by name.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Full id.
      type: str
    name:
      description: Name.
      type: str
    service:
      description: Swarm service, V(null) outside Swarm.
      type: str
    task:
      description: Swarm task, V(null) outside Swarm.
      type: str
    node:
      description: The host's own name.
      type: str
    cpu_limit:
      description: CPU limit in cores, V(null) if there is none.
      type: float
    cpu_used:
      description: Cores used over the window.
      type: float
    throttled_periods:
      description: Periods in which it was throttled.
      type: int
    peaks:
      description: The most cores used over any stretch of C(window_ms), V(null) if the window was shorter.
      type: list
      elements: dict
      sample: [{"window_ms": 100, "cores": 0.98}, {"window_ms": 1000, "cores": 0.31}]
    bursts:
      description: The bursts that began and ended inside the window, V(null) if there is no telling (see C(reason)).
      type: dict
      contains:
        count:
          description: How many.
          type: int
        cpu_ms:
          description: CPU milliseconds of a burst, C(median), C(p95) and C(largest).
          type: dict
        duration_ms:
          description: Milliseconds from a burst's begin to its end, under the limit of today, as for C(cpu_ms).
          type: dict
        cores_at_once:
          description: Cores that a burst was seen to use at once, at least.
          type: int
    limits:
      description: For each of O(within) the CPU limit that serves a burst in that time.
      type: list
      elements: dict
      contains:
        within_ms:
          description: The time.
          type: float
        p95:
          description: Limit for the 95th percentile of the bursts, V(null) if none within the node's cores serves it.
          type: float
        largest:
          description: The same for the largest burst.
          type: float
        reason:
          description: Why there is no limit for the largest burst, V(null) if there is one.
          type: str
    reason:
      description: Why C(bursts) is V(null).
      type: str
"""

import math
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.evenkeel.swarm.plugins.module_utils import _cgroup
from ansible_collections.evenkeel.swarm.plugins.module_utils._burst_watch import burst_report, limited
from ansible_collections.evenkeel.swarm.plugins.module_utils._containers import Container, list_containers
from ansible_collections.evenkeel.swarm.plugins.module_utils._engine import DEFAULT_DOCKER_HOST, EngineError

RANGES = {"window": (1.0, 120.0), "interval": (0.002, 0.02)}
LONGEST_WITHIN = 60_000.0


def option_errors(options: dict[str, Any]) -> list[str]:
    """Return what is wrong with the numbers."""
    errors = [
        f"{name} must be from {low:g} to {high:g} seconds: {options[name]:g}"
        for name, (low, high) in RANGES.items()
        if not low <= options[name] <= high
    ]
    if not options["within"]:
        errors.append("within must name at least one time in milliseconds")
    errors += [
        f"within must hold milliseconds from 1 to {LONGEST_WITHIN:g}: {time:g}"
        for time in options["within"]
        if not (math.isfinite(time) and 1 <= time <= LONGEST_WITHIN)
    ]
    return errors


def chosen(containers: list[Container], services: list[str], names: list[str]) -> tuple[list[Container], list[str]]:
    """Return the containers asked for, and what was asked for and isn't here."""
    found = [container for container in containers if container.service in services or container.name in names]
    here = {container.service for container in found} | {container.name for container in found}
    return found, [name for name in [*services, *names] if name not in here]


def define_module() -> AnsibleModule:
    """Build the module with its options."""
    return AnsibleModule(
        argument_spec={
            "services": {"type": "list", "elements": "str", "default": []},
            "containers": {"type": "list", "elements": "str", "default": []},
            "window": {"type": "float", "default": 20},
            "interval": {"type": "float", "default": 0.01},
            "within": {"type": "list", "elements": "float", "default": [100, 250, 1000]},
            "docker_host": {"type": "str", "default": DEFAULT_DOCKER_HOST},
            "cgroup_root": {"type": "path", "default": _cgroup.DEFAULT_CGROUP_ROOT},
        },
        supports_check_mode=True,
    )


def main() -> None:
    """Run the module."""
    module = define_module()
    options = module.params
    errors = option_errors(options)
    if errors:
        module.fail_json(msg="; ".join(errors))
    try:
        tree = _cgroup.hierarchy(options["cgroup_root"])
        here = list_containers(options["docker_host"], with_restarts=False)
    except (EngineError, FileNotFoundError) as error:
        module.fail_json(msg=str(error))
    if options["services"] or options["containers"]:
        watched, not_found = chosen(here, options["services"], options["containers"])
    else:
        watched, not_found = limited(here, tree), []
    report = burst_report(watched, options["window"], options["interval"], options["within"], tree)
    module.exit_json(changed=False, not_found=not_found, **report)


if __name__ == "__main__":
    main()

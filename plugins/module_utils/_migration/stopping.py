# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop a service's containers on a node as soon as Swarm doesn't want them any more.

Swarm takes a task's address out of the network, waits, and signals the task only then: 3.1 s after its replicas went to
0 (seen with Docker 26.1). By its address nobody reaches the task at that point, so the node's engine is asked itself.
"""

from __future__ import annotations

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host

# Beyond the grace: what the engine takes to kill and to answer.
_ANSWER_SECONDS = 30


def containers_of(host: Host, service: str) -> list[str]:
    """Return the ids of a service's running containers on a node, by its engine's own account."""
    label = f"label=com.docker.swarm.service.name={service}"
    return host.run(["docker", "ps", "--no-trunc", "--quiet", "--filter", label]).out.split()


def stop_containers(host: Host, service: str, grace: float) -> bool:
    """Stop a service's containers on a node with its own stop signal; returns whether there were none.

    `grace`: seconds until they are killed. One that ends by itself meanwhile is no error.
    """
    left = containers_of(host, service)
    if left:
        argv = ["docker", "stop", "--time", f"{grace:.0f}", *left]
        host.run(argv, timeout=grace + _ANSWER_SECONDS, check=False)
    return not left

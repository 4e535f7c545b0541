# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop a service's containers on a node as soon as Swarm doesn't want them any more.

Swarm takes a task's address out of the network, waits, and signals the task only then: 3.1 s after its replicas went to
0 (seen with Docker 26.1). By its address nobody reaches the task at that point, so the node's engine is asked itself.
"""

from __future__ import annotations

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import containers

# Beyond the grace: what the engine takes to kill and to answer, and the way there.
_ANSWER_SECONDS = 45


def containers_of(host: Host, service: str) -> list[str]:
    """Return the ids of a service's running containers on a node, by its engine's own account."""
    return list(host.call(containers, "running", service=service))


def stop_containers(host: Host, service: str, grace: float) -> bool:
    """Stop a service's containers on a node with its own stop signal; returns whether there were none.

    `grace`: seconds until they are killed. One that ends by itself meanwhile is no error.
    """
    return not host.call(containers, "stop", timeout=grace + _ANSWER_SECONDS, service=service, grace=grace)

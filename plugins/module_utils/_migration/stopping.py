# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop a service's containers on a node as soon as Swarm doesn't want them any more.

Swarm takes a task's address out of the network, waits, and signals the task only then: 3.1 s after its replicas went to
0 (seen with Docker 26.1). By its address nobody reaches the task at that point, so the node's engine is asked itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import Journal
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import containers, copies

# Beyond the grace: what the engine takes to kill and to answer, and the way there.
_ANSWER_SECONDS = 45


#: Containers whose processes were seen to be gone. Engines list them as running for a quarter of a second more.
_ended: set[str] = set()


def containers_of(host: Host, services: Sequence[str]) -> list[str]:
    """Return the ids of some services' running containers on a node, by its engine's own account."""
    return [each for each in host.call(containers, "running", services=list(services)) if each not in _ended]


def containers_on(host: Host, volumes: Sequence[str]) -> list[str]:
    """Return the names of the running containers on a node that have one of the volumes, or directories, mounted."""
    found = host.call(containers, "mounting", volumes=list(volumes))
    return [name for container, name in found.items() if container not in _ended]


def stop_containers(host: Host, service: str, grace: float) -> bool:
    """Stop a service's containers on a node with its own stop signal; returns whether none is left.

    `grace`: seconds until they are killed. One that ends by itself meanwhile is no error.
    """
    stopped = host.call(containers, "stop", timeout=grace + _ANSWER_SECONDS, service=service, grace=grace)
    _ended.update(stopped["ended"])
    return not set(stopped["left"]) - _ended


def end_orphans(journal: Journal, host: Host, root: str, volumes: Sequence[str]) -> list[str]:
    """Kill the containers that an engine has forgotten with a volume's data, live or parked; returns their ids.

    `root`: the engine's directory. Neither the engine nor Swarm would ever end one, and what is started on the same
    data would have it for company.
    """
    ended = _orphans(host, "end_orphans", root, volumes)
    if ended:
        journal.write("orphans_ended", node=host.name, volumes=list(volumes), containers=ended)
    return ended


def orphans(host: Host, root: str, volumes: Sequence[str]) -> list[str]:
    """Return the ids of the containers that an engine has forgotten with a volume's data, or is about to know."""
    return _orphans(host, "orphans", root, volumes)


def _orphans(host: Host, function: str, root: str, volumes: Sequence[str]) -> list[str]:
    directories = [str(path) for volume in volumes for path in copies.paths(root, volume)]
    return list(host.call(containers, function, directories=directories)) if directories else []


def bring_live(journal: Journal, host: Host, root: str, volume: str) -> None:
    """Put a volume's parked data where containers find it, once no forgotten container has it."""
    end_orphans(journal, host, root, [volume])
    host.call(copies, "bring_live", root=root, volume=volume)

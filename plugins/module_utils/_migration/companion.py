# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A companion: a Swarm service of ours that holds a parked copy of a service's data on one node.

It is a Swarm service, not a plain container, because only those join every overlay network, get secrets, and come back
after the engine was killed. Its spec is the service's own, so image, configuration, secrets and networks are the same.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import OURS, Cluster, Running, Spec
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.stopping import stop_containers
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import wait_until

_NANO = 10**9
# The lock is the directory's own, so it leaves nothing there; it is held until the last process that got it ends. Who
# has to stop while it waits does so at once. Where an image has no flock, the command runs as it would without.
_ALONE = """
directory=$1; shift
if ( : < "$directory" ) 2>/dev/null && command -v flock >/dev/null; then
    exec 9< "$directory"
    trap 'exit 143' INT TERM
    flock 9 & wait $!
fi
exec "$@"
"""
#: What to do where a companion can't reach the service. An engine that was killed twice within seconds may be told by
#: the others that its own node is gone, and then lacks their addresses until it is restarted (seen on Docker 26.1).
LOOK_AT_LINK = "look at the link (7946 tcp and udp, 4789 udp) and, if Docker was killed lately, restart it there"
# Beyond the grace: what Swarm and the engine take to notice, kill and remove.
STOP_MARGIN = 30.0
# A task that Swarm still works on moves on sooner: images and data are there already.
_STUCK_SECONDS = 30.0


def cut(text: str, length: int, glue: str = "-") -> str:
    """Return a text of at most that length; what had to be cut stays different from all others."""
    if len(text) <= length:
        return text
    return f"{text[: length - 9]}{glue}{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def companion_spec(
    service: Spec,
    *,
    name: str,
    unit: str,
    node_id: str,
    command: Sequence[str],
    data: Mapping[str, str],
    user: str | None = None,
    secrets: Sequence[Mapping[str, Any]] = (),
) -> Spec:
    """Return the spec of a companion of `service` (a service's whole spec).

    `command` replaces entrypoint and arguments, and begins when no other container has the data. `data`: volume -> path
    on the node that stands in for it; other volumes of the service are not mounted. `user` as Docker takes it.
    `secrets`: more of ContainerSpec.Secrets.
    """
    task = copy.deepcopy(service["TaskTemplate"])
    container = task["ContainerSpec"]
    container.pop("Args", None)
    if user is not None:
        container["User"] = user
    container["Healthcheck"] = {"Test": ["NONE"]}
    container["Labels"] = {OURS: unit}
    container["Secrets"] = [*(container.get("Secrets") or []), *secrets]
    container["Mounts"] = [
        {"Type": "bind", "Source": data[mount["Source"]], "Target": mount["Target"]}
        for mount in container.get("Mounts") or []
        if mount.get("Source") in data
    ]
    container["Command"] = alone(container["Mounts"][0]["Target"], command)
    networks = task.get("Networks") or service.get("Networks") or []
    task["Networks"] = [{"Target": network["Target"]} for network in networks]
    task["Placement"] = {"Constraints": [f"node.id=={node_id}"]}
    task["RestartPolicy"] = {"Condition": "any", "Delay": _NANO}
    limits = (task.get("Resources") or {}).get("Limits")
    task["Resources"] = {"Limits": limits} if limits else {}
    task["ForceUpdate"] = 0
    return {
        "Name": name,
        "Labels": {OURS: unit},
        "TaskTemplate": task,
        "Mode": {"Replicated": {"Replicas": 1}},
        "UpdateConfig": {"Parallelism": 1, "Order": "stop-first", "FailureAction": "pause"},
        "EndpointSpec": {"Mode": "dnsrr"},
    }


def alone(directory: str, command: Sequence[str]) -> list[str]:
    """Return a command that runs another one as soon as nobody else that was begun so has a directory.

    When a node comes back that was cut off, Swarm starts a task there while the one of before is still stopping (3 s,
    seen with Docker 26.1). Two servers on one copy would destroy it, and they don't see each other: in its container
    each is the first process.
    """
    return ["sh", "-c", _ALONE, "sh", directory, *command]


def start_companion(cluster: Cluster, spec: Spec, seconds: float = 60) -> Running:
    """Create a companion, or find it, and wait until it runs. Raises MoveError with what its task says.

    One that is found and does not come to run is made anew: seen on Docker 26.1, Swarm did nothing more with a task
    whose start had met a full disk, however long ago that was.
    """
    name = spec["Name"]

    def wait(limit: float) -> None:
        wait_until(lambda: bool(cluster.running(name)), limit, f"{name} to run")

    if cluster.find_service(name) is not None:
        try:
            wait(_STUCK_SECONDS)
        except MoveError as error:
            if error.code != "timeout":
                raise
            cluster.remove_service(name)
    if cluster.find_service(name) is None:
        cluster.create_service(spec)
    try:
        wait(seconds)
    except MoveError as error:
        raise MoveError("companion_failed", f"{error.message}: {_last_word(cluster, name)}") from error
    return cluster.running(name)[0]


def stop_companion(cluster: Cluster, name: str, host: Host, grace: float = 30) -> None:
    """Remove a companion and see on its node that it is gone, also one whose service is gone already.

    `grace`: seconds that it has to stop by itself.
    """
    cluster.remove_service(name)
    wait_until(lambda: stop_containers(host, name, grace), grace + STOP_MARGIN, f"{name} to be gone", every=0.05)


def _last_word(cluster: Cluster, name: str) -> str:
    tasks = sorted(cluster.tasks(cluster.service(name)["ID"]), key=lambda task: task["CreatedAt"], reverse=True)
    return next((task["Status"]["Err"] for task in tasks if task["Status"].get("Err")), "its task says nothing")

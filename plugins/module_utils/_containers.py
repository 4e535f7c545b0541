# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the containers of this host's engine with their places in the Swarm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._engine import (
    DEFAULT_DOCKER_HOST,
    EngineError,
    engine_get,
)

_SERVICE_LABEL = "com.docker.swarm.service.name"
_TASK_LABEL = "com.docker.swarm.task.name"
_LIVE_STATES = frozenset({"running", "paused", "restarting"})


@dataclass(frozen=True)
class Container:
    """A live container. `service` and `task` are None outside Swarm, `slot` also for global services.

    `restarts`: how many ended containers of the same slot the engine still remembers, None outside Swarm.
    """

    id: str
    name: str
    state: str
    service: str | None
    task: str | None
    slot: int | None
    restarts: int | None


def list_containers(
    docker_host: str = DEFAULT_DOCKER_HOST, timeout: float = 10.0, *, with_restarts: bool = True
) -> list[Container]:
    """Ask the engine for its containers and return the live ones sorted by name; raises EngineError.

    Restarts are counted from ended containers. A Swarm keeps five of them for each task, so leaving them out makes
    the engine's answer several times cheaper; `restarts` is then None.
    """
    answer = engine_get(docker_host, f"/containers/json?all={with_restarts:d}", timeout)
    if not isinstance(answer, list):
        raise EngineError(f"the engine at {docker_host} answered with something else than a list of containers")
    containers = parse_containers(answer)
    return containers if with_restarts else [replace(container, restarts=None) for container in containers]


def parse_containers(answer: list[dict[str, Any]]) -> list[Container]:
    """Turn the engine's answer to GET /containers/json?all=1 into the live containers, sorted by name."""
    containers = [_container(item) for item in answer]
    ended: dict[tuple[str | None, str], int] = {}
    for container in containers:
        if container.state not in _LIVE_STATES and container.task:
            place = _place(container.service, container.task)
            ended[place] = ended.get(place, 0) + 1
    live = [container for container in containers if container.state in _LIVE_STATES]
    return sorted((_with_restarts(container, ended) for container in live), key=lambda container: container.name)


def _container(item: dict[str, Any]) -> Container:
    labels = item.get("Labels") or {}
    names = item.get("Names") or []
    service = labels.get(_SERVICE_LABEL)
    task = labels.get(_TASK_LABEL)
    return Container(
        id=item["Id"],
        name=names[0].lstrip("/") if names else item["Id"][:12],
        state=item.get("State", ""),
        service=service,
        task=task,
        slot=_slot(service, task),
        restarts=None,
    )


def _slot(service: str | None, task: str | None) -> int | None:
    """Return the slot of a task name "<service>.<slot>.<task id>"; a global service has a node id there."""
    if not service or not task:
        return None
    slot = _place(service, task)[1]
    return int(slot) if slot.isdigit() else None


def _place(service: str | None, task: str) -> tuple[str | None, str]:
    return service, task.removeprefix(f"{service}.").partition(".")[0]


def _with_restarts(container: Container, ended: dict[tuple[str | None, str], int]) -> Container:
    if not container.task:
        return container
    restarts = ended.get(_place(container.service, container.task), 0)
    return replace(container, restarts=restarts)

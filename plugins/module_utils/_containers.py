# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the containers of this host's engine, over its unix socket and without the docker SDK.

Importing the SDK costs more CPU time than a look at thirty containers; one GET is all that is needed here.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, replace
from typing import Any

DEFAULT_DOCKER_HOST = "unix:///var/run/docker.sock"

_SERVICE_LABEL = "com.docker.swarm.service.name"
_TASK_LABEL = "com.docker.swarm.task.name"
_LIVE_STATES = frozenset({"running", "paused", "restarting"})
_RESPONSE_LIMIT = 64 * 1024 * 1024


class EngineError(Exception):
    """The engine can't be reached or did not answer as it should; the message says which and names the socket."""


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


def engine_get(docker_host: str, path: str, timeout: float) -> Any:
    """GET a path from the engine's API and return the decoded JSON; raises EngineError."""
    if not docker_host.startswith("unix://"):
        raise EngineError(f"docker_host must be a unix:// socket, as cgroups are read on the same host: {docker_host}")
    # HTTP/1.0: the engine then sends the body in one piece and closes the connection.
    request = f"GET {path} HTTP/1.0\r\nHost: docker\r\nAccept: application/json\r\n\r\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(docker_host.removeprefix("unix://"))
            connection.sendall(request.encode("ascii"))
            response = _receive(connection)
    except TimeoutError as error:
        raise EngineError(f"the engine at {docker_host} did not answer within {timeout:g} s") from error
    except OSError as error:
        raise EngineError(f"no engine answers at {docker_host}: {error.strerror or error}") from error
    return parse_response(response, docker_host)


def parse_response(response: bytes, docker_host: str) -> Any:
    """Split an HTTP response and decode its JSON body; raises EngineError, with the engine's own message if any."""
    head, separator, body = response.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].split(b" ")
    if not separator or len(status) < 2 or not status[0].startswith(b"HTTP/"):
        raise EngineError(f"what answers at {docker_host} does not speak HTTP")
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise EngineError(f"the engine at {docker_host} answered {status[1].decode()} without valid JSON") from error
    if status[1] != b"200":
        message = answer.get("message") if isinstance(answer, dict) else answer
        raise EngineError(f"the engine at {docker_host} answered {status[1].decode()}: {message}")
    return answer


def _receive(connection: socket.socket) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := connection.recv(65536):
        chunks.append(chunk)
        size += len(chunk)
        if size > _RESPONSE_LIMIT:
            raise OSError("its answer is larger than 64 MiB")
    return b"".join(chunks)


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

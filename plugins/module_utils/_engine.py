# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GET from the engine and POST to it over its unix socket, without the docker SDK.

Importing the SDK costs more CPU time than a look at thirty containers, and more than all the rest of a run that finds
thirty services as they should be.
"""

from __future__ import annotations

import json
import socket
from typing import Any

DEFAULT_DOCKER_HOST = "unix:///var/run/docker.sock"

_RESPONSE_LIMIT = 64 * 1024 * 1024


class EngineError(Exception):
    """The engine can't be reached or did not answer as it should; the message says which and names the socket.

    `status` and `said`: HTTP status and the engine's own message where it answered with an error, else None.
    """

    def __init__(self, message: str, status: int | None = None, said: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.said = said


def engine_get(docker_host: str, path: str, timeout: float) -> Any:
    """GET a path from the engine's API and return the decoded JSON; raises EngineError."""
    # HTTP/1.0: the engine then sends the body in one piece and closes the connection.
    request = f"GET {path} HTTP/1.0\r\nHost: docker\r\nAccept: application/json\r\n\r\n"
    return parse_response(_exchange(docker_host, request.encode("ascii"), timeout), docker_host)


def engine_post(docker_host: str, path: str, body: Any, timeout: float) -> Any:
    """POST JSON to the engine's API and return the decoded answer, None for an empty one; raises EngineError."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    )
    response = _exchange(docker_host, head.encode("ascii") + b"\r\n" + content, timeout)
    return parse_response(response + b"null" if response.endswith(b"\r\n\r\n") else response, docker_host)


def _exchange(docker_host: str, request: bytes, timeout: float) -> bytes:
    if not docker_host.startswith("unix://"):
        raise EngineError(f"docker_host must be a unix:// socket, as cgroups are read on the same host: {docker_host}")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(docker_host.removeprefix("unix://"))
            connection.sendall(request)
            return _receive(connection)
    except TimeoutError as error:
        raise EngineError(f"the engine at {docker_host} did not answer within {timeout:g} s") from error
    except OSError as error:
        raise EngineError(f"no engine answers at {docker_host}: {error.strerror or error}") from error


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
        said = str(answer.get("message") if isinstance(answer, dict) else answer)
        code = status[1].decode()
        raise EngineError(f"the engine at {docker_host} answered {code}: {said}", int(code), said)
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

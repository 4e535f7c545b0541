# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The containers of a Swarm service on this host, asked of its engine directly.

Standard library only: its source is sent to the host. The engine answers in milliseconds; each start of its command
line takes a tenth of a second, and a switch asks often.
"""

import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

DOCKER_SOCKET = "/var/run/docker.sock"
_SERVICE = "com.docker.swarm.service.name"
#: Beyond the grace: what the engine takes to kill and to answer.
_ANSWER_SECONDS = 30


class _Engine(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(DOCKER_SOCKET)


def running(service: str) -> list[str]:
    """Return the ids of a service's running containers. Raises OSError with the engine's words."""
    filters = json.dumps({"label": [f"{_SERVICE}={service}"]})
    status, answer = _request("GET", f"/containers/json?filters={quote(filters)}", _ANSWER_SECONDS)
    if status != http.client.OK:
        raise OSError(f"the engine does not list containers (HTTP {status}): {answer.decode(errors='replace')}")
    return [container["Id"] for container in json.loads(answer)]


def stop(service: str, grace: float) -> list[str]:
    """Stop a service's containers with their own stop signals; returns the ids of those that ran.

    `grace`: seconds until they are killed. One that ends by itself meanwhile is no error.
    """
    found = running(service)
    if found:
        with ThreadPoolExecutor(len(found)) as pool:
            list(pool.map(lambda container: _stop(container, grace), found))
    return found


def _stop(container: str, grace: float) -> None:
    # What became of it is seen by looking again.
    _request("POST", f"/containers/{container}/stop?t={grace:.0f}", grace + _ANSWER_SECONDS)


def _request(method: str, path: str, seconds: float) -> "tuple[int, bytes]":
    connection = _Engine("docker", timeout=seconds)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"the engine's answer was cut off: {error!r}") from error
    finally:
        connection.close()

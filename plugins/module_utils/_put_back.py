# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the CPU limits of running containers back to what an intent file says.

Standard library only, nothing of this collection: demand_probe copies this file to the host, where a systemd timer
runs it (`python3 -I put_back.py <intent.json>`) if the module itself no longer can. Both sides use the same code.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
from pathlib import Path
from typing import Any

TIMEOUT = 20.0


class UpdateError(Exception):
    """The engine can't be reached, or it refused; the message says which."""


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def nano_cpus(docker_host: str, container: str) -> int | None:
    """Return a running container's limit in nano-CPUs (0: none), None if no such container runs; raises UpdateError."""
    status, answer = _request(docker_host, "GET", f"/containers/{container}/json")
    if status == http.client.NOT_FOUND or (status == http.client.OK and not answer["State"]["Running"]):
        return None
    if status != http.client.OK:
        raise UpdateError(f"the engine answered {status} for container {container[:12]}: {answer}")
    return int(answer["HostConfig"]["NanoCpus"])


def set_nano_cpus(docker_host: str, container: str, value: int) -> None:
    """Set a container's CPU limit as `docker update --cpus` does; raises UpdateError."""
    status, answer = _request(docker_host, "POST", f"/containers/{container}/update", {"NanoCpus": value})
    if status != http.client.OK:
        raise UpdateError(f"the engine refused a new limit for container {container[:12]} ({status}): {answer}")


def put_back(intent_file: Path) -> list[str]:
    """Put every container of an intent back that still runs, then remove the intent; returns their ids.

    Without the file there is nothing to do: somebody else has done it. Raises UpdateError while the engine can't be
    reached or refuses; the file then stays, for the next try.
    """
    try:
        intent = json.loads(intent_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    done = []
    for container, before in intent["limits"].items():
        # One that ended has taken its limit along; a task in its place has its service's.
        if nano_cpus(intent["docker_host"], container) is not None:
            set_nano_cpus(intent["docker_host"], container, before)
            done.append(container)
    intent_file.unlink(missing_ok=True)
    return done


def _request(docker_host: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
    connection = _Connection(docker_host.removeprefix("unix://"))
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UpdateError(f"the engine at {docker_host} can't be asked: {error or type(error).__name__}") from error
    finally:
        connection.close()


if __name__ == "__main__":
    try:
        print("put back:", put_back(Path(sys.argv[1])))
    except UpdateError as problem:
        sys.exit(str(problem))

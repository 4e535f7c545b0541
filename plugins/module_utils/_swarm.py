# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Talk to a Swarm manager: the few calls that limits need, with structured failures."""

from __future__ import annotations

import functools
import importlib.util
import random
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.evenkeel.swarm.plugins.module_utils._engine import EngineError, engine_get

Json = Any
MIN_PYTHON = (3, 11)
OUT_OF_SEQUENCE = "out of sequence"
RPC_PREFIX = "rpc error: "
# Each try reads anew, so only a writer that wins every race in a row can exhaust them.
CONFLICT_TRIES = 60
_REQUEST_TIMEOUT = 30


class SwarmError(Exception):
    """A failure with a code to act on, a message to read, and details."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that modules return."""
        return {"code": self.code, "message": self.message, "details": self.details}


def swarm_argument_spec() -> dict[str, Any]:
    """Return the options that every module talking to a swarm has."""
    return {"docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"}}


def open_swarm(module: AnsibleModule) -> Swarm:
    """Connect to the module's engine, or end the module with what is missing for that."""
    if sys.version_info < MIN_PYTHON:
        wanted = ".".join(map(str, MIN_PYTHON))
        found = ".".join(map(str, sys.version_info[:3]))
        message = f"Python {wanted} or newer is needed on the managed host, {sys.executable} is {found}"
        fail(module, SwarmError("python_too_old", f"{message}: set ansible_python_interpreter"))
    # Looked for, not imported: importing it takes longer than the rest of a run that finds nothing to do.
    if importlib.util.find_spec("docker") is None:
        message = missing_required_lib("docker", reason="(Debian: python3-docker)")
        fail(module, SwarmError("sdk_missing", message))
    return Swarm(module.params["docker_host"])


def fail(module: AnsibleModule, error: SwarmError, **results: Any) -> NoReturn:
    """End the module with a failure: one sentence for people, code and details for programs."""
    reason = error.details.get("reason")
    module.fail_json(msg=f"{error.message}: {reason}" if reason else error.message, error=error.as_dict(), **results)
    raise SystemExit(1)  # fail_json never returns; only its missing annotation makes this line needed


class Swarm:
    """One manager's API. Not for several threads: the session under it is not made for them."""

    def __init__(self, docker_host: str) -> None:
        self.docker_host = docker_host

    @functools.cached_property
    def _client(self) -> Any:
        from docker.api.client import APIClient  # noqa: PLC0415
        from docker.errors import DockerException  # noqa: PLC0415

        try:
            # "auto" asks the engine once: SDK 5 would otherwise use its own newest version, engines drop old ones.
            return APIClient(base_url=self.docker_host, version="auto", timeout=_REQUEST_TIMEOUT)
        except DockerException as error:
            raise self._unreachable(error) from error

    def services(self) -> list[Json]:
        """Return all services (GET /services); this is also what only a manager answers."""
        return self._list("/services")

    def nodes(self) -> list[Json]:
        return self._list("/nodes")

    def tasks(self) -> list[Json]:
        """Return all tasks Swarm still remembers, ended ones included: theirs are the errors."""
        return self._list("/tasks")

    def update_service(
        self, service_id: str, edit: Callable[[Json], Json], sleep: Callable[[float], None] = time.sleep
    ) -> Json:
        """Rewrite a service's spec by `edit(spec) -> spec`, on a fresh read, again if another writer was faster.

        Returns the service as it was read right before the accepted write.
        """
        for attempt in range(CONFLICT_TRIES):
            service: Json = self._request("GET", f"/services/{service_id}")
            path = f"/services/{service_id}/update?version={service['Version']['Index']}"
            try:
                self._request("POST", path, edit(service["Spec"]))
            except SwarmError as error:
                if error.code != "conflict":
                    raise
                # The jitter breaks the step that two writers fall into.
                sleep(random.uniform(0.0, 0.02 * min(attempt + 1, 10)))  # noqa: S311
            else:
                return service
        raise SwarmError(
            "conflict", f"other writers changed the service faster than it could be updated, {CONFLICT_TRIES} times"
        )

    def request(self, method: str, path: str, body: Json = None) -> Json:
        """Send any request to the engine's API; returns the decoded answer, None for an empty one."""
        return self._request(method, path, body)

    def _list(self, path: str) -> list[Json]:
        # An empty list may come as null.
        return list((self._get(path) if self.docker_host.startswith("unix://") else self._request("GET", path)) or [])

    def _get(self, path: str) -> Json:
        """GET without the SDK."""
        try:
            return engine_get(self.docker_host, path, _REQUEST_TIMEOUT)
        except EngineError as error:
            if error.status is None or error.said is None:
                raise self._unreachable(error) from error
            said = error.said.removeprefix(RPC_PREFIX)
            raise SwarmError(_code(error.status, said), said, status=error.status, path=path) from error

    def _unreachable(self, error: Exception) -> SwarmError:
        return SwarmError("engine_unreachable", f"no Docker engine answers at {self.docker_host}", reason=str(error))

    def _request(self, method: str, path: str, body: Json = None) -> Json:
        from docker.errors import DockerException  # noqa: PLC0415
        from requests.exceptions import RequestException  # noqa: PLC0415

        # Not the SDK's update_service(): it rebuilds the spec from arguments and drops what it doesn't know.
        url = f"{self._client.base_url}/v{self._client.api_version}{path}"
        try:
            response = self._client.request(method, url, json=body, timeout=_REQUEST_TIMEOUT)
            if response.ok:
                return response.json() if response.content else None
            message = _engine_message(response)
        except (DockerException, RequestException) as error:
            raise SwarmError(
                "engine_unreachable", f"the Docker engine at {self.docker_host} stopped answering", reason=str(error)
            ) from error
        raise SwarmError(_code(response.status_code, message), message, status=response.status_code, path=path)


def _engine_message(response: Any) -> str:
    try:
        return str(response.json()["message"]).removeprefix(RPC_PREFIX)
    except (ValueError, KeyError, TypeError):
        return str(response.text).strip() or f"HTTP {response.status_code}"


def _code(status: int, message: str) -> str:
    if OUT_OF_SEQUENCE in message:
        return "conflict"
    if "swarm manager" in message or "not part of a swarm" in message:
        return "not_a_manager"
    return {404: "not_found", 400: "refused", 503: "swarm_unavailable"}.get(status, "engine_error")

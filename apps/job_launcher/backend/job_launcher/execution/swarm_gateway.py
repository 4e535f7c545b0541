# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands between the launcher and a Swarm manager's engine, whose socket is as good as root on the host.

A process of its own, on a Unix socket that only the launcher can open. It makes, watches and removes jobs of the
configured templates, and nothing else: image, node, limits and mounts come from its own copy of the templates, so that
a launcher that was broken into can start no more than what it may start anyway.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from job_launcher import templates
from job_launcher.execution.swarm_jobs import NAME, OWNER_LABEL, job_state, service_spec
from job_launcher.refused import Refused
from job_launcher.templates import Template

#: Docker Engine 20.10; jobs came with it.
API = "http://engine/v1.41"
LARGEST_REQUEST = 1024 * 1024
REQUEST_SECONDS = 30
#: A log is followed as long as its job runs.
FOLLOWING = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class EngineError(Exception):
    """The engine refused or could not be reached; `status` is 502 for the latter."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gateway:
    """The routes, for one owner's jobs on one engine."""

    def __init__(self, engine_socket: Path, owner: str, known: Mapping[str, Template]) -> None:
        self.owner = owner
        self.templates = known
        self._engine_socket = engine_socket
        self._session: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=LARGEST_REQUEST, middlewares=[_problems])
        app.router.add_get("/jobs", self.listing)
        app.router.add_put("/jobs/{name}", self.create)
        app.router.add_get("/jobs/{name}", self.state)
        app.router.add_get("/jobs/{name}/log", self.log)
        app.router.add_delete("/jobs/{name}", self.remove)
        app.cleanup_ctx.append(self._connected)
        return app

    async def _connected(self, _: web.Application) -> Any:
        connector = aiohttp.UnixConnector(str(self._engine_socket), limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(REQUEST_SECONDS))
        yield
        await self._session.close()

    async def listing(self, _: web.Request) -> web.Response:
        """GET /jobs -> names of all jobs that are there."""
        prefix = f"{self.owner}-"
        services = await self._engine("GET", "/services", filters={"label": [f"{OWNER_LABEL}={self.owner}"]})
        return web.json_response([each["Spec"]["Name"].removeprefix(prefix) for each in services])

    async def create(self, request: web.Request) -> web.Response:
        """PUT /jobs/{name}: make the job; one that is there already stays."""
        name = _name(request)
        try:
            asked = json.loads(await request.read())
        except ValueError as error:
            raise Refused("", "must be JSON") from error
        spec = service_spec(self.owner, name, self.templates, asked)
        try:
            await self._engine("POST", "/services/create", body=spec)
        except EngineError as error:
            if error.status != 409:
                raise
        return web.json_response({}, status=201)

    async def state(self, request: web.Request) -> web.Response:
        """GET /jobs/{name} -> {state, exit_code, error}."""
        return web.json_response(await self._state(_name(request)))

    async def log(self, request: web.Request) -> web.StreamResponse:
        """GET /jobs/{name}/log[?follow=1] -> the engine's frames, from the first one on."""
        task = (await self._state(_name(request)))["task"]
        if task is None:
            raise Refused("", "has no task", 404)
        follow = "1" if request.query.get("follow") == "1" else "0"
        parameters = {"stdout": "1", "stderr": "1", "follow": follow}
        assert self._session  # noqa: S101 # there is no request before _connected
        async with self._session.get(f"{API}/tasks/{task}/logs", params=parameters, timeout=FOLLOWING) as upstream:
            if upstream.status != 200:
                raise EngineError(upstream.status, (await upstream.text()).strip())
            answer = web.StreamResponse()
            await answer.prepare(request)
            async for piece in upstream.content.iter_any():
                await answer.write(piece)
            return answer

    async def remove(self, request: web.Request) -> web.Response:
        """DELETE /jobs/{name}: SIGTERM, the grace, SIGKILL; its state is `none` once nothing of it is left."""
        service = f"{self.owner}-{_name(request)}"
        try:
            found = await self._engine("GET", f"/services/{service}")
            if found["Spec"].get("Labels", {}).get(OWNER_LABEL) == self.owner:
                await self._engine("DELETE", f"/services/{found['ID']}")
        except EngineError as error:
            if error.status != 404:
                raise
        return web.json_response({})

    async def _state(self, name: str) -> dict[str, Any]:
        # By name: the engine refuses to list the tasks of a service that is being removed, and these are wanted, too.
        tasks = await self._engine("GET", "/tasks", filters={"name": [f"{self.owner}-{name}"]})
        return job_state(tasks or [], self.owner, name)

    async def _engine(
        self, method: str, path: str, *, body: Any = None, filters: Mapping[str, list[str]] | None = None
    ) -> Any:
        assert self._session  # noqa: S101 # there is no request before _connected
        parameters = {"filters": json.dumps(filters)} if filters else {}
        try:
            async with self._session.request(method, API + path, json=body, params=parameters) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineError(502, f"the engine doesn't answer: {error}") from error
        if answer.status >= 400:
            raise EngineError(answer.status, _message(text))
        return json.loads(text) if text.strip() else None


def _name(request: web.Request) -> str:
    name = request.match_info["name"]
    if not NAME.fullmatch(name):
        raise Refused("name", "must be lower-case letters, digits and dashes")
    return name


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refused:
        return web.json_response({"error": str(refused)}, status=refused.status)
    except EngineError as error:
        return web.json_response({"error": str(error)}, status=error.status)


def main() -> str | None:
    """Serve until SIGTERM; return what is wrong with the arguments, if anything."""
    parser = argparse.ArgumentParser(prog="job_launcher.execution.swarm_gateway", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML with the templates")
    parser.add_argument("--owner", required=True, help="whose jobs these are: a name of its own for each launcher")
    parser.add_argument("--socket", type=Path, default=Path("/run/job-launcher/engine.sock"))
    parser.add_argument("--engine", type=Path, default=Path("/var/run/docker.sock"))
    options = parser.parse_args()
    try:
        document = yaml.safe_load(options.config.read_text(encoding="utf-8"))
        known = templates.load(document["templates"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError, Refused) as error:
        return f"{options.config}: {error}"
    logging.basicConfig(level=logging.WARNING)
    # The launcher is in this process's group; nobody else may ask.
    os.umask(0o117)
    app = Gateway(options.engine, options.owner, known).application()
    web.run_app(app, path=str(options.socket), print=None, access_log=None, shutdown_timeout=1, loop=_loop())
    return None


def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


if __name__ == "__main__":
    sys.exit(main())

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the launcher is and how it is: configuration, status, health, metrics, the description of the API."""

from __future__ import annotations

from aiohttp import web

from job_launcher import __version__
from job_launcher.model import iso, now_ms
from job_launcher.tunables import INFO
from job_launcher.web import metrics, shapes
from job_launcher.web.access import check_role, principal_of
from job_launcher.web.problems import Problem
from job_launcher.web.routes import Answer, Call, Route, answer


async def show_config(call: Call) -> web.StreamResponse:
    """Tunables with their bounds, what bounds the workers, and the templates."""
    engine, config = call.server.engine, call.server.config
    limit, limited_by = engine.effective_limit
    return answer({
        "version": __version__,
        "tunables": config.tunables.to_json(),
        "tunables_info": {name: info.to_json() for name, info in INFO.items()},
        "effective_max_parallel_limit": limit,
        "limited_by": limited_by,
        "templates": [template.to_json() for template in config.templates.values()],
    })  # fmt: skip


async def show_status(call: Call) -> web.StreamResponse:
    """What a page asks for while its socket is down."""
    return answer({**call.server.engine.status(), "server_time": iso(now_ms())})


async def healthz(call: Call) -> web.StreamResponse:
    """Whether the databases can be written and read."""
    try:
        await call.server.check_health()
    except Exception as error:
        raise Problem(503, f"The database does not answer: {type(error).__name__}.") from error
    return answer({"status": "ok"})


async def readyz(call: Call) -> web.StreamResponse:
    """Whether new work is taken: not while draining."""
    if call.server.draining:
        raise Problem(503, "The launcher is draining.")
    return answer({"status": "ready"})


async def show_metrics(call: Call) -> web.StreamResponse:
    """For Prometheus, which asks directly. What came through a proxy may be anyone: an admin's token is needed."""
    if "X-Forwarded-For" in call.request.headers:
        who = await principal_of(call.server, call.request)
        if who is None:
            raise Problem(401, "Log in first.", headers={"WWW-Authenticate": "Bearer"})
        check_role(who, "admin")
    return web.Response(body=call.server.metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})


def routes(describe: dict[str, object]) -> tuple[Route, ...]:
    """These routes; `describe` is filled later with the document of all."""

    async def show_openapi(_: Call) -> web.StreamResponse:
        return answer(describe)

    state = shapes.exactly({"status": shapes.TEXT})
    return (
        Route("GET", "/api/config", "viewer", "Tunables and templates", show_config,
              {200: Answer("The configuration", shapes.CONFIG)}),
        Route("GET", "/api/status", "viewer", "How things are now", show_status,
              {200: Answer("The status", shapes.STATUS)}),
        Route("GET", "/api/openapi.json", "open", "This document", show_openapi,
              {200: Answer("OpenAPI 3.1", {"type": "object"})}),
        Route("GET", "/healthz", "open", "Is the database well", healthz, {200: Answer("It is", state)}),
        Route("GET", "/readyz", "open", "Is new work taken", readyz, {200: Answer("It is", state)}),
        Route("GET", "/metrics", "open", "For Prometheus", show_metrics,
              {200: Answer("Prometheus' text format", content_type="text/plain")}, problems=(401, 403)),
    )  # fmt: skip


def repeated_by_machines(path: str) -> bool:
    """Requests that nobody wants to read about, and that no limit may stop."""
    return path in ("/healthz", "/readyz", "/metrics")

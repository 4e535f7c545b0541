# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The web application: routes, what wraps each request, and the headers of each response."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from job_launcher.refused import Refused
from job_launcher.store.connection import StoreError
from job_launcher.validation import FieldError
from job_launcher.web import login, money, openapi, people, problems, runs, state, static
from job_launcher.web.access import check_csrf, check_origin, check_role, principal_of
from job_launcher.web.callers import caller_address, limit_key
from job_launcher.web.keys import ADDRESS, PREPARED, PRINCIPAL, REQUEST_ID
from job_launcher.web.limits import retry_after
from job_launcher.web.problems import Problem
from job_launcher.web.push import PATH as PUSH_PATH
from job_launcher.web.push import Hub
from job_launcher.web.routes import Call, Principal, Route, json_body, parameter_values
from job_launcher.web.server import SERVER, Server

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ACCESS_LOG = logging.getLogger("job_launcher.access")
ERRORS = logging.getLogger("job_launcher.errors")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self';"
    " connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_OUR_PATHS = ("/api", "/api/", "/socket.io")


def application(server: Server) -> web.Application:
    """Everything behind one port."""
    described: dict[str, object] = {}
    routes = all_routes(described)
    described.update(openapi.document(routes))
    app = web.Application(middlewares=[_around], client_max_size=server.limits.body_size)
    app[SERVER] = server
    by_path: dict[str, dict[str, Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, {})[route.method] = route
    for path, methods in by_path.items():
        app.router.add_route("*", path, _dispatcher(server, methods))
    hub = Hub(server)
    app.router.add_get(PUSH_PATH, _push_handler(server, hub), allow_head=False)
    app.router.add_get("/{path:.*}", _static_handler(server))
    app.on_response_prepare.append(_set_headers)
    app.on_startup.append(hub.start)
    app.on_shutdown.append(hub.stop)
    return app


def all_routes(described: dict[str, object]) -> tuple[Route, ...]:
    """The API; `described` is what /api/openapi.json serves, filled by whoever has the routes."""
    return (*login.ROUTES, *runs.ROUTES, *money.ROUTES, *people.ROUTES, *state.routes(described))


def _dispatcher(server: Server, methods: Mapping[str, Route]) -> Handler:
    """All methods of one path: checks from the cheapest to the dearest, then the route."""

    async def dispatch(request: web.Request) -> web.StreamResponse:
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            raise web.HTTPMethodNotAllowed(request.method, methods)
        principal = await _allowed_principal(server, request, route)
        values = parameter_values(route, request)
        body = await json_body(route, request, server.limits.body_seconds)
        return await route.handle(Call(server, request, request[ADDRESS], principal, values, body))

    return dispatch


async def _allowed_principal(server: Server, request: web.Request, route: Route) -> Principal | None:
    """Who asks, if they may ask this and haven't asked too often; Problem 401, 403 or 429 otherwise."""
    unsafe = route.method != "GET"
    if route.access == "open":
        if not state.repeated_by_machines(route.path):
            _take(server, limit_key(request[ADDRESS]))
        if unsafe:
            check_origin(server, request)
        return None
    principal = await _known_principal(server, request)
    _take(server, principal.name)
    check_role(principal, route.access)
    if unsafe:
        check_origin(server, request)
        check_csrf(request, principal)
    return principal


async def _known_principal(server: Server, request: web.Request) -> Principal:
    principal = await principal_of(server, request)
    if principal is None:
        _take(server, limit_key(request[ADDRESS]))
        raise Problem(401, "Log in first.", headers={"WWW-Authenticate": "Bearer"})
    request[PRINCIPAL] = principal
    return principal


def _take(server: Server, key: str) -> None:
    wait = server.buckets.take(key)
    if wait:
        raise Problem(429, "Too many requests; slow down.", headers=retry_after(wait))


def _push_handler(server: Server, hub: Hub) -> Handler:
    async def connect(request: web.Request) -> web.StreamResponse:
        principal = await _known_principal(server, request)
        _take(server, principal.name)
        check_origin(server, request)
        return await hub.serve(request, principal)

    return connect


def _static_handler(server: Server) -> Handler:
    files = static.table(server.config.static_dir)

    async def serve(request: web.Request) -> web.StreamResponse:
        if request.path.startswith(_OUR_PATHS):
            raise Problem(404, "There is no such address.")
        return static.serve(files, request)

    return serve


@web.middleware
async def _around(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Name the request, know its caller, turn every error into a problem, write one line, count."""
    server = request.app[SERVER]
    begun = server.clock()
    request[REQUEST_ID] = secrets.token_hex(8)
    request[ADDRESS] = caller_address(
        request.remote or "", request.headers.get("X-Forwarded-For"), server.config.trusted_proxies
    )
    try:
        response = await handler(request)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        if request.get(PREPARED):  # half a response is out: the client must see that it is broken
            ERRORS.exception("broke off", extra={"request_id": request[REQUEST_ID]})
            if request.transport is not None:
                request.transport.abort()
            raise
        response = problems.response(_problem_of(error, request), request[REQUEST_ID])
    seconds = server.clock() - begun
    server.metrics.requests.labels(request.method, str(response.status)).inc()
    if not isinstance(response, web.WebSocketResponse):
        server.metrics.seconds.observe(seconds)
    if not state.repeated_by_machines(request.path) or response.status >= 400:
        _log(request, response.status, seconds)
    return response


def _problem_of(error: Exception, request: web.Request) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refused):
        return Problem(error.status, str(error), [FieldError(error.field, error.message)] if error.field else [])
    if isinstance(error, web.HTTPException) and error.status >= 400:
        return _problem_of_aiohttp(error)
    if isinstance(error, StoreError):
        ERRORS.error("the database fails", extra={"request_id": request[REQUEST_ID], "error": str(error)})
        return Problem(503, "The database can't be written or read now.", headers=retry_after(5))
    ERRORS.exception("unexpected error", extra={"request_id": request[REQUEST_ID], "path": request.path})
    return Problem(500, "Something went wrong here; the log knows more under this request id.")


def _problem_of_aiohttp(error: web.HTTPException) -> Problem:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(405, f"This address takes {allowed}.", headers={"Allow": allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return Problem(413, "The body is too large.", headers={"Connection": "close"})
    return Problem(error.status, error.reason)


def _log(request: web.Request, status: int, seconds: float) -> None:
    """One line: no query, no headers, no body, so no secrets."""
    principal = request.get(PRINCIPAL)
    ACCESS_LOG.info(
        "request",
        extra={
            "request_id": request[REQUEST_ID],
            "method": request.method,
            "path": request.path[:200],
            "status": status,
            "ms": round(seconds * 1000, 1),
            "user": principal.name if principal else None,
            "address": request[ADDRESS],
        },
    )


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    request[PREPARED] = True
    response.headers.update(_HEADERS)
    response.headers["X-Request-Id"] = request.get(REQUEST_ID, "")
    if request.path.startswith("/api"):
        response.headers.setdefault("Cache-Control", "no-store")
    if (request.app[SERVER].config.public_url or "").startswith("https://"):
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    response.headers["Server"] = "job-launcher"

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a route of the API is: one declaration that routes, checks, limits and documents it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

from job_launcher.validation import FieldError, Schema, faults
from job_launcher.web.problems import Problem, no_such, wrong_fields

if TYPE_CHECKING:
    from job_launcher.web.server import Server

Access = Literal["open", "viewer", "operator", "admin"]
BINARY = "application/octet-stream"


@dataclass(frozen=True)
class Principal:
    """Who asks. `credential` is the hash of the session or token; `csrf_token` is None for tokens."""

    name: str
    role: str
    credential: str
    csrf_token: str | None

    @property
    def admin(self) -> bool:
        """Whether everything is theirs to see."""
        return self.role == "admin"


@dataclass(frozen=True)
class Parameter:
    """A value outside the body. `thing` is what a path parameter names: a wrong one is a 404 like an unknown one."""

    name: str
    where: Literal["path", "query", "header"]
    schema: Schema
    help: str
    thing: str = ""


@dataclass(frozen=True)
class Answer:
    """A success that a route declares."""

    help: str
    schema: Schema | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """A request after all checks: `values` by parameter name, the body as its schema says, the caller's address."""

    server: Server
    request: web.Request
    address: str
    principal: Principal | None
    values: Mapping[str, Any]
    body: Any

    @property
    def who(self) -> Principal:
        """Who asks, on routes that aren't open."""
        if self.principal is None:
            raise Problem(401, "Log in first.", headers={"WWW-Authenticate": "Bearer"})
        return self.principal


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Route:
    """One method on one path. `problems` are the statuses that only this route answers with."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    access: Access
    summary: str
    handle: Handler
    answers: Mapping[int, Answer]
    parameters: tuple[Parameter, ...] = ()
    body: Schema | None = None
    problems: tuple[int, ...] = ()

    @property
    def problem_statuses(self) -> list[int]:
        """Every status that is a problem on this route."""
        statuses = {400, 429, 500, 503, *self.problems}
        if self.access != "open":
            statuses |= {401, 403}
        if any(each.where == "path" for each in self.parameters):
            statuses.add(404)
        if self.method != "GET":
            statuses |= {403, 413}
        if self.body is not None:
            statuses.add(415)
        return sorted(statuses)


def answer(data: object, status: int = 200) -> web.Response:
    """A JSON response that no cache keeps."""
    return web.Response(
        status=status,
        body=json.dumps(data, separators=(",", ":")).encode(),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def parameter_values(route: Route, request: web.Request) -> dict[str, Any]:
    """The values of the declared parameters; absent ones are None. Problem 404 or 400 names what is wrong."""
    values: dict[str, Any] = {}
    wrong: list[FieldError] = []
    for each in route.parameters:
        raw = _raw(each, request)
        value = _converted(raw, each.schema)
        found = faults(each.schema, value, each.name) if raw is not None else []
        if found and each.where == "path":
            raise no_such(each.thing)
        wrong += found
        values[each.name] = value
    known = {each.name for each in route.parameters if each.where == "query"}
    wrong += [FieldError(name, "is unknown here") for name in dict.fromkeys(request.query) if name not in known]
    wrong += [FieldError(name, "must be given once") for name in known if len(request.query.getall(name, [])) > 1]
    if wrong:
        raise wrong_fields(wrong)
    return values


async def json_body(route: Route, request: web.Request, seconds: float) -> Any:
    """The body as the route's schema says. Problem 400, 408, 413 or 415 otherwise."""
    if route.body is None:
        return None
    if request.content_type != "application/json":
        raise Problem(415, "The body must be application/json.")
    try:
        async with asyncio.timeout(seconds):
            raw = await request.read()
    except TimeoutError as error:
        raise Problem(400, f"The body did not arrive within {seconds:g} s.", headers={"Connection": "close"}) from error
    body = parsed(raw)
    wrong = faults(route.body, body)
    if wrong:
        raise wrong_fields(wrong)
    return body


def parsed(raw: bytes) -> Any:
    """JSON as RFC 8259 has it: no NaN, no half surrogates, nothing too deep or too long for a number."""
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"The body is not JSON: {type(error).__name__}.") from error
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _raw(each: Parameter, request: web.Request) -> str | None:
    if each.where == "path":
        return request.match_info[each.name]
    return request.query.get(each.name) if each.where == "query" else request.headers.get(each.name)


def _converted(raw: str | None, schema: Schema) -> Any:
    if raw is not None and schema["type"] == "integer" and re.fullmatch(r"-?[0-9]{1,16}", raw, re.ASCII):
        return int(raw)
    return raw

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holds every answer that a test gets against what the OpenAPI document declares."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema_rs
from job_launcher.web import openapi
from job_launcher.web.app import all_routes
from job_launcher.web.problems import CONTENT_TYPE
from job_launcher.web.routes import Route

ROUTES = all_routes({})
DOCUMENT: Mapping[str, Any] = openapi.document(ROUTES)
seen: set[tuple[str, str, int]] = set()


def check(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Fail unless the answer is one that is declared, with the type and shape that are declared."""
    if "X-Request-Id" not in headers:
        return  # refused by the HTTP parser, before there was a request
    kind = headers.get("Content-Type", "").partition(";")[0]
    route = _route("GET" if method == "HEAD" else method, path.partition("?")[0])
    if status >= 400:
        assert kind == CONTENT_TYPE, (method, path, status, kind)
        assert method == "HEAD" or _problem().is_valid(json.loads(body)), body
    if route is None:
        return
    seen.add((route.method, route.path, status))
    declared = DOCUMENT["paths"][route.path][route.method.lower()]["responses"]
    assert str(status) in declared, f"{method} {path} answers {status}, declared are {', '.join(declared)}"
    if status >= 400 or method == "HEAD":
        return
    content = declared[str(status)].get("content", {})
    assert (kind or None) in (content or {None: {}}), (method, path, kind)
    shape = content.get(kind, {}).get("schema")
    if shape:
        wrong = [error.message for error in _shape(route.method, route.path, status).iter_errors(json.loads(body))]
        assert not wrong, (method, path, wrong)
    assert set(declared[str(status)].get("headers", {})) <= set(headers)


def _route(method: str, path: str) -> Route | None:
    for route in ROUTES:
        if route.method == method and re.fullmatch(re.sub(r"{\w+}", "[^/]+", route.path), path):
            return route
    return None


@cache
def _problem() -> Any:
    return jsonschema_rs.validator_for(dict(DOCUMENT["components"]["schemas"]["Problem"]))


@cache
def _shape(method: str, path: str, status: int) -> Any:
    (content,) = DOCUMENT["paths"][path][method.lower()]["responses"][str(status)]["content"].values()
    return jsonschema_rs.validator_for({"components": DOCUMENT["components"], **content["schema"]})

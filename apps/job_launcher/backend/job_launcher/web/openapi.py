# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenAPI 3.1 document, made of the declarations that also check the requests."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from job_launcher import __version__
from job_launcher.web import shapes
from job_launcher.web.access import COOKIE, CSRF_HEADER
from job_launcher.web.problems import CONTENT_TYPE
from job_launcher.web.routes import Answer, Parameter, Route


def document(routes: Iterable[Route]) -> dict[str, object]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Job launcher", "version": __version__, "license": {"name": "GPL-3.0-or-later"}},
        "paths": paths,
        "components": {
            "schemas": dict(shapes.COMPONENTS),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": COOKIE,
                    "description": f"Methods that change something also need the header {CSRF_HEADER}.",
                },
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handle.__name__,
        "summary": route.summary,
        "security": [] if route.access == "open" else [{"token": []}, {"session": []}],
        "responses": {
            **{str(status): _answer(each) for status, each in route.answers.items()},
            **{str(status): _problem(status) for status in route.problem_statuses},
        },
    }
    if route.parameters:
        operation["parameters"] = [_parameter(each) for each in route.parameters]
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": route.body}}}
    return operation


def _answer(declared: Answer) -> dict[str, Any]:
    shown: dict[str, Any] = {"description": declared.help}
    if declared.schema is not None:
        shown["content"] = {declared.content_type: {"schema": declared.schema}}
    elif declared.content_type != "application/json":
        shown["content"] = {declared.content_type: {}}
    if declared.headers:
        shown["headers"] = {
            name: {"description": text, "required": True, "schema": {"type": "integer"}}
            for name, text in declared.headers.items()
        }
    return shown


def _problem(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {CONTENT_TYPE: {"schema": shapes.ref("Problem")}},
    }


def _parameter(declared: Parameter) -> dict[str, Any]:
    return {
        "name": declared.name,
        "in": declared.where,
        "required": declared.where == "path",
        "description": declared.help,
        "schema": declared.schema,
    }

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every error as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from aiohttp import web

from job_launcher.validation import FieldError

CONTENT_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 - RFC 9457's own word
    """A request that ends in an error; `errors` names the fields that were wrong."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})


def response(problem: Problem, request_id: str) -> web.Response:
    """The problem as an HTTP response."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "errors": [{"field": error.field, "message": error.message} for error in problem.errors],
        "request_id": request_id,
    }
    return web.Response(
        status=problem.status, body=json.dumps(body).encode(), content_type=CONTENT_TYPE, headers=problem.headers
    )


def wrong_fields(errors: Sequence[FieldError]) -> Problem:
    """A 400 that names each wrong field."""
    return Problem(400, "; ".join(f"{error.field or 'body'} {error.message}" for error in errors[:20]), errors[:20])


def no_such(thing: str) -> Problem:
    """One answer for what isn't there and what is somebody else's: nobody learns which."""
    return Problem(404, f"There is no such {thing}.")

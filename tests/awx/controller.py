# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for an AWX controller, as AWX itself (an operator on Kubernetes) can't be had in a test.

A real HTTP server on 127.0.0.1 that answers the calls which the modules of awx.awx 24.6.1 make for playbooks/awx.yml:
lists with filters and pages, create, patch, associations, surveys, approvals. It was built from those requests, and
knows of a controller's rules those that wrong data would break: required and unknown references, nulls, surveys,
recurrence rules, cycles in a workflow, hidden secrets. Permissions, jobs and everything else are not in it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from tests.awx.store import KINDS, UNIFIED, Body, RefusedError, Store

TOKEN = "a-token-for-tests"  # noqa: S105 - known to the tests only
VERSION = "24.6.1"
_PATH = re.compile(r"/api/v2/(?P<collection>\w+)/(?:(?P<number>\d+)/(?:(?P<part>\w+)/)?)?")


@dataclass
class Controller:
    """The stand-in: what it holds, where it listens, what it was asked."""

    store: Store
    url: str = ""
    #: Items of one page of a list; a controller has 25. One makes every longer list come in pages.
    page_size: int = 1
    requests: list[tuple[str, str, Body]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def writes(self) -> list[tuple[str, str]]:
        """Return method and path of every request that could change something."""
        return [(method, path) for method, path, _ in self.requests if method != "GET"]

    def answer(self, method: str, target: str, body: Body) -> tuple[int, Body]:
        """Return status and body for a request."""
        url = urlsplit(target)
        self.requests.append((method, url.path, body))
        place = _PATH.fullmatch(url.path)
        if not place or place["collection"] not in (*KINDS, "unified_job_templates", "project_updates"):
            raise RefusedError(404, {"detail": "Not found."})
        collection, number, part = place["collection"], int(place["number"] or 0), place["part"]
        if number and part:
            return self._part(method, (collection, number, part), url.path, dict(parse_qsl(url.query)), body)
        if number:
            return self._one(method, collection, number, body)
        if method == "POST" and collection in KINDS:
            return 201, self.store.create(collection, body)
        if method == "GET" and collection != "project_updates":
            return 200, self._page(url.path, dict(parse_qsl(url.query)), collection)
        raise RefusedError(405, {"detail": f'Method "{method}" not allowed.'})

    def _one(self, method: str, collection: str, number: int, body: Body) -> tuple[int, Body]:
        if method == "GET" and collection == "project_updates":
            return 200, {"id": number, "status": "successful"}
        if collection not in KINDS or number not in self.store.objects[collection]:
            raise RefusedError(404, {"detail": "Not found."})
        if method == "PATCH":
            return 200, self.store.change(collection, number, body)
        if method == "GET":
            return 200, self.store.show(collection, number)
        raise RefusedError(405, {"detail": f'Method "{method}" not allowed.'})

    def _part(
        self, method: str, place: tuple[str, int, str], path: str, query: dict[str, str], body: Body
    ) -> tuple[int, Body]:
        collection, number, part = place
        match method, part:
            case "GET", "survey_spec":
                return 200, self.store.get_survey(collection, number)
            case "POST", "survey_spec":
                self.store.set_survey(collection, number, body)
                return 200, {}
            case "POST", "create_approval_template":
                return 201, self.store.approval(number, body)
            case "GET", _:
                return 200, self._paged(path, query, self.store.associates(collection, number, part))
            case "POST", _:
                self.store.associate(collection, number, part, body)
                return 204, {}
        raise RefusedError(405, {"detail": f'Method "{method}" not allowed.'})

    def _page(self, path: str, query: dict[str, str], collection: str) -> Body:
        filters = {name: value for name, value in query.items() if name != "page"}
        return self._paged(path, query, self.store.find(collection, filters))

    def _paged(self, path: str, query: dict[str, str], items: list[Body]) -> Body:
        page = int(query.get("page", 1))
        end = page * self.page_size
        following = f"{path}?{urlencode(query | {'page': str(page + 1)})}" if end < len(items) else None
        return {"count": len(items), "next": following, "results": items[end - self.page_size : end]}

    # What tests ask for.

    def all(self, collection: str) -> dict[str, Body]:
        """Return all objects of a collection by name (nodes: by identifier)."""
        key = "identifier" if collection == "workflow_job_template_nodes" else "name"
        return {each[key]: each for each in self.store.find(collection, {})}

    def survey(self, collection: str, name: str) -> list[Body]:
        """Return the questions of a template's survey."""
        questions: list[Body] = self.store.get_survey(collection, self.all(collection)[name]["id"]).get("spec", [])
        return questions

    def linked(self, collection: str, name: str, association: str) -> list[str]:
        """Return the names in a sub-list."""
        number = self.all(collection)[name]["id"]
        found = self.store.associates(collection, number, association)
        return [each.get("name") or each["identifier"] for each in found]

    def started_by(self, node: str) -> str:
        """Return the name of what a workflow's node starts."""
        number = self.all("workflow_job_template_nodes")[node]["unified_job_template"]
        return next(
            str(self.store.objects[kind][number]["name"]) for kind in UNIFIED if number in self.store.objects[kind]
        )


def _handler(controller: Controller) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or "{}") if length else {}
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._send(401, {"detail": "Authentication credentials were not provided."})
                return
            try:
                with controller.lock:
                    status, answer = controller.answer(self.command, self.path, body)
            except RefusedError as error:
                status, answer = error.status, error.body
            self._send(status, answer)

        def _send(self, status: int, answer: Body) -> None:
            data = b"" if status == 204 else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-API-Product-Name", "AWX")
            self.send_header("X-API-Product-Version", VERSION)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = _do  # noqa: N815 - the names http.server calls

        def log_message(self, *_: Any) -> None:
            """Keep the test's output to itself; Controller.requests is the log."""

    return Handler


@contextmanager
def running(playbooks: Collection[str]) -> Iterator[Controller]:
    """Run a fresh controller on a free port of 127.0.0.1."""
    controller = Controller(Store(playbooks))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(controller))
    controller.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield controller
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real server in a thread on 127.0.0.1, with the real engine and real sockets."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from job_launcher import config, serving
from job_launcher.web.limits import Limits
from job_launcher.web.server import Server
from tests.web import described

T = TypeVar("T")

GENEROUS = Limits(requests_per_second=1e6, request_burst=10**6, failures_by_address=10**6)
WORD = "correct horse battery"
SCRIPT = "console.log(1);" * 50
BUNDLE = {
    "index.html": "<!doctype html><title>Launcher</title>",
    "assets/index-4f3a.js": SCRIPT,
    "assets/index-4f3a.js.gz": SCRIPT,
    "favicon.svg": "<svg/>",
}
TEMPLATES: dict[str, Any] = {
    "hello": {"title": "Hello", "argv": ["/bin/echo", "hello"], "price": 2},
    "sleep": {
        "title": "Sleep",
        "argv": ["/bin/sleep", "{seconds}"],
        "price": 2,
        "parameters": {"seconds": {"type": "integer", "minimum": 0, "maximum": 60, "default": 30}},
    },
}
USERS = {"ada": "admin", "olga": "operator", "otto": "operator", "vera": "viewer"}


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cookie(self) -> str:
        return self.headers.get("Set-Cookie", "").partition(";")[0]


@dataclass
class Who:
    """A caller: what it sends with each request."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {**({"Content-Type": "application/json"} if raw is not None else {}), **self.headers, **(headers or {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, raw, sent)
            response = connection.getresponse()
            answer = Answer(response.status, dict(response.headers.items()), response.read())
        finally:
            connection.close()
        described.check(method, path, answer.status, answer.headers, answer.body)
        return answer

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("GET", path, None, headers)

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("POST", path, body, headers)


@dataclass
class Site:
    """A running server and how to speak to it."""

    server: Server
    loop: asyncio.AbstractEventLoop
    data_dir: Path
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def anyone(self) -> Who:
        return Who(self.port)

    def login(self, name: str, headers: Mapping[str, str] | None = None) -> Who:
        answer = self.anyone().post("/api/login", {"name": name, "password": WORD}, headers)
        assert answer.status == 200, answer.body
        return Who(self.port, {"Cookie": answer.cookie, "X-CSRF-Token": answer.json["csrf_token"]})

    def token(self, name: str) -> Who:
        if name not in self.tokens:
            made = self.login(name).post("/api/tokens", {"name": "test", "expires_in_days": 1})
            assert made.status == 201, made.body
            self.tokens[name] = made.json["token"]
        return Who(self.port, {"Authorization": f"Bearer {self.tokens[name]}"})

    def do(self, work: Callable[[], T | Awaitable[T]]) -> T:
        """Run a function, or await what it returns, in the server's loop."""

        async def inside() -> T:
            result = work()
            return await result if isinstance(result, Awaitable) else result

        return asyncio.run_coroutine_threadsafe(inside(), self.loop).result(20)


@contextmanager
def launched(
    root: Path, limits: Limits | None = None, balance: int = 1000, word: str = WORD, **changes: Any
) -> Iterator[Site]:
    """A server with the users of USERS, whose password is `word` and who have `balance` each."""
    (root / "secret").write_text(word + "\n")
    for name, text in BUNDLE.items():
        (root / "static" / name).parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        (root / "static" / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    document = {
        "data_dir": "data",
        "listen": "127.0.0.1:0",
        "public_url": "http://127.0.0.1",
        "static_dir": "static",
        "secrets_dir": ".",
        "templates": TEMPLATES,
        "tunables": {"worker_start_stagger": 0},
        "users": [
            {"name": name, "role": role, "balance": balance, "password_file": "secret"} for name, role in USERS.items()
        ],
        **changes,
    }
    chosen = config.parse(document, root)
    started = threading.Event()
    found: list[Any] = []

    async def main() -> None:
        end = asyncio.Event()
        try:
            async with serving.running(chosen, limits=limits or GENEROUS) as server:
                found.extend([server, asyncio.get_running_loop(), end])
                started.set()
                await end.wait()
        except BaseException as error:
            found.append(error)
            started.set()
            raise

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(20)
    if isinstance(found[-1], BaseException):
        raise found[-1]
    server, loop, end = found
    try:
        yield Site(server, loop, chosen.data_dir)
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(20)
        assert not thread.is_alive()

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the launcher's server: the agreed HTTP and push, with runs that only print, all in memory.

It shows the pages what a real server shows seldom or slowly: a log of a million lines, each banner, each refusal.
"""

from __future__ import annotations

import asyncio
import itertools
import mimetypes
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import socketio
from aiohttp import web

Json = dict[str, Any]
PASSWORD = "correct horse battery"  # noqa: S105 - of nobody
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PRICE = 3
TEMPLATES = [
    {
        "name": "demo",
        "title": "Demo: sleep and print",
        "description": "Each unit prints lines and sleeps between them.",
        "price": PRICE,
        "parameters": {
            "lines": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 40, "help": "Lines of each unit"},
            "pause": {
                "type": "number",
                "minimum": 0,
                "maximum": 60,
                "default": 0.05,
                "help": "Seconds between two lines",
            },
            "colour": {"type": "boolean", "default": True, "help": "Print in colours"},
            "mood": {"type": "choice", "choices": ["calm", "wild"], "default": "calm", "help": ""},
        },
    }
]
TUNABLES = {
    "max_parallel_limit": (8, "workers", 1, 256, "Cap of workers at a time."),
    "max_parallel": (4, "workers", 1, 256, "Workers at a time where a run doesn't say."),
    "log_flush_interval": (0.5, "s", 0.05, 10, "A line is on disk after this time at the latest."),
    "status_poll_interval": (1000, "ms", 500, 60000, "How often the page asks while its socket is down."),
    "log_poll_interval": (1000, "ms", 500, 60000, "How often the page asks for the log while its socket is down."),
}
DEFAULTS = {"status_poll_interval": 3000, "log_poll_interval": 3000}
PIECE = 1 << 20


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def problem(status: int, title: str, field: str | None = None, message: str = "") -> web.Response:
    errors = [{"field": field, "message": message}] if field else []
    body = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": title,
        "errors": errors,
        "request_id": "x",
    }
    return web.json_response(body, status=status, content_type="application/problem+json")


class StandIn:
    """The server's state and its handlers. Times and numbers are as a real server would give them."""

    def __init__(self, bundle: Path) -> None:
        self.port = 0
        self.requests: list[str] = []
        self.refuse: web.Response | None = None  # the next POST /api/run answers this
        self.keys: list[str] = []
        self.hold = 0.0  # seconds before POSTs of runs are answered
        self._bundle = bundle
        self._ids = itertools.count(1)
        self._runs: dict[str, Json] = {}
        self._units: dict[str, list[Json]] = {}
        self._logs: dict[str, bytearray] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ledger: list[Json] = []
        self._numbers: list[Json] = []
        self._total, self._held = 1000, 0
        self._banner: Json | None = None
        self._sio = socketio.AsyncServer(async_mode="aiohttp", transports=["websocket"])
        self._followers: dict[str, set[str]] = {}
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        app = web.Application(middlewares=[self._guard])
        self._sio.attach(app)
        self._sio.on("connect", self._connected)
        self._sio.on("subscribe", self._subscribed)
        self._sio.on("unsubscribe", self._unsubscribed)
        app.add_routes([
            web.post("/api/login", self._login),
            web.post("/api/logout", self._logout),
            web.get("/api/me", self._me),
            web.get("/api/config", self._config),
            web.get("/api/status", self._status),
            web.get("/api/balance", self._show_balance),
            web.post("/api/run", self._start),
            web.get("/api/runs", self._list),
            web.get("/api/runs/{id}", self._run),
            web.post("/api/runs/{id}/stop", self._stop),
            web.get("/api/runs/{id}/units", self._list_units),
            web.get("/api/runs/{id}/log", self._log),
            web.get("/api/runs/{id}/log/download", self._download),
            web.get("/api/ledger", self._list_ledger),
            web.get("/api/numbers", self._list_numbers),
            web.post("/api/numbers/{id}/retry", self._retry),
            web.get("/{path:.*}", self._page),
        ])  # fmt: skip
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    async def show_banner(self, banner: Json | None) -> None:
        self._banner = banner
        await self._sio.emit("banner", (banner,))

    async def greet(self, version: str) -> None:
        """As another version of the server does when a page comes back to it."""
        await self._sio.emit("hello", {"version": version, "server_time": now(), "instance": "two"})

    async def add_log(self, title: str, log: bytes, total: int) -> str:
        """A run that has ended, with this log."""
        run = self._new_run(title, total, 4, {})
        run.update(status="succeeded", started_at=now(), ended_at=now(), log_size=len(log), held=0)
        run["counts"].update(waiting=0, succeeded=total)
        for unit in self._units[run["id"]]:
            unit.update(status="succeeded", exit_code=0, started_at=now(), ended_at=now())
        self._logs[run["id"]] = bytearray(log)
        return str(run["id"])

    async def add_number(self, value: str, status: str, error: str | None = None) -> None:
        number = {
            "id": f"n_{len(self._numbers)}", "value": value, "run_id": next(iter(self._runs), "r_none"),
            "unit_id": "u_1", "status": status, "acquired_at": now(), "release_after": now(),
            "attempts": 5 if error else 0, "next_try_at": None, "last_error": error,
        }  # fmt: skip
        self._numbers.append(number)

    def log_of(self, run_id: str) -> bytes:
        return bytes(self._logs[run_id])

    def followed(self) -> int:
        """How many subscriptions of logs are open."""
        return sum(len(each) for each in self._followers.values())

    def started(self) -> int:
        return len(self._runs)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        api = request.path.startswith("/api/") and request.path != "/api/login"
        if api and request.cookies.get("launcher_session") != "in":
            return problem(401, "Log in first.")
        if api and request.method != "GET" and request.headers.get("X-CSRF-Token") != "token":
            return problem(403, "The request lacks its token.")
        response: web.StreamResponse = await handler(request)
        if not response.prepared:
            response.headers["Content-Security-Policy"] = CSP
        return response

    async def _login(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["password"] != PASSWORD:
            return problem(401, "The name or the password is wrong.")
        response = web.json_response({"user": self._user(), "csrf_token": "token"})
        response.set_cookie("launcher_session", "in", httponly=True, samesite="Strict")
        return response

    async def _logout(self, _: web.Request) -> web.Response:
        response = web.Response(status=204)
        response.del_cookie("launcher_session")
        return response

    def _user(self) -> Json:
        return {"name": "demo", "role": "admin"}

    async def _me(self, _: web.Request) -> web.Response:
        return web.json_response({"user": self._user(), "csrf_token": "token", "balance": self._balance()})

    async def _config(self, _: web.Request) -> web.Response:
        info = {
            name: {"unit": unit, "default": DEFAULTS.get(name, value), "minimum": low, "maximum": high, "help": text}
            for name, (value, unit, low, high, text) in TUNABLES.items()
        }
        return web.json_response({
            "version": "1.0.0", "tunables": {name: each[0] for name, each in TUNABLES.items()}, "tunables_info": info,
            "effective_max_parallel_limit": 8, "limited_by": "cpu", "templates": TEMPLATES,
        })  # fmt: skip

    async def _status(self, _: web.Request) -> web.Response:
        counts = {each: sum(n["status"] == each for n in self._numbers) for each in ("held", "releasing", "dead")}
        return web.json_response({
            "banner": self._banner, "running_units": 0, "queued_units": 0, "numbers": counts, "draining": False,
            "server_time": now(),
        })  # fmt: skip

    def _balance(self) -> Json:
        return {"total": self._total, "held": self._held, "available": self._total - self._held}

    async def _show_balance(self, _: web.Request) -> web.Response:
        return web.json_response(self._balance())

    def _new_run(self, title: str, total: int, max_parallel: int, parameters: Json) -> Json:
        ident = f"r_{next(self._ids):020d}".replace("0", "a").replace("1", "b").replace("8", "c").replace("9", "d")
        waiting = {"waiting": total, "running": 0, "succeeded": 0, "failed": 0, "stopped": 0, "retried": 0}
        run = {
            "id": ident, "owner": "demo", "template": "demo", "title": title, "status": "queued", "total": total,
            "max_parallel": max_parallel, "parameters": parameters, "counts": waiting, "price": PRICE,
            "held": PRICE * total, "captured": 0, "created_at": now(), "started_at": None, "ended_at": None,
            "log_size": 0, "message": None,
        }  # fmt: skip
        self._runs[ident] = run
        self._logs[ident] = bytearray()
        self._units[ident] = [
            {"id": f"u_{number}", "run_id": ident, "number": number, "attempt": 1, "worker": None, "status": "waiting",
             "exit_code": None, "signal": None, "reason": None, "lease": None, "started_at": None, "ended_at": None,
             "report": None}
            for number in range(1, total + 1)
        ]  # fmt: skip
        return run

    async def _start(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers["Idempotency-Key"])
        await asyncio.sleep(self.hold)
        if self.refuse is not None:
            refusal, self.refuse = self.refuse, None
            return refusal
        body = await request.json()
        run = self._new_run("Demo: sleep and print", body["total"], body["max_parallel"], body["parameters"])
        await self._move("hold", run["held"], run["id"])
        self._tasks[run["id"]] = asyncio.create_task(self._work(run))
        return web.json_response(run, status=201)

    async def _move(self, kind: str, amount: int, run_id: str) -> None:
        if kind == "hold":
            self._held += amount
        else:
            self._held -= amount
            self._total -= amount if kind == "capture" else 0
        self._ledger.append({
            "id": len(self._ledger) + 1, "at": now(), "kind": kind, "amount": amount, "run_id": run_id, "unit_id": None,
            "by": "demo", "reason": None, "total_after": self._total, "held_after": self._held,
        })  # fmt: skip
        await self._sio.emit("balance", self._balance())

    async def _work(self, run: Json) -> None:
        run.update(status="running", started_at=now())
        await self._sio.emit("run", run)
        gate = asyncio.Semaphore(run["max_parallel"])
        await asyncio.gather(*(self._unit(run, unit, gate) for unit in self._units[run["id"]]))
        await self._end(run, "succeeded" if run["counts"]["failed"] == 0 else "partly")

    async def _unit(self, run: Json, unit: Json, gate: asyncio.Semaphore) -> None:
        async with gate:
            await self._change(run, unit, "running", started_at=now(), worker=unit["number"])
            for line in range(run["parameters"]["lines"]):
                await asyncio.sleep(run["parameters"]["pause"])
                colour = 31 + line % 7
                await self._print(
                    run, f"{unit['number']}.1|line {line} \x1b[{colour}mof \x1b[1mthe\x1b[0m unit\n".encode()
                )
            failed = unit["number"] == 5
            await self._change(run, unit, "failed" if failed else "succeeded", ended_at=now(), exit_code=int(failed))
            run["held"] -= PRICE
            run["captured"] += 0 if failed else PRICE
            await self._move("release" if failed else "capture", PRICE, run["id"])

    async def _change(self, run: Json, unit: Json, status: str, **more: Any) -> None:
        run["counts"][unit["status"]] -= 1
        run["counts"][status] += 1
        unit.update(status=status, **more)
        await self._sio.emit("unit", unit)
        await self._sio.emit("run", run)

    async def _print(self, run: Json, line: bytes) -> None:
        log = self._logs[run["id"]]
        offset = len(log)
        log += line
        run["log_size"] = len(log)
        for sid in self._followers.get(run["id"], set()):
            await self._sio.emit("log", {"run_id": run["id"], "offset": offset, "data": line}, to=sid)

    async def _end(self, run: Json, status: str) -> None:
        run.update(status=status, ended_at=now())
        await self._sio.emit("run", run)

    async def _list(self, request: web.Request) -> web.Response:
        wanted = request.query.get("status")
        items = [run for run in reversed(self._runs.values()) if wanted in (None, run["status"])]
        return web.json_response({"items": items, "next": None})

    async def _run(self, request: web.Request) -> web.Response:
        run = self._runs.get(request.match_info["id"])
        return problem(404, "There is no such run.") if run is None else web.json_response(run)

    async def _stop(self, request: web.Request) -> web.Response:
        run = self._runs[request.match_info["id"]]
        await asyncio.sleep(self.hold)
        self._tasks[run["id"]].cancel()
        for unit in self._units[run["id"]]:
            if unit["status"] in ("waiting", "running"):
                await self._change(run, unit, "stopped", ended_at=now(), signal=15)
        await self._move("release", run["held"], run["id"])
        run["held"] = 0
        await self._end(run, "stopped")
        return web.json_response(run, status=202)

    async def _list_units(self, request: web.Request) -> web.Response:
        return web.json_response({"items": self._units[request.match_info["id"]], "next": None})

    async def _log(self, request: web.Request) -> web.Response:
        log = self._logs.get(request.match_info["id"])
        if log is None:
            return problem(404, "There is no such run.")
        start = int(request.query["from"])
        piece = bytes(log[start : start + min(PIECE, int(request.query["limit"]))])
        headers = {"X-Log-From": str(start), "X-Log-Next": str(start + len(piece)), "X-Log-Size": str(len(log))}
        return web.Response(body=piece, headers=headers, content_type="application/octet-stream")

    async def _download(self, request: web.Request) -> web.Response:
        headers = {"Content-Disposition": 'attachment; filename="run.log"'}
        return web.Response(body=self.log_of(request.match_info["id"]), headers=headers)

    async def _list_ledger(self, _: web.Request) -> web.Response:
        return web.json_response({"items": self._ledger[::-1], "next": None})

    async def _list_numbers(self, request: web.Request) -> web.Response:
        wanted = request.query.get("status")
        return web.json_response({"items": [n for n in self._numbers if wanted in (None, n["status"])], "next": None})

    async def _retry(self, request: web.Request) -> web.Response:
        for number in self._numbers:
            if number["id"] == request.match_info["id"]:
                number.update(status="releasing", last_error=None)
        return web.Response(status=204)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        path = self._bundle / request.match_info["path"]
        if not path.is_file():
            if "." in path.name:
                return problem(404, "There is no such file.")
            path = self._bundle / "index.html"
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return web.Response(body=path.read_bytes(), content_type=kind)

    async def _connected(self, sid: str, environ: Json, _: object = None) -> bool:
        if "launcher_session=in" not in environ.get("HTTP_COOKIE", ""):
            return False
        await self._sio.emit("hello", {"version": "1.0.0", "server_time": now(), "instance": "one"}, to=sid)
        await self._sio.emit("banner", (self._banner,), to=sid)
        return True

    async def _subscribed(self, sid: str, data: Json) -> Json:
        log = self._logs.get(data["run_id"])
        if log is None:
            return {"ok": False}
        self._followers.setdefault(data["run_id"], set()).add(sid)
        if data["from"] < len(log):
            event = {"run_id": data["run_id"], "offset": data["from"], "data": bytes(log[data["from"] :])}
            await self._sio.emit("log", event, to=sid)
        return {"ok": True, "size": len(log)}

    async def _unsubscribed(self, sid: str, data: Json) -> None:
        self._followers.get(data["run_id"], set()).discard(sid)


def refusal(field: str, message: str) -> web.Response:
    """A refused run whose problem names a field."""
    return problem(400, "The run was refused.", field, message)

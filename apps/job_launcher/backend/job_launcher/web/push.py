# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Push over socket.io: what happens is sent to those who may see it, gathered, and never more than a client takes.

A client that doesn't read costs nothing: a run's last bytes are kept once for all its viewers, a viewer is an offset
into them. One that falls behind them is told to pull the log itself. States are kept one for each thing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web

from job_launcher import __version__
from job_launcher.lean import socketio
from job_launcher.model import Event, iso, now_ms
from job_launcher.validation import faults
from job_launcher.web import shapes
from job_launcher.web.access import still_valid
from job_launcher.web.channel import Channel
from job_launcher.web.keys import CHANNEL, PRINCIPAL
from job_launcher.web.limits import Buckets, retry_after
from job_launcher.web.problems import Problem
from job_launcher.web.routes import Principal
from job_launcher.web.runs import own_run
from job_launcher.web.server import Server
from job_launcher.web.viewers import Tail, Viewer

PATH = "/socket.io/"
LOG = logging.getLogger("job_launcher.push")
MAX_SUBSCRIPTIONS = 16  # of one connection
MAX_STATES = 2000  # waiting for one connection; more and it is cut off, it asks anew
REVALIDATE_SECONDS = 60.0
ASKS_PER_SECOND, ASKS_BURST = 5.0, 50
CLOSE_SECONDS = 2.0
_GOING_AWAY, _POLICY = 1001, 1008  # WebSocket close codes

_SUBSCRIBE = shapes.exactly({"run_id": shapes.RUN_ID, "from": {"type": "integer", "minimum": 0}})
_UNSUBSCRIBE = shapes.exactly({"run_id": shapes.RUN_ID})


class Hub:
    """All push connections of a server."""

    def __init__(self, server: Server) -> None:
        tunables = server.config.tunables
        self._server = server
        self._interval = tunables.log_push_interval / 1000
        self._buffer = tunables.client_buffer
        self._viewers: dict[str, Viewer] = {}
        self._tails: dict[str, Tail] = {}
        self._open: Counter[str] = Counter()
        self._asks = Buckets(ASKS_PER_SECOND, ASKS_BURST, server.clock)
        self._flushed = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._validation: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsubscribe: Callable[[], None] = lambda: None
        self._sio = socketio.AsyncServer(
            async_mode="aiohttp",
            transports=["websocket"],
            # The Origin is checked before, with the rest.
            cors_allowed_origins=[],
            max_http_buffer_size=tunables.socketio_max_http_buffer_size,
            ping_timeout=tunables.socketio_ping_timeout,
            ping_interval=tunables.socketio_ping_interval,
            # One event of a connection after the other: asking a lot makes the asker wait, not us.
            async_handlers=False,
            always_connect=True,
        )
        # engineio offers no public way to its WebSocket class; ours tells when a client takes nothing.
        self._sio.eio._async = {**self._sio.eio._async, "websocket": Channel}
        self._sio.on("connect", self._connected)
        self._sio.on("disconnect", self._disconnected)
        self._sio.on("subscribe", self._subscribed)
        self._sio.on("unsubscribe", self._unsubscribed)

    async def start(self, _: web.Application) -> None:
        """Listen to the engine."""
        self._unsubscribe = self._server.engine.subscribe(self.take)
        self._server.on_revoked.append(self.cut_off)

    async def stop(self, _: web.Application) -> None:
        """Close every connection in a way that makes clients come again."""
        self._unsubscribe()
        for timer in (self._timer, self._validation):
            if timer is not None:
                timer.cancel()
        await asyncio.gather(*(viewer.channel.close_hard(_GOING_AWAY, CLOSE_SECONDS) for viewer in self._all()))
        await self._sio.shutdown()

    async def serve(self, request: web.Request, principal: Principal) -> web.StreamResponse:
        """One connection, until it ends. Problem 400 for anything but WebSocket, 429 beyond the limits."""
        if request.query.get("transport") != "websocket" or "sid" in request.query:
            raise Problem(400, "Only the WebSocket transport is served.")
        if request.headers.get("Upgrade", "").lower() != "websocket" or request.query.get("EIO") != "4":
            raise Problem(400, "This is for socket.io clients (protocol 5, WebSocket).")
        limits = self._server.limits
        if self._open[principal.name] >= limits.sockets_per_user or self._open.total() >= limits.sockets:
            raise Problem(429, "Too many open connections.", headers=retry_after(5))
        self._open[principal.name] += 1
        try:
            response: web.StreamResponse = await self._sio.handle_request(request)
        finally:
            self._open -= Counter({principal.name: 1})  # and forget names at 0
        return response

    def take(self, event: Event) -> None:
        """Note an event of the engine for those who may see it. Never waits."""
        if event.kind == "log" and event.run_id is not None:
            tail = self._tails.get(event.run_id)
            if tail is not None:
                tail.add(event.data["offset"], event.data["data"])
                self._arm()
            return
        for viewer in self._all():
            if viewer.may_see(event):
                viewer.note(event, self._shown(viewer, event))
                if len(viewer.states) > MAX_STATES:
                    self._cut(viewer, _GOING_AWAY)
                self._arm()

    def cut_off(self, credential: str) -> None:
        """Close the connections of a session or token that has ended."""
        for viewer in self._all():
            if viewer.principal.credential == credential:
                self._cut(viewer, _POLICY)

    def _shown(self, viewer: Viewer, event: Event) -> Any:
        if event.kind == "banner":
            return event.data["banner"]
        if event.kind == "numbers" and viewer.principal.admin:
            return self._server.engine.status()["numbers"]
        return event.data

    def _all(self) -> list[Viewer]:
        return list(self._viewers.values())

    async def _connected(self, sid: str, environ: dict[str, Any], _: object = None) -> None:
        request = environ["aiohttp.request"]
        viewer = Viewer(sid, request[PRINCIPAL], request[CHANNEL])
        self._viewers[sid] = viewer
        self._server.metrics.sockets.inc()
        viewer.channel.on_idle = lambda: self._arm() if viewer.waiting(self._tails) else None
        if self._validation is None:
            self._validation = asyncio.get_running_loop().call_later(REVALIDATE_SECONDS, self._begin_validation)
        hello = {"version": __version__, "server_time": iso(now_ms()), "instance": self._server.engine.instance}
        await self._sio.emit("hello", hello, to=sid)
        banner = self._server.engine.banner()
        await self._send("banner", banner.to_json() if banner else None, sid)

    async def _disconnected(self, sid: str, _: object = None) -> None:
        viewer = self._viewers.pop(sid, None)
        if viewer is None:
            return
        self._server.metrics.sockets.dec()
        for run_id in list(viewer.offsets):
            self._forget(viewer, run_id)
        # A client that doesn't read doesn't read a farewell either.
        asyncio.get_running_loop().call_later(CLOSE_SECONDS, viewer.channel.abort)

    async def _subscribed(self, sid: str, data: object = None) -> dict[str, Any]:
        viewer = self._viewers.get(sid)
        wrong = faults(_SUBSCRIBE, data)
        if viewer is None or wrong:
            return _refused("; ".join(f"{fault.field or 'data'} {fault.message}" for fault in wrong))
        assert isinstance(data, dict)  # noqa: S101 - the schema says so; this tells mypy
        run_id, start = data["run_id"], int(data["from"])
        if self._asks.take(sid):
            return _refused("too many requests; slow down")
        if len(viewer.offsets) >= MAX_SUBSCRIPTIONS and run_id not in viewer.offsets:
            return _refused(f"at most {MAX_SUBSCRIPTIONS} subscriptions")
        try:
            await own_run(self._server, viewer.principal, run_id)
        except Problem as problem:
            return _refused(problem.detail)
        return {"ok": True, "size": await self._begin_log(viewer, run_id, start)}

    async def _begin_log(self, viewer: Viewer, run_id: str, start: int) -> int:
        """Send the log from `start` and let the viewer follow, or tell it to pull; returns the log's size now."""
        viewer.offsets.pop(run_id, None)
        # Before reading, so that nothing falls between what is read and what comes.
        self._tails.setdefault(run_id, Tail(self._buffer)).viewers.add(viewer.sid)
        piece, after, size = await self._server.engine.read_log(run_id, start, self._buffer)
        if after < size:
            self._lag(viewer, run_id, start)
        elif piece:
            await self._send_log([viewer.sid], run_id, after - len(piece), piece)
        if viewer.sid not in self._viewers:  # it has gone meanwhile
            self._forget(viewer, run_id)
        elif after >= size:
            viewer.offsets[run_id] = after
        self._arm()
        return size

    async def _unsubscribed(self, sid: str, data: object = None) -> dict[str, Any]:
        viewer = self._viewers.get(sid)
        if viewer is not None and isinstance(data, dict) and not faults(_UNSUBSCRIBE, data):
            self._forget(viewer, data["run_id"])
        return {"ok": True}

    def _forget(self, viewer: Viewer, run_id: str) -> None:
        viewer.offsets.pop(run_id, None)
        tail = self._tails.get(run_id)
        if tail is not None:
            tail.viewers.discard(viewer.sid)
            if not tail.viewers:
                del self._tails[run_id]

    def _lag(self, viewer: Viewer, run_id: str, offset: int) -> None:
        self._forget(viewer, run_id)
        viewer.lagged[run_id] = offset
        self._server.metrics.lagged.inc()

    def _arm(self) -> None:
        """Flush soon: at once after a pause, else an interval after the last flush."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._flushed + self._interval), self._begin_flush)

    def _begin_flush(self) -> None:
        self._flushed = asyncio.get_running_loop().time()
        self._spawn(self._flush())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            LOG.error("push failed", exc_info=task.exception())

    async def _flush(self) -> None:
        self._timer = None
        ready = [viewer for viewer in self._all() if viewer.waiting(self._tails) and self._idle(viewer)]
        await self._send_logs(ready)
        for viewer in ready:
            states, viewer.states = viewer.states, {}
            for (kind, _), data in states.items():
                await self._send(kind, data, viewer.sid)
            lagged, viewer.lagged = viewer.lagged, {}
            for run_id, offset in lagged.items():
                await self._sio.emit("lagged", {"run_id": run_id, "from": offset}, to=viewer.sid)

    async def _send(self, kind: str, data: Any, sid: str) -> None:
        # Bare None would be sent as no argument at all, which a page can't tell from nothing said yet.
        await self._sio.emit(kind, (data,), to=sid)

    async def _send_logs(self, ready: list[Viewer]) -> None:
        """Send what each viewer hasn't; those at the same offset share one message."""
        places: dict[tuple[str, int], list[Viewer]] = defaultdict(list)
        for viewer in ready:
            for run_id, offset in viewer.offsets.items():
                places[run_id, offset].append(viewer)
        for (run_id, offset), viewers in places.items():
            tail = self._tails.get(run_id)
            piece = tail.since(offset) if tail is not None else b""
            for viewer in viewers:
                if piece is None:
                    self._lag(viewer, run_id, offset)
                else:
                    viewer.offsets[run_id] = offset + len(piece)
            if piece:
                await self._send_log([viewer.sid for viewer in viewers], run_id, offset, piece)

    async def _send_log(self, sids: list[str], run_id: str, offset: int, piece: bytes) -> None:
        await self._sio.emit("log", {"run_id": run_id, "offset": offset, "data": piece}, to=sids)

    def _idle(self, viewer: Viewer) -> bool:
        """Whether all that was sent to a viewer has gone, so that more may be given."""
        socket = self._sio.eio.sockets.get(self._sio.manager.eio_sid_from_sid(viewer.sid, "/"))
        return socket is not None and socket.queue.empty() and not viewer.channel.sending

    def _begin_validation(self) -> None:
        self._validation = None
        self._spawn(self._validate())

    async def _validate(self) -> None:
        """Cut off who was logged out elsewhere, by time or by the command line."""
        for viewer in self._all():
            if not await still_valid(self._server, viewer.principal):
                self._cut(viewer, _POLICY)
        if self._viewers and self._validation is None:
            self._validation = asyncio.get_running_loop().call_later(REVALIDATE_SECONDS, self._begin_validation)

    def _cut(self, viewer: Viewer, code: int) -> None:
        viewer.states.clear()
        self._spawn(viewer.channel.close_hard(code, CLOSE_SECONDS))


def _refused(why: str) -> dict[str, Any]:
    return {"ok": False, "error": why or "not connected"}

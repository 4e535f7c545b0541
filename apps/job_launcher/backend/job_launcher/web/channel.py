# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""engineio's WebSocket on aiohttp, uncompressed, and one that tells when a client doesn't take what it is sent.

Compression would cost more of the processor than all the rest, and a third of a megabyte for each connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from job_launcher.web.keys import CHANNEL


class Channel:
    """What engineio calls for each connection: `send`, `wait`, `close`."""

    def __init__(self, handler: Callable[[Channel], Awaitable[None]], server: Any) -> None:
        self._handler = handler
        self._socket = web.WebSocketResponse(max_msg_size=server.max_http_buffer_size, compress=False)
        self._request: web.Request | None = None
        self.sending = False
        self.on_idle: Callable[[], None] = lambda: None

    async def __call__(self, environ: dict[str, Any]) -> web.WebSocketResponse:
        """Serve the connection until it ends."""
        self._request = environ["aiohttp.request"]
        self._request[CHANNEL] = self
        await self._socket.prepare(self._request)
        await self._handler(self)
        return self._socket

    async def send(self, message: str | bytes) -> None:
        """Send a message; waits while the client takes nothing and the transport's buffer is full."""
        self.sending = True
        try:
            if isinstance(message, bytes):
                await self._socket.send_bytes(message)
            else:
                await self._socket.send_str(message)
        finally:
            self.sending = False
        self.on_idle()

    async def wait(self) -> str | bytes:
        """Wait for a message; OSError when there will be none."""
        message = await self._socket.receive()
        if not isinstance(message.data, str | bytes):
            raise OSError("the connection has ended")
        return message.data

    async def close(self) -> None:
        """Say good-bye."""
        await self._socket.close()

    async def close_hard(self, code: int, seconds: float) -> None:
        """Close with a code; without any ado where the client doesn't answer in time."""
        with contextlib.suppress(TimeoutError, OSError, RuntimeError):
            async with asyncio.timeout(seconds):
                await self._socket.close(code=code)
        self.abort()

    def abort(self) -> None:
        """Drop the connection with all that waits in it."""
        if self._request is not None and self._request.transport is not None:
            self._request.transport.abort()

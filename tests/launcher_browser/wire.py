# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wire between browser and server that a test can cut: all of it, or its WebSockets alone."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

Cut = Literal["nothing", "sockets", "everything"]
_WEBSOCKET = b"GET /socket.io/"


class Wire:
    """Forwards TCP connections to a port."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._cut: Cut = "nothing"
        self._server: asyncio.Server | None = None
        self._sockets: set[asyncio.StreamWriter] = set()
        self._others: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        await self.cut("everything")
        if self._server is not None:
            self._server.close()

    async def cut(self, what: Cut) -> None:
        """Break what is open of that kind, and refuse new ones until `nothing` is cut."""
        self._cut = what
        broken = set() if what == "nothing" else set(self._sockets)
        if what == "everything":
            broken |= self._others
        for writer in broken:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(65536)
        websocket = first.startswith(_WEBSOCKET)
        if self._cut == "everything" or (websocket and self._cut == "sockets"):
            writer.transport.abort()
            return
        kind = self._sockets if websocket else self._others
        kind.add(writer)
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
            there.write(first)
            await asyncio.gather(_pass_on(reader, there), _pass_on(there_reader, writer))
        except OSError:
            writer.transport.abort()
        finally:
            kind.discard(writer)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()

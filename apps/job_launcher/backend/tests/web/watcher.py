# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a page does: follow a run's log by push, pull where it is told to."""

from __future__ import annotations

import asyncio
from typing import Any

import socketio
from tests.web.harness import Who


class Watcher:
    """One push connection; `log` is what it has of `run_id` so far, byte for byte."""

    def __init__(self, who: Who, run_id: str | None = None) -> None:
        self.who = who
        self.run_id = run_id
        self.log = bytearray()
        self.events: list[tuple[str, Any]] = []
        self.lagged = 0
        self._pulling: asyncio.Task[None] | None = None
        self.client = socketio.AsyncClient(reconnection=False)
        for kind in ("hello", "run", "unit", "balance", "numbers", "banner"):
            self.client.on(kind, self._keeper(kind))
        self.client.on("log", self._on_log)
        self.client.on("lagged", self._on_lagged)

    def _keeper(self, kind: str) -> Any:
        async def keep(data: Any) -> None:  # an event without its argument is an error
            self.events.append((kind, data))

        return keep

    async def connect(self) -> Watcher:
        url = f"http://127.0.0.1:{self.who.port}"
        await self.client.connect(url, headers=dict(self.who.headers), transports=["websocket"], wait_timeout=20)
        if self.run_id is not None:
            await self.follow()
        return self

    async def follow(self) -> None:
        answer = await self.ask("subscribe", {"run_id": self.run_id, "from": len(self.log)})
        assert answer["ok"], answer

    async def ask(self, event: str, data: object) -> Any:
        return await self.client.call(event, data, timeout=20)

    async def _on_log(self, message: Any) -> None:
        assert message["run_id"] == self.run_id
        assert message["offset"] == len(self.log), "pushed bytes follow each other"
        self.log += message["data"]

    async def _on_lagged(self, message: Any) -> None:
        assert message == {"run_id": self.run_id, "from": len(self.log)}
        self.lagged += 1
        self._pulling = asyncio.create_task(self._pull())

    async def _pull(self) -> None:
        """Get by HTTP what is there, then follow again."""
        while True:
            answer = await asyncio.to_thread(
                self.who.get, f"/api/runs/{self.run_id}/log?from={len(self.log)}&limit=1048576"
            )
            self.log += answer.body
            if int(answer.headers["X-Log-Next"]) >= int(answer.headers["X-Log-Size"]):
                break
        await self.follow()

    async def until(self, true: Any, seconds: float = 30.0) -> None:
        """Wait until `true()`."""
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.02)

    def got(self, kind: str) -> list[Any]:
        return [data for each, data in self.events if each == kind]

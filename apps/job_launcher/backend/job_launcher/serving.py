# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a server: start, serve, drain when told to end, stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

from job_launcher import __version__
from job_launcher.config import Config
from job_launcher.engine import Engine, EngineConfig
from job_launcher.execution.executor import Executor
from job_launcher.first_users import make_configured, make_demo_admin
from job_launcher.lean import give_memory_back
from job_launcher.refused import Refused
from job_launcher.store.accounts import Accounts
from job_launcher.web.app import application
from job_launcher.web.limits import Limits
from job_launcher.web.server import Server

LOG = logging.getLogger("job_launcher.serving")
CLOSE_SECONDS = 3.0  # for requests that are under way when the sockets close


@asynccontextmanager
async def running(config: Config, *, demo: bool = False, limits: Limits | None = None) -> AsyncIterator[Server]:
    """A server that takes requests until the block ends. Raises Refused if the data directory or
    the port is in use."""
    engine = Engine(EngineConfig(config.data_dir, config.templates, config.tunables, executors=_executors(config)))
    accounts = Accounts(config.data_dir)
    await engine.start()
    try:
        await accounts.open()
        await make_configured(accounts, engine, config.users)
        if demo:
            await make_demo_admin(accounts, engine, config.data_dir)
        server = Server(config, engine, accounts, limits or Limits())
        runner = web.AppRunner(application(server), access_log=None, shutdown_timeout=CLOSE_SECONDS)
        await runner.setup()
        try:
            site = web.TCPSite(runner, config.host, config.port)
            try:
                await site.start()
            except OSError as error:
                raise Refused("listen", f"{config.host}:{config.port} can't be had: {error.strerror}") from error
            server.port = runner.addresses[0][1]
            yield server
        finally:
            await runner.cleanup()
    finally:
        await engine.stop()
        await accounts.close()


def _executors(config: Config) -> Mapping[str, Callable[[], Executor]]:
    """The executors besides `local` that the templates use; an HTTP client costs memory."""
    if not any(template.executor == "swarm" for template in config.templates.values()):
        return {}
    from job_launcher.execution.swarm import SwarmExecutor  # noqa: PLC0415

    return {"swarm": lambda: SwarmExecutor(config.engine_socket)}


async def serve(config: Config, *, demo: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the drain."""
    give_memory_back()
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[int] = asyncio.Queue()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, told.put_nowait, each)
    async with running(config, demo=demo) as server:
        LOG.info("serving", extra={"version": __version__, "host": config.host, "port": server.port})
        if demo:
            print(f"The launcher is at http://{config.host}:{server.port}", flush=True)
        number = await told.get()
        LOG.info("draining", extra={"signal": signal.Signals(number).name})
        server.draining = True
        drain, again = asyncio.ensure_future(server.engine.drain()), asyncio.ensure_future(told.get())
        await asyncio.wait({drain, again}, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if not drain.done():
            LOG.warning("drain broken off by a second signal")
            drain.cancel()
        await asyncio.gather(drain, return_exceptions=True)
    LOG.info("stopped")

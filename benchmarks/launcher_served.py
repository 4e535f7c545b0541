"""The whole launcher, under load or idle: prints JSON.

`python -m benchmarks.launcher_served served|idle <directory> <seconds> <workers> <lines/s of each>`, with the
launcher's backend on PYTHONPATH. The server is a process of its own, which is measured; 3 viewers are connected to it
by WebSocket from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import socketio
import yaml

from benchmarks.launcher_subject import PRINTED, VIEWERS, WARM, Load

#: The server believes that it has as many CPUs as 8 workers ask for: the lab's machines have fewer.
SERVE = """
import sys
from job_launcher import cli
from job_launcher.execution import machine
cpus, config = sys.argv[1:]
machine.cpu_quota = lambda: float(cpus)
sys.exit(cli.main(["serve", "--config", config]))
"""
CLI = [sys.executable, "-m", "job_launcher.cli"]
PASSWORD = "only for a benchmark"  # noqa: S105
#: What starting left behind is done by then, s.
SETTLE = 3.0
TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """A running launcher with one user and one template."""

    def __init__(self, load: Load) -> None:
        self.load = load
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        (load.directory / "secret").write_text(PASSWORD)
        self.config = load.directory / "config.yml"
        self.config.write_text(
            yaml.safe_dump(
                {
                    "data_dir": "data",
                    "listen": self.url.removeprefix("http://"),
                    "public_url": self.url,
                    "secrets_dir": ".",
                    "templates": {"job": {"argv": load.command(), "price": 1}},
                    "tunables": {"worker_start_stagger": 0},
                    "users": [{"name": "bench", "role": "admin", "balance": 1000, "password_file": "secret"}],
                }
            )
        )
        with (load.directory / "stderr").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(load.workers / 2), str(self.config)], stderr=errors
            )
        self._wait()
        settings = {**os.environ, "JOB_LAUNCHER_CONFIG": str(self.config), "JOB_LAUNCHER_URL": self.url}
        made = subprocess.run(
            [*CLI, "user", "token", "bench"], env=settings, capture_output=True, text=True, check=True
        )
        self.headers = {"Authorization": f"Bearer {made.stdout.strip()}"}

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/readyz", timeout=5).close()  # noqa: S310 - our own server
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.1)
            else:
                return

    def ask(self, path: str, body: object = None) -> bytes:
        """Return the answer to a GET, or to a POST with a body."""
        raw = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(  # noqa: S310
            self.url + path, raw, {**self.headers, "Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
            return bytes(answer.read())

    def metric(self, name: str) -> float:
        """Return one of /metrics."""
        lines = self.ask("/metrics").decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def requests(self) -> float:
        """Return how many requests it has answered, this one not yet among them."""
        lines = self.ask("/metrics").decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("launcher_http_requests_total{"))

    def cpu_seconds(self) -> float:
        """Return the CPU time of the server itself; its workers have their own."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss(self, *, largest: bool = False) -> float:
        """Return MB, as they are now or were at most."""
        name = "VmHWM" if largest else "VmRSS"
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 10**6

    def end(self) -> None:
        """Stop it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


class Viewer:
    """A connection that follows a run's log from its first byte."""

    def __init__(self) -> None:
        self.log = bytearray()
        self.latencies: list[float] = []
        self.measuring = False
        self.client = socketio.AsyncClient(reconnection=False)
        self.client.on("log", self._on_log)

    async def _on_log(self, message: Any) -> None:
        self.log += message["data"]
        if self.measuring and (found := PRINTED.findall(message["data"])):
            # Its first line waited longest.
            self.latencies.append(time.time() - float(found[0]))


@contextlib.asynccontextmanager
async def watching(server: Server, run_id: str | None) -> AsyncIterator[list[Viewer]]:
    """Connect the viewers while the block runs; they follow the run if there is one."""
    viewers = [Viewer() for _ in range(VIEWERS)]
    for viewer in viewers:
        await viewer.client.connect(server.url, headers=server.headers, transports=["websocket"], wait_timeout=20)
        if run_id:
            await viewer.client.call("subscribe", {"run_id": run_id, "from": 0}, timeout=20)
    yield viewers
    for viewer in viewers:
        await viewer.client.disconnect()


async def measure(server: Server) -> dict[str, Any]:
    """Run 8 units with 3 viewers; returns the figures of the server."""
    load = server.load
    wanted = {"template": "job", "total": load.workers, "max_parallel": load.workers}
    run_id = json.loads(await asyncio.to_thread(server.ask, "/api/run", wanted))["id"]
    async with watching(server, run_id) as viewers:
        await asyncio.sleep(WARM)
        writes = await asyncio.to_thread(server.metric, "launcher_log_writes_total")
        running = await asyncio.to_thread(server.metric, "launcher_units_running")
        requests = await asyncio.to_thread(server.requests)
        began, cpu = time.monotonic(), server.cpu_seconds()
        for viewer in viewers:
            viewer.measuring = True
        await asyncio.sleep(load.seconds)
        for viewer in viewers:
            viewer.measuring = False
        seconds, used = time.monotonic() - began, server.cpu_seconds() - cpu
        requests = await asyncio.to_thread(server.requests) - requests - 1  # the reading before
        writes = await asyncio.to_thread(server.metric, "launcher_log_writes_total") - writes
        while json.loads(await asyncio.to_thread(server.ask, f"/api/runs/{run_id}"))["ended_at"] is None:
            await asyncio.sleep(0.2)
        kept = await asyncio.to_thread(server.ask, f"/api/runs/{run_id}/log/download")
        await asyncio.sleep(1.0)  # the last push
        exact = all(viewer.log == kept for viewer in viewers) and kept.count(b" w ") == load.lines * load.workers
    latencies = sorted(each for viewer in viewers for each in viewer.latencies) or [float("inf")]
    return {
        "cpu": used / seconds,
        "rss_mb": server.rss(largest=True),
        "requests": requests / seconds,
        "log_writes": writes / seconds,
        "latency": latencies[int(len(latencies) * 0.99)],
        "exact": int(exact and running == load.workers),
    }


async def measure_idle(server: Server) -> dict[str, Any]:
    """Do nothing with 3 viewers; returns the figures of the server."""
    async with watching(server, None):
        await asyncio.sleep(SETTLE)
        requests = await asyncio.to_thread(server.requests)
        began, cpu = time.monotonic(), server.cpu_seconds()
        await asyncio.sleep(server.load.seconds)
        seconds, used = time.monotonic() - began, server.cpu_seconds() - cpu
        asked = await asyncio.to_thread(server.requests) - requests - 1  # the reading before
    return {"cpu": used / seconds, "rss_mb": server.rss(), "requests": asked / seconds}


def main() -> None:
    """Measure."""
    kind, directory, seconds, workers, rate = sys.argv[1:]
    server = Server(Load(Path(directory), float(seconds), int(workers), int(rate)))
    try:
        print(json.dumps(asyncio.run({"served": measure, "idle": measure_idle}[kind](server))))
    finally:
        server.end()


if __name__ == "__main__":
    main()

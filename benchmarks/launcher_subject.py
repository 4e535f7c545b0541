"""One side of the launcher's benchmark: prints JSON.

`python -m benchmarks.launcher_subject engine|naive <directory> <seconds> <workers> <lines/s of each>`, with the
launcher's backend on PYTHONPATH. It imports nothing of the bench: its memory is measured.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job_launcher import templates, tunables
from job_launcher.engine import Engine, EngineConfig
from job_launcher.model import Event

VIEWERS = 3
NAIVE_POLL = 2.0
WARM = 1.0
#: Prints lines with their time at a steady pace, five at a time, each written by itself.
WORKER = """
import os, sys, time
worker, lines, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
began = time.monotonic()
for line in range(lines):
    os.write(1, f"{time.time():.4f} {worker} {line} {'x' * 40}\\n".encode())
    if line % 5 == 4:
        time.sleep(max(0.0, began + line / rate - time.monotonic()))
"""
PRINTED = re.compile(rb"(?:^|\|)(\d+\.\d{4}) ", re.MULTILINE)


@dataclass(frozen=True)
class Load:
    """What is printed: by so many workers, so many lines/s each, for longer than is measured."""

    directory: Path
    seconds: float
    workers: int
    rate: int

    @property
    def lines(self) -> int:
        """Return the lines of one worker."""
        return round((self.seconds + 2 * WARM) * self.rate)

    def command(self) -> list[str]:
        """Return a worker's argv."""
        return [sys.executable, "-I", "-S", "-c", WORKER, "w", str(self.lines), str(self.rate)]


class Meter:
    """CPU, memory, write calls and latencies of this process between `begin` and `end`."""

    def __init__(self, log_writes: Callable[[], int]) -> None:
        self._log_writes = log_writes
        self.latencies: list[float] = []
        self.measuring = False

    def begin(self) -> None:
        """Start to measure."""
        self._before = (time.monotonic(), time.process_time(), _write_calls(), self._log_writes())
        self.measuring = True

    def end(self) -> dict[str, Any]:
        """Return the figures."""
        self.measuring = False
        began, cpu, calls, writes = self._before
        seconds = time.monotonic() - began
        latencies = sorted(self.latencies) or [0.0]
        return {
            "cpu": (time.process_time() - cpu) / seconds,
            "rss_mb": _largest_rss(),
            "log_writes": (self._log_writes() - writes) / seconds,
            "write_calls": (_write_calls() - calls) / seconds,
            "latency": latencies[int(len(latencies) * 0.99)],
        }

    def saw(self, data: bytes) -> None:
        """Note when the last line of some log was seen."""
        if self.measuring and (found := PRINTED.findall(data)):
            # Its first line waited longest.
            self.latencies.append(time.time() - float(found[0]))


def _largest_rss() -> float:
    """Return MB. Not getrusage's: that begins with the memory of who started this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 10**6


def _write_calls() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("syscw"))


async def engine(load: Load) -> dict[str, Any]:
    """Run 8 units under the engine with 3 listeners."""
    async with _Engine(load, load.command()) as running:
        meter = Meter(lambda: int(running.metrics()["log_writes_total"]))
        received = [bytearray() for _ in range(VIEWERS)]

        def listen(viewer: int) -> Callable[[Event], None]:
            def take(event: Event) -> None:
                if event.kind == "log":
                    received[viewer].extend(event.data["data"])
                    if viewer == 0:
                        meter.saw(event.data["data"])

            return take

        for viewer in range(VIEWERS):
            running.subscribe(listen(viewer))
        run, _ = await running.start_run("bench", "job", load.workers, load.workers)
        while running.metrics()["units_running"] < load.workers:
            await asyncio.sleep(0.05)
        await asyncio.sleep(WARM)
        meter.begin()
        await asyncio.sleep(load.seconds)
        figures = meter.end()
        while (await running.get_run(run.id)).ended_at is None:
            await asyncio.sleep(0.1)
        kept = b"".join([piece async for piece in running.download_log(run.id)])
        exact = all(each == kept for each in received) and kept.count(b" w ") == load.lines * load.workers
        return {**figures, "exact": int(exact)}


class _Engine:
    """An engine with credits and one template, for `async with`."""

    def __init__(self, load: Load, argv: list[str]) -> None:
        self._credits = load.workers
        job = templates.load({"job": {"argv": argv}})
        values = tunables.load({"worker_start_stagger": 0})
        self._engine = Engine(EngineConfig(load.directory / "data", job, values, cpu_quota=load.workers))

    async def __aenter__(self) -> Engine:
        await self._engine.start()
        await self._engine.credit("bench", self._credits, "bench", "for the benchmark")
        return self._engine

    async def __aexit__(self, *_: object) -> None:
        await self._engine.stop()


def naive(load: Load) -> dict[str, Any]:
    """Run 8 workers, a thread and a flush a line each; 3 viewers read what is new every 2 s."""
    writes = [0] * load.workers
    polls = [0] * VIEWERS
    meter = Meter(lambda: sum(writes))
    ending = threading.Event()

    def read_output(worker: int) -> None:
        started = subprocess.Popen(load.command(), stdout=subprocess.PIPE)
        assert started.stdout
        with (load.directory / f"{worker}.log").open("wb") as file:
            for line in started.stdout:
                file.write(line)
                file.flush()
                writes[worker] += 1
        started.wait()

    def poll(viewer: int) -> None:
        places = [0] * load.workers
        while not ending.wait(NAIVE_POLL):
            polls[viewer] += meter.measuring
            for worker in range(load.workers):
                with (load.directory / f"{worker}.log").open("rb") as file:
                    file.seek(places[worker])
                    data = file.read()
                    places[worker] += len(data)
                meter.saw(data)

    workers = [threading.Thread(target=read_output, args=(worker,)) for worker in range(load.workers)]
    viewers = [threading.Thread(target=poll, args=(viewer,)) for viewer in range(VIEWERS)]
    for thread in workers:
        thread.start()
    time.sleep(WARM)
    for thread in viewers:
        thread.start()
    meter.begin()
    time.sleep(load.seconds)
    figures = meter.end()
    for thread in workers:
        thread.join()
    ending.set()
    for thread in viewers:
        thread.join()
    return {**figures, "requests": sum(polls) / load.seconds}


def main() -> None:
    """Measure one side."""
    kind, directory, seconds, workers, rate = sys.argv[1:]
    load = Load(Path(directory), float(seconds), int(workers), int(rate))
    figures = naive(load) if kind == "naive" else asyncio.run(engine(load))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

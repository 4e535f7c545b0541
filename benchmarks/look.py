"""What a look at 30 containers costs: `throttling_info`'s sampler against `docker stats --no-stream`."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.bench import PLAYBOOKS, Bench
from benchmarks.report import Report, Series, at_most, ratio
from lab.settings import PROJECT

QUESTION = "one look at {count} running containers"
ON_HOST = Path(__file__).resolve().parent / "on_host.py"
PACKAGE = "ansible_collections/evenkeel/swarm/plugins/module_utils"
REMOTE = "/tmp/evenkeel-benchmark"  # noqa: S108 - on a lab host
LOOKS = 5
WINDOW, INTERVAL = 30.0, 10.0


def run(bench: Bench) -> Report:
    """Start what is stopped, so that all services run, measure on the host, and stop it again."""
    bench.settle()
    stopped = [raw["Spec"]["Name"] for raw in bench.services() if not raw["Spec"]["Mode"]["Replicated"]["Replicas"]]
    _scale(bench, stopped, 1)
    try:
        running = int(bench.ssh("docker ps -q | wc -l"))
        bench.ssh(f"rm -rf {REMOTE}; mkdir {REMOTE}; tar -x -C {REMOTE}", stdin=_module_utils())
        command = f"PYTHONPATH={REMOTE} python3 - {LOOKS} {WINDOW} {INTERVAL}"
        found = [json.loads(bench.ssh(command, stdin=ON_HOST.read_text())) for _ in range(bench.repetitions)]
        bench.ssh(f"rm -r {REMOTE}")
    finally:
        _scale(bench, stopped, 0)
    return _report(found, running)


def _report(found: list[Mapping[str, Any]], running: int) -> Report:
    def cpu(side: str, part: str) -> list[float]:
        return [each[side][part] for each in found]

    def both(side: str) -> list[float]:
        return [each[side]["own"] + each[side]["engine"] for each in found]

    ours = Series("sampler, CPU (its own and the engine's)", both("ours"), "ms")
    theirs = Series("docker stats --no-stream, CPU (client and engine)", both("stats"), "ms")
    # A window asks the engine twice, at its ends.
    shares = [(each["sampler"] + 2 * each["ours"]["engine"]) / each["window"] for each in found]
    share = Series(f"sampler at {INTERVAL:g} s, share of a core", shares, "%")
    return Report(
        "look",
        QUESTION.format(count=running),
        [
            ours,
            Series("  of it the engine's", cpu("ours", "engine"), "ms"),
            theirs,
            Series("  of it the engine's", cpu("stats", "engine"), "ms"),
            Series("sampler, wall", cpu("ours", "wall"), "ms"),
            Series("docker stats --no-stream, wall", cpu("stats", "wall"), "ms"),
            share,
        ],
        [ratio("CPU ratio", theirs, ours, 10), at_most("sampler at 10 s", share, 0.01)],
        [
            "A look: list the containers, read all their cgroups and threads.",
            f"A sample is the mean of {LOOKS * 20} looks, of docker stats {LOOKS}.",
            "The engine's part is what dockerd, containerd and the shims used above their idle rate just before.",
            "Not in it: starting Python and the module, once a window, not once a look.",
        ],
    )


def _scale(bench: Bench, services: list[str], replicas: int) -> None:
    table = [{"service": name, "replicas": replicas} for name in services]
    bench.play(PLAYBOOKS / "apply.yml", {"benchmark_table": table, "benchmark_parallel": 8})


def _module_utils() -> bytes:
    """Return a tar file of the collection's module_utils as an importable package."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in sorted((PROJECT / "plugins/module_utils").glob("*.py")):
            archive.add(file, f"{PACKAGE}/{file.name}")
    return buffer.getvalue()

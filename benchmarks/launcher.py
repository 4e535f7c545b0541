"""What keeping and pushing the logs of 8 workers costs the launcher, beside a naive one: in processes of their own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from benchmarks.bench import Bench
from benchmarks.report import Check, Report, Series
from lab.run import LabError
from lab.settings import PROJECT

WORKERS, LINES_PER_SECOND = 8, 500
QUESTION = f"the log of {WORKERS} workers, {LINES_PER_SECOND} lines/s each, read by 3: the launcher, and the naive way"
SECONDS, QUICK_SECONDS = 20.0, 5.0
BACKEND = PROJECT / "apps" / "job_launcher" / "backend"
#: launcher.md, acceptance 1 and 2.
MOST_CPU, MOST_RSS_MB, MOST_WRITES, MOST_LATENCY = 0.10, 64, 2.05, 0.3
MOST_IDLE_CPU, MOST_IDLE_RSS_MB = 0.001, 50
FIGURES = {
    "cpu": ("CPU, share of a core", "%"),
    "rss_mb": ("largest RSS, MB", ""),
    "log_writes": ("log writes/s, counted", ""),
    "write_calls": ("write calls/s, by the kernel", ""),
    "latency": ("line printed to seen, p99", "ms"),
}
SEED = "The seed says: idle 5-10 % CPU, base 200-300 MB, disk writes -80 %, polling -33 % (2 s to 3 s)."


def run(bench: Bench) -> Report:
    """Measure either way by turns, so that other work on the machine meets both."""
    seconds = QUICK_SECONDS if bench.quick else SECONDS
    found: dict[str, list[Mapping[str, Any]]] = {"served": [], "engine": [], "naive": [], "idle": []}
    for _ in range(bench.repetitions):
        for kind, results in found.items():
            results.append(_subject(kind, seconds))
    return _report(found)


def _subject(kind: str, seconds: float) -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory(prefix="launcher-bench-") as directory:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                *(["benchmarks.launcher_served"] if kind == "served" else ["benchmarks.launcher_subject", kind]),
                directory,
                str(seconds),
                str(WORKERS),
                str(LINES_PER_SECOND),
            ],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(BACKEND)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode:
        raise LabError(f"the {kind} subject failed with {done.returncode}")
    result: Mapping[str, Any] = json.loads(done.stdout)
    return result


def _report(found: Mapping[str, list[Mapping[str, Any]]]) -> Report:
    series = {
        (kind, figure): Series(f"{kind}: {label}", [each[figure] for each in found[kind]], unit)
        for kind in ("served", "engine", "naive")
        for figure, (label, unit) in FIGURES.items()
        if figure in found[kind][0]
    }
    idle = Series("idle: CPU, share of a core", [each["cpu"] for each in found["idle"]], "%")
    idle_rss = Series("idle: RSS, MB", [each["rss_mb"] for each in found["idle"]], "")
    limits = {"cpu": MOST_CPU, "rss_mb": MOST_RSS_MB, "log_writes": MOST_WRITES, "latency": MOST_LATENCY}
    checks = [
        Check(FIGURES[figure][0], series["served", figure].median, bound, at_least=False, unit=FIGURES[figure][1])
        for figure, bound in limits.items()
    ]
    exact = [*found["served"], *found["engine"]]
    checks += [
        Check(idle.label, idle.median, MOST_IDLE_CPU, at_least=False, unit="%"),
        Check(idle_rss.label, idle_rss.median, MOST_IDLE_RSS_MB, at_least=False, unit=""),
        Check(
            "bytes exact",
            min(each["exact"] for each in exact),
            1,
            at_least=True,
            unit="",
        ),
    ]
    return Report("launcher", QUESTION, [*series.values(), idle, idle_rss], checks, _notes(found))


def _notes(found: Mapping[str, list[Mapping[str, Any]]]) -> list[str]:
    medians = {
        kind: {name: statistics.median(each[name] for each in found[kind]) for name in ("log_writes", "write_calls")}
        for kind in ("engine", "naive")
    }
    ours, naive = medians["engine"], medians["naive"]
    return [
        SEED,
        f"Log writes: {1 - ours['log_writes'] / naive['log_writes']:.2%} fewer than the naive way; all write calls, "
        f"the database's among them: {1 - ours['write_calls'] / naive['write_calls']:.2%} fewer.",
        "Naive: a thread a worker, a flush a line, 3 viewers that read every 2 s. Workers are in neither's CPU.",
        "Served: the whole launcher with 3 WebSockets, told that it has 4 CPUs. Engine: what is behind the sockets; "
        "its viewers are listeners in the process.",
    ]

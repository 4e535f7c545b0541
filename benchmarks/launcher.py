"""What keeping and pushing the logs of 8 workers costs the launcher, beside a naive one: in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.bench import Bench
from benchmarks.report import Check, Report, Series, at_most
from lab.run import LabError
from lab.settings import PROJECT

WORKERS, LINES_PER_SECOND = 8, 500
QUESTION = f"the log of {WORKERS} workers, {LINES_PER_SECOND} lines/s each, read by 3: the launcher, and the naive way"
SECONDS, QUICK_SECONDS = 20.0, 5.0
BACKEND = PROJECT / "apps" / "job_launcher" / "backend"
#: launcher.md, acceptance 1 and 2.
MOST_CPU, MOST_RSS_MB, MOST_WRITES, MOST_LATENCY = 0.10, 64, 2.05, 0.3
MOST_IDLE_CPU, MOST_IDLE_RSS_MB = 0.001, 50
#: The seed's own: what its tuning is said to give.
SEED_CPU, SEED_RSS_MB, SEED_FEWER_REQUESTS, SEED_FEWER_WRITES = 0.05, 200, 0.33, 0.80
#: CPU time is counted in ticks of 10 ms: in this time one of them is half of what is allowed.
IDLE_SECONDS = 20.0
FIGURES = {
    "cpu": ("CPU, share of a core", "%"),
    "rss_mb": ("RSS, MB", ""),
    "requests": ("HTTP requests/s", ""),
    "log_writes": ("log writes/s, counted", ""),
    "write_calls": ("write calls/s, by the kernel", ""),
    "latency": ("line printed to seen, p99", "ms"),
}


def run(bench: Bench) -> Report:
    """Measure either way by turns, so that other work on the machine meets both."""
    seconds = QUICK_SECONDS if bench.quick else SECONDS
    found: dict[str, list[Mapping[str, Any]]] = {"served": [], "engine": [], "naive": [], "idle": []}
    for _ in range(bench.repetitions):
        for kind, results in found.items():
            results.append(_subject(kind, IDLE_SECONDS if kind == "idle" else seconds))
    return _report(found)


def _subject(kind: str, seconds: float) -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory(prefix="launcher-bench-") as directory:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                f"benchmarks.launcher_{'served' if kind in ('served', 'idle') else 'subject'}",
                kind,
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
        for kind in found
        for figure, (label, unit) in FIGURES.items()
        if figure in found[kind][0]
    }
    limits = {
        ("served", "cpu"): MOST_CPU,
        ("served", "rss_mb"): MOST_RSS_MB,
        ("served", "log_writes"): MOST_WRITES,
        ("served", "latency"): MOST_LATENCY,
        ("idle", "cpu"): MOST_IDLE_CPU,
        ("idle", "rss_mb"): MOST_IDLE_RSS_MB,
        ("idle", "requests"): 0,
    }
    checks = [at_most(series[key].label, series[key], bound) for key, bound in limits.items()]
    exact = min(each["exact"] for each in (*found["served"], *found["engine"]))
    checks.append(Check("bytes exact", exact, 1, at_least=True, unit=""))
    claims = _claims({key: each.median for key, each in series.items()})
    return Report(
        "launcher", QUESTION, [*series.values()], [*checks, *(claim.check for claim in claims)], _notes(claims)
    )


class Claim(NamedTuple):
    """What the seed says of its tuning, and this run beside it."""

    check: Check
    seed: str
    naive: str


def _claims(medians: Mapping[tuple[str, str], float]) -> list[Claim]:
    def fewer(figure: str) -> float:
        return 1 - medians["served", figure] / medians["naive", figure]

    base = Check("the seed's base memory, MB", medians["idle", "rss_mb"], SEED_RSS_MB, at_least=False, unit="")
    idle = Check("the seed's idle CPU", medians["idle", "cpu"], SEED_CPU, at_least=False, unit="%")
    requests = Check("the seed's API calls, fewer", fewer("requests"), SEED_FEWER_REQUESTS, at_least=True, unit="%")
    writes = Check("the seed's disk writes, fewer", fewer("log_writes"), SEED_FEWER_WRITES, at_least=True, unit="%")
    return [
        Claim(idle, "5-10 %", "not a server"),
        Claim(base, "200-300 MB", "not a server"),
        Claim(requests, "-33 %, by asking each 3 s instead of 2", f"{medians['naive', 'requests']:.2f}/s"),
        Claim(writes, "-80 %", f"{medians['naive', 'log_writes']:.0f}/s"),
    ]


def _notes(claims: Sequence[Claim]) -> list[str]:
    return [
        *(f"{claim.check.what}: it says {claim.seed}; naive in this run: {claim.naive}." for claim in claims),
        "Naive: a thread a worker, a flush a line, 3 viewers that read every 2 s. Workers are in neither's CPU.",
        "Served: the whole launcher with 3 WebSockets, told that it has 4 CPUs; idle: the same, with nothing to do. "
        "Engine: what is behind the sockets; its viewers are listeners in the process. "
        "RSS: the largest; idle, the last.",
    ]

"""Changing every service: one `service_limits` call against one `docker service update` after another."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.bench import PLAYBOOKS, Bench, TaskRun, task
from benchmarks.report import Report, Series, ratio
from lab.run import LabError

QUESTION = "other limits for all services"
NANO = 10**9
MIB = 2**20
# Where the estate's table says nothing of a resource (a stopped service, Dokploy's memory).
DEFAULT_CPUS, DEFAULT_MEMORY = 0.5, 512 * MIB
PROGRESS_FILE = "/run/evenkeel-benchmark-progress.jsonl"
# What the default of `parallel` was chosen from.
PARALLEL = (2, 4, 8, 16)


@dataclass(frozen=True)
class Limits:
    """What a service gets: cores and bytes."""

    service: str
    stateful: bool
    cpus: float
    memory: int

    def row(self) -> dict[str, Any]:
        """Return the row of a table of limits."""
        return {"service": self.service, "limits": {"cpus": self.cpus, "memory": self.memory}}

    def command(self) -> str:
        """Return the CLI's command; it waits until the service has converged, as service_limits does."""
        arguments = ["--quiet", "--limit-cpu", f"{self.cpus:g}", "--limit-memory", str(self.memory), self.service]
        return shlex.join(["docker", "service", "update", *arguments])


Variant = Callable[[int], list[Limits]]


def run(bench: Bench) -> Report:
    """Measure both sides in turns; each run finds all services with other limits than it sets."""
    bench.settle()
    variant = _variants(bench)
    turn = 0
    samples: dict[str, list[float]] = {"one": [], "many": [], "one stateless": [], "many stateless": []}
    for _ in range(bench.repetitions):
        turn += 1
        seconds, stateless = _one_call(bench, variant(turn))
        samples["one"].append(seconds)
        samples["one stateless"].append(stateless)
        turn += 1
        seconds, stateless = _one_after_another(bench, variant(turn))
        samples["many"].append(seconds)
        samples["many stateless"].append(stateless)
    bench.settle()
    stateful = sum(each.stateful for each in variant(0))
    count = len(variant(0)) - stateful
    one, many = Series("service_limits, all", samples["one"]), Series("docker service update, all", samples["many"])
    one_stateless = Series(f"service_limits, the {count} without a volume", samples["one stateless"])
    many_stateless = Series(f"docker service update, the {count} without a volume", samples["many stateless"])
    return Report(
        "change",
        QUESTION,
        [one, many, one_stateless, many_stateless],
        [ratio("ratio without volumes", many_stateless, one_stateless, 8), ratio("ratio over all", many, one, 3)],
        [
            "service_limits: wall time of the task; without a volume: until the last of those, which come first.",
            "docker service update: run on the host in one SSH session, each waiting for its service to converge.",
        ],
    )


def run_parallel(bench: Bench) -> Report:
    """Measure what `parallel` brings: one call for the services without a volume."""
    bench.settle()
    variant = _variants(bench)
    samples: dict[int, list[float]] = {parallel: [] for parallel in PARALLEL}
    turn = 0
    for _ in range(bench.repetitions):
        for parallel in PARALLEL:
            turn += 1
            table = [each.row() for each in variant(turn) if not each.stateful]
            done = bench.play(PLAYBOOKS / "apply.yml", {"benchmark_table": table, "benchmark_parallel": parallel})
            samples[parallel].append(_all_changed(done, len(table)).seconds)
    bench.settle()
    series = [Series(f"service_limits, parallel={parallel}", samples[parallel]) for parallel in PARALLEL]
    return Report("parallel", "services without a volume, by the number under way at once", series, [])


def variants(services: Sequence[Mapping[str, Any]], node_cpus: float) -> Variant:
    """Return a function turn -> limits for all services, each turn's different from those of the two before it.

    They stay near the present ones and never exceed the CPUs of the node, so that every turn is the same work.
    """

    def variant(turn: int) -> list[Limits]:
        step = turn % 3
        return [_limits(raw["Spec"], node_cpus, 1 - step * 0.05, step * 16 * MIB) for raw in services]

    return variant


def _variants(bench: Bench) -> Variant:
    return variants(bench.services(), int(bench.ssh("docker info --format '{{.NCPU}}'")))


def _limits(spec: Mapping[str, Any], node_cpus: float, share: float, more_memory: int) -> Limits:
    template = spec["TaskTemplate"]
    limits = (template.get("Resources") or {}).get("Limits") or {}
    cpus = min(limits.get("NanoCPUs", DEFAULT_CPUS * NANO) / NANO, node_cpus)
    mounts = template["ContainerSpec"].get("Mounts") or []
    return Limits(
        spec["Name"],
        stateful=bool(mounts),
        cpus=round(cpus * share, 6),
        memory=limits.get("MemoryBytes", DEFAULT_MEMORY) + more_memory,
    )


def _one_call(bench: Bench, wanted: Sequence[Limits]) -> tuple[float, float]:
    """Apply by one task; returns its seconds, and those until the last service without a volume had converged."""
    bench.ssh(f"rm -f {PROGRESS_FILE}")
    variables = {"benchmark_table": [each.row() for each in wanted], "benchmark_progress_file": PROGRESS_FILE}
    done = _all_changed(bench.play(PLAYBOOKS / "apply.yml", variables), len(wanted))
    events = [json.loads(line) for line in bench.ssh(f"cat {PROGRESS_FILE}; rm {PROGRESS_FILE}").splitlines()]
    stateless = {each.service for each in wanted if not each.stateful}
    last = max(
        event["time"] for event in events if event["event"] == "update_converged" and event["service"] in stateless
    )
    return done.seconds, last - done.began


def _all_changed(tasks: Sequence[TaskRun], expected: int) -> TaskRun:
    done = task(tasks, "One call")
    converged = sum(row["state"] == "converged" for row in done.result["services"])
    if converged != expected:
        raise LabError(f"service_limits changed {converged} services, not {expected}: it measured something else")
    return done


def _one_after_another(bench: Bench, wanted: Sequence[Limits]) -> tuple[float, float]:
    """Apply by the CLI; returns the sum of the seconds, and that of the services without a volume."""
    lines = ["set -eu"]
    for each in wanted:
        lines += ["began=$(date +%s%N)", f"{each.command()} >&2", 'echo "$(($(date +%s%N) - began))"']
    times = [int(line) / NANO for line in bench.ssh("sh -s", stdin="\n".join(lines)).splitlines()]
    if len(times) != len(wanted):
        raise LabError(f"docker service update was timed {len(times)} times for {len(wanted)} services")
    stateless = [seconds for seconds, each in zip(times, wanted, strict=True) if not each.stateful]
    return sum(times), sum(stateless)

"""Measure Even Keel against today's tools, side by side, on a lab of its own; show and keep what was found."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.release import __version__ as ansible_version

from benchmarks import change, launcher, look, no_change, outage, site, sizing, threads, truth
from benchmarks.bench import Bench
from benchmarks.report import RESULTS, Report
from lab.__main__ import down, status, up
from lab.run import LabError, fail, say
from lab.settings import Settings, from_environment

SUMMARY = Path(__file__).resolve().parent / "RESULTS.md"
HEADING = "## "
TITLE = "# Measured\n\nBy `python -m benchmarks --record`, each section in one run.\n"


@dataclass(frozen=True)
class Plan:
    """How a benchmark is run: how often, whether only when named (no target, or very long), whether in a lab."""

    run: Callable[[Bench], Report]
    repetitions: int
    quick: int
    only_named: bool = False
    needs_lab: bool = True


BENCHMARKS = {
    "no_change": Plan(no_change.run, 5, 3),
    "site": Plan(site.run, 3, 1),
    "look": Plan(look.run, 3, 1),
    "change": Plan(change.run, 3, 1),
    "threads": Plan(threads.run, 10, 3, needs_lab=False),
    "launcher": Plan(launcher.run, 3, 1, needs_lab=False),
    "sizing": Plan(sizing.run, 4, 1, needs_lab=False),
    "parallel": Plan(change.run_parallel, 3, 1, only_named=True),
    "outage": Plan(outage.run, 5, 1, only_named=True),
    "truth": Plan(truth.run, 20, 3, only_named=True, needs_lab=False),
}


def main() -> int:
    """Run the benchmarks; returns 0 if every target was met, 1 if not or if something failed."""
    arguments = _arguments()
    # Killed by `timeout` or an operator it still takes its cgroups and its lab down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    in_lab = any(BENCHMARKS[name].needs_lab for name in arguments.names)
    try:
        settings = from_environment({**os.environ, "LAB_NAME": os.environ.get("LAB_NAME") or "bench"})
        with _lab(settings) if in_lab else contextlib.nullcontext():
            reports = [_measure(name, settings, quick=arguments.quick) for name in arguments.names]
            machine = _machine(settings, in_lab=in_lab)
    except LabError as error:
        return fail(str(error))
    _keep(reports, machine)
    if arguments.record:
        before = SUMMARY.read_text() if SUMMARY.exists() else ""
        SUMMARY.write_text(summary(before, {report.name: section(report, machine) for report in reports}))
    missed = [report.name for report in reports if not report.passed]
    say(f"Targets missed: {', '.join(missed)}" if missed else "All targets met.")
    return 1 if missed else 0


@contextlib.contextmanager
def _lab(settings: Settings) -> Iterator[None]:
    """Bring the lab up, and down again unless it was up before."""
    was_up = status(settings) == 0
    try:
        up(settings, with_estate=True)
        yield
    finally:
        if not was_up:
            down(settings)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    default = [name for name, each in BENCHMARKS.items() if not each.only_named]
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"{', '.join(BENCHMARKS)} (default: {' '.join(default)})"
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller data")
    parser.add_argument("--record", action="store_true", help=f"put what was measured into {SUMMARY.name}, too")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    arguments.names = arguments.names or default
    return arguments


def _measure(name: str, settings: Settings, *, quick: bool) -> Report:
    planned = BENCHMARKS[name]
    before = os.getloadavg()[0]
    report = planned.run(Bench(settings, planned.quick if quick else planned.repetitions, quick))
    report.notes.append(f"The machine's load average was {before:.1f} before and {os.getloadavg()[0]:.1f} after.")
    say(f"\n{report.text()}")
    return report


def _machine(settings: Settings, *, in_lab: bool) -> dict[str, Any]:
    """Describe what was measured on, in general terms."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    engine = Bench(settings, 0).ssh("docker version --format {{.Server.Version}}") if in_lab else None
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "hosts": f"Debian {settings.debian}, Docker {engine}" if in_lab else None,
        "ansible_core": ansible_version,
        "estate_load": settings.load if in_lab else None,
    }


def _keep(reports: Sequence[Report], machine: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    for report in reports:
        content = {"machine": machine, **report.as_dict()}
        (RESULTS / f"{report.name}.json").write_text(json.dumps(content, indent=2) + "\n")
    say(f"\nKept in {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}/")


def section(report: Report, machine: dict[str, Any]) -> str:
    """Write a report and what it was measured on as a section of Markdown."""
    hosts = f", lab hosts with {machine['hosts']} and LAB_LOAD {machine['estate_load']:g}" if machine["hosts"] else ""
    lines = [
        f"{HEADING}{report.name}",
        "",
        f"{machine['date']}: {machine['cores']} cores and {machine['memory_gib']} GiB, shared with other work; "
        f"kernel {machine['kernel']}, ansible-core {machine['ansible_core']}{hosts}.",
        "",
        "```",
        report.text(),
        "```",
        "",
    ]
    return "\n".join(lines)


def summary(before: str, sections: Mapping[str, str]) -> str:
    """Return the summary with new sections in place of those of the same benchmarks; the others stay as they are."""
    kept = {text.split("\n", 1)[0]: f"{HEADING}{text}" for text in f"\n{before}".split(f"\n{HEADING}")[1:]}
    every = {**{name: f"{text.rstrip()}\n" for name, text in kept.items()}, **sections}
    parts = [TITLE, *(every[name] for name in BENCHMARKS if name in every)]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())

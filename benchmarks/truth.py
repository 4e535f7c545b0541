"""The estimator against the specification's truth table: real programs under real limits, on this machine.

Samples are printed and kept as they are taken, so that a run that was broken off goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _throttling

from benchmarks.bench import Bench
from benchmarks.report import RESULTS, Check, Report, Series
from lab.limited import (
    ATTEMPTS,
    IDLE_NEEDED,
    PROGRAMS,
    TOLERANCE,
    TRUTH_TABLE,
    LimitedGroup,
    Row,
    is_right,
    limited_group,
    observe,
    true_demand,
)
from lab.run import say

QUESTION = "the truth table, against real processes under real limits"
WINDOW = 8.0
KEPT = RESULTS / "truth-samples.jsonl"


@dataclass(frozen=True)
class Sample:
    """One window of one row: what was seen, and the truth it is held against, in cores."""

    row: str
    truth: float
    idle: float
    used: float
    throttled_ratio: float | None
    upper: float | None
    estimate: float | None
    regime: str
    wrong: bool

    @property
    def spoilt(self) -> bool:
        """Whether other work on the machine took what the program would have used."""
        return self.idle < IDLE_NEEDED


def run(bench: Bench) -> Report:
    """Take the samples that are missing, in turns over the rows, and sum up all of them."""
    RESULTS.mkdir(exist_ok=True)
    samples = load(KEPT, _revision())
    truths = {sample.row: sample.truth for sample in samples}
    with limited_group() as group:
        for turn in range(1, bench.repetitions + 1):
            for row in TRUTH_TABLE:
                if len(counted(samples, row)) < turn:
                    truths.setdefault(row.name, _truth(group, row, truths))
                    samples += _take(group, row, truths[row.name])
    KEPT.unlink()
    return report(samples)


def load(path: Path, revision: str) -> list[Sample]:
    """Return the samples that this revision of the estimator has left in a file; the file begins anew without any."""
    lines = path.read_text().splitlines() if path.exists() else []
    if not lines or json.loads(lines[0]) != revision:
        path.write_text(json.dumps(revision) + "\n")
        return []
    return [Sample(**json.loads(line)) for line in lines[1:]]


def counted(samples: Sequence[Sample], row: Row) -> list[Sample]:
    """Return the samples of a row that count: those not spoilt, and each last attempt."""
    found = []
    attempts = 0
    for sample in (sample for sample in samples if sample.row == row.name):
        attempts += 1
        if not sample.spoilt or attempts == ATTEMPTS:
            found.append(sample)
            attempts = 0
    return found


def report(samples: Sequence[Sample]) -> Report:
    """Sum samples up: errors of the upper bound and of the estimate, and how often an answer was wrong."""
    series: list[Series] = []
    checks: list[Check] = []
    notes = [
        f"Windows of {WINDOW:g} s. Errors are relative, to the specification's column E for `upper` and to the truth",
        "(by arithmetic, or measured without a limit) for `estimate`. Wrong: an estimate off by more than "
        f"{TOLERANCE:.0%}, or an",
        "interval that does not hold the truth; windows spoilt by other work (taken again) are held to that, too.",
    ]
    for row in TRUTH_TABLE:
        mine = counted(samples, row)
        if not mine:
            continue
        upper = [abs(sample.upper / row.upper - 1) for sample in mine if row.upper and sample.upper is not None]
        estimate = [abs(sample.estimate / sample.truth - 1) for sample in mine if sample.estimate is not None]
        series += [Series(f"{row.name}, upper", upper, "%")] if upper else []
        series += [Series(f"{row.name}, estimate", estimate, "%")] if estimate else []
        notes.append(_row_note(row, mine))
        unspoilt = [error for error, sample in zip(upper, mine, strict=False) if not sample.spoilt]
        if unspoilt:
            checks.append(Check(f"{row.name}, worst upper", max(unspoilt), TOLERANCE, at_least=False, unit="%"))
    wrong = sum(sample.wrong for sample in samples)
    spoilt = sum(sample.spoilt for sample in samples)
    notes.append(f"{len(samples)} windows in all, {spoilt} of them spoilt.")
    return Report(
        "truth", QUESTION, series, [*checks, Check("wrong answers", wrong, 0, at_least=False, unit="")], notes
    )


def _row_note(row: Row, mine: Sequence[Sample]) -> str:
    regimes = [sample.regime for sample in mine]
    said = ", ".join(f"{regimes.count(regime)} {regime}" for regime in sorted(set(regimes)))
    null = sum(sample.estimate is None for sample in mine)
    return (
        f"{row.name}: truth {mine[0].truth:.3f}, used {statistics.median(sample.used for sample in mine):.3f}; "
        f"{said}; {null} of {len(mine)} null."
    )


def _truth(group: LimitedGroup, row: Row, truths: Mapping[str, float]) -> float:
    """Return a row's truth; a program under two limits has one."""
    same = [other.name for other in TRUTH_TABLE if other.program == row.program and other.name in truths]
    return truths[same[0]] if same else true_demand(group, row)


def _take(group: LimitedGroup, row: Row, truth: float) -> list[Sample]:
    """Take a window, and again if it was spoilt; print and keep each."""
    taken: list[Sample] = []
    while not taken or (taken[-1].spoilt and len(taken) < ATTEMPTS):
        seen = observe(group, PROGRAMS[row.program](), row.limit, WINDOW)
        sample = _sample(row, truth, seen)
        taken.append(sample)
        with KEPT.open("a") as file:
            file.write(json.dumps(asdict(sample)) + "\n")
        say(
            f"{row.name}: truth {truth:.3f}, used {sample.used:.3f}, upper {_cores(sample.upper)}, estimate "
            f"{_cores(sample.estimate)}, {sample.regime}{', spoilt' * sample.spoilt}{', WRONG' * sample.wrong}"
        )
    return taken


def _sample(row: Row, truth: float, seen: Mapping[str, Any]) -> Sample:
    container = seen["container"]
    demand = container["demand"]
    return Sample(
        row=row.name,
        truth=truth,
        idle=seen["node"]["cpu_idle_share"],
        used=container["cpu_used"],
        throttled_ratio=container["throttled_ratio"],
        upper=demand["upper"],
        estimate=demand["estimate"],
        regime=demand["regime"],
        wrong=not is_right(demand, truth),
    )


def _cores(value: float | None) -> str:
    return "null" if value is None else f"{value:.3f}"


def _revision() -> str:
    """Return what tells one state of the estimator's source from another."""
    sources = sorted(Path(_throttling.__file__).parent.glob("_*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]

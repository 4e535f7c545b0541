"""What a benchmark found: series of samples, checks against targets, and how they are shown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
UNITS = {"s": 1.0, "ms": 1e-3, "%": 1e-2, "x": 1.0, "": 1.0}


@dataclass(frozen=True)
class Series:
    """Samples of one thing; times are in seconds, shares of a core are numbers of cores. `unit` is for showing."""

    label: str
    samples: Sequence[float]
    unit: str = "s"

    @property
    def median(self) -> float:
        """The middle sample: other work on the machine only ever makes some of them longer."""
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Check:
    """One figure against its target: at least `bound`, or at most it."""

    what: str
    value: float
    bound: float
    at_least: bool
    unit: str = "s"

    @property
    def passed(self) -> bool:
        """Whether the figure is on the right side of its bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def ratio(what: str, slow: Series, fast: Series, bound: float) -> Check:
    """Check that `fast` takes at most 1/bound of what `slow` does, by their medians."""
    return Check(what, slow.median / fast.median, bound, at_least=True, unit="x")


def at_most(what: str, series: Series, bound: float) -> Check:
    """Check a series' median against an upper bound."""
    return Check(what, series.median, bound, at_least=False, unit=series.unit)


@dataclass
class Report:
    """The outcome of one benchmark."""

    name: str
    question: str
    series: list[Series]
    checks: list[Check]
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every target was met."""
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that is kept as JSON."""
        return {
            "name": self.name,
            "question": self.question,
            "passed": self.passed,
            "series": [
                {"label": each.label, "unit": "s" if each.unit == "ms" else each.unit, "samples": list(each.samples)}
                for each in self.series
            ],
            "checks": [
                {
                    "what": each.what,
                    "value": each.value,
                    "target": each.bound,
                    "at_least": each.at_least,
                    "passed": each.passed,
                }
                for each in self.checks
            ],
            "notes": self.notes,
        }

    def text(self) -> str:
        """Write the report as a table for a terminal."""
        width = max(len(each) for each in [*(s.label for s in self.series), *(c.what for c in self.checks)]) + 2
        lines = [f"{self.name}: {self.question}", f"  {'':{width}}{'median':>10}{'min':>10}{'max':>10}   n"]
        for each in self.series:
            figures = (each.median, min(each.samples), max(each.samples))
            shown = "".join(f"{_show(figure, each.unit):>10}" for figure in figures)
            lines.append(f"  {each.label:{width}}{shown}{len(each.samples):>4}")
        for check in self.checks:
            sign = ">=" if check.at_least else "<="
            target = f"{sign} {_show(check.bound, check.unit)}"
            verdict = "PASS" if check.passed else "MISS"
            lines.append(f"  {check.what:{width}}{_show(check.value, check.unit):>10}   target {target:<10} {verdict}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def _show(value: float, unit: str) -> str:
    """Write a value with three significant digits or so, in its unit."""
    scaled = value / UNITS[unit]
    digits = 0 if abs(scaled) >= 100 else 1 if abs(scaled) >= 10 else 2
    return f"{scaled:.{digits}f} {unit}"

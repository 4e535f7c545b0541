"""A line chart beside a benchmark's results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """A named line through (x, y)."""

    label: str
    points: Sequence[tuple[float, float]]


def draw(path: Path, lines: Sequence[Line], *, x: str, y: str) -> None:
    """Draw lines into an SVG file, both axes from zero; `x` and `y` are their titles."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes longer to import than most benchmarks need it

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for line in lines:
        axes.plot(*zip(*line.points, strict=True), marker="o", label=line.label)
    axes.set(xlabel=x, ylabel=y)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)

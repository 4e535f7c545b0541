"""The main job on an estate that is as it should be."""

from __future__ import annotations

import re

from benchmarks.bench import Bench
from benchmarks.report import Report, Series, at_most
from lab.run import LabError
from lab.settings import PROJECT

QUESTION = "ansible-playbook site.yml, nothing to change"


def run(bench: Bench) -> Report:
    """Measure the whole command's wall time."""
    bench.settle()
    samples = []
    for _ in range(bench.repetitions):
        seconds, said = bench.play_seconds(PROJECT / "site.yml")
        if any(int(count) for count in re.findall(r"changed=(\d+)", said)):
            raise LabError("site.yml reports changes, so it measures something else")
        samples.append(seconds)
    series = Series("site.yml, wall time", samples)
    return Report(
        "site",
        QUESTION,
        [series],
        [at_most("site.yml", series, 30)],
        ["Two hosts; 10 s of it is the report's measuring window (report_window)."],
    )

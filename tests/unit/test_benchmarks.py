# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks compute, apart from any lab."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import TITLE, section, summary
from benchmarks.change import variants
from benchmarks.no_change import restate
from benchmarks.plot import Line, draw
from benchmarks.report import Report, Series, at_most, ratio
from benchmarks.threads import fit, slopes
from benchmarks.truth import Sample, counted, load, report
from lab.estate import load as load_estate
from lab.estate import spec
from lab.limited import ATTEMPTS, TRUTH_TABLE, is_right

REFERENCES = {"app": "registry:5000/app@sha256:1", "postgres": "registry:5000/pg@sha256:2", "redis": "r@sha256:3"}


def estate_specs() -> list[dict[str, Any]]:
    estate = load_estate()
    return [
        spec(name, {**entry, "secrets": {}, "configs": {}}, "net", REFERENCES, 0.02)
        for name, entry in estate["estate_services"].items()
    ]


@pytest.mark.parametrize(("fast", "passed"), [(1.0, True), (1.25, True), (1.3, False)])
def test_a_ratio_is_of_the_medians(fast: float, passed: bool) -> None:
    check = ratio("ratio", Series("slow", [9.0, 10.0, 99.0]), Series("fast", [fast, fast, 50.0]), 8)
    assert check.value == 10.0 / fast
    assert check.passed is passed


def test_a_missed_target_is_shown_and_fails_the_report() -> None:
    series = Series("look", [0.0021, 0.0020, 0.0022], "ms")
    report = Report("x", "what", [series], [at_most("look", series, 0.002)])
    assert not report.passed
    assert "2.10 ms   target <= 2.00 ms MISS" in report.text()
    assert report.as_dict()["series"][0] == {"label": "look", "unit": "s", "samples": [0.0021, 0.0020, 0.0022]}


def test_each_turn_changes_every_service_and_none_exceeds_the_node() -> None:
    variant = variants([{"Spec": each} for each in estate_specs()], 2)
    turns = [{each.service: (each.cpus, each.memory) for each in variant(turn)} for turn in range(4)]
    assert len(turns[0]) == 30
    assert all(before[name] != after[name] for before, after in pairwise(turns) for name in before)
    assert max(cpus for turn in turns for cpus, _ in turn.values()) <= 2
    assert turns[3] == turns[0]


def test_restating_a_spec_leaves_nothing_of_it_out() -> None:
    for one in estate_specs():
        options = restate(one, {"net": "dokploy-network"})
        container = one["TaskTemplate"]["ContainerSpec"]
        assert options["image"] == container["Image"]
        assert options["env"] == container["Env"]
        assert [mount["target"] for mount in options["mounts"]] == [mount["Target"] for mount in container["Mounts"]]
        assert options["replicas"] == one["Mode"]["Replicated"]["Replicas"]
        assert options["stop_grace_period"] == f"{container['StopGracePeriod'] // 1000}us"
        assert options["networks"] == ["dokploy-network"]


def test_a_cost_that_grows_linearly_has_one_slope() -> None:
    line = [(500, 0.006), (1000, 0.011), (5000, 0.051)]
    assert slopes(line) == pytest.approx([1e-5, 1e-5])
    assert fit(line) == pytest.approx((1e-5, 1e-3))


def test_a_chart_is_a_file_of_its_own(tmp_path: Path) -> None:
    draw(tmp_path / "results" / "x.svg", [Line("a", [(0, 0), (1, 2)]), Line("b", [(0, 1), (1, 1)])], x="n", y="ms")
    assert "<svg" in (tmp_path / "results" / "x.svg").read_text()


# --- the truth table ---

ROW = TRUTH_TABLE[2]
SAMPLE = Sample(ROW.name, 1.2, 0.5, 0.25, 1.0, 1.2, 1.2, "saturated", wrong=False)
SPOILT = replace(SAMPLE, idle=0.01)


@pytest.mark.parametrize(
    ("demand", "right"),
    [
        ({"estimate": 1.25, "lower": 0.25, "upper": 1.25}, True),
        ({"estimate": 1.27, "lower": 0.25, "upper": 1.27}, False),
        ({"estimate": None, "lower": 0.25, "upper": 4.0}, True),
        ({"estimate": None, "lower": 0.25, "upper": 1.1}, False),
        ({"estimate": None, "lower": 1.3, "upper": 4.0}, False),
        ({"estimate": None, "lower": 0.25, "upper": None}, True),
    ],
)
def test_an_answer_is_the_truth_or_an_interval_that_holds_it(demand: dict[str, float | None], right: bool) -> None:
    assert is_right(demand, 1.2) is right


@pytest.mark.parametrize(
    ("samples", "count"),
    [
        ([], 0),
        ([SAMPLE, SAMPLE], 2),
        ([SPOILT], 0),
        ([SPOILT, SAMPLE], 1),
        ([SPOILT] * ATTEMPTS, 1),
        ([SPOILT] * ATTEMPTS + [SAMPLE], 2),
        ([replace(SAMPLE, row="another")], 0),
    ],
)
def test_a_spoilt_window_counts_only_as_the_last_attempt(samples: list[Sample], count: int) -> None:
    assert len(counted(samples, ROW)) == count


def test_samples_go_on_unless_the_estimator_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    assert load(path, "r1") == []
    with path.open("a") as file:
        file.write(json.dumps(asdict(SAMPLE)) + "\n")
    assert load(path, "r1") == [SAMPLE]
    assert load(path, "r2") == []
    assert load(path, "r1") == []


def test_a_wrong_answer_fails_the_report_even_if_the_window_was_spoilt() -> None:
    good = report([SAMPLE, replace(SAMPLE, upper=1.25, estimate=None, regime="unidentifiable")])
    assert good.passed
    assert "2 windows in all, 0 of them spoilt" in good.text()
    assert "1 saturated, 1 unidentifiable; 1 of 2 null" in good.text()
    bad = report([SAMPLE, replace(SPOILT, wrong=True), SAMPLE])
    assert not bad.passed


def test_an_upper_bound_off_the_specification_fails_the_report() -> None:
    assert not report([replace(SAMPLE, upper=1.3)]).passed


def test_the_summary_takes_new_sections_and_keeps_the_others() -> None:
    machine = {
        "date": "2026-11-22",
        "cores": 2,
        "memory_gib": 24,
        "kernel": "6.18",
        "ansible_core": "2.19",
        "hosts": None,
    }
    series = Series("look", [0.002], "ms")
    old, new = (Report(name, "what", [series], []) for name in ("look", "no_change"))
    before = summary("", {"look": section(old, machine)})
    after = summary(before, {"no_change": section(new, machine)})
    assert after == "\n".join([TITLE, section(new, machine), section(old, machine)])
    assert summary(after, {"look": section(replace(old, question="why"), machine)}).count("what") == 1

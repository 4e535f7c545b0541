# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks compute, apart from any lab."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from benchmarks.change import variants
from benchmarks.no_change import restate
from benchmarks.report import Report, Series, at_most, ratio
from lab.estate import load, spec

REFERENCES = {"app": "registry:5000/app@sha256:1", "postgres": "registry:5000/pg@sha256:2", "redis": "r@sha256:3"}


def estate_specs() -> list[dict[str, Any]]:
    estate = load()
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

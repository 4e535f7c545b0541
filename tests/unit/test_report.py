# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils import _report_text, _words

from tests.reports import MIB, container, estate_compared, host, node, report, service, unmeasured


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


# --- the report ---


def test_oversubscription_is_computed_against_real_and_declared_cores() -> None:
    built = report([host("one", container("a"))], [service("a")], [node("one")])
    assert built["nodes"][0]["oversubscription"] == {"real": 4.75, "declared": 2.375}
    assert line_of(_report_text.report_text(built), "one").split()[-4:-2] == ["4.8x", "2.4x"]


def test_tasks_of_one_service_on_two_hosts_are_added() -> None:
    hosts = [host("one", container("a")), host("two", container("a", cpu_used=0.05, throttled_periods=0))]
    built = report(hosts, [service("a", running=2, replicas=2, nodes=["one", "two"])], [node("one"), node("two")])
    measured = built["services"][0]["measured"]
    assert measured["cpu_used"] == pytest.approx(0.30)
    assert measured["throttled_ratio"] == 0.25
    assert measured["demand"]["estimate"] == pytest.approx(2.4)
    assert built["totals"]["demand"]["estimate"] == pytest.approx(2.4)
    assert built["totals"]["oversubscription"]["declared"] == 19 / 8


def test_what_was_not_measured_is_a_dash_and_null_never_zero() -> None:
    hosts = [host("one", unmeasured("a"), window_seconds=None, cpu_used=None, load=None, memory_available=None)]
    built = report(hosts, [service("a")], [node("one")])
    assert built["window_seconds"] is None
    assert built["services"][0]["measured"]["cpu_used"] is None
    text = _report_text.report_text(built)
    assert line_of(text, "a ").split()[4:8] == ["–"] * 4
    assert line_of(text, "one").split()[4:6] == ["–"] * 2
    assert "one look, no rates" in text
    assert json.loads(json.dumps(built)) == built


def test_a_measured_zero_is_a_zero() -> None:
    idle = {"estimate": 0.0, "lower": 0.0, "upper": 0.0, "regime": "unsaturated", "reason": "no limit"}
    row = container("a", cpu_used=0.0, throttled_periods=0, throttled_ratio=0.0, demand=idle)
    text = _report_text.report_text(report([host("one", row)], [service("a")], [node("one")]))
    assert line_of(text, "a ").split()[4:8] == ["0.00", "0%", "0.00", "unsaturated"]


def test_one_missing_part_makes_a_sum_missing() -> None:
    built = report([host("one", container("a"), unmeasured("b"))], [service("a"), service("b")], [node("one")])
    assert built["totals"]["demand"]["estimate"] is None


def test_no_limit_is_a_word_and_stopped_services_are_named_below() -> None:
    unlimited = service("a", limits={"cpus": None, "memory": None, "pids": None})
    stopped = service("z", running=0, replicas=0, nodes=[])
    text = _report_text.report_text(report([host("one", container("a"))], [unlimited, stopped], [node("one")]))
    assert line_of(text, "a ").split()[3] == "unlimited"
    assert line_of(text, "a ").split()[-1] == "unlimited"
    assert "Not running: z." in text
    assert "2 services, 1 running tasks" in text


def test_services_are_sorted_by_usage_and_drift_is_marked() -> None:
    drifting = service("busy", drift={"limits.cpus": {"expected": 0.5, "actual": None}})
    hosts = [host("one", container("idle", cpu_used=0.01), container("busy", cpu_used=1.5))]
    text = _report_text.report_text(report(hosts, [service("idle"), drifting], [node("one")]))
    assert text.index("busy *") < text.index("idle")
    assert "* differs from the table of limits: 1 of them." in text


def test_a_swarm_node_outside_the_play_is_shown_without_measurements() -> None:
    built = report([host("one", container("a"))], [service("a")], [node("one"), node("other", role="worker")])
    assert built["nodes"][1]["cores"] == {"real": 2.0, "declared": None}
    assert built["totals"]["cores"]["declared"] is None
    assert line_of(_report_text.report_text(built), "other").split()[2:6] == ["2", "–", "–", "–"]


def test_only_windows_of_a_minute_are_verdicts() -> None:
    short = report([host("one")], [], [node("one")])
    minute = report([host("one", window_seconds=60.0)], [], [node("one")])
    assert (short["verdict_grade"], minute["verdict_grade"]) == (False, True)
    assert "a verdict takes 60 s" in _report_text.report_text(short)
    assert "a verdict takes" not in _report_text.report_text(minute)


def test_text_has_straight_columns_and_no_trailing_blanks() -> None:
    rows = [container("short"), container("a-much-longer-name", cpu_used=11.0)]
    text = _report_text.report_text(
        report([host("one", *rows)], [service(row["service"]) for row in rows], [node("one")])
    )
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("SERVICE"))
    assert {line.index("one") for line in lines[start + 1 : start + 3]} == {lines[start].index("NODE")}
    assert [line for line in lines if line != line.rstrip()] == []


def test_the_estate_fits_a_terminal_and_says_cause_steal_and_load() -> None:
    built = estate_compared()
    text = _report_text.report_text(built)
    assert max(map(len, text.splitlines())) <= 160
    assert "own limit 7.84" in line_of(text, "backend-django-crm")
    assert line_of(text, "kvm4").split()[6] == "12%"
    assert f"Load of kvm4: {built['nodes'][0]['load_split']['text']}" in text
    assert built["verdict"]["text"] in " ".join(text.splitlines())
    assert "27 services were set differently. To undo it: LAB_NAME=demo ansible-playbook" in text


def test_a_comparison_without_changes_says_so() -> None:
    before = report([host("one", container("a"))], [service("a")], [node("one")])
    built = report([host("one", container("a"))], [service("a")], [node("one")], before=before)
    assert "Since 2026-11-22T00:00:00+00:00 no limit was changed." in _report_text.report_text(built)


def test_a_node_shows_its_services_and_what_belongs_to_none() -> None:
    outside = container("", cpu_used=0.5) | {"service": None}
    (row,) = report([host("one", container("a"), outside)], [service("a")], [node("one")])["nodes"]
    assert [each["service"] for each in row["services"]] == ["a"]
    assert row["outside"]["cpu_used"] == 0.5
    assert row["demand"]["estimate"] == pytest.approx(2.4)


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        ({"throttled": 0.2, "contention": 1.5, "siblings": 0.1, "steal": None}, "other services 1.50"),
        ({"throttled": None, "contention": None, "siblings": None, "steal": 0.3}, "hypervisor 0.30"),
        ({"throttled": 0.001, "contention": 0.0, "siblings": 0.0, "steal": 0.0}, "nothing"),
        (dict.fromkeys(("throttled", "contention", "siblings", "steal")), "–"),
        (None, "–"),
    ],
)
def test_cause(cause: dict[str, float | None] | None, text: str) -> None:
    assert _words.cause_text(cause) == text


@pytest.mark.parametrize(
    ("demand", "text"),
    [
        ({"estimate": 1.204, "lower": 0.25, "upper": 1.204}, "1.20"),
        ({"estimate": None, "lower": 0.25, "upper": 3.98}, "0.25..3.98"),
        ({"estimate": None, "lower": 0.25, "upper": None}, "0.25+"),
        ({"estimate": None, "lower": None, "upper": None}, "–"),
        ({}, "–"),
    ],
)
def test_demand(demand: dict[str, Any], text: str) -> None:
    assert _words.demand_text(demand) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0B"),
        (999, "999B"),
        (1000, "0.977K"),
        (64 * MIB, "64M"),
        (1536 * MIB, "1.5G"),
        (2**60, "1.05e+06T"),
    ],
)
def test_size(value: float | None, text: str) -> None:
    assert _words.size(value) == text

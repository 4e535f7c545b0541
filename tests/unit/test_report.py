# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.filter.limits_sum import limits_sum
from ansible_collections.evenkeel.swarm.plugins.module_utils import _report

MIB = 2**20


def container(service: str, **changed: Any) -> dict[str, Any]:
    """One container's row as throttling_info returns it."""
    row: dict[str, Any] = {
        "id": "c1",
        "name": f"{service}.1",
        "state": "running",
        "service": service,
        "task": "t1",
        "slot": 1,
        "node": "one",
        "cpu_used": 0.25,
        "cpu_limit": 0.25,
        "periods": 100,
        "throttled_periods": 50,
        "throttled_ratio": 0.5,
        "throttled_seconds": 3.0,
        "bursts": 0,
        "burst_seconds": 0.0,
        "pressure": None,
        "run_seconds": 2.5,
        "run_delay_seconds": 9.5,
        "runnable": 1.2,
        "cause": {"throttled": 0.95, "contention": 0.0, "siblings": 0.0, "steal": 0.0},
        "threads": 4,
        "demand": {"estimate": 1.2, "lower": 0.25, "upper": 1.2, "regime": "saturated", "reason": "held"},
        "memory": {"current": 70 * MIB, "working_set": 64 * MIB, "limit": 256 * MIB, "peak": None},
        "oom_kills": 0,
        "pids": 5,
        "restarts": 0,
        "window_seconds": 10.0,
        "verdict_grade": False,
    }
    return row | changed


def unmeasured(service: str) -> dict[str, Any]:
    """A container seen only once: everything that is a rate is missing."""
    rates = ("cpu_used", "periods", "throttled_periods", "throttled_ratio", "throttled_seconds", "run_seconds")
    nothing = {"estimate": None, "lower": None, "upper": None, "regime": None, "reason": "one look"}
    return container(service, **dict.fromkeys(rates), window_seconds=None, demand=nothing)


def host(name: str, *containers: dict[str, Any], vcpus: float | None = 4, **changed: Any) -> dict[str, Any]:
    node = {
        "hostname": name,
        "load": [1.5, 1.0, 0.5],
        "cpu_used": 1.25,
        "cpu_idle_share": 0.4,
        "memory_total": 4096 * MIB,
        "memory_available": 3072 * MIB,
        "window_seconds": 10.02,
    }
    return {"name": name, "vcpus": vcpus, "look": {"node": node | changed, "containers": list(containers)}}


def service(name: str, **changed: Any) -> dict[str, Any]:
    """One service's row as service_limits_info returns it."""
    row: dict[str, Any] = {
        "service": name,
        "replicas": 1,
        "running": 1,
        "nodes": ["one"],
        "limits": {"cpus": 0.25, "memory": 256 * MIB, "pids": None},
        "reservations": {"cpus": None, "memory": None},
        "in_table": True,
        "drift": {},
    }
    return row | changed


def node(hostname: str, **changed: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "hostname": hostname,
        "role": "manager",
        "availability": "active",
        "cpus": 2.0,
        "tasks": 1,
        "limits_cpus": 9.5,
        "limits_memory": 256 * MIB,
        "unlimited_tasks": 0,
    }
    return row | changed


def report(hosts: list[dict[str, Any]], services: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> dict[str, Any]:
    drifted = [row["service"] for row in services if row["drift"]]
    limits = {"services": services, "nodes": nodes, "drifted": drifted}
    return _report.build_report(hosts, limits, "2026-11-22T00:00:00+00:00")


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


# --- the report ---


def test_oversubscription_is_computed_against_real_and_declared_cores() -> None:
    built = report([host("one", container("a"))], [service("a")], [node("one")])
    assert built["nodes"][0]["oversubscription"] == {"real": 4.75, "declared": 2.375}
    assert line_of(_report.report_text(built), "one").split()[-4:-2] == ["4.8x", "2.4x"]


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
    text = _report.report_text(built)
    assert line_of(text, "a ").split()[4:8] == ["–"] * 4
    assert line_of(text, "one").split()[4:6] == ["–"] * 2
    assert "one look, no rates" in text
    assert json.loads(json.dumps(built)) == built


def test_a_measured_zero_is_a_zero() -> None:
    idle = {"estimate": 0.0, "lower": 0.0, "upper": 0.0, "regime": "unsaturated", "reason": "no limit"}
    row = container("a", cpu_used=0.0, throttled_periods=0, throttled_ratio=0.0, demand=idle)
    text = _report.report_text(report([host("one", row)], [service("a")], [node("one")]))
    assert line_of(text, "a ").split()[4:8] == ["0.00", "0%", "0.00", "unsaturated"]


def test_one_missing_part_makes_a_sum_missing() -> None:
    built = report([host("one", container("a"), unmeasured("b"))], [service("a"), service("b")], [node("one")])
    assert built["totals"]["demand"]["estimate"] is None


def test_no_limit_is_a_word_and_stopped_services_are_named_below() -> None:
    unlimited = service("a", limits={"cpus": None, "memory": None, "pids": None})
    stopped = service("z", running=0, replicas=0, nodes=[])
    text = _report.report_text(report([host("one", container("a"))], [unlimited, stopped], [node("one")]))
    assert line_of(text, "a ").split()[3] == "unlimited"
    assert line_of(text, "a ").split()[-1] == "unlimited"
    assert "Not running: z." in text
    assert "2 services, 1 running tasks" in text


def test_services_are_sorted_by_usage_and_drift_is_marked() -> None:
    drifting = service("busy", drift={"limits.cpus": {"expected": 0.5, "actual": None}})
    hosts = [host("one", container("idle", cpu_used=0.01), container("busy", cpu_used=1.5))]
    text = _report.report_text(report(hosts, [service("idle"), drifting], [node("one")]))
    assert text.index("busy *") < text.index("idle")
    assert "* differs from the table of limits: 1 of them." in text


def test_a_swarm_node_outside_the_play_is_shown_without_measurements() -> None:
    built = report([host("one", container("a"))], [service("a")], [node("one"), node("other", role="worker")])
    assert built["nodes"][1]["cores"] == {"real": 2.0, "declared": None}
    assert built["totals"]["cores"]["declared"] is None
    assert line_of(_report.report_text(built), "other").split()[2:6] == ["2", "–", "–", "–"]


def test_only_windows_of_a_minute_are_verdicts() -> None:
    short = report([host("one")], [], [node("one")])
    minute = report([host("one", window_seconds=60.0)], [], [node("one")])
    assert (short["verdict_grade"], minute["verdict_grade"]) == (False, True)
    assert "a verdict takes 60 s" in _report.report_text(short)
    assert "a verdict takes" not in _report.report_text(minute)


def test_text_has_straight_columns_and_no_trailing_blanks() -> None:
    rows = [container("short"), container("a-much-longer-name", cpu_used=11.0)]
    text = _report.report_text(report([host("one", *rows)], [service(row["service"]) for row in rows], [node("one")]))
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("SERVICE"))
    assert {line.index("one") for line in lines[start + 1 : start + 3]} == {lines[start].index("NODE")}
    assert [line for line in lines if line != line.rstrip()] == []


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
    assert _report.demand_text(demand) == text


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
    assert _report.size(value) == text


# --- what the role service_limits says ---


def settings(cpus: float | None = None, memory: int | None = None, replicas: int | None = 1) -> dict[str, Any]:
    return {
        "limits": {"cpus": cpus, "memory": memory, "pids": None},
        "reservations": {"cpus": None, "memory": None},
        "replicas": replicas,
    }


def test_changes_name_fields_and_count_the_rest() -> None:
    same = {"state": "unchanged", "before": settings(), "after": settings(), "seconds": 0.0, "error": None}
    rows = [
        {
            "service": "a",
            "state": "converged",
            "before": settings(),
            "after": settings(0.5, 512 * MIB),
            "seconds": 3.21,
            "error": None,
        },
        {
            "service": "b",
            "state": "failed",
            "before": settings(1.0),
            "after": settings(1.0, replicas=2),
            "seconds": 120,
            "error": "task exited",
        },
        {"service": "c", **same},
    ]
    assert _report.change_lines(rows) == [
        "a: cpus unlimited -> 0.5, memory unlimited -> 512M (converged, 3.2 s)",
        "b: replicas 1 -> 2 (failed, 120.0 s): task exited",
        "1 service unchanged",
    ]
    assert _report.change_lines([]) == []


def test_drift_names_every_field() -> None:
    drift = {
        "limits.cpus": {"expected": 0.5, "actual": None},
        "limits.memory": {"expected": 512 * MIB, "actual": 256 * MIB},
    }
    assert _report.drift_lines([{"service": "a", "drift": drift}, {"service": "b", "drift": {}}]) == [
        "a: cpus is unlimited, should be 0.5, memory is 256M, should be 512M"
    ]


def test_memory_in_use_is_the_highest_task_over_all_hosts() -> None:
    def look(*tasks: tuple[str, int | None]) -> dict[str, Any]:
        return {"tasks": [{"service": name, "memory": {"working_set": used}} for name, used in tasks]}

    looks = [look(("a", 10), ("a", 30), ("b", None)), look(("a", 20), ("c", 5))]
    assert _report.highest_working_sets(looks) == {"a": 30, "c": 5}


# --- sums without a connection ---


def test_sum_counts_running_tasks_and_their_rows() -> None:
    table = [
        {"glob": "web-*", "limits": {"cpus": 0.25, "memory": "512M"}},
        {"service": "db", "limits": {"cpus": 0.5}},
        {"service": "batch", "replicas": 0, "limits": {"cpus": 2}},
    ]
    services = [
        {"name": "web-a", "replicas": 2},
        {"name": "db", "replicas": 1},
        {"name": "batch", "replicas": 3},
        {"name": "other", "replicas": 1},
    ]
    assert limits_sum(table, services, 2) == {
        "services": 4,
        "running_tasks": 4,
        "limits_cpus": 1.0,
        "limits_memory": 1024 * MIB,
        "unlimited_cpus": 1,
        "unlimited_memory": 2,
        "cores": 2.0,
        "oversubscription": 0.5,
    }


def test_sum_selects_by_labels() -> None:
    table = [{"labels": {"tier": "frontend"}, "limits": {"cpus": 0.25}}]
    services = [{"name": "a", "replicas": 1, "labels": {"tier": "frontend"}}, {"name": "b", "replicas": 1}]
    assert limits_sum(table, services, 1)["limits_cpus"] == 0.25


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([], "the table is empty"),
        ([{"service": "a", "limits": {"cpus": "0.5x"}}], "limits.cpus"),
        ([{"service": "absent", "limits": {"cpus": 1}}], "matches none"),
    ],
)
def test_sum_refuses_a_table_with_errors(table: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        limits_sum(table, [{"name": "a", "replicas": 1}], 1)

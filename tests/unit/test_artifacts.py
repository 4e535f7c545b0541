# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run hands to the next one, on plain data; tests/integration/test_runner.py has the real ones."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.filter.artifact import artifact
from ansible_collections.evenkeel.swarm.plugins.module_utils._demand import UNIDENTIFIABLE, UNSATURATED, Demand
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_table import parse_table

from tests import reports

MIB = 2**20


def settings(cpus: float | None, memory: int | None = None, replicas: int | None = 1) -> dict[str, Any]:
    return {
        "limits": {"cpus": cpus, "memory": memory, "pids": None},
        "reservations": {"cpus": None, "memory": None},
        "replicas": replicas,
    }


def row(
    name: str, state: str, before: dict[str, Any], after: dict[str, Any], error: str | None = None
) -> dict[str, Any]:
    changed = state not in ("unchanged", "skipped", "rolled_back")
    return {"service": name, "state": state, "before": before, "after": after, "changed": changed, "error": error}


def test_limits_say_what_changed_and_the_table_that_sets_it_back() -> None:
    found = artifact(
        [
            row("a", "unchanged", settings(1.0), settings(1.0)),
            row("b", "converged", settings(None, 64 * MIB), settings(0.5, 128 * MIB)),
            row("c", "failed", settings(2.0, replicas=1), settings(2.0, replicas=3), "password=1234"),
            row("d", "rolled_back", settings(2.0), settings(2.0), "its task exits"),
            row("e", "skipped", settings(2.0), settings(3.0)),
        ],
        "limits",
    )
    undo = found.pop("undo")
    assert found == {
        "services": 5,
        "changed": ["b", "c"],
        "failed": ["c", "d"],
        "states": {"b": "converged", "c": "failed", "d": "rolled_back", "e": "skipped"},
    }
    assert undo == [
        {"service": "b", "limits": {"cpus": "unlimited", "memory": "64M"}},
        {"service": "c", "replicas": 1},
    ]
    assert parse_table(undo)[1] == []


def test_drift_counts_and_names() -> None:
    differs = {"limits.cpus": {"expected": 0.25, "actual": None}}
    rows = [
        {"service": "a", "in_table": True, "drift": differs},
        {"service": "b", "in_table": True, "drift": {}},
        {"service": "c", "in_table": False, "drift": {}},
    ]
    assert artifact(rows, "drift") == {"services": 2, "drifted": 1, "differences": {"a": differs}}


def test_a_report_is_its_sums() -> None:
    compared = reports.estate_compared()
    found = artifact(compared, "report")
    assert found["cores"] == compared["totals"]["cores"]["real"]
    assert found["limits_cpus"] == compared["totals"]["limits_cpus"]
    assert found["demand"]["estimate"] == compared["totals"]["demand"]["estimate"]
    assert set(found["nodes"]) == {node["name"] for node in compared["nodes"]}
    assert found["text"] == compared["verdict"]["text"]
    assert found["held"] == [each["service"] for each in compared["services"] if each["held"]]
    assert found["changes"] == len(compared["comparison"]["changes"]) > 0
    assert found["undo"] == compared["comparison"]["undo"]["table"]
    assert len(str(found)) < len(str(compared)) / 10


def test_without_an_earlier_report_nothing_is_said_of_changes() -> None:
    found = artifact(reports.estate(limited=False), "report")
    assert (found["changes"], found["undo"]) == (None, None)


def test_a_node_that_was_not_measured_is_not_zero() -> None:
    report = reports.report([], [], [reports.node("kvm4")])
    node = artifact(report, "report")["nodes"]["kvm4"]
    assert node["cpu_used"] is None
    assert set(node["demand"].values()) == {None}


def probed(name: str, demand: Demand | None = None, **changed: Any) -> dict[str, Any]:
    if demand is None:
        return {"name": name, "result": {"found": False, "recovered": []}}
    result = {"found": True, "limit": 1.0, "raised_limits": [2.0], "refused": "", "demand": asdict(demand)}
    return {"name": name, "result": result | changed}


def test_a_probe_on_two_hosts_is_one_demand() -> None:
    probes = [
        probed("kvm4", Demand(1.5, 1.5, 1.5, UNSATURATED, "seen")),
        probed("kvm2", Demand(None, 1.0, 4.0, UNIDENTIFIABLE, "never idle"), refused="no core is idle"),
        probed("kvm1"),
    ]
    found = artifact(probes, "probe", service="api")
    assert found["service"] == "api"
    assert (found["demand"]["estimate"], found["demand"]["lower"], found["demand"]["upper"]) == (None, 2.5, 5.5)
    assert found["limit"] == {"kvm4": 1.0, "kvm2": 1.0}
    assert found["raised"] == {"kvm4": [2.0], "kvm2": [2.0]}
    assert found["refused"] == {"kvm2": "no core is idle"}


def test_a_probes_check_run_knows_no_demand() -> None:
    probe = probed("kvm4", Demand(1.0, 1.0, 1.0, UNSATURATED, "seen"))
    del probe["result"]["demand"], probe["result"]["refused"]
    found = artifact([probe], "probe", service="api")
    assert (found["demand"], found["raised"], found["refused"]) == (None, {"kvm4": [2.0]}, {})


def test_bursts_that_there_is_no_telling_of_are_not_none_at_all() -> None:
    limit = {"within_ms": 100, "p95": 0.3, "largest": None, "reason": "more than the node has"}
    seen = {"service": "a", "node": "kvm2", "cpu_limit": 0.2, "bursts": {"count": 4}, "limits": [limit], "reason": None}
    containers = [
        seen,
        seen | {"service": "b", "bursts": {"count": 0}, "limits": []},
        seen | {"service": "c", "bursts": None, "limits": None, "reason": "never idle"},
        seen | {"service": None},
    ]
    found = artifact([{"containers": containers}], "bursts")
    assert [(each["service"], each["bursts"], each["reason"]) for each in found] == [
        ("a", 4, None),
        ("b", 0, None),
        ("c", None, "never idle"),
    ]
    assert found[0]["limits"] == [{"within_ms": 100, "p95": 0.3, "largest": None}]
    assert found[2]["limits"] is None


def test_a_recommendation_is_its_tables_and_sums() -> None:
    table, undo = [{"service": "a", "limits": {"cpus": 0.4}}], [{"service": "a", "limits": {"cpus": 1.0}}]
    totals = {"wants": 0.4, "gets": 0.4, "cores": None}
    recommendation = {"table": table, "undo": undo, "totals": totals, "left_out": {"b": "gone"}, "services": ["long"]}
    assert artifact(recommendation, "recommendation") == {
        "table": table,
        "undo": undo,
        "wants": 0.4,
        "gets": 0.4,
        "cores": None,
        "left_out": {"b": "gone"},
    }


def moved(**more: Any) -> dict[str, Any]:
    """A unit as the module migration returns it."""
    where = {"unit": "shop", "phase": "new", "runs_on": "kvm4", "target": "kvm2", "next": "prepare", "changed": False}
    return {**where, "outcomes": [{"title": "long"}], "journal": "/x", "warnings": [], **more}


def test_a_planned_move_has_its_hash_and_what_stands_in_the_way() -> None:
    traps = [
        {"code": "bind_mount", "text": "long", "remedy": "long", "refuses": True},
        {"code": "latest", "text": "long", "remedy": "long", "refuses": False},
    ]
    seen = moved(plan={"hash": "4f", "traps": traps, "parts": ["long"]})
    found = artifact({"shop": seen, "mail": moved()}, "migration", verb="plan")
    where = {"phase": "new", "runs_on": "kvm4", "target": "kvm2", "next": "prepare", "changed": False, "error": None}
    assert found == {
        "verb": "plan",
        "units": {
            "shop": {**where, "plan": "sha256:4f", "refusals": ["bind_mount"]},
            "mail": {**where, "plan": None, "refusals": []},
        },
    }


def test_a_move_that_failed_has_the_codes_and_no_text() -> None:
    refused = {"code": "trap", "message": "secret", "details": {"traps": ["bind_mount"]}}
    late = {"code": "not_ready", "message": "secret", "details": {}}
    found = artifact({"shop": moved(error=refused), "mail": moved(error=late)}, "migration", verb="prepare")
    assert {name: (unit["error"], unit["refusals"]) for name, unit in found["units"].items()} == {
        "shop": ("trap", ["bind_mount"]),
        "mail": ("not_ready", []),
    }
    assert "secret" not in str(found)


def test_scaling_is_a_number_before_and_after() -> None:
    found = artifact([row("a", "converged", settings(None, replicas=2), settings(None, replicas=0))], "scale")
    assert found == {"service": "a", "before": 2, "after": 0, "changed": True}


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(AnsibleFilterError, match="'limit'"):
        artifact([], "limit")

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.filter.throttling_before import throttling_before
from ansible_collections.evenkeel.swarm.plugins.filter.throttling_report import throttling_report
from ansible_collections.evenkeel.swarm.plugins.module_utils import _report_compare
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_table import parse_table
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import NANO, NO_LIMIT
from hypothesis import given
from hypothesis import strategies as st

from tests.reports import MIB, container, estate, estate_compared, host, node, report, service, unmeasured


def limits(cpus: float | None = None, memory: int | None = None, pids: int | None = None) -> dict[str, Any]:
    return {"cpus": cpus, "memory": memory, "pids": pids}


def one(*services: dict[str, Any], **changed: Any) -> dict[str, Any]:
    rows = [container(row["service"], **changed) for row in services if row["running"]]
    return report([host("one", *rows)], list(services), [node("one")])


def compared(before: dict[str, Any], *services: dict[str, Any]) -> dict[str, Any]:
    rows = [container(row["service"]) for row in services if row["running"]]
    after: dict[str, Any] = report([host("one", *rows)], list(services), [node("one")], before=before)["comparison"]
    return after


def test_figures_before_and_after_with_their_change() -> None:
    comparison = compared(one(service("a"), cpu_used=1.0, throttled_ratio=None), service("a"))
    (row,) = comparison["services"]
    assert row["cpu_used"] == {"before": 1.0, "after": 0.25, "change": -0.75}
    assert row["demand"]["change"] == 0.0
    assert row["oom_kills"] == {"before": 0, "after": 0, "change": 0}
    assert row["working_set"]["change"] == 0
    assert comparison["nodes"][0]["cpu_used"] == {"before": 1.25, "after": 1.25, "change": 0.0}
    assert comparison["totals"]["limits_cpus"] == {"before": 9.5, "after": 9.5, "change": 0.0}


def test_what_one_side_did_not_measure_has_no_change() -> None:
    before = report([host("one", unmeasured("a"))], [service("a")], [node("one")])
    (row,) = compared(before, service("a"))["services"]
    assert row["cpu_used"] == {"before": None, "after": 0.25, "change": None}
    assert row["demand"]["change"] is None


def test_changes_and_the_table_that_undoes_them() -> None:
    before = one(
        service("a", limits=limits(), reservations={"cpus": 0.1, "memory": 64 * MIB}),
        service("b", limits=limits(0.5, 512 * MIB, 100), replicas=2, running=2),
        service("same"),
    )
    comparison = compared(
        before,
        service("a", limits=limits(0.25, 256 * MIB)),
        service("b", limits=limits(0.5, None, 50), replicas=0, running=0),
        service("same"),
    )
    assert [(each["service"], each["field"]) for each in comparison["changes"]] == [
        ("a", "limits.cpus"),
        ("a", "limits.memory"),
        ("a", "reservations.cpus"),
        ("a", "reservations.memory"),
        ("b", "limits.memory"),
        ("b", "limits.pids"),
        ("b", "replicas"),
    ]
    assert comparison["undo"]["table"] == [
        {
            "service": "a",
            "limits": {"cpus": "unlimited", "memory": "unlimited"},
            "reservations": {"cpus": 0.1, "memory": "64M"},
        },
        {"service": "b", "limits": {"memory": "512M", "pids": 100}, "replicas": 2},
    ]
    assert parse_table(comparison["undo"]["table"])[1] == []


def test_replicas_of_a_service_that_became_global_are_no_change() -> None:
    comparison = compared(one(service("a", replicas=1)), service("a", replicas=None))
    assert comparison["changes"] == comparison["undo"]["table"] == []


def test_new_and_gone_services_are_named_and_not_undone() -> None:
    comparison = compared(one(service("a"), service("old")), service("a"), service("new"))
    assert (comparison["appeared"], comparison["vanished"]) == (["new"], ["old"])
    assert comparison["undo"]["table"] == []


@given(
    nano=st.none() | st.integers(10_000_000, 128 * NANO),
    memory=st.none() | st.integers(6 * MIB, 2**45),
    replicas=st.integers(0, 50),
)
def test_undo_reads_back_as_exactly_what_it_was(nano: int | None, memory: int | None, replicas: int) -> None:
    before = service("a", limits=limits(None if nano is None else nano / NANO, memory), replicas=replicas)
    after = service("a", limits=limits(77.125, 12345678), replicas=51)
    changes = compared(one(before), after)["undo"]["table"]
    (row,), errors = parse_table(changes)
    assert errors == []
    assert row.limits["memory"] == (NO_LIMIT if memory is None else memory)
    assert row.limits["cpus"] == (NO_LIMIT if nano is None else nano)
    assert row.replicas == replicas


def test_the_estate_is_undone_by_a_table_that_is_accepted() -> None:
    comparison = estate_compared()["comparison"]
    rows, errors = parse_table(comparison["undo"]["table"])
    assert errors == []
    assert len(rows) == 27
    assert {value for row in rows for value in row.limits.values()} == {NO_LIMIT}


def test_an_older_report_lacks_fields_and_still_compares() -> None:
    before = estate(limited=False)
    for row in before["nodes"]:
        for name in ("steal_share", "pressure", "demand", "services", "load_split"):
            del row[name]
    for row in before["services"]:
        row.pop("held")
        (row["measured"] or {}).pop("cause", None)
    del before["verdict"], before["comparison"], before["totals"]["wanted"]
    read = throttling_before(json.dumps(before), "old.json")
    comparison = compared(read | {"nodes": [{"name": "one"}]}, service("backend-saleor-api"))
    assert comparison["before"]["verdict"] is None
    assert comparison["nodes"][0]["steal_share"]["before"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not json", "x.json is not JSON"),
        ("[]", "x.json is JSON, but no throttling report"),
        ('{"measured_at": "now"}', "no throttling report"),
        ('{"measured_at": "now", "services": [1], "nodes": []}', "no throttling report"),
    ],
)
def test_what_is_no_report_is_refused(text: str, said: str) -> None:
    with pytest.raises(AnsibleFilterError, match=said):
        throttling_before(text, "x.json")


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (report([host("two", container("a"))], [service("a")], [node("two")]), "no node in common"),
        (report([host("one", container("b"))], [service("b")], [node("one")]), "no service in common"),
    ],
)
def test_a_report_of_another_swarm_is_refused(before: dict[str, Any], said: str) -> None:
    now = {"services": [service("a")], "nodes": [node("one")], "drifted": []}
    with pytest.raises(AnsibleFilterError, match=said):
        throttling_report([host("one", container("a"))], now, "now", before)


def test_a_report_is_json_and_holds_its_comparison() -> None:
    built = estate_compared()
    assert json.loads(json.dumps(built)) == built
    assert _report_compare.parse_report(json.dumps(built), "x")["comparison"]["undo"]["command"].endswith("limits.yml")

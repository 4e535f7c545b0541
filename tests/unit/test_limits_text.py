# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.filter.limits_sum import limits_sum
from ansible_collections.evenkeel.swarm.plugins.module_utils import _limits_text

MIB = 2**20

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
    assert _limits_text.change_lines(rows) == [
        "a: cpus unlimited -> 0.5, memory unlimited -> 512M (converged, 3.2 s)",
        "b: replicas 1 -> 2 (failed, 120.0 s): task exited",
        "1 service unchanged",
    ]
    assert _limits_text.change_lines([]) == []


def test_drift_names_every_field() -> None:
    drift = {
        "limits.cpus": {"expected": 0.5, "actual": None},
        "limits.memory": {"expected": 512 * MIB, "actual": 256 * MIB},
    }
    assert _limits_text.drift_lines([{"service": "a", "drift": drift}, {"service": "b", "drift": {}}]) == [
        "a: cpus is unlimited, should be 0.5, memory is 256M, should be 512M"
    ]


def test_memory_in_use_is_the_highest_task_over_all_hosts() -> None:
    def look(*tasks: tuple[str, int | None]) -> dict[str, Any]:
        return {"tasks": [{"service": name, "memory": {"working_set": used}} for name, used in tasks]}

    looks = [look(("a", 10), ("a", 30), ("b", None)), look(("a", 20), ("c", 5))]
    assert _limits_text.highest_working_sets(looks) == {"a": 30, "c": 5}


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

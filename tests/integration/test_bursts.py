# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""burst_info and its playbook on the lab: bursts of a known size in a Swarm task, and what is refused.

tests/cgroups/test_burst_cgroup.py proves the limits proposed on plain cgroups of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.integration.harness import Ansible

pytestmark = pytest.mark.quiet

BURSTS = """
import time
while True:
    time.sleep(1.3 - time.monotonic() % 1.3)
    end = time.thread_time() + 0.06
    while time.thread_time() < end:
        pass
"""


def test_a_swarm_tasks_bursts_are_found(ansible: Ansible, service: Callable[..., str]) -> None:
    limits = {"Limits": {"NanoCPUs": 200_000_000}}
    name = service("bursts", node="kvm2", command=["python3", "-c", BURSTS], resources=limits)
    result = ansible.module("kvm2", "burst_info", {"services": [name, "no-such"], "window": 9})
    assert result["not_found"] == ["no-such"]
    [row] = result["containers"]
    print("SEEN", row, result["node"])
    assert (row["service"], row["cpu_limit"]) == (name, 0.2)
    assert row["bursts"]["cpu_ms"]["median"] == pytest.approx(60, rel=0.05)
    assert row["bursts"]["cores_at_once"] == 1
    assert [each["within_ms"] for each in row["limits"]] == [100, 250, 1000]
    assert 0 < result["node"]["sampler_cpu_seconds"] < 0.5


@pytest.mark.parametrize(
    ("variables", "field"),
    [
        ({"bursts_window": "long"}, "bursts_window"),
        ({"bursts_services": {"one": 1}}, "bursts_services"),
        ({"bursts_within": [0]}, "within"),
        ({"bursts_window": 1, "bursts_services": ["no-such"]}, "bursts_services names what has no container"),
    ],
)
def test_the_playbook_refuses_what_makes_no_sense(ansible: Ansible, variables: dict[str, object], field: str) -> None:
    ran = ansible.playbook("playbooks/bursts.yml", "-e", json.dumps(variables))
    assert ran.status != 0
    assert field in ran.text


def test_the_playbook_shows_a_table_and_changes_nothing(ansible: Ansible, service: Callable[..., str]) -> None:
    name = service("shown", node="kvm2", command=["python3", "-c", BURSTS])
    variables = {"bursts_window": 5, "bursts_services": [name], "bursts_within": [150]}
    ran = ansible.playbook("playbooks/bursts.yml", "-e", json.dumps(variables))
    assert ran.status == 0, ran.text
    assert not any(ran.changed.values())
    shown = ran.results("Show the bursts")[0]["msg"]
    assert "FOR 150 ms" in shown
    assert name in shown

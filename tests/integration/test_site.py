"""The playbooks, as an operator runs them, on the seeds' 30 services."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab.settings import PROJECT
from tests.integration.harness import ANSIBLE, Ansible, Spec, Swarm, without_limits


def applied(run: Any) -> list[dict[str, Any]]:
    """The result rows of the one service_limits call in a run of site.yml."""
    found = [result["services"] for result in run.results("") if _is_table_run(result)]
    assert len(found) == 1, f"{len(found)} results with service rows in:\n{run.text[-3000:]}"
    rows: list[dict[str, Any]] = found[0]
    return rows


def _is_table_run(result: dict[str, Any]) -> bool:
    rows = result.get("services")
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and "before" in rows[0]


@pytest.fixture(scope="module")
def undone(swarm: Swarm) -> None:
    """Take limits off a few services, so that there is something to do, whatever ran before."""

    def forget(spec: Spec) -> None:
        spec["TaskTemplate"]["Resources"] = {}

    for name in ("frontend-client-portal", "infrastructure-mailhog", "dokploy-redis", "infrastructure-superset-beat"):
        swarm.update(name, forget)
    swarm.wait_settled()


@pytest.mark.usefixtures("undone")
def test_site_check_predicts_then_does_then_finds_nothing_to_do(ansible: Ansible, swarm: Swarm) -> None:
    before = swarm.specs()
    predicted = ansible.playbook("site.yml", "--check", "--diff", "-e", "report_window=2")
    assert predicted.status == 0, predicted.text[-3000:]
    assert swarm.specs() == before, "check mode changed a service"
    done = ansible.playbook("site.yml", "-e", "report_window=2")
    assert done.status == 0, done.text[-3000:]
    facts = ("service", "row", "before", "after", "changed", "stateful")
    assert [{key: each[key] for key in facts} for each in applied(predicted)] == [
        {key: each[key] for key in facts} for each in applied(done)
    ]
    assert predicted.changed == done.changed
    after = swarm.specs()
    assert {name: without_limits(spec) for name, spec in after.items()} == {
        name: without_limits(spec) for name, spec in before.items()
    }
    again = ansible.playbook("site.yml", "-e", "report_window=2")
    assert again.status == 0
    assert again.changed == {"kvm4": 0, "kvm2": 0, "localhost": 0}
    assert swarm.specs() == after


def test_the_estate_is_the_seeds(ansible: Ansible, swarm: Swarm) -> None:
    specs = swarm.specs()
    estate = {name: spec for name, spec in specs.items() if "evenkeel.lab.spec" in spec["Labels"]}
    running = sum(spec["Mode"]["Replicated"]["Replicas"] for spec in estate.values())
    assert (len(estate), running) == (30, 21)
    report = json.loads((PROJECT / "reports" / ansible.settings.name / "throttling.json").read_text())
    text = (PROJECT / "reports" / ansible.settings.name / "throttling.txt").read_text()
    kvm4 = next(node for node in report["nodes"] if node["node"] == "kvm4")
    # 9.5 CPUs of limits on the four vCPUs that the inventory declares: the seed's 2.4x, computed.
    assert kvm4["limits_cpus"] == pytest.approx(9.5)
    assert re.search(r"kvm4 .*\b2\.4x", text)
    measured = {each["service"] for each in report["services"] if each.get("cpu_used") is not None}
    assert len(measured) == 21


def test_scale_stops_a_service_and_brings_it_back(ansible: Ansible, swarm: Swarm) -> None:
    name = "infrastructure-healthchecks"
    before = swarm.specs()
    stop = ("-e", f"scale_service={name}", "-e", "scale_replicas=0")
    assert ansible.playbook("playbooks/scale.yml", *stop, "--check").changed["kvm4"] == 1
    assert swarm.specs() == before
    stopped = ansible.playbook("playbooks/scale.yml", *stop)
    assert stopped.status == 0, stopped.text[-3000:]
    assert "scale_replicas=1" in stopped.text, "the way back is not on the screen"
    assert not swarm.running(name)
    assert ansible.playbook("playbooks/scale.yml", *stop).changed["kvm4"] == 0
    back = ansible.playbook("playbooks/scale.yml", "-e", f"scale_service={name}", "-e", "scale_replicas=1")
    assert back.status == 0
    assert swarm.running(name)
    assert swarm.specs() == before


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "scale_service"),
        ({"scale_service": "no-such-service", "scale_replicas": "1"}, "no-such-service"),
        ({"scale_service": "infrastructure-superset", "scale_replicas": "-1"}, "scale_replicas"),
        ({"scale_service": "infrastructure-superset", "scale_replicas": "many"}, "scale_replicas"),
    ],
)
def test_scale_refuses_what_it_does_not_understand(
    ansible: Ansible, swarm: Swarm, variables: dict[str, str], said: str
) -> None:
    before = swarm.specs()
    run = ansible.playbook("playbooks/scale.yml", "-e", json.dumps(variables))
    assert run.status != 0
    assert said in run.text
    assert swarm.specs() == before


@pytest.mark.parametrize("playbook", ["limits", "throttling"])
def test_each_playbook_stands_alone_and_checks(ansible: Ansible, swarm: Swarm, playbook: str, tmp_path: Path) -> None:
    before = swarm.specs()
    report = ("-e", f"report_directory={tmp_path}/new", "-e", "report_window=2")
    checked = ansible.playbook(f"playbooks/{playbook}.yml", "--check", "--diff", *report)
    assert checked.status == 0, checked.text[-3000:]
    run = ansible.playbook(f"playbooks/{playbook}.yml", *report)
    assert run.status == 0, run.text[-3000:]
    assert set(run.changed.values()) == {0}
    assert swarm.specs() == before


def test_a_broken_table_fails_the_run_and_names_the_row(ansible: Ansible, swarm: Swarm) -> None:
    before = swarm.specs()
    table = {"service_limits_table": [{"service": "dokploy", "limits": {"cpus": "lots"}}]}
    run = ansible.playbook("site.yml", "-e", json.dumps(table))
    assert run.status != 0
    assert "row 1" in run.text
    assert "limits.cpus" in run.text
    assert swarm.specs() == before


def test_without_a_lab_one_sentence_says_what_to_do(ansible: Ansible) -> None:
    for playbook in ("site.yml", "playbooks/limits.yml", "playbooks/throttling.yml", "playbooks/scale.yml"):
        done = subprocess.run(
            [str(ANSIBLE / "ansible-playbook"), playbook],
            cwd=PROJECT,
            env={**ansible.environment(), "LAB_NAME": "nosuchlab"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        assert "No lab is up: run `make lab-up`" in done.stdout

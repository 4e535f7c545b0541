"""The playbooks, as an operator runs them, on the seeds' 30 services."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab.settings import PROJECT
from tests.integration.harness import ANSIBLE, Ansible, Run, Spec, Swarm, without_limits


def applied(run: Run) -> list[dict[str, Any]]:
    """The result rows of the one task in a run of site.yml that changes services."""
    found = [result["services"] for result in run.results(": Apply the table of limits") if "services" in result]
    assert len(found) == 1, f"{len(found)} results with service rows in:\n{run.text[-3000:]}"
    rows: list[dict[str, Any]] = found[0]
    return rows


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
    kvm4 = next(node for node in report["nodes"] if node["name"] == "kvm4")
    # 9.5 CPUs of limits on the four vCPUs that the inventory declares: the seed's 2.4x, computed.
    assert kvm4["limits_cpus"] == pytest.approx(9.5)
    assert kvm4["oversubscription"]["declared"] == pytest.approx(9.5 / 4)
    assert re.search(r"kvm4 .*\b2\.4x", text)
    measured = [each["measured"] for each in report["services"] if each["measured"]]
    assert len([each for each in measured if each["cpu_used"] is not None]) == 21


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


@pytest.mark.parametrize("playbook", ["limits", "throttling", "report"])
def test_each_playbook_stands_alone_and_checks(ansible: Ansible, swarm: Swarm, playbook: str, tmp_path: Path) -> None:
    before = swarm.specs()
    report = ("-e", f"report_directory={tmp_path}/new", "-e", "report_window=2")
    checked = ansible.playbook(f"playbooks/{playbook}.yml", "--check", "--diff", *report)
    assert checked.status == 0, checked.text[-3000:]
    assert list(tmp_path.iterdir()) == [], "check mode wrote a report"
    run = ansible.playbook(f"playbooks/{playbook}.yml", *report)
    assert run.status == 0, run.text[-3000:]
    assert set(run.changed.values()) == {0}
    assert swarm.specs() == before


def test_a_report_compares_with_an_earlier_one_and_its_table_undoes_the_change(
    ansible: Ansible, swarm: Swarm, tmp_path: Path
) -> None:
    name = "infrastructure-mailhog"
    files = tmp_path / "after"

    def report(where: str, *more: str) -> Run:
        place = ("-e", f"report_directory={tmp_path}", "-e", f"report_name={where}", "-e", "report_window=2")
        done = ansible.playbook("playbooks/report.yml", *place, *more)
        assert done.status == 0, done.text[-3000:]
        assert set(done.changed.values()) == {0}
        return done

    before = swarm.specs()
    report("before")
    assert sorted(path.name for path in (tmp_path / "before").iterdir()) == [
        "history.jsonl",
        "report.html",
        "throttling.json",
        "throttling.txt",
    ]
    change = {"service_limits_table": [{"service": name, "limits": {"cpus": 0.07, "pids": 321}}]}
    assert ansible.playbook("playbooks/limits.yml", "-e", json.dumps(change)).changed["kvm4"] == 1
    earlier = ("-e", f"report_before={tmp_path}/before/throttling.json")
    compared = report("after", *earlier)
    comparison = json.loads((files / "throttling.json").read_text())["comparison"]
    fields = [(each["service"], each["field"]) for each in comparison["changes"]]
    assert fields == [(name, "limits.cpus"), (name, "limits.pids")]
    assert "Before and after" in (files / "report.html").read_text()
    assert "1 service was set differently" in compared.text
    undone = ansible.playbook("playbooks/limits.yml", "-e", f"@{files}/undo-limits.yml")
    assert undone.status == 0, undone.text[-3000:]
    assert swarm.specs() == before
    # The same file is read before it is replaced.
    again = report("before", *earlier)
    assert "no limit was changed" in again.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file"),
        (
            '{"measured_at": "then", "services": [{"service": "a"}], "nodes": [{"name": "elsewhere"}]}',
            "no node in common",
        ),
    ],
)
def test_what_is_no_earlier_report_is_refused_in_a_sentence(
    ansible: Ansible, tmp_path: Path, content: str | None, said: str
) -> None:
    earlier = tmp_path / "earlier.json"
    if content is not None:
        earlier.write_text(content)
    options = {"report_before": str(earlier), "report_directory": str(tmp_path / "new"), "report_window": 1}
    run = ansible.playbook("playbooks/report.yml", "-e", json.dumps(options))
    assert run.status != 0
    assert said in " ".join(run.text.split())
    assert not (tmp_path / "new").exists()


def test_a_broken_table_fails_the_run_and_names_the_row(ansible: Ansible, swarm: Swarm) -> None:
    before = swarm.specs()
    table = {"service_limits_table": [{"service": "dokploy", "limits": {"cpus": "lots"}}]}
    run = ansible.playbook("site.yml", "-e", json.dumps(table))
    assert run.status != 0
    assert "row 1" in run.text
    assert "limits.cpus" in run.text
    assert swarm.specs() == before


def test_without_a_lab_one_sentence_says_what_to_do(ansible: Ansible) -> None:
    for playbook in ("site.yml", "playbooks/limits.yml", "playbooks/report.yml", "playbooks/scale.yml"):
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

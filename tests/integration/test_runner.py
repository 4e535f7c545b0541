"""Every job template of awx/, launched as AWX does, twice: it ends well, and hands on what it found.

The first launch is streamed to a node, as AWX does it; the second is from a project directory that can't be written to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import launcher, units
from lab.engine import connect
from lab.settings import Settings
from tests.integration.harness import Spec, Swarm
from tests.integration.launcher_client import PORT, remove
from tests.integration.runner import JOB_TEMPLATES, Awx, Job

#: Survey answers come as text wherever a person typed them.
QUICK = {"report_window": "1"}
#: An artifact ends in a database and in the variables of each later job.
LARGEST = 16 * 1024

BURSTS = """
import time
while True:
    time.sleep(0.3)
    end = time.thread_time() + 0.03
    while time.thread_time() < end:
        pass
"""


@pytest.fixture(scope="module")
def awx(lab: Settings, tmp_path_factory: pytest.TempPathFactory) -> Awx:
    return Awx(lab, tmp_path_factory.mktemp("awx"))


def launches(*names: str) -> pytest.MarkDecorator:
    """Run a test for each of these job templates; test_no_job_template_is_left_out counts them."""
    return pytest.mark.parametrize("template", names)


def twice(awx: Awx, template: str, answers: dict[str, Any] | None = None) -> tuple[Job, Job]:
    """Launch a job template, then again; both end well, the second one finds nothing to do."""
    first, second = (well(awx.job(template, answers, streamed=streamed)) for streamed in (True, False))
    assert second.changed == {}
    return first, second


def well(job: Job) -> Job:
    assert (job.rc, job.status) == (0, "successful"), job.stdout[-3000:]
    assert job.of("runner_on_failed") == []
    assert {event["host"] for event in job.of("runner_on_ok")} >= {"kvm4", "kvm2"}
    assert set(job.artifacts["evenkeel_nodes"]) == {"kvm4", "kvm2"}
    assert len(json.dumps(job.artifacts)) < LARGEST
    return job


def forget_limits(spec: Spec) -> None:
    spec["TaskTemplate"]["Resources"] = {}


def test_no_job_template_is_left_out() -> None:
    marks = [mark for test in globals().values() for mark in getattr(test, "pytestmark", ())]
    launched = [name for mark in marks if mark.args[:1] == ("template",) for name in mark.args[1]]
    assert sorted([*launched, *MOVES]) == sorted(JOB_TEMPLATES)


@launches("Preflight")
def test_preflight_tells_what_the_hosts_are(awx: Awx, template: str) -> None:
    for job in twice(awx, template):
        assert job.changed == {}
        nodes = job.artifacts["evenkeel_nodes"]
        assert {name: node["role"] for name, node in nodes.items()} == {"kvm4": "manager", "kvm2": "worker"}


@launches("Limits")
def test_limits_names_what_changed_and_how_to_undo_it(awx: Awx, swarm: Swarm, template: str) -> None:
    name = "infrastructure-mailhog"
    swarm.update(name, forget_limits)
    swarm.wait_settled()
    first, second = twice(awx, template)
    assert first.changed == {"kvm4": 1}
    done = first.artifacts["evenkeel_limits"]
    # Others too, on a lab that never had its table applied.
    assert name in done["changed"]
    assert (done["failed"], done["states"]) == ([], dict.fromkeys(done["changed"], "converged"))
    assert {"service": name, "limits": {"cpus": "unlimited", "memory": "unlimited"}} in done["undo"]
    assert second.artifacts["evenkeel_limits"] == {**done, "changed": [], "states": {}, "undo": []}
    assert second.artifacts["evenkeel_drift"] == {"services": 30, "drifted": 0, "differences": {}}


@launches("Drift", "Watch")
def test_looking_for_drift_finds_none_and_changes_nothing(awx: Awx, template: str) -> None:
    for job in twice(awx, template):
        assert job.changed == {}
        if template == "Watch":
            assert job.artifacts["evenkeel_drift"] == {"services": 30, "drifted": 0, "differences": {}}
        else:
            assert job.artifacts["evenkeel_limits"]["states"] == {}


def test_a_later_job_takes_the_undo_table_of_an_earlier_one(
    awx: Awx, swarm: Swarm, service: Callable[..., str]
) -> None:
    name = service(resources={"Limits": {"NanoCPUs": 300_000_000}})
    before = swarm.specs()[name]
    # Variables that somebody gave at the launch, as JSON.
    table = {"service_limits_table": [{"service": name, "limits": {"cpus": 0.2, "memory": "96M"}}]}
    job = well(awx.launch("playbooks/limits.yml", table))
    assert swarm.specs()[name] != before
    undo = {"service_limits_table": "{{ evenkeel_limits.undo }}"}
    back = well(awx.launch("playbooks/limits.yml", job.artifacts, template=undo))
    assert back.artifacts["evenkeel_limits"]["changed"] == [name]
    assert swarm.specs()[name] == before


def test_limits_that_fail_and_are_put_back_are_handed_on(awx: Awx, swarm: Swarm, service: Callable[..., str]) -> None:
    ballast = ["python3", "-c", "import time; b = b'x' * (96 << 20); time.sleep(1e9)"]
    doomed, good = service("doomed", command=ballast), service("good")
    rows = [{"service": doomed, "limits": {"memory": "20M"}}, {"service": good, "limits": {"cpus": 0.5}}]
    answers = {"service_limits_allow_memory_below_use": True, "service_limits_timeout": "60"}
    job = awx.launch("playbooks/limits.yml", answers, template={"service_limits_table": rows})
    assert (job.rc, job.status) == (2, "failed")
    outcome = job.artifacts["evenkeel_limits"]
    assert (outcome["failed"], outcome["changed"], outcome["undo"]) == ([doomed], [], [])
    assert set(outcome["states"].values()) == {"rolled_back"}
    swarm.wait_running(doomed)


def test_drift_is_handed_on_by_the_job_that_fails_on_it(awx: Awx, service: Callable[..., str]) -> None:
    name = service(resources={"Limits": {"NanoCPUs": 300_000_000}})
    table = {"service_limits_table": [{"service": name, "limits": {"cpus": 0.2}}]}
    job = awx.job("Watch", table)
    assert (job.rc, job.status) == (2, "failed")
    found = {"services": 1, "drifted": 1, "differences": {name: {"limits.cpus": {"expected": 0.2, "actual": 0.3}}}}
    assert job.artifacts["evenkeel_drift"] == found
    [failed] = job.of("runner_on_failed")
    assert failed["res"]["msg"] == f"{name}: cpus is 0.3, should be 0.2"


@launches("Throttling", "Report")
def test_a_report_hands_on_its_sums_and_keeps_its_files(awx: Awx, template: str) -> None:
    directory = awx.exposed / "inventory"
    for job in twice(awx, template, QUICK):
        assert job.changed == {}
        report = job.artifacts["evenkeel_report"]
        assert (report["cores"], report["limits_cpus"]) == (4, pytest.approx(9.5))
        assert set(report["nodes"]) == {"kvm4", "kvm2"}
        assert report["verdict"] in ("enough", "maybe", "short")
        assert (report["changes"], report["undo"]) == (None, None)
        assert report["directory"] == str(directory)
    assert (directory / "report.html").exists() == (template == "Report")
    kept = json.loads((directory / "throttling.json").read_text())
    assert report["measured_at"] == kept["measured_at"]
    assert report["demand"]["estimate"] == kept["totals"]["demand"]["estimate"]


def test_without_a_path_that_stays_a_report_is_written_and_thrown_away_with_its_project(awx: Awx) -> None:
    job = well(awx.launch("playbooks/throttling.yml", {"report_window": 1}))
    directory = Path(job.artifacts["evenkeel_report"]["directory"])
    assert directory.parts[-4:] == ("node", "project", "reports", "inventory")
    assert not (awx.project / "reports").exists()


@launches("Recommend")
def test_a_recommendation_goes_from_history_to_limits_without_a_file(awx: Awx, swarm: Swarm, template: str) -> None:
    well(awx.job("Throttling", QUICK))
    for job in twice(awx, template, {"recommendation_minimum_hours": "0.0001"}):
        assert job.changed == {}
        recommended = job.artifacts["evenkeel_recommendation"]
        assert len(recommended["table"]) == len(recommended["undo"]) == 21
        assert recommended["cores"] == 4
    before = swarm.specs()
    limits = {"service_limits_table": "{{ evenkeel_recommendation.table }}"}
    predicted = well(awx.launch("playbooks/limits.yml", job.artifacts, template=limits, check=True))
    states = predicted.artifacts["evenkeel_limits"]["states"]
    assert set(states.values()) == {"predicted"}
    assert set(states) <= {row["service"] for row in recommended["table"]}
    assert swarm.specs() == before


@launches("Probe")
@pytest.mark.quiet
def test_a_probe_hands_on_what_the_service_wants(awx: Awx, service: Callable[..., str], template: str) -> None:
    name = service(node="kvm2", resources={"Limits": {"NanoCPUs": 200_000_000}})
    answers = {"demand_probe_service": name, "demand_probe_window": "1", "demand_probe_minutes": "0.1"}
    for job in twice(awx, template, answers):
        assert job.changed == {}
        probe = job.artifacts["evenkeel_probe"]
        assert (probe["service"], probe["limit"]) == (name, {"kvm2": 0.2})
        assert probe["demand"]["estimate"] == pytest.approx(0, abs=0.05)
        assert probe["raised"] == {"kvm2": []}
        assert "known without a probe" in probe["refused"]["kvm2"]


@launches("Bursts")
@pytest.mark.quiet
def test_bursts_hands_on_the_limits_that_serve_them(awx: Awx, service: Callable[..., str], template: str) -> None:
    name = service(node="kvm2", command=["python3", "-c", BURSTS])
    for job in twice(awx, template, {"bursts_window": "3", "bursts_services": name, "bursts_within": "100"}):
        assert job.changed == {}
        [row] = job.artifacts["evenkeel_bursts"]
        assert (row["service"], row["node"], row["cpu_limit"]) == (name, "kvm2", None)
        # With much else on the machine there is no telling; then the reason is handed on.
        told = row["bursts"] is not None
        assert told == (row["reason"] is None)
        assert [limit["within_ms"] for limit in row["limits"] or ()] == ([100] if told else [])


@launches("Scale", "Stop a service")
def test_scale_says_what_it_changed(awx: Awx, swarm: Swarm, service: Callable[..., str], template: str) -> None:
    name = service()
    answers, tasks = {"Scale": ({"scale_replicas": "2"}, 2), "Stop a service": ({"preflight_confirmation": name}, 0)}[
        template
    ]
    first, second = twice(awx, template, {"scale_service": name, **answers})
    assert first.changed == {"kvm4": 1}
    assert first.artifacts["evenkeel_scale"] == {"service": name, "before": 1, "after": tasks, "changed": True}
    assert second.artifacts["evenkeel_scale"] == {"service": name, "before": tasks, "after": tasks, "changed": False}
    assert len(swarm.running(name)) == tasks


@pytest.fixture
def launcher_image(lab: Settings, swarm: Swarm, on_host: Callable[..., str]) -> Iterator[str]:
    """The launcher's image, on the lab's hosts for one test."""
    engine = connect(lab, start=False)
    assert engine
    remove(swarm, on_host)
    yield launcher.up(engine, lab)
    remove(swarm, on_host)
    (lab.directory / f"pushed-{launcher.NAME}").unlink()


@launches("Launcher")
def test_the_launcher_is_deployed_and_says_where_it_is(awx: Awx, launcher_image: str, template: str) -> None:
    password = "correct horse battery"  # noqa: S105 # a test's own
    users = [{"name": "root", "role": "admin", "password": password}]
    given: dict[str, Any] = {
        "job_launcher_image": launcher_image,
        "job_launcher_users": users,
        "job_launcher_port": PORT,
    }
    first, second = (well(awx.job(template, streamed=streamed, **given)) for streamed in (True, False))
    assert (first.changed, second.changed) == ({"kvm4": 1}, {})
    found = {"service": "job-launcher", "node": "kvm4", "image": launcher_image, "url": f"http://kvm4:{PORT}"}
    assert first.artifacts["evenkeel_launcher"] == {**found, "state": "created"}
    assert second.artifacts["evenkeel_launcher"] == {**found, "state": "unchanged"}
    assert password not in first.stdout + json.dumps(first.events)


@launches("Site")
def test_the_main_job_does_all_of_it(awx: Awx, swarm: Swarm, template: str) -> None:
    name = "dokploy-redis"
    swarm.update(name, forget_limits)
    swarm.wait_settled()
    first, second = twice(awx, template, QUICK)
    assert first.changed == {"kvm4": 1}
    assert first.artifacts["evenkeel_limits"]["changed"] == [name]
    assert set(second.artifacts) == {"evenkeel_nodes", "evenkeel_limits", "evenkeel_drift", "evenkeel_report"}


MOVES = [name for name, entry in JOB_TEMPLATES.items() if entry["template"]["playbook"] == "playbooks/migrate.yml"]


@pytest.fixture
def unit(lab: Settings, awx: Awx) -> Iterator[str]:
    """A unit with a PostgreSQL and applications that read and write it, in the controller's inventory."""
    engine = connect(lab, start=False)
    assert engine
    deployed = units.deployment(engine, lab, "temporal")
    variables = awx.inventory["swarm"]["vars"]
    kept = variables["migration_units"]
    units.down(lab, deployed.unit)
    units.up(lab, deployed)
    variables |= deployed.inventory()
    yield deployed.unit
    variables["migration_units"] = kept
    units.down(lab, deployed.unit)


class Way:
    """A unit on its way by its job templates. `done`: how often each ended well."""

    def __init__(self, awx: Awx, unit: str) -> None:
        self.awx, self.unit = awx, unit
        self.done = dict.fromkeys(MOVES, 0)

    def go(self, verb: str, *, well_ended: bool = True, **answers: Any) -> tuple[Job, dict[str, Any]]:
        """Launch a verb's job template; returns the job and what it says of the unit. Every second one is in place."""
        name = f"Migrate - {verb}"
        asked = JOB_TEMPLATES[name]["questions"]
        typed = {name: self.unit for name in ("migration_unit", "preflight_confirmation") if name in asked}
        job = self.awx.job(name, typed | answers, streamed=self.done[name] % 2 == 0)
        if well_ended:
            well(job)
            self.done[name] += 1
        else:
            assert (job.rc, job.status) == (2, "failed")
        handed_on = job.artifacts["evenkeel_migration"]
        assert (handed_on["verb"], list(handed_on["units"])) == (verb, [self.unit])
        stands: dict[str, Any] = handed_on["units"][self.unit]
        return job, stands

    def twice(self, verb: str, phase: str, **answers: Any) -> None:
        """Launch it two times: it leads to the phase, and the second time there is nothing to do."""
        _, stands = self.go(verb, **answers)
        job, again = self.go(verb, **answers)
        assert stands["phase"] == phase
        assert again == {**stands, "changed": False}
        assert job.changed == {}

    def refuses_another_plan(self) -> None:
        """A plan that is not the one that was approved is not carried out."""
        approved = {"verb": "plan", "units": {self.unit: {"plan": "sha256:0123456789abcdef"}}}
        answers = {"migration_unit": self.unit, "evenkeel_migration": approved}
        job = self.awx.job("Migrate - prepare", answers)
        assert (job.rc, job.status) == (2, "failed")
        [failed] = job.of("runner_on_failed")
        assert "migration_approved_plan is sha256:0123456789abcdef, but by now" in failed["res"]["msg"]


def test_a_unit_moves_there_and_back_by_its_job_templates(awx: Awx, unit: str) -> None:
    way = Way(awx, unit)
    way.go("plan", migration_unit="")
    planned, stands = way.go("plan")
    assert (planned.changed, stands["phase"], stands["next"]) == ({}, "new", "prepare")
    assert (stands["refusals"], stands["plan"][:7]) == ([], "sha256:")
    way.refuses_another_plan()
    _, stands = way.go("prepare", **planned.artifacts)
    assert (stands["phase"], stands["changed"], stands["next"]) == ("prepared", True, "precopy")
    again, stands = way.go("prepare")
    assert (again.changed, stands["changed"]) == ({}, False)

    way.twice("precopy", "copied")
    way.twice("status", "copied")
    way.twice("verify", "copied")
    way.twice("switch", "switched", migration_deadline="600")
    way.twice("reverse", "copied", migration_deadline="600")
    way.twice("cancel", "cancelled")

    for verb in ("prepare", "precopy", "switch"):
        way.go(verb)
    _, early = way.go("complete", well_ended=False)
    assert (early["error"], early["phase"], early["runs_on"]) == ("too_young", "switched", "kvm2")
    way.twice("complete", "completed", migration_min_age="0")
    assert min(way.done.values()) >= 2


@pytest.mark.parametrize(
    ("playbook", "answers", "field"),
    [
        ("migrate", {"migration_unit": "nobody", "migration_verb": "switch"}, "unit"),
        ("migrate", {"migration_deadline": "soon"}, "migration_deadline"),
        ("limits", {"service_limits_parallel": "many"}, "service_limits_parallel"),
        ("limits", {"service_limits_on_failure": "pray"}, "service_limits_on_failure"),
        ("report", {"report_window": "soon"}, "report_window"),
        ("recommend", {"recommendation_percentile": "most"}, "recommendation_percentile"),
        ("probe", {}, "service="),
        ("probe", {"service": "dokploy", "probe_factor": "twice"}, "demand_probe_factor"),
        ("bursts", {"bursts_window": "1000"}, "bursts_window"),
        ("scale", {"scale_service": "dokploy", "scale_replicas": "-1"}, "scale_replicas"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused_by_its_name(
    awx: Awx, swarm: Swarm, playbook: str, answers: dict[str, Any], field: str
) -> None:
    before = swarm.specs()
    job = awx.launch(f"playbooks/{playbook}.yml", answers)
    assert (job.rc, job.status) == (2, "failed")
    assert any(field in json.dumps(failed["res"]) for failed in job.of("runner_on_failed")), job.stdout[-2000:]
    assert set(job.artifacts) <= {"evenkeel_nodes"}
    assert swarm.specs() == before


def test_text_that_somebody_typed_is_no_template(awx: Awx) -> None:
    job = awx.launch("playbooks/probe.yml", {"service": "{{ lookup('ansible.builtin.pipe', 'id') }}"})
    assert job.rc == 2
    assert "uid=" not in job.stdout

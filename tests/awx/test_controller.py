# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/awx.yml against the stand-in for a controller (see controller.py for what that is and isn't)."""

from __future__ import annotations

import copy
import json
from itertools import pairwise

import pytest

from tests.awx.controller import Controller
from tests.awx.harness import NEEDED, Run, Setup, playbook

DESTRUCTIVE = {
    "Stop a service": "scale_service",
    "Migrate - switch": "migration_unit",
    "Migrate - reverse": "migration_unit",
    "Migrate - complete": "migration_unit",
    "Migrate - cancel": "migration_unit",
}


def test_a_first_run_creates_everything(made: tuple[Setup, Run], controller: Controller) -> None:
    _, run = made
    assert run.changed == 12, run.text[-3000:]
    assert controller.all("projects")["Even Keel"]["scm_url"] == NEEDED["awx_project_url"]
    assert len(controller.all("job_templates")) == 22
    for template in controller.all("job_templates"):
        assert controller.linked("job_templates", template, "credentials") == ["Even Keel SSH"]
    assert "[WARNING]" not in run.text


def test_no_secret_is_sent(controller: Controller) -> None:
    assert all(not each["inputs"] for each in controller.all("credentials").values())
    assert controller.all("notification_templates") == {}


def test_what_cannot_be_taken_back_asks_for_the_name_again(controller: Controller) -> None:
    asking = {}
    for name, template in controller.all("job_templates").items():
        fixed = json.loads(template["extra_vars"]) if template["extra_vars"] != "---" else {}
        asked = {question["variable"] for question in controller.survey("job_templates", name) if question["required"]}
        assert ("preflight_confirms" in fixed) == ("preflight_confirmation" in asked), name
        if "preflight_confirms" in fixed:
            asking[name] = fixed["preflight_confirms"]
            assert fixed["preflight_confirms"] in asked, name
        # What a launch may say is the survey's, so that nobody launches around the question.
        assert not template["ask_variables_on_launch"], name
    assert asking == DESTRUCTIVE


def test_each_verb_of_a_move_has_a_template_with_the_verb_fixed(controller: Controller) -> None:
    verbs = {}
    for name, template in controller.all("job_templates").items():
        if template["playbook"] == "playbooks/migrate.yml":
            verbs[name] = json.loads(template["extra_vars"])["migration_verb"]
            unit = controller.survey("job_templates", name)[0]
            # Only looking goes for all units.
            anyone = verbs[name] in ("plan", "status")
            assert (unit["variable"], unit["required"], unit["min"] > 0) == ("migration_unit", not anyone, not anyone)
    wanted = ("plan", "prepare", "precopy", "status", "verify", "switch", "reverse", "complete", "cancel")
    assert verbs == {f"Migrate - {verb}": verb for verb in wanted}


def test_the_workflow_goes_through_approval_and_fails_into_cancel(controller: Controller) -> None:
    links = {
        (node, end): kind.removesuffix("_nodes")
        for node in controller.all("workflow_job_template_nodes")
        for kind in ("success_nodes", "failure_nodes", "always_nodes")
        for end in controller.linked("workflow_job_template_nodes", node, kind)
    }
    way = ["plan", "approve", "prepare", "precopy", "switch", "verify"]
    undone = ["prepare", "precopy", "switch"]
    steps = dict.fromkeys(pairwise(way), "success")
    assert links == steps | dict.fromkeys(((node, "cancel") for node in undone), "failure")
    assert controller.started_by("approve") == "Approve the plan"
    assert {n: controller.started_by(n) for n in (*way, "cancel") if n != "approve"} == {
        n: f"Migrate - {n}" for n in (*way, "cancel") if n != "approve"
    }


def test_prepare_compares_the_plan_with_the_one_that_was_approved(controller: Controller) -> None:
    fixed = json.loads(controller.all("job_templates")["Migrate - prepare"]["extra_vars"])
    assert fixed["migration_approved_plan"].startswith("{{ evenkeel_migration.units[migration_unit].plan ")


def test_the_workflow_asks_all_that_its_jobs_need(controller: Controller) -> None:
    asked = {each["variable"] for each in controller.survey("workflow_job_templates", "Move a unit")}
    for node in controller.all("workflow_job_template_nodes"):
        if (template := controller.started_by(node)) in controller.all("job_templates"):
            survey = controller.survey("job_templates", template)
            assert {each["variable"] for each in survey if each["required"]} <= asked, node


def test_schedules_start_the_throttling_look_the_drift_and_the_watch(controller: Controller) -> None:
    templates = {each["id"]: name for name, each in controller.all("job_templates").items()}
    started = [templates[each["unified_job_template"]] for each in controller.all("schedules").values()]
    assert sorted(started) == ["Drift", "Throttling", "Watch"]
    drift, watch = (controller.all("job_templates")[name] for name in ("Drift", "Watch"))
    assert (drift["playbook"], drift["job_type"]) == ("playbooks/limits.yml", "check")
    assert (watch["playbook"], watch["job_type"], watch["job_tags"]) == ("playbooks/limits.yml", "run", "verify")


def test_a_second_run_changes_nothing_and_a_third_what_a_person_edited(
    made: tuple[Setup, Run], controller: Controller
) -> None:
    setup, _ = made
    before = copy.deepcopy((controller.store.objects, controller.store.associated, controller.store.surveys))
    controller.requests.clear()
    second = setup.run()
    assert (second.status, second.changed) == (0, 0), second.text[-3000:]
    assert (controller.store.objects, controller.store.associated, controller.store.surveys) == before

    report = controller.all("job_templates")["Report"]["id"]
    edited = controller.store.surveys["job_templates", report]["spec"][0]
    edited["max"] = 60
    controller.requests.clear()
    third = setup.run()
    assert (third.status, third.changed) == (0, 1), third.text[-3000:]
    assert third.text.count("changed: [localhost]") == 1
    assert "changed: [localhost] => (item=Report)" in third.text
    assert ("POST", f"/api/v2/job_templates/{report}/survey_spec/") in controller.writes()
    assert (controller.store.objects, controller.store.associated, controller.store.surveys) == before


def test_a_check_run_says_what_would_be_made_and_touches_nothing(fresh: Setup) -> None:
    empty = copy.deepcopy(fresh.controller.store.objects)
    run = fresh.run("--check", variables={"awx_webhook_url": "https://hook.example/x"})
    assert run.status == 0, run.text[-3000:]
    assert run.changed == 14
    assert "ok: [localhost] =>" not in run.text, "something would not be made"
    assert fresh.controller.writes() == []
    assert fresh.controller.store.objects == empty


def test_notifications_come_with_a_secret_from_the_environment_and_stay(fresh: Setup) -> None:
    addresses = {"awx_webhook_url": "https://hook.example/x", "awx_webhook_username": "awx"}
    mail = {
        "awx_mail_host": "mail.example",
        "awx_mail_sender": "a@mail.example",
        "awx_mail_recipients": ["b@mail.example"],
    }
    secrets = {"EVENKEEL_WEBHOOK_PASSWORD": "first-secret", "EVENKEEL_MAIL_PASSWORD": "mail-secret"}
    only = ("--tags", "awx_notifications", "-vvv")

    def hook() -> dict[str, object]:
        stored = next(iter(fresh.controller.store.objects["notification_templates"].values()))
        return dict(stored["notification_configuration"])

    first = fresh.run(*only, variables=addresses | mail, environment=secrets)
    assert (first.status, first.changed) == (0, 3), first.text[-3000:]
    assert hook()["password"] == "first-secret"  # noqa: S105 - what this test gave
    names = ["Even Keel webhook", "Even Keel mail"]
    for event in ("error", "approvals"):
        assert sorted(
            fresh.controller.linked("organizations", "Even Keel", f"notification_templates_{event}")
        ) == sorted(names)

    again = fresh.run(*only, variables=addresses | mail, environment=secrets)
    assert (again.status, again.changed) == (0, 0), again.text[-3000:]

    moved = fresh.run(
        *only, variables=addresses | mail | {"awx_webhook_url": "https://hook.example/y"}, environment=secrets
    )
    assert (moved.status, moved.changed) == (0, 1), moved.text[-3000:]
    assert hook()["url"] == "https://hook.example/y"

    rotated = secrets | {"EVENKEEL_WEBHOOK_PASSWORD": "second-secret"}
    given = addresses | mail | {"awx_webhook_url": "https://hook.example/y", "awx_update_secrets": True}
    assert fresh.run(*only, variables=given, environment=rotated).status == 0
    assert hook()["password"] == "second-secret"  # noqa: S105 - what this test gave
    shown = first.text + again.text + moved.text
    assert "first-secret" not in shown
    assert "mail-secret" not in shown


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"CONTROLLER_OAUTH_TOKEN": "wrong"},
            "Invalid authentication credentials for /api/v2/organizations/ (HTTP 401)",
        ),
        ({"CONTROLLER_HOST": "http://127.0.0.1:1"}, "connect to http://127.0.0.1:1/api/v2/organizations/"),
        ({"CONTROLLER_HOST": ""}, "Export CONTROLLER_HOST"),
        ({"CONTROLLER_OAUTH_TOKEN": ""}, "there is no token"),
    ],
)
def test_without_access_one_sentence_says_so(fresh: Setup, environment: dict[str, str], said: str) -> None:
    run = fresh.run(environment=environment)
    assert run.status != 0
    assert said in " ".join(run.text.split())
    assert fresh.controller.writes() == []
    assert run.text.count("TASK [") <= 3, "it went on"


def test_what_differs_between_controllers_is_asked_for(fresh: Setup) -> None:
    run = playbook("playbooks/awx.yml", CONTROLLER_HOST=fresh.controller.url, CONTROLLER_OAUTH_TOKEN="x")  # noqa: S106
    assert run.status != 0
    assert "Give awx_project_url and awx_execution_environment_image" in run.text
    assert fresh.controller.requests == []

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data in awx/ against the modules it goes to, and each survey against the argument_specs of what it feeds."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from tests.awx.harness import ROOT, load
from tests.awx.surveys import answer_errors, spec_error

TEMPLATES = [
    each
    for area in ("look", "change", "move")
    for each in load("awx", "job_templates", f"{area}.yml")[f"awx_job_templates_{area}"]
]
QUESTIONS: list[dict[str, Any]] = [
    question
    for path in sorted((ROOT / "awx" / "questions").glob("*.yml"))
    for question in load(path)[f"awx_questions_{path.stem}"]
]
BY_VARIABLE = {question["variable"]: question for question in QUESTIONS}
#: What a template asks for that is no variable of a role or playbook with a spec: playbooks/preflight.yml checks it.
NO_SPEC = {"preflight_confirmation"}
#: Where a survey is narrower than what it feeds: 0 replicas are the template that asks for the name twice.
NARROWER = {"scale_replicas"}
#: Options that no survey asks for, and why.
NOT_ASKED = {
    "report": {
        *(
            "report_directory",
            "report_name",
            "report_history",
            "report_docker_host",
        ),  # the same for all runs of an estate
        *("report_table", "report_managers", "swarm_node_vcpus"),  # the inventory's
        "report_interval",  # bounded by above 0 only, which a whole number can't say
    },
    "service_limits": {
        *("service_limits_table", "service_limits_managers", "service_limits_nodes"),  # the inventory's
        *("service_limits_docker_host", "service_limits_progress_file"),  # the same for all runs of an estate
    },
    "demand_probe": {"demand_probe_docker_host"},
    # The inventory's: a survey's defaults would come before what it says.
    "job_launcher": set(
        load("roles", "job_launcher", "meta", "argument_specs.yml")["argument_specs"]["main"]["options"]
    )
    - {"job_launcher_timeout"},
    "recommendation": {
        *("recommendation_directory", "recommendation_history"),  # follow report_directory
        *("recommendation_minimum_cpus", "recommendation_minimum_memory"),  # the same for all runs of an estate
        *("recommendation_weights", "recommendation_minimums", "recommendation_cores"),  # tables: the inventory's
    },
    "migration": {
        *("migration_verb", "migration_confirm", "migration_approved_plan"),  # the template fixes them
        *("migration_units", "migration_managers", "migration_addresses"),  # the inventory's
        # the same for all runs of an estate
        *("migration_backup_directory", "migration_docker_host", "migration_progress_file"),
    },
}


# --- the data and the modules ---


class SpecFoundError(Exception):
    """Carries a module's argument_spec out of it."""


def argument_spec(module: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the argument_spec that the installed module runs with."""
    code = importlib.import_module(f"ansible_collections.awx.awx.plugins.modules.{module}")

    def found(argument_spec: dict[str, Any], **_: Any) -> None:
        raise SpecFoundError(argument_spec)

    monkeypatch.setattr(code, "ControllerAPIModule", found)
    with pytest.raises(SpecFoundError) as caught:
        code.main()
    spec: dict[str, Any] = caught.value.args[0]
    return spec


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield module and arguments of everything in awx/, templates as they stand."""
    common = load("awx", "job_templates", "common.yml")["awx_job_template_defaults"]
    workflow = load("awx", "workflow.yml")
    node = {"organization": "x", "workflow_job_template": "x"}
    yield "organization", load("awx", "organization.yml")["awx_organization_data"]
    yield "project", load("awx", "project.yml")["awx_project"]
    yield "execution_environment", load("awx", "project.yml")["awx_execution_environment"]
    yield "workflow_job_template", workflow["awx_workflow"]["template"]
    yield from (("label", each) for each in load("awx", "organization.yml")["awx_labels"])
    yield from (("credential_type", each) for each in load("awx", "credentials.yml")["awx_credential_types"])
    yield from (("credential", each) for each in load("awx", "credentials.yml")["awx_credentials"])
    yield from (("inventory", each) for each in load("awx", "inventory.yml")["awx_inventories"])
    yield from (("inventory_source", each) for each in load("awx", "inventory.yml")["awx_inventory_sources"])
    for each in load("awx", "notifications.yml")["awx_notification_templates_all"]:
        yield "notification_template", {"name": each["name"], "organization": "x"} | each["template"]
    yield from (("job_template", common | each["template"]) for each in TEMPLATES)
    yield from (("schedule", each) for each in load("awx", "schedules.yml")["awx_schedules"])
    for each in workflow["awx_workflow_nodes"] + workflow["awx_workflow_links"]:
        yield "workflow_job_template_node", node | each


OBJECTS = list(objects())
STAND_FOR: dict[str, Any] = {"bool": True, "int": 1, "list": [], "dict": {}}


def errors(module: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what the installed module would refuse. A template stands for a value of the right type."""
    spec = argument_spec(module, monkeypatch)
    filled = {
        name: STAND_FOR.get(spec.get(name, {}).get("type", "str"), "x")
        if isinstance(value, str) and "{{" in value
        else value
        for name, value in arguments.items()
    }
    found: list[str] = ArgumentSpecValidator(spec).validate(filled).error_messages
    return found


@pytest.mark.parametrize(("module", "arguments"), OBJECTS, ids=lambda each: each if isinstance(each, str) else "")
def test_the_installed_module_takes_the_data(
    module: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert errors(module, arguments, monkeypatch) == []


@pytest.mark.parametrize(("module", "arguments"), dict(OBJECTS).items())
def test_a_typo_in_a_key_is_found(module: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    last = list(arguments)[-1]
    typo = {name: value for name, value in arguments.items() if name != last} | {f"{last}x": arguments[last]}
    assert any(each.startswith(f"{last}x. Supported parameters") for each in errors(module, typo, monkeypatch))


@pytest.mark.parametrize(
    ("module", "planted", "said"),
    [
        ("job_template", {"job_type": "chek"}, "job_type"),
        ("job_template", {"verbosity": "much"}, "verbosity"),
        ("schedule", {"enabled": "perhaps"}, "enabled"),
        ("inventory_source", {"source": "svn"}, "source"),
    ],
)
def test_a_wrong_value_is_found(
    module: str, planted: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said in " ".join(errors(module, dict(OBJECTS)[module] | planted, monkeypatch))


def test_the_playbook_reads_every_file() -> None:
    read = load("playbooks", "awx.yml")[0]["vars_files"]
    there = [f"../{path.relative_to(ROOT)}" for path in (ROOT / "awx").rglob("*.yml")]
    assert sorted(read) == sorted(there)


def test_no_file_names_a_host_or_holds_a_secret() -> None:
    texts = {path: path.read_text() for path in (ROOT / "awx").rglob("*.yml")}
    assert [path for path, text in texts.items() if "://" in text] == []
    settings = load("awx", "settings.yml")
    assert [settings[name] for name in ("awx_project_url", "awx_execution_environment_image", "awx_webhook_url")] == [
        ""
    ] * 3


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda each: each["template"]["name"])
def test_a_template_has_only_what_the_playbook_reads(template: dict[str, Any]) -> None:
    assert {"questions", "template"} <= template.keys() <= {"questions", "template", "stricter"}
    assert set(template["questions"]) <= BY_VARIABLE.keys()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda each: each["template"]["name"])
def test_a_stricter_question_only_takes_away(template: dict[str, Any]) -> None:
    stricter = template.get("stricter", {})
    assert stricter.keys() <= set(template["questions"])
    for variable, demands in stricter.items():
        question = BY_VARIABLE[variable]
        assert demands.keys() <= {"required", "min"}
        assert demands["required"] is True
        assert demands["min"] > question["min"]


@pytest.mark.parametrize("name", sorted({each["template"]["playbook"] for each in TEMPLATES}))
def test_a_templates_playbook_is_there(name: str) -> None:
    assert (ROOT / name).is_file()


def test_every_playbook_a_person_runs_has_a_template() -> None:
    playbooks = {f"playbooks/{path.name}" for path in (ROOT / "playbooks").glob("*.yml")} - {"playbooks/awx.yml"}
    assert playbooks == {imported(each["template"]["playbook"]) for each in TEMPLATES}


def imported(playbook: str) -> str:
    """Return the playbook that does the work: the project's site.yml only leads to the collection's."""
    return "playbooks/site.yml" if playbook == "site.yml" else playbook


# --- the surveys and what they feed ---


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda each: each["variable"])
def test_a_controller_takes_the_question(question: dict[str, Any]) -> None:
    keys = {"variable", "question_name", "question_description", "type", "required", "min", "max", "default", "choices"}
    assert question.keys() <= keys
    bounded = {"choices"} if question["type"] == "multiplechoice" else {"min", "max"}
    assert bounded <= question.keys(), "every question is bounded"
    spec = {"name": "", "description": "", "spec": [question]}
    assert spec_error(spec) is None
    if "default" in question:
        assert answer_errors(spec, {question["variable"]: question["default"]}) == []


def preflight_of(playbook: str) -> dict[str, Any]:
    """Return the variables with which a playbook imports the preflight."""
    first = load(*imported(playbook).split("/"))[0]
    variables: dict[str, Any] = first.get("vars", {}) if "ansible.builtin.import_playbook" in first else {}
    return variables


def options_of(playbook: str) -> dict[str, dict[str, Any]]:
    """Return the specs of all that may be given to a playbook, by variable."""
    preflight = preflight_of(playbook)
    options: dict[str, dict[str, Any]] = dict(preflight.get("preflight_spec", {}))
    for role in preflight.get("preflight_roles", []):
        options |= load("roles", role, "meta", "argument_specs.yml")["argument_specs"]["main"]["options"]
    return options


def bounds_of(playbook: str) -> dict[str, dict[str, float]]:
    """Return the bounds of what may be given to a playbook, by variable."""
    preflight = preflight_of(playbook)
    bounds: dict[str, dict[str, float]] = dict(preflight.get("preflight_bounds", {}))
    for role in preflight.get("preflight_roles", []):
        bounds |= load("roles", role, "vars", "main.yml")[f"_{role}_bounds"]
    return bounds


ASKED = sorted(
    {(each["template"]["playbook"], name) for each in TEMPLATES for name in each["questions"] if name not in NO_SPEC}
)
TYPES = {
    "integer": {"int"},
    "float": {"float"},
    "text": {"str", "path", "list"},  # a list comes as one text with commas
    "multiplechoice": {"str", "bool"},
}


@pytest.mark.parametrize(("playbook", "variable"), ASKED)
def test_a_question_says_what_the_spec_says(playbook: str, variable: str) -> None:
    question, option = BY_VARIABLE[variable], options_of(playbook)[variable]
    assert option["type"] in TYPES[question["type"]]
    assert question["required"] == option.get("required", False)
    assert ("default" in question) == ("default" in option)
    if "default" in option:
        assert question["default"] == as_answer(option["default"])
    if question["type"] == "multiplechoice":
        assert question["choices"] == option.get("choices", ["true", "false"])


def as_answer(value: Any) -> Any:
    """Return a default as a survey says it: it has no booleans and no lists."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else value


@pytest.mark.parametrize(("playbook", "variable"), ASKED)
def test_a_questions_bounds_are_the_preflights(playbook: str, variable: str) -> None:
    question, bound = BY_VARIABLE[variable], bounds_of(playbook).get(variable)
    if question["type"] in ("integer", "float") or question["required"]:
        assert bound, "nothing bounds this where it is used"
    if bound and variable not in NARROWER:
        # A survey takes whole numbers only.
        least = bound.get("shortest", bound.get("min", bound.get("above")))
        most = bound.get("longest", bound.get("max", bound.get("below")))
        assert least is not None and most is not None
        assert (question["min"], question["max"]) == (math.floor(least), math.ceil(most))


@pytest.mark.parametrize("role", NOT_ASKED)
def test_a_roles_options_are_asked_for_or_left_out_on_purpose(role: str) -> None:
    options = load("roles", role, "meta", "argument_specs.yml")["argument_specs"]["main"]["options"]
    asked = {variable for _, variable in ASKED if variable.startswith(f"{role}_")}
    assert asked | NOT_ASKED[role] == set(options)
    assert asked & NOT_ASKED[role] == set()


def test_every_question_is_asked_somewhere() -> None:
    asked = {name for each in (*TEMPLATES, load("awx", "workflow.yml")["awx_workflow"]) for name in each["questions"]}
    assert asked == BY_VARIABLE.keys()


def test_what_a_template_fixes_is_known_to_its_playbook() -> None:
    for each in TEMPLATES:
        template = each["template"]
        known = {"preflight_confirms"} | options_of(template["playbook"]).keys()
        if template["playbook"] in ("playbooks/recommend.yml", "playbooks/probe.yml"):
            known |= {"report_directory"}  # the recommendation reads and the probe writes the report's history
        assert template.get("extra_vars", {}).keys() <= known, template["name"]

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers as a survey or the API gives them, to real runs against hosts that don't answer.

A good answer gets as far as the first connection, which fails; a bad one is refused before it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.awx.harness import Run, playbook
from tests.awx.test_data import ASKED, BY_VARIABLE, NARROWER, bounds_of, options_of, preflight_of

PLAYBOOKS = sorted({name for name, _ in ASKED})
CONFIRMED = {"scale_replicas": 0, "preflight_confirms": "scale_service"}


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hosts that refuse the connection."""
    path = tmp_path_factory.mktemp("inventory") / "hosts.yml"
    groups: dict[str, Any] = {"swarm_manager": {"hosts": {"kvm4": {}}}, "swarm_worker": {"hosts": {"kvm2": {}}}}
    variables: dict[str, Any] = {"ansible_host": "127.0.0.1", "ansible_port": 1}
    variables["service_limits_table"] = [{"service": "a", "limits": {"cpus": 1}}]
    variables["migration_units"] = {"shop": {"home": "kvm4", "target": "kvm2", "members": [{"service": "a"}]}}
    path.write_text(yaml.safe_dump({"swarm": {"children": groups, "vars": variables}}))
    return path


def run(inventory: Path, name: str, answers: dict[str, Any]) -> Run:
    return playbook(name, "-i", str(inventory), variables=answers)


def asked(name: str) -> list[str]:
    return [variable for each, variable in ASKED if each == name]


def good(name: str) -> dict[str, str]:
    """Answers within their bounds, all of them as text."""
    inside = {variable: BY_VARIABLE[variable].get("default", "1") for variable in asked(name)}
    return {variable: str(value) for variable, value in inside.items()}


def checked_first(name: str, variables: Collection[str]) -> list[str]:
    """Return those that are named together: site.yml has two roles, which are checked in turn."""
    roles = preflight_of(name).get("preflight_roles", [""])
    return [each for each in variables if each.startswith(roles[0])]


def accepted(ran: Run) -> bool:
    return "UNREACHABLE!" in ran.text and "FAILED!" not in ran.text


def refused_untouched(ran: Run) -> bool:
    return ran.status != 0 and "FAILED!" in ran.text and "UNREACHABLE!" not in ran.text


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_numbers_and_booleans_may_come_as_text(inventory: Path, name: str) -> None:
    ran = run(inventory, name, good(name))
    assert accepted(ran), ran.text[-3000:]


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_a_wrong_type_is_refused_with_the_variables_name(inventory: Path, name: str) -> None:
    free = {"str", "path"}
    wrong = [
        each
        for each in asked(name)
        if options_of(name)[each]["type"] not in free or "choices" in options_of(name)[each]
    ]
    ran = run(inventory, name, good(name) | {variable: {"not": "this"} for variable in wrong})
    assert refused_untouched(ran), ran.text[-3000:]
    assert [each for each in checked_first(name, wrong) if each not in errors_of(ran)] == []


def errors_of(ran: Run) -> str:
    """Return the messages of a refusal, without the specs that Ansible shows beside them."""
    return ran.text.partition("\n    msg:")[2]


@pytest.mark.parametrize("side", ["below", "above"])
@pytest.mark.parametrize("name", PLAYBOOKS)
def test_a_value_out_of_bounds_is_refused_with_the_variables_name(inventory: Path, name: str, side: str) -> None:
    outside = {}
    for variable in asked(name):
        question = BY_VARIABLE[variable]
        if variable not in bounds_of(name):
            continue
        if question["type"] == "text" and side == "below" and question["min"] == 0:
            continue
        if question["type"] == "text":
            outside[variable] = "" if side == "below" else "x" * (question["max"] + 1)
        else:
            outside[variable] = str(
                question["max"] + 1 if side == "above" else question["min"] - 1 - (variable in NARROWER)
            )
    ran = run(inventory, name, good(name) | outside)
    assert refused_untouched(ran), ran.text[-3000:]
    told = " ".join(errors_of(ran).split())
    assert [each for each in checked_first(name, outside) if f"{each} must" not in told] == []


@pytest.mark.parametrize("missing", [variable for _, variable in ASKED if BY_VARIABLE[variable]["required"]])
def test_a_missing_answer_is_refused_with_the_variables_name(inventory: Path, missing: str) -> None:
    name = next(each for each, variable in ASKED if variable == missing)
    ran = run(inventory, name, {variable: value for variable, value in good(name).items() if variable != missing})
    assert refused_untouched(ran), ran.text[-3000:]
    assert missing in errors_of(ran)


@pytest.mark.parametrize(
    ("answers", "fine"),
    [
        ({"scale_service": "shop", "preflight_confirmation": "shop"}, True),
        ({"scale_service": "shop", "preflight_confirmation": "shopp"}, False),
        ({"scale_service": "shop", "preflight_confirmation": ""}, False),
        ({"scale_service": "shop"}, False),
    ],
)
def test_stopping_a_service_needs_its_name_twice(inventory: Path, answers: dict[str, str], fine: bool) -> None:
    ran = run(inventory, "playbooks/scale.yml", CONFIRMED | answers)
    if fine:
        assert accepted(ran), ran.text[-3000:]
    else:
        assert refused_untouched(ran), ran.text[-3000:]
        assert "preflight_confirmation must repeat scale_service (shop)" in " ".join(ran.text.split())


MOVE = {"verb": "switch", "unit": "shop"}


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"verb": "status"},
        {"verb": "status", "migration_unit": None},  # as an empty answer of a survey comes
        {"unit": "shop"},
        MOVE | {"migration_deadline": "60", "migration_max_lag": "0", "migration_verify": "full"},
        {"verb": "complete", "unit": "shop", "migration_confirm": "true", "migration_min_age": "0"},
        {"migration_verb": "switch", "migration_unit": "shop"},
    ],
)
def test_a_move_is_begun_with_good_answers(inventory: Path, answers: dict[str, str]) -> None:
    ran = run(inventory, "playbooks/migrate.yml", answers)
    assert accepted(ran), ran.text[-3000:]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"verb": "dance", "unit": "shop"}, "value of migration_verb must be one of"),
        ({"verb": "switch"}, "verb=switch needs a unit: give one of shop (-e unit=..., which is migration_unit)"),
        ({"verb": "verify", "unit": ""}, "verb=verify needs a unit"),
        ({"verb": "verify", "migration_unit": None}, "verb=verify needs a unit"),
        (MOVE | {"unit": "shopp"}, "There is no unit shopp: give one of shop"),
        (MOVE | {"migration_deadline": "9"}, "migration_deadline must be a number from 10, up to 86400; it is 9."),
        (MOVE | {"migration_deadline": "nan"}, "migration_deadline must be a number"),
        (
            MOVE | {"migration_max_lag": "much"},
            "argument 'migration_max_lag' is of type str and we were unable to convert to int",
        ),
        (MOVE | {"migration_verify": "half"}, "value of migration_verify must be one of"),
        (
            {"verb": "complete", "unit": "shop"},
            "verb=complete removes the old copy of shop, and so the way back: give -e migration_confirm=true",
        ),
        ({"verb": "complete", "unit": "shop", "migration_confirm": "perhaps"}, "migration_confirm"),
        ({"migration_units": "shop"}, "migration_units"),
    ],
)
def test_a_move_is_refused_with_the_fields_name(inventory: Path, answers: dict[str, str], said: str) -> None:
    ran = run(inventory, "playbooks/migrate.yml", answers)
    assert refused_untouched(ran), ran.text[-3000:]
    assert said in " ".join(errors_of(ran).split())


@pytest.mark.parametrize(
    ("role", "variables"),
    [
        ("report", {"report_window": 3601}),
        ("service_limits", {"service_limits_parallel": 0}),
        ("demand_probe", {"demand_probe_service": "a", "demand_probe_factor": "11"}),
        ("recommendation", {"recommendation_percentile": 0.3}),
        ("migration", {"migration_units": {}, "migration_deadline": 1}),
    ],
)
def test_a_role_on_its_own_refuses_too(role: str, variables: dict[str, Any], tmp_path: Path) -> None:
    play = {"hosts": "localhost", "gather_facts": False, "roles": [{"role": f"evenkeel.swarm.{role}"}]}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    ran = playbook(str(tmp_path / "play.yml"), variables=variables)
    assert ran.status != 0
    assert f"{list(variables)[-1]} must be a number" in " ".join(ran.text.split())

"""The inventory's units: what is read, and that every mistake is named by its field."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Drain, Health, Member, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.units import parse_units

ROOT = Path(__file__).resolve().parents[2]
GOOD: dict[str, Any] = {
    "saleor": {
        "home": "kvm4",
        "target": "kvm2",
        "members": [
            {"service": "saleor-postgres-*", "kind": "postgres", "mover": "dump", "superuser": "saleor"},
            {"service": "saleor-redis", "limits": {"cpus": 0.25, "memory": "256M"}},
            {
                "service": "saleor-api",
                "health": {"port": 8000, "path": "/graphql/", "method": "POST", "body": "{}", "expect": "shop"},
                "drain": {"command": ["kill", "-TERM", "1"], "seconds": 5},
            },
        ],
    }
}


def changed(path: list[Any], value: Any) -> dict[str, Any]:
    """GOOD with one value of it replaced, or added."""
    units = copy.deepcopy(GOOD)
    place: Any = units
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return units


def test_a_unit_as_the_engine_has_it() -> None:
    assert parse_units(GOOD) == {
        "saleor": Unit(
            "saleor",
            "kvm4",
            "kvm2",
            (
                Member("saleor-postgres-*", kind="postgres", mover="dump", superuser="saleor"),
                Member("saleor-redis", limits={"cpus": 0.25, "memory": "256M"}),
                Member(
                    "saleor-api",
                    health=Health(port=8000, path="/graphql/", method="POST", body="{}", expect="shop"),
                    drain=Drain(("kill", "-TERM", "1"), (), 5.0),
                ),
            ),
        )
    }


def test_absent_suboptions_of_ansible_are_absent() -> None:
    assert parse_units(changed(["saleor", "members", 1, "health"], None)) == parse_units(GOOD)


def test_numbers_that_a_template_made_text_of_are_numbers() -> None:
    unit = parse_units(changed(["saleor", "members", 2, "health", "port"], "8000"))["saleor"]
    assert unit.members[2].health is not None
    assert unit.members[2].health.port == 8000


API = ["saleor", "members", 2]


@pytest.mark.parametrize(
    ("path", "value", "field", "right"),
    [
        (["Bad Name"], {}, "Bad Name", "lower-case"),
        (["ends-"], {}, "ends-", "no dash last"),
        (["saleor"], [], "saleor", "a mapping"),
        (["saleor", "homes"], "kvm4", "saleor.homes", "home, target, members"),
        (["saleor", "home"], None, "saleor.home", "home"),
        (["saleor", "home"], 4, "saleor.home", "hostname"),
        (["saleor", "target"], "kvm4", "saleor.target", "another node"),
        (["saleor", "members"], [], "saleor.members", "at least one"),
        (["saleor", "members"], "api", "saleor.members", "a list"),
        (["saleor", "members", 1], "api", "saleor.members[1]", "a mapping"),
        ([*API, "service"], "saleor-redis", "saleor.members[2].service", "once"),
        ([*API, "service"], "", "saleor.members[2].service", "name"),
        ([*API, "kind"], "mysql", "saleor.members[2].kind", "postgres, redis, app"),
        ([*API, "kind"], "files", "saleor.members[2].kind", "postgres, redis, app"),
        (["saleor", "members", 0, "mover"], "magic", "saleor.members[0].mover", "stream, dump"),
        (["saleor", "members", 0, "kind"], "redis", "saleor.members[0].mover", "postgres only"),
        (["saleor", "members", 0, "superuser"], "a b", "saleor.members[0].superuser", "role"),
        (["saleor", "members", 0, "password_env"], "A-B", "saleor.members[0].password_env", "environment"),
        ([*API, "health"], {"seconds": 3}, "saleor.members[2].health", "either"),
        ([*API, "health", "command"], ["true"], "saleor.members[2].health", "either"),
        ([*API, "health"], {"command": ["a"], "status": 200}, "saleor.members[2].health.status", "either"),
        ([*API, "health"], {"command": "true"}, "saleor.members[2].health.command", "words"),
        ([*API, "health"], {"command": ["a", 1]}, "saleor.members[2].health.command[1]", "quotes"),
        ([*API, "health", "port"], 65536, "saleor.members[2].health.port", "1 to 65535"),
        ([*API, "health", "port"], True, "saleor.members[2].health.port", "whole number"),
        ([*API, "health", "port"], "http", "saleor.members[2].health.port", "whole number"),
        ([*API, "health", "path"], "graphql", "saleor.members[2].health.path", "begins with /"),
        ([*API, "health", "method"], "PATCH", "saleor.members[2].health.method", "GET, HEAD, POST"),
        ([*API, "health", "status"], 99, "saleor.members[2].health.status", "100 to 599"),
        ([*API, "health", "body"], {"a": 1}, "saleor.members[2].health.body", "text"),
        ([*API, "health", "seconds"], 0, "saleor.members[2].health.seconds", "more than 0"),
        ([*API, "health", "seconds"], "nan", "saleor.members[2].health.seconds", "more than 0"),
        ([*API, "drain"], {"seconds": 3}, "saleor.members[2].drain", "`command`, `done`"),
        ([*API, "drain", "seconds"], 3601, "saleor.members[2].drain.seconds", "at most 3600"),
        ([*API, "limits"], {"cpu": 1}, "saleor.members[2].limits.cpu", "cpus, memory, pids"),
        ([*API, "limits"], {"cpus": 0}, "saleor.members[2].limits", "cpus"),
    ],
)
def test_every_mistake_names_its_field_and_what_would_be_right(
    path: list[Any], value: Any, field: str, right: str
) -> None:
    with pytest.raises(MoveError) as caught:
        parse_units(changed(path, value))
    assert caught.value.code == "bad_input"
    assert caught.value.field == f"migration_units.{field}"
    assert right in caught.value.message
    assert caught.value.message.startswith(f"migration_units.{field}")


@pytest.mark.parametrize("raw", [None, {}, [], "saleor"])
def test_no_units_at_all(raw: Any) -> None:
    with pytest.raises(MoveError, match="migration_units"):
        parse_units(raw)


def test_the_estates_units_are_read_and_shared_by_lab_and_production() -> None:
    files = [ROOT / "inventory" / name / "group_vars" / "swarm" / "migration.yml" for name in ("lab", "production")]
    assert {path.resolve() for path in files} == {ROOT / "inventory" / "estate" / "migration.yml"}
    units = parse_units(yaml.safe_load(files[0].read_text())["migration_units"])
    assert {unit.home for unit in units.values()} == {"kvm4"}
    services = [member.service for unit in units.values() for member in unit.members]
    assert len(services) == len(set(services))

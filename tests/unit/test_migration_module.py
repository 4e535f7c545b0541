"""The module's options."""

from __future__ import annotations

import pytest
import yaml
from ansible_collections.evenkeel.swarm.plugins.modules.migration import BOUNDS, option_error

from tests.collection import ROOT

GOOD = {"deadline": 120.0, "max_lag": 0, "min_age": 0.0}


def test_good_options_have_no_error() -> None:
    assert option_error(GOOD) == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("deadline", value) for value in (9.9, 86_401.0, float("nan"), float("inf"))),
        *(("max_lag", -1), ("min_age", -1.0)),
    ],
)
def test_an_option_that_makes_no_sense_is_named(name: str, value: float) -> None:
    assert option_error({**GOOD, name: value}).startswith(f"{name} must be a number")


def test_the_role_has_the_same_bounds() -> None:
    role = yaml.safe_load((ROOT / "roles" / "migration" / "vars" / "main.yml").read_text())["_migration_bounds"]
    assert role.pop("migration_unit")["longest"] == 30  # as parse_units has it
    assert role == {f"migration_{name}": bound for name, bound in BOUNDS.items()}

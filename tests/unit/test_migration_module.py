"""The module's options."""

from __future__ import annotations

import pytest
from ansible_collections.evenkeel.swarm.plugins.modules.migration import option_error

GOOD = {"deadline": 120.0, "max_lag": 0, "min_age": 0.0}


def test_good_options_have_no_error() -> None:
    assert option_error(GOOD) == ""


@pytest.mark.parametrize(
    ("name", "value"), [("deadline", 9.9), ("deadline", float("nan")), ("max_lag", -1), ("min_age", -1.0)]
)
def test_an_option_that_makes_no_sense_is_named(name: str, value: float) -> None:
    assert option_error({**GOOD, name: value}).startswith(f"{name} is")

"""The walk in check mode: it looks as far as it can be known, and does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage, Step, Together, Walk


class Nowhere:
    """A record that keeps nothing: the outcomes are read off the walk."""

    def intent(self, step: str) -> None:
        """Keep nothing."""

    def outcome(self, step: str, event: str, details: Mapping[str, Any]) -> None:
        """Keep nothing."""


class World:
    """Steps whose effect is a name in a set."""

    def __init__(self, *so: str) -> None:
        self.so = set(so)
        self.probed: list[str] = []

    def step(self, name: str, *, changes: bool = True) -> Step:
        def probe() -> bool:
            self.probed.append(name)
            return name in self.so

        return Step(name, name, "kvm4", probe, lambda _tell: self.so.add(name), changes=changes)


def outcomes(stages: list[Stage], *, check: bool) -> dict[str, str]:
    walk = Walk(Nowhere(), lambda _name, _details: None, check)
    for stage in stages:
        walk.forward([stage])
    return {each["step"]: each["outcome"] for each in walk.outcomes}


def test_check_mode_looks_up_to_the_first_step_that_would_run() -> None:
    world = World("a", "c")
    stages: list[Stage] = [world.step("a"), world.step("b"), world.step("c"), world.step("d", changes=False)]
    assert outcomes(stages, check=True) == {"a": "done", "b": "would", "c": "would", "d": "would"}
    assert world.probed == ["a", "b"]
    assert world.so == {"a", "c"}


def test_a_lane_that_would_run_hides_nothing_of_its_neighbour() -> None:
    world = World("b", "c")
    lanes = Together([[world.step("a")], [world.step("b")]])
    assert outcomes([lanes, world.step("c")], check=True) == {"a": "would", "b": "done", "c": "would"}


def test_lanes_in_lanes_and_a_second_run() -> None:
    world = World()
    stages: list[Stage] = [Together([[world.step("a"), Together([[world.step("b")], [world.step("c")]])]])]
    assert set(outcomes(stages, check=False).values()) == {"did"}
    assert set(outcomes(stages, check=False).values()) == {"done"}


def test_done_without_effect_is_a_failure() -> None:
    step = Step("a", "a", "kvm4", lambda: False, lambda _tell: None)
    with pytest.raises(MoveError, match="yet not so"):
        outcomes([step], check=False)

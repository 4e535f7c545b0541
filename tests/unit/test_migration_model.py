# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine, its journal and its phases on a model of two hosts: broken at every point, then gone on with.

What the fault matrix tries on real hosts in hours (tests/faults) is tried here at every touch of the world: a kill -9,
a redeploy, or a call that fails, once or for some time. The world is in move_model.py.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import engine as migration_engine

from tests.unit.move_model import BEFORE, HOME, TARGET, Killed, ModelWatcher, World, run


def through(world: World, verb: str) -> dict[str, Any]:
    """Run a verb until it is through, as an operator does who follows what a failed one says is next."""
    said = []
    for _ in range(6):
        result = run(world, verb)
        if "error" not in result:
            return result
        said.append(f"{verb}: {result['error']['message']}, next {result['next']}")
        if result["next"] not in (verb, None):
            other = run(world, result["next"])
            said.append(f"{result['next']}: {other.get('error')}")
    raise AssertionError("; ".join(said))


def gone_on(world: World, verb: str, then: str) -> tuple[str, str]:
    """Do what the operator does after the fault; returns where the unit must be, and the last verb."""
    for other in [then] if then in ("cancel", "reverse") else []:
        result = run(world, other)
        if "error" not in result:
            back = other == "cancel" and verb == "reverse" and result["phase"] == "switched"
            return (TARGET if back else HOME), other
        assert result["error"]["code"] == "wrong_phase", result["error"]
    if verb == "reverse":
        through(world, "reverse")
        return HOME, "reverse"
    for each in [*BEFORE["reverse"]][[*BEFORE["reverse"]].index(verb) :]:
        last = through(world, each)
        assert "error" not in last
    if then != "reverse":
        return TARGET, "switch"
    through(world, "reverse")
    return HOME, "reverse"


def whole(world: World, place: str) -> list[str]:
    """Say what is wrong with a unit that should be whole at a place."""
    wrong = []
    if world.runs != {"db": {place}, "api": {place}}:
        wrong.append(f"runs {world.runs}")
    if [node for node, state in world.at.items() if state == "live"] != [place]:
        wrong.append(f"data {world.at}")
    if world.lease not in ({place}, set()):
        wrong.append(f"lease {world.lease}")
    if world.holds[place] != world.acknowledged:
        wrong.append(f"{world.acknowledged - world.holds[place]} writes lost")
    if world.until is not None:
        wrong.append("the watcher is still armed")
    return wrong


@pytest.mark.parametrize(
    ("failing", "late"),
    [(0, False), (0, True), (1, False), (40, False), (40, True), (-1, False)],
    ids=["kill", "kill, then the deadline", "fails", "fails on", "fails on, then the deadline", "redeploy"],
)
@pytest.mark.parametrize("then", ["resume", "reverse", "cancel"])
@pytest.mark.parametrize("verb", list(BEFORE))
def test_wherever_a_move_breaks_it_can_be_gone_on_with_and_loses_nothing(
    verb: str, then: str, failing: int, *, late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    for point in range(1000):
        world = World(tmp_path / str(point))
        for each in BEFORE[verb]:
            assert "error" not in run(world, each)
        world.left, world.failing = point, failing
        with contextlib.suppress(Killed):
            run(world, verb)
        reached = world.dead or world.left is None or world.left < 0
        world.dead, world.left, world.failing = False, None, 0
        if late and world.until is not None:
            ModelWatcher(world).give_back("deadline")
        place, last = gone_on(world, verb, then)
        assert whole(world, place) == [], f"point {point}"
        again = run(world, last)
        assert "error" not in again or again["error"]["code"] == "wrong_phase", again["error"]
        assert not again["changed"], f"point {point}: {again['outcomes']}"
        assert whole(world, place) == [], f"point {point}, second run"
        if not reached:
            assert point > 5, "the fault was tried at every touch"
            return
    raise AssertionError("the verb never ends")


def broken_off(world: World, verb: str, point: int) -> None:
    """Run what comes before a verb, and kill it at a point."""
    for each in BEFORE[verb]:
        assert "error" not in run(world, each)
    world.left = point
    with contextlib.suppress(Killed):
        run(world, verb)
    world.dead, world.left = False, None


@pytest.mark.parametrize("failing", [0, 1, 40], ids=["kill", "fails", "fails on"])
@pytest.mark.parametrize(("verb", "share"), [("precopy", 1.0), ("switch", 0.3), ("switch", 0.5), ("reverse", 0.4)])
def test_a_cancel_that_breaks_goes_on_with_cancel(
    verb: str, share: float, failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    most = touches(World(tmp_path / "whole"), verb)
    for point in range(1000):
        world = World(tmp_path / str(point))
        broken_off(world, verb, int(most * share))
        world.left, world.failing = point, failing
        with contextlib.suppress(Killed):
            run(world, "cancel")
        reached = world.dead or world.left is None or world.left < 0
        world.dead, world.left, world.failing = False, None, 0
        through(world, "cancel")
        assert whole(world, TARGET if verb == "reverse" else HOME) == [], f"point {point}"
        if verb != "reverse":
            assert (world.at[TARGET], world.lease, world.pinned) == ("neither", set(), False), f"point {point}"
        if not reached:
            return
    raise AssertionError("cancel never ends")


def test_a_switch_after_a_cancelled_reverse_can_be_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal of the cancel made the unit look as if nothing had been prepared."""
    quick(monkeypatch)
    most = touches(World(tmp_path / "whole"), "reverse")
    for point in range(1000):
        world = World(tmp_path / str(point))
        broken_off(world, "reverse", int(most * 0.4))
        assert [run(world, each).get("error") for each in ("cancel", "reverse")] == [None, None]
        world.left, world.failing = point, 1
        run(world, "switch")
        reached = world.left is None or world.left < 0
        world.left, world.failing = None, 0
        assert run(world, "status")["phase"] in ("copied", "switching", "promoting", "switched"), f"point {point}"
        through(world, "switch")
        assert whole(world, TARGET) == [], f"point {point}"
        if not reached:
            return
    raise AssertionError("the switch never ends")


def touches(world: World, verb: str) -> int:
    """Return how often a verb touches the world when nothing is wrong."""
    for each in BEFORE[verb]:
        run(world, each)
    world.left = 100_000
    run(world, verb)
    return 100_000 - world.left


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing wait."""
    monkeypatch.setattr(migration_engine, "_CATCHING_UP", 0.0)
    monkeypatch.setattr(migration_engine, "_ANSWERING_AGAIN", 0.0)
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)

"""What the engine says of itself, without a Swarm."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._engine import EngineError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import engine as migration_engine
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.engine import Engine
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Member, Part, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import (
    Move,
    Mover,
    Options,
    Readiness,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.phase import Phase
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.setting import Setting
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.tools import Tools
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step, Together, flat

THERE, BACK = ("kvm4", "kvm2"), ("kvm2", "kvm4")


@pytest.mark.parametrize(
    ("verb", "phase", "following"),
    [
        # Everything is started there; that the old copy follows is still to be done.
        ("switch", Phase("switched", *BACK, since="2026-01-01T00:00:00+00:00"), "switch"),
        ("reverse", Phase("copied", *THERE, since="2026-01-01T00:00:00+00:00"), "reverse"),
        ("precopy", Phase("copied", *THERE), "precopy"),
        ("cancel", Phase("prepared", *THERE), "cancel"),
        ("switch", Phase("promoting", *THERE), "switch"),
        # It may not run now, so another verb leads on.
        ("switch", Phase("prepared", *THERE), "precopy"),
        ("cancel", Phase("promoting", *THERE), "switch"),
        # Looking again changes nothing.
        ("verify", Phase("prepared", *THERE), "precopy"),
    ],
)
def test_after_an_error_the_verb_is_named_that_goes_on(
    verb: str, phase: Phase, following: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(Unit("shop", "kvm4", "kvm2", ()), cast("Cluster", None), {}, Options(), tmp_path, "")
    engine = Engine(setting, verb, lambda _event, _data: None)
    monkeypatch.setattr(engine, "phase", lambda: phase)
    assert engine.after(MoveError("failed", "no"))["next"] == following


def test_what_is_next_is_said_also_where_a_host_can_not_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def phase() -> Phase:
        raise MoveError("host_unreachable", "no answer")

    setting = Setting(Unit("shop", "kvm4", "kvm2", ()), cast("Cluster", None), {}, Options(), tmp_path, "")
    engine = Engine(setting, "switch", lambda _event, _data: None)
    monkeypatch.setattr(engine, "phase", phase)
    # Given back: the copy has to be brought nearer first.
    assert engine.after(MoveError("failed", "no", next="precopy"))["next"] == "precopy"
    assert engine.after(MoveError("failed", "no"))["next"] == "status"


def step(name: str, did: list[str]) -> Step:
    return Step(name, name, "kvm4", lambda: False, lambda _tell: None, undo=lambda: did.append(f"undo {name}"))


class Moves:
    """A mover whose stages are their names."""

    def __init__(self, part: Part, did: list[str]) -> None:
        self.part, self.did = part, did

    def __getattr__(self, stage: str) -> Callable[[], Sequence[Step]]:
        return lambda: [step(f"{stage} {self.part.key}", self.did)]


class Leases(Tools):
    """The lease's steps by their names."""

    lease = cast(
        "Any",
        type(
            "Lease",
            (),
            {
                "stop": staticmethod(lambda _move, service: step(f"stop {service}", [])),
                "withdraw": staticmethod(lambda _move: step("withdraw", [])),
            },
        ),
    )


class Swarm:
    """A cluster in which everything runs on the source."""

    def running(self, _service: str) -> list[Any]:
        return [type("Task", (), {"node": "kvm4"})]


@pytest.fixture
def switch(tmp_path: Path) -> Engine:
    members = (Member("db"), Member("api"))
    setting = Setting(
        Unit("shop", "kvm4", "kvm2", members), cast("Cluster", Swarm()), {}, Options(), tmp_path, "", Leases()
    )
    engine = Engine(setting, "switch", lambda _event, _data: None)
    engine._parts = (
        Part("db", "postgres", "db", members[0], {"db-data": "/data"}),
        Part("api", "app", "api", members[1], {}),
        Part("media", "files", "api", members[1], {"media": "/media"}),
    )
    return engine


def moved(engine: Engine, did: list[str]) -> tuple[Move, dict[str, Mover]]:
    place = type("Place", (), {"name": "kvm4"})()
    move = Move(engine.unit, place, place, engine.setting.cluster, engine.journal, Options())
    return move, {part.key: cast("Mover", Moves(part, did)) for part in engine.parts()}


def test_data_is_parked_while_it_is_still_in_use(switch: Engine) -> None:
    # A redeploy while a service stops would else start a second container on its data.
    order = [each.id for stage in switch._order(*moved(switch, [])).up_to_the_intent() for each in flat([stage])]
    assert order.index("stop api") < order.index("park media")
    mine = ("settle db", "park db", "withdraw", "stop db", "stopped db")
    assert tuple(each for each in order if each in mine) == mine
    assert order.index("park media") < order.index("stopped media")


def test_what_would_lengthen_an_outage_is_done_while_the_services_stop(switch: Engine) -> None:
    stages = switch._order(*moved(switch, [])).up_to_the_intent()
    together = [stage.lanes for stage in stages if isinstance(stage, Together)]
    side_by_side = [[[each.id for each in flat(lane)] for lane in lanes] for lanes in together]
    [lanes] = [each for each in side_by_side if ["stop db", "stopped db"] in each]
    assert ["meanwhile db"] in lanes


def test_data_comes_back_to_life_after_containers_that_stop(switch: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []
    watcher = switch.watcher
    monkeypatch.setattr(watcher, "until", lambda: 0.0)
    monkeypatch.setattr(watcher, "wait_for_strays", lambda: did.append("strays gone"))
    monkeypatch.setattr(watcher, "give_back", lambda _verb: did.append("given back"))
    switch.journal.fence(lambda: None, source="kvm4", target="kvm2")
    switch._give_back(*moved(switch, did))
    assert did[0] == "strays gone"
    assert did.index("undo park db") < did.index("given back") < did.index("undo settle db")


@pytest.mark.parametrize(("verb", "nearer"), [("switch", "precopy"), ("reverse", "switch")])
def test_given_back_the_copy_has_to_follow_again_first(
    verb: str, nearer: str, switch: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch.verb = verb
    monkeypatch.setattr(migration_engine, "_CATCHING_UP", 0.0)
    monkeypatch.setattr(switch, "_give_back", lambda _move, _movers: None)
    error = MoveError("failed", "no")
    switch._after_failure(error, *moved(switch, []))
    monkeypatch.setattr(switch, "phase", lambda: Phase("copied" if verb == "switch" else "switched", *THERE))
    assert switch.after(error)["next"] == nearer
    unready = {"db": cast("Mover", type("Late", (), {"readiness": lambda _self: Readiness(False, "late")})())}
    with pytest.raises(MoveError, match=f"late. Run verb={nearer}"):
        switch._refuse_unready(unready)


@pytest.mark.parametrize(("failures", "given_back"), [(0, True), (2, True), (99, False)])
def test_giving_back_waits_for_an_engine_that_was_killed(
    failures: int, *, given_back: bool, switch: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The watcher would come at the deadline only.
    left = [EngineError("nobody answers")] * failures

    def give_back(_move: Move, _movers: object) -> None:
        if left:
            raise left.pop()

    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(switch, "_give_back", give_back)
    error = MoveError("failed", "no")
    switch._after_failure(error, *moved(switch, []))
    assert ("was given back" in error.details["state"]) == given_back
    assert now[0] < 60


class NamedByTheirVerb(Leases):
    """The lease's steps as they are named in a run of a verb."""

    class lease:  # noqa: N801
        """Stands for the module."""

        @staticmethod
        def pin(move: Move, _services: Sequence[str]) -> Sequence[Step]:
            return [step(f"{move.journal.verb}.pin", [])]

        @staticmethod
        def stop(move: Move, service: str) -> Step:
            return step(f"{move.journal.verb}.{service}.stop", [])

        @staticmethod
        def start(move: Move, service: str, _place: Any) -> Step:
            return step(f"{move.journal.verb}.{service}.start", [])

        @staticmethod
        def withdraw(move: Move) -> Step:
            return step(f"{move.journal.verb}.withdraw", [])

        @staticmethod
        def give(move: Move, _place: Any) -> Step:
            return step(f"{move.journal.verb}.give", [])

    def mover(self, _move: Move, part: Part) -> Mover:
        return cast("Mover", Moves(part, []))


def named(engine: Engine, verb: str) -> Engine:
    places = {name: type("Place", (), {"name": name, "host": None})() for name in THERE}
    setting = replace(engine.setting, places=places, tools=NamedByTheirVerb())
    mine = Engine(setting, verb, lambda _event, _data: None)
    mine._parts = engine.parts()
    return mine


def test_a_plan_names_each_step_as_its_verb_will(switch: Engine) -> None:
    # Who compares a plan with a journal, or approves it, would else look for steps that never come.
    planning = named(switch, "plan")
    found = {verb: [each.id for each in flat(stages)] for verb, stages in planning._steps().items()}
    assert "prepare.pin" in found["prepare"]
    expected = ["switch.shop.fence", "switch.api.stop", "switch.withdraw", "switch.db.stop", "switch.shop.promotion"]
    assert [each for each in found["switch"] if each in expected] == expected
    assert not [each for ids in found.values() for each in ids if each.startswith("plan")]


def test_services_that_a_redeploy_took_away_run_again_after_a_second_switch(
    switch: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It may come between the last start and the old copy's following, or any time later.
    again = named(switch, "switch")
    walked: list[str] = []
    monkeypatch.setattr(again.walk, "forward", lambda stages: walked.extend(each.id for each in flat(stages)))
    again._switch(Phase("switched", *BACK, since="2026-01-01T00:00:00+00:00"))
    starts = ["switch.db.start", "switch.api.start", "follow db"]
    assert [each for each in walked if each in starts] == starts
    assert not [each for each in walked if each.startswith(("take_over", "switch.give"))]


def test_cancel_takes_back_what_a_broken_off_backup_left(switch: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelling = named(switch, "cancel")
    cancelling.journal.write("prepared")
    undone: list[str] = []
    monkeypatch.setattr(cancelling.walk, "back", lambda steps: undone.extend(each.id for each in steps))
    monkeypatch.setattr(cancelling.walk, "forward", lambda _stages: None)
    monkeypatch.setattr(cancelling.tools.lease, "unpin", lambda _move, _services: [], raising=False)
    cancelling._cancel(Phase("prepared", *THERE))
    assert [each for each in undone if each.endswith(" db")] == ["prepare db", "backup db", "precopy db"]


def test_of_a_move_that_ended_the_journal_is_left(switch: Engine) -> None:
    switch.journal.fence(lambda: None, source="kvm4", target="kvm2")
    directory = switch.journal.path.parent
    (directory / "db.content.json").write_text("what the database held")
    switch._end("complete")
    assert [file.name for file in directory.iterdir()] == ["journal.jsonl"]
    assert switch.journal.entries[-1]["how"] == "complete"

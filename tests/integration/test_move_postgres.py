"""The PostgreSQL mover on a real Swarm: there and back under load, killed, refused, with a full disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.settings import Settings
from tests.integration.move_postgres import BELOW, OFFICIAL, Estate, Ledger, Make, connections, image_of


@pytest.fixture(scope="module")
def connected(lab: Settings) -> Iterator[Any]:
    with connections(lab) as both:
        yield both


@pytest.fixture
def make(lab: Settings, connected: Any, tmp_path: Path) -> Iterator[Make]:
    made: list[Estate] = []

    def create(rows: int = 1000, mount: str = OFFICIAL) -> Estate:
        cluster, places = connected
        estate = Estate(lab, cluster, places, image_of(lab), tmp_path, mount)
        made.append(estate)
        estate.create(rows)
        return estate

    yield create
    for estate in made:
        estate.remove()


@pytest.mark.parametrize("mount", [OFFICIAL, BELOW])
def test_there_and_back_under_load_loses_nothing(make: Make, mount: str) -> None:
    estate = make(mount=mount)
    ledger = Ledger(estate)
    mover = estate.mover()
    facts = mover.facts()
    assert [trap.code for trap in facts.traps if trap.refuses] == []
    estate.walk(mover.prepare())
    estate.walk(mover.backup())
    estate.walk(mover.precopy())
    assert mover.readiness().ready, mover.readiness().text
    for source, target in (("kvm4", "kvm2"), ("kvm2", "kvm4")):
        mover = estate.mover(source, target)
        for stages in (mover.prepare(), mover.precopy()):
            again = estate.walk(stages)
            assert not again.changed, again.outcomes
        ready = mover.readiness()
        assert ready.ready, ready.text
        print(estate.switch(mover))
        assert (estate.state(source), estate.state(target)) == ("01", "10")
        estate.walk(mover.follow())
        for stages in (mover.verify(), mover.follow()):
            again = estate.walk(stages)
            assert not again.changed, again.outcomes
        assert ledger.lost() == []
    written = ledger.stop()
    assert ledger.lost() == []
    print(f"{len(written)} acknowledged writes")

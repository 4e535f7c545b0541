"""Whole moves by the playbook: what they leave behind, and what they keep."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import units
from lab.engine import connect
from lab.settings import Settings
from tests.faults import ledger, traces
from tests.faults.rig import Rig


@pytest.fixture(scope="module")
def rig(lab: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The shop as Dokploy deploys it, with a snapshot of its beginning; removed afterwards."""
    engine = connect(lab, start=False)
    assert engine is not None
    made = Rig(lab, engine, units.deployment(engine, lab, "saleor", "dokploy"), tmp_path_factory.mktemp("moves"))
    made.snapshot()
    yield made
    units.down(lab, "saleor")


def turned(rig: Rig) -> list[str]:
    """Say to the playbook that home and target are the other way round."""
    inventory = rig.deployed.inventory()
    for unit in inventory["migration_units"].values():
        unit["home"], unit["target"] = unit["target"], unit["home"]
    path = Path(rig.directory) / "turned.json"
    path.write_text(json.dumps(inventory))
    return ["-e", f"@{path}"]


DONE = ["-e", "migration_min_age=0", "-e", "migration_confirm=true"]


def journals(unit: str) -> set[str]:
    return {f"{host}: file /var/lib/evenkeel/migration/{unit}/journal.jsonl" for host in ("kvm4", "kvm2")}


def test_complete_leaves_nothing_and_the_unit_moves_back(rig: Rig) -> None:
    rig.restore()
    before = traces.of(rig, "kvm4")
    for verb in ("prepare", "precopy", "switch"):
        rig.succeed(verb)
    rig.succeed("complete", *DONE)
    after = traces.of(rig, "kvm2")
    again = rig.succeed("complete", *DONE)
    assert again.changed == 0
    for line in sorted(before - after):
        print("-", line)
    for line in sorted(after - before):
        print("+", line)
    assert 0


WHOLE = ("plan", "prepare", "precopy", "switch", "verify", "reverse", "switch", "complete")


@pytest.mark.parametrize("way", units.WAYS)
def test_a_move_there_and_back_and_there_keeps_every_write(lab: Settings, way: str, tmp_path: Path) -> None:
    engine = connect(lab, start=False)
    assert engine is not None
    rig = Rig(lab, engine, units.deployment(engine, lab, "saleor", way), tmp_path)
    units.down(lab, "saleor")
    units.up(lab, rig.deployed, megabytes=5)
    try:
        with ledger.writing(lab, rig.deployed):
            for verb in WHOLE:
                rig.succeed(verb, *(DONE if verb == "complete" else []))
        assert rig.wrong_end("kvm2") == []
        deadline = time.monotonic() + 30
        while ledger.unfinished(lab, rig.deployed, "kvm2") and time.monotonic() < deadline:
            time.sleep(0.2)
        writes, held = ledger.writes(lab), ledger.held(lab, rig.deployed, "kvm2")
        verdict = ledger.compare(writes, held)
        assert verdict.lost == {}
        assert ledger.owed(writes, held) == {}
        assert all(verdict.acknowledged[path] > 100 for path in ("api", "postgres", "redis")), verdict.acknowledged
        said = {path: round(gap.seconds, 1) for path, gap in verdict.outages.items()}
        print(f"way {way}: acknowledged {verdict.acknowledged}, longest gap {said} s")
    finally:
        ledger.stop(lab)
        units.down(lab, "saleor")


@pytest.mark.parametrize("verbs", [["prepare"], ["prepare", "precopy"]], ids="-".join)
def test_cancel_leaves_nothing(rig: Rig, verbs: list[str]) -> None:
    rig.restore()
    before = traces.of(rig, "kvm4")
    for verb in verbs:
        rig.succeed(verb)
    rig.succeed("cancel")
    after = traces.of(rig, "kvm4")
    assert rig.succeed("cancel").changed == 0
    for line in sorted(before - after):
        print("-", line)
    for line in sorted(after - before):
        print("+", line)
    assert 0

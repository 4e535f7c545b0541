"""The PostgreSQL mover on a real Swarm: there and back under load, killed, refused, with a full disk."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import FENCED

from lab.settings import Settings
from tests.integration.harness import wait_for
from tests.integration.move_postgres import BELOW, OFFICIAL, PASSWORD, Estate, Ledger, Make, connections, image_of

pytestmark = pytest.mark.movers


@pytest.fixture(scope="module")
def connected(lab: Settings) -> Iterator[Any]:
    with connections(lab) as both:
        yield both


@pytest.fixture
def make(lab: Settings, connected: Any, tmp_path: Path) -> Iterator[Make]:
    made: list[Estate] = []

    def create(rows: int = 1000, mount: str = OFFICIAL, restart: str = "any") -> Estate:
        cluster, places = connected
        estate = Estate(lab, cluster, places, image_of(lab), tmp_path, mount, restart)
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


def test_cancel_leaves_nothing_behind_and_nothing_tells_the_password(make: Make) -> None:
    estate = make()
    before = footprint(estate)
    mover = estate.mover()
    estate.copy(mover)
    password = estate.replication_password(mover)
    assert len(password) == 48
    told = f"{estate.events} {mover.move.journal.path.read_text()} {mover.facts()} {mover.readiness()}"
    assert password not in told
    assert PASSWORD not in told
    for node in ("kvm4", "kvm2"):
        seen = estate.sh(node, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; docker inspect $(docker ps -aq)")
        assert "pg_basebackup" in seen or "primary_conninfo" in seen or node == "kvm4"
        assert password not in seen
    assert footprint(estate) != before
    assert estate.state("kvm2") == "01"
    for stages in (mover.precopy(), mover.prepare()):
        estate.back(stages)
    assert footprint(estate) == before
    assert estate.state("kvm2") == "00"
    # A cancel that was killed is run again.
    for stages in (mover.precopy(), mover.prepare()):
        estate.back(stages)


def test_complete_leaves_the_database_and_its_backups(make: Make) -> None:
    estate = make()
    before = footprint(estate)
    mover = estate.mover()
    estate.copy(mover)
    estate.switch(mover)
    estate.walk(mover.follow())
    estate.walk(mover.backup())
    assert not estate.walk(mover.backup()).changed
    estate.walk(mover.finish())
    assert footprint(estate) == before
    assert (estate.state("kvm4"), estate.state("kvm2")) == ("00", "10")
    assert not estate.walk(mover.finish()).changed
    estate.sh("kvm2", f"systemctl start evenkeel-backup-{estate.name}-db.service")
    records = estate.sh("kvm2", f"cat /var/backups/{estate.name}/{estate.name}/db/*/backup.json")
    assert records.count('"proven": true') == 1
    assert records.count('"proven": false') == 1
    modes = estate.sh("kvm2", f"find /var/backups/{estate.name} -type f -printf '%m ' -o -type d -printf '%m '")
    assert set(modes.split()) <= {"600", "700"}


def test_what_goes_wrong_is_said_and_mended_by_running_it_again(make: Make) -> None:
    estate = make()
    mover = estate.mover()
    estate.walk(mover.prepare())
    parked = f"/var/lib/docker/evenkeel/{estate.volume}/data"
    # The target's disk is full in the middle of the copy.
    estate.sh("kvm2", f"mount -t tmpfs -o size=20m tmpfs {parked}")
    with pytest.raises(MoveError, match="disk of kvm2 is full") as failure:
        estate.walk(mover.precopy())
    assert failure.value.code == "disk_full"
    assert slots(estate) == []
    assert estate.sh("kvm2", f"ls -A {parked}") == ""
    estate.sh("kvm2", f"umount {parked}")
    assert mover.readiness().numbers["code"] == "no_copy"
    estate.walk(mover.precopy())
    assert mover.readiness().ready
    # Somebody changes the replication role's password.
    estate.sql(f"ALTER ROLE {mover.context.names.role} PASSWORD 'other';")
    estate.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication;")
    wait_for(lambda: mover.readiness().numbers.get("code") == "wrong_password", 60, "the word on the password")
    assert "run precopy again" in mover.readiness().text
    estate.walk(mover.precopy())
    assert mover.readiness().ready
    # Somebody drops the slot.
    mover.context.stop_companion(mover.move.target)
    estate.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots;")
    wait_for(lambda: mover.readiness().numbers.get("code") == "slot_dropped", 60, "the word on the slot")
    estate.walk(mover.precopy())
    assert mover.readiness().ready


def test_no_promotion_without_everything_that_the_source_wrote(make: Make) -> None:
    estate = make(restart="none")
    mover = estate.mover()
    estate.copy(mover)
    # Killed: what it has is not known to be all.
    mover.move.journal.write(FENCED)
    estate.walk(mover.park())
    [running] = estate.cluster.running(estate.service)
    estate.sh("kvm4", f"docker kill -s KILL {running.container}")
    estate.stop()
    with pytest.raises(MoveError, match="not shut down cleanly") as failure:
        estate.walk(mover.stopped())
    assert failure.value.code == "not_shut_down"
    assert estate.state("kvm4") == "01"
    estate.give_back(mover)
    # Stopped cleanly, but the copy lacks the end.
    estate.walk(mover.precopy())
    mover.context.stop_companion(mover.move.target)
    estate.sql("INSERT INTO goods (text) VALUES ('the last');")
    mover.move.journal.write(FENCED)
    estate.walk(mover.park())
    estate.stop()
    with pytest.raises(MoveError, match="nothing was promoted") as failure:
        estate.walk(mover.stopped())
    assert failure.value.code == "gate"
    assert estate.state("kvm4") == "01"
    # What the deadline's watcher would do.
    assert [action["do"] for action in mover.undo_on_hosts()] == ["remove_file", "bring_live"]
    estate.give_back(mover)
    assert estate.sql("SELECT count(*) FROM goods WHERE text = 'the last';") == ["1"]
    estate.walk(mover.precopy())
    assert mover.readiness().ready


@pytest.mark.parametrize("victim", ["engine", "docker on kvm2", "docker on kvm4"])
def test_a_copy_that_was_killed_is_made_again(make: Make, victim: str) -> None:
    estate = make(rows=100_000)
    mover = estate.mover()
    estate.walk(mover.prepare())
    killed = multiprocessing.get_context("spawn").Process(
        target=precopy, args=(estate.lab, estate.name, estate.directory)
    )
    killed.start()
    wait_for(lambda: bool(slots(estate)), 60, "a copy under way")
    if victim == "engine":
        killed.kill()
    else:
        estate.sh(
            victim.rsplit(maxsplit=1)[-1],
            "systemctl kill -s KILL docker; systemctl reset-failed docker; systemctl start docker",
        )
        time.sleep(1)
        killed.kill()
    killed.join()
    estate.wait_running("kvm4")
    mover = estate.mover()
    estate.walk(mover.precopy())
    assert mover.readiness().ready
    assert slots(estate) == [mover.context.names.slot("kvm2")]


def test_a_dump_moves_it_too_and_gives_it_back_untouched(make: Make) -> None:
    estate = make()
    mover = estate.dump_mover()
    assert [trap.code for trap in mover.facts().traps if trap.refuses] == []
    for _ in range(2):
        estate.walk(mover.prepare())
    assert mover.readiness().ready
    estate.walk(mover.settle())
    mover.move.journal.write(FENCED)
    estate.walk(mover.park())
    estate.stop()
    estate.walk(mover.stopped())
    assert (estate.state("kvm4"), estate.state("kvm2")) == ("01", "01")
    estate.give_back(mover)
    estate.sql("INSERT INTO goods (text) VALUES ('the last');")
    estate.switch(mover)
    assert (estate.state("kvm4"), estate.state("kvm2")) == ("01", "10")
    assert estate.sql("SELECT count(*) FROM goods WHERE text = 'the last';") == ["1"]
    estate.walk(mover.follow())
    for stages in (mover.stopped(), mover.take_over(), mover.verify(), mover.follow()):
        assert not estate.walk(stages).changed
    estate.walk(mover.finish())
    assert (estate.state("kvm4"), estate.state("kvm2")) == ("00", "10")


@pytest.mark.quiet
def test_writes_pause_shortly_at_the_engine(make: Make) -> None:
    estate = make(rows=300_000)
    mover = estate.mover()
    estate.copy(mover)
    pauses = []
    for source, target in (("kvm4", "kvm2"), ("kvm2", "kvm4"), ("kvm4", "kvm2")):
        mover = estate.mover(source, target)
        # It writes to whichever of the two lets it: the service, then its promoted copy, then the service again.
        ledger = Ledger(estate, also=[mover.context.names.companion(target)], node=target)
        phases = estate.switch(mover)
        time.sleep(1)
        ledger.stop()
        assert ledger.lost() == []
        # The promoted copy may be the service's before the client has come to it once.
        pauses_seen = ledger.pauses()
        engine, whole = pauses_seen[0], pauses_seen[-1]
        estate.walk(mover.follow())
        pauses.append(engine)
        rounded = {name: round(seconds, 2) for name, seconds in phases.items()}
        print(f"{source} to {target}: {engine:.2f} s to the promotion, {whole:.2f} s in all; phases {rounded}")
    print(f"database {estate.sql('SELECT pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database;')[0]}", end=": ")
    print(f"writes pause for {statistics.median(pauses):.2f} s at the engine (median of {len(pauses)})")
    assert statistics.median(pauses) < 10


def precopy(lab: Settings, name: str, directory: Path) -> None:
    """A process of its own, to be killed."""
    with connections(lab) as (cluster, places):
        estate = Estate(lab, cluster, places, image_of(lab), directory, name=name)
        estate.walk(estate.mover().precopy())


def slots(estate: Estate) -> list[str]:
    return estate.sql("SELECT slot_name FROM pg_replication_slots ORDER BY 1;")


def footprint(estate: Estate) -> dict[str, Any]:
    """What a move leaves in a server and in the Swarm."""
    [hba] = estate.sql("SELECT count(*) FROM pg_hba_file_rules;")
    return {
        "roles": estate.sql("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1;"),
        "slots": slots(estate),
        "hba": hba,
        "bound": estate.sql("SHOW max_slot_wal_keep_size;"),
        "secrets": [name for name in estate.cluster.secret_names() if estate.name in name],
        "services": [each["Spec"]["Name"] for each in estate.cluster.services() if estate.name in each["Spec"]["Name"]],
    }

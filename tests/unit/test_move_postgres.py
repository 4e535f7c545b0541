# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PostgreSQL mover's pure parts: verifier, control file, names, judgement of facts, words, gate, comparison."""

from __future__ import annotations

import base64
import hmac
import json
import os
import stat
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import scram
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.backup_postgres import disagreements
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster, Node
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import LocalHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import Journal
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Member, Part, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers import (
    postgres,
    postgres_facts,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Options, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres import PostgresMover
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_content import (
    Content,
    collect,
    differences,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_context import volume_of
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import (
    Layout,
    Names,
    from_json,
    identifier,
    literal,
    position,
    quoted,
    sql_failed,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_switch import (
    Switch,
    passes,
    refusal,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_words import explain, last_line
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import pg_backup, pg_data
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step

LAYOUT = Layout(
    volume="db-data",
    mount="/var/lib/postgresql",
    relative="data",
    exe="/usr/lib/postgresql/17/bin/postgres",
    argv=("postgres", "-D", "/var/lib/postgresql/data"),
    uid=os.getuid(),
    gid=os.getgid(),
    pgdata=None,
    socket="/tmp",
    port=5432,
    superuser="postgres",
    owner=(0, 0),
    mode=0o755,
)


# --- SCRAM ---


def test_a_verifier_gives_the_signature_of_rfc_7677() -> None:
    made = scram.verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    assert made.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    server_key = base64.b64decode(made.rpartition(":")[2])
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    exchange = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}"
    signature = hmac.digest(server_key, exchange.encode(), "sha256")
    assert base64.b64encode(signature).decode() == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_each_verifier_has_a_salt_of_its_own() -> None:
    one, other = scram.verifier("same"), scram.verifier("same")
    assert one != other
    assert scram.fingerprint(one) != scram.fingerprint(other)


# --- the data directory on the host ---


def control_file(state: int = 1, checkpoint: int = 0x3000028, timeline: int = 2, end: int = 288) -> bytes:
    """What PostgreSQL 15 to 17 write, as far as it is read."""
    head = struct.pack("<QIIi4xqQQI", 7342, 1300, 202307071, state, 0, checkpoint, checkpoint, timeline)
    body = head.ljust(end, b"\7")
    return (body + struct.pack("<I", pg_data.crc32c(body))).ljust(8192, b"\0")


def test_the_checksum_is_castagnolis() -> None:
    assert pg_data.crc32c(b"123456789") == 0xE3069283
    assert pg_data.crc32c(b"6789", pg_data.crc32c(b"12345")) == 0xE3069283


@pytest.mark.parametrize(("state", "clean"), [(0, False), (1, True), (2, True), (3, False), (4, False), (6, False)])
def test_a_control_file_is_read(state: int, clean: bool) -> None:
    found = pg_data.parse_control(control_file(state))
    assert found["clean"] is clean
    assert (found["system_id"], found["timeline"], found["checkpoint"]) == ("7342", 2, 0x3000028)


@pytest.mark.parametrize("damage", [0, 40, 287])
def test_a_damaged_control_file_is_refused(damage: int) -> None:
    raw = bytearray(control_file())
    raw[damage] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        pg_data.parse_control(bytes(raw))


@pytest.fixture
def parked(tmp_path: Path) -> Path:
    base = tmp_path / "volume" / "data"
    pg_data.lay_out(str(base), "data", uid=os.getuid(), gid=os.getgid(), owner=[os.getuid(), os.getgid()], mode=0o755)
    (base / "data" / "global").mkdir()
    (base / "data" / "global" / "pg_control").write_bytes(control_file())
    return base


def test_a_copy_is_marked_and_looked_at(parked: Path) -> None:
    assert pg_data.look(str(parked), "data")["marker"] is None
    pg_data.mark(str(parked), {"unit": "shop", "copy": "complete"})
    found = pg_data.look(str(parked), "data")
    assert found["marker"] == {"unit": "shop", "copy": "complete"}
    assert (found["there"], found["empty"], found["standby"], found["entries"]) == (True, False, False, ["data"])
    assert found["control"] == pg_data.parse_control(control_file())
    pg_data.mark(str(parked), {})
    assert pg_data.look(str(parked), "data")["marker"] is None


def test_a_place_without_files_is_empty(tmp_path: Path) -> None:
    assert pg_data.look(str(tmp_path / "none"), "data")["empty"]
    (tmp_path / "volume" / "data").mkdir(parents=True)
    assert pg_data.look(str(tmp_path / "volume"), "data")["empty"]


def test_parked_data_can_only_follow_until_that_is_taken_back(parked: Path) -> None:
    before = pg_data.control(str(parked / "data"))
    assert pg_data.only_follow(str(parked), "data") == before
    assert pg_data.only_follow(str(parked), "data") == before
    assert pg_data.look(str(parked), "data")["standby"]
    pg_data.may_lead(str(parked), "data")
    pg_data.may_lead(str(parked), "data")
    assert not pg_data.look(str(parked), "data")["standby"]


def test_wipe_empties_and_discard_removes(parked: Path) -> None:
    pg_data.mark(str(parked), {"unit": "shop"})
    (parked / "data" / "link").symlink_to("/etc")
    pg_data.wipe(str(parked))
    assert list(parked.iterdir()) == []
    pg_data.discard(str(parked))
    pg_data.discard(str(parked))
    assert not parked.parent.exists()
    assert Path("/etc/hostname").exists()


def test_our_lines_come_first_and_go_without_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "pg_hba.conf"
    original = "# people's own\nlocal all all trust\nhost replication all all reject\n"
    path.write_text(original)
    path.chmod(0o640)
    pg_data.set_hba_lines(str(path), "# evenkeel shop/db", ["host replication r 10.0.1.0/24 scram-sha-256"])
    assert path.read_text().splitlines()[0] == "host replication r 10.0.1.0/24 scram-sha-256 # evenkeel shop/db"
    assert pg_data.hba_lines(str(path), "# evenkeel shop/db") == path.read_text().splitlines()[:1]
    pg_data.set_hba_lines(str(path), "# evenkeel shop/db", [])
    assert path.read_text() == original
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["pg_hba.conf"]


# --- names ---


def test_names_fit_and_stay_apart() -> None:
    long = "infrastructureservices-saleorpostgres-w8d2xm-and-more"
    names = [Names("saleor", f"{long}{number}") for number in range(2)]
    for made in zip(*((n.role, n.slot("kvm4"), n.slot("kvm2"), n.companion("kvm2")) for n in names), strict=True):
        assert len(set(made)) == 2
        assert all(len(name) <= 63 for name in made)
    assert len(names[0].secret + "12345678") <= 64
    assert identifier("Evenkeel", "a-b", "c.d") == "evenkeel_a_b_c_d"


def test_sql_is_quoted() -> None:
    assert literal("it's") == "'it''s'"
    assert literal("a\\b'") == "E'a\\\\b'''"
    assert quoted('a"b') == '"a""b"'
    assert position("1/0") == 1 << 32


def test_a_full_disk_is_said_with_what_to_do() -> None:
    said = 'psql:<stdin>:3: ERROR:  could not extend file "base/5/1": No space left on device\n'
    full = sql_failed(SimpleNamespace(name="kvm2"), 3, said)  # type: ignore[arg-type]
    assert (full.code, full.message.split(".")[0]) == (
        "disk_full",
        "the disk of kvm2 is full: make room there, then run this again",
    )
    other = sql_failed(SimpleNamespace(name="kvm2"), 3, "psql:<stdin>:3: ERROR:  syntax error")  # type: ignore[arg-type]
    assert (other.code, other.message) == ("sql_failed", "PostgreSQL on kvm2 says: ERROR:  syntax error")


def test_a_layout_survives_the_journal() -> None:
    assert from_json(json.loads(json.dumps(LAYOUT.as_json()))) == LAYOUT
    assert LAYOUT.data == "/var/lib/postgresql/data"
    assert LAYOUT.tool("pg_basebackup") == "/usr/lib/postgresql/17/bin/pg_basebackup"


def test_data_belongs_to_the_volume_that_is_nearest() -> None:
    volumes = {"a": "/var/lib", "b": "/var/lib/postgresql/data", "c": "/var/lib/postgresql/data2"}
    assert volume_of("/var/lib/postgresql/data/pgdata", volumes) == ("b", "/var/lib/postgresql/data")
    assert volume_of("/var/lib/postgresql/data", volumes) == ("b", "/var/lib/postgresql/data")
    with pytest.raises(MoveError, match="in no named volume") as failure:
        volume_of("/var/lib/postgresql/data", {"c": "/var/lib/postgresql/data2"})
    assert failure.value.code == "data_outside"


# --- facts ---

FOUND: dict[str, Any] = {
    "version": "17.5",
    "version_num": 170005,
    "system_id": "7342",
    "control_version": 1300,
    "superuser": True,
    "in_recovery": False,
    "wal_level": "replica",
    "max_wal_senders": 10,
    "wal_senders": 0,
    "max_replication_slots": 10,
    "slots": ["ours"],
    "synchronous_standby_names": "",
    "tablespaces": [],
    "hba_file": "/var/lib/postgresql/data/pg_hba.conf",
    "bytes": 1000,
    "wal_bytes": 1000,
    "each": {"shop": {"unlogged": [], "stale_collations": [], "stale": False}},
}
DISK: dict[str, Any] = {
    "wal_elsewhere": False,
    "entries": ["data", ".psql_history"],
    "control": {"system_id": "7342", "version": 1300},
}


def refused(disk: dict[str, Any] | None = None, free: int | None = 10**9, networks: int = 1, **found: Any) -> list[str]:
    traps = postgres_facts.refusals(
        FOUND | found, LAYOUT, DISK | (disk or {}), ours={"ours"}, networks=["10.0.1.0/24"] * networks, free=free
    )
    assert all(trap.refuses and trap.text and trap.remedy for trap in traps)
    # A remedy that would be refused by the same trap is none.
    assert all(trap.code in postgres_facts.DUMPABLE for trap in traps if "mover: dump" in trap.remedy)
    return [trap.code for trap in traps]


def test_a_usual_server_may_move() -> None:
    assert refused() == []
    assert refused(free=None) == []
    assert refused(tablespaces=["/var/lib/postgresql/fast"]) == []


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ({"version_num": 120010}, "version_too_old"),
        ({"superuser": False}, "no_superuser"),
        ({"in_recovery": True}, "is_a_standby"),
        ({"wal_level": "minimal"}, "wal_level"),
        ({"max_wal_senders": 2, "wal_senders": 1, "slots": []}, "max_wal_senders"),
        ({"max_replication_slots": 1, "slots": []}, "max_replication_slots"),
        ({"slots": ["debezium"]}, "other_slots"),
        ({"synchronous_standby_names": "*"}, "synchronous_standby"),
        ({"tablespaces": ["/mnt/fast"]}, "tablespaces"),
        ({"hba_file": "/etc/postgresql/pg_hba.conf"}, "hba_outside"),
        ({"each": {"shop": {"unlogged": ["cache"], "stale_collations": []}}}, "unlogged_tables"),
        ({"disk": {"wal_elsewhere": True}}, "wal_elsewhere"),
        ({"disk": {"entries": ["data", "uploads"]}}, "other_files"),
        ({"disk": {"control": {"system_id": "1", "version": 1300}}}, "control_file"),
        ({"disk": {"control": None}}, "control_file"),
        ({"free": 2000}, "disk_too_small"),
        ({"networks": 0}, "no_network"),
    ],
)
def test_what_forbids_a_move(found: dict[str, Any], code: str) -> None:
    assert refused(**found) == [code]


def test_stale_collations_are_told_and_forbid_nothing() -> None:
    assert postgres_facts.warnings(FOUND) == []
    stale = FOUND | {"each": {"shop": {"unlogged": [], "stale_collations": [], "stale": True}}}
    [trap] = postgres_facts.warnings(stale)
    assert (trap.code, trap.refuses) == ("stale_collations", False)
    assert "shop" in trap.text


def test_kept_wal_is_bounded_by_the_disk() -> None:
    assert postgres_facts.bounded_wal(0) == 1024
    assert postgres_facts.bounded_wal(100 * 1024**3) == 50 * 1024
    assert postgres_facts.set_setting("x", "1MB") == "ALTER SYSTEM SET x = '1MB';"
    assert postgres_facts.set_setting("x", None) == "ALTER SYSTEM RESET x;"


# --- words ---


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("pg_basebackup: error: could not write to file: No space left on device", "disk_full"),
        ('FATAL:  password authentication failed for user "evenkeel_shop_db"', "wrong_password"),
        ('connection to server at "tasks.db" failed: fe_sendauth: no password supplied', "no_secret"),
        ('FATAL:  role "evenkeel_shop_db" does not exist', "no_role"),
        ('FATAL:  no pg_hba.conf entry for replication connection from host "10.0.1.7"', "not_let_in"),
        ("FATAL: requested WAL segment 000000010000000000000003 has already been removed", "wal_lost"),
        ('ERROR:  can no longer get changes from replication slot "evenkeel_shop_db_kvm2"', "wal_lost"),
        ('ERROR:  replication slot "evenkeel_shop_db_kvm2" does not exist', "slot_dropped"),
        ("ERROR:  all replication slots are in use", "no_slot_free"),
        ("FATAL:  database system identifier differs between the primary and standby", "other_system"),
        ('could not translate host name "tasks.db" to address', "source_unreachable"),
        ("FATAL:  recovery aborted because of insufficient parameter settings", "settings_differ"),
    ],
)
def test_trouble_is_one_sentence_with_what_to_run(line: str, code: str) -> None:
    found = explain(f"LOG: before\n{line}\nLOG: waiting\n", "kvm2")
    assert found is not None
    assert found[0] == code
    assert "{" not in found[1]


def test_the_newest_trouble_counts_and_silence_is_none() -> None:
    log = "FATAL: password authentication failed\npg_basebackup: No space left on device"
    assert explain(log, "kvm2") == ("disk_full", "the disk of kvm2 is full: make room there, then run precopy again")
    assert explain("LOG: started", "kvm2") is None
    assert last_line("a\n b \n\n") == "b"
    assert last_line("") == "it said nothing"


# --- the gate ---

TOKEN = {"system_id": "7342", "timeline": 2, "checkpoint": 0x3000028}
STANDBY: dict[str, Any] = {
    "system_id": "7342",
    "timeline": 2,
    "checkpoint": "0/3000028",
    "replayed": "0/30000A0",
    "in_recovery": True,
}


@pytest.mark.parametrize(
    ("other", "passed", "why"),
    [
        ({}, True, ""),
        ({"in_recovery": False, "timeline": 3}, True, ""),  # promoted from there already
        ({"in_recovery": False}, False, "follows nobody"),
        ({"system_id": "1"}, False, "another database"),
        ({"timeline": 1}, False, "timeline 1"),
        ({"checkpoint": "0/2000028", "replayed": "0/3000000"}, False, "lacks the source's last 40 bytes"),
        ({"checkpoint": "0/2000028", "replayed": "0/3000028"}, False, "lacks the source's last 0 bytes"),
        ({"checkpoint": "0/2000028", "replayed": None}, False, "lacks"),
        ({"checkpoint": "1/3000028"}, False, ""),
    ],
)
def test_the_gate(other: dict[str, Any], passed: bool, why: str) -> None:
    seen = STANDBY | other
    assert passes(seen, TOKEN) is passed
    if not passed:
        assert why in refusal(seen, TOKEN)


def test_a_copy_that_does_not_run_is_refused() -> None:
    assert "does not run" in refusal({}, TOKEN)


# --- comparison ---


def test_lines_are_collected() -> None:
    lines = ["SET", '["rows", "public.a", [3, "77"]]', '["rows", "public.b", [0, "0"]]']
    assert collect(lines) == {"rows": {"public.a": [3, "77"], "public.b": [0, "0"]}}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({}, []),
        ({"rows": {"a": [3, "78"]}}, ['rows a in shop was [3, "77"], is [3, "78"]']),
        ({"rows": {}}, ["rows a in shop is missing"]),
        ({"rows": {"a": [3, "77"], "b": [0, "0"]}}, ["rows b in shop is new"]),
        ({"sequence": {"s": [40, 1]}}, []),
        ({"sequence": {"s": [7, 1]}}, ["sequence s in shop was [10, 1], is [7, 1]"]),
        ({"sequence": {"s": [60, 1]}}, ["sequence s in shop was [10, 1], is [60, 1]"]),
        ({"sequence": {"s": [None, 1]}}, ["sequence s in shop was [10, 1], is [null, 1]"]),
    ],
)
def test_differences_are_named(now: dict[str, Any], said: list[str]) -> None:
    before: Content = {"shop": {"rows": {"a": [3, "77"]}, "sequence": {"s": [10, 1]}}}
    after: Content = {"shop": before["shop"] | now}
    assert differences(before, after) == said


def test_a_restore_is_compared_both_ways() -> None:
    assert disagreements({"shop": {"a": 3}}, {"shop": {"a": 3}}) == []
    assert disagreements({"shop": {"a": 3}}, {"shop": {"a": 2}}) == ["shop.a: 2 of 3 rows"]
    assert disagreements({"shop": {"a": 3}}, {}) == ["shop.a: no table of 3 rows"]
    assert disagreements({"shop": {"a": 3}}, {"shop": {"a": 3, "b": 1}}) == ["shop: 2 tables, 1 were dumped"]


# --- backups ---


def test_only_a_whole_proven_backup_counts_and_old_ones_go(tmp_path: Path) -> None:
    root = str(tmp_path / "backups")
    assert pg_backup.newest(root) is None
    for name, proven in (("1", True), ("2", True), ("3", False)):
        place = Path(pg_backup.begin(root, name))
        (place / "0.dump").write_bytes(b"data")
        file = pg_backup.checksum(str(place / "0.dump"))
        assert file["bytes"] == 4
        pg_backup.finish(root, name, {"name": name, "proven": proven, "files": [file]}, keep=2)
    assert sorted(entry.name for entry in Path(root).iterdir()) == ["2", "3"]
    newest = pg_backup.newest(root)
    assert isinstance(newest, dict)
    assert newest["name"] == "2"
    (Path(root) / "2" / "0.dump").write_bytes(b"dat")
    assert pg_backup.newest(root) is None
    pg_backup.begin(root, "4")
    pg_backup.begin(root, "5")
    assert sorted(entry.name for entry in Path(root).iterdir()) == ["2", "3", "5"]
    assert stat.S_IMODE((Path(root) / "2" / "backup.json").stat().st_mode) == 0o600


def test_a_switched_unit_gets_its_replication_role_back_without_prepare() -> None:
    """Its password may be changed at any time, and after a switch prepare is refused."""
    place = Place(LocalHost("kvm2"), Node("n", "kvm2", "10.0.0.2", 2.0, 2**30, True, False, {}), "/var/lib/docker")
    unit = Unit("shop", "kvm4", "kvm2", ())
    move = Move(unit, place, place, cast("Cluster", None), cast("Journal", None), Options())
    part = Part("db", "postgres", "shop-db", Member("shop-db"), {"data": "/data"})
    steps = [step for step in PostgresMover(move, part).follow() if isinstance(step, Step)]
    assert steps[0].id == "follow.db.role"
    assert steps[0].undo is None, "prepare's own step takes the role back"


class Copied:
    """What the comparison of a copy asks of its move."""

    def __init__(self, kept: Path) -> None:
        self.move = self.journal = self.target = self.source = self.names = self
        self.role, self.path, self.name, self.service, self.key = "role", kept / "journal.jsonl", "kvm2", "db", "db"
        self.options = Options()
        self.holds: dict[str, Any] = {"shop": {"sequence": {"orders": [331, 1]}}}

    def standby(self, _place: object) -> Copied:
        return self

    def step(self, verb: str, what: str, title: str, host: str, probe: Any, *_more: Any, **_named: Any) -> Step:
        return Step(f"{verb}.db.{what}", title, host, probe, lambda _tell: None)


def test_what_was_written_after_the_consumers_stop_is_found_before_the_promotion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = Copied(tmp_path)
    mover = cast("Any", object.__new__(PostgresMover))
    mover.move = mover.context = mover.part = copied
    monkeypatch.setattr(postgres, "content", lambda standby, **_named: standby.holds)
    monkeypatch.setattr(postgres, "Switch", lambda _context: SimpleNamespace(fence=str, gate=str))
    [*_before, compared] = mover.stopped()
    assert compared.id == "switch.db.content"
    with pytest.raises(MoveError, match="nothing was promoted"):
        compared.probe()
    mover._content_file.write_text(json.dumps(copied.holds))
    assert compared.probe()
    # A redeploy has started a consumer again.
    copied.holds["shop"]["sequence"]["orders"] = [746, 1]
    with pytest.raises(MoveError, match=r"orders in shop was \[331, 1\], is \[746, 1\].*nothing was promoted"):
        compared.probe()
    # After the promotion clients may write at any moment: nothing that they change is compared any more.
    assert [step.id for step in mover.verify()] == ["verify.db.identity", "verify.db.canary"]


def switch_of(journal: Journal, source: str, timeline: int) -> Any:
    """Return the context of a switch away from a host whose data ended on a timeline, when its stop was clean."""
    data = {"system_id": "7342", "timeline": timeline, "checkpoint": timeline, "clean": True}
    host = SimpleNamespace(call=lambda *_asked, **_about: data)
    target = SimpleNamespace(name={"kvm4": "kvm2", "kvm2": "kvm4"}[source])
    move = SimpleNamespace(journal=journal, source=SimpleNamespace(name=source, host=host), target=target)
    return SimpleNamespace(
        move=move,
        part=SimpleNamespace(key="db", service="db"),
        names=SimpleNamespace(slot=str, role="role"),
        layout=lambda: LAYOUT,
        paths=lambda _place: {"state": "parked"},
        path=lambda *_about: "/parked",
        mark=lambda *_about, **_facts: None,
        step=lambda _verb, what, title, node, probe, do=None, **_named: Step(what, title, node, probe, do),
    )


def test_a_switch_back_that_was_given_back_leaves_the_server_the_one_that_was_promoted(tmp_path: Path) -> None:
    """It has noted where the promoted one stood when it stopped: it goes on from there, and nothing comes after it."""
    journal = Journal("shop", "switch", tmp_path)
    forth, back = switch_of(journal, "kvm4", 1), switch_of(journal, "kvm2", 2)
    now = {"system_id": "7342", "timeline": 2, "read_write": True}
    forth.running = lambda: SimpleNamespace(node="kvm2")
    forth.primary = lambda: SimpleNamespace(ask=lambda _query: now)
    mover = cast("Any", object.__new__(PostgresMover))
    mover.move, mover.context, mover.part = forth.move, forth, forth.part
    identity = mover._identity()
    with pytest.raises(MoveError, match="not on kvm2"):
        identity.probe()
    for context in (forth, back):
        Switch(context).fence().do(lambda **_told: None)
        assert identity.probe()
    now["timeline"] = 3
    with pytest.raises(MoveError, match=r'timeline": 3'):
        identity.probe()

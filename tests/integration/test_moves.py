"""Whole moves by the playbook: what they leave behind, and what they keep."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import hosts, units
from lab.engine import connect
from lab.settings import Settings
from tests.faults import ledger, traces
from tests.faults.rig import Rig

pytestmark = pytest.mark.movers


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


#: The hosts' link as traces has it, and the lock of a run that was killed. Tests that run before leave theirs, and the
#: end of a move takes them away.
EARLIER = re.compile(r": (key .*migration@|file /var/lib/evenkeel/migration/(ssh/|lock$)|file /run/|process .*\[mux\])")


def undisturbed(rig: Rig) -> set[str]:
    """Return what there is before a move, without a link or a lock of earlier ones."""
    return {line for line in traces.of(rig, "kvm4") if not EARLIER.search(line)}


def kept(rig: Rig, verb: str, line: str, *, switched: bool = True) -> bool:
    """Return whether something may stay when a move ends: journals, backups, and the unit where complete left it."""
    where, _, what = line.partition(": ")
    unit, names = rig.unit, "|".join(re.escape(rig.deployed.service(role)) for role in rig.deployed.roles)
    always = [f"file /var/lib/evenkeel/migration/{unit}/journal.jsonl", f"file /var/backups/evenkeel/{unit}/.*"]
    brought = {
        "swarm": [
            f"label kvm2 evenkeel.lease.{unit}=1",
            f"spec ({names}) TaskTemplate.(Placement|ContainerSpec.Image).*",
            # All of them have volumes, which two copies at once would share.
            f'spec ({names}) UpdateConfig.Order="stop-first"',
        ],
        "kvm2": [
            f"container ({names}) ",
            "volume .*",
            f"(timer|unit|file) .*evenkeel-backup-{unit}-.*",
            f"file /var/lib/evenkeel/backup/{unit}.*",
        ],
    }
    allowed = [*always, *(brought.get(where, []) if verb == "complete" else [])]
    if switched:
        # How often tasks were made anew.
        allowed.append(f"spec ({names}) TaskTemplate.ForceUpdate=.*")
    return any(re.fullmatch(each, what) for each in allowed)


def test_complete_leaves_nothing_and_the_unit_moves_back(rig: Rig) -> None:
    rig.restore()
    before = undisturbed(rig)
    for verb in ("prepare", "precopy", "switch"):
        rig.succeed(verb)
    rig.succeed("complete", *DONE)
    after = traces.of(rig, "kvm2")
    assert rig.succeed("complete", *DONE).changed == 0
    assert sorted(line for line in after - before if not kept(rig, "complete", line)) == []
    gone = sorted(line for line in before - after if not line.startswith(("swarm: spec ", "kvm4: container ")))
    assert gone == sorted(f"kvm4: volume {name}" for name in rig.deployed.volumes())
    back = turned(rig)
    for verb in ("prepare", "precopy", "switch"):
        rig.succeed(verb, *back)
    assert rig.wrong_end("kvm4") == []


@pytest.mark.parametrize(
    "verbs",
    [["prepare"], ["prepare", "precopy"], ["prepare", "precopy", "switch", "reverse"]],
    ids="-".join,
)
def test_cancel_leaves_nothing(rig: Rig, verbs: list[str]) -> None:
    rig.restore()
    before = undisturbed(rig)
    for verb in verbs:
        rig.succeed(verb)
    rig.succeed("cancel")
    after = traces.of(rig, "kvm4")
    assert rig.succeed("cancel").changed == 0
    switched = "switch" in verbs
    assert sorted(line for line in after - before if not kept(rig, "cancel", line, switched=switched)) == []
    assert sorted(line for line in before - after if not (switched and ".ForceUpdate=" in line)) == []


FULL_MEGABYTES = 60
WHOLE = ("plan", "prepare", "precopy", "switch", "verify", "reverse", "switch", "complete")


@pytest.mark.movers
@pytest.mark.parametrize("way", units.WAYS)
def test_a_move_there_and_back_and_there_keeps_every_write(lab: Settings, way: str, tmp_path: Path) -> None:
    engine = connect(lab, start=False)
    assert engine is not None
    rig = Rig(lab, engine, units.deployment(engine, lab, "saleor", way), tmp_path)
    ledger.stop(lab)  # one that a killed test left keeps the unit's network
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


#: Unit, roles that stay where they are, the role that takes writes, its path, and what shows them.
OTHERS: list[tuple[str, list[str], str, str]] = [
    ("temporal", [], "server", "/workflow"),
    ("temporal", ["postgres"], "server", "/workflow"),
    ("superset", [], "superset", "/note"),
]
WRITE = """
import json, sys, urllib.request as u
for name in sys.argv[2:]:
    u.urlopen(u.Request(sys.argv[1], json.dumps({"id": name}).encode()), timeout=5).read()
"""


def write(rig: Rig, host: str, role: str, path: str, word: str) -> list[str]:
    """Write to a program of the unit over HTTP in its container; returns what it has acknowledged."""
    ids = [f"{word}-{number}" for number in range(20)]
    container = f"$(docker ps -q --filter label=com.docker.swarm.service.name={rig.deployed.service(role)})"
    command = f"docker exec -i {container} python3 - http://127.0.0.1:8000{path} {' '.join(ids)}"
    hosts.ssh(rig.settings, host, command, stdin=WRITE)
    return ids


def written(rig: Rig, host: str) -> set[str]:
    """Return what the unit holds, by its database where it has one."""
    if rig.unit == "temporal":
        return set(
            units.psql(rig.settings, rig.deployed, "SELECT id FROM workflows", user="temporal", host=host).split()
        )
    container = f"$(docker ps -q --filter label=com.docker.swarm.service.name={rig.deployed.service('superset')})"
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/notes').read().decode())"
    told = hosts.ssh(rig.settings, host, f"docker exec -i {container} python3 -", stdin=ask)
    return set(json.loads(told)["ids"])


@pytest.mark.movers
@pytest.mark.parametrize("other", OTHERS, ids=["temporal", "temporal-server", "superset"])
def test_other_units_move_and_their_writes_with_them(
    lab: Settings, other: tuple[str, list[str], str, str], tmp_path: Path
) -> None:
    unit, leave, role, path = other
    engine = connect(lab, start=False)
    assert engine is not None
    rig = Rig(lab, engine, units.deployment(engine, lab, unit, "api"), tmp_path)
    units.down(lab, unit)
    units.up(lab, rig.deployed)
    members = tmp_path / "members.json"
    members.write_text(json.dumps(rig.deployed.inventory(leave)))
    moving = sorted(set(rig.deployed.roles) - set(leave))
    try:
        ids = write(rig, "kvm4", role, path, "first")
        for verb in ("plan", "prepare", "precopy"):
            rig.succeed(verb, "-e", f"@{members}")
        ids += write(rig, "kvm4", role, path, "second")
        rig.succeed("switch", "-e", f"@{members}")
        ids += write(rig, "kvm2", role, path, "third")
        assert rig.running() == {"kvm4": leave, "kvm2": moving}
        assert written(rig, "kvm4" if leave else "kvm2") == set(ids)
        rig.succeed("reverse", "-e", f"@{members}")
        assert rig.running() == {"kvm4": sorted(rig.deployed.roles), "kvm2": []}
        assert written(rig, "kvm4") == set(ids)
    finally:
        units.down(lab, unit)


#: Of every file: kind, mode, owner, size, when it was changed, its names, its content, extended attributes.
MANIFEST = r"""
import hashlib, json, os, sys
base, links = sys.argv[1], {}
for folder, folders, files in os.walk(base):
    for path in [os.path.join(folder, name) for name in folders + files]:
        found, attributes = os.lstat(path), {n: os.getxattr(path, n, follow_symlinks=False).hex()
                                             for n in sorted(os.listxattr(path, follow_symlinks=False))}
        what = os.readlink(path) if os.path.islink(path) else (
            hashlib.sha256(open(path, "rb").read()).hexdigest() if os.path.isfile(path) else "")
        links.setdefault((found.st_ino), []).append(os.path.relpath(path, base))
        print(json.dumps([os.path.relpath(path, base), found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns,
                          found.st_size if os.path.isfile(path) else None, what, attributes]))
print(json.dumps(sorted(sorted(each) for each in links.values() if len(each) > 1)))
"""
PLANTED = r"""
cd $1 && mkdir -p 'a b/deep' && echo one > 'a b/one' && ln 'a b/one' 'a b/deep/same' && ln -s one 'a b/link'
chown 1234:4321 'a b/one' && chmod 4750 'a b/deep' && truncate -s 3M 'a b/sparse' && printf x >> 'a b/sparse'
python3 -c "import os; os.setxattr('a b/one', 'user.colour', b'blue')"
touch -d '2001-02-03 04:05:06.123456789' 'a b/one'
"""


def everything(rig: Rig, host: str) -> list[str]:
    """What the unit holds there, told by other means than the move's own: pg_dumpall and a walk over the media."""
    media = f"/var/lib/docker/volumes/{rig.deployed.volume('media')}/_data"
    container = f"$(docker ps -q --filter label=com.docker.swarm.service.name={rig.deployed.service('postgres')})"
    user = rig.deployed.environment("postgres")["POSTGRES_USER"]
    # Newer ones begin and end with a token of chance. What is the move's own is not the unit's.
    dump = f"docker exec {container} pg_dumpall -U {user} | grep -vE '^.(un)?restrict |evenkeel'"
    told = hosts.ssh(rig.settings, host, f"python3 - {media} | LC_ALL=C sort", stdin=MANIFEST)
    return [*told.splitlines(), *hosts.ssh(rig.settings, host, dump, timeout=120).splitlines()]


@pytest.mark.movers
def test_full_verification_and_what_others_see(lab: Settings, tmp_path: Path) -> None:
    engine = connect(lab, start=False)
    assert engine is not None
    rig = Rig(lab, engine, units.deployment(engine, lab, "saleor", "api"), tmp_path)
    units.down(lab, "saleor")
    units.up(lab, rig.deployed, megabytes=FULL_MEGABYTES)
    media = f"/var/lib/docker/volumes/{rig.deployed.volume('media')}/_data"
    hosts.ssh(lab, "kvm4", f"sh -s {media}", stdin=PLANTED)
    try:
        before = everything(rig, "kvm4")
        assert any('"user.colour"' in line for line in before)
        assert any(line.startswith("SELECT pg_catalog.lo_create") for line in before)
        for verb in ("prepare", "precopy"):
            rig.succeed(verb)
        outcomes = rig.succeed("switch", "-e", "migration_verify=full").unit("saleor")["outcomes"]
        assert [each for each in outcomes if "pg_amcheck" in each["title"] and each["outcome"] != "failed"]
        assert rig.wrong_end("kvm2") == []
        again = rig.succeed("verify", "-e", "migration_verify=full").unit("saleor")["outcomes"]
        assert [each for each in again if "pg_amcheck" in each["title"] and each["outcome"] == "done"]
        after = everything(rig, "kvm2")
        assert sorted(set(before) ^ set(after)) == []
        assert len(before) == len(after)
    finally:
        units.down(lab, "saleor")

"""The mover of files between real hosts: everything that a file is, writes in between, kills, full disks."""

from __future__ import annotations

import json
import textwrap
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.settings import Settings
from tests.integration.harness import Swarm, wait_for
from tests.integration.mover_bench import HOME, Bench, OnHost, clean_up, image_of, stateful_spec

pytestmark = pytest.mark.movers

SWITCH = ("park", "stop", "stopped", "take_over", "start", "verify")
BACK = {"source": "kvm2", "target": "kvm4"}
LIVE = "/var/lib/docker/volumes/{0}/_data"
PARKED = "/var/lib/docker/evenkeel/{0}/data"
#: Everything that a copy can get wrong.
TREE = """
    import os, socket, struct
    os.chdir({path!r})
    os.makedirs("many/deep", exist_ok=True)
    for n in range(1500):
        with open(f"many/{{n}}", "w") as file:
            file.write(str(n) * (n % 50))
    with open("linked", "w") as file:
        file.write("one file, three names")
    os.link("linked", "many/deep/second")
    os.link("linked", "many/third")
    with open("holes", "wb") as file:
        file.seek(200 * 1024 * 1024)
        file.write(b"end")
    os.chown("many/3", 1234, 4321)
    os.chmod("many/4", 0o4750)
    os.setxattr("many/5", "user.colour", b"blue\\0green")
    # user::rw-, user:1234:r--, group::r--, mask::r--, other::---
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in ((1, 6, 2**32 - 1), (2, 4, 1234), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1))
    )
    os.setxattr("many/6", "system.posix_acl_access", acl)
    os.symlink("../nowhere", "dangling")
    os.mkfifo("pipe", 0o600)
    with open(b"name \\xff\\n of bytes", "w") as file:
        file.write("odd")
    os.utime("many/7", ns=(1, 1_600_000_000_123_456_789))
"""


@pytest.fixture(scope="module")
def bench(lab: Settings, on_host: OnHost, swarm: Swarm) -> Bench:
    bench = Bench(lab, on_host, swarm)
    bench.install()
    return bench


@pytest.fixture
def media(bench: Bench, swarm: Swarm, on_host: OnHost) -> Iterator[Callable[..., dict[str, Any]]]:
    unit = f"m{uuid.uuid4().hex[:6]}"

    def make(*, writes: bool = False) -> dict[str, Any]:
        name, volume = f"{unit}-app", f"{unit}-media"
        loop = "i=0; while :; do i=$((i+1)); echo $i > /media/w$i; sleep 0.05; done" if writes else "sleep infinity"
        container = {"Command": ["sh", "-c", loop], "StopGracePeriod": 1_000_000_000}
        spec = stateful_spec(name, image_of(bench.lab, "app"), volume, "/media", "", **container)
        del spec["TaskTemplate"]["Networks"]
        swarm.create(spec)
        swarm.wait_running(name)
        run(on_host, "kvm4", textwrap.dedent(TREE).format(path=LIVE.format(volume)))
        return {
            "unit": unit,
            "key": "media",
            "kind": "files",
            "member": {"service": name},
            "volumes": {volume: "/media"},
            "users": [name],
            "source": "kvm4",
            "target": "kvm2",
        }

    yield make
    for host in ("kvm4", "kvm2"):
        on_host(host, f"umount {PARKED.format(f'{unit}-media')} 2>/dev/null; true")
    clean_up(swarm, on_host, unit)


def run(on_host: OnHost, host: str, script: str) -> str:
    return on_host(host, f"python3 - <<'END_OF_SCRIPT'\n{script}\nEND_OF_SCRIPT", timeout=120)


def volume_of(job: dict[str, Any]) -> str:
    return str(next(iter(job["volumes"])))


def test_files_go_there_and_back_with_everything_that_they_are(
    media: Callable[..., dict[str, Any]], bench: Bench, on_host: OnHost
) -> None:
    job = media(writes=True)
    volume = volume_of(job)
    facts = bench.done(job, "facts").answer("facts")
    assert (facts["traps"], facts["detail"][volume]["entries"] > 1500) == ([], True)
    copied = bench.done(job, "prepare", "backup", "precopy", "readiness")
    kept = on_host("kvm2", f"cd /var/backups/evenkeel/{job['unit']} && stat -c %a * && cat *.json")
    assert kept.split()[:2] == ["600", "600"]
    assert json.loads(kept.splitlines()[-1])["entries"] > 1500
    assert bench.done(job, "backup").did == [], "a proven backup of this move is enough"
    assert copied.answer("readiness")["ready"]
    # Same size, same second, same time: only the content tells.
    live = LIVE.format(volume)
    script = (
        f"cd {live}; cp -p linked /tmp/{volume}; printf 'one file, 3333e names' > linked; touch -r /tmp/{volume} linked"
    )
    on_host("kvm4", script)
    before = on_host("kvm4", f"stat -c %y {live}/many/7 {live}/linked; stat -c '%u:%g %a' {live}/many/3 {live}/many/4")
    there = bench.done(job, *SWITCH)
    after = on_host("kvm2", f"stat -c %y {live}/many/7 {live}/linked; stat -c '%u:%g %a' {live}/many/3 {live}/many/4")
    assert after == before
    assert on_host("kvm2", f"cat {live}/linked {live}/many/third") == "one file, 3333e names" * 2
    assert len(set(on_host("kvm2", f"stat -c %i {live}/linked {live}/many/third {live}/many/deep/second").split())) == 1
    assert int(on_host("kvm2", f"stat -c %b {live}/holes")) * 512 < 1024 * 1024
    attributes = f"import os; print(os.getxattr('{live}/many/5', 'user.colour'), os.listxattr('{live}/many/6'))"
    assert run(on_host, "kvm2", attributes).strip() == r"b'blue\x00green' ['system.posix_acl_access']"
    assert int(on_host("kvm4", f"ls {PARKED.format(volume)} | grep -c '^w'")) > 5, "writes went on"
    proved = [each for each in journal(on_host, job) if each["event"] == "files_proved"]
    assert proved[-1]["entries"] > 1500
    back = bench.done(job, "prepare", "precopy", *SWITCH, **BACK)
    passes = [each for each in journal(on_host, job) if each["event"] == "files_pass"]
    print(f"passes (bytes, seconds): {[(each['bytes'], each['seconds']) for each in passes]}")
    for name, ran in (("there", there), ("back", back)):
        print(f"{name}: { ({what: ran.seconds(what) for what in SWITCH}) }")
    # The old copy was there: next to nothing had to be sent.
    assert passes[-1]["bytes"] < 10_000
    assert on_host("kvm4", f"cat {live}/linked").strip() == "one file, 3333e names"
    assert bench.done(job, "finish", **BACK).did
    assert bench.done(job, "finish", **BACK).did == []
    assert not on_host("kvm2", f"ls -d /var/lib/docker/*/{job['unit']}* 2>/dev/null; true").strip()


def journal(on_host: OnHost, job: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in on_host("kvm4", f"cat {HOME}/state/{job['unit']}/journal.jsonl").splitlines()]


def test_a_copy_that_was_killed_is_taken_up_again(
    media: Callable[..., dict[str, Any]], bench: Bench, on_host: OnHost
) -> None:
    job = media()
    live = LIVE.format(volume_of(job))
    on_host("kvm4", f"head -c 400M /dev/urandom > {live}/large")
    bench.done(job, "prepare")
    killed = bench.run_and_kill(job, ["precopy"], lambda event: "pass 1" in str(event.get("text")))
    assert killed.status != 0
    wait_for(lambda: "rsync" not in on_host("kvm4", "ps -e -o comm="), 20, "the killed engine's rsync to be gone")
    process = bench.start(job, ["precopy"])
    wait_for(lambda: "rsync" in on_host("kvm4", "ps -e -o args= | grep '[p]rogress2'; true"), 60, "a copy")
    on_host("kvm4", "pkill -9 -x rsync; true")
    text, _ = process.communicate(timeout=120)
    assert "copy_killed" in text or "copy_broken_off" in text, text[-2000:]
    assert bench.done(job, "precopy").did
    assert bench.done(job, "precopy").did == [], "what is copied is not copied again"
    last = bench.run_and_kill(job, ["park", "stop", "stopped"], lambda event: "last-pass" in str(event.get("step")))
    assert last.status != 0
    assert "files_proved" not in last.text
    bench.done(job, "park", "stop", "stopped")
    bench.done(job, "undo:park", "give-back")
    assert on_host("kvm4", f"stat -c %s {live}/large").strip() == str(400 * 1024 * 1024)
    bench.done(job, "precopy", *SWITCH)
    assert on_host("kvm2", f"sha256sum < {live}/large") == on_host(
        "kvm4", f"sha256sum < {PARKED.format(volume_of(job))}/large"
    )


def test_a_disk_that_fills_up_meanwhile_ends_the_copy(
    media: Callable[..., dict[str, Any]], bench: Bench, on_host: OnHost
) -> None:
    job = media()
    parked = PARKED.format(volume_of(job))
    on_host("kvm4", f"head -c 300M /dev/urandom > {LIVE.format(volume_of(job))}/large")
    bench.done(job, "prepare")
    on_host("kvm2", f"mount -t tmpfs -o size=700m tmpfs {parked}")
    process = bench.start(job, ["precopy"])
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "pass 1" in line:
            on_host("kvm2", f"head -c 650M /dev/zero > {parked}/filler; true")
    assert process.wait() != 0
    assert '"code": "disk_full"' in said, said[-2000:]


@pytest.mark.parametrize("limit", ["size=60m", "size=1g,nr_inodes=300"])
def test_a_full_disk_is_said_and_can_be_mended(
    media: Callable[..., dict[str, Any]], bench: Bench, on_host: OnHost, limit: str
) -> None:
    job = media()
    parked = PARKED.format(volume_of(job))
    bench.done(job, "prepare")
    on_host("kvm2", f"mount -t tmpfs -o {limit} tmpfs {parked}")
    full = bench.run(job, "precopy")
    assert full.failed is not None
    assert full.failed["code"] == "disk_full", full.text[-2000:]
    assert "make room" in full.failed["message"]
    on_host("kvm2", f"umount {parked}")
    bench.done(job, "precopy", *SWITCH)


def test_what_is_not_this_moves_is_refused(media: Callable[..., dict[str, Any]], bench: Bench, on_host: OnHost) -> None:
    job = media()
    volume = volume_of(job)
    on_host("kvm2", f"docker volume create {volume} && touch {LIVE.format(volume)}/precious")
    assert bench.run(job, "prepare").failed["code"] == "target_populated"  # type: ignore[index]
    marker = f"{PARKED.format(volume)}/../owner.json"
    on_host("kvm2", f"mkdir -p {PARKED.format(volume)} && mv {LIVE.format(volume)}/precious {PARKED.format(volume)}/")
    on_host("kvm2", f'rmdir {LIVE.format(volume)} && echo \'{{"unit": "other", "move": "m0"}}\' > {marker}')
    refused = bench.run(job, "prepare")
    assert refused.failed is not None
    assert (refused.failed["code"], "unit other" in refused.failed["message"]) == ("foreign_copy", True)
    # Taking back what was prepared leaves it alone.
    bench.done(job, "undo:precopy", "undo:prepare")
    assert on_host("kvm2", f"ls {PARKED.format(volume)}").strip() == "precious"


def test_a_volume_that_somebody_else_uses_is_not_switched(
    media: Callable[..., dict[str, Any]], bench: Bench, on_host: OnHost
) -> None:
    job = media()
    volume, image = volume_of(job), image_of(bench.lab, "app")
    bench.done(job, "prepare", "precopy")
    on_host("kvm4", f"docker run -d --name {job['unit']}-guest -v {LIVE.format(volume)}:/m {image} sleep infinity")
    try:
        refused = bench.run(job, "park", "stop", "stopped")
    finally:
        on_host("kvm4", f"docker rm -f {job['unit']}-guest")
    assert refused.failed is not None
    assert (refused.failed["code"], f"{job['unit']}-guest" in refused.failed["message"]) == ("volume_in_use", True)
    bench.done(job, "stopped")

"""The oracle itself: it must pass a unit that stays, and catch lost writes and doubled databases."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from lab import hosts, units
from tests.faults import ledger, naive, tools, two_sides
from tests.faults.cell_run import judge
from tests.faults.rig import DURABLE, Rig, heal

Act = Callable[[Rig], None]


def observed(rig: Rig, act: Act, place: str) -> tuple[list[str], dict[str, object]]:
    """Let clients write around an act; returns what the oracle says of the unit at a place, and its notes."""
    rig.restore()
    notes: dict[str, object] = {}
    with two_sides.probing(rig.settings, rig.deployed), ledger.writing(rig.settings, rig.deployed):
        time.sleep(1)
        act(rig)
        time.sleep(1)
    return judge(rig, place, notes), notes


@pytest.mark.fast
def test_a_unit_that_stays_loses_nothing(rig: Rig) -> None:
    problems, notes = observed(rig, lambda _rig: time.sleep(1), "kvm4")
    assert problems == []
    acknowledged = notes["acknowledged"]
    assert isinstance(acknowledged, dict)
    assert all(acknowledged[path] > 5 for path in ledger.PLACES), acknowledged


def test_a_redeploy_as_dokploy_does_it_keeps_what_is_on_disk(rig: Rig) -> None:
    durable = rig.with_env(DURABLE)
    problems, _ = observed(durable, lambda mine: _redeploy(mine, "worker"), "kvm4")
    assert problems == []


def test_redeploys_alone_lose_nothing_at_the_pace_of_the_matrix(rig: Rig) -> None:
    """So what is missing after redeploys at each step of a move was lost by the move."""
    durable = replace(rig, deployed=replace(rig.deployed, env=DURABLE, grace=3))

    def redeploy(mine: Rig) -> None:
        for _ in range(12):
            mine.redeploy_databases(60)
        _until_whole(mine, "kvm4")

    problems, _ = observed(durable, redeploy, "kvm4")
    assert problems == []


def test_a_killed_engine_comes_back_with_all_that_was_acknowledged(rig: Rig) -> None:
    durable = rig.with_env(DURABLE)

    def kill(mine: Rig) -> None:
        tools.kill_dockerd(mine.settings, "kvm4")
        heal(mine.settings)
        _until_whole(mine, "kvm4")

    problems, _ = observed(durable, kill, "kvm4")
    assert problems == []


def test_stop_tar_start_loses_what_redis_had_not_saved(rig: Rig) -> None:
    """The trap of `sh -c`: the shell hears TERM and does nothing, Redis is killed and keeps its last save only."""
    rig.restore()
    with ledger.writing(rig.settings, rig.deployed):
        naive.move(rig.settings, rig.deployed)
    verdict = ledger.compare(ledger.writes(rig.settings), ledger.held(rig.settings, rig.deployed, "kvm2"))
    assert verdict.lost["redis.direct"]
    assert not any(place.startswith(("postgres", "media")) for place in verdict.lost)
    assert verdict.outages["postgres"].seconds > 0.5


@pytest.mark.fast
def test_a_start_before_the_last_bytes_are_copied_is_caught(rig: Rig) -> None:
    rig.restore()
    with ledger.writing(rig.settings, rig.deployed):
        naive.wrong_move(rig.settings, rig.deployed)
    verdict = ledger.compare(ledger.writes(rig.settings), ledger.held(rig.settings, rig.deployed, "kvm2"))
    assert {"postgres.direct_writes", "postgres.orders", "redis.direct", "media.orders"} <= set(verdict.lost)


@pytest.mark.fast
def test_a_doubled_database_is_caught(rig: Rig) -> None:
    rig.restore()
    with two_sides.probing(rig.settings, rig.deployed):
        time.sleep(0.5)
        naive.doubled(rig.settings, rig.deployed)
        time.sleep(3)
    accepted = two_sides.accepted(rig.settings)
    hosts.ssh(rig.settings, "kvm2", f"docker rm -f $(docker ps -q --filter label=evenkeel.migration={rig.unit})")
    assert any("turns" in each for each in two_sides.violations(accepted, "kvm4", promotions=1))


@pytest.mark.parametrize("ways", ["both", "in", "out"])
def test_a_cut_link_carries_nothing_and_is_mended(rig: Rig, ways: str) -> None:
    peer = tools.address(rig.settings, "kvm4")
    knock = f"timeout 1 bash -c '</dev/tcp/{peer}/22' 2>/dev/null && echo yes || echo no"
    assert hosts.ssh(rig.settings, "kvm2", knock) == "yes"
    with tools.link_cut(rig.settings, ways=ways):
        assert hosts.ssh(rig.settings, "kvm2", knock) == "no"
    assert hosts.ssh(rig.settings, "kvm2", knock) == "yes"


def test_a_slow_link_is_slow(rig: Rig) -> None:
    naive._link(rig.settings, "kvm4", "kvm2")
    send = (
        f"s=$(date +%s%N); head -c 5000000 /dev/urandom | ssh -i {naive.KEY} -o StrictHostKeyChecking=accept-new"
        f" root@{tools.address(rig.settings, 'kvm2')} 'cat >/dev/null'; echo $((($(date +%s%N) - s) / 1000000))"
    )
    with tools.link_slow(rig.settings, mbit=20):
        slow = int(hosts.ssh(rig.settings, "kvm4", send))
    # 40 megabits at 20 a second.
    assert 1700 < slow < 5000
    assert int(hosts.ssh(rig.settings, "kvm4", send)) < 1500


def test_a_lossy_link_loses_packets(rig: Rig) -> None:
    count = f"iptables -w -L {tools.CHAIN} -v -n -x | awk '/statistic/ {{print $1}}'"
    with tools.link_lossy(rig.settings, share=0.5):
        naive._link(rig.settings, "kvm4", "kvm2")
        peer = tools.address(rig.settings, "kvm4")
        hosts.ssh(rig.settings, "kvm2", f"timeout 20 bash -c '</dev/tcp/{peer}/22'; true")
        assert int(hosts.ssh(rig.settings, "kvm2", count)) > 0


def test_a_full_disk_takes_nothing_more_and_is_emptied(rig: Rig) -> None:
    if not rig.settings.disk:
        pytest.skip("the lab was made without LAB_DISK")
    write = "head -c 1000000 /dev/zero > /var/lib/docker/lab-try && echo yes || echo no; rm -f /var/lib/docker/lab-try"
    with tools.disk_full(rig.settings):
        assert hosts.ssh(rig.settings, "kvm2", f"({write}) 2>/dev/null") == "no"
    assert hosts.ssh(rig.settings, "kvm2", write) == "yes"


def test_a_step_in_the_journal_is_seen_and_the_engine_killed_at_it(rig: Rig) -> None:
    """A process that holds the lock of moves stands for the engine; the journal is written as the engine does."""
    state = f"{tools.STATE}/{rig.unit}"
    hosts.ssh(rig.settings, "kvm4", f"mkdir -p {state}; rm -f {state}/journal.jsonl")
    engine = f"import time; lock = open('{tools.STATE}/lock', 'w'); time.sleep(60)"
    hosts.ssh(rig.settings, "kvm4", f'systemd-run --quiet --collect --unit=lab-stand-in python3 -c "{engine}"')
    try:
        with tools.AtStep(rig.settings, rig.unit, "switch.a", "did", act="kill") as watch:
            for step, event in (("switch.a", "intent"), ("switch.b", "did")):
                entry = f'{{"event": "{event}", "step": "{step}"}}'
                hosts.ssh(rig.settings, "kvm4", f"echo '{entry}' >> {state}/journal.jsonl")
            time.sleep(0.3)
            assert watch.seen is None
            assert hosts.ssh(rig.settings, "kvm4", "systemctl is-active lab-stand-in") == "active"
            entry = '{"event": "did", "step": "switch.a"}'
            hosts.ssh(rig.settings, "kvm4", f"echo '{entry}' >> {state}/journal.jsonl")
            deadline = time.monotonic() + 5
            while watch.seen is None and time.monotonic() < deadline:
                time.sleep(0.05)
        assert watch.seen == {"event": "did", "step": "switch.a"}
        assert watch.acted
        assert hosts.ssh(rig.settings, "kvm4", "systemctl is-active lab-stand-in || true") != "active"
    finally:
        hosts.ssh(rig.settings, "kvm4", f"systemctl stop lab-stand-in 2>/dev/null; rm -rf {state}; true")


def _redeploy(rig: Rig, role: str) -> None:
    units.deploy(rig.settings, rig.deployed, [role])
    time.sleep(3)
    _until_whole(rig, "kvm4")


def _until_whole(rig: Rig, place: str) -> None:
    """Wait until the unit is whole again after something was started anew."""
    deadline = time.monotonic() + 60
    while rig.wrong_end(place) and time.monotonic() < deadline:
        time.sleep(0.3)
    units.converge(rig.settings, rig.deployed, place)

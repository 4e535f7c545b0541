"""The movers of Redis and of files, between real hosts, under writes, with kills in the middle."""

from __future__ import annotations

import json
import shlex
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab import estate, images
from lab.engine import connect
from lab.settings import Settings
from tests.integration.harness import Swarm, wait_for
from tests.integration.mover_bench import Bench, OnHost, Ran, Writer, clean_up, image_of, stateful_spec

pytestmark = pytest.mark.movers

PASSWORD = "planted s3cret'\"$x"  # noqa: S105
SWITCH = ("settle", "park", "stop", "stopped", "take_over", "start", "verify", "follow")
BACK = {"source": "kvm2", "target": "kvm4"}


@pytest.fixture(scope="module")
def bench(lab: Settings, on_host: OnHost, swarm: Swarm) -> Bench:
    bench = Bench(lab, on_host, swarm)
    bench.install()
    return bench


@pytest.fixture
def unit(swarm: Swarm, on_host: OnHost) -> Iterator[str]:
    name = f"m{uuid.uuid4().hex[:6]}"
    yield name
    clean_up(swarm, on_host, name)


def server(*arguments: str) -> dict[str, Any]:
    return {"Args": ["redis-server", "--dir", "/var/lib/redis", "--bind", "*", "--protected-mode", "no", *arguments]}


def in_shell(*arguments: str) -> dict[str, Any]:
    """As Dokploy starts it. The second command keeps the shell in between, whatever shell it is."""
    words = " ".join([*map(shlex.quote, server()["Args"]), "--requirepass", '"$REDIS_PASSWORD"', *arguments])
    return {"Command": ["/bin/sh", "-c", f"{words}; exit $?"], "Env": [f"REDIS_PASSWORD={PASSWORD}"], "Init": False}


VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "rdb": (server(), ""),
    "shell-password": (in_shell(), PASSWORD),
    "aof-password": (server("--appendonly", "yes", "--save", "", "--requirepass", PASSWORD), PASSWORD),
    # Redis 6.0: all clients are paused, for a time that is told; its append-only file is one file.
    "old-shell-password": (in_shell(), PASSWORD),
    "old-aof": (server("--appendonly", "yes", "--save", ""), ""),
}


def image_for(lab: Settings, variant: str) -> str:
    if not variant.startswith("old-"):
        return image_of(lab, "redis")
    engine = connect(lab, start=False)
    assert engine is not None
    return estate.push(engine, lab, images.old_redis(engine))["old-redis"]


@pytest.fixture
def redis(
    bench: Bench, swarm: Swarm, network: str, unit: str
) -> Iterator[Callable[[str], tuple[dict[str, Any], Writer]]]:
    writers: list[Writer] = []
    lab, on_host = bench.lab, bench.on_host

    def make(variant: str) -> tuple[dict[str, Any], Writer]:
        container, password = VARIANTS[variant]
        name, image = f"{unit}-redis", image_of(lab, "redis")
        swarm.create(
            stateful_spec(name, image_for(lab, variant), f"{unit}-data", "/var/lib/redis", network, **container)
        )
        swarm.wait_running(name)
        job = {
            "unit": unit,
            "key": "redis",
            "kind": "redis",
            "member": {"service": name},
            "volumes": {f"{unit}-data": "/var/lib/redis"},
            "users": [name],
            "source": "kvm4",
            "target": "kvm2",
        }
        writer = Writer(on_host, f"{unit}-writer", image, network, name, password)
        writers.append(writer)
        return job, writer

    yield make
    for writer in writers:
        writer.stop()


@pytest.mark.parametrize("variant", VARIANTS)
def test_redis_goes_there_and_back_under_load_and_loses_nothing(
    redis: Callable[[str], tuple[dict[str, Any], Writer]], bench: Bench, swarm: Swarm, on_host: OnHost, variant: str
) -> None:
    job, writer = redis(variant)
    writer.start()
    wait_for(lambda: len(writer.times()) > 100, 30, "writes")
    facts = bench.done(job, "facts").answer("facts")
    print(f"{variant}: {facts}")
    assert not [trap for trap in facts["traps"] if trap["refuses"]]
    assert ("shell_swallows_stop" in [trap["code"] for trap in facts["traps"]]) == ("shell" in variant)
    assert facts["detail"]["version"].startswith("6.0.") == variant.startswith("old-")
    ran = bench.done(job, "prepare", "backup", "precopy", "readiness", *SWITCH)
    kept = on_host("kvm2", f"cd /var/backups/evenkeel/{job['unit']} && stat -c %a * && cat *.json")
    assert kept.split()[:2] == ["600", "600"]
    assert json.loads(kept.splitlines()[-1])["keys"]["db0"] > 100
    assert ran.answer("readiness")["ready"], ran.answer("readiness")
    tell(variant, "there", ran, writer)
    time.sleep(1)
    back = bench.done(job, "prepare", "precopy", "readiness", *SWITCH, **BACK)
    tell(variant, "and back", back, writer)
    time.sleep(1)
    assert bench.done(job, "follow", **BACK).did == [], "a second run changes nothing"
    assert bench.done(job, "prepare", "precopy").did == [], "what follows is ready for the next switch"
    writer.stop()
    acknowledged, lost = writer.missing()
    assert (acknowledged > 500, lost) == (True, 0)
    finished = bench.done(job, "finish", **BACK)
    assert finished.did
    assert bench.done(job, "finish", **BACK).did == []
    assert not on_host("kvm2", f"ls -d /var/lib/docker/*/{job['unit']}* 2>/dev/null; true").strip()
    assert not [name for name in swarm.specs() if name.startswith(f"evenkeel-{job['unit']}")]
    assert not [each for each in swarm.client.secrets() if job["unit"] in each["Spec"]["Name"]]
    everything = (
        ran.text + back.text + finished.text + on_host("kvm4", f"cat /tmp/evenkeel-movers/state/{job['unit']}/*")
    )
    assert PASSWORD not in everything


def goes_on(writer: Writer) -> None:
    seen = len(writer.times())
    wait_for(lambda: len(writer.times()) > seen + 20, 30, "more writes")


def tell(variant: str, direction: str, ran: Ran, writer: Writer) -> None:
    steps = {what: ran.seconds(what) for what in SWITCH}
    ours = sum(steps[what] for what in ("settle", "park", "stopped", "take_over"))
    print(f"{variant} {direction}: {steps}; ours {ours:.2f} s; clients {writer.outage():.2f} s without a write")


#: Where the engine is killed, by the end of a step's id or by a stage, each on another way, there and back in turn.
KILLS = (
    "companion",
    "quick-end",
    "stop",
    "park",
    "take_over",
    "live",
    "verify",
    "pause",
    "save-target",
    "end-companion",
)


def begins(where: str) -> Callable[[dict[str, Any]], bool]:
    def seen(event: dict[str, Any]) -> bool:
        step = str(event.get("step", "")).split(".")[-1].partition("-m")[0]
        return event.get("what") == where or (event["event"] == "step_started" and step == where)

    return seen


def test_a_kill_at_any_step_of_redis_is_taken_up_again(
    redis: Callable[[str], tuple[dict[str, Any], Writer]], bench: Bench
) -> None:
    job, writer = redis("shell-password")
    writer.start()
    wait_for(lambda: len(writer.times()) > 100, 30, "writes")
    whole = ("prepare", "precopy", *SWITCH)
    places = {"source": "kvm4", "target": "kvm2"}
    for step in KILLS:
        job |= places
        killed = bench.run_and_kill(job, whole, begins(step))
        assert killed.status != 0, step
        began = [each["what"] for each in killed.events if each["event"] == "begins"][-1]
        # Up to the start of the service a fresh process begins with what the stage of the kill began.
        rest = whole[whole.index(began) :]
        bench.done(job, *rest)
        places = {"source": job["target"], "target": job["source"]}
        goes_on(writer)
    writer.stop()
    assert writer.missing()[1] == 0


def states(swarm: Swarm, name: str) -> set[str]:
    return {task["Status"]["State"] for task in swarm.client.tasks(filters={"service": name})}


def test_a_server_that_dies_in_its_pause_cannot_come_back_and_is_moved(
    redis: Callable[[str], tuple[dict[str, Any], Writer]], bench: Bench, swarm: Swarm, on_host: OnHost
) -> None:
    """Come back, it would take writes again: nobody had paused it."""
    job, writer = redis("rdb")
    writer.start()
    wait_for(lambda: len(writer.times()) > 100, 30, "writes")
    bench.done(job, "prepare", "precopy", "settle", "park")
    name = job["member"]["service"]
    task = swarm.running(name)[0]
    on_host("kvm4", f"docker kill {task['Status']['ContainerStatus']['ContainerID']}")
    wait_for(lambda: "rejected" in states(swarm, name), 60, "a refused start")
    assert swarm.running(name) == []
    bench.done(job, *SWITCH[SWITCH.index("stop") :])
    goes_on(writer)
    writer.stop()
    assert writer.missing()[1] == 0


def test_undone_before_the_promotion_the_source_has_everything(
    redis: Callable[[str], tuple[dict[str, Any], Writer]], bench: Bench, on_host: OnHost, swarm: Swarm
) -> None:
    job, writer = redis("shell-password")
    writer.start()
    wait_for(lambda: len(writer.times()) > 100, 30, "writes")
    bench.done(job, "prepare", "precopy", "settle", "park", "stop", "stopped")
    bench.done(job, "undo:park", "undo:settle", "give-back")
    goes_on(writer)
    writer.stop()
    assert writer.missing()[1] == 0
    bench.done(job, "undo:precopy", "undo:prepare")
    assert not on_host("kvm2", f"ls -d /var/lib/docker/*/{job['unit']}* 2>/dev/null; true").strip()
    assert not on_host("kvm4", f"ls -d /var/lib/docker/evenkeel/{job['unit']}* 2>/dev/null; true").strip()
    assert not [each for each in swarm.client.secrets() if job["unit"] in each["Spec"]["Name"]]


def test_a_password_that_cannot_be_found_refuses_before_anything_changes(
    redis: Callable[[str], tuple[dict[str, Any], Writer]], bench: Bench, swarm: Swarm, on_host: OnHost
) -> None:
    job, _writer = redis("rdb")
    container = swarm.running(job["member"]["service"])[0]["Status"]["ContainerStatus"]["ContainerID"]
    on_host("kvm4", f"docker exec {container} redis-cli config set requirepass another")
    refused = bench.run(job, "prepare")
    assert refused.failed is not None
    assert refused.failed["code"] == "password_unknown"
    assert not on_host("kvm4", f"ls -d /var/lib/docker/evenkeel/{job['unit']}* 2>/dev/null; true").strip()

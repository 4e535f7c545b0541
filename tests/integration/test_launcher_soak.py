"""The launcher's soak on the lab: 100 runs of 8 units with crashes of workers, 200 with crashes of all that can."""

from __future__ import annotations

import contextlib
import itertools
import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.run import LabError
from lab.settings import Settings
from tests.integration.harness import wait_for
from tests.integration.launcher_client import ENDED, SERVICE, Client, tunnel
from tests.integration.launcher_deployed import PASSWORD, WORK, Deployed

pytestmark = pytest.mark.soak

UNITS = 8
#: With crashes of workers alone, so that one process's memory can be followed.
CALM_RUNS = 100
BATCH = 10
#: With crashes of all.
ROUGH_RUNS = 200
#: Between a crash and the next, s: systemd starts an engine three times a minute at most.
APART = {"worker": 2.0, "server": 8.0, "engine": 30.0}
CRASHES = (*["worker"] * 4, "server", "worker", "worker", "server", "engine")
#: Growth from the second batch to the last, of what the process has in memory.
MOST_GROWTH = 3 * 10**6
#: Not the shell that looks for it.
WORKER = "[j]ob_launcher.demo.work"
OF_SERVICE = f"docker ps -q --filter label=com.docker.swarm.service.name={SERVICE}"
COMMANDS = {
    "worker": f"pid=$(pgrep -f '{WORKER}' | shuf -n 1); [ -n \"$pid\" ] && kill -9 $pid",
    "server": f"docker kill -s KILL $({OF_SERVICE})",
    "engine": "kill -9 $(systemctl show -P MainPID docker)",
}
TEMPLATE = {"argv": [*WORK, "print", "5", "80", "mixed"], "retries": 1, "price": 1}


@pytest.fixture(scope="module")
def client(deployed: Deployed, lab: Settings) -> Iterator[Client]:
    """Deploy it with room for four workers and the template of the soak."""
    deployed.bring(
        job_launcher_templates={"soak": TEMPLATE},
        job_launcher_limits={"cpus": 2, "memory": "2G"},
        job_launcher_workers_on_swarm=False,
    )
    with tunnel(lab, "kvm4") as address:
        yield Client(address, "root", PASSWORD)


@pytest.fixture(scope="module")
def rich(client: Client) -> Client:
    """Credits for all units."""
    client.post("/api/users/root/credit", {"amount": (CALM_RUNS + ROUGH_RUNS) * UNITS, "reason": "soak"})
    return client


def all_ended(client: Client) -> bool:
    with contextlib.suppress(OSError, urllib.error.URLError):
        return client.metric("launcher_runs_active") == 0
    return False


def check_books(client: Client, runs: list[str]) -> Counter[str]:
    """Compute the ledger anew; each unit is settled once and as it ended. Returns how units ended."""
    total = held = 0
    settled: dict[str, list[str]] = {}
    for entry in reversed(client.everything("/api/ledger")):
        kind, amount = entry["kind"], entry["amount"]
        total += {"credit": amount, "capture": -amount}.get(kind, 0)
        held += {"hold": amount, "capture": -amount, "release": -amount}.get(kind, 0)
        assert (entry["total_after"], entry["held_after"]) == (total, held), entry
        if kind in ("capture", "release"):
            settled.setdefault(entry["unit_id"], []).append(kind)
    assert held == 0
    assert client.get("/api/balance") == {"total": total, "held": 0, "available": total}
    statuses: Counter[str] = Counter()
    for run_id in runs:
        assert client.get(f"/api/runs/{run_id}")["status"] in ENDED
        units = client.get(f"/api/runs/{run_id}/units?limit=500")["items"]
        assert [unit["number"] for unit in units] == list(range(1, UNITS + 1))
        for unit in units:
            assert settled[unit["id"]] == ["capture" if unit["status"] == "succeeded" else "release"], unit
            statuses[unit["status"]] += 1
    return statuses


def crash(on_host: Callable[..., str], what: str) -> bool:
    """Whether there was one to crash: while the engine or the server comes back there may be none."""
    try:
        on_host("kvm4", COMMANDS[what])
    except LabError:
        return False
    return True


def nothing_runs(on_host: Callable[..., str]) -> bool:
    return on_host("kvm4", f"pgrep -fc '{WORKER}' || true") == "0"


def test_memory_is_flat_while_workers_crash(
    rich: Client, on_host: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[str] = []
    sizes: list[float] = []
    killed = 0
    for _ in range(CALM_RUNS // BATCH):
        runs += [rich.run("soak", UNITS, 4) for _ in range(BATCH)]
        while not all_ended(rich):
            killed += crash(on_host, "worker")
            time.sleep(0.5)
        sizes.append(rich.metric("process_resident_memory_bytes"))
    statuses = check_books(rich, runs)
    assert statuses["succeeded"] and statuses["failed"] and nothing_runs(on_host)
    with capsys.disabled():
        shown = " ".join(f"{size / 10**6:.1f}" for size in sizes)
        print(
            f"\n  {CALM_RUNS} runs of {UNITS}, {dict(statuses)}; {killed} workers killed; RSS each {BATCH}, MB: {shown}"
        )
    assert sizes[-1] - sizes[1] <= MOST_GROWTH


def test_the_ledger_is_exact_after_crashes_of_workers_server_and_engine(
    rich: Client, on_host: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [rich.run("soak", UNITS, 4) for _ in range(ROUGH_RUNS)]
    done: Counter[str] = Counter()
    for what in itertools.cycle(CRASHES):
        if all_ended(rich):
            break
        done[what] += crash(on_host, what)
        time.sleep(APART[what])
    wait_for(lambda: all_ended(rich), 120, "the launcher to be back")
    statuses = check_books(rich, runs)
    with capsys.disabled():
        print(f"\n  {ROUGH_RUNS} runs of {UNITS}, {dict(statuses)}; crashed: {dict(done)}")
    assert all(done[what] for what in COMMANDS), "not everything crashed"
    assert nothing_runs(on_host)


def test_it_still_works(rich: Client) -> None:
    ended: dict[str, Any] = rich.run_when(rich.run("soak", 1, 1), *ENDED)
    assert ended["held"] == 0

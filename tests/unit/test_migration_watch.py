"""The deadline's watcher against the promotion: whoever is first wins. And that its archive stands alone."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import Journal, exclusive
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import give_back
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.watch import program


def marks(state: Path) -> list[str]:
    return [entry["event"] for entry in Journal("shop", "status", state, read_only=True).entries]


def fenced(state: Path) -> Journal:
    journal = Journal("shop", "switch", state)
    journal.fence(lambda: None, source="kvm4", target="kvm2")
    return journal


def test_after_the_watcher_nothing_is_promoted(tmp_path: Path) -> None:
    engine = fenced(tmp_path)
    assert Journal("shop", "deadline", tmp_path).unfence() is True
    with pytest.raises(MoveError, match="nothing was promoted"):
        engine.claim_promotion()
    assert marks(tmp_path) == ["fenced", "unfenced"]


def test_after_the_intent_nothing_is_given_back(tmp_path: Path) -> None:
    fenced(tmp_path).claim_promotion()
    assert Journal("shop", "deadline", tmp_path).unfence() is False
    assert marks(tmp_path) == ["fenced", "promotion_intended"]


def test_both_may_be_said_twice(tmp_path: Path) -> None:
    engine = fenced(tmp_path)
    engine.claim_promotion()
    engine.claim_promotion()
    assert marks(tmp_path) == ["fenced", "promotion_intended"]
    again = fenced(tmp_path)
    assert again.unfence()
    assert again.unfence()
    assert marks(tmp_path)[2:] == ["fenced", "unfenced"]


def test_of_many_races_each_has_one_winner(tmp_path: Path) -> None:
    for number in range(30):
        state = tmp_path / str(number)
        engine = fenced(state)
        start = threading.Barrier(2)
        won: list[str] = []

        def promote(engine: Journal = engine, start: threading.Barrier = start, won: list[str] = won) -> None:
            start.wait()
            try:
                engine.claim_promotion()
            except MoveError:
                return
            won.append("engine")

        def undo(state: Path = state, start: threading.Barrier = start, won: list[str] = won) -> None:
            start.wait()
            if Journal("shop", "deadline", state).unfence():
                won.append("watcher")

        threads = [threading.Thread(target=promote), threading.Thread(target=undo)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert marks(state) == ["fenced", "promotion_intended" if won == ["engine"] else "unfenced"]


def test_a_watcher_is_not_armed_while_another_acts(tmp_path: Path) -> None:
    armed = threading.Event()
    with exclusive(tmp_path / "shop" / "promotion.lock"):
        journal = Journal("shop", "switch", tmp_path)
        thread = threading.Thread(target=lambda: journal.fence(armed.set, source="a", target="b"))
        thread.start()
        assert not armed.wait(0.2)
    thread.join()
    assert armed.is_set()


def test_a_lock_is_held_by_one_and_leaves_no_file(tmp_path: Path) -> None:
    lock, inside, most = tmp_path / "lock", threading.Semaphore(1), 200

    def often() -> int:
        alone = 0
        for _ in range(most):
            with exclusive(lock):
                alone += inside.acquire(blocking=False)
                time.sleep(0.0001)
                inside.release()
        return alone

    with ThreadPoolExecutor(4) as pool:
        held = [each.result() for each in [pool.submit(often) for _ in range(4)]]
    assert held == [most] * 4
    with exclusive(lock), pytest.raises(MoveError, match="another move is under way"), exclusive(lock, wait=False):
        pass
    assert not lock.exists()


def test_no_data_passes_for_what_every_entry_says(tmp_path: Path) -> None:
    """An entry's time is read as such, whatever its event."""
    with pytest.raises(ValueError, match="redis_token: at"):
        Journal("shop", "switch", tmp_path).write("redis_token", at=12.5)


def instructions(tmp_path: Path, until: float, **more: Any) -> Path:
    path = tmp_path / "shop" / "give_back.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = {"unit": "shop", "state": str(tmp_path), "docker_host": f"unix://{tmp_path}/none.sock", "until": until}
    path.write_text(json.dumps({**wanted, "source": "kvm4", "undo": [], "services": {}, "hosts": {}, **more}))
    return path


def test_a_deadline_that_was_put_off_is_not_acted_on(tmp_path: Path) -> None:
    fenced(tmp_path)
    path = instructions(tmp_path, time.time() + 60)
    assert give_back._watch(path) is False
    assert marks(tmp_path) == ["fenced"]


def test_the_watcher_ends_where_nothing_is_to_be_done(tmp_path: Path) -> None:
    assert give_back._watch(tmp_path / "shop" / "give_back.json") is True
    fenced(tmp_path).claim_promotion()
    assert give_back._watch(instructions(tmp_path, time.time() - 1)) is True
    assert marks(tmp_path) == ["fenced", "promotion_intended"]


def test_the_archive_needs_python_only_and_tries_again_while_no_engine_answers(tmp_path: Path) -> None:
    archive = tmp_path / "give_back.zip"
    archive.write_bytes(program())
    fenced(tmp_path)
    path = instructions(tmp_path, time.time() - 1, lease="evenkeel.lease.shop")
    command = [sys.executable, "-I", "-S", str(archive), str(path), "evenkeel-no-such-timer"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "not given back yet: no engine answers" in done.stderr
    # The instructions stay for the next try, and a promotion is out of the question already.
    assert path.exists()
    assert marks(tmp_path) == ["fenced", "unfenced"]
    with pytest.raises(MoveError, match="given back to its source"):
        Journal("shop", "switch", tmp_path).claim_promotion()


PIN = "node.labels.evenkeel.lease.shop==1"


@pytest.mark.parametrize(
    ("replicas", "constraint", "holder", "strays"),
    [
        # Nobody has stopped it: what Swarm wants stays, what it replaced is still stopping.
        (1, PIN, "kvm4", {"old"}),
        # A redeploy took the pin away, so the lease no longer matters.
        (1, "node.role==manager", "kvm2", {"old"}),
        # Stopped, by its replicas or by the lease: all of them are on their way out.
        (0, PIN, "kvm4", {"old", "new"}),
        (1, PIN, "kvm2", {"old", "new"}),
    ],
)
def test_data_is_live_again_only_after_containers_that_stop(
    monkeypatch: pytest.MonkeyPatch, replicas: int, constraint: str, holder: str, strays: set[str]
) -> None:
    spec = {
        "TaskTemplate": {"Placement": {"Constraints": [constraint]}},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }
    node = {"Description": {"Hostname": holder}, "Spec": {"Labels": {"evenkeel.lease.shop": "1"}}}
    task = {"Status": {"State": "running", "ContainerStatus": {"ContainerID": "new"}}}

    def get(_docker_host: str, path: str, _timeout: float) -> Any:
        return {"/services/db": {"Spec": spec}, "/nodes": [node]}.get(path, [task])

    monkeypatch.setattr(give_back, "engine_get", get)
    wanted = {"docker_host": "", "source": "kvm4", "lease": "evenkeel.lease.shop", "services": {"db": 1}}
    assert {"old", "new"} - give_back._staying(wanted, "db") == strays

    class Engine:
        """Runs both containers, until asked for the fourth time."""

        asked = 0

        def call(self, _module: Any, function: str, services: list[str]) -> list[str]:
            assert (function, services) == ("running", ["db"])
            self.asked += 1
            return ["old", "new"] if self.asked < 4 else ["new"] if strays == {"old"} else []

    engine = Engine()
    monkeypatch.setattr(give_back, "_place", lambda _wanted, _name: (engine, "/"))
    give_back.wait_for_strays(wanted)
    assert engine.asked == 4


def test_a_service_that_a_redeploy_is_stopping_is_not_started_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swarm forgets a container that stops when an update comes, and starts a second one on the same data."""
    stopping = [["old"], ["old"], []]
    posted: list[list[list[str]]] = []
    placement = {"Constraints": ["node.role==manager"]}
    spec = {"TaskTemplate": {"Placement": placement}, "Mode": {"Replicated": {"Replicas": 1}}}
    task = {"Status": {"State": "running", "ContainerStatus": {"ContainerID": "new"}}}

    def get(_docker_host: str, path: str, _timeout: float) -> Any:
        return {"/services/db": {"Spec": spec, "Version": {"Index": 7}}, "/nodes": []}.get(path, [task])

    class Engine:
        def call(self, *_asked: Any, **_more: Any) -> list[str]:
            return stopping.pop(0)

    monkeypatch.setattr(give_back, "engine_get", get)
    monkeypatch.setattr(give_back, "engine_post", lambda *_arguments: posted.append(list(stopping)))
    monkeypatch.setattr(give_back, "_place", lambda _wanted, _name: (Engine(), "/"))
    wanted = {"docker_host": "", "source": "kvm4", "lease": "evenkeel.lease.shop", "services": {"db": 1}}
    give_back._wake(wanted, "db", 1)
    assert posted == [[]]

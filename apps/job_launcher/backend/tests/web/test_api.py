# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import gzip
import json
import logging
import socket
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from job_launcher import journal
from tests.web.harness import BUNDLE, WORD, Site, Who, launched

HELLO = {"template": "hello", "total": 1}


def ended(who: Who, run_id: str, seconds: float = 20.0) -> dict[str, Any]:
    """The run once it has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        run: dict[str, Any] = who.get(f"/api/runs/{run_id}").json
        if run["ended_at"]:
            return run
        time.sleep(0.05)
    raise AssertionError(f"{run_id} has not ended: {run}")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nothing", 404),
        ("GET", "/api", 404),
        ("GET", "/missing.js", 404),
        ("PUT", "/api/runs", 405),
        ("GET", "/api/login", 405),
        ("DELETE", "/api/run", 405),
        ("POST", "/", 405),
        ("GET", "/api/runs", 401),
        ("POST", "/api/run", 401),
        ("GET", "/socket.io/?EIO=4&transport=polling", 401),
    ],
)
def test_every_error_is_a_problem(site: Site, method: str, path: str, status: int) -> None:
    answer = site.anyone().ask(method, path)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
    problem = answer.json
    assert set(problem) == {"type", "title", "status", "detail", "errors", "request_id"}
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert status != 405 or answer.headers["Allow"]


def test_a_fault_of_ours_is_a_problem_too_and_says_nothing_of_itself(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> dict[str, Any]:
        raise RuntimeError("inner secret")

    who = site.login("ada")
    monkeypatch.setattr(site.server.engine, "status", broken)
    answer = who.get("/api/status")
    assert (answer.status, answer.headers["Content-Type"]) == (500, "application/problem+json")
    assert "inner secret" not in answer.body.decode()


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"x"', b'{"template": "\\ud800", "total": 1}'])
def test_a_body_that_is_no_object_is_refused(site: Site, raw: bytes) -> None:
    assert site.login("ada").post("/api/run", raw).status == 400


def test_a_body_of_another_type_is_refused(site: Site) -> None:
    answer = site.login("ada").post("/api/run", HELLO, {"Content-Type": "text/plain"})
    assert answer.status == 415


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"template": None}, "template"),
        ({"template": "nothing"}, "template"),
        ({"template": "../hello"}, "template"),
        ({"template": ["hello"]}, "template"),
        ({"total": None}, "total"),
        ({"total": 0}, "total"),
        ({"total": -1}, "total"),
        ({"total": 10**9}, "total"),
        ({"total": 10**30}, "total"),
        ({"total": 1.5}, "total"),
        ({"total": True}, "total"),
        ({"total": "1"}, "total"),
        ({"max_parallel": 0}, "max_parallel"),
        ({"max_parallel": 1000}, "max_parallel"),
        ({"max_parallel": "4"}, "max_parallel"),
        ({"max_parallel": None}, "max_parallel"),
        ({"parameters": []}, "parameters"),
        ({"parameters": None}, "parameters"),
        ({"parameters": {"colour": "red"}}, "parameters.colour"),
        ({"template": "sleep", "parameters": {"seconds": "1; rm -rf /"}}, "parameters.seconds"),
        ({"template": "sleep", "parameters": {"seconds": 61}}, "parameters.seconds"),
        ({"template": "sleep", "parameters": {"seconds": -1}}, "parameters.seconds"),
        ({"template": "sleep", "parameters": {"seconds": None}}, "parameters.seconds"),
        ({"argv": ["/bin/sh"]}, "argv"),
        ({"owner": "ada"}, "owner"),
    ],
)
def test_each_wrong_field_is_named_and_nothing_starts_or_costs(site: Site, changes: dict[str, Any], field: str) -> None:
    who = site.token("otto")
    before = (who.get("/api/runs").json, who.get("/api/balance").json, who.get("/api/ledger").json)
    answer = who.post("/api/run", {**HELLO, **changes})
    assert 400 <= answer.status < 500
    assert field in [error["field"] for error in answer.json["errors"]], answer.body
    assert (who.get("/api/runs").json, who.get("/api/balance").json, who.get("/api/ledger").json) == before


@pytest.mark.parametrize("missing", ["template", "total"])
def test_each_missing_field_is_named(site: Site, missing: str) -> None:
    body = {name: value for name, value in HELLO.items() if name != missing}
    answer = site.login("otto").post("/api/run", body)
    assert (answer.status, answer.json["errors"]) == (400, [{"field": missing, "message": "is required"}])


@pytest.mark.parametrize("key", ["", "a b", "a" * 129])
def test_a_wrong_idempotency_key_is_named(site: Site, key: str) -> None:
    answer = site.login("otto").post("/api/run", HELLO, {"Idempotency-Key": key})
    assert answer.status == 400
    assert answer.json["errors"][0]["field"] == "Idempotency-Key"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/runs?limit=0", "limit"),
        ("/api/runs?limit=1e3", "limit"),
        ("/api/runs?limit=%D9%A1", "limit"),  # an Arabic digit
        ("/api/runs?status=gone", "status"),
        ("/api/runs?before=x", "before"),
        ("/api/runs?limit=1&limit=2", "limit"),
        ("/api/runs?colour=red", "colour"),
        ("/api/ledger?before=-1", "before"),
        ("/api/numbers?status=free", "status"),
        ("/api/users?after=%00", "after"),
        ("/api/audit?limit=501", "limit"),
    ],
)
def test_each_wrong_query_parameter_is_named(site: Site, path: str, field: str) -> None:
    answer = site.login("ada").get(path)
    assert answer.status == 400
    assert field in [error["field"] for error in answer.json["errors"]]


def test_a_run_goes_from_start_to_log(site: Site) -> None:
    who = site.token("olga")
    before = who.get("/api/balance").json["total"]
    started = who.post("/api/run", {"template": "hello", "total": 3})
    assert started.status == 201
    run = ended(who, started.json["id"])
    assert (run["status"], run["owner"], run["counts"]["succeeded"]) == ("succeeded", "olga", 3)
    assert who.get("/api/balance").json == {"total": before - 6, "held": 0, "available": before - 6}
    units = who.get(f"/api/runs/{run['id']}/units?limit=2").json
    more = who.get(f"/api/runs/{run['id']}/units?after={units['next']}").json
    assert [unit["number"] for unit in units["items"] + more["items"]] == [1, 2, 3]
    assert more["next"] is None
    log = who.get(f"/api/runs/{run['id']}/log")
    whole = who.get(f"/api/runs/{run['id']}/log/download")
    assert log.body == whole.body
    assert whole.body.count(b"|hello\n") == 3
    assert whole.headers["Content-Disposition"] == f'attachment; filename="{run["id"]}.log"'
    assert log.headers["X-Log-Size"] == log.headers["X-Log-Next"] == str(len(log.body)) == str(run["log_size"])


def test_a_log_is_read_in_pieces(site: Site) -> None:
    who = site.token("olga")
    run = ended(who, who.post("/api/run", {"template": "hello", "total": 2}).json["id"])
    whole, found, start = who.get(f"/api/runs/{run['id']}/log/download").body, b"", 0
    while start < run["log_size"]:
        piece = who.get(f"/api/runs/{run['id']}/log?from={start}&limit=7")
        assert int(piece.headers["X-Log-From"]) == start
        found, start = found + piece.body, int(piece.headers["X-Log-Next"])
    assert found == whole
    beyond = who.get(f"/api/runs/{run['id']}/log?from=999999")
    assert (beyond.status, beyond.body) == (200, b"")


def test_a_run_is_stopped_once_and_for_all(site: Site) -> None:
    who = site.token("olga")
    run_id = who.post("/api/run", {"template": "sleep", "total": 2}).json["id"]
    assert who.post(f"/api/runs/{run_id}/stop", None).status == 202
    assert ended(who, run_id)["status"] == "stopped"
    again = who.post(f"/api/runs/{run_id}/stop", None)
    assert (again.status, again.json["status"]) == (202, "stopped")


def test_pages_follow_each_other(site: Site) -> None:
    who = site.token("ada")
    for _ in range(3):
        ended(who, who.post("/api/run", HELLO).json["id"])
    for path in ("/api/runs", "/api/ledger", "/api/audit"):
        first = who.get(f"{path}?limit=2").json
        second = who.get(f"{path}?limit=1&before={first['next']}").json
        ids = [item["id"] for item in first["items"] + second["items"]]
        assert len(set(ids)) == 3
    users = who.get("/api/users?limit=3").json
    rest = who.get(f"/api/users?after={users['next']}").json
    assert [user["name"] for user in users["items"] + rest["items"]][:4] == ["ada", "olga", "otto", "vera"]


def test_fifty_posts_with_one_key_start_one_run(site: Site) -> None:
    """Acceptance 7, first half."""
    who = site.token("otto")
    before = who.get("/api/balance").json["total"]
    answers = at_once(50, lambda _: who.post("/api/run", HELLO, {"Idempotency-Key": "one"}))
    assert sorted(answer.status for answer in answers) == [200] * 49 + [201]
    (run_id,) = {answer.json["id"] for answer in answers}
    ended(who, run_id)
    assert who.get("/api/balance").json["total"] == before - 2
    other = who.post("/api/run", {**HELLO, "total": 2}, {"Idempotency-Key": "one"})
    assert other.status == 409
    assert site.token("olga").post("/api/run", HELLO, {"Idempotency-Key": "one"}).status == 201


def test_fifty_posts_over_the_balance_leave_the_ledger_exact(tmp_path: Path) -> None:
    """Acceptance 7, second half: 20 credits pay for ten units of two."""
    with launched(tmp_path, balance=20) as site:
        who = site.token("otto")
        answers = at_once(50, lambda n: who.post("/api/run", HELLO, {"Idempotency-Key": f"key-{n}"}))
        statuses = [answer.status for answer in answers]
        assert (statuses.count(201), statuses.count(402)) == (10, 40)
        refused = next(answer for answer in answers if answer.status == 402)
        assert refused.headers["Content-Type"] == "application/problem+json"
        for answer in answers:
            if answer.status == 201:
                ended(who, answer.json["id"])
        assert who.get("/api/balance").json == {"total": 0, "held": 0, "available": 0}
        entries = who.get("/api/ledger?limit=500").json["items"]
        kinds = [(entry["kind"], entry["amount"]) for entry in entries]
        assert sum(amount for kind, amount in kinds if kind == "capture") == 20
        assert kinds.count(("credit", 20)) == 1
        assert len(who.get("/api/runs?limit=100").json["items"]) == 10


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def test_admins_make_users_and_give_credit(site: Site) -> None:
    ada = site.login("ada")
    new = {"name": "nora", "role": "operator", "password": "another long one"}
    made = ada.post("/api/users", new)
    assert (made.status, made.json["balance"]) == (201, {"total": 0, "held": 0, "available": 0})
    assert ada.post("/api/users", new).status == 409
    for body in ({**new, "name": "N"}, {**new, "role": "root"}, {**new, "password": "short"}):
        assert ada.post("/api/users", body).status == 400
    assert ada.post("/api/users/nora/credit", {"amount": 5, "reason": "welcome"}).json["total_after"] == 5
    assert ada.post("/api/users/nobody/credit", {"amount": 5, "reason": "x"}).status == 404
    for wrong in ({"amount": 0, "reason": "x"}, {"amount": -5, "reason": "x"}, {"amount": 5}):
        assert ada.post("/api/users/nora/credit", wrong).status == 400
    assert site.anyone().post("/api/login", {"name": "nora", "password": new["password"]}).status == 200
    actions = {(entry["actor"], entry["action"]) for entry in ada.get("/api/audit").json["items"]}
    assert {("ada", "user add"), ("ada", "credit"), ("nora", "login")} <= actions


def test_configured_users_follow_their_secret_and_keep_their_own_changes(tmp_path: Path) -> None:
    with launched(tmp_path) as site:
        script = site.token("olga")
        assert script.get("/api/balance").json["total"] == 1000
    accounts = tmp_path / "data" / "accounts.sqlite3"
    with launched(tmp_path) as site:
        script.port = site.port
        assert script.get("/api/balance").json["total"] == 1000, "the opening balance is given once"
    assert accounts.stat().st_mode & 0o077 == 0
    with launched(tmp_path, word="an entirely new one") as site:
        script.port = site.port
        assert script.get("/api/me").status == 401, "tokens end with the password"
        assert site.anyone().post("/api/login", {"name": "olga", "password": WORD}).status == 401
        assert site.anyone().post("/api/login", {"name": "olga", "password": "an entirely new one"}).status == 200
    rows = sqlite3.connect(accounts).execute("SELECT actor, object FROM audit WHERE action = 'password'").fetchall()
    assert ("configuration", "olga") in rows


def test_configuration_shows_tunables_with_their_bounds(site: Site) -> None:
    shown = site.login("vera").get("/api/config").json
    assert set(shown["tunables"]) == set(shown["tunables_info"])
    assert shown["tunables"]["log_push_interval"] == 150
    assert 1 <= shown["effective_max_parallel_limit"] <= shown["tunables"]["max_parallel_limit"]
    assert [template["name"] for template in shown["templates"]] == ["hello", "sleep"]
    assert "/bin/sleep" not in json.dumps(shown["templates"]), "what a template runs is nobody's business"


def test_health_and_readiness(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [site.anyone().get(path).status for path in ("/healthz", "/readyz")] == [200, 200]
    monkeypatch.setattr(site.server, "draining", True)
    assert [site.anyone().get(path).status for path in ("/healthz", "/readyz")] == [200, 503]


def test_health_is_the_databases(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> None:
        raise OSError("disk")

    monkeypatch.setattr(site.server.engine, "check", broken)
    monkeypatch.setattr(site.server, "_checked", None)
    answer = site.anyone().get("/healthz")
    assert (answer.status, answer.headers["Content-Type"]) == (503, "application/problem+json")
    monkeypatch.setattr(site.server, "_checked", None)


def test_many_health_checks_share_one_write(site: Site) -> None:
    before = site.do(site.server.engine.metrics)["database_commits_total"]
    at_once(20, lambda _: site.anyone().get("/healthz"))
    assert site.do(site.server.engine.metrics)["database_commits_total"] - before <= 5


def test_the_bundle_is_served_with_caching(site: Site) -> None:
    who = site.anyone()
    index, script = who.get("/"), who.get("/assets/index-4f3a.js")
    assert index.body == who.get("/runs/some-page").body == BUNDLE["index.html"].encode()
    assert (index.headers["Cache-Control"], index.headers["Content-Type"]) == ("no-cache", "text/html")
    assert "immutable" in script.headers["Cache-Control"]
    assert script.headers["Content-Type"] == "text/javascript"
    assert who.get("/", {"If-None-Match": index.headers["ETag"]}).status == 304
    packed = who.get("/assets/index-4f3a.js", {"Accept-Encoding": "gzip, br"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == script.body == BUNDLE["assets/index-4f3a.js"].encode()
    head = who.ask("HEAD", "/")
    assert (head.status, head.body) == (200, b"")


def test_the_page_is_told_where_there_is_none(tmp_path: Path) -> None:
    with launched(tmp_path, static_dir="nowhere") as site:
        assert site.anyone().get("/").status == 404


def test_half_an_answer_ends_broken_not_whole(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    who = site.token("olga")
    run = ended(who, who.post("/api/run", HELLO).json["id"])

    async def breaks(_: str) -> Any:
        yield b"half"
        raise OSError("disk")

    monkeypatch.setattr(site.server.engine, "download_log", breaks)
    with pytest.raises((ConnectionError, Exception)) as broken:
        who.get(f"/api/runs/{run['id']}/log/download")
    assert type(broken.value).__name__ in ("IncompleteRead", "ConnectionResetError", "RemoteDisconnected")


def test_garbage_on_the_wire_harms_nobody(site: Site) -> None:
    for garbage in (
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/login HTTP/1.1\r\n",
    ):
        with socket.create_connection(("127.0.0.1", site.port), timeout=5) as raw:
            raw.sendall(garbage)
    assert site.anyone().get("/healthz").status == 200


def test_the_log_of_requests_holds_no_secrets(
    site: Site, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    journal.begin()
    who = site.login("olga")
    who.get("/api/runs?limit=3")
    who.get("/api/me", {"Authorization": "Bearer some-secret-token"})
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    shown = json.dumps(lines)
    assert [line["path"] for line in lines if line["logger"] == "job_launcher.access"] == [
        "/api/login", "/api/runs", "/api/me",
    ]  # fmt: skip
    assert lines[1]["user"] == "olga"
    for secret in (WORD, "some-secret-token", *who.headers.values()):
        assert secret not in shown

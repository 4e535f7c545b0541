# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import http.client
import re
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_launcher.web.limits import Limits
from tests.web.harness import WORD, Site, Who, launched

UNSAFE = [
    ("POST", "/api/run", {"template": "hello", "total": 1}),
    ("POST", "/api/tokens", {"name": "x", "expires_in_days": 1}),
    ("POST", "/api/logout", None),
    ("POST", "/api/users", {"name": "eve", "role": "admin", "password": WORD}),
    ("POST", "/api/users/ada/credit", {"amount": 1, "reason": "x"}),
    ("POST", "/api/runs/r_" + "a" * 20 + "/stop", None),
    ("POST", "/api/numbers/n_" + "a" * 20 + "/retry", None),
    ("POST", "/api/numbers/n_" + "a" * 20 + "/drop", {"reason": "x"}),
    ("DELETE", "/api/tokens/t_" + "a" * 20, None),
]


@pytest.mark.parametrize(
    "path",
    [
        "/../../../etc/passwd",
        "/..%2f..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/assets/../../secret",
        "/assets/..%5c..%5csecret",
        "//etc/passwd",
        "/assets/%00",
        "/api/runs/..%2f..%2fsecret/log",
        "/api/runs/r_aaaaaaaaaaaaaaaaaaaa%2f..%2fx/log/download",
    ],
)
def test_no_path_leads_out_of_the_bundle(site: Site, path: str) -> None:
    """http.client sends the path as it is."""
    answer = site.login("ada").get(path)
    assert answer.status in (200, 404)
    assert b"root:" not in answer.body
    assert WORD.encode() not in answer.body
    if answer.status == 200:
        assert b"<title>Launcher" in answer.body


@pytest.mark.parametrize(("method", "path", "body"), UNSAFE)
@pytest.mark.parametrize("token", [None, "", "wrong", "é"])
def test_a_cookie_alone_changes_nothing(site: Site, method: str, path: str, body: object, token: str | None) -> None:
    who = site.login("ada")
    del who.headers["X-CSRF-Token"]
    answer = who.ask(method, path, body, {} if token is None else {"X-CSRF-Token": token})
    assert (answer.status, answer.json["status"]) == (403, 403)
    assert "X-CSRF-Token" in answer.json["detail"]


def test_another_sessions_csrf_token_is_worth_nothing(site: Site) -> None:
    ada, olga = site.login("ada"), site.login("olga")
    answer = ada.post("/api/logout", None, {"X-CSRF-Token": olga.headers["X-CSRF-Token"]})
    assert answer.status == 403


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_other_sites_pages_are_refused_even_with_the_token(site: Site, headers: dict[str, str]) -> None:
    assert site.login("ada").post("/api/logout", None, headers).status == 403
    body = {"name": "ada", "password": WORD}
    assert site.anyone().post("/api/login", body, headers).status == 403, "nobody is logged in by another site"


def test_a_planted_session_is_not_the_one_that_a_login_gives(site: Site) -> None:
    planted = "launcher_session=" + "A" * 43
    answer = site.anyone().post("/api/login", {"name": "ada", "password": WORD}, {"Cookie": planted})
    assert answer.cookie not in ("", planted)
    assert Who(site.port, {"Cookie": planted}).get("/api/me").status == 401


def test_a_second_login_ends_the_first_session_of_that_browser(site: Site) -> None:
    first = site.login("olga")
    site.login("olga", {"Cookie": first.headers["Cookie"]})
    assert first.get("/api/me").status == 401


def test_the_cookie_is_for_our_own_pages_only(site: Site) -> None:
    cookie = site.anyone().post("/api/login", {"name": "ada", "password": WORD}).headers["Set-Cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=Strict"} <= set(cookie.split("; "))
    assert "Domain" not in cookie


def test_the_cookie_needs_tls_unless_the_public_address_has_none(tmp_path: Path) -> None:
    with launched(tmp_path, public_url="https://launcher.example") as secure:
        answer = secure.anyone().post("/api/login", {"name": "ada", "password": WORD})
        assert "Secure" in answer.headers["Set-Cookie"].split("; ")
        assert "max-age" in answer.headers["Strict-Transport-Security"]


def test_logout_ends_the_session_and_nothing_else(site: Site) -> None:
    one, two = site.login("vera"), site.login("vera")
    assert one.post("/api/logout", None).status == 204
    assert (one.get("/api/me").status, two.get("/api/me").status) == (401, 200)


def test_no_secret_is_in_the_database(site: Site) -> None:
    who, script = site.login("ada"), site.token("ada")
    held = b"".join(path.read_bytes() for path in site.data_dir.rglob("accounts.sqlite3*"))
    assert len(held) > 1000
    for secret in (
        WORD,
        who.headers["Cookie"].partition("=")[2],
        who.headers["X-CSRF-Token"],
        script.headers["Authorization"].partition(" ")[2],
    ):
        assert secret.encode() not in held


def test_a_token_is_shown_once_and_taken_back(site: Site) -> None:
    who = site.login("otto")
    made = who.post("/api/tokens", {"name": "ci", "expires_in_days": 1}).json
    script = Who(site.port, {"Authorization": f"Bearer {made['token']}"})
    assert script.get("/api/me").json == {
        "user": {"name": "otto", "role": "operator"},
        "csrf_token": None,
        "balance": who.get("/api/balance").json,
    }
    assert made["token"] not in who.get("/api/tokens").body.decode()
    assert script.post("/api/tokens", {"name": "more", "expires_in_days": 1}).status == 403
    assert site.login("olga").ask("DELETE", f"/api/tokens/{made['id']}").status == 404
    assert who.ask("DELETE", f"/api/tokens/{made['id']}").status == 204
    assert script.get("/api/me").status == 401


def test_a_wrong_token_is_not_made_good_by_a_cookie(site: Site) -> None:
    assert site.login("ada").get("/api/me", {"Authorization": "Bearer wrong"}).status == 401
    assert site.login("ada").get("/api/me", {"Authorization": "Basic YWRhOng="}).status == 401


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Site]:
    limits = Limits(failures_by_name=3, failures_by_address=6, requests_per_second=1.0, request_burst=100)
    with launched(tmp_path, limits, trusted_proxies=["127.0.0.0/8"]) as found:
        yield found


def test_guessing_at_one_name_is_stopped_even_from_many_addresses(strict: Site) -> None:
    guesses = [_guess(strict, "ada", "wrong", f"198.51.100.{number}") for number in range(5)]
    assert guesses == [401, 401, 401, 429, 429]
    assert _guess(strict, "ada", WORD, "198.51.100.9") == 429, "the right one doesn't tell either"
    assert _guess(strict, "olga", WORD, "198.51.100.9") == 200, "others log in as ever"


def test_guessing_from_one_address_is_stopped_over_many_names(strict: Site) -> None:
    guesses = [_guess(strict, f"n{number}", "wrong", "198.51.100.7") for number in range(8)]
    assert guesses == [401] * 6 + [429] * 2
    assert _guess(strict, "ada", WORD, "198.51.100.7") == 429
    assert _guess(strict, "ada", WORD, "198.51.100.8") == 200


def test_many_guesses_at_once_are_no_more_guesses(strict: Site) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda n=number: found.append(_guess(strict, "ada", "wrong", f"203.0.113.{n}")))
        for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(401) <= 3
    assert set(found) == {401, 429}


def test_a_refusal_says_when_to_come_again_and_is_written_down(strict: Site) -> None:
    for _ in range(3):
        _guess(strict, "ada", "a password in", "198.51.100.7")
    _guess(strict, "hunter2-in-the-wrong-field", "x", "198.51.100.6")
    refused = strict.anyone().post("/api/login", {"name": "ada", "password": WORD})
    assert 1 <= int(refused.headers["Retry-After"]) <= 300
    held = sqlite3.connect(strict.data_dir / "accounts.sqlite3").execute("SELECT object, address FROM audit").fetchall()
    assert held.count(("ada", "198.51.100.7")) == 3
    assert ("unknown name", "198.51.100.6") in held
    assert "hunter2" not in str(held)


def test_one_caller_can_not_take_all_requests(strict: Site) -> None:
    olga, otto = strict.login("olga"), strict.login("otto")
    found = [olga.get("/api/balance").status for _ in range(110)]
    assert found[:90] == [200] * 90
    assert found[-1] == 429
    assert otto.get("/api/balance").status == 200
    assert strict.anyone().get("/healthz").status == 200


def _guess(site: Site, name: str, password: str, address: str) -> int:
    return site.anyone().post("/api/login", {"name": name, "password": password}, {"X-Forwarded-For": address}).status


def test_a_body_that_is_too_large_is_refused_before_it_has_come(site: Site) -> None:
    for chunked in (False, True):
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
        connection.putrequest("POST", "/api/login")
        connection.putheader("Content-Type", "application/json")
        connection.putheader(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(10**9))))
        connection.endheaders()
        piece = b"a" * 40_000
        for _ in range(3):
            try:
                connection.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            except OSError:
                break
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Type"]) == (413, "application/problem+json")
        connection.close()


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    with (
        launched(tmp_path, Limits(body_seconds=0.3)) as site,
        socket.create_connection(("127.0.0.1", site.port)) as raw,
    ):
        raw.settimeout(5)
        raw.sendall(
            b"POST /api/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 400 ")


def test_header_fields_that_are_too_large_are_refused(site: Site) -> None:
    assert site.anyone().get("/api/me", {"X-Large": "a" * 20_000}).status == 400


def test_another_owners_run_looks_like_none(site: Site) -> None:
    olga, otto, ada = site.login("olga"), site.login("otto"), site.login("ada")
    run = olga.post("/api/run", {"template": "hello", "total": 1}).json["id"]
    unknown = "r_" + "a" * 20
    for path in ("", "/units", "/log", "/log/download"):
        foreign, missing = otto.get(f"/api/runs/{run}{path}"), otto.get(f"/api/runs/{unknown}{path}")
        assert foreign.status == missing.status == 404
        assert _told(foreign.body) == _told(missing.body)
        assert olga.get(f"/api/runs/{run}{path}").status == 200
        assert ada.get(f"/api/runs/{run}{path}").status == 200
    assert otto.post(f"/api/runs/{run}/stop", None).status == 404
    assert run not in otto.get("/api/runs").body.decode()
    assert run in ada.get("/api/runs").body.decode()
    assert run in olga.get("/api/runs").body.decode()


def _told(body: bytes) -> bytes:
    return re.sub(rb'"request_id": "[0-9a-f]+"', b"", body)


def test_viewers_start_nothing_and_operators_manage_nobody(site: Site) -> None:
    vera, olga = site.login("vera"), site.login("olga")
    assert vera.post("/api/run", {"template": "hello", "total": 1}).status == 403
    assert vera.get("/api/runs").status == 200
    assert olga.post("/api/users", {"name": "eve", "role": "admin", "password": WORD}).status == 403
    assert olga.post("/api/users/olga/credit", {"amount": 9, "reason": "x"}).status == 403
    assert [olga.get(path).status for path in ("/api/users", "/api/audit")] == [403, 403]


def test_no_address_takes_reports_of_workers(site: Site) -> None:
    """Workers report through a pipe that they inherit: there is nothing on the network to forge reports to."""
    described = site.anyone().get("/api/openapi.json").json["paths"]
    assert not [path for path in described if re.search("report|callback|worker|acquired|hook", path)]
    ada = site.login("ada")
    run = ada.post("/api/run", {"template": "hello", "total": 1}).json["id"]
    for path in (f"/api/runs/{run}/units", f"/api/runs/{run}", "/api/report", "/api/worker/report"):
        answer = ada.post(path, {"type": "result", "success": True})
        assert answer.status in (404, 405)


def test_metrics_are_for_the_inside_and_for_admins(site: Site) -> None:
    direct = site.anyone().get("/metrics")
    assert (direct.status, direct.headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    assert b"launcher_http_requests_total" in direct.body
    through = {"X-Forwarded-For": "198.51.100.1"}
    assert site.anyone().get("/metrics", through).status == 401
    assert site.token("olga").get("/metrics", through).status == 403
    assert site.token("ada").get("/metrics", through).status == 200


@pytest.mark.parametrize("path", ["/", "/api/me", "/api/nothing", "/assets/index-4f3a.js", "/healthz"])
def test_every_response_has_the_headers_that_bind_browsers(site: Site, path: str) -> None:
    headers = site.anyone().get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "aiohttp" not in headers["Server"].lower()
    assert "Python" not in headers["Server"]
    assert headers["X-Request-Id"]

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import ipaddress
import sqlite3

import pytest
from job_launcher import passwords
from job_launcher.store import audit, sessions, users
from job_launcher.web import callers
from job_launcher.web.limits import Buckets, Failures

DAY = 24 * 3_600_000


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def db() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript(users.SCHEMA + sessions.SCHEMA + audit.SCHEMA)
    users.add(connection, users.User("ada", "operator", "hash", None, 0, 0))
    return connection


def test_a_password_matches_only_itself_and_salts_differ() -> None:
    one, two = passwords.hashed("correct horse"), passwords.hashed("correct horse")
    assert one != two
    assert "correct" not in one
    assert passwords.matches("correct horse", one)
    assert not passwords.matches("correct horsf", one)
    assert not passwords.matches("", passwords.nobody())


def test_the_csrf_token_belongs_to_its_session() -> None:
    assert passwords.csrf_token("a") == passwords.csrf_token("a") != passwords.csrf_token("b")


def test_sessions_end_by_idling_and_by_age_however_busy(db: sqlite3.Connection) -> None:
    sessions.open_session(db, "s", None, "ada", 0)
    idle = sessions.IDLE_MS
    assert sessions.session_holder(db, "s", idle) is not None
    assert sessions.session_holder(db, "s", idle + 1) is None
    for now in range(0, sessions.ABSOLUTE_MS + 1, idle // 2):
        sessions.note_session_use(db, "s", now)
    assert sessions.session_holder(db, "s", sessions.ABSOLUTE_MS) is not None
    assert sessions.session_holder(db, "s", sessions.ABSOLUTE_MS + 1) is None


def test_a_login_ends_the_session_that_the_browser_brought(db: sqlite3.Connection) -> None:
    sessions.open_session(db, "planted", None, "ada", 0)
    sessions.open_session(db, "fresh", "planted", "ada", 1)
    assert sessions.session_holder(db, "planted", 2) is None
    assert sessions.session_holder(db, "fresh", 2) is not None


def test_a_user_has_so_many_sessions_and_the_oldest_goes(db: sqlite3.Connection) -> None:
    for number in range(sessions.MAX_SESSIONS + 1):
        sessions.open_session(db, f"s{number}", None, "ada", number)
    assert sessions.session_holder(db, "s0", 100) is None
    assert sessions.session_holder(db, "s1", 100) is not None


def test_tokens_end_are_bounded_and_only_their_user_takes_them_back(db: sqlite3.Connection) -> None:
    for number in range(sessions.MAX_TOKENS):
        assert sessions.add_token(db, sessions.Token(f"t{number}", "x", 0, DAY, None), f"h{number}", "ada")
    assert not sessions.add_token(db, sessions.Token("more", "x", 0, DAY, None), "h", "ada")
    assert sessions.token_holder(db, "h0", DAY - 1) is not None
    assert sessions.token_holder(db, "h0", DAY) is None
    assert sessions.delete_token(db, "eve", "t0") is None
    assert sessions.delete_token(db, "ada", "t0") == "h0"
    assert sessions.token_holder(db, "h0", 1) is None


def test_the_audit_keeps_the_newest(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_ENTRIES", 3)
    for at in range(5):
        audit.write(db, audit.Entry(at, "ada", "login"))
    assert [entry.at for _, entry in audit.page(db, 2**62, 10)] == [4, 3, 2]


def test_a_bucket_empties_and_fills_for_each_key() -> None:
    clock = Clock()
    buckets = Buckets(2.0, 3, clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    clock.now += 0.5
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0


def test_failures_count_from_their_beginning_and_are_forgotten_after_the_window() -> None:
    clock = Clock()
    failures = Failures(2, 60.0, clock)
    failures.begin("a")
    failures.begin("a")
    assert failures.wait("a") == 60.0
    assert failures.wait("b") == 0
    failures.forgive("a")
    assert failures.wait("a") == 0
    failures.begin("a")
    clock.now += 60.1
    assert failures.wait("a") == 0


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # not a proxy of ours: its word counts nothing
        ("10.0.0.2", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.2", "1.1.1.1, 198.51.100.1", "198.51.100.1"),  # what the caller wrote itself is left
        ("10.0.0.2", "198.51.100.1, 10.0.0.3", "198.51.100.1"),
        ("10.0.0.2", "nonsense", "10.0.0.2"),
        ("10.0.0.2", None, "10.0.0.2"),
        ("::ffff:10.0.0.2", "198.51.100.1", "198.51.100.1"),
    ],
)
def test_only_trusted_proxies_say_who_the_caller_is(peer: str, forwarded: str | None, address: str) -> None:
    assert callers.caller_address(peer, forwarded, (ipaddress.ip_network("10.0.0.0/8"),)) == address


def test_one_ipv6_customer_is_one_key() -> None:
    assert callers.limit_key("2001:db8::1") == callers.limit_key("2001:db8::ffff")
    assert callers.limit_key("2001:db8::1") != callers.limit_key("2001:db8:0:1::1")


@pytest.mark.parametrize(
    ("origin", "site", "host", "public_url", "allowed"),
    [
        (None, None, "x", None, True),
        ("https://x", None, "x", None, True),
        ("https://evil", None, "x", None, False),
        ("null", None, "x", None, False),
        ("https://x.evil", None, "x", "https://x", False),
        ("https://x", None, "inner:8080", "https://x", True),
        ("http://x", None, "x", "https://x", False),
        ("http://localhost:8080", None, "localhost:8080", "http://127.0.0.1:8080", True),
        (None, "cross-site", "x", None, False),
        ("https://x", "same-origin", "x", "https://x", True),
    ],
)
def test_only_our_own_pages_speak_for_their_user(
    origin: str | None, site: str | None, host: str, public_url: str | None, allowed: bool
) -> None:
    assert callers.origin_allowed(origin, site, host, public_url) is allowed

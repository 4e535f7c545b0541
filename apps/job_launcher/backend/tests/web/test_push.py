# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import sqlite3
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import socketio
from job_launcher.model import Event
from job_launcher.store import sessions
from job_launcher.web.limits import Limits
from job_launcher.web.viewers import Tail
from tests.web.harness import Site, Who, launched
from tests.web.process import Launched, process
from tests.web.watcher import Watcher

HELLO = {"template": "hello", "total": 1}
PRINT = "import time\nfor n in range({}):\n    print('%06d' % n + 'x' * 93, flush=True)\n    time.sleep({})"
TALK = {
    "title": "Talk", "argv": [sys.executable, "-c", PRINT.format(400, 0.01)], "price": 1,
}  # fmt: skip
FOUR = {"template": "flood", "total": 4, "max_parallel": 1}
FLOOD = {
    "title": "Flood",
    "argv": ["/bin/sh", "-c", f"yes {'0123456789' * 40} | head -c 4000000"],
    "price": 1,
}


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 50))


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    templates = {"talk": TALK, "hello": {"argv": ["/bin/echo", "hello"], "price": 2}}
    tunables = {"worker_start_stagger": 0, "client_buffer": 65536, "status_report_wait": 0.5}
    with launched(tmp_path_factory.mktemp("push"), templates=templates, tunables=tunables) as site:
        yield site


def test_a_tail_keeps_the_last_bytes_and_knows_what_it_has_not() -> None:
    tail = Tail(10)
    tail.add(100, b"abcde")
    tail.add(105, b"fghij")
    assert (tail.since(100), tail.since(103), tail.since(107)) == (b"abcdefghij", b"defghij", b"hij")
    assert (tail.since(110), tail.since(99)) == (b"", None)
    tail.add(110, b"klmno")
    assert (tail.start, tail.since(104), tail.since(105)) == (105, None, b"fghijklmno")
    tail.add(200, b"z")
    assert (tail.since(114), tail.since(200)) == (None, b"z")


def test_a_run_is_pushed_from_its_start_to_its_last_byte(talking: Site) -> None:
    who = talking.token("olga")

    async def work() -> None:
        watcher = await Watcher(who).connect()
        await watcher.until(lambda: watcher.got("hello") and watcher.events[1:])
        assert set(watcher.got("hello")[0]) == {"version", "server_time", "instance"}
        assert watcher.got("banner") == [None]
        started = (await asyncio.to_thread(who.post, "/api/run", HELLO)).json
        watcher.run_id = started["id"]
        await watcher.follow()
        await watcher.until(lambda: any(run["status"] == "succeeded" for run in watcher.got("run")))
        final = watcher.got("run")[-1]
        await watcher.until(lambda: len(watcher.log) == final["log_size"])
        assert bytes(watcher.log) == (await asyncio.to_thread(who.get, f"/api/runs/{final['id']}/log/download")).body
        assert set(final) == set(started)
        assert [unit["status"] for unit in watcher.got("unit")][-1] == "succeeded"
        assert watcher.got("balance")[-1] == who.get("/api/balance").json
        await watcher.client.disconnect()

    run(work)


def test_a_viewer_cut_off_under_load_has_every_byte_in_the_end(talking: Site) -> None:
    """Acceptance 5, with a shorter absence: the log grows past the client's buffer meanwhile, so that it must pull."""
    who = talking.token("otto")

    async def work() -> None:
        run_id = (await asyncio.to_thread(who.post, "/api/run", {"template": "talk", "total": 4})).json["id"]
        watcher = await Watcher(who, run_id).connect()
        await watcher.until(lambda: len(watcher.log) > 20_000)
        watcher.client.eio.ws._response.connection.transport.abort()  # as a network that goes away
        await watcher.until(lambda: not watcher.client.connected)
        held, grown = bytes(watcher.log), 0
        while grown < len(held) + 70_000:
            await asyncio.sleep(0.1)
            grown = (await asyncio.to_thread(who.get, f"/api/runs/{run_id}")).json["log_size"]
        back = Watcher(who, run_id)
        back.log += held
        await back.connect()
        await back.until(lambda: any(run["ended_at"] for run in back.got("run")))
        whole = (await asyncio.to_thread(who.get, f"/api/runs/{run_id}/log/download")).body
        await back.until(lambda: len(back.log) >= len(whole))
        assert bytes(back.log) == whole
        assert back.lagged >= 1
        assert whole.count(b"x\n") == 1600
        await back.client.disconnect()

    run(work)


def test_events_of_others_are_not_pushed(talking: Site) -> None:
    olga, otto, ada = talking.token("olga"), talking.token("otto"), talking.token("ada")

    async def work() -> None:
        foreign, own, admin = [await Watcher(who).connect() for who in (otto, olga, ada)]
        run_id = (await asyncio.to_thread(olga.post, "/api/run", HELLO)).json["id"]
        answer = await foreign.ask("subscribe", {"run_id": run_id, "from": 0})
        unknown = await foreign.ask("subscribe", {"run_id": "r_" + "a" * 20, "from": 0})
        assert answer == unknown == {"ok": False, "error": "There is no such run."}
        assert (await admin.ask("subscribe", {"run_id": run_id, "from": 0}))["ok"]
        for watcher in (own, admin):
            await watcher.until(lambda each=watcher: any(run["ended_at"] for run in each.got("run")))
        await asyncio.sleep(0.3)
        assert not foreign.got("run") + foreign.got("unit") + foreign.got("balance")
        assert own.got("balance")
        assert not admin.got("balance")
        for watcher in (foreign, own, admin):
            await watcher.client.disconnect()

    run(work)


@pytest.mark.parametrize(
    "data",
    [None, "x", [], {}, {"run_id": "r_" + "a" * 20}, {"run_id": "../../etc", "from": 0},
     {"run_id": "r_" + "a" * 20, "from": -1}, {"run_id": "r_" + "a" * 20, "from": "0"},
     {"run_id": "r_" + "a" * 20, "from": 0, "more": 1}],
)  # fmt: skip
def test_wrong_subscriptions_are_refused(talking: Site, data: object) -> None:
    async def work() -> None:
        watcher = await Watcher(talking.token("olga")).connect()
        answer = await watcher.ask("subscribe", data)
        assert answer["ok"] is False
        assert answer["error"]
        await watcher.client.disconnect()

    run(work)


def test_asking_a_lot_is_refused(talking: Site) -> None:
    async def work() -> None:
        watcher = await Watcher(talking.token("olga")).connect()
        data = {"run_id": "r_" + "a" * 20, "from": 0}
        errors = {(await watcher.ask("subscribe", data))["error"] for _ in range(60)}
        assert "too many requests; slow down" in errors
        await watcher.client.disconnect()

    run(work)


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("EIO=4&transport=websocket", {}, 401),
        ("EIO=4&transport=websocket", {"Authorization": "Bearer wrong"}, 401),
        ("EIO=4&transport=websocket", {"me": "", "Origin": "https://evil.example"}, 403),
        ("EIO=4&transport=polling", {"me": ""}, 400),
        ("EIO=3&transport=websocket", {"me": ""}, 400),
        ("EIO=4&transport=websocket&sid=x", {"me": ""}, 400),
        ("EIO=4&transport=websocket", {"me": "", "Upgrade": "h2c"}, 400),
    ],
)
def test_only_known_callers_of_our_own_pages_connect(
    talking: Site, query: str, headers: dict[str, str], status: int
) -> None:
    sent = {"Connection": "Upgrade", "Upgrade": "websocket", **headers}
    if "me" in sent:
        del sent["me"]
        sent["Cookie"] = talking.login("olga").headers["Cookie"]
    answer = talking.anyone().get(f"/socket.io/?{query}", sent)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")


def test_a_socket_ends_with_its_session(talking: Site) -> None:
    async def work() -> None:
        one, two = talking.login("vera"), talking.login("vera")
        first, second = await Watcher(one).connect(), await Watcher(two).connect()
        await asyncio.to_thread(one.post, "/api/logout", None)
        await first.until(lambda: not first.client.connected)
        await asyncio.sleep(0.2)
        assert second.client.connected
        with pytest.raises(socketio.exceptions.ConnectionError):
            await Watcher(one).connect()
        await second.client.disconnect()

    run(work)


def test_a_socket_ends_when_the_session_is_ended_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("job_launcher.web.push.REVALIDATE_SECONDS", 0.3)
    with launched(tmp_path) as site:

        async def work() -> None:
            watcher = await Watcher(site.login("vera")).connect()
            await asyncio.sleep(0.8)
            assert watcher.client.connected
            with sqlite3.connect(site.data_dir / "accounts.sqlite3") as db:
                sessions.close_all(db, "vera")
            await watcher.until(lambda: not watcher.client.connected, 5)

        run(work)


def test_one_user_has_so_many_sockets(tmp_path: Path) -> None:
    with launched(tmp_path, Limits(sockets_per_user=2)) as site:

        async def work() -> None:
            who = site.token("olga")
            held = [await Watcher(who).connect() for _ in range(2)]
            with pytest.raises(socketio.exceptions.ConnectionError):
                await Watcher(who).connect()
            other = await Watcher(site.token("otto")).connect()
            await held[0].client.disconnect()
            await asyncio.sleep(0.3)
            held[0] = await Watcher(who).connect()
            for watcher in (*held, other):
                await watcher.client.disconnect()

        run(work)


def test_a_message_that_is_too_large_ends_the_connection(tmp_path: Path) -> None:
    tunables = {"socketio_max_http_buffer_size": 2000}
    with launched(tmp_path, tunables=tunables) as site:

        async def work() -> None:
            watcher = await Watcher(site.token("olga")).connect()
            await watcher.client.emit("subscribe", {"run_id": "a" * 5000})
            await watcher.until(lambda: not watcher.client.connected)

        run(work)


#: Viewers that never read.
DEAF = 5


class Deaf:
    """A raw WebSocket that asks for everything and reads nothing."""

    def __init__(self, port: int, who: Who, run_id: str) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", port))
        self.socket.settimeout(10)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket",
            "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in who.headers.items()), "", "",
        ]  # fmt: skip
        self.socket.sendall("\r\n".join(lines).encode())
        assert self.socket.recv(4096).startswith(b"HTTP/1.1 101 ")
        self.send("40")
        self.send("42" + json.dumps(["subscribe", {"run_id": run_id, "from": 0}]))

    def send(self, text: str) -> None:
        data = text.encode()
        length = bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0x80 | 126]) + struct.pack("!H", len(data))
        self.socket.sendall(b"\x81" + length + bytes(4) + data)


def test_viewers_that_never_read_cost_no_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Acceptance 6: sixty times a client's buffer is printed, to one who hears all, and then to five deaf ones too."""
    with process(tmp_path, names=["olga"], flood=FLOOD) as launcher:
        who = launcher.token("olga")
        peaks: dict[int, list[float]] = {0: [], DEAF: []}

        async def work() -> None:
            # The first time is for what any use leaves behind; twice each, as other things come and go in memory, too.
            for deaf_viewers in (0, 0, DEAF, 0, DEAF):
                started = (await asyncio.to_thread(who.post, "/api/run", FOUR)).json
                deaf = [Deaf(launcher.port, who, started["id"]) for _ in range(deaf_viewers)]
                peaks[deaf_viewers].append(await _peak_while_heard(launcher, who, started["id"]) / 2**20)
                for each in deaf:
                    each.socket.close()

        run(work)
    heard, unread = max(peaks[0][1:]), min(peaks[DEAF])
    with capsys.disabled():
        print(f"\n  16 MB of log: peak RSS {heard:.1f} MiB, and {unread:.1f} MiB with {DEAF} deaf viewers beside it")
    assert unread - heard < 5


async def _peak_while_heard(launcher: Launched, who: Who, run_id: str) -> int:
    """The most memory in use while a run goes on; its one hearing viewer has every byte in the end."""
    hearing, peak = await Watcher(who, run_id).connect(), 0
    while not any(run["ended_at"] for run in hearing.got("run") if run["id"] == run_id):
        peak = max(peak, launcher.resident())
        await asyncio.sleep(0.05)
    whole = (await asyncio.to_thread(who.get, f"/api/runs/{run_id}/log/download")).body
    await hearing.until(lambda: len(hearing.log) >= len(whole))
    assert bytes(hearing.log) == whole
    assert len(whole) > 16_000_000
    await hearing.client.disconnect()
    return peak


def test_states_beyond_the_bound_cut_a_deaf_client_off(talking: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("job_launcher.web.push.MAX_STATES", 50)
    who = talking.token("olga")

    async def work() -> None:
        watcher = await Watcher(who).connect()
        await watcher.until(lambda: watcher.got("hello"))

        def flood() -> None:
            for number in range(60):
                talking.server.engine._emit(Event("unit", "olga", "r", {"id": f"u{number}"}))

        talking.do(flood)
        await watcher.until(lambda: not watcher.client.connected)

    run(work)


def test_idle_costs_next_to_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Acceptance 2: three clients connected, nothing happens."""
    seconds = 8.0
    with process(tmp_path, names=["ada"]) as launcher:
        who = launcher.token("ada")

        async def work() -> None:
            watchers = [await Watcher(who).connect() for _ in range(3)]
            await asyncio.sleep(2.5)  # what starting left behind
            requests, cpu, begun = _requests(who), launcher.cpu_seconds(), time.monotonic()
            await asyncio.sleep(seconds)
            used = launcher.cpu_seconds() - cpu
            share = used / (time.monotonic() - begun) * 100
            asked = _requests(who) - requests - 1  # the first reading itself
            resident = launcher.resident() / 2**20
            with capsys.disabled():
                print(f"\n  idle, 3 clients, {seconds:.0f} s: {share:.2f} % of a core, {asked:.0f} requests,"
                      f" RSS {resident:.1f} MiB")  # fmt: skip
            assert asked == 0
            assert share <= 0.5
            assert resident <= 50
            for watcher in watchers:
                await watcher.client.disconnect()

        run(work)


def _requests(who: Who) -> float:
    """All requests that the launcher has answered, sockets' handshakes among them."""
    lines = who.get("/metrics").body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("launcher_http_requests_total{"))

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client against a real HTTP server on a Unix socket that answers as Docker's API does."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._swarm import Swarm, SwarmError


class Handler(BaseHTTPRequestHandler):
    """Serves one service; `rivals` writes of somebody else slip in before ours succeeds."""

    protocol_version = "HTTP/1.1"
    index = 7
    rivals = 0
    labels: dict[str, str]
    written: list[Any]
    answer: tuple[int, Any] | None = None

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/version":
            self.reply(200, {"ApiVersion": "1.41"})
        elif self.answer:
            self.reply(*self.answer)
        elif self.path == "/tasks":
            self.reply(200, None)
        else:
            assert self.path == "/v1.41/services/s"
            self.reply(200, {"Version": {"Index": self.index}, "Spec": {"Labels": dict(self.labels)}})

    def do_POST(self) -> None:
        spec = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if type(self).rivals:
            type(self).rivals -= 1
            type(self).index += 1
            self.labels[f"rival{self.index}"] = "1"
        if self.path != f"/v1.41/services/s/update?version={self.index}":
            self.reply(500, {"message": "rpc error: code = Unknown desc = update out of sequence"})
            return
        self.written.append(spec)
        self.reply(200, {"Warnings": None})


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def handler() -> type[Handler]:
    return type("Fresh", (Handler,), {"labels": {}, "written": []})


@pytest.fixture
def swarm(handler: type[Handler], tmp_path: Path) -> Iterator[Swarm]:
    with UnixServer(str(tmp_path / "s"), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield Swarm(f"unix://{tmp_path}/s")
        server.shutdown()


def add_limit(spec: Any) -> Any:
    return {**spec, "limit": 1}


def test_a_conflict_is_answered_by_reading_and_merging_anew(swarm: Swarm, handler: type[Handler]) -> None:
    handler.rivals = 3
    pauses: list[float] = []
    before = swarm.update_service("s", add_limit, pauses.append)
    assert handler.written == [{"Labels": {"rival8": "1", "rival9": "1", "rival10": "1"}, "limit": 1}]
    assert before["Version"]["Index"] == 10
    assert len(pauses) == 3


def test_conflicts_without_end_are_given_up(swarm: Swarm, handler: type[Handler]) -> None:
    handler.rivals = 10**6
    with pytest.raises(SwarmError) as raised:
        swarm.update_service("s", add_limit, lambda _: None)
    assert raised.value.code == "conflict"
    assert handler.written == []


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (
            503,
            "This node is not a swarm manager. Worker nodes can't be used",
            "not_a_manager",
        ),
        (503, 'This node is not part of a swarm. Use "docker swarm init"', "not_a_manager"),
        (503, "rpc error: code = Unknown desc = The swarm does not have a leader.", "swarm_unavailable"),
        (404, "service s not found", "not_found"),
        (400, "invalid memory value", "refused"),
        (500, "anything", "engine_error"),
    ],
)
def test_the_engines_answers_get_codes(
    swarm: Swarm, handler: type[Handler], status: int, message: str, code: str
) -> None:
    handler.answer = (status, {"message": message})
    with pytest.raises(SwarmError) as raised:
        swarm.services()
    assert raised.value.code == code
    assert raised.value.message in message
    assert raised.value.as_dict()["details"]["status"] == status


def test_a_null_list_is_an_empty_one(swarm: Swarm) -> None:
    assert swarm.tasks() == []


def test_no_engine_is_said_with_its_address(tmp_path: Path) -> None:
    with pytest.raises(SwarmError, match="no Docker engine answers at unix://") as raised:
        Swarm(f"unix://{tmp_path}/nothing").services()
    assert raised.value.code == "engine_unreachable"

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._containers import (
    Container,
    list_containers,
    parse_containers,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._engine import EngineError, parse_response


def item(identity: str, name: str, state: str = "running", **labels: str) -> dict[str, object]:
    """Return a container as GET /containers/json gives it, with Swarm's labels if named."""
    return {
        "Id": identity * 64,
        "Names": [f"/{name}"],
        "State": state,
        "Labels": {f"com.docker.swarm.{key.replace('_', '.')}": value for key, value in labels.items()},
    }


def task(identity: str, slot: str, state: str = "running", service: str = "shared-redis") -> dict[str, object]:
    name = f"{service}.{slot}.task{identity}"
    return item(identity, name, state, service_name=service, task_name=name)


def test_swarm_tasks_plain_containers_and_global_services() -> None:
    containers = parse_containers([task("b", "2"), item("a", "plain"), task("c", "nodeidnodeid", service="agent")])
    assert [c.name for c in containers] == ["agent.nodeidnodeid.taskc", "plain", "shared-redis.2.taskb"]
    agent, plain, redis = containers
    assert (agent.service, agent.slot) == ("agent", None)
    assert plain == Container("a" * 64, "plain", "running", None, None, None, None)
    assert (redis.service, redis.task, redis.slot) == ("shared-redis", "shared-redis.2.taskb", 2)


def test_a_service_name_may_contain_dots() -> None:
    [container] = parse_containers([task("a", "3", service="shop.example.api")])
    assert (container.service, container.slot) == ("shop.example.api", 3)


def test_ended_containers_count_as_restarts_of_their_slot_only() -> None:
    containers = parse_containers(
        [task("a", "1"), task("b", "1", "exited"), task("c", "1", "dead"), task("d", "2"), task("e", "2", "paused")]
    )
    assert [(c.id[0], c.restarts) for c in containers] == [("a", 2), ("d", 0), ("e", 0)]


@pytest.mark.parametrize("labels", [None, {}])
def test_containers_without_labels_or_names(labels: dict[str, str] | None) -> None:
    [container] = parse_containers([{"Id": "f" * 64, "Names": None, "State": "running", "Labels": labels}])
    assert container.name == "f" * 12


@contextmanager
def engine(path: Path, answer: bytes) -> Iterator[str]:
    """Serve one connection on a unix socket with a canned answer: the transport is what is tested."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"unix://{path}"
        thread.join()


def response(status: str, body: bytes) -> bytes:
    return f"HTTP/1.0 {status}\r\nContent-Type: application/json\r\n\r\n".encode() + body


def test_list_over_a_socket(tmp_path: Path) -> None:
    body = json.dumps([task("a", "1"), item("b", "x" * 100_000)]).encode()
    with engine(tmp_path / "s", response("200 OK", body)) as host:
        assert [c.id[0] for c in list_containers(host)] == ["a", "b"]


def test_a_list_without_ended_containers_knows_no_restarts(tmp_path: Path) -> None:
    body = json.dumps([task("a", "1")]).encode()
    with engine(tmp_path / "s", response("200 OK", body)) as host:
        assert [c.restarts for c in list_containers(host, with_restarts=False)] == [None]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (response("500 Internal Server Error", b'{"message":"broken"}'), "answered 500: broken"),
        (response("403 Forbidden", b'"no"'), "answered 403"),
        (response("200 OK", b"not json"), "without valid JSON"),
        (response("200 OK", b'{"message":"?"}'), "something else than a list"),
        (b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
        (b"", "does not speak HTTP"),
    ],
)
def test_wrong_answers_are_clear_errors(tmp_path: Path, answer: bytes, message: str) -> None:
    with engine(tmp_path / "s", answer) as host, pytest.raises(EngineError, match=message):
        list_containers(host)


def test_engine_down(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no engine answers at unix://.*missing: No such file"):
        list_containers(f"unix://{tmp_path}/missing")


def test_a_silent_engine_times_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        with pytest.raises(EngineError, match=r"did not answer within 0\.1 s"):
            list_containers(f"unix://{tmp_path}/s", timeout=0.1)


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:2375", "ssh://root@host", "/var/run/docker.sock", ""])
def test_other_transports_are_refused(host: str) -> None:
    with pytest.raises(EngineError, match="must be a unix:// socket"):
        list_containers(host)


def test_parse_response_returns_the_body() -> None:
    assert parse_response(response("200 OK", b"[1]"), "unix:///x") == [1]

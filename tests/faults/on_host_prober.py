"""Runs on a lab host: writes all the time to every PostgreSQL and Redis that runs on a unit's data, companions too.

Arguments: a JSON file {"volumes", "user", "redis_password", "every", "records"} and the host's name.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000
SCAN = 0.15
RUN = secrets.token_hex(4)


class Engine(http.client.HTTPConnection):
    """The host's Docker engine."""

    def __init__(self) -> None:
        super().__init__("docker", timeout=10)

    def connect(self) -> None:
        """Connect to its socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")

    def get(self, path: str) -> Any:
        """Return what it answers to a GET."""
        self.request("GET", path)
        return json.loads(self.getresponse().read())


class Postgres:
    """A session of psql in the container, over its socket, so that no network is in between."""

    def __init__(self, container: str, user: str) -> None:
        self.session = subprocess.Popen(
            ["docker", "exec", "-i", container, "sh", "-c", f"exec psql -X -q -A -t -U {user} 2>&1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )

    def write(self, name: str) -> bool:
        """Write; returns whether it was accepted. Raises OSError when the session is over."""
        assert self.session.stdin and self.session.stdout
        statement = f"INSERT INTO two_sides (id) VALUES ('{name}') RETURNING 'stored'"
        self.session.stdin.write(f"{statement};\n\\echo answered {name}\n")
        self.session.stdin.flush()
        stored = False
        for line in self.session.stdout:
            if line.strip() == f"answered {name}":
                return stored
            stored = stored or line.strip() == "stored"
        raise OSError("psql ended")

    def close(self) -> None:
        """End the session."""
        self.session.kill()
        self.session.wait()


class Redis:
    """A connection from inside of the container's network namespace."""

    def __init__(self, pid: int, password: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/proc/{pid}/ns/net") as there, open("/proc/self/ns/net") as here:  # noqa: PTH123
            if libc.setns(there.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                self.socket = socket.create_connection(("127.0.0.1", 6379), timeout=60)
            finally:
                libc.setns(here.fileno(), CLONE_NEWNET)
        self.answers = self.socket.makefile("rb")
        self.ask("AUTH", password)
        self.ask("SELECT", "1")

    def ask(self, *words: str) -> bytes:
        """Return the answer's first line. Raises OSError when the connection is over."""
        parts = [f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)]
        self.socket.sendall("".join(parts).encode())
        line = self.answers.readline()
        if not line:
            raise OSError("Redis ended")
        return line

    def write(self, name: str) -> bool:
        """Write; returns whether it was accepted."""
        return self.ask("SET", f"two_sides:{name}", "1").startswith(b"+OK")

    def close(self) -> None:
        """End the connection."""
        self.socket.close()


class Prober:
    """Finds the containers, and keeps a thread writing to each."""

    def __init__(self, configuration: dict[str, Any], host: str) -> None:
        self.configuration = configuration
        self.host = host
        self.lock = threading.Lock()
        self.number = 0
        self.busy: set[str] = set()
        self.records = Path(configuration["records"]).open("a", buffering=1)  # noqa: SIM115

    def concerns(self, container: dict[str, Any]) -> bool:
        """Return whether a container is on the unit's data, or one that a move made."""
        volumes = self.configuration["volumes"]
        return "evenkeel.migration" in (container.get("Labels") or {}) or any(
            mount.get("Name") in volumes or any(f"/evenkeel/{name}/" in mount.get("Source", "") for name in volumes)
            for mount in container.get("Mounts") or []
        )

    def scan(self) -> None:
        """Start a thread for every container of a database that has none."""
        engine = Engine()
        with contextlib.closing(engine):
            # All, each asked: what the engine lists is wrong for those that began while its disk was full.
            for container in engine.get("/containers/json?all=1"):
                name, image = container["Id"], container["Image"]
                kind = next((kind for kind in ("postgres", "redis") if kind in image), None)
                if kind is None or name in self.busy or not self.concerns(container):
                    continue
                state = engine.get(f"/containers/{name}/json").get("State", {})
                if state.get("Running"):
                    self.busy.add(name)
                    threading.Thread(target=self.probe, args=(kind, name, state["Pid"]), daemon=True).start()

    def probe(self, kind: str, container: str, pid: int) -> None:
        """Write to a container until it is gone."""
        user, password = self.configuration["user"], self.configuration["redis_password"]
        connect: Callable[[], Postgres | Redis] = (
            (lambda: Postgres(container, user)) if kind == "postgres" else (lambda: Redis(pid, password))
        )
        while os.path.exists(f"/proc/{pid}"):  # noqa: PTH110
            with contextlib.suppress(OSError):
                session = connect()
                try:
                    self.keep_writing(f"probe-{kind}", session)
                finally:
                    session.close()
            time.sleep(SCAN)
        self.busy.discard(container)

    def keep_writing(self, path: str, session: Postgres | Redis) -> None:
        """Write until the session is over; keep what was accepted."""
        while True:
            with self.lock:
                self.number += 1
                name = f"{RUN}-{self.host}-{self.number}"
            began = time.time()
            if session.write(name):
                record = {"id": name, "path": path, "host": self.host, "began": began, "ended": time.time()}
                self.records.write(json.dumps(record) + "\n")
            time.sleep(self.configuration["every"])


def main() -> None:
    """Probe until killed."""
    configuration, host = sys.argv[1:]
    prober = Prober(json.loads(Path(configuration).read_text()), host)
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError, http.client.HTTPException):
            prober.scan()
        time.sleep(SCAN)


if __name__ == "__main__":
    main()

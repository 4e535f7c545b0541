"""The job launcher's API as a test calls it, through an SSH tunnel to the host that publishes it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from lab.settings import Settings
from tests.integration.harness import Swarm, wait_for

SERVICE = "job-launcher"
GATEWAY = f"{SERVICE}-engine"
PORT = 18080
#: Asked too fast; the answer says how many seconds to wait.
TOO_MANY = 429
#: What a run's status is once nothing more happens to it.
ENDED = ("succeeded", "partly", "failed", "stopped")


class Client:
    """One user, logged in."""

    def __init__(self, address: str, name: str, password: str) -> None:
        self.address = address
        self._name, self._password = name, password
        self._headers: dict[str, str] = {}

    def get(self, path: str) -> Any:
        """GET a path; JSON is decoded, anything else comes as bytes."""
        return self._request("GET", path)

    def post(self, path: str, body: Any, **headers: str) -> Any:
        if not self._headers:
            self._log_in()
        return self._request("POST", path, body, {**self._headers, **headers})

    def run(self, template: str, total: int, max_parallel: int, **parameters: Any) -> str:
        """Start a run; returns its id."""
        body = {"template": template, "total": total, "max_parallel": max_parallel, "parameters": parameters}
        started: str = self.post("/api/run", body, **{"Idempotency-Key": uuid.uuid4().hex})["id"]
        return started

    def everything(self, path: str) -> list[dict[str, Any]]:
        """Return the items of all pages."""
        items: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = self.get(f"{path}?limit=500" + (f"&before={cursor}" if cursor else ""))
            items += page["items"]
            cursor = page["next"]
            if cursor is None:
                return items

    def metric(self, name: str) -> float:
        """Return one of /metrics."""
        lines = self.get("/metrics").decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def run_when(self, run_id: str, *statuses: str, seconds: float = 120) -> dict[str, Any]:
        """Wait until a run has one of the statuses; the launcher may be away meanwhile."""
        deadline = time.monotonic() + seconds
        seen: Any = None
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, urllib.error.URLError):
                seen = self.get(f"/api/runs/{run_id}")
                if seen["status"] in statuses:
                    return dict(seen)
            time.sleep(0.3)
        raise AssertionError(f"the run is {seen} after {seconds:g} s, not {statuses}")

    def lines(self, run_id: str) -> dict[str, list[str]]:
        """Return the whole log: lines by unit and attempt, such as `1.1`; `0.0` is the launcher itself."""
        log: bytes = self.get(f"/api/runs/{run_id}/log/download")
        found: dict[str, list[str]] = {}
        for record in log.decode().splitlines():
            mark, _, text = record.partition("|")
            found.setdefault(mark, []).append(text)
        return found

    def _log_in(self) -> None:
        data = json.dumps({"name": self._name, "password": self._password}).encode()
        request = urllib.request.Request(f"{self.address}/api/login", data, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            cookie = str(answer.headers["Set-Cookie"]).partition(";")[0]
            self._headers = {"Cookie": cookie, "X-CSRF-Token": json.load(answer)["csrf_token"]}

    def _request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        if path.startswith("/api/") and not self._headers:
            self._log_in()
        data = None if body is None else json.dumps(body).encode()
        given = {"Content-Type": "application/json", **self._headers, **(headers or {})}
        request = urllib.request.Request(self.address + path, data, given, method=method)  # noqa: S310
        while True:
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
                    content = answer.read()
                    return json.loads(content) if answer.headers.get_content_type() == "application/json" else content
            except urllib.error.HTTPError as error:
                if error.code != TOO_MANY:
                    raise
                time.sleep(int(error.headers["Retry-After"]))


@contextlib.contextmanager
def tunnel(lab: Settings, host: str) -> Iterator[str]:
    """Forward a local port to the launcher's port on a host; yields the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    forward = ["-o", "ExitOnForwardFailure=yes", "-N", "-L", f"127.0.0.1:{port}:127.0.0.1:{PORT}"]
    ssh = subprocess.Popen(["ssh", "-F", str(lab.ssh_config), *forward, f"{host}.{lab.name}"], stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: _listens(port), 15, "tunnel")
        yield f"http://127.0.0.1:{port}"
    finally:
        ssh.terminate()
        ssh.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def remove(swarm: Swarm, on_host: Callable[..., str]) -> None:
    """Remove the launcher with all that the role and its workers made."""
    for name in {SERVICE, GATEWAY} & swarm.specs().keys():
        swarm.remove(name)
    script = f"""
        docker service ls -q --filter label=job-launcher.owner={SERVICE} | xargs -r docker service rm
        for kind in config secret; do docker $kind ls -q --filter name={SERVICE} | xargs -r docker $kind rm; done
        while docker ps -aq --filter name={SERVICE} | grep -q .; do sleep 0.2; done
        docker volume rm -f {SERVICE}-data {SERVICE}-engine"""
    on_host("kvm4", script, timeout=120)

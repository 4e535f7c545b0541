"""The job launcher, deployed by its role on the lab: what a run changes, a restart under load, workers elsewhere."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from lab.settings import PROJECT
from tests.integration.harness import Swarm, wait_for
from tests.integration.launcher_client import ENDED, GATEWAY, SERVICE, Client
from tests.integration.launcher_deployed import PASSWORD, Deployed
from tests.launcher_browser import flows
from tests.launcher_browser.conftest import Reader
from tests.launcher_browser.loops import Loop
from tests.launcher_browser.wire import Cut, Wire


def objects(swarm: Swarm) -> dict[str, list[str]]:
    """Names of the configs and secrets that are there for the launcher."""
    listed = {"configs": swarm.client.configs(), "secrets": swarm.client.secrets()}
    names = {kind: sorted(item["Spec"]["Name"] for item in items) for kind, items in listed.items()}
    return {kind: [name for name in each if name.startswith(SERVICE)] for kind, each in names.items()}


def test_a_check_run_predicts_a_run_deploys_and_a_second_one_changes_nothing(
    deployed: Deployed, swarm: Swarm, request: pytest.FixtureRequest
) -> None:
    checked = deployed.play("--check", "--diff")
    assert (checked.status, checked.changed) == (0, {"kvm4": 2, "kvm2": 0, "localhost": 0}), checked.text[-3000:]
    assert objects(swarm) == {"configs": [], "secrets": []}
    assert SERVICE not in swarm.specs()
    first = deployed.bring()
    assert first.changed["kvm4"] == 2
    version = swarm.service(SERVICE)["Version"]
    assert deployed.bring().changed == {"kvm4": 0, "kvm2": 0, "localhost": 0}
    assert deployed.play("--check").changed["kvm4"] == 0
    assert swarm.service(SERVICE)["Version"] == version
    client: Client = request.getfixturevalue("client")
    assert b"<script" in client.get("/")
    served = client.get("/api/config")["tunables"]
    assert (served["worker_start_stagger"], served["max_parallel"]) == (0.1, 4)
    for run in (checked, first):
        assert PASSWORD not in run.text


def test_the_service_is_locked_up_and_its_password_is_nowhere_to_be_read(
    deployed: Deployed, swarm: Swarm, on_host: Callable[..., str]
) -> None:
    container = swarm.specs()[SERVICE]["TaskTemplate"]["ContainerSpec"]
    locked = {"User": "10001:10001", "ReadOnly": True, "Init": True, "CapabilityDrop": ["ALL"]}
    assert {key: container[key] for key in locked} == locked
    assert swarm.specs()[SERVICE]["UpdateConfig"]["Order"] == "stop-first"
    script = f"""
        ids=$(docker ps -q --filter name={SERVICE})
        docker inspect $ids; docker image inspect {deployed.variables["job_launcher_image"]}
        docker service inspect {SERVICE} {GATEWAY}; docker service logs {SERVICE} 2>&1
        docker secret ls -q | xargs docker secret inspect; docker config ls -q | xargs docker config inspect
        for pid in /proc/[0-9]*; do tr '\\0' ' ' < $pid/cmdline; tr '\\0' ' ' < $pid/environ; done 2>/dev/null"""
    text = on_host("kvm4", script)
    assert "password-root" in text, "nothing was looked at"
    for form in (PASSWORD, base64.b64encode(PASSWORD.encode()).decode()):
        assert form not in text


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"job_launcher_log_push_interval": 19}, "job_launcher_log_push_interval must be a number from 20, up to 1000"),
        ({"job_launcher_drain_timeout": 51}, "job_launcher_drain_timeout (51 s) must be at least 5 s below"),
        ({"job_launcher_max_parallel": 250}, "job_launcher_max_parallel (250) must be at most"),
        ({"job_launcher_image": ""}, "job_launcher_image is empty"),
        ({"job_launcher_limits": {"cpus": 500}}, "exceed kvm4"),
        ({"job_launcher_users": [{"name": "root", "role": "admin", "password": "short"}]}, "at least 10 characters"),
        ({"job_launcher_log_push_intervall": 200}, "job_launcher_log_push_intervall"),
    ],
    ids=lambda each: "" if isinstance(each, str) else "-".join(each),
)
def test_what_makes_no_sense_is_refused_before_anything_is_touched(
    deployed: Deployed, swarm: Swarm, variables: dict[str, Any], said: str
) -> None:
    before = swarm.service(SERVICE)["Version"], objects(swarm)
    run = deployed.play(**variables)
    assert run.status != 0
    assert said in run.text
    assert (swarm.service(SERVICE)["Version"], objects(swarm)) == before


def test_a_changed_tunable_is_a_drained_restart_without_a_gap_in_the_log(
    deployed: Deployed, swarm: Swarm, client: Client
) -> None:
    before = objects(swarm)
    running = client.run("near", 8, 2, lines=100, pause=100)
    client.run_when(running, "running")
    changed = deployed.play("--check", job_launcher_log_push_interval=200).changed["kvm4"]
    done = deployed.bring(job_launcher_log_push_interval=200)
    assert (changed, done.changed["kvm4"]) == (1, 1)
    assert client.get("/api/config")["tunables"]["log_push_interval"] == 200
    ended = client.run_when(running, *ENDED)
    assert (ended["status"], ended["counts"]["succeeded"]) == ("succeeded", 8)
    lines = client.lines(running)
    lines.pop("0.0", None)
    assert sorted(lines) == [f"{unit}.1" for unit in range(1, 9)], "a unit was tried again"
    for unit in lines.values():
        assert [text.partition(" line ")[2] for text in unit] == [f"{line} of 100" for line in range(1, 101)]
    # The old config is gone with the launcher that had it, and the secrets are as they were.
    after = objects(swarm)
    assert len(after["configs"]) == len(before["configs"]) == 2
    assert after["configs"] != before["configs"]
    assert after["secrets"] == before["secrets"]


def test_a_version_that_does_not_start_is_taken_back(deployed: Deployed, swarm: Swarm, client: Client) -> None:
    before = swarm.specs()[SERVICE]["TaskTemplate"]["ContainerSpec"]["Configs"]
    broken = {"near": {"argv": ["true", "{nobody}"]}}
    run = deployed.play(job_launcher_templates=broken, job_launcher_workers_on_swarm=False)
    assert run.status != 0
    assert "Docker put the version of before back" in run.text
    assert swarm.specs()[SERVICE]["TaskTemplate"]["ContainerSpec"]["Configs"] == before
    assert client.get("/api/config")["templates"]
    assert deployed.bring(job_launcher_log_push_interval=200).changed["kvm4"] == 1, "its config was not cleared away"
    assert len(objects(swarm)["configs"]) == 2


@pytest.fixture
def between(swarm: Swarm, deployed: Deployed) -> Iterator[str]:
    """A network that Traefik and the launcher could have in common; the launcher leaves it again."""
    name = "t-launcher-front"
    made = swarm.client.create_network(name, driver="overlay", attachable=True)["Id"]
    yield name
    deployed.bring(job_launcher_log_push_interval=200)
    swarm.client.remove_network(made)


def test_behind_traefik_no_port_is_open_and_its_labels_say_where_it_is(
    deployed: Deployed, swarm: Swarm, between: str, on_host: Callable[..., str]
) -> None:
    front = {"host": "launcher.example.org", "network": between, "certresolver": "le"}
    deployed.bring(
        job_launcher_log_push_interval=200,
        job_launcher_public_url="",
        job_launcher_port=0,
        job_launcher_networks=[between],
        job_launcher_traefik=front,
    )
    spec = swarm.specs()[SERVICE]
    router, server = f"traefik.http.routers.{SERVICE}", f"traefik.http.services.{SERVICE}.loadbalancer.server.port"
    labels = {name: value for name, value in spec["Labels"].items() if name.startswith("traefik.")}
    assert labels == {
        "traefik.enable": "true",
        "traefik.docker.network": between,
        f"{router}.rule": "Host(`launcher.example.org`)",
        f"{router}.entrypoints": "websecure",
        f"{router}.tls": "true",
        f"{router}.tls.certresolver": "le",
        server: "8080",
    }
    assert not spec["EndpointSpec"].get("Ports")
    ask = f"import urllib.request as r; print(r.urlopen('http://{SERVICE}:8080/readyz', timeout=10).status)"
    image = deployed.variables["job_launcher_image"]
    asking = f'docker run --rm --network {between} --entrypoint python3 {image} -c "{ask}"'
    assert on_host("kvm4", asking, timeout=120) == "200"


# --- workers on another node ---


def jobs(swarm: Swarm) -> list[str]:
    return [name for name, spec in swarm.specs().items() if "ReplicatedJob" in spec["Mode"]]


class Wired:
    """The deployed launcher behind a wire that can be cut."""

    def __init__(self, address: str) -> None:
        self._loop = Loop()
        self._wire = Wire(int(address.rpartition(":")[2]))
        self._loop.run(self._wire.open())
        self.url = f"http://127.0.0.1:{self._wire.port}"

    def cut(self, what: Cut) -> None:
        self._loop.run(self._wire.cut(what))

    def close(self) -> None:
        self._loop.run(self._wire.close())
        self._loop.close()


@pytest.fixture
def reader(client: Client, browser: Browser) -> Iterator[tuple[Reader, Wired]]:
    """Someone at the pages that the deployed launcher serves."""
    wired = Wired(client.address)
    reader = Reader(browser, wired.url)
    reader.log_in("root", PASSWORD)
    yield reader, wired
    reader.close()
    wired.close()


def test_its_pages_in_chromium(reader: tuple[Reader, Wired]) -> None:
    """Log in, start eight, see log and balance pushed, stop, lose the wire, read the history; all with axe looking."""
    admin, wired = reader
    flows.run_of_eight(admin)
    admin.page.goto("/")
    flows.stopped_run(admin)
    admin.page.goto("/")
    flows.log_after_a_cut(admin, wired.cut)
    flows.every_page(admin)


def test_workers_run_on_the_other_node_with_their_logs_and_reports(
    swarm: Swarm, client: Client, on_host: Callable[..., str]
) -> None:
    running = client.run("far", 4, 2, lines=200, pause=20)
    wait_for(lambda: len(jobs(swarm)) == 2, 60, "two jobs")
    [name, _] = jobs(swarm)
    spec = swarm.specs()[name]["TaskTemplate"]
    assert spec["Resources"]["Limits"] == {"NanoCPUs": 500_000_000, "MemoryBytes": 128 * 2**20}
    wait_for(lambda: "demo.work" in on_host("kvm2", "ps -eo args"), 60, "workers on kvm2")
    assert "demo.work" not in on_host("kvm4", "ps -eo args | grep -v '[b]ash -c'")
    ended = client.run_when(running, *ENDED)
    assert (ended["status"], ended["captured"]) == ("succeeded", 4)
    lines = client.lines(running)
    lines.pop("0.0", None)
    for unit in lines.values():
        assert [text.partition(" line ")[2] for text in unit] == [f"{line} of 200" for line in range(1, 201)]
    units = client.get(f"/api/runs/{running}/units")["items"]
    assert [unit["report"] for unit in units] == [{"success": True, "data": {"lines": 200}}] * 4
    assert jobs(swarm) == []


def test_a_worker_far_away_fails_and_is_stopped_as_one_beside(swarm: Swarm, client: Client) -> None:
    crashed = client.run_when(client.run("far", 1, 1, lines=3, pause=0, ending="crash"), *ENDED)
    assert (crashed["status"], crashed["captured"], crashed["held"]) == ("failed", 0, 0)
    [unit] = client.get(f"/api/runs/{crashed['id']}/units")["items"]
    assert unit["signal"] == 9
    running = client.run("far", 4, 2, lines=100000, pause=100)
    wait_for(lambda: bool(client.lines(running)), 60, "output")
    began = time.monotonic()
    client.post(f"/api/runs/{running}/stop", {})
    assert client.run_when(running, *ENDED)["status"] == "stopped"
    # Far below their timeout of 600 s; Swarm itself takes half a minute for four where the machine is busy.
    assert time.monotonic() - began < 90
    assert jobs(swarm) == []


def test_after_a_kill_the_jobs_are_found_again_and_ended(
    swarm: Swarm, client: Client, on_host: Callable[..., str]
) -> None:
    running = client.run("far", 2, 2, lines=100000, pause=100)
    wait_for(lambda: bool(client.lines(running)), 60, "output")
    on_host("kvm4", f"docker kill -s KILL $(docker ps -q --filter label=com.docker.swarm.service.name={SERVICE})")
    ended = client.run_when(running, *ENDED)
    assert (ended["status"], ended["held"], ended["captured"]) == ("failed", 0, 0)
    assert jobs(swarm) == []
    assert "demo.work" not in on_host("kvm2", "ps -eo args | grep -v '[b]ash -c'")


@pytest.mark.usefixtures("client")
def test_the_gateway_is_closed_to_all_but_the_launcher(on_host: Callable[..., str]) -> None:
    inside = f"docker exec -u %s $(docker ps -q --filter label=com.docker.swarm.service.name={SERVICE}) python3 -c %s"
    connect_to = "'import socket as s; c = s.socket(s.AF_UNIX); c.connect(\"/run/job-launcher/engine.sock\"); print(7)'"
    assert on_host("kvm4", inside % ("10001:10001", connect_to)) == "7"
    assert "PermissionError" in on_host("kvm4", f"{inside % ('65534:65534', connect_to)} 2>&1 || true")
    assert "docker.sock" not in on_host("kvm4", f"docker inspect $(docker ps -q --filter name={SERVICE}.1)")


@pytest.mark.usefixtures("deployed")  # the page it serves is built by then
def test_alone_on_this_machine_it_takes_its_server_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lab.launcher", "alone"]
    said = tmp_path / "log"
    with said.open("wb") as log:
        alone = subprocess.Popen(
            command, cwd=PROJECT, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=log, stderr=log
        )
    try:
        wait_for(lambda: "The launcher is at http://127.0.0.1:" in said.read_text(), 120, "the launcher to listen")
        assert list(tmp_path.glob("job-launcher-*"))
        alone.send_signal(signal.SIGTERM)
        assert alone.wait(30) == 0, said.read_text()
        assert '"stopped"' in said.read_text() and not list(tmp_path.glob("job-launcher-*"))
    finally:
        alone.terminate()

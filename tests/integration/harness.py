"""How tests see the lab: Ansible as a person runs it, an engine through an SSH tunnel."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

from lab.settings import PROJECT, Settings

Spec = dict[str, Any]
ANSIBLE = Path(sys.executable).parent
#: Services of tests converge faster than Swarm's five seconds of watching.
MONITOR = 1_000_000_000
#: A killed test run leaves services behind; the next one finds them by this label.
LEFT_BY_TESTS = "evenkeel.test"


@dataclass
class Run:
    """What an Ansible command did: exit status, the JSON callback's document, and what it printed."""

    status: int
    document: dict[str, Any]
    text: str

    def results(self, task: str) -> list[dict[str, Any]]:
        """Results of all hosts for the tasks whose name ends in `task`."""
        return [
            result
            for play in self.document.get("plays", [])
            for each in play["tasks"]
            if each["task"]["name"].endswith(task)
            for result in each["hosts"].values()
        ]

    @property
    def changed(self) -> dict[str, int]:
        """Changed tasks by host."""
        return {host: stats["changed"] for host, stats in self.document["stats"].items()}


@dataclass
class Ansible:
    """Runs Ansible as a person would, with this project's ansible.cfg, against the lab."""

    settings: Settings

    def environment(self) -> dict[str, str]:
        return {**os.environ, "LAB_NAME": self.settings.name, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}

    def playbook(self, name: str, *arguments: str, environment: dict[str, str] | None = None) -> Run:
        argv = [str(ANSIBLE / "ansible-playbook"), name, *arguments]
        return self._run(
            argv, {**self.environment(), **(environment or {}), "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
        )

    def module(
        self, host: str, name: str, arguments: dict[str, Any], *, check: bool = False, **extra: str
    ) -> dict[str, Any]:
        """Run one module of ours on a host; returns its result."""
        argv = self.module_argv(host, name, arguments, check=check, **extra)
        environment = {
            **self.environment(),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        }
        run = self._run(argv, environment)
        result: dict[str, Any] = run.document["plays"][0]["tasks"][0]["hosts"][host]
        return result

    def module_argv(
        self, host: str, name: str, arguments: dict[str, Any], *, check: bool = False, **extra: str
    ) -> list[str]:
        variables = [f"--extra-vars={json.dumps(extra)}"] if extra else []
        given = ["-a", json.dumps(arguments)] if arguments else []
        argv = [str(ANSIBLE / "ansible"), host, "-m", f"evenkeel.swarm.{name}", *given, *variables]
        return [*argv, "--check", "--diff"] if check else argv

    def _run(self, argv: list[str], environment: dict[str, str]) -> Run:
        done = subprocess.run(
            argv, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        text = done.stdout + done.stderr
        start = done.stdout.find("{\n")
        try:
            document = json.loads(done.stdout[start:]) if start >= 0 else {}
        except ValueError:
            document = {}
        return Run(done.returncode, document, text)


@dataclass
class Swarm:
    """A host's engine as a test sees it, through an SSH tunnel and the Docker SDK."""

    client: docker.APIClient

    def specs(self) -> dict[str, Spec]:
        """Whole specs of all services by name."""
        return {service["Spec"]["Name"]: service["Spec"] for service in self.client.services()}

    def service(self, name: str) -> dict[str, Any]:
        return next(service for service in self.client.services() if service["Spec"]["Name"] == name)

    def create(self, spec: Spec) -> str:
        return str(self._post("/services/create", spec)["ID"])

    def update(self, name: str, edit: Callable[[Spec], None], tries: int = 50) -> None:
        """Rewrite a service's spec on a fresh read, again when another writer was faster."""
        for _ in range(tries):
            service = self.service(name)
            spec = copy.deepcopy(service["Spec"])
            edit(spec)
            if spec == service["Spec"]:
                return
            try:
                self._post(f"/services/{service['ID']}/update?version={service['Version']['Index']}", spec)
            except RuntimeError as error:
                if "out of sequence" not in str(error):
                    raise
            else:
                return
        raise AssertionError(f"{name}: lost {tries} races")

    def remove(self, name: str) -> str:
        """Remove a service; returns its id, by which its tasks can still be found."""
        service_id: str = self.service(name)["ID"]
        self.client.remove_service(service_id)
        return service_id

    def running(self, name: str) -> list[dict[str, Any]]:
        """The tasks of a service that run and shall."""
        tasks = self.client.tasks(filters={"service": name, "desired-state": "running"})
        return [task for task in tasks if task["Status"]["State"] == "running"]

    def wait_running(self, name: str, count: int = 1, seconds: float = 60) -> None:
        wait_for(lambda: len(self.running(name)) == count, seconds, f"{count} running tasks of {name}")

    def wait_settled(self, seconds: float = 180) -> None:
        """Wait until no update is under way and every service runs what it should."""
        wait_for(lambda: all(self._settled(service) for service in self.client.services()), seconds, "a settled Swarm")

    def _settled(self, service: dict[str, Any]) -> bool:
        if (service.get("UpdateStatus") or {}).get("State") in ("updating", "rollback_started"):
            return False
        replicas = service["Spec"]["Mode"].get("Replicated", {}).get("Replicas", 1)
        return bool(len(self.running(service["ID"])) == replicas)

    def _post(self, path: str, body: Spec) -> Any:
        # Raw, as the SDK's own calls drop what they don't know.
        answer = self.client.post(f"{self.client.base_url}/v{self.client.api_version}{path}", json=body)
        if not answer.ok:
            raise RuntimeError(answer.text)
        return answer.json()


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds:g} s"
        time.sleep(0.2)


def without_limits(spec: Spec) -> Spec:
    """A spec less what a limits run may change."""
    rest = copy.deepcopy(spec)
    rest["TaskTemplate"].pop("Resources", None)
    rest["Mode"].get("Replicated", {}).pop("Replicas", None)
    return rest

"""What every benchmark works with: the lab, its hosts over SSH, playbooks whose tasks are timed."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from lab.run import LabError, run
from lab.settings import PROJECT, Settings
from lab.swarm import MANAGER

PLAYBOOKS = Path(__file__).resolve().parent / "playbooks"
ANSIBLE_PLAYBOOK = PROJECT / ".venv" / "bin" / "ansible-playbook"
PLAY_SECONDS = 1800

Json = Any


@dataclass(frozen=True)
class TaskRun:
    """One task of a playbook on the manager: when it began (seconds since the epoch), how long it took, its result."""

    name: str
    began: float
    seconds: float
    result: Mapping[str, Json]


@dataclass(frozen=True)
class Bench:
    """A lab that is up, how often to measure, and whether to do with less of everything."""

    settings: Settings
    repetitions: int
    quick: bool = False

    def play(self, playbook: Path, variables: Mapping[str, Json] | None = None) -> list[TaskRun]:
        """Run a playbook on the lab and return its tasks on the manager, timed by the controller.

        A task's seconds reach from its start to its last result: templating, building the module, SSH and the
        module itself. Raises LabError with Ansible's own words if the playbook fails.
        """
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(dict(variables or {}), file)
            file.flush()
            done = self._ansible(playbook, ["-e", f"@{file.name}"], {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"})
        if done.returncode:
            raise LabError(f"{playbook.name} failed: {_failures(done.stdout) or done.stderr[-2000:]}")
        plays = _plays(done.stdout)
        return [_task_run(task) for each in plays for task in each["tasks"] if MANAGER in task["hosts"]]

    def play_seconds(self, playbook: Path) -> tuple[float, str]:
        """Run a playbook as a person would; returns its wall time in seconds and what it said."""
        began = time.monotonic()
        done = self._ansible(playbook, [], {})
        seconds = time.monotonic() - began
        if done.returncode:
            raise LabError(f"{playbook.name} failed: {done.stdout[-2000:]}")
        return seconds, done.stdout

    def ssh(self, command: str, stdin: str | bytes | None = None, timeout: float = PLAY_SECONDS) -> str:
        """Run a shell command on the manager over SSH."""
        target = f"{MANAGER}.{self.settings.name}"
        return run(["ssh", "-F", self.settings.ssh_config, target, command], stdin=stdin, timeout=timeout)

    def services(self) -> list[Json]:
        """Return the Swarm's services as the engine's API has them, sorted by name."""
        services: list[Json] = json.loads(self.ssh("docker service inspect $(docker service ls -q)"))
        return sorted(services, key=lambda service: str(service["Spec"]["Name"]))

    def settle(self) -> None:
        """Bring the estate to its table of limits, so that every benchmark begins from the same state."""
        self.play(PROJECT / "playbooks" / "limits.yml")

    def _ansible(
        self, playbook: Path, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        argv = [str(ANSIBLE_PLAYBOOK), "-i", str(PROJECT / "inventory" / "lab"), str(playbook), *arguments]
        variables = {
            **os.environ,
            "LAB_NAME": self.settings.name,
            "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
            **environment,
        }
        return subprocess.run(
            argv, env=variables, cwd=PROJECT, capture_output=True, text=True, timeout=PLAY_SECONDS, check=False
        )


def limits_table() -> list[dict[str, Json]]:
    """Return the estate's table of limits, as the inventory has it."""
    table: list[dict[str, Json]] = yaml.safe_load((PROJECT / "inventory/estate/limits.yml").read_text())[
        "service_limits_table"
    ]
    return table


def task(tasks: Sequence[TaskRun], name: str) -> TaskRun:
    """Return the task of that name."""
    return next(each for each in tasks if each.name == name)


def _task_run(raw: Mapping[str, Json]) -> TaskRun:
    duration = raw["task"]["duration"]
    began, ended = (datetime.fromisoformat(duration[key]).timestamp() for key in ("start", "end"))
    return TaskRun(raw["task"]["name"], began, ended - began, raw["hosts"][MANAGER])


def _plays(output: str) -> list[Json]:
    """Return the plays that the JSON callback wrote, after what others have said on the screen before."""
    _, begin, rest = ("\n" + output).partition("\n{\n")
    plays: list[Json] = json.loads(begin + rest)["plays"]
    return plays


def _failures(output: str) -> str:
    """Return the messages of failed tasks in the JSON callback's output; '' if there are none."""
    try:
        plays = _plays(output)
    except (ValueError, KeyError):
        return output[-2000:]
    results = [
        (task["task"]["name"], result) for play in plays for task in play["tasks"] for result in task["hosts"].values()
    ]
    return "; ".join(f"{name}: {result.get('msg')}" for name, result in results if result.get("failed"))

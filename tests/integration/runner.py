"""Launch job templates of awx/, and playbooks, as AWX does.

That is: ansible-runner, its private data directory, an inventory script, variables as AWX writes them, no terminal.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.settings import PROJECT, Settings
from tests.awx.harness import load
from tests.collection import copy_project

BIN = Path(sys.executable).parent
#: What the lab's inventory has only because its hosts are reached through a file of this machine.
_OF_THE_LAB = (
    *("lab_name", "lab_directory", "ansible_ssh_common_args", "ansible_host", "report_name"),
    *("lab_launcher_image_file", "job_launcher_enabled", "job_launcher_image", "job_launcher_users"),
)
#: Where AWX looks for collections and roles besides those that the project's ansible.cfg names, which it puts first.
_COLLECTIONS = "collections:~/.ansible/collections:/usr/share/ansible/collections"
_ROLES = "roles:~/.ansible/roles:/usr/share/ansible/roles:/etc/ansible/roles"


#: The job templates of awx/ by name, as they stand there.
JOB_TEMPLATES: dict[str, dict[str, Any]] = {
    entry["template"]["name"]: entry
    for path in sorted((PROJECT / "awx" / "job_templates").glob("*.yml"))
    for entry in load(path).get(f"awx_job_templates_{path.stem}", [])
}
_QUESTIONS: dict[str, dict[str, Any]] = {
    question["variable"]: question
    for path in sorted((PROJECT / "awx" / "questions").glob("*.yml"))
    for question in load(path)[f"awx_questions_{path.stem}"]
}


class _Unsafe(yaml.SafeDumper):
    """Writes variables that somebody typed or another job left, as AWX does: text in them is never a template."""

    def represent_data(self, data: Any) -> yaml.Node:
        if isinstance(data, str):
            return self.represent_scalar("!unsafe", data)
        return super().represent_data(data)


@dataclass(frozen=True)
class Job:
    """What a job left behind."""

    rc: int
    status: str
    stdout: str
    events: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The data of all events of a kind, such as runner_on_failed."""
        return [event["event_data"] for event in self.events if event["event"] == kind]

    @property
    def artifacts(self) -> dict[str, Any]:
        """What AWX keeps of the job for those after it."""
        [stats] = self.of("playbook_on_stats")
        artifacts: dict[str, Any] = stats["artifact_data"]
        return artifacts

    @property
    def changed(self) -> dict[str, int]:
        """Changed tasks by host, hosts without any left out."""
        [stats] = self.of("playbook_on_stats")
        changed: dict[str, int] = stats["changed"]
        return {host: count for host, count in changed.items() if count}


class Awx:
    """One controller: a project that was synchronised once, an inventory, a credential for the hosts."""

    def __init__(self, lab: Settings, folder: Path) -> None:
        self.lab, self.folder, self.jobs = lab, folder, 0
        self.project = folder / "synchronised"
        copy_project(self.project)
        self.hosts = {name: reached_at(lab, name) for name in ("kvm4", "kvm2")}
        self.inventory = self._inventory()
        # A path that the controller exposes to its jobs, where files outlive them.
        self.exposed = folder / "exposed"
        self.exposed.mkdir()

    def job(self, name: str, answers: dict[str, Any] | None = None, *, streamed: bool = True, **template: Any) -> Job:
        """Launch a job template of awx/ as its data says, with the survey's defaults where there is no answer.

        `template`: more variables of the job template itself.
        """
        data = JOB_TEMPLATES[name]["template"]
        asked = [_QUESTIONS[variable] for variable in JOB_TEMPLATES[name]["questions"]]
        defaults = {question["variable"]: question["default"] for question in asked if "default" in question}
        fixed = {key: self._rendered(value) for key, value in data.get("extra_vars", {}).items()}
        return self.launch(
            data["playbook"],
            defaults | (answers or {}),
            template=fixed | template,
            streamed=streamed,
            check=data.get("job_type") == "check",
            diff=data.get("diff_mode", False),
            tags=data.get("job_tags", ""),
        )

    def _rendered(self, value: Any) -> Any:
        """Return what playbooks/awx.yml would send of a template's variable; what it sends as it stands stays."""
        return value.replace("{{ awx_reports_directory }}", str(self.exposed)) if isinstance(value, str) else value

    def launch(
        self,
        playbook: str,
        answers: dict[str, Any] | None = None,
        *,
        template: dict[str, Any] | None = None,
        streamed: bool = True,
        check: bool = False,
        diff: bool = False,
        tags: str = "",
    ) -> Job:
        """Run a playbook of the project with ansible-runner.

        `answers`: of a survey, or artifacts of a job before; `template`: variables of the job template itself, which
        alone may be Jinja. `streamed`: through transmit, worker and process, as AWX does it with an execution node;
        else in place, in a project directory that can't be written to. `check`, `diff` and `tags`: the template's job
        type, whether it shows differences, and its job tags.
        """
        self.jobs += 1
        private = self.folder / str(self.jobs)
        self._write_private_data(private, answers or {}, template or {})
        options = ["-u", "root", *(["--check"] if check else []), *(["--diff"] if diff else [])]
        options += [f"--tags={tags}"] if tags else []
        (private / "data" / "env" / "cmdline").write_text(" ".join(options))
        home = private / "empty-home"
        home.mkdir()
        environment = {"PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(home), "LANG": "C.UTF-8"}
        data = private / "data"
        if streamed:
            argv = ["bash", "-euo", "pipefail", "-c", _STREAMED, str(data), playbook, str(private)]
        else:
            argv = _read_only(data / "project", ["ansible-runner", "run", str(data), "-p", playbook, "-i", "job"])
        ran = subprocess.run(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            start_new_session=True,
        )
        left = (private / "result" if streamed else data) / "artifacts" / "job"
        assert (left / "rc").exists(), ran.stdout[-3000:] + ran.stderr[-3000:]
        return _job(left)

    def _write_private_data(self, private: Path, answers: dict[str, Any], template: dict[str, Any]) -> None:
        data = private / "data"
        (data / "env").mkdir(parents=True)
        (data / "inventory").mkdir()
        shutil.copytree(self.project, data / "project", symlinks=True)
        inventory = data / "inventory" / "hosts"
        inventory.write_text(f"#! /usr/bin/env python3\nprint({json.dumps(self.inventory)!r})\n")
        inventory.chmod(0o700)
        jobs = {f"{name}_job_id": self.jobs for name in ("awx", "tower")}
        typed = yaml.dump(answers | jobs, Dumper=_Unsafe)
        (data / "env" / "extravars").write_text(typed + (yaml.safe_dump(template) if template else ""))
        (data / "env" / "envvars").write_text(
            yaml.safe_dump(
                {
                    "ANSIBLE_HOST_KEY_CHECKING": "False",
                    "ANSIBLE_RETRY_FILES_ENABLED": "False",
                    "ANSIBLE_COLLECTIONS_PATH": f"{data}/requirements_collections:{_COLLECTIONS}",
                    "ANSIBLE_ROLES_PATH": f"{data}/requirements_roles:{_ROLES}",
                }
            )
        )
        key = data / "env" / "ssh_key"
        key.write_text(Path(self.hosts["kvm4"]["identityfile"]).read_text())
        key.chmod(0o600)

    def _inventory(self) -> dict[str, Any]:
        """The lab's inventory as AWX imports it from a project and hands it to a job."""
        exported = subprocess.run(
            [str(BIN / "ansible-inventory"), "-i", "inventory/lab", "--list", "--export"],
            cwd=PROJECT,
            env={**os.environ, "LAB_NAME": self.lab.name},
            capture_output=True,
            text=True,
            check=True,
        )
        inventory: dict[str, Any] = json.loads(exported.stdout)
        for name in _OF_THE_LAB:
            inventory["swarm"]["vars"].pop(name)
        for number, (name, reached) in enumerate(self.hosts.items(), 1):
            assert reached["hostname"] == "127.0.0.1"
            inventory["_meta"]["hostvars"][name] |= {
                "ansible_host": reached["hostname"],
                "ansible_port": int(reached["port"]),
                "remote_tower_enabled": "true",
                "remote_tower_id": number,
            }
        return inventory


#: Arguments: the private data directory, the playbook, a directory for what a node receives and what comes back.
_STREAMED = """
ansible-runner transmit "$0" -p "$1" -i job |
    ansible-runner worker --private-data-dir "$2/node" |
    ansible-runner process "$2/result" -i job
"""


def reached_at(lab: Settings, host: str) -> dict[str, str]:
    """How SSH reaches a host of the lab: hostname, port, identityfile, userknownhostsfile."""
    shown = subprocess.run(
        ["ssh", "-G", "-F", str(lab.ssh_config), f"{host}.{lab.name}"], capture_output=True, text=True, check=True
    )
    settings = {key: value.strip('"') for key, _, value in (line.partition(" ") for line in shown.stdout.splitlines())}
    return {key: settings[key] for key in ("hostname", "port", "identityfile", "userknownhostsfile")}


def _read_only(directory: Path, argv: list[str]) -> list[str]:
    """Return a command that runs argv where a directory can't be written to; root needs a mount for that."""
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "a-w", str(directory)], check=True)
        return argv
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, str(directory), *argv]


def _job(left: Path) -> Job:
    events = [json.loads(path.read_text()) for path in (left / "job_events").glob("*.json")]
    return Job(
        int((left / "rc").read_text()),
        (left / "status").read_text(),
        (left / "stdout").read_text(),
        sorted(events, key=lambda event: int(event["counter"])),
    )

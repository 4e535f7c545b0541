"""The built collection, installed into an empty path, on the lab.

There is no project, no ansible.cfg, and nothing but ansible-core on the controller.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lab.settings import PROJECT, Settings
from tests import collection
from tests.integration.harness import Spec, Swarm
from tests.integration.runner import reached_at


@dataclass(frozen=True)
class Controller:
    """Somebody's directory with an inventory, and what they installed."""

    folder: Path
    commands: Path
    installed: Path

    def run(self, *arguments: str, succeeds: bool = True) -> str:
        """Run ansible-playbook in an empty directory; returns what it printed."""
        return self.shell('exec ansible-playbook -i ../inventory/hosts.yml "$@"', *arguments, succeeds=succeeds)

    def shell(self, command: str, *arguments: str, succeeds: bool = True) -> str:
        environment = {
            "PATH": f"{self.commands}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.folder / "home"),
            "LANG": "C.UTF-8",
            "ANSIBLE_CONFIG": str(self.folder / "empty.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
            "ANSIBLE_NOCOLOR": "1",
        }
        ran = subprocess.run(
            ["bash", "-c", command, "bash", *arguments],
            cwd=self.folder / "work",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert (ran.returncode == 0) is succeeds, ran.stdout[-3000:] + ran.stderr[-3000:]
        return ran.stdout + ran.stderr

    def files(self) -> dict[str, bytes]:
        """What was installed, less what Python compiled."""
        paths = (path for path in self.installed.rglob("*") if path.is_file() and path.suffix != ".pyc")
        return {str(path.relative_to(self.installed)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def controller(lab: Settings, tmp_path_factory: pytest.TempPathFactory) -> Controller:
    folder = tmp_path_factory.mktemp("controller")
    for name in ("home", "work", "project", "inventory"):
        (folder / name).mkdir()
    collection.copy_project(folder / "project")
    archive = collection.build(folder / "project", folder)
    installed = collection.install(archive, folder / "collections")
    (folder / "inventory" / "hosts.yml").write_text(yaml.safe_dump(inventory(lab)))
    (folder / "empty.cfg").touch()
    return Controller(folder, collection.bare_controller(folder / "python"), installed)


def inventory(lab: Settings) -> dict[str, object]:
    """An inventory as somebody with two servers writes it, with the estate's table in it."""

    def host(name: str, **more: object) -> dict[str, object]:
        reached = reached_at(lab, name)
        assert reached["hostname"] == "127.0.0.1"
        return more | {
            "ansible_host": reached["hostname"],
            "ansible_port": int(reached["port"]),
            "ansible_user": "root",
            "ansible_ssh_private_key_file": reached["identityfile"],
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={reached['userknownhostsfile']} -o IdentitiesOnly=yes",
        }

    table = yaml.safe_load((PROJECT / "inventory" / "estate" / "limits.yml").read_text())
    return {
        "swarm": {
            "vars": table,
            "children": {
                "swarm_manager": {"hosts": {"kvm4": host("kvm4", swarm_node_vcpus=4)}},
                "swarm_worker": {"hosts": {"kvm2": host("kvm2", swarm_node_vcpus=2)}},
            },
        }
    }


def changed(printed: str) -> dict[str, int]:
    recap = printed[printed.index("PLAY RECAP") :]
    return {name: int(count) for name, count in re.findall(r"^(kvm\d) .* changed=(\d+)", recap, re.MULTILINE)}


def forget_limits(spec: Spec) -> None:
    spec["TaskTemplate"]["Resources"] = {}


def test_the_main_job_runs_by_its_name_and_leaves_the_installation_alone(controller: Controller, swarm: Swarm) -> None:
    name = "infrastructure-traefik"
    swarm.update(name, forget_limits)
    swarm.wait_settled()
    before = controller.files()
    done = controller.run("evenkeel.swarm.site", "-e", "report_window=1")
    assert f"{name}: " in done
    assert changed(done) == {"kvm4": 1, "kvm2": 0}
    again = controller.run("evenkeel.swarm.site", "-e", "report_window=1")
    assert changed(again) == {"kvm4": 0, "kvm2": 0}
    assert "No service differs from the table." in again
    assert controller.files() == before
    reports = controller.folder / "work" / "reports" / "inventory"
    # There is no matplotlib on this controller: everything but the page.
    assert "No page: matplotlib is missing" in " ".join(again.split())
    assert sorted(path.name for path in reports.iterdir()) == ["history.jsonl", "throttling.json", "throttling.txt"]
    assert sorted(path.name for path in (controller.folder / "work").iterdir()) == ["reports"]


def test_a_report_compares_and_its_way_back_works_from_there(
    controller: Controller, swarm: Swarm, service: Callable[..., str]
) -> None:
    name = service(resources={"Limits": {"NanoCPUs": 300_000_000}})
    before = swarm.specs()[name]
    where = ("-e", "report_window=1", "-e", "report_name=kept")
    controller.run("evenkeel.swarm.throttling", *where)
    table = f'{{"service_limits_table": [{{"service": "{name}", "limits": {{"cpus": 0.2}}}}]}}'
    controller.run("evenkeel.swarm.limits", "-e", table)
    controller.run("evenkeel.swarm.report", *where, "-e", "report_before=reports/kept/throttling.json")
    undo = (controller.folder / "work" / "reports" / "kept" / "undo-limits.yml").read_text()
    [command] = re.findall(r"^# +(ansible-playbook .*)$", undo, re.MULTILINE)
    controller.shell(command)
    assert swarm.specs()[name] == before


def test_scale_prints_a_way_back_that_works_from_there(
    controller: Controller, swarm: Swarm, service: Callable[..., str]
) -> None:
    name = service()
    stopped = controller.run("evenkeel.swarm.scale", "-e", f"scale_service={name}", "-e", "scale_replicas=0")
    assert not swarm.running(name)
    [command] = re.findall(r"Undo: (ansible-playbook .*?)(?:\\n|\n|\"|$)", stopped)
    controller.shell(command)
    swarm.wait_running(name)


def test_an_answer_that_makes_no_sense_is_refused_there_too(controller: Controller) -> None:
    said = controller.run("evenkeel.swarm.scale", "-e", "scale_service=dokploy", succeeds=False)
    assert "missing required arguments: scale_replicas" in " ".join(said.split())

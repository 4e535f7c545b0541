"""The job launcher, deployed by its role on the lab, for the tests that ask for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab import launcher as lab_launcher
from lab.engine import connect
from lab.settings import Settings
from tests.integration.harness import Ansible, Run, Swarm
from tests.integration.launcher_client import PORT, Client, remove, tunnel

PASSWORD = "correct horse battery"  # noqa: S105 # a test's own
WORK = ["/opt/launcher/bin/python3", "-I", "-m", "job_launcher.demo.work"]
NUMBER = {"type": "integer", "minimum": 0, "maximum": 100000, "default": 1}
ENDING = {"type": "choice", "choices": ["succeed", "fail", "crash"], "default": "succeed"}
PARAMETERS = {"lines": NUMBER, "pause": NUMBER, "ending": ENDING}
ARGUMENTS = ["print", "{lines}", "{pause}", "{ending}"]


class Deployed:
    """The role with this module's variables."""

    def __init__(self, ansible: Ansible, image: str) -> None:
        self.ansible = ansible
        self.known = False
        far = {"executor": "swarm", "image": image, "constraints": ["node.hostname==kvm2"], "cpus": 0.5, "memory": 128}
        template = {"argv": [*WORK, *ARGUMENTS], "parameters": PARAMETERS}
        self.variables: dict[str, Any] = {
            "job_launcher_image": image,
            "job_launcher_port": PORT,
            "job_launcher_public_url": f"http://127.0.0.1:{PORT}",
            "job_launcher_users": [{"name": "root", "role": "admin", "balance": 1000, "password": PASSWORD}],
            "job_launcher_templates": {"near": template, "far": {**template, **far}},
            "job_launcher_workers_on_swarm": True,
            "job_launcher_worker_start_stagger": 0.1,
        }

    def play(self, *options: str, **variables: Any) -> Run:
        given = json.dumps(self.variables | variables)
        return self.ansible.playbook("playbooks/launcher.yml", "-e", given, *options)

    def bring(self, **variables: Any) -> Run:
        run = self.play(**variables)
        assert run.status == 0, run.text[-3000:]
        self.known = True
        return run


@pytest.fixture(scope="module")
def deployed(lab: Settings, ansible: Ansible, swarm: Swarm, on_host: Callable[..., str]) -> Iterator[Deployed]:
    engine = connect(lab, start=False)
    assert engine
    remove(swarm, on_host)
    marker = lab.directory / f"pushed-{lab_launcher.NAME}"
    yield Deployed(ansible, lab_launcher.up(engine, lab))
    remove(swarm, on_host)
    # Without it the lab's inventory has the launcher switched off again, and other tests count services.
    marker.unlink()


@pytest.fixture(scope="module")
def client(lab: Settings, deployed: Deployed) -> Iterator[Client]:
    """A user of the launcher, which is deployed as long as there is one."""
    if not deployed.known:
        deployed.bring()
    with tunnel(lab, "kvm4") as address:
        yield Client(address, "root", PASSWORD)

"""Fixtures on the lab's virtual machine: reached over SSH, and through Ansible with the lab's inventory."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

import pytest

from lab import hosts, vm
from lab.settings import Settings, from_environment
from tests.integration.harness import Ansible

IMAGE = "evenkeel-test/usr"


@pytest.fixture(scope="session")
def machine() -> Settings:
    settings = vm.settings_of(from_environment())
    if not settings.ssh_config.exists():
        pytest.exit(f"the virtual machine {settings.name!r} is not up: make test-vm", returncode=2)
    return settings


@pytest.fixture(scope="session")
def ansible(machine: Settings) -> Ansible:
    return Ansible(machine)


@pytest.fixture(scope="session")
def shell(machine: Settings) -> Callable[[str], str]:
    """Run a shell command in the machine."""
    return lambda command: hosts.ssh(machine, vm.HOST, command, timeout=120)


@pytest.fixture(scope="session")
def image(shell: Callable[[str], str]) -> str:
    """An image without files, for containers that see the machine's own /usr, on a Swarm of one node."""
    if shell("docker info --format '{{.Swarm.LocalNodeState}}'") != "active":
        shell("docker swarm init --advertise-addr 10.0.2.15")
    shell(f"tar -C / -c bin sbin lib lib64 | docker import - {IMAGE}")
    return IMAGE


@pytest.fixture
def service(image: str, shell: Callable[[str], str]) -> Iterator[Callable[..., str]]:
    """Make services that run a Python program under limits; returns their names. Removed afterwards."""
    made: list[str] = []

    def make(program: str, cpus: float, memory: str) -> str:
        name = f"test-{len(made)}"
        options = (
            f"--quiet --no-resolve-image --limit-cpu {cpus:g} --limit-memory {memory} "
            "--mount type=bind,source=/usr,target=/usr,readonly"
        )
        made.append(name)
        # Without --detach the client returns once the task runs.
        shell(f"docker service create --name {name} {options} {image} /usr/bin/python3 -c {shlex.quote(program)}")
        return name

    yield make
    for name in made:
        shell(f"docker service rm {name}")

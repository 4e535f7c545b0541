"""One Swarm over the lab's hosts: kvm4 the only manager, kvm2 a worker."""

from __future__ import annotations

import time

from lab import hosts
from lab.engine import Engine
from lab.run import LabError, step
from lab.settings import HOSTS, Settings

MANAGER = "kvm4"
READY_SECONDS = 60


def up(engine: Engine, settings: Settings) -> None:
    """Make the Swarm and join the workers, or find them joined; wait until every node is ready."""
    if _state(engine, settings, MANAGER) != "active":
        with step(f"make a Swarm on {MANAGER}"):
            hosts.execute(
                engine,
                settings,
                MANAGER,
                "docker",
                "swarm",
                "init",
                f"--advertise-addr={_address(engine, settings, MANAGER)}",
            )
    for worker in (name for name in HOSTS if name != MANAGER):
        if _state(engine, settings, worker) == "active":
            continue
        with step(f"join {worker} as a worker"):
            token = hosts.execute(engine, settings, MANAGER, "docker", "swarm", "join-token", "-q", "worker")
            manager = f"{_address(engine, settings, MANAGER)}:2377"
            # The token comes on standard input: an argument would stand in the process list.
            script = f'read -r token; docker swarm join --token "$token" {manager}'
            hosts.execute(engine, settings, worker, "sh", "-c", script, stdin=token + "\n")
    _wait(engine, settings)


def _wait(engine: Engine, settings: Settings) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        states = hosts.execute(engine, settings, MANAGER, "docker", "node", "ls", "--format", "{{.Status}}").split()
        if states == ["Ready"] * len(HOSTS):
            return
        if time.monotonic() > deadline:
            raise LabError(f"the Swarm's nodes are {states} after {READY_SECONDS} s, not all Ready")
        time.sleep(0.3)


def _state(engine: Engine, settings: Settings, host: str) -> str:
    return hosts.execute(engine, settings, host, "docker", "info", "--format", "{{.Swarm.LocalNodeState}}")


def _address(engine: Engine, settings: Settings, host: str) -> str:
    template = f'{{{{(index .NetworkSettings.Networks "{settings.network}").IPAddress}}}}'
    return engine.docker("container", "inspect", "--format", template, settings.container(host))

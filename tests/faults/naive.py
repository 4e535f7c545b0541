"""The move that hand-made scripts and Dokploy's transfer make: stop, tar over SSH, start. Ours is compared with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lab import hosts, units
from lab.settings import HOSTS, Settings
from lab.swarm import MANAGER
from lab.units import Deployment
from tests.faults.tools import address

KEY = "/root/.ssh/lab-naive"


def move(settings: Settings, deployed: Deployment, *, home: str = MANAGER, target: str = "kvm2") -> None:
    """Stop all services, copy all volumes from host to host, start all services on the target.

    Each database goes its way by itself, as a good script would do: none waits for another's slow stop.
    """
    _link(settings, home, target)
    _scale(settings, deployed, 0)
    apart = ("postgres", "redis")

    def lane(roles: list[str]) -> None:
        _gone(settings, deployed, roles)
        for volume in deployed.volumes(roles):
            _copy(settings, volume, home, target)
        _start(settings, deployed, roles, home, target)

    lanes = [*([role] for role in apart), [role for role in deployed.roles if role not in apart]]
    with ThreadPoolExecutor(len(lanes)) as pool:
        list(pool.map(lane, lanes))
    units.converge(settings, deployed, target)


def wrong_move(settings: Settings, deployed: Deployment, *, home: str = MANAGER, target: str = "kvm2") -> None:
    """Copy while clients write, then stop and start: what was written meanwhile stays behind."""
    _link(settings, home, target)
    for volume in deployed.volumes():
        _copy(settings, volume, home, target)
    time.sleep(1.5)
    _scale(settings, deployed, 0)
    _gone(settings, deployed, deployed.roles)
    _start(settings, deployed, deployed.roles, home, target)
    units.converge(settings, deployed, target)


def doubled(settings: Settings, deployed: Deployment, *, home: str = MANAGER, target: str = "kvm2") -> None:
    """Run a second PostgreSQL on a copy of the data on the target while the first goes on: what must never be."""
    _link(settings, home, target)
    volume = deployed.volume("postgres-data")
    _copy(settings, volume, home, target)
    image = deployed.references["unit-postgres"]
    run = f"docker run -d --rm --label {units.MOVES}={deployed.unit} -v {volume}:/var/lib/postgresql/data {image}"
    hosts.ssh(settings, target, run)


def _link(settings: Settings, home: str, target: str) -> None:
    """Let one host log in on the other."""
    make = f"[ -f {KEY} ] || ssh-keygen -q -t ed25519 -N '' -f {KEY}; cat {KEY}.pub"
    public = hosts.ssh(settings, home, make)
    file = "/root/.ssh/authorized_keys"
    hosts.ssh(settings, target, f'read -r key; grep -qF "$key" {file} || echo "$key" >> {file}', stdin=public + "\n")


def _scale(settings: Settings, deployed: Deployment, replicas: int) -> None:
    wanted = " ".join(f"{deployed.service(role)}={replicas}" for role in deployed.roles)
    hosts.ssh(settings, MANAGER, f"docker service scale --detach {wanted}")


def _gone(settings: Settings, deployed: Deployment, roles: Sequence[str]) -> None:
    """Wait until no container of the roles' services is left on the hosts."""
    for host in HOSTS:
        for role in roles:
            left = f"docker ps -q --filter label=com.docker.swarm.service.name={deployed.service(role)}"
            hosts.ssh(settings, host, f'while [ -n "$({left})" ]; do sleep 0.05; done')


def _copy(settings: Settings, volume: str, home: str, target: str) -> None:
    """Copy a volume with tar over SSH; the write-ahead log last, so that a copy of a running database starts at all."""
    path = "$(docker volume inspect --format '{{.Mountpoint}}' " + volume + ")"
    hosts.ssh(settings, target, f"docker volume create {volume} >/dev/null")
    there = f"ssh -i {KEY} -o StrictHostKeyChecking=accept-new root@{address(settings, target)}"
    script = f"""
        set -e
        cd {path}
        wal=; if [ -d pg_wal ]; then wal=./pg_wal; fi
        pack() {{ tar --warning=no-file-changed -cf - "$@" || [ $? = 1 ]; }}
        pack --exclude=./pg_wal . | {there} 'tar -C {path} -xpf -'
        [ -z "$wal" ] || pack "$wal" | {there} 'tar -C {path} -xpf -'"""
    hosts.ssh(settings, home, "bash -s", stdin=script, timeout=1800)


def _start(settings: Settings, deployed: Deployment, roles: Sequence[str], home: str, target: str) -> None:
    there, here = f"node.hostname=={target}", f"node.hostname=={home}"
    for role in roles:
        change = f"--constraint-rm {here} --constraint-rm node.role==manager --constraint-add {there} --replicas 1"
        update = f"docker service update --detach --quiet {change} {deployed.service(role)}"
        hosts.ssh(settings, MANAGER, update)

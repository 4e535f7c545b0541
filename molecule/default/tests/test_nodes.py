"""Both hosts, as they are: systemd, Docker, the Swarm, the kernel."""

from __future__ import annotations

import json
from typing import Any

IS_MANAGER = {"kvm4": True, "kvm2": False}


def engine(host: Any, path: str) -> Any:
    """Ask the host's engine. (Not the docker command: Ansible would fill in the braces of its --format.)"""
    return json.loads(host.check_output(f"curl -sS --fail --unix-socket /var/run/docker.sock http://localhost{path}"))


def test_docker_runs_under_systemd(host: Any) -> None:
    assert host.service("docker").is_running


def test_host_is_in_the_swarm_in_its_part(host: Any) -> None:
    info = engine(host, "/info")
    assert info["Swarm"]["LocalNodeState"] == "active"
    assert info["Swarm"]["ControlAvailable"] is IS_MANAGER[info["Name"]]


def test_every_container_has_its_limit_in_the_kernel(host: Any) -> None:
    for container in engine(host, "/containers/json"):
        limit = engine(host, f"/containers/{container['Id']}/json")["HostConfig"]["NanoCpus"]
        assert limit > 0
        # The container's own view of its cgroup: v2 has cpu.max, v1 a quota and a period.
        v1 = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us"
        read = f"cat /sys/fs/cgroup/cpu.max 2>/dev/null || {v1}"
        quota, period = host.check_output(f"docker exec {container['Id']} sh -c '{read}'").split()
        assert int(quota) / int(period) == limit / 1e9

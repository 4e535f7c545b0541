"""Both hosts, as they are: systemd, Docker, the Swarm, the kernel."""

from __future__ import annotations

import json
from typing import Any

# Through Ansible itself, as the lab's inventory holds templates that testinfra's own SSH would not fill in.
testinfra_hosts = ["ansible://all?force_ansible=True"]

IS_MANAGER = {"kvm4": True, "kvm2": False}


# Each container's own view of its cgroup, in one go: v2 has cpu.max, v1 a quota and a period.
QUOTAS = """for id in $(docker ps --quiet --no-trunc); do
    echo $id $(docker exec $id sh -c 'cat /sys/fs/cgroup/cpu.max 2>/dev/null ||
        cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us')
done"""


def test_docker_runs_under_systemd(host: Any) -> None:
    assert host.service("docker").is_running


def test_host_is_in_the_swarm_in_its_part(host: Any) -> None:
    # Not `docker info --format`: Ansible would fill in its braces.
    info = json.loads(host.check_output("curl -sS --unix-socket /var/run/docker.sock http://localhost/info"))
    assert info["Swarm"]["LocalNodeState"] == "active"
    assert info["Swarm"]["ControlAvailable"] is IS_MANAGER[info["Name"]]


def test_every_container_has_its_limit_in_the_kernel(host: Any) -> None:
    inspected = host.check_output("docker ps --quiet --no-trunc | xargs --no-run-if-empty docker inspect")
    limits = {each["Id"]: each["HostConfig"]["NanoCpus"] / 1e9 for each in json.loads(inspected or "[]")}
    quotas = [line.split() for line in host.check_output(QUOTAS).splitlines()]
    assert {container: int(quota) / int(period) for container, quota, period in quotas} == limits
    assert all(limits.values())

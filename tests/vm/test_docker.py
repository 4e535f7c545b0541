# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""throttling_info on what production has: a distribution's kernel with cgroup v2, Docker with the systemd driver.

Ansible runs here and connects over SSH, as an operator does. The truth table itself is run inside the machine
(tests/vm/run), on plain cgroups.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.harness import Ansible

WINDOW = 10
TOLERANCE = 0.05
ATTEMPTS = 3
#: Below this, other work in the machine takes what the threads would have used; such a window proves nothing.
IDLE_NEEDED = 0.15
THREADS = 4
LIMIT = 0.25
MEMORY_MIB = 256
BUFFER_MIB = 64

#: Real threads of one process: checksums of large buffers are made outside the interpreter's lock.
BUSY_THREADS = f"""
import threading, zlib
buffer = b"x" * ({BUFFER_MIB} << 20)
def work():
    while True:
        zlib.crc32(buffer)
for _ in range({THREADS - 1}):
    threading.Thread(target=work, daemon=True).start()
work()
"""


def test_busy_threads_of_a_swarm_task_are_counted_on_cgroup_v2(
    ansible: Ansible, shell: Callable[[str], str], service: Callable[..., str]
) -> None:
    name = service(BUSY_THREADS, cpus=LIMIT, memory=f"{MEMORY_MIB}M")
    for _ in range(ATTEMPTS):
        result = ansible.module("kvm4", "throttling_info", {"window": WINDOW})
        node = result["node"]
        mine = next(each for each in result["services"] if each["service"] == name)
        print(f"SEEN idle {node['cpu_idle_share']:.2f} node {node} service {mine}")

        assert node["cgroup_version"] == "v2"
        assert node["cgroup_driver"] == "systemd"
        assert node["pressure"]["some"]["share"] is not None
        assert mine["cpu_limit"] == pytest.approx(LIMIT)
        assert mine["memory"]["limit"] == MEMORY_MIB << 20
        assert BUFFER_MIB << 20 < mine["memory"]["working_set"] < MEMORY_MIB << 20
        assert mine["memory"]["peak"] >= mine["memory"]["working_set"]
        assert mine["oom_kills"] == 0
        assert mine["demand"]["regime"] == "unidentifiable"
        assert mine["demand"]["estimate"] is None

        container = next(each for each in result["containers"] if each["service"] == name)
        assert container["threads"] == THREADS
        assert container["pressure"]["some"]["share"] > 0.9
        assert container["pressure"]["full"]["share"] is not None
        # What Docker really set, read past our own code.
        cpu_max = shell(f"cat /sys/fs/cgroup/system.slice/docker-{container['id']}.scope/cpu.max")
        assert cpu_max == f"{round(LIMIT * 100_000)} 100000"

        wanted = pytest.approx(THREADS, rel=TOLERANCE)
        right = mine["runnable"] == wanted and mine["demand"]["upper"] == wanted and mine["throttled_ratio"] > 0.9
        if right and mine["cpu_used"] == pytest.approx(LIMIT, rel=TOLERANCE):
            return
        assert node["cpu_idle_share"] < IDLE_NEEDED, mine
    pytest.skip(f"the machine was busy with other things in {ATTEMPTS} windows")


def test_a_limited_but_idle_task_wants_what_it_uses(ansible: Ansible, service: Callable[..., str]) -> None:
    name = service("import time\nwhile True: time.sleep(0.5)", cpus=LIMIT, memory="64M")
    result = ansible.module("kvm4", "throttling_info", {"window": WINDOW})
    mine = next(each for each in result["services"] if each["service"] == name)
    print(f"SEEN {mine}")
    assert mine["demand"]["regime"] == "unsaturated"
    assert mine["demand"]["estimate"] == mine["cpu_used"]
    assert mine["cpu_used"] < 0.05

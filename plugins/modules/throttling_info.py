#!/usr/bin/python

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Report CPU throttling and demand of every container on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: throttling_info
short_description: Report CPU throttling, demand and memory of the containers on a host
version_added: 0.1.0
extends_documentation_fragment:
  - evenkeel.swarm.host
  - evenkeel.swarm.host.proc
  - evenkeel.swarm.host.look
description:
  - Watches every container of the local Docker engine for a while and reports, for each container, Swarm task and
    Swarm service and for the host, how much CPU was used, how hard the CPU limit cut in, and how much CPU would be
    used without the limit.
  - Reads the kernel's own counters (cgroup v1, v2 and hybrid, cgroupfs and systemd drivers, and the scheduler's
    statistics of each thread). The engine is only asked for the list of containers.
  - Works on Swarm managers and workers alike, because the engine labels each container with its service. Services
    are summed over the tasks on this host only.
  - A value is V(null) where it could not be measured. It is never V(0) in its place.
notes:
  - C(demand) comes with a regime, which says how far it can be trusted. In regime V(unsaturated) the container stayed
    below its limit, so what it used is what it wanted. In regime V(saturated) it was held at its limit while its
    threads still went idle at times, and the estimate is the sum over the threads of run time divided by the time
    not spent waiting for a CPU. In regime V(rough) the threads could not be followed and usage is divided by the time
    not lost to stalls (PSI). In regime V(unidentifiable) only the interval from C(lower) to C(upper) is known.
  - The estimate of a V(saturated) container assumes that its threads do the same work per round however long a round
    takes. A server with an arrival rate of its own that is only just overloaded may be overestimated, and threads that
    wait for each other inside one container are underestimated; M(evenkeel.swarm.demand_probe) tells.
  - Throttled time is summed over CPUs by the kernel, and newer kernels report less of it for the same load. Do not
    add it to the usage, and do not compare it across a kernel upgrade.
requirements:
  - Linux with schedstat (C(CONFIG_SCHED_INFO)), which distributions' kernels have
options:
  window:
    description:
      - How long to watch, in seconds. V(5) to V(10) is a look, V(60) and more is enough to size a limit on.
      - With V(0) there is a single look and everything that is a rate is V(null).
    type: float
    default: 10
  interval:
    description:
      - Seconds between two looks at the threads inside the window. Shorter intervals catch more of the threads that
        come and go, and cost more CPU.
    type: float
    default: 1
  accounting:
    description:
      - How the run time and the run delay of threads are counted.
      - V(schedstat) reads each thread that exists at a look. What a thread did between its last look and its end is
        lost, and where that is more than 5 % of the usage the sums over threads are V(null).
      - V(taskstats) also asks the kernel for the sum of each process, in which its ended threads stay counted. Needs
        C(CAP_NET_ADMIN), so root. Whole processes that come and go between two looks remain unseen. Fails where
        taskstats don't answer.
      - V(auto) is V(taskstats) where they answer and were found to agree with schedstat, else V(schedstat).
    type: str
    choices: [auto, taskstats, schedstat]
    default: auto
"""

EXAMPLES = r"""
- name: Watch all hosts for a minute
  evenkeel.swarm.throttling_info:
    window: 60
  register: throttling

- name: Show the services held at their limit
  ansible.builtin.debug:
    msg: "{{ item.service }} uses {{ item.cpu_used | round(2) }} of {{ item.cpu_limit }} and wants {{ item.demand }}"
  loop: "{{ throttling.services }}"
  loop_control:
    label: "{{ item.service }}"
  when:
    - item.throttled_ratio is not none
    - item.throttled_ratio > 0.25

- name: Fail rather than miss what short-lived threads did
  evenkeel.swarm.throttling_info:
    window: 60
    accounting: taskstats

- name: Take one look at memory and limits, without waiting
  evenkeel.swarm.throttling_info:
    window: 0
  register: look
"""

RETURN = r"""
node:
  description: The host itself.
  returned: success
  type: dict
  contains:
    hostname:
      description: The host's own name.
      type: str
      sample: kvm4
    cpus:
      description: Processors the host may use.
      type: int
      sample: 4
    load:
      description: Load averages of 1, 5 and 15 minutes. Throttled threads are not in them.
      type: list
      elements: float
    cpu_used:
      description: Cores used by everything on the host.
      type: float
    cpu_idle_share:
      description: Share of the window the processors (or, under a quota on the whole host, the quota) were idle.
      type: float
    steal_share:
      description: Share of the window the hypervisor kept for itself.
      type: float
    load_split:
      description:
        - What the load average is made of, as means over the window. C(containers), each with C(name), C(service),
          C(runnable) (threads ready or running, without the throttled ones) and C(uninterruptible) (threads that wait
          for the disk or the like), the largest first. C(runnable_elsewhere) and C(uninterruptible_elsewhere) for
          everything else on the machine (on a host that is a container, the first includes what runs beside it).
          C(text) says it in a sentence.
      type: dict
      sample:
        containers:
          - {name: crm.1.x2, service: crm, runnable: 10.1, uninterruptible: 0.0}
        runnable_elsewhere: 3.4
        uninterruptible_elsewhere: 0.3
        text: "Load 13.9 on 4 cores: 10.1 threads of containers ready to run (crm 10.1), 3.4 elsewhere, 0.3 waiting for
          the disk or the like; throttled threads (9.1) are not in it."
    pressure:
      description: CPU pressure (PSI) as for containers, V(null) where the kernel has none.
      type: dict
    memory_total:
      description: Bytes of memory.
      type: int
    memory_available:
      description: Bytes of memory available without swapping.
      type: int
    cgroup_version:
      description: V(v1), V(v2) or V(hybrid) (v1 controllers next to an empty v2 tree).
      type: str
    cgroup_driver:
      description: V(cgroupfs) or V(systemd), seen from where the containers are. V(null) without containers.
      type: str
    window_seconds:
      description: Length of the window, measured.
      type: float
    accounting:
      description: V(taskstats) if threads that ended are counted too, else V(schedstat).
      type: str
      sample: taskstats
    accounting_reason:
      description: Why it is that one.
      type: str
      sample: taskstats answer here, threads that ended are counted too
    sampler_cpu_seconds:
      description: CPU time this module used for all its looks.
      type: float
    totals:
      description: The sum of all containers, with the keys of a service.
      type: dict
containers:
  description: The containers, sorted by name.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Full id.
      type: str
    name:
      description: Name.
      type: str
    state:
      description: The engine's state, or V(gone) if the container ended inside the window.
      type: str
      sample: running
    service:
      description: Swarm service, V(null) outside Swarm.
      type: str
    task:
      description: Swarm task, V(null) outside Swarm.
      type: str
    slot:
      description: Slot of the task, V(null) outside Swarm and for global services.
      type: int
    node:
      description: The host's own name.
      type: str
    cpu_used:
      description: Cores used.
      type: float
      sample: 0.25
    cpu_limit:
      description: CPU limit in cores, V(null) if there is none.
      type: float
      sample: 0.25
    periods:
      description: Enforcement periods in which the container wanted to run.
      type: int
    throttled_periods:
      description: Periods in which it was throttled.
      type: int
    throttled_ratio:
      description: Share of the active periods in which it was throttled, V(null) if no period was active.
      type: float
    throttled_seconds:
      description: Throttled time, summed over CPUs by the kernel. Its meaning differs between kernels.
      type: float
    bursts:
      description: Periods in which it went over its quota on saved up time (kernel 5.14).
      type: int
    burst_seconds:
      description: Time used on top of the quota in bursts (kernel 5.14).
      type: float
    pressure:
      description:
        - CPU pressure (PSI) C(some) and, from kernel 5.13, C(full), each with C(share) (of the window) and the kernel's
          C(avg10), C(avg60) and C(avg300) in percent. V(null) on pure cgroup v1.
      type: dict
    run_seconds:
      description: Run time summed over threads, V(null) like the next two if threads came and went unseen.
      type: float
    run_delay_seconds:
      description: Time the threads were ready to run and did not, throttled or waiting for others, summed over threads.
      type: float
    exited_run_seconds:
      description:
        - Part of C(run_seconds) of threads that ended, from the last look that saw them on. V(null) with schedstat
          alone.
      type: float
    exited_delay_seconds:
      description: Part of C(run_delay_seconds) of threads that ended, likewise.
      type: float
    runnable:
      description: How many threads ran or wanted to run, on average.
      type: float
    cause:
      description:
        - What its threads waited for, in cores (seconds of waiting, summed over threads, for each second of window).
          V(null) where it could not be told.
      type: dict
      contains:
        throttled:
          description: For their own CPU limit. V(0) if it never cut in.
          type: float
        contention:
          description: For other work on the node.
          type: float
        siblings:
          description: For each other, being more threads than CPUs they may run on.
          type: float
        steal:
          description: Not waiting, but CPU time the hypervisor kept while the threads were on a CPU. The other three
            add up to the waiting.
          type: float
    threads:
      description: Threads at the end of the window.
      type: int
    demand:
      description: Cores the container would use without its limit.
      type: dict
      contains:
        estimate:
          description: The demand, V(null) if it can't be known from here.
          type: float
        lower:
          description: It is at least this, the CPU used.
          type: float
        upper:
          description: It is at most this.
          type: float
        regime:
          description: V(unsaturated), V(saturated), V(rough), V(unidentifiable), or V(null) if nothing was measured.
          type: str
        reason:
          description: Why it is that regime, or why nothing was measured.
          type: str
    memory:
      description:
        - Bytes of memory. C(current) usage, C(working_set) (usage without inactive page cache), C(limit) (V(null) if
          there is none) and C(peak) since the container started (V(null) on cgroup v2 before kernel 5.19).
      type: dict
    oom_kills:
      description: Processes killed for lack of memory since the container started.
      type: int
    pids:
      description: Processes and threads as the pids controller counts them.
      type: int
    restarts:
      description:
        - Earlier containers of the same slot that the engine still knows, so at most the Swarm's task history. Tasks
          replaced by an update count too. V(null) outside Swarm, and with O(window=0), where listing them would cost
          more than the look.
      type: int
    window_seconds:
      description: Length of the container's window, measured.
      type: float
    verdict_grade:
      description: Whether the window was long enough (60 seconds) to size a limit on.
      type: bool
tasks:
  description: The Swarm tasks on this host, sorted by name, with the keys of a service and C(task) and C(slot).
  returned: success
  type: list
  elements: dict
services:
  description:
    - The Swarm services with tasks on this host, sorted by name. C(service), C(containers) (how many) and the keys of a
      container from C(cpu_used) on, summed. A sum is V(null) as soon as a part is, C(throttled_ratio) is that of the
      summed periods, and the demand's regime is the weakest of its parts. C(pressure) and the memory's C(peak) are
      there for single tasks only, as they can't be added.
  returned: success
  type: list
  elements: dict
"""

import math

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.evenkeel.swarm.plugins.module_utils._cgroup import DEFAULT_CGROUP_ROOT
from ansible_collections.evenkeel.swarm.plugins.module_utils._containers import list_containers
from ansible_collections.evenkeel.swarm.plugins.module_utils._engine import DEFAULT_DOCKER_HOST, EngineError
from ansible_collections.evenkeel.swarm.plugins.module_utils._taskstats import (
    AUTO,
    CHOICES,
    TASKSTATS,
    TaskstatsUnavailableError,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._throttling import measure

LONGEST_WINDOW = 86400.0


def option_errors(window: float, interval: float) -> list[str]:
    """Return what is wrong with the two durations."""
    errors = []
    if not (math.isfinite(window) and 0 <= window <= LONGEST_WINDOW):
        errors.append(f"window must be from 0 to {LONGEST_WINDOW:g} seconds: {window}")
    if not (math.isfinite(interval) and interval >= 0.05):
        errors.append(f"interval must be at least 0.05 seconds: {interval}")
    return errors


def define_module() -> AnsibleModule:
    """Build the module with its options."""
    return AnsibleModule(
        argument_spec={
            "window": {"type": "float", "default": 10},
            "interval": {"type": "float", "default": 1},
            "docker_host": {"type": "str", "default": DEFAULT_DOCKER_HOST},
            "cgroup_root": {"type": "path", "default": DEFAULT_CGROUP_ROOT},
            "proc_root": {"type": "path", "default": "/proc"},
            "accounting": {"type": "str", "choices": list(CHOICES), "default": AUTO},
        },
        supports_check_mode=True,
    )


def main() -> None:
    """Run the module."""
    module = define_module()
    options = module.params
    errors = option_errors(options["window"], options["interval"])
    if errors:
        module.fail_json(msg="; ".join(errors))
    try:
        result = measure(
            lambda: list_containers(options["docker_host"], with_restarts=options["window"] > 0),
            window=options["window"],
            interval=options["interval"],
            cgroup_root=options["cgroup_root"],
            proc_root=options["proc_root"],
            accounting=options["accounting"],
        )
    except TaskstatsUnavailableError as error:
        module.fail_json(msg=f"accounting={TASKSTATS} is not possible here: {error}; use {AUTO} or run as root")
    except (EngineError, FileNotFoundError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()

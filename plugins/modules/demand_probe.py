# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find out what a service wants by raising the CPU limit of its running tasks for a while."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: demand_probe
short_description: Find a service's CPU demand by raising its limit for some minutes
version_added: 0.1.0
extends_documentation_fragment:
  - evenkeel.swarm.host
  - evenkeel.swarm.host.proc
  - evenkeel.swarm.progress
description:
  - For a service whose demand is V(unidentifiable) (its threads never pause under the limit, so a small backlog and a
    large appetite look alike). Measures it at its limit, raises the limit of its running tasks on this host, measures
    again, and puts the limit back.
  - The limit is that of the running containers, changed in place as C(docker update --cpus) does. The service's spec is
    not touched, so no task restarts. A task that Swarm makes meanwhile has the spec's limit.
  - The limit is put back whatever happens. On errors and signals the module does it. If the module is killed, or the
    connection and then the host's patience are lost, a systemd timer on the host does it. The timer is armed before
    anything is raised, needs only Python's standard library, and tries again while the engine does not answer. A later
    run that finds the traces of a killed one puts its limit back first.
  - A number is only given after two windows in a row at one limit agree. Work that had piled up under the old limit is
    done in the first of them.
notes:
  - Runs on each host of the play and acts where the service has running tasks. Those are raised together.
  - A run that puts everything back as it was has changed nothing and says C(changed=false). It says C(changed=true)
    only if it put back what a killed run had left.
  - One probe at a time on a host.
  - The module talks to the engine with the standard library alone. Workers need no Docker SDK.
requirements:
  - root on the host, and systemd
  - Docker API >= 1.41 (Docker Engine 20.10)
attributes:
  check_mode:
    support: full
    description: Says which limits a run would set, and for how long. Measures nothing.
  diff_mode:
    support: none
    description: A run leaves limits as they were.
  idempotent:
    support: full
    description: A run leaves limits as they were. Two runs measure at two times.
options:
  service:
    description:
      - The exact name of a Swarm service.
    type: str
    required: true
  factor:
    description:
      - How many times its present value the limit is raised to, by each step. More than 1, at most 10.
    type: float
    default: 2
  steps:
    description:
      - How often it may be raised while the demand stays unknown.
    type: int
    default: 2
  window:
    description:
      - Seconds of one measurement. V(60) and more is enough to size a limit on.
    type: float
    default: 60
  duration:
    description:
      - The most seconds that the limit stays raised, in all. Must hold at least two windows.
    type: float
    default: 240
  min_idle:
    description:
      - Share of the node's CPUs that shall stay idle. Only idle CPU beyond it is given to the service, and where there
        is none the probe is refused. The default is what the estimator needs to tell a held-up service from a free one.
      - V(0) switches this off. The limit never exceeds the node's CPUs.
    type: float
    default: 0.25
  force:
    description:
      - Raise the limit even if the demand is known without it, or the limit did not cut in.
    type: bool
    default: false
seealso:
  - module: evenkeel.swarm.throttling_info
"""

EXAMPLES = r"""
- name: Find out what the CRM wants
  evenkeel.swarm.demand_probe:
    service: backend-django-crm
    progress: true
  register: probe

- name: Show it
  ansible.builtin.debug:
    var: probe.demand
  when: probe.found

- name: Say what would be raised, and for how long
  evenkeel.swarm.demand_probe:
    service: backend-django-crm
    factor: 1.5
    duration: 180
  check_mode: true
"""

RETURN = r"""
found:
  description: Whether the service has running tasks on this host. If not, nothing else is returned.
  returned: success
  type: bool
service:
  description: The service.
  returned: success
  type: str
tasks:
  description: How many of its tasks run here.
  returned: when found
  type: int
limit:
  description: CPU limit of one task in cores, before and after.
  returned: when found
  type: float
  sample: 1.0
raised:
  description: Whether the limit was raised.
  returned: when found, not in check mode
  type: bool
raised_limits:
  description: The limits of one task that were set, in cores. In check mode those that a run would set on an idle node.
  returned: when found
  type: list
  elements: float
  sample: [2.0, 4.0]
refused:
  description: Why the limit was not raised, or not any further. Empty if nothing stood against it.
  returned: when found, not in check mode
  type: str
measurements:
  description: One for each window, in order. The first is at the service's own limit.
  returned: when found, not in check mode
  type: list
  elements: dict
  contains:
    limit:
      description: CPU limit of one task in cores.
      type: float
    cpu_used:
      description: Cores used by all its tasks here.
      type: float
    throttled_ratio:
      description: Share of the active periods in which the limit cut in.
      type: float
    demand:
      description: As M(evenkeel.swarm.throttling_info) returns it.
      type: dict
    node_idle:
      description: Share of the window in which the node's CPUs were idle.
      type: float
    window_seconds:
      description: Length of the window, measured.
      type: float
demand:
  description: The answer, with the keys of C(demand) of M(evenkeel.swarm.throttling_info). C(estimate) is V(null) if
    the demand stayed unknown, and the interval is that of the highest limit.
  returned: when found, not in check mode
  type: dict
throttling:
  description: The last measurement as M(evenkeel.swarm.throttling_info) returns it, for this service alone and with the
    answer as the service's demand.
  returned: when found, not in check mode
  type: dict
recovered:
  description: The containers whose limit a killed run had left raised, and which this run put back.
  returned: success
  type: list
  elements: str
seconds:
  description: The most seconds that a limit stays raised, after which the timer puts it back. In check mode only.
  returned: when found, in check mode
  type: float
"""

import contextlib
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.evenkeel.swarm.plugins.module_utils import _cgroup, _probe, _probe_guard, _put_back
from ansible_collections.evenkeel.swarm.plugins.module_utils._containers import list_containers
from ansible_collections.evenkeel.swarm.plugins.module_utils._engine import DEFAULT_DOCKER_HOST, EngineError
from ansible_collections.evenkeel.swarm.plugins.module_utils._progress import (
    EventWriter,
    event_writer,
    progress_argument_spec,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._throttling import measure
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import NANO

# Quotas are whole microseconds of a period of 100 ms.
LIMIT_TOLERANCE = 0.0001
# The timer comes this much after the probe should be done, so that it never comes into one.
MARGIN_SECONDS = 10.0
MARGIN_SHARE = 0.2
# Looks at the threads inside a window.
INTERVAL = 1.0
# While the engine does not answer, the module tries for this long to put a limit back before it leaves it to the timer.
PATIENCE = 15.0
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
REPORTED = ("cpu_used", "throttled_ratio", "demand", "window_seconds")


class ProbeError(Exception):
    """The probe can't be made or can't go on; the message says why and what became of the limit."""


class InterruptedBySignalError(Exception):
    """A signal told the module to end."""


class DemandProbe:
    """One probe on one host."""

    def __init__(self, module: AnsibleModule, event: EventWriter) -> None:
        self.module = module
        self.options = module.params
        self.event = event
        self.docker_host: str = self.options["docker_host"]
        self.tree = _cgroup.hierarchy(self.options["cgroup_root"])
        self.limits: dict[str, int] = {}
        self.raised_limits: list[float] = []
        self.last: dict[str, Any] = {}
        #: Seconds that the limit may still be raised.
        self.left = 0.0

    def run(self) -> dict[str, Any]:
        """Probe and return the module's result; raises what main() turns into a failure."""
        check = self.module.check_mode
        means = _probe_guard.missing_means()
        if means:
            raise ProbeError(means)
        with _probe_guard.locked(read_only=check):
            recovered = self._recover(check)
            self.limits = self._present_limits()
            result = {"changed": bool(recovered), "service": self.options["service"], "recovered": recovered}
            if not self.limits:
                return {**result, "found": False}
            present = self._limit_of_a_task()
            policy = self._policy()
            if check:
                limits = _probe.predicted_limits(present, policy)
                seconds = policy.windows * policy.window
                found = {"raised_limits": limits, "seconds": seconds}
            else:
                found = self._raise_and_measure(present, policy)
            return {**result, "found": True, "tasks": len(self.limits), "limit": present, **found}

    def _recover(self, check: bool) -> list[str]:
        """Put back what a killed run has left, or in check mode say what that would be."""
        intent = _probe_guard.leftover()
        if intent is None:
            return []
        done = list(intent["limits"]) if check else _probe_guard.undo()
        self.event("recovered", {"service": intent["service"]})
        return done

    def _present_limits(self) -> dict[str, int]:
        """Return the limits of the service's running containers in nano-CPUs, 0 for none."""
        service = self.options["service"]
        containers = list_containers(self.docker_host, with_restarts=False)
        mine = [each.id for each in containers if each.service == service and each.state == "running"]
        limits = {container: _put_back.nano_cpus(self.docker_host, container) for container in mine}
        return {container: limit for container, limit in limits.items() if limit is not None}

    def _limit_of_a_task(self) -> float:
        different = set(self.limits.values())
        service = self.options["service"]
        if len(different) > 1:
            raise ProbeError(f"the tasks of {service} have different limits: wait until its update is done")
        limit = different.pop()
        if limit == 0:
            raise ProbeError(f"{service} has no CPU limit: nothing holds it, there is nothing to raise")
        return limit / NANO

    def _policy(self) -> _probe.Policy:
        options = {name: self.options[name] for name in ("factor", "steps", "window", "duration", "min_idle", "force")}
        return _probe.Policy(**options, cpus=len(os.sched_getaffinity(0)), tasks=len(self.limits))

    def _raise_and_measure(self, present: float, policy: _probe.Policy) -> dict[str, Any]:
        timer = policy.windows * policy.window + max(MARGIN_SECONDS, MARGIN_SHARE * policy.duration)
        self.event("begin", {"service": self.options["service"], "limit": present, "tasks": len(self.limits)})
        self.left = policy.windows * policy.window
        self._listen()
        try:
            taken, refused = _probe.run_probe(
                present, policy, self._measure, lambda limit: self._raise_to(limit, timer)
            )
        finally:
            self._put_back(present)
        demand = _probe.answer(taken, refused)
        self.last["services"][0]["demand"] = asdict(demand)
        return {
            "raised": bool(self.raised_limits),
            "raised_limits": self.raised_limits,
            "refused": refused,
            "measurements": [
                {"limit": each.limit, "node_idle": each.node_idle, **{name: each.row[name] for name in REPORTED}}
                for each in taken
            ],
            "demand": asdict(demand),
            "throttling": self.last,
        }

    def _measure(self, limit: float) -> _probe.Measurement:
        window = self.options["window"]
        self.event("measuring", {"limit": limit, "seconds": window, "left": self.left if self.raised_limits else None})
        self.left -= window if self.raised_limits else 0
        result = measure(
            lambda: [each for each in list_containers(self.docker_host) if each.id in self.limits],
            window=window,
            interval=min(INTERVAL, window),
            cgroup_root=self.options["cgroup_root"],
            proc_root=self.options["proc_root"],
        )
        if {each["id"] for each in result["containers"] if each["state"] == "running"} != set(self.limits):
            raise ProbeError("a task ended in the middle of the probe, and its raised limit with it; run again")
        self._verify(limit, "the limit was changed by somebody else in the middle of the probe")
        self.last = result
        row = result["services"][0]
        self.event("measured", {"limit": limit, "cpu_used": row["cpu_used"], "demand": row["demand"]})
        return _probe.Measurement(limit, row, result["node"]["cpu_idle_share"])

    def _raise_to(self, limit: float, timer_seconds: float) -> None:
        if not self.raised_limits:
            _probe_guard.arm(self.options["service"], self.docker_host, self.limits, timer_seconds)
        elif _probe_guard.leftover() is None:
            raise ProbeError("the timer put the limit back before the probe was done: this host is too slow for it")
        self.raised_limits.append(limit)
        for container in self.limits:
            _put_back.set_nano_cpus(self.docker_host, container, round(limit * NANO))
        self._verify(limit, "the engine took the new limit, but the kernel does not have it")
        self.event("raised", {"limit": limit})

    def _verify(self, limit: float, otherwise: str) -> None:
        """Read the limits where they act."""
        paths = _cgroup.container_paths(self.tree, self.limits)
        for container in self.limits:
            reading = _cgroup.read_cpu(self.tree, paths[container]) if container in paths else None
            found = reading.limit.cores if reading and reading.limit else None
            if found is None or abs(found - limit) > LIMIT_TOLERANCE:
                raise ProbeError(f"{otherwise}: container {container[:12]} has {found} cores, not {limit:g}")

    def _put_back(self, present: float) -> None:
        """Put the limit back if it was raised, and see that it is; the timer stays if the engine does not answer."""
        if not self.raised_limits:
            return
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                _probe_guard.undo()
                break
            except _put_back.UpdateError as error:
                if time.monotonic() > deadline:
                    raise ProbeError(f"the limit is still raised, and the timer will put it back: {error}") from error
                time.sleep(1)
        running = self._present_limits()
        self.limits = {container: limit for container, limit in self.limits.items() if container in running}
        self._verify(present, "the limit could not be put back")
        self.event("put_back", {"limit": present})

    def _listen(self) -> None:
        """Turn the first signal into an exception; later ones must not disturb putting the limit back."""

        def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
            for each in SIGNALS:
                signal.signal(each, signal.SIG_IGN)
            raise InterruptedBySignalError(signal.Signals(number).name)

        for each in SIGNALS:
            signal.signal(each, interrupt)


def define_module() -> AnsibleModule:
    """Build the module with its options."""
    return AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "factor": {"type": "float", "default": 2},
            "steps": {"type": "int", "default": 2},
            "window": {"type": "float", "default": 60},
            "duration": {"type": "float", "default": 240},
            "min_idle": {"type": "float", "default": 0.25},
            "force": {"type": "bool", "default": False},
            # Read by the action plugin; here for those who call the module without it.
            **progress_argument_spec(),
            "docker_host": {"type": "str", "default": DEFAULT_DOCKER_HOST},
            "cgroup_root": {"type": "path", "default": _cgroup.DEFAULT_CGROUP_ROOT},
            "proc_root": {"type": "path", "default": "/proc"},
        },
        supports_check_mode=True,
    )


def main() -> None:
    """Run the module."""
    module = define_module()
    options = module.params
    named = {name: options[name] for name in ("factor", "steps", "window", "duration", "min_idle")}
    errors = _probe.option_errors(**named)
    if errors:
        module.fail_json(msg="; ".join(errors))
    path = options["progress_file"]
    try:
        with Path(path).open("a", encoding="utf-8") if path else contextlib.nullcontext() as handle:
            result = DemandProbe(module, event_writer(handle)).run()
    except InterruptedBySignalError as error:
        module.fail_json(msg=f"interrupted by {error}; the limit of {options['service']} is as it was")
    except (ProbeError, _probe_guard.GuardError, _put_back.UpdateError, EngineError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()

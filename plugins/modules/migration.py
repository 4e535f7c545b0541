# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Move services with their data between two hosts of a Swarm, step by step, with a way back."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: migration
short_description: Move services with their data between two hosts of a Docker Swarm
version_added: 0.1.0
extends_documentation_fragment:
  - evenkeel.swarm.swarm
  - evenkeel.swarm.progress
description:
  - Moves a unit, which is a few services with their data, from its home to its target. Data is copied while the
    services run. The switch is short, and what was acknowledged before it is there after it.
  - A move is a row of verbs, V(prepare), V(precopy), V(switch), then V(complete). Before a switch V(cancel) takes
    everything back. After it V(reverse) brings the unit home with all that was written since.
  - Every verb can be run again, after whatever end of an earlier run. It looks at what is there and goes on from there.
    A second run of what is done changes nothing.
  - At no moment are there two copies of the data that a container could write to.
  - If the module is killed in the middle of a switch, a systemd timer on the manager gives the unit back to its source
    after O(deadline), also over a reboot. It does so only if no promotion was intended.
notes:
  - Runs on a manager of the Swarm. Other hosts are reached over SSH with a key that the role
    P(evenkeel.swarm.migration#role) makes for it. Without that link V(plan) returns what it would ask of them as
    C(questions), for M(evenkeel.swarm.migration_info), and names what nobody has looked at.
  - One move at a time on a Swarm. V(plan), V(status) and V(verify) run at any time.
  - Nothing secret stands in the result, in the journal, or in the arguments of a process.
  - The runbook is docs/moving.md.
requirements:
  - root on the manager, and systemd
  - rsync, ssh and Python 3.11 on both hosts
attributes:
  check_mode:
    support: full
    description: Looks and says which steps a run would do. What comes after the first of them can't be looked at yet,
      and is said to be done as well.
  diff_mode:
    support: none
    description: The result lists steps.
  idempotent:
    support: full
    description: A second run of a verb that is done changes nothing.
options:
  verb:
    description:
      - What to do. V(plan) shows what would move and how, V(status) where a move stands and how far copies are behind.
        Neither changes anything.
      - V(prepare) pins the services to where they run, makes a backup with a tested restore, and what a copy needs.
      - V(precopy) copies while the services run. Each run brings the copy nearer.
      - V(verify) fails if a copy is not ready, or if the unit does not check out where it runs.
      - V(switch) moves the unit, V(reverse) moves it back. V(complete) removes the old copy. V(cancel) takes everything
        back that was done before a switch.
    type: str
    choices: [plan, prepare, precopy, status, verify, switch, reverse, complete, cancel]
    default: plan
  unit:
    description:
      - The unit to act on. V(plan) and V(status) act on all units without it; every other verb needs it.
    type: str
  units:
    description:
      - The units by name, as C(migration_units) in the inventory. What a unit has is described in docs/moving.md.
    type: dict
    required: true
  deadline:
    description:
      - Seconds from the fence to the promotion. After it the unit is given back to its source. The time that members
        may take to drain comes on top. From 10 to 86400.
    type: float
    default: 120
  max_lag:
    description:
      - How many bytes a copy may be behind when a switch begins. At most 10 to the 12th.
    type: int
    default: 16777216
  min_age:
    description:
      - Seconds that must have passed since the switch before V(complete) removes the old copy. At most a year.
    type: float
    default: 86400
  confirm:
    description:
      - V(complete) needs this. It can't be taken back.
    type: bool
    default: false
  verify:
    description:
      - How thoroughly data is compared inside a switch. V(full) compares every row, and the outage is as long as that
        takes.
    type: str
    choices: [quick, full]
    default: quick
  backup_directory:
    description:
      - Where backups lie, on the host that the unit does not run on.
    type: path
    default: /var/backups/evenkeel
  state_directory:
    description:
      - Where journals, the lock and the SSH key lie on the manager.
    type: path
    default: /var/lib/evenkeel/migration
  addresses:
    description:
      - Swarm hostname to address, for hosts that the manager reaches at another address than Swarm has for them.
    type: dict
    default: {}
  brought:
    description:
      - Answers of M(evenkeel.swarm.migration_info) on hosts to which there is no SSH link yet, each with the C(host)
        that gave it. With V(plan).
    type: list
    elements: dict
    default: []
seealso:
  - module: evenkeel.swarm.migration_info
  - module: evenkeel.swarm.service_limits
"""

EXAMPLES = r"""
- name: What would move, and how?
  evenkeel.swarm.migration:
    units: "{{ migration_units }}"
  register: plans

- name: Show it
  ansible.builtin.debug:
    msg: "{{ plans.lines }}"

- name: Bring Saleor to its target
  evenkeel.swarm.migration:
    units: "{{ migration_units }}"
    unit: saleor
    verb: "{{ item }}"
    progress: true
  loop: [prepare, precopy, switch]

- name: Bring it back
  evenkeel.swarm.migration:
    units: "{{ migration_units }}"
    unit: saleor
    verb: reverse
    progress: true

- name: Remove the old copy for good
  evenkeel.swarm.migration:
    units: "{{ migration_units }}"
    unit: saleor
    verb: complete
    confirm: true
"""

RETURN = r"""
lines:
  description: The result for people.
  returned: always
  type: list
  elements: str
questions:
  description: What V(plan) would have asked of hosts to which there is no SSH link yet, for
    M(evenkeel.swarm.migration_info) on the C(host). Empty once all of it was brought.
  returned: with V(plan)
  type: list
  elements: dict
  sample: [{host: kvm2, question: {argv: [rsync, --version]}}]
units:
  description: What became of each unit, by name.
  returned: always
  type: dict
  contains:
    phase:
      description: Where the move stands, V(new), V(prepared), V(copied), V(switching), V(promoting), V(switched),
        V(completed), V(cancelling), V(cancelled), or V(unknown) if it could not be looked at after an error.
      type: str
    runs_on:
      description: The host that the unit runs on. V(null) while that can't be said.
      type: str
    target:
      description: The host that it moves to, or would next.
      type: str
    since:
      description: When it was switched, ISO 8601. V(null) if it was not.
      type: str
    problem:
      description: What contradicts itself. Empty if nothing does.
      type: str
    next:
      description: The verb that leads on. V(null) where nothing is left to do.
      type: str
    outcomes:
      description: One for each step that was come to, in order. C(outcome) is V(done) if there was nothing to do,
        V(did), V(would) in check mode, V(undone) or V(failed).
      type: list
      elements: dict
      sample: [{step: switch.saleor.fence, title: "arm the watcher", host: kvm4, outcome: did, seconds: 0.4}]
    readiness:
      description: How far the copy of each part is behind. With V(status) and V(verify).
      type: list
      elements: dict
    plan:
      description: What moves and how, with a hash. With V(plan).
      type: dict
    plan_text:
      description: The plan for people. With V(plan).
      type: list
      elements: str
    warnings:
      description: What did not work out and stopped nothing.
      type: list
      elements: str
    journal:
      description: The unit's journal on the manager.
      type: str
    error:
      description: What went wrong, with C(code), C(message), C(details), and C(field) for a mistake in the inventory.
        After an error only.
      type: dict
"""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.evenkeel.swarm.plugins.module_utils._bounds import out_of_bounds
from ansible_collections.evenkeel.swarm.plugins.module_utils._engine import EngineError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.engine import Engine
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import STATE
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.link import Link, find_places, local_info
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Options
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.phase import PLAN, STATUS, VERBS
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.setting import Setting
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.text import failure_text, result_lines
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.units import parse_units
from ansible_collections.evenkeel.swarm.plugins.module_utils._progress import (
    EventWriter,
    event_writer,
    progress_argument_spec,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._swarm import open_swarm, swarm_argument_spec

DEFAULTS = Options()
#: The role's are the same (a test compares): bytes, and seconds up to a day and to a leap year.
BOUNDS: Mapping[str, Mapping[str, float]] = {
    "deadline": {"min": 10, "max": 86_400},
    "max_lag": {"min": 0, "max": 10**12},
    "min_age": {"min": 0, "max": 31_622_400},
}
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Migration:
    """One verb on one unit, or a look at all of them."""

    def __init__(self, module: AnsibleModule, event: EventWriter) -> None:
        self.module = module
        self.options = module.params
        self.event = event
        self.verb: str = self.options["verb"]
        self.state = Path(self.options["state_directory"])
        self.questions: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """Return the module's result; a failure is in it as `msg`. Raises MoveError before anything was looked at."""
        units = self._chosen()
        self._refuse_host()
        self.event("begin", {"verb": self.verb, "units": list(units), "pid": os.getpid()})
        cluster = Cluster(open_swarm(self.module))
        results = {name: self._act(unit, cluster) for name, unit in units.items()}
        lines = [line for result in results.values() for line in [*result.get("plan_text", []), *result_lines(result)]]
        failures = [failure_text(self.verb, result) for result in results.values() if "error" in result]
        changed = any(result["changed"] for result in results.values())
        said = {"msg": " ".join(failures), "failed": True} if failures else {}
        asked = {"questions": unique(self.questions)} if self.verb == PLAN else {}
        return {"changed": changed, "lines": lines, "units": results, **asked, **said}

    def _chosen(self) -> dict[str, Unit]:
        units = parse_units(self.options["units"])
        name = self.options["unit"]
        if name is None and self.verb in (PLAN, STATUS):
            return units
        if name not in units:
            known = ", ".join(units)
            wrong = f"verb={self.verb} needs a unit" if name is None else f"there is no unit {name!r}"
            raise MoveError("bad_input", f"{wrong}: give unit, one of {known}", field="unit")
        return {name: units[name]}

    def _refuse_host(self) -> None:
        """A move needs what makes it safe: root, systemd for the watcher, and a manager's API."""
        if os.geteuid() != 0:
            raise MoveError("not_root", "a move needs root (become: true): it renames volumes and arms a system timer")
        if shutil.which("systemctl") is None or not Path("/run/systemd/system").is_dir():
            raise MoveError("no_watcher", "a move needs systemd on the manager, for the timer that ends a stuck switch")
        local_info(self.options["docker_host"])

    def _act(self, unit: Unit, cluster: Cluster) -> dict[str, Any]:
        try:
            engine = self._engine(unit, cluster)
        except MoveError as error:
            return {**_NOTHING, "unit": unit.name, "target": unit.target, "error": error.as_dict()}
        try:
            return engine.run()
        except MoveError as error:
            return engine.after(error)
        except (EngineError, OSError) as error:
            return engine.after(MoveError("failed", f"{type(error).__name__}: {error}"))
        finally:
            self.questions += engine.questions()

    def _engine(self, unit: Unit, cluster: Cluster) -> Engine:
        options = self.options
        ssh = self.state / "ssh"
        link = Link(ssh / "id_ed25519", ssh / "known_hosts", options["addresses"], by_host(options["brought"]))
        setting = Setting(
            unit=unit,
            cluster=cluster,
            places=find_places(unit, cluster, options["docker_host"], link),
            options=Options(**{name: options[name] for name in _OPTIONS}),
            state=self.state,
            docker_host=options["docker_host"],
        )
        return Engine(setting, self.verb, self.event, check=self.module.check_mode, confirm=options["confirm"])


_OPTIONS = ("deadline", "max_lag", "min_age", "verify", "backup_directory")
_NOTHING: Mapping[str, Any] = {
    "phase": "unknown",
    "runs_on": None,
    "since": None,
    "problem": "",
    "next": None,
    "outcomes": [],
    "changed": False,
    "warnings": [],
}


def by_host(brought: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the answers of each host. Raises MoveError with the field of one that has not all it needs."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for number, each in enumerate(brought):
        if not {"host", "question", "answer"} <= set(each):
            message = f"brought[{number}] must have host, question and answer, as migration_info returns them"
            raise MoveError("bad_input", message, field=f"brought[{number}]")
        found.setdefault(each["host"], []).append(each)
    return found


def unique(questions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each question once: units ask for the same."""
    return [*{json.dumps(each, sort_keys=True): each for each in questions}.values()]


def listen() -> None:
    """Turn the first signal into an error, which gives a fenced unit back; later ones must not disturb that."""

    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise MoveError("interrupted", f"interrupted by {signal.Signals(number).name}")

    for each in SIGNALS:
        signal.signal(each, interrupt)


def option_error(options: Mapping[str, Any]) -> str:
    """Say which options make no sense and what would, "" if all do."""
    return " ".join(out_of_bounds(options, BOUNDS))


def define_module() -> AnsibleModule:
    """Build the module with its options."""
    return AnsibleModule(
        argument_spec={
            **swarm_argument_spec(),
            "verb": {"type": "str", "choices": list(VERBS), "default": PLAN},
            "unit": {"type": "str"},
            "units": {"type": "dict", "required": True},
            "deadline": {"type": "float", "default": DEFAULTS.deadline},
            "max_lag": {"type": "int", "default": DEFAULTS.max_lag},
            "min_age": {"type": "float", "default": DEFAULTS.min_age},
            "confirm": {"type": "bool", "default": False},
            "verify": {"type": "str", "choices": ["quick", "full"], "default": DEFAULTS.verify},
            "backup_directory": {"type": "path", "default": DEFAULTS.backup_directory},
            "state_directory": {"type": "path", "default": str(STATE)},
            "addresses": {"type": "dict", "default": {}},
            "brought": {"type": "list", "elements": "dict", "default": []},
            # Read by the action plugin; here for those who call the module without it.
            **progress_argument_spec(),
        },
        supports_check_mode=True,
    )


def main() -> None:
    """Run the module."""
    module = define_module()
    wrong = option_error(module.params)
    if wrong:
        module.fail_json(msg=wrong, lines=[], units={})
    path = module.params["progress_file"]
    try:
        listen()
        with Path(path).open("a", encoding="utf-8") if path else contextlib.nullcontext() as handle:
            result = Migration(module, event_writer(handle)).run()
    except MoveError as error:
        module.fail_json(msg=error.message, error=error.as_dict(), lines=[], units={})
    except OSError as error:
        module.fail_json(msg=str(error), lines=[], units={})
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()

#!/usr/bin/python

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answer on a host what the plan of a move wants to know of it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: migration_info
short_description: Look at a host for the plan of a move
version_added: 0.1.0
description:
  - Answers the C(questions) of M(evenkeel.swarm.migration) with O(evenkeel.swarm.migration#module:verb=plan) on the
    host that they are about, so that a plan is whole before there is an SSH link between the hosts.
  - Only what looks and changes nothing is answered, such as room on the disk, ports in use, images and where a volume's
    data lies. Everything else is refused.
notes:
  - The role P(evenkeel.swarm.migration#role) does this by itself.
requirements:
  - root, as volumes belong to it
attributes:
  action:
    support: none
    description: There is no action plugin.
  async:
    support: full
    description: Can be run in the background.
  check_mode:
    support: full
    description: Never changes anything.
  diff_mode:
    support: none
    description: Never changes anything.
  idempotent:
    support: full
    description: Never changes anything.
options:
  host:
    description:
      - This host's name in the Swarm, which the answers carry.
    type: str
    required: true
  questions:
    description:
      - As M(evenkeel.swarm.migration) returned them for this host.
    type: list
    elements: dict
    required: true
seealso:
  - module: evenkeel.swarm.migration
"""

EXAMPLES = r"""
- name: Plan with what the manager itself can see
  evenkeel.swarm.migration:
    units: "{{ migration_units }}"
  register: plan
  delegate_to: kvm4

- name: Look at this host for the plan
  evenkeel.swarm.migration_info:
    host: kvm2
    questions: "{{ plan.questions | selectattr('host', 'eq', 'kvm2') | map(attribute='question') | list }}"
  register: seen

- name: Plan with that as well
  evenkeel.swarm.migration:
    units: "{{ migration_units }}"
    brought: "{{ seen.answers }}"
  delegate_to: kvm4
"""

RETURN = r"""
answers:
  description: One for each question, in order, for O(evenkeel.swarm.migration#module:brought).
  returned: success
  type: list
  elements: dict
  sample: [{host: kvm2, question: {argv: [rsync, --version]}, answer: {status: 0, out: "rsync 3.4", err: ""}}]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.brought import answer, refused
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import LocalHost


def answers(host: str, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each question with its answer and the host. Raises MoveError: one that may not be asked, by its field."""
    for number, question in enumerate(questions):
        why = refused(question)
        if why:
            raise MoveError("bad_input", f"questions[{number}]: {why}", field=f"questions[{number}]")
    here = LocalHost(host)
    return [{"host": host, "question": each, "answer": answer(here, each)} for each in questions]


def define_module() -> AnsibleModule:
    """Build the module with its options."""
    return AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "questions": {"type": "list", "elements": "dict", "required": True},
        },
        supports_check_mode=True,
    )


def main() -> None:
    """Run the module."""
    module = define_module()
    try:
        module.exit_json(changed=False, answers=answers(module.params["host"], module.params["questions"]))
    except MoveError as error:
        module.fail_json(msg=error.message, error=error.as_dict())


if __name__ == "__main__":
    main()

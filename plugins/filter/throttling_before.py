# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: throttling_before
short_description: Read an earlier throttling report to compare with
version_added: 0.1.0
author: Even Keel contributors
description:
  - Reads the text of a C(throttling.json) of the role P(evenkeel.swarm.report#role), also of an earlier version.
  - Fails with one sentence if it is anything else.
options:
  _input:
    description: The file's text.
    type: str
    required: true
  name:
    description: What to call the file in an error.
    type: str
    required: true
positional: name
"""

EXAMPLES = r"""
- name: Read the report from before the change
  ansible.builtin.set_fact:
    before: "{{ lookup('ansible.builtin.file', path) | evenkeel.swarm.throttling_before(path) }}"
  vars:
    path: reports/demo/before/throttling.json
"""

RETURN = r"""
_value:
  description: The report, as P(evenkeel.swarm.throttling_report#filter) returned it.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.module_utils import _report_compare


def throttling_before(text: str, name: str) -> dict[str, Any]:
    """Return the report; raise AnsibleFilterError if the text is none."""
    try:
        return _report_compare.parse_report(text, name)
    except _report_compare.NoReportError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """The filter throttling_before."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"throttling_before": throttling_before}

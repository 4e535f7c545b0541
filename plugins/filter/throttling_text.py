# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: throttling_text
short_description: A throttling report for the terminal
version_added: 0.1.0
author: Even Keel contributors
description:
  - Writes the report as two tables, of services and of nodes, with remarks below.
  - What was not measured is a dash, an interval is written C(lower..upper).
options:
  _input:
    description: What P(evenkeel.swarm.throttling_report#filter) returned.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the report
  ansible.builtin.debug:
    msg: "{{ report | evenkeel.swarm.throttling_text }}"
"""

RETURN = r"""
_value:
  description: Lines of text.
  type: str
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _report_text


def throttling_text(report: Mapping[str, Any]) -> str:
    """Return the text, without a final line break."""
    return _report_text.report_text(report)


class FilterModule:
    """The filter throttling_text."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"throttling_text": throttling_text}

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: throttling_page
short_description: A throttling report as one HTML file
version_added: 0.1.0
author: Even Keel contributors
description:
  - Writes the report as a page that needs nothing but itself - charts, light and dark, sortable tables.
  - Names of services and hosts are data, whatever they look like.
requirements:
  - matplotlib on the controller
options:
  _input:
    description: What P(evenkeel.swarm.throttling_report#filter) returned.
    type: dict
    required: true
  templates:
    description: Directory of C(report.html.j2), C(report.css) and C(report.js), the role's C(templates).
    type: path
    required: true
positional: templates
"""

EXAMPLES = r"""
- name: Write the page
  ansible.builtin.copy:
    content: "{{ report | evenkeel.swarm.throttling_page(role_path ~ '/templates') }}"
    dest: report.html
    mode: "0644"
"""

RETURN = r"""
_value:
  description: The page.
  type: str
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.module_utils import _report_page
from ansible_collections.evenkeel.swarm.plugins.module_utils._report_charts import ChartsMissingError


def throttling_page(report: Mapping[str, Any], templates: str) -> str:
    """Return the page; raise AnsibleFilterError where matplotlib is missing."""
    try:
        return _report_page.page(report, templates)
    except ChartsMissingError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """The filter throttling_page."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"throttling_page": throttling_page}

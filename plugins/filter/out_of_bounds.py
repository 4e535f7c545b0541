# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: out_of_bounds
short_description: Say which values lie outside their bounds
version_added: 0.1.0
author: Even Keel contributors
description:
  - Argument specs know types and choices, but no bounds. This filter checks those, of numbers and of lengths of text.
  - A number may come as text, as surveys and command lines give it.
options:
  _input:
    description: Values by the name of their variable.
    type: dict
    required: true
  bounds:
    description:
      - Bounds by the name of the variable. C(min), C(max), C(above) and C(below) bound a number, the last two without
        the bound itself; C(shortest) and C(longest) bound the length of a text.
      - A bound whose variable is not among the values is passed over.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Refuse a window that makes no sense
  ansible.builtin.assert:
    that: problems | length == 0
    fail_msg: "{{ problems | join(' ') }}"
  vars:
    problems: "{{ {'window': window} | evenkeel.swarm.out_of_bounds({'window': {'min': 0, 'max': 3600}}) }}"
"""

RETURN = r"""
_value:
  description: One sentence for each value outside its bounds, which names the variable. Empty if all is well.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.module_utils._bounds import BoundsError
from ansible_collections.evenkeel.swarm.plugins.module_utils._bounds import out_of_bounds as _out_of_bounds


def out_of_bounds(values: Mapping[str, Any], bounds: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return what is wrong with the values."""
    try:
        return _out_of_bounds(values, bounds)
    except BoundsError as error:
        raise AnsibleFilterError(f"out_of_bounds: {error}") from error


class FilterModule:
    """The filter out_of_bounds."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by name."""
        return {"out_of_bounds": out_of_bounds}

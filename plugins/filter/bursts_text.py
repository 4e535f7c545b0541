# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: bursts_text
short_description: The bursts of all hosts for the terminal
version_added: 0.1.0
author: Even Keel contributors
description:
  - Writes what M(evenkeel.swarm.burst_info) found on some hosts as one table with remarks below.
  - What could not be told is a dash.
options:
  _input:
    description: The results of M(evenkeel.swarm.burst_info).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the bursts
  ansible.builtin.debug:
    msg: "{{ ansible_play_hosts | map('extract', hostvars, 'bursts') | evenkeel.swarm.bursts_text }}"
"""

RETURN = r"""
_value:
  description: Lines of text.
  type: str
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _burst_text


def bursts_text(looks: Iterable[Mapping[str, Any]]) -> str:
    """Return the text, without a final line break."""
    return _burst_text.bursts_text(list(looks))


class FilterModule:
    """The filter bursts_text."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"bursts_text": bursts_text}

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: recommendation_text
short_description: A recommendation of limits for the terminal
version_added: 0.1.0
author: Even Keel contributors
description:
  - Writes the recommendation as a table, the reason for each service, and what it sums to.
  - What is not known is a dash, an upper bound that is not known a question mark.
options:
  _input:
    description: What P(evenkeel.swarm.service_recommendation#filter) returned.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the recommendation
  ansible.builtin.debug:
    msg: "{{ recommendation | evenkeel.swarm.recommendation_text }}"
"""

RETURN = r"""
_value:
  description: Lines of text.
  type: str
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _recommendation


def recommendation_text(recommendation: Mapping[str, Any]) -> str:
    """Return the text, without a final line break."""
    return _recommendation.recommendation_text(recommendation)


class FilterModule:
    """The filter recommendation_text."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"recommendation_text": recommendation_text}

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: prometheus_history
short_description: A history of windows from Prometheus
version_added: 0.1.0
author: Even Keel contributors
description:
  - Asks a Prometheus that scrapes cAdvisor on every node for the CPU usage, throttled periods, limits, memory and OOM
    kills of every Swarm service (by the label C(container_label_com_docker_swarm_service_name)), and returns the
    history that P(evenkeel.swarm.service_recommendation#filter) reads.
  - Prometheus knows usage only. The demand of a window in which a service was throttled is unknown, and the record
    says so.
options:
  _terms:
    description: The address of Prometheus, such as C(http://prometheus.example:9090).
    type: list
    elements: str
    required: true
  days:
    description: How far back to ask.
    type: float
    default: 7
  step:
    description:
      - Length of a window in seconds. Each window needs two scrapes at least; four are better.
    type: int
    default: 60
notes:
  - Runs on the controller, with Python's own HTTP client; it honours C(http_proxy) and C(no_proxy).
"""

EXAMPLES = r"""
- name: Show what the last week asks for
  ansible.builtin.debug:
    msg: "{{ lookup('evenkeel.swarm.prometheus_history', prometheus) | evenkeel.swarm.service_recommendation }}"
  vars:
    prometheus: http://prometheus.example:9090
"""

RETURN = r"""
_raw:
  description: JSON lines, one record for each service and window, for each address.
  type: list
  elements: str
"""

import json
import time
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.evenkeel.swarm.plugins.module_utils._history import HistoryError
from ansible_collections.evenkeel.swarm.plugins.module_utils._prometheus import fetch, span


class LookupModule(LookupBase):  # type: ignore[misc]
    """The lookup prometheus_history."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return the JSON lines of each address."""
        self.set_options(var_options=variables, direct=kwargs)
        step = int(self.get_option("step"))
        try:
            start, end = span(float(self.get_option("days")), step, time.time())
            histories = [fetch(str(url), start, end, step) for url in terms]
        except HistoryError as error:
            raise AnsibleLookupError(f"prometheus_history: {error}") from error
        return ["\n".join(map(json.dumps, history)) for history in histories]

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: service_recommendation
short_description: Limits for every service from the history of what it wanted
version_added: 0.1.0
author: Even Keel contributors
description:
  - Sizes each service's CPU limit on what it used or, where its limit held it down and its demand was identified, on
    what it would have used; its memory limit on its peaks. Divides the cores fairly when the fleet wants more.
  - Says beside it what the formulas of the Kubernetes VPA and of KRR make of the same history.
  - What can't be known is null. How the figures come about is in C(docs/right-sizing.md).
options:
  _input:
    description: The history as JSON lines, one record of P(evenkeel.swarm.throttling_history#filter) a line.
    type: str
    required: true
  report:
    description:
      - What P(evenkeel.swarm.throttling_report#filter) returned last. Says which nodes there are, how many cores they
        have and which services run there. Without it and without O(cores) nothing is divided.
    type: dict
    default: {}
  cores:
    description: Cores by the node's host name, instead of those in O(report).
    type: dict
    default: {}
  percentile:
    description: The share of a service's load (the CPU time it wanted) that lies in windows the target is enough for.
    type: float
    default: 0.95
  margin:
    description: What to add to that, as a share.
    type: float
    default: 0.15
  minimum_hours:
    description: Hours of windows below which a service is not sized.
    type: float
    default: 1
  minimum_cpus:
    description:
      - The least CPU limit to recommend, in cores, unless today's limit is lower. A start takes more than idling, and
        no window is long enough to show it.
    type: float
    default: 0.05
  minimum_memory:
    description: The same for memory, in bytes.
    type: int
    default: 67108864
  weights:
    description: Weight of a service in the division, by its name; 1 for all others.
    type: dict
    default: {}
  minimums:
    description: Cores that a task of a service gets in any case, by the service's name.
    type: dict
    default: {}
  oversubscription:
    description: How many times over the cores may be given away.
    type: float
    default: 1
"""

EXAMPLES = r"""
- name: Size all services on what was measured so far
  ansible.builtin.set_fact:
    recommendation: >-
      {{ lookup('ansible.builtin.file', 'reports/demo/history.jsonl')
         | evenkeel.swarm.service_recommendation(cores={'kvm4': 4}, weights={'backend-saleor-api': 3}) }}
"""

RETURN = r"""
_value:
  description:
    - C(services), each with C(service), C(tasks), C(now) (limits of a task today), C(cpus) and C(memory) (C(target),
      C(lower), C(upper), in cores and bytes of a task), C(gets) and C(lacks) (cores after the division), C(leak),
      C(confidence) (C(level), C(hours), C(days), C(identified)), C(reason), C(anchors) (C(vpa), C(krr)).
    - C(table), which M(evenkeel.swarm.service_limits) accepts, and C(undo), the same with today's limits.
    - C(left_out), C(nodes), C(totals), C(history), C(settings), C(oversubscription).
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.module_utils._history import HistoryError
from ansible_collections.evenkeel.swarm.plugins.module_utils._recommendation import (
    RecommendationError,
    Wishes,
    recommend,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._sizing import Settings
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import MIB


def service_recommendation(
    history: str,
    *,
    report: Mapping[str, Any] | None = None,
    cores: Mapping[str, Any] | None = None,
    percentile: float = Settings.percentile,
    margin: float = Settings.margin,
    minimum_hours: float = Settings.least_hours,
    minimum_cpus: float = 0.05,
    minimum_memory: int = 64 * MIB,
    weights: Mapping[str, Any] | None = None,
    minimums: Mapping[str, Any] | None = None,
    oversubscription: float = 1.0,
) -> dict[str, Any]:
    """Return the recommendation; raise AnsibleFilterError that names what is wrong."""
    nodes, services = ((report or {}).get(key, []) for key in ("nodes", "services"))
    wishes = Wishes(
        settings=Settings(percentile, margin, minimum_hours, minimum_cpus, minimum_memory),
        weights=weights or {},
        minimums=minimums or {},
        oversubscription=oversubscription,
        cores=cores or {node["hostname"]: node["cores"]["real"] for node in nodes},
        placement={service["service"]: service["nodes"] for service in services},
    )
    try:
        return recommend(history, wishes)
    except (HistoryError, RecommendationError) as error:
        raise AnsibleFilterError(f"service_recommendation: {error}") from error


class FilterModule:
    """The filter service_recommendation."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"service_recommendation": service_recommendation}

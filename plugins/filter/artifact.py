# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: artifact
short_description: The part of a result that the next job of a workflow needs
version_added: 0.1.0
author: Even Keel contributors
description:
  - The roles and playbooks of this collection hand it on with M(ansible.builtin.set_stats), named C(evenkeel_) and
    the kind.
  - It is small and holds names and figures only.
options:
  _input:
    description: The result, see O(kind).
    type: raw
    required: true
  kind:
    description:
      - V(limits) and V(scale) take C(services) of M(evenkeel.swarm.service_limits), V(drift) that of
        M(evenkeel.swarm.service_limits_info).
      - V(report) takes what P(evenkeel.swarm.throttling_report#filter) returned, V(recommendation) what
        P(evenkeel.swarm.service_recommendation#filter) returned.
      - V(probe) takes one mapping for each host, with its C(name) and the C(result) of M(evenkeel.swarm.demand_probe),
        V(bursts) the results of M(evenkeel.swarm.burst_info).
      - V(migration) takes C(units) of M(evenkeel.swarm.migration).
    type: str
    choices: [bursts, drift, limits, migration, probe, recommendation, report, scale]
    required: true
  service:
    description: The service that was probed, for V(probe).
    type: str
  verb:
    description: The verb that was run, for V(migration).
    type: str
"""

EXAMPLES = r"""
- name: Hand the outcome to the next job
  ansible.builtin.set_stats:
    data:
      evenkeel_limits: "{{ result.services | evenkeel.swarm.artifact('limits') }}"
"""

RETURN = r"""
_value:
  description: What docs/running.md lists for each kind. A list for V(bursts), a mapping for all others.
  type: raw
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.module_utils import _artifacts

_KINDS: Mapping[str, Callable[..., Any]] = {
    "bursts": _artifacts.bursts_artifact,
    "drift": _artifacts.drift_artifact,
    "limits": _artifacts.limits_artifact,
    "migration": _artifacts.migration_artifact,
    "probe": _artifacts.probe_artifact,
    "recommendation": _artifacts.recommendation_artifact,
    "report": _artifacts.report_artifact,
    "scale": _artifacts.scale_artifact,
}


def artifact(result: Any, kind: str, **context: str) -> Any:
    """Return the artifact of a kind; raise AnsibleFilterError for a kind that isn't known."""
    if kind not in _KINDS:
        raise AnsibleFilterError(f"artifact: kind is one of {', '.join(_KINDS)}, not {kind!r}")
    return _KINDS[kind](result, **context)


class FilterModule:
    """The filter artifact."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filter."""
        return {"artifact": artifact}

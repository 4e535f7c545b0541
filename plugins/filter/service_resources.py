# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: service_resources
short_description: The limits and reservations of one service, from a table of limits and values of its own
version_added: 0.1.0
author: Even Keel contributors
description:
  - Gives a service that is yet to be deployed what C(service_limits) would give it later, so that the two agree.
  - A quantity that the service's row of the table says comes before the service's own value.
options:
  _input:
    description: Rows of a table of limits, see the module C(service_limits). May be empty.
    type: list
    elements: dict
    required: true
  service:
    description: Name of the service.
    type: str
    required: true
  own:
    description: The service's own values, as C(limits) and C(reservations) of a row.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: What the launcher may use
  ansible.builtin.debug:
    msg: "{{ service_limits_table | evenkeel.swarm.service_resources('job-launcher', own) }}"
  vars:
    own: {limits: {cpus: 1, memory: 1G}}
"""

RETURN = r"""
_value:
  description: C(Limits) and C(Reservations) as the engine's API has them, with C(NanoCPUs), C(MemoryBytes) and C(Pids).
  type: dict
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_table import (
    Row,
    Selectable,
    match_rows,
    parse_table,
    reservation_problems,
)

_KEYS = {"cpus": "NanoCPUs", "memory": "MemoryBytes", "pids": "Pids"}


def service_resources(table: Sequence[Any], service: str, own: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return the service's limits and reservations."""
    rows = _rows([{"service": service, **own}]) + (_chosen(_rows(table), service) if table else [])
    limits, reservations = (_merged(getattr(row, section) for row in rows) for section in ("limits", "reservations"))
    problems = reservation_problems(limits, reservations)
    if problems:
        raise AnsibleFilterError(f"service_resources: {service}: {'; '.join(problems)}")
    return {"Limits": _in_api_words(limits), "Reservations": _in_api_words(reservations)}


def _merged(sections: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return {key: value for section in sections for key, value in section.items()}


def _in_api_words(quantities: Mapping[str, int]) -> dict[str, int]:
    return {_KEYS[name]: value for name, value in quantities.items()}


def _rows(table: Sequence[Any]) -> list[Row]:
    rows, errors = parse_table(table)
    if errors:
        raise AnsibleFilterError(f"service_resources: {'; '.join(errors)}")
    return rows


def _chosen(rows: Sequence[Row], service: str) -> list[Row]:
    # That other rows match nothing here is no error: this Swarm's other services aren't looked at.
    matching = [row for row in rows if row.matches(service, {})]
    row = match_rows(matching, [Selectable(service, {})])[0].get(service)
    return [row] if row else []


class FilterModule:
    """The filter service_resources."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by name."""
        return {"service_resources": service_resources}

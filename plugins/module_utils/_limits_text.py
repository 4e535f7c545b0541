# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a table of limits adds up to, and lines for people about what it changed and what differs from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_table import Selectable, match_rows, parse_table
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import NANO
from ansible_collections.evenkeel.swarm.plugins.module_utils._words import count, over, setting, short

Row = Mapping[str, Any]


class TableError(ValueError):
    """A table of limits that can't be summed; the message holds every error in it."""


# --- sums without a connection ---------------------------------------------------------------------------------


def sum_limits(table: Sequence[Any], services: Sequence[Row], cores: float) -> dict[str, Any]:
    """Sum the limits that a table gives to the running tasks of services, on a number of cores.

    `services`: mappings with `name`, `replicas` (how many run) and, where the table selects by them, `labels`.
    A row's own `replicas` win. Sums count limited tasks only; `unlimited_cpus` and `unlimited_memory` count the others.
    Raises TableError for a table with errors.
    """
    rows, errors = parse_table(table)
    named = [Selectable(service["name"], service.get("labels") or {}) for service in services]
    chosen, match_errors = match_rows(rows, named)
    if errors or match_errors:
        raise TableError("; ".join(errors or match_errors))
    nano_cpus = memory = running = unlimited_cpus = unlimited_memory = 0
    for service in services:
        row = chosen.get(service["name"])
        limits: Mapping[str, int] = row.limits if row else {}
        tasks = row.replicas if row and row.replicas is not None else int(service["replicas"])
        running += tasks
        nano_cpus += tasks * limits.get("cpus", 0)
        memory += tasks * limits.get("memory", 0)
        unlimited_cpus += 0 if limits.get("cpus") else tasks
        unlimited_memory += 0 if limits.get("memory") else tasks
    return {
        "services": len(services),
        "running_tasks": running,
        "limits_cpus": nano_cpus / NANO,
        "limits_memory": memory,
        "unlimited_cpus": unlimited_cpus,
        "unlimited_memory": unlimited_memory,
        "cores": cores,
        "oversubscription": over(nano_cpus / NANO, cores),
    }


def highest_working_sets(looks: Iterable[Row]) -> dict[str, int]:
    """Return each service's highest working set of a task, bytes, over the results of throttling_info on every host."""
    highest: dict[str, int] = {}
    for task in (task for look in looks for task in look["tasks"]):
        used = task["memory"]["working_set"]
        if used is not None:
            highest[task["service"]] = max(used, highest.get(task["service"], 0))
    return highest


def change_lines(services: Iterable[Row]) -> list[str]:
    """Return a line for each service that changed or failed to, and one that counts the rest."""
    lines = []
    unchanged = 0
    for service in services:
        if service["state"] == "unchanged":
            unchanged += 1
            continue
        fields = _differences(service["before"], service["after"])
        what = ", ".join(f"{short(name)} {setting(name, old)} -> {setting(name, new)}" for name, old, new in fields)
        error = f": {service['error']}" if service.get("error") else ""
        seconds = f", {service['seconds']:.1f} s" if service.get("seconds") else ""
        lines.append(f"{service['service']}: {what or 'settings as they were'} ({service['state']}{seconds}){error}")
    if unchanged:
        lines.append(f"{count(unchanged, 'service')} unchanged")
    return lines


def drift_lines(services: Iterable[Row]) -> list[str]:
    """Return a line for each service that differs from its row, naming every field."""
    return [
        f"{service['service']}: "
        + ", ".join(
            f"{short(field)} is {setting(field, values['actual'])}, should be {setting(field, values['expected'])}"
            for field, values in service["drift"].items()
        )
        for service in services
        if service["drift"]
    ]


def _differences(before: Row, after: Row) -> list[tuple[str, Any, Any]]:
    old, new = _flat(before), _flat(after)
    return [(name, old.get(name), value) for name, value in new.items() if old.get(name) != value]


def _flat(settings: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat

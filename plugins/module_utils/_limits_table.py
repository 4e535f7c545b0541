# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of limits: its rows, what is wrong with them, and which row each service gets."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.evenkeel.swarm.plugins.module_utils._units import (
    MIN_RESERVATION_MEMORY,
    MIN_RESERVATION_NANO_CPUS,
    NO_LIMIT,
    UnitError,
    format_cpus,
    format_memory,
    parse_cpus,
    parse_memory,
    parse_pids,
    parse_replicas,
)

SELECTOR_KEYS = ("service", "glob", "labels")
SETTING_KEYS = ("limits", "reservations", "replicas")
_ROW_KEYS = SELECTOR_KEYS + SETTING_KEYS
_GLOB_WILDCARDS = re.compile(r"\*|\?|\[[!]?\]?[^]]*\]")

Parser = Callable[[Any], int]
_LIMIT_PARSERS: Mapping[str, Parser] = {"cpus": parse_cpus, "memory": parse_memory, "pids": parse_pids}
_RESERVATION_PARSERS: Mapping[str, Parser] = {
    "cpus": lambda value: parse_cpus(value, MIN_RESERVATION_NANO_CPUS),
    "memory": lambda value: parse_memory(value, MIN_RESERVATION_MEMORY),
}


class Weight(NamedTuple):
    """How specific a row is; compared field by field, the highest wins."""

    exact: bool
    labels: int
    literals: int


class Row(NamedTuple):
    """One valid row. `limits` (nano-CPUs, bytes, pids) and `reservations` hold only the keys that were given."""

    number: int
    service: str | None
    glob: str | None
    labels: Mapping[str, str]
    limits: Mapping[str, int]
    reservations: Mapping[str, int]
    replicas: int | None

    @property
    def selector(self) -> str:
        """The row's selector as a person would name it."""
        return describe_selector({"service": self.service, "glob": self.glob, "labels": dict(self.labels)})

    @property
    def name(self) -> str:
        return f"row {self.number} ({self.selector})"

    @property
    def weight(self) -> Weight:
        literals = len(_GLOB_WILDCARDS.sub("", self.glob)) if self.glob else 0
        return Weight(self.service is not None, len(self.labels), literals)

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Tell whether the row selects a service; `labels` are those of the service and of its containers."""
        if self.service is not None:
            return name == self.service
        if self.glob is not None and not fnmatch.fnmatchcase(name, self.glob):
            return False
        return all(labels.get(key) == value for key, value in self.labels.items())


class Selectable(NamedTuple):
    """What the matcher sees of a service."""

    name: str
    labels: Mapping[str, str]


def describe_selector(row: Mapping[str, Any]) -> str:
    """Name a row by whatever selector it has; works on rows that are not valid."""
    parts = [f"{key}: {row[key]}" for key in ("service", "glob") if row.get(key)]
    labels = row.get("labels")
    if isinstance(labels, Mapping) and labels:
        parts.append("labels: " + ", ".join(f"{key}={value}" for key, value in sorted(labels.items(), key=str)))
    return ", ".join(parts) or "no selector"


def parse_table(table: Sequence[Any]) -> tuple[list[Row], list[str]]:
    """Read a table; return its valid rows and every error in it (empty when the table is good)."""
    if not table:
        return [], ["the table is empty: give it at least one row"]
    rows: list[Row] = []
    errors: list[str] = []
    for number, raw in enumerate(table, start=1):
        row, row_errors = _parse_row(number, raw)
        errors += row_errors
        if row is not None:
            rows.append(row)
    unique, repeated = _without_duplicates(rows)
    return unique, errors + repeated


def _parse_row(number: int, raw: Any) -> tuple[Row | None, list[str]]:
    if not isinstance(raw, Mapping):
        return None, [f"row {number}: is {raw!r}; a row is a mapping with keys {_listing(_ROW_KEYS)}"]
    # Ansible hands absent suboptions over as None.
    given = {key: value for key, value in raw.items() if value is not None}
    problems = _unknown_keys(given, _ROW_KEYS)
    service, glob = (_name(given, key, problems) for key in ("service", "glob"))
    labels = _labels(given, problems)
    if not any(key in given for key in SELECTOR_KEYS):
        problems.append(f"has no selector: give {_listing(SELECTOR_KEYS)}")
    elif "service" in given and ("glob" in given or "labels" in given):
        problems.append("service: an exact name stands alone; drop `glob` and `labels`")
    limits = _quantities(given, "limits", _LIMIT_PARSERS, problems)
    reservations = _quantities(given, "reservations", _RESERVATION_PARSERS, problems)
    replicas = _parsed(given["replicas"], "replicas", parse_replicas, problems) if "replicas" in given else None
    if not any(key in given for key in SETTING_KEYS):
        problems.append(f"sets nothing: give at least one of {_listing(SETTING_KEYS)}")
    problems += reservation_problems(limits, reservations)
    if problems:
        where = f"row {number} ({describe_selector(given)})"
        return None, [f"{where}: {problem}" for problem in problems]
    return Row(number, service, glob, labels, limits, reservations, replicas), []


def _unknown_keys(given: Mapping[Any, Any], known: Sequence[str], prefix: str = "") -> list[str]:
    problems = []
    for key in given:
        if key in known:
            continue
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known are {_listing(known)}"
        problems.append(f"{prefix}{key}: unknown key; {hint}")
    return problems


def _name(given: Mapping[str, Any], key: str, problems: list[str]) -> str | None:
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        problems.append(
            f"{key}: {value!r} is not a name; write a non-empty string, in quotes if it looks like a number"
        )
        return None
    return value


def _labels(given: Mapping[str, Any], problems: list[str]) -> dict[str, str]:
    raw = given.get("labels")
    if raw is None:
        return {}
    if not isinstance(raw, Mapping) or not raw:
        problems.append(f"labels: {raw!r} is not a mapping of labels; write for example {{tier: frontend}}")
        return {}
    labels = {}
    for key, value in raw.items():
        if isinstance(value, str):
            labels[str(key)] = value
        else:
            problems.append(f"labels.{key}: {value!r} is not a string; Docker's labels are: put it in quotes")
    return labels


def _quantities(
    given: Mapping[str, Any], section: str, parsers: Mapping[str, Parser], problems: list[str]
) -> dict[str, int]:
    raw = given.get(section)
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        problems.append(f"{section}: {raw!r} is not a mapping; give {_listing(tuple(parsers))}")
        return {}
    # A key without a value is Ansible's absent suboption, or `omit`: left alone.
    wanted = {key: value for key, value in raw.items() if value is not None}
    problems += _unknown_keys(wanted, tuple(parsers), f"{section}.")
    if not wanted:
        problems.append(f"{section}: is empty; give {_listing(tuple(parsers))}")
    values = {}
    for key, parser in parsers.items():
        if key in wanted:
            parsed = _parsed(wanted[key], f"{section}.{key}", parser, problems)
            if parsed is not None:
                values[key] = parsed
    return values


def _parsed(value: Any, field: str, parser: Parser, problems: list[str]) -> int | None:
    try:
        return parser(value)
    except UnitError as error:
        problems.append(f"{field}: {error}")
        return None


def reservation_problems(limits: Mapping[str, int], reservations: Mapping[str, int]) -> list[str]:
    """Find limits (0 or absent = none) below the reservation of the same resource."""
    problems = []
    for key, show in (("cpus", format_cpus), ("memory", format_memory)):
        limit, reserved = limits.get(key, NO_LIMIT), reservations.get(key, NO_LIMIT)
        if limit != NO_LIMIT and limit < reserved:
            problems.append(
                f"limits.{key}: {show(limit)} is below reservations.{key}, {show(reserved)}; "
                "a service can't be promised more than it may use"
            )
    return problems


def _without_duplicates(rows: Iterable[Row]) -> tuple[list[Row], list[str]]:
    first: dict[Any, Row] = {}
    errors = []
    for row in rows:
        key = (row.service, row.glob, tuple(sorted(row.labels.items())))
        earlier = first.setdefault(key, row)
        if earlier is not row:
            errors.append(f"{row.name}: repeats the selector of row {earlier.number}; keep one of the two")
    return list(first.values()), errors


def match_rows(rows: Sequence[Row], services: Sequence[Selectable]) -> tuple[dict[str, Row], list[str]]:
    """Give each service its most specific row.

    Returns the row of each service that has one, by name, and the errors: rows that select nothing,
    and services for which two rows are equally specific.
    """
    chosen: dict[str, Row] = {}
    errors: list[str] = []
    used: set[int] = set()
    for service in services:
        matching = [row for row in rows if row.matches(service.name, service.labels)]
        used.update(row.number for row in matching)
        if not matching:
            continue
        best = max(row.weight for row in matching)
        winners = [row for row in matching if row.weight == best]
        if len(winners) > 1:
            rivals = " and ".join(row.name for row in winners)
            errors.append(f"{rivals} are equally specific for service {service.name}: make one of them more specific")
        chosen[service.name] = winners[0]
    names = [service.name for service in services]
    errors += [_unmatched(row, names) for row in rows if row.number not in used]
    return chosen, errors


def _unmatched(row: Row, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(row.service, names, n=1) if row.service else []
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{row.name}: matches none of the {len(names)} services of this swarm{hint}"


def _listing(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)

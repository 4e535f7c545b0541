# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the inventory's `migration_units`; a mistake is a MoveError that names the field and what would be right."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_table import parse_table
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import (
    MEMBER_KINDS,
    POSTGRES,
    Drain,
    Health,
    Member,
    Unit,
)

ROOT = "migration_units"
MOVERS = ("stream", "dump")
METHODS = ("GET", "HEAD", "POST")
#: A unit's name stands in node labels, service names of at most 63 characters, file names and systemd units.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,29}(?<!-)")
_HOSTNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_SECONDS = 3600.0

Raw = Mapping[Any, Any]


def parse_units(raw: Any) -> dict[str, Unit]:
    """Return the units by name. Raises MoveError `bad_input`; nothing but the data is looked at."""
    units = _mapping(raw, ROOT)
    if not units:
        _wrong(ROOT, "is empty", "at least one unit: {name: {home, target, members}}")
    for name in units:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            right = "a unit's name of 1 to 30 lower-case letters, digits and dashes, a letter first and no dash last"
            _wrong(f"{ROOT}.{name}", f"is named {name!r}", right)
    return {name: _unit(name, unit, f"{ROOT}.{name}") for name, unit in units.items()}


def _unit(name: str, raw: Any, field: str) -> Unit:
    unit = _keys(raw, field, required=("home", "target", "members"))
    home, target = (_text(unit, key, field, _HOSTNAME, "a Swarm node's hostname") for key in ("home", "target"))
    if home == target:
        _wrong(f"{field}.target", f"is {target!r}, as home is", "another node than home")
    members = _list(unit["members"], f"{field}.members", "members in the order in which they start")
    parsed = tuple(_member(member, f"{field}.members[{index}]") for index, member in enumerate(members))
    names = [member.service for member in parsed]
    for index, service in enumerate(names):
        if service in names[:index]:
            _wrong(f"{field}.members[{index}].service", f"is {service!r} a second time", "each service once")
    return Unit(name, home, target, parsed)


def _member(raw: Any, field: str) -> Member:
    optional = ("kind", "mover", "health", "drain", "limits", "superuser", "password_env")
    member = _keys(raw, field, required=("service",), optional=optional)
    kind = _choice(member, "kind", field, MEMBER_KINDS)
    mover = _choice(member, "mover", field, MOVERS)
    for key in ("mover", "superuser", "password_env"):
        if key in member and kind not in (None, POSTGRES):
            _wrong(f"{field}.{key}", f"is set for a member of kind {kind}", "this for kind postgres only: leave it out")
    return Member(
        service=_text(member, "service", field, re.compile(r"\S{1,200}"), "a service's name, or a glob for one"),
        kind=kind,
        mover=mover,
        health=_health(member["health"], f"{field}.health") if "health" in member else None,
        drain=_drain(member["drain"], f"{field}.drain") if "drain" in member else None,
        limits=_limits(member["limits"], f"{field}.limits") if "limits" in member else None,
        superuser=_optional_text(member, "superuser", field, re.compile(r"\S{1,63}"), "a role's name"),
        password_env=_optional_text(member, "password_env", field, _VARIABLE, "the name of an environment variable"),
    )


def _health(raw: Any, field: str) -> Health:
    http = ("port", "path", "method", "body", "status", "expect")
    health = _keys(raw, field, optional=("command", "seconds", *http))
    if ("command" in health) == ("port" in health):
        _wrong(field, f"has the keys {sorted(health)}", "either `command` (exits 0) or `port` (answers HTTP)")
    if "command" in health:
        for key in (key for key in http if key in health):
            _wrong(f"{field}.{key}", "stands beside `command`", "either a command or an HTTP request")
        return Health(command=_command(health, "command", field), seconds=_seconds(health, field, 60))
    return Health(
        port=_whole(health, "port", field, 1, 65535),
        path=_text({"path": "/", **health}, "path", field, re.compile(r"/\S*"), "a path that begins with /"),
        method=_choice(health, "method", field, METHODS) or "GET",
        body=_free_text(health, "body", field),
        status=_whole({"status": 200, **health}, "status", field, 100, 599),
        expect=_free_text(health, "expect", field),
        seconds=_seconds(health, field, 60),
    )


def _drain(raw: Any, field: str) -> Drain:
    drain = _keys(raw, field, optional=("command", "done", "seconds"))
    if not {"command", "done"} & set(drain):
        _wrong(field, "drains nothing", "`command`, `done`, or both")
    return Drain(
        command=_command(drain, "command", field) if "command" in drain else (),
        done=_command(drain, "done", field) if "done" in drain else (),
        seconds=_seconds(drain, field, 60),
    )


def _limits(raw: Any, field: str) -> Raw:
    limits = _keys(raw, field, optional=("cpus", "memory", "pids"))
    _, errors = parse_table([{"service": "it", "limits": limits}])
    if errors:
        raise MoveError("bad_input", f"{field}: {errors[0].partition(': ')[2]}", field=field)
    return limits


# --- what a value may be ---


def _wrong(field: str, found: str, right: str) -> NoReturn:
    raise MoveError("bad_input", f"{field} {found}: give {right}", field=field)


def _mapping(raw: Any, field: str) -> Raw:
    if not isinstance(raw, Mapping):
        _wrong(field, f"is {raw!r}", "a mapping")
    # Ansible hands absent suboptions over as None.
    return {key: value for key, value in raw.items() if value is not None}


def _keys(raw: Any, field: str, required: Sequence[str] = (), optional: Sequence[str] = ()) -> Raw:
    given = _mapping(raw, field)
    for key in given:
        if key not in (*required, *optional):
            _wrong(
                f"{field}.{key}", "is no key that means something here", f"one of {', '.join((*required, *optional))}"
            )
    for key in required:
        if key not in given:
            _wrong(f"{field}.{key}", "is missing", f"a mapping with {', '.join(required)}")
    return given


def _list(raw: Any, field: str, right: str) -> Sequence[Any]:
    if not isinstance(raw, Sequence) or isinstance(raw, str) or not raw:
        _wrong(field, f"is {raw!r}", f"a list of {right}, at least one")
    return raw


def _text(raw: Raw, key: str, field: str, pattern: re.Pattern[str], right: str) -> str:
    value = raw[key]
    if not isinstance(value, str) or not pattern.fullmatch(value):
        _wrong(f"{field}.{key}", f"is {value!r}", right)
    return value


def _optional_text(raw: Raw, key: str, field: str, pattern: re.Pattern[str], right: str) -> str | None:
    return _text(raw, key, field, pattern, right) if key in raw else None


def _free_text(raw: Raw, key: str, field: str) -> str:
    value = raw.get(key, "")
    if not isinstance(value, str):
        _wrong(f"{field}.{key}", f"is {value!r}", "a text, in quotes")
    return value


def _choice(raw: Raw, key: str, field: str, choices: Sequence[str]) -> str | None:
    value = raw.get(key)
    if value is not None and value not in choices:
        _wrong(f"{field}.{key}", f"is {value!r}", f"one of {', '.join(choices)}")
    return value


def _command(raw: Raw, key: str, field: str) -> tuple[str, ...]:
    words = _list(raw[key], f"{field}.{key}", "words: program and arguments (no shell reads them)")
    for index, word in enumerate(words):
        if not isinstance(word, str) or not word:
            _wrong(f"{field}.{key}[{index}]", f"is {word!r}", "a text that is not empty, in quotes")
    return tuple(words)


def _whole(raw: Raw, key: str, field: str, least: int, most: int) -> int:
    value = _number(raw[key], int)
    if value is None or not least <= value <= most:
        _wrong(f"{field}.{key}", f"is {raw[key]!r}", f"a whole number from {least} to {most}")
    return int(value)


def _seconds(raw: Raw, field: str, default: float) -> float:
    value = _number(raw.get("seconds", default), float)
    if value is None or not 0 < value <= _MOST_SECONDS:
        _wrong(f"{field}.seconds", f"is {raw['seconds']!r}", f"seconds, more than 0 and at most {_MOST_SECONDS:g}")
    return value


def _number(value: Any, read: Callable[[Any], float]) -> float | None:
    """Return a number, None for what is none; templates may have made text of it."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return read(str(value))
    except ValueError:
        return None

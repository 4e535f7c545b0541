# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of JSON Schema that the API and the configuration file use: one declaration validates and documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]


def _is_number(value: object) -> bool:
    # Beyond 1e15 a float no longer holds every whole number, and infinity has none.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e15 <= value <= 1e15


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and float(value).is_integer(),
    "number": _is_number,
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


@dataclass(frozen=True)
class FieldError:
    """One wrong field: its path (`users[0].name`) and one sentence that says what would be right."""

    field: str
    message: str


def faults(schema: Schema, value: object, field: str = "") -> list[FieldError]:
    """Everything in `value` that `schema` doesn't allow, outermost first; empty when all is right."""
    kinds = _kinds(schema)
    if kinds and not any(_TYPES[kind](value) for kind in kinds):
        return [FieldError(field, f"must be {' or '.join(_with_article(kind) for kind in kinds)}")]
    if value is not None and "enum" in schema and value not in schema["enum"]:
        return [FieldError(field, f"must be one of: {', '.join(str(choice) for choice in schema['enum'])}")]
    for kind, check in _CHECKS:
        if isinstance(value, kind):
            return check(schema, value, field)
    return []


def _kinds(schema: Schema) -> list[str]:
    kinds = schema.get("type", [])
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _with_article(kind: str) -> str:
    if kind == "null":
        return kind
    return f"an {kind}" if kind[0] in "aio" else f"a {kind}"


def _number_faults(schema: Schema, value: Any, field: str) -> list[FieldError]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and value < low:
        return [FieldError(field, f"must be at least {low}")]
    if high is not None and value > high:
        return [FieldError(field, f"must be at most {high}")]
    return []


def _string_faults(schema: Schema, value: str, field: str) -> list[FieldError]:
    if len(value) < schema.get("minLength", 0):
        return [FieldError(field, f"must have at least {schema['minLength']} characters")]
    if len(value) > schema.get("maxLength", len(value)):
        return [FieldError(field, f"must have at most {schema['maxLength']} characters")]
    # `$` also matches before a last newline, which JSON Schema's doesn't.
    if "pattern" in schema and (value.endswith("\n") or not re.search(schema["pattern"], value)):
        return [FieldError(field, f"must match {schema['pattern']}")]
    return []


def _array_faults(schema: Schema, value: list[Any], field: str) -> list[FieldError]:
    if len(value) > schema.get("maxItems", len(value)):
        return [FieldError(field, f"must have at most {schema['maxItems']} items")]
    items = schema.get("items", {})
    return [fault for number, item in enumerate(value) for fault in faults(items, item, f"{field}[{number}]")]


def _object_faults(schema: Schema, value: Mapping[str, Any], field: str) -> list[FieldError]:
    known = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    found = [
        FieldError(_inside(field, name), "is required") for name in schema.get("required", []) if name not in value
    ]
    if len(value) > schema.get("maxProperties", len(value)):
        found.append(FieldError(field, f"must have at most {schema['maxProperties']} entries"))
    for name, item in value.items():
        if name in known:
            found += faults(known[name], item, _inside(field, name))
        elif others is False:
            found.append(FieldError(_inside(field, name), f"is unknown; known: {', '.join(known)}"))
        elif isinstance(others, Mapping):
            found += faults(others, item, _inside(field, name))
    return found


def _inside(field: str, name: object) -> str:
    return f"{field}.{name}" if field else str(name)


# A boolean is an int in Python: it goes first, and has no further bounds.
_CHECKS: tuple[tuple[type | tuple[type, ...], Callable[[Schema, Any, str], list[FieldError]]], ...] = (
    (bool, lambda _schema, _value, _field: []),
    (str, _string_faults),
    (list, _array_faults),
    (dict, _object_faults),
    ((int, float), _number_faults),
)

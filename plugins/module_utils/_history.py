# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The history of windows that limits are sized on: JSON lines, one for each service and window.

A file of them only ever grows at its end, each time by whole lines that begin on a line of their own. So a line that
a crash cut off stays alone, is recognised by its missing end, and spoils no other.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ansible_collections.evenkeel.swarm.plugins.module_utils import _throttling
from ansible_collections.evenkeel.swarm.plugins.module_utils._demand import REGIMES, Demand

LOOK = "look"
PROBE = "probe"
SOURCES = (LOOK, PROBE)
# As many errors as a person reads before fixing the first.
_ERRORS_SHOWN = 10
# What is left of a word, a number or an escape when the line ends in the middle of it; or nothing.
_BEGUN = re.compile(r"[\\a-z0-9.+-]{0,5}\s*", re.ASCII)


class HistoryError(ValueError):
    """A history that can't be read; the message names each bad line's number and field."""


class Memory(NamedTuple):
    """Bytes, None for not measured (`limit`: none): highest working set and highest peak of a task, a task's limit."""

    working_set: int | None
    peak: int | None
    limit: int | None


@dataclass(frozen=True)
class Record:
    """What one window showed of one service. CPU in cores, summed over its `tasks`; None is not measured.

    `cpu_limit` None: no limit. `oom_kills` and `restarts` count since the tasks' containers started.
    """

    at: datetime
    source: str
    window_seconds: float
    service: str
    tasks: int
    cpu_used: float | None
    cpu_limit: float | None
    throttled_ratio: float | None
    demand: Demand
    memory: Memory
    oom_kills: int | None
    restarts: int | None


class History(NamedTuple):
    """Records in the order of their time, and how many lines had lost their end."""

    records: list[Record]
    cut_off: int


# --- from what was measured ------------------------------------------------------------------------------------


def records_of(hosts: Sequence[Mapping[str, Any]], measured_at: str, source: str = LOOK) -> list[dict[str, Any]]:
    """Return the history's records of one window, as plain data, sorted by service.

    `hosts`: mappings with `look`, the result of throttling_info there. A task without rates (it came or went inside
    the window, or there was no window) is left out, as the sums are of the tasks that were measured.
    Raises HistoryError for a time or a source that the history could not be read with.
    """
    _checked("measured_at", measured_at, _time)
    _checked("source", source, _source)
    containers = [container for host in hosts for container in host["look"]["containers"]]
    measured = [container for container in containers if container["cpu_used"] is not None and container["service"]]
    return [_record(row, measured, measured_at, source) for row in _throttling.service_rows(measured)]


def _record(
    row: Mapping[str, Any], containers: Sequence[Mapping[str, Any]], measured_at: str, source: str
) -> dict[str, Any]:
    memories = [container["memory"] for container in containers if container["service"] == row["service"]]
    return {
        "at": measured_at,
        "source": source,
        "window_seconds": round(row["window_seconds"], 3),
        "service": row["service"],
        "tasks": row["containers"],
        **{key: _short(row[key]) for key in ("cpu_used", "cpu_limit", "throttled_ratio")},
        "demand": {key: _short(value) for key, value in row["demand"].items()},
        "memory": {
            key: max((memory[key] for memory in memories if memory[key] is not None), default=None)
            for key in Memory._fields
        },
        "oom_kills": row["oom_kills"],
        "restarts": row["restarts"],
    }


def _short(value: Any) -> Any:
    """Keep what was measured and not the floating point's noise: a history holds tens of thousands of these."""
    return round(value, 6) if isinstance(value, float) else value


# --- from lines --------------------------------------------------------------------------------------------------


def parse_history(text: str) -> History:
    """Read JSON lines. Raises HistoryError that names the line and the field of whatever is no record."""
    records: list[Record] = []
    errors: list[str] = []
    cut_off = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            records.append(parse_record(json.loads(line)))
        except json.JSONDecodeError as error:
            if _lost_its_end(line, error):
                cut_off += 1
            else:
                errors.append(f"line {number}: is not JSON ({error.msg} at character {error.pos + 1})")
        except HistoryError as error:
            errors.append(f"line {number}: {error}")
    if errors:
        more = f"; and {len(errors) - _ERRORS_SHOWN} more" if len(errors) > _ERRORS_SHOWN else ""
        raise HistoryError("; ".join(errors[:_ERRORS_SHOWN]) + more)
    return History(sorted(records, key=lambda record: record.at), cut_off)


def _lost_its_end(line: str, error: json.JSONDecodeError) -> bool:
    """Tell a record that a crash cut off from one that somebody broke: it begins as one and only lacks an end."""
    begun = error.msg.startswith("Unterminated string") or _BEGUN.fullmatch(line, error.pos) is not None
    return line.startswith("{") and begun


def parse_record(raw: Any) -> Record:
    """Check one record. Raises HistoryError that names the field and what would be right."""
    if not isinstance(raw, Mapping):
        raise HistoryError(f"is {type(raw).__name__}, not a record")
    demand = _mapping(raw, "demand")
    memory = _mapping(raw, "memory")
    return Record(
        at=_field(raw, "at", _time),
        source=_field(raw, "source", _source),
        window_seconds=_field(raw, "window_seconds", _positive),
        service=_field(raw, "service", _name),
        tasks=_field(raw, "tasks", _positive_count),
        cpu_used=_field(raw, "cpu_used", _or_none(_number)),
        cpu_limit=_field(raw, "cpu_limit", _or_none(_positive)),
        throttled_ratio=_field(raw, "throttled_ratio", _or_none(_number)),
        demand=Demand(
            estimate=_field(demand, "estimate", _or_none(_number), "demand."),
            lower=_field(demand, "lower", _or_none(_number), "demand."),
            upper=_field(demand, "upper", _or_none(_number), "demand."),
            regime=_field(demand, "regime", _or_none(_regime), "demand."),
            reason=str(demand.get("reason", "")),
        ),
        memory=Memory(*(_field(memory, key, _or_none(_count), "memory.") for key in Memory._fields)),
        oom_kills=_field(raw, "oom_kills", _or_none(_count)),
        restarts=_field(raw, "restarts", _or_none(_count)),
    )


def _field(raw: Mapping[str, Any], key: str, parse: Callable[[Any], Any], prefix: str = "") -> Any:
    if key not in raw:
        raise HistoryError(f"{prefix}{key}: is missing")
    return _checked(f"{prefix}{key}", raw[key], parse)


def _checked(field: str, value: Any, parse: Callable[[Any], Any]) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise HistoryError(f"{field}: {value!r} is not {error}") from error


def _mapping(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = _field(raw, key, lambda given: given)
    if not isinstance(value, Mapping):
        raise HistoryError(f"{key}: {value!r} is not a mapping")
    return value


def _or_none(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else parse(value)


def _time(value: Any) -> datetime:
    wanted = "a time with its zone, such as 2026-11-22T06:00:00+00:00"
    if not isinstance(value, str):
        raise ValueError(wanted)
    try:
        at = datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError(wanted) from error
    if at.tzinfo is None:
        raise ValueError(wanted)
    return at.astimezone(UTC)


def _source(value: Any) -> str:
    if value not in SOURCES:
        raise ValueError(f"one of {', '.join(SOURCES)}")
    return str(value)


def _regime(value: Any) -> str:
    if value not in REGIMES:
        raise ValueError(f"null or one of {', '.join(REGIMES)}")
    return str(value)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a service's name")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError("a number, 0 or more")
    return float(value)


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ValueError("a number above 0")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("a whole number, 0 or more")
    return value


def _positive_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("a whole number above 0")
    return value

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A history from Prometheus, as far as cAdvisor's metrics go: usage, throttled periods, limits, memory, OOM kills.

Nothing in them says what a throttled window would have used: its demand is unknown from here.
"""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _demand
from ansible_collections.evenkeel.swarm.plugins.module_utils._history import LOOK, HistoryError

SERVICE_LABEL = "container_label_com_docker_swarm_service_name"
# Prometheus returns at most 11,000 points of a series.
MOST_POINTS = 10_000
TIMEOUT_SECONDS = 60.0
MOST_DAYS = 366

_OF = f'{{{SERVICE_LABEL}!=""}}'
_BY = f"by ({SERVICE_LABEL})"
# What each query of a step of %(step)ds returns, for each service.
QUERIES = {
    "cpu_used": f"sum {_BY} (rate(container_cpu_usage_seconds_total{_OF}[%(step)ds]))",
    "tasks": f"count {_BY} (container_memory_working_set_bytes{_OF})",
    "cpu_limit": f"sum {_BY} (container_spec_cpu_quota{_OF} / container_spec_cpu_period{_OF})",
    "periods": f"sum {_BY} (increase(container_cpu_cfs_periods_total{_OF}[%(step)ds]))",
    "throttled": f"sum {_BY} (increase(container_cpu_cfs_throttled_periods_total{_OF}[%(step)ds]))",
    "working_set": f"max {_BY} (max_over_time(container_memory_working_set_bytes{_OF}[%(step)ds]))",
    "memory_limit": f"max {_BY} (container_spec_memory_limit_bytes{_OF})",
    "oom_kills": f"sum {_BY} (container_oom_events_total{_OF})",
}
# service -> seconds since the epoch -> value
Series = Mapping[str, Mapping[float, float]]


def fetch(url: str, start: float, end: float, step: int) -> list[dict[str, Any]]:
    """Return the records of the windows of `step` seconds between two times (seconds since the epoch), by time.

    Raises HistoryError where Prometheus doesn't answer, answers with an error, or has no Swarm service.
    """
    check_url(url)
    series = {name: _series(url, query % {"step": step}, start, end, step) for name, query in QUERIES.items()}
    records = list(records_from(series, step))
    if not records:
        raise HistoryError(
            f"{_shown(url)} has no container_cpu_usage_seconds_total with the label {SERVICE_LABEL} in this time: does "
            f"cAdvisor run on the nodes, keep that label, and get scraped at least twice in {step} seconds?"
        )
    return sorted(records, key=lambda record: str(record["at"]))


def span(days: float, step: int, now: float) -> tuple[float, float]:
    """Return the start and the end of the last `days`, whole steps, so that two runs ask for the same windows.

    Raises HistoryError for lengths that make no sense.
    """
    if not 0 < days <= MOST_DAYS:
        raise HistoryError(f"days: {days:g} is not a number above 0 and up to {MOST_DAYS}")
    if step < 1:
        raise HistoryError(f"step: {step} is not a number of seconds, 1 or more")
    end = now // step * step
    return end - days * 86400, end


def check_url(url: str) -> None:
    """Raise HistoryError for anything but http and https."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise HistoryError(f"{_shown(url)!r} is not the address of a Prometheus: write http://host:9090")


def records_from(series: Mapping[str, Series], step: int) -> Iterator[dict[str, Any]]:
    """Turn the queries' answers into records."""
    for service, used in series["cpu_used"].items():
        # Counters may be there a scrape before the others: a window without its number of tasks can't be divided.
        for at, cores in used.items():
            values = {name: series[name].get(service, {}).get(at) for name in QUERIES}
            if values["tasks"]:
                yield _record(service, at, cores, values, step)


def _record(service: str, at: float, used: float, values: Mapping[str, float | None], step: int) -> dict[str, Any]:
    periods, throttled = values["periods"], values["throttled"]
    limit = values["cpu_limit"] or None
    return {
        "at": datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds"),
        "source": LOOK,
        "window_seconds": step,
        "service": service,
        "tasks": int(values["tasks"] or 0),
        "cpu_used": round(used, 6),
        "cpu_limit": None if limit is None else round(limit, 6),
        "throttled_ratio": None if not periods or throttled is None else round(min(throttled / periods, 1.0), 6),
        "demand": _demand_of(used, limit, throttled),
        "memory": {
            "working_set": _whole(values["working_set"]),
            "peak": None,
            "limit": _whole(values["memory_limit"]) or None,
        },
        "oom_kills": _whole(values["oom_kills"]),
        "restarts": None,
    }


def _demand_of(used: float, limit: float | None, throttled: float | None) -> dict[str, Any]:
    free = throttled == 0 if limit is not None else not throttled
    return {
        "estimate": round(used, 6) if free else None,
        "lower": round(used, 6),
        "upper": None,
        "regime": _demand.UNSATURATED if free else _demand.UNIDENTIFIABLE,
        "reason": "never throttled" if free else "throttled, and Prometheus knows its usage only",
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _series(url: str, query: str, start: float, end: float, step: int) -> Series:
    series: dict[str, dict[float, float]] = {}
    for first, last in spans(start, end, step):
        for row in _ask(url, {"query": query, "start": f"{first}", "end": f"{last}", "step": f"{step}"}):
            points = series.setdefault(row["metric"][SERVICE_LABEL], {})
            # A service's first and last points may not be numbers.
            points.update((float(at), float(value)) for at, value in row["values"] if math.isfinite(float(value)))
    return series


def spans(start: float, end: float, step: int) -> Iterator[tuple[float, float]]:
    """Cut a time into parts of at most MOST_POINTS steps, without a point in two of them."""
    first = start
    while first <= end:
        yield first, min(first + (MOST_POINTS - 1) * step, end)
        first += MOST_POINTS * step


def _ask(url: str, parameters: Mapping[str, str]) -> list[Any]:
    request = urllib.request.Request(  # noqa: S310 (check_url allows http and https only)
        f"{url.rstrip('/')}/api/v1/query_range", data=urllib.parse.urlencode(parameters).encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            content = answer.read()
    except urllib.error.HTTPError as error:
        raise HistoryError(f"{_shown(url)} answers {error.code}: {_said(error.read()) or error.reason}") from error
    except (OSError, ValueError) as error:
        raise HistoryError(f"{_shown(url)} can't be asked: {getattr(error, 'reason', error)}") from error
    try:
        result: list[Any] = json.loads(content)["data"]["result"]
    except (ValueError, KeyError, TypeError) as error:
        raise HistoryError(f"{_shown(url)} does not answer as a Prometheus does") from error
    return result


def _said(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def _shown(url: str) -> str:
    """Leave a password in an address out of messages."""
    before, at, after = url.partition("@")
    return f"{before.partition('://')[0]}://{after}" if at else url

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Histories for the tests of sizing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._demand import Demand
from ansible_collections.evenkeel.swarm.plugins.module_utils._history import Memory, Record

MIB = 2**20
START = datetime(2026, 11, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def free(used: float) -> dict[str, Any]:
    """A window that no limit held: its demand is its usage."""
    return {"cpu_used": used, "demand": Demand(used, used, used, "unsaturated", "no limit")}


def held(limit: float, wanted: float) -> dict[str, Any]:
    """A window at the limit whose demand was identified."""
    demand = Demand(wanted, limit, wanted, "saturated", "held")
    return {"cpu_used": limit, "cpu_limit": limit, "throttled_ratio": 1.0, "demand": demand}


def unknown(limit: float, upper: float | None) -> dict[str, Any]:
    """A window at the limit whose demand can't be known."""
    demand = Demand(None, limit, upper, "unidentifiable", "never idle")
    return {"cpu_used": limit, "cpu_limit": limit, "throttled_ratio": 1.0, "demand": demand}


def record(at: datetime, **changed: Any) -> Record:
    fields: dict[str, Any] = {
        "source": "look",
        "window_seconds": 60.0,
        "service": "a",
        "tasks": 1,
        "cpu_limit": None,
        "throttled_ratio": None,
        "memory": Memory(None, None, None),
        "oom_kills": 0,
        "restarts": 0,
        **free(0.1),
    }
    return Record(at=at, **fields | changed)


def every(step: timedelta, windows: Sequence[dict[str, Any]], **changed: Any) -> list[Record]:
    """A record for each of `windows`, `step` apart."""
    return [record(START + number * step, **changed | window) for number, window in enumerate(windows)]


def remembering(step: timedelta, sizes: Sequence[float], **changed: Any) -> list[Record]:
    """Records with these working sets in MiB; windows as long as the step, so that there is enough history."""
    return [
        record(
            START + number * step,
            window_seconds=step.total_seconds(),
            memory=Memory(int(size * MIB), None, changed.get("limit")),
            **{key: value for key, value in changed.items() if key != "limit"},
        )
        for number, size in enumerate(sizes)
    ]


def lines(records: Sequence[Record]) -> str:
    """Write records as a history's text."""
    return "".join(
        json.dumps({**asdict(each), "at": each.at.isoformat(), "memory": each.memory._asdict()}) + "\n"
        for each in records
    )

"""A move's progress and result in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.text import (
    MigrationProgress,
    failure_text,
    progress_words,
    result_lines,
)

RESULT: dict[str, Any] = {
    "unit": "shop",
    "phase": "copied",
    "runs_on": "kvm4",
    "target": "kvm2",
    "since": None,
    "problem": "",
    "next": "switch",
    "outcomes": [],
    "warnings": [],
}


def said(*events: dict[str, Any], clock: list[float] | None = None) -> list[str]:
    times = iter(clock or range(0, 1000, 10))
    progress = MigrationProgress("kvm4", lambda: float(next(times)))
    return list(progress.read("".join(json.dumps(event) + "\n" for event in events)))


def test_a_step_from_begin_to_end() -> None:
    step = {"step": "precopy.shop.pass", "title": "copy the volume", "host": "kvm2"}
    lines = said(
        {"event": "begin", "verb": "precopy"},
        {"event": "step_started", **step},
        {"event": "step_progress", "step": "precopy.shop.pass", "bytes": 512 * 2**20, "total": 2**30, "eta": 12.4},
        {"event": "step_ended", **step, "outcome": "did", "seconds": 20.04},
    )
    assert lines == [
        "kvm4: copy the volume ...",
        "kvm4:   copy the volume: 512M of 1G (50%), 12 s to go",
        "kvm4: copy the volume: done after 20.0 s",
    ]


def test_progress_comes_every_few_seconds_only() -> None:
    start = {"event": "step_started", "step": "a", "title": "copy", "host": "kvm2"}
    more = [{"event": "step_progress", "step": "a", "text": str(number)} for number in range(4)]
    assert [line[-1] for line in said(start, *more, clock=[0, 1, 4.9, 5, 9])[1:]] == ["2"]


def test_what_was_so_already_is_not_told() -> None:
    step = {"event": "step_ended", "step": "a", "title": "copy", "host": "kvm2", "seconds": 0.0}
    assert said({**step, "outcome": "done"}, {**step, "outcome": "would"}) == []
    assert "FAILED after 0.0 s: no space" in said({**step, "outcome": "failed", "error": "no space"})[0]


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"bytes": 0, "total": None}, "0B"),
        ({"bytes": None, "lag": 1024}, "1K behind"),
        ({"text": "pass 2"}, "pass 2"),
        ({}, "at it"),
    ],
)
def test_what_is_not_measured_is_not_shown(numbers: dict[str, Any], words: str) -> None:
    assert progress_words(numbers) == words


def test_a_result_says_where_the_unit_is_and_what_comes_next() -> None:
    assert result_lines(RESULT) == ["shop: copied, runs on kvm4", "  next: verb=switch"]
    under_way = {**RESULT, "phase": "promoting", "runs_on": None, "problem": "two copies"}
    assert result_lines(under_way) == ["shop: promoting, on its way to kvm2", "  PROBLEM: two copies"]


def test_a_failure_says_step_state_and_next_verb() -> None:
    error = {"message": "no space left", "details": {"state": "the unit was given back"}}
    outcomes = [{"outcome": "failed", "title": "copy the volume"}]
    assert failure_text("switch", {**RESULT, "error": error, "outcomes": outcomes}) == (
        "switch of shop failed at: copy the volume: no space left. Now the unit was given back. The move is copied. "
        "Next: verb=switch (verb=status looks first)."
    )

from __future__ import annotations

import json
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._progress import Progress


def written(*events: dict[str, Any]) -> str:
    return "".join(json.dumps({"time": 1.0, **event}) + "\n" for event in events)


def test_events_become_lines_that_count() -> None:
    text = written(
        {"event": "begin", "services": ["a", "b"]},
        {"event": "update_started", "service": "a"},
        {"event": "update_converged", "service": "a", "seconds": 5.94},
        {"event": "update_failed", "service": "b", "error": "task b.1: exit 137"},
        {"event": "restore_converged", "service": "b", "seconds": 1.0},
        {"event": "end", "failed": ["b"]},
    )
    assert list(Progress("kvm4").read(text)) == [
        "kvm4: 2 services to bring where the table wants them",
        "kvm4: a changing",
        "kvm4: a converged after 5.9 s (1 of 2)",
        "kvm4: b FAILED (2 of 2) - task b.1: exit 137",
        "kvm4: b put back after 1.0 s",
    ]


def test_a_line_cut_in_the_middle_waits_for_its_end() -> None:
    whole = written({"event": "begin", "services": ["ä"]}, {"event": "update_started", "service": "ä"})
    progress = Progress("kvm4")
    lines = list(progress.read(whole[: len(whole) - 4]))
    assert lines == ["kvm4: 1 service to bring where the table wants them"]
    rest = whole.splitlines(keepends=True)[progress.lines_read :]
    assert list(progress.read("".join(rest))) == ["kvm4: ä changing"]
    assert progress.lines_read == 2


def test_a_terminal_on_the_way_does_no_harm() -> None:
    text = written({"event": "begin", "services": ["a"]}, {"event": "update_started", "service": "a"})
    assert len(list(Progress("kvm4").read(text.replace("\n", "\r\n")))) == 2

from __future__ import annotations

import json
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._probe_answer import ProbeProgress
from ansible_collections.evenkeel.swarm.plugins.module_utils._progress import LimitsProgress


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
    assert list(LimitsProgress("kvm4").read(text)) == [
        "kvm4: 2 services to bring where the table wants them",
        "kvm4: a changing",
        "kvm4: a converged after 5.9 s (1 of 2)",
        "kvm4: b FAILED (2 of 2) - task b.1: exit 137",
        "kvm4: b put back after 1.0 s",
    ]


def test_a_line_cut_in_the_middle_waits_for_its_end() -> None:
    whole = written({"event": "begin", "services": ["ä"]}, {"event": "update_started", "service": "ä"})
    progress = LimitsProgress("kvm4")
    lines = list(progress.read(whole[: len(whole) - 4]))
    assert lines == ["kvm4: 1 service to bring where the table wants them"]
    rest = whole.splitlines(keepends=True)[progress.lines_read :]
    assert list(progress.read("".join(rest))) == ["kvm4: ä changing"]
    assert progress.lines_read == 2


def test_a_terminal_on_the_way_does_no_harm() -> None:
    text = written({"event": "begin", "services": ["a"]}, {"event": "update_started", "service": "a"})
    assert len(list(LimitsProgress("kvm4").read(text.replace("\n", "\r\n")))) == 2


def test_a_probe_says_what_it_does_and_how_long_it_takes() -> None:
    hidden = {"estimate": None, "lower": 1.0, "upper": None, "regime": "unidentifiable", "reason": "never idle"}
    known = {"estimate": 1.62, "lower": 1.62, "upper": 1.7, "regime": "unsaturated", "reason": "less than its limit"}
    text = written(
        {"event": "recovered", "service": "other"},
        {"event": "begin", "service": "crm", "limit": 1.0, "tasks": 1},
        {"event": "measuring", "limit": 1.0, "seconds": 60.0, "left": None},
        {"event": "measured", "limit": 1.0, "cpu_used": 1.0, "demand": hidden},
        {"event": "raised", "limit": 2.0},
        {"event": "measuring", "limit": 2.0, "seconds": 60.0, "left": 240.0},
        {"event": "measured", "limit": 2.0, "cpu_used": 1.62, "demand": known},
        {"event": "put_back", "limit": 1.0},
    )
    assert list(ProbeProgress("kvm4").read(text)) == [
        "kvm4: put the limit of other back, which a killed probe had left raised",
        "kvm4: crm: 1 task with 1 core each",
        "kvm4: measuring at 1 core for 60 s",
        "kvm4: at 1 core: used 1.00, wants 1.00+ (unidentifiable): never idle",
        "kvm4: raised the limit to 2 cores",
        "kvm4: measuring at 2 cores for 60 s; raised for 240 s more at most",
        "kvm4: at 2 cores: used 1.62, wants 1.62 (unsaturated): less than its limit",
        "kvm4: put the limit back to 1 core",
    ]

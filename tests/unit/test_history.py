# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.filter.throttling_history import throttling_history
from ansible_collections.evenkeel.swarm.plugins.module_utils._history import (
    HistoryError,
    parse_history,
    parse_record,
    records_of,
)

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
AT = "2026-11-22T06:00:00+00:00"


def container(service: str | None, **changed: Any) -> dict[str, Any]:
    """What throttling_info says of a container, as far as a history needs it and a roll-up asks for it."""
    row: dict[str, Any] = {
        "service": service,
        "cpu_used": 0.25,
        "cpu_limit": 0.5,
        "periods": 600,
        "throttled_periods": 150,
        "throttled_seconds": 3.0,
        "bursts": 0,
        "burst_seconds": 0.0,
        "run_seconds": 15.0,
        "run_delay_seconds": 9.5,
        "runnable": 1.2,
        "threads": 4,
        "pids": 5,
        "oom_kills": 1,
        "restarts": 2,
        "exited_run_seconds": 0.0,
        "exited_delay_seconds": 0.0,
        "cause": {"throttled": 0.95, "contention": 0.0, "siblings": 0.0, "steal": None},
        "pressure": None,
        "demand": {"estimate": 0.25, "lower": 0.25, "upper": 0.4, "regime": "unsaturated", "reason": "below its limit"},
        "memory": {"current": 70 * MIB, "working_set": 64 * MIB, "limit": 256 * MIB, "peak": 80 * MIB},
        "window_seconds": 60.1234,
        "verdict_grade": True,
    }
    return row | changed


def look(*containers: dict[str, Any]) -> dict[str, Any]:
    return {"look": {"containers": list(containers)}}


def record(**changed: Any) -> dict[str, Any]:
    (one,) = records_of([look(container("a"))], AT)
    return one | changed


def lines(*records: Any) -> str:
    return "".join(json.dumps(each) + "\n" for each in records)


def test_a_record_sums_the_tasks_of_all_hosts_and_keeps_the_highest_memory_of_one() -> None:
    more = container(
        "a", cpu_used=0.75, memory={"current": 1, "working_set": 99 * MIB, "limit": 256 * MIB, "peak": None}
    )
    hosts = [look(container("a"), container(None)), look(more)]
    assert records_of(hosts, AT) == [
        {
            "at": AT,
            "source": "look",
            "window_seconds": 60.123,
            "service": "a",
            "tasks": 2,
            "cpu_used": 1.0,
            "cpu_limit": 1.0,
            "throttled_ratio": 0.25,
            "demand": {
                "estimate": 0.5,
                "lower": 0.5,
                "upper": 0.8,
                "regime": "unsaturated",
                "reason": "below its limit",
            },
            "memory": {"working_set": 99 * MIB, "peak": 80 * MIB, "limit": 256 * MIB},
            "oom_kills": 2,
            "restarts": 4,
        }
    ]


def test_a_task_without_rates_is_left_out_not_counted_as_zero() -> None:
    gone = container("a", cpu_used=None, window_seconds=None)
    assert [each["tasks"] for each in records_of([look(container("a"), gone)], AT)] == [1]
    assert records_of([look(gone)], AT) == []


def test_what_is_written_reads_back_in_the_order_of_time() -> None:
    earlier = record(at="2026-11-22T06:30:00+02:00")
    history = parse_history(lines(record(), earlier))
    assert [each.at for each in history.records] == [
        datetime(2026, 11, 22, 4, 30, tzinfo=UTC),
        datetime(2026, 11, 22, 6, 0, tzinfo=UTC),
    ]
    assert history.records[1].memory.limit == 256 * MIB
    assert history.records[1].demand.estimate == 0.25
    assert history.cut_off == 0


def test_lines_that_a_crash_cut_off_are_counted_wherever_it_cut() -> None:
    whole = json.dumps(record())
    for length in range(1, len(whole)):
        history = parse_history(f"{whole}\n{whole[:length]}")
        assert (len(history.records), history.cut_off) == (1, 1), whole[:length]
    # The next run appends after it.
    history = parse_history(f"{whole}\n{whole[:100]}\n{whole}\n")
    assert (len(history.records), history.cut_off) == (2, 1)


@pytest.mark.parametrize("content", ["nonsense", '{"at": nonsense}', "[1, 2", '{"at": "2026"} {"at"'])
def test_a_line_that_somebody_broke_is_an_error(content: str) -> None:
    with pytest.raises(HistoryError, match=r"^line 2: is not JSON"):
        parse_history(f"{lines(record())}{content}\n{lines(record())}")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"at": "2026-11-22T06:00:00"}, "at: '2026-11-22T06:00:00' is not a time with its zone"),
        ({"at": 5}, "at: 5 is not a time"),
        ({"source": "guess"}, "source: 'guess' is not one of look, probe"),
        ({"window_seconds": 0}, "window_seconds: 0 is not a number above 0"),
        ({"window_seconds": None}, "window_seconds: None is not a number above 0"),
        ({"service": " "}, "service: ' ' is not a service's name"),
        ({"tasks": 0}, "tasks: 0 is not a whole number above 0"),
        ({"tasks": True}, "tasks: True is not"),
        ({"cpu_used": "0.5"}, "cpu_used: '0.5' is not a number, 0 or more"),
        ({"cpu_used": -0.5}, "cpu_used: -0.5 is not"),
        ({"cpu_limit": 0}, "cpu_limit: 0 is not a number above 0"),
        ({"demand": None}, "demand: None is not a mapping"),
        ({"demand": {"estimate": None, "lower": 1, "upper": None, "regime": "odd"}}, "demand.regime: 'odd' is not"),
        ({"demand": {"estimate": None, "upper": None, "regime": None}}, "demand.lower: is missing"),
        ({"memory": {"working_set": 1.5, "peak": None, "limit": None}}, "memory.working_set: 1.5 is not a whole"),
        ({"oom_kills": -1}, "oom_kills: -1 is not a whole number, 0 or more"),
    ],
)
def test_a_bad_field_is_named_with_its_line(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(HistoryError) as error:
        parse_history(lines(record(), record(**changed)))
    assert str(error.value).startswith(f"line 2: {said}")


def test_infinite_numbers_and_other_values_are_no_records() -> None:
    with pytest.raises(HistoryError, match="cpu_used: nan is not a number"):
        parse_record(record(cpu_used=float("nan")))
    with pytest.raises(HistoryError, match="is list, not a record"):
        parse_record([])


def test_many_errors_are_counted_not_all_told() -> None:
    with pytest.raises(HistoryError, match=r"line 10: .*; and 5 more$"):
        parse_history("x\n" * 15)


def test_the_filter_names_a_time_the_history_could_not_be_read_with() -> None:
    with pytest.raises(AnsibleFilterError, match="measured_at: '2026-11-22' is not a time with its zone"):
        throttling_history([look(container("a"))], "2026-11-22")
    with pytest.raises(AnsibleFilterError, match="source: 'x' is not one of look, probe"):
        throttling_history([look(container("a"))], AT, "x")


def append(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the role's tasks file as another role's playbook would."""
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.include_role": {"name": "evenkeel.swarm.report", "tasks_from": "history"}},
        ],
        "vars": {
            "report_directory": str(tmp_path / "reports"),
            "report_name": "x",
            "report_history_records": [record(service="ä"), record(source="probe")],
        },
    }
    playbook = tmp_path / "play.yml"
    playbook.write_text(yaml.safe_dump([play]))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local", str(playbook)]
    ran = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "changed=0" in ran.stdout
    return ran


def test_the_tasks_file_appends_whole_lines_and_never_counts_as_a_change(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "x" / "history.jsonl"
    append(tmp_path, "--check")
    assert not path.parent.exists()
    append(tmp_path)
    path.write_text(path.read_text() + json.dumps(record())[:50])
    append(tmp_path)
    history = parse_history(path.read_text())
    assert sorted(each.service for each in history.records) == ["a", "a", "ä", "ä"]
    assert history.cut_off == 1

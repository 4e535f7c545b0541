# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is pure: tunables, templates, records, segments, reports, the lines of /proc."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_launcher import demo, templates, tunables
from job_launcher.execution.attempt import outcome
from job_launcher.execution.executor import Ending
from job_launcher.execution.local import gate_limits
from job_launcher.execution.machine import cpu_quota, memory_limit, parse_quota
from job_launcher.execution.processes import descendants, parse_stat
from job_launcher.execution.reports import Reports
from job_launcher.logs.logs import between, joined
from job_launcher.logs.records import Records
from job_launcher.logs.segments import Block, Extent, append, encode, pack, pick, scan, unpack
from job_launcher.model import iso, new_id
from job_launcher.number_queue import backoff
from job_launcher.refused import Refused
from tests.engine.helpers import printed

GB = 2**30


def test_every_tunable_has_bounds_around_its_default() -> None:
    for name, info in tunables.INFO.items():
        assert info.minimum <= info.default <= info.maximum, name
        assert info.help.endswith(".") and info.unit, name
    assert tunables.load({}) == tunables.Tunables()
    assert len(tunables.INFO) == len(fields(tunables.Tunables))


def test_the_seeds_values_are_the_defaults() -> None:
    values = tunables.Tunables()
    assert (values.max_parallel_limit, values.worker_start_stagger, values.status_report_wait) == (8, 1.5, 1.5)
    assert (values.number_queue_interval, values.log_buffer_lines, values.log_flush_interval) == (15, 5, 0.5)
    assert (values.log_file_buffer, values.socketio_max_http_buffer_size) == (8192, 1000000)
    assert (values.socketio_ping_timeout, values.socketio_ping_interval) == (60, 25)
    assert (values.status_poll_interval, values.log_poll_interval) == (3000, 3000)


@pytest.mark.parametrize("name", tunables.INFO)
def test_every_tunable_is_refused_outside_its_bounds_by_name(name: str) -> None:
    info = tunables.INFO[name]
    for bad in (info.minimum - 1, info.maximum + 1, "5", True, None, float("nan"), [1]):
        with pytest.raises(Refused) as refused:
            tunables.load({name: bad})
        assert refused.value.field == f"tunables.{name}"


def test_tunables_that_do_not_fit_together() -> None:
    assert tunables.load({"max_parallel_limit": 2}).max_parallel == 2
    for values, field in (
        ({"max_parallel_limit": 2, "max_parallel": 3}, "tunables.max_parallel"),
        ({"log_line_cap": 1048576, "log_memory": 262144}, "tunables.log_line_cap"),
        ({"max_paralel": 3}, "tunables.max_paralel"),
        ({"drain_timeout": 56}, "tunables.drain_timeout"),
    ):
        with pytest.raises(Refused) as refused:
            tunables.load(values)
        assert refused.value.field == field


@pytest.mark.parametrize(
    ("values", "quota", "memory", "wanted"),
    [
        ({}, None, None, (8, "max_parallel_limit")),
        ({}, 4.0, 16 * GB, (8, "max_parallel_limit")),
        ({}, 2.0, 16 * GB, (4, "cpu")),
        ({}, 1.75, 16 * GB, (3, "cpu")),
        ({}, 8.0, GB, (3, "memory")),
        ({"worker_memory": 50}, 8.0, GB, (8, "max_parallel_limit")),
        ({}, 0.1, 16 * GB, (1, "cpu")),
        ({}, 8.0, 100, (1, "memory")),
    ],
)
def test_the_effective_limit(values: dict[str, Any], quota: float | None, memory: int | None, wanted: Any) -> None:
    assert tunables.effective_limit(tunables.load(values), quota, memory) == wanted


@pytest.mark.parametrize(("text", "wanted"), [("max 100000", None), ("150000 100000", 1.5), ("-1 100000", None)])
def test_quotas(text: str, wanted: float | None) -> None:
    assert parse_quota(text) == wanted


def test_the_machine_by_either_kind_of_cgroup(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) >= 1 and memory_limit(tmp_path) > GB // 4
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("25000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert (cpu_quota(tmp_path), memory_limit(tmp_path)) == (0.25, 1000000)


JOB = {"argv": ["/bin/x", "{n}", "plain"], "parameters": {"n": {"type": "integer", "minimum": 1, "maximum": 9}}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"argv": []}, "argv"),
        ({"argv": "x"}, "argv"),
        ({"argv": ["{n}"]}, "argv"),
        ({"argv": ["x", "{m}"]}, "argv"),
        ({"argv": ["x", "--n={n}"]}, "argv"),
        ({"argv": ["x", 5]}, "argv"),
        ({"argv": ["x\0"]}, "argv"),
        ({"env": {"LAUNCHER_RUN_ID": "x"}}, "env.LAUNCHER_RUN_ID"),
        ({"env": {"A": 1}}, "env.A"),
        ({"env": {"A=B": "x"}}, "env.A=B"),
        ({"price": -1}, "price"),
        ({"price": 1.5}, "price"),
        ({"shell": True}, "shell"),
        ({"needs_numbers": True}, "release"),
        ({"needs_numbers": True, "release": {"argv": ["x"], "url": "http://x"}}, "release"),
        ({"needs_numbers": True, "release": {"url": "file:///etc/passwd"}}, "release.url"),
        ({"needs_numbers": True, "release": {"argv": ["x", "n={number}"]}}, "release.argv"),
        ({"executor": "ssh"}, "executor"),
        ({"executor": "swarm"}, "image"),
        ({"limits": {"files": 1}}, "limits.files"),
        ({"parameters": {"n": {"type": "integer"}}}, "parameters.n.minimum"),
        ({"parameters": {"n": {"type": "list"}}}, "parameters.n.type"),
        ({"parameters": {"n": {"type": "string", "pattern": "("}}}, "parameters.n.pattern"),
        ({"parameters": {"n": {"type": "choice", "choices": ["a"], "default": "b"}}}, "parameters.n.default"),
    ],
)
def test_a_wrong_template_is_refused_by_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as refused:
        templates.load({"job": {**JOB, **change}})
    assert refused.value.field == f"templates.job.{field}"


def test_parameters_are_whole_elements() -> None:
    job = templates.load({"job": JOB})["job"]
    assert job.command(job.checked({"n": 3})) == (["/bin/x", "3", "plain"], {})
    hostile: list[Any] = [{}, {"n": 0}, {"n": "3"}, {"n": True}, {"n": 3.0}, {"n": 3, "m": 1}, [], None]
    for bad in hostile:
        with pytest.raises(Refused):
            job.checked(bad)


@pytest.mark.parametrize("bad", ["-x", "a\nb", "a\0", "x" * 257, 5, None, "\x1b[0m", "\ud800"])
def test_texts_are_plain_unless_their_template_says_otherwise(bad: Any) -> None:
    word = templates.load({"job": {"argv": ["x", "{w}"], "parameters": {"w": {"type": "string"}}}})["job"]
    assert word.checked({"w": "two words, Größe"}) == {"w": "two words, Größe"}
    with pytest.raises(Refused) as refused:
        word.checked({"w": bad})
    assert refused.value.field == "parameters.w"


def test_the_demo_templates_are_right() -> None:
    loaded = templates.load(demo.templates())
    assert set(loaded) == {"demo", "demo-numbers"}
    assert json.dumps([each.to_json() for each in loaded.values()])


@given(st.lists(st.binary(max_size=40) | st.just(b"\n") | st.just(b"x" * 30), max_size=20), st.integers(1, 12))
def test_records_give_back_what_was_printed(chunks: list[bytes], cap: int) -> None:
    records = Records(7, 2, cap)
    log = b"".join(records.feed(chunk)[0] for chunk in chunks) + records.flush()
    assert printed(log).get((7, 2), b"") == b"".join(chunks)
    assert all(len(line) <= cap + len("7.2|") for line in log.split(b"\n"))


@given(st.data())
def test_a_segment_cut_anywhere_keeps_its_whole_blocks(data: st.DataObject) -> None:
    blocks = [
        Block(f"r_{n % 2}", n * 10, body)
        for n, body in enumerate(data.draw(st.lists(st.binary(max_size=9), max_size=8)))
    ]
    content, placed = encode(blocks, 0)
    cut = data.draw(st.integers(0, len(content)))
    file = Path("/dev/shm") / f"launcher-test-{new_id('s')}"
    try:
        file.write_bytes(content[:cut] + b"\0" * data.draw(st.integers(0, 20)))
        found, size = scan(file)
        assert size <= cut and found == placed[: len(found)]
        whole = [extent for _, extent in placed if extent.position + extent.length <= cut]
        assert len(found) == len(whole)
        for (_, extent), block in zip(found, blocks, strict=False):
            assert pick(file, [extent], extent.offset, extent.end) == block.data
    finally:
        file.unlink()


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "segment"
    with file.open("wb") as stream:
        append(stream.fileno(), b"first", 0)
    with file.open("rb") as reading, pytest.raises(OSError):
        append(reading.fileno(), b"more", 5)
    assert file.read_bytes() == b"first"


@given(st.lists(st.integers(1, 5), max_size=10), st.integers(0, 60), st.integers(1, 60))
def test_extents_between(lengths: list[int], start: int, wanted_bytes: int) -> None:
    end = start + wanted_bytes
    extents, at = [], 0
    for length in lengths:
        extents.append(Extent(at, at + 100, length))
        at += length
    wanted = [each for each in extents if each.end > start and each.offset < end]
    assert between(extents, start, end) == wanted
    assert list(unpack(pack(extents))) == extents


@pytest.mark.parametrize(
    ("pieces", "start", "wanted"),
    [
        ([], 5, (b"", 5)),
        ([(0, b"abc"), (3, b"de")], 0, (b"abcde", 5)),
        ([(0, b"abc"), (3, b"de")], 1, (b"bcde", 5)),
        ([(0, b"abc"), (2, b"cde")], 0, (b"abcde", 5)),
        ([(7, b"abc")], 5, (b"abc", 10)),
        ([(0, b"abc"), (7, b"x")], 0, (b"abc", 3)),
    ],
)
def test_pieces_are_joined_up_to_a_gap(pieces: Any, start: int, wanted: tuple[bytes, int]) -> None:
    assert joined(pieces, start) == wanted


@given(st.lists(st.binary(max_size=30), max_size=30))
def test_reports_survive_anything(chunks: list[bytes]) -> None:
    reports = Reports(longest=20, most=5)
    for chunk in chunks:
        reports.feed(chunk)
    reports.close()
    assert reports.taken <= 5


def test_reports_come_in_any_pieces() -> None:
    said = b'{"type":"acquired","number":"a"}\n{"type":"progress","done":1,"of":3}\n{"type":"result","success":true}'
    for size in (1, 7, 1000):
        reports = Reports(1000, 10)
        for at in range(0, len(said), size):
            assert reports.feed(said[at : at + size]) == []
        assert reports.close() == []
        assert reports.numbers == ["a"] and reports.shown == {"success": True, "data": {}}


@pytest.mark.parametrize(
    ("ending", "report", "stopping", "wanted"),
    [
        (Ending(0), None, False, ("succeeded", None)),
        (Ending(3), None, False, ("failed", "ended with exit code 3")),
        (Ending(None, 11), None, False, ("failed", "killed by SIGSEGV")),
        (Ending(None, 60), None, False, ("failed", "killed by signal 60")),
        (Ending(3), True, False, ("succeeded", None)),
        (Ending(0), False, False, ("failed", "the worker reported a failure")),
        (Ending(None, 15, "stopped"), True, True, ("stopped", "stopped")),
        (Ending(0, None, "ran longer than 5 s"), True, False, ("failed", "ran longer than 5 s")),
    ],
)
def test_how_an_attempt_is_judged(ending: Ending, report: bool | None, stopping: bool, wanted: Any) -> None:
    reports = Reports(100, 10)
    reports.success = report
    judged = outcome(ending, reports, stopping=stopping)
    assert (judged.status, judged.reason) == wanted


def test_a_process_name_can_hold_anything() -> None:
    line = "42 (a) b (c) S 1 40 41 0 -1 4194304 1 0 0 0 5 6 0 0 20 0 1 0 777 1000 25 18446744073709551615"
    found = parse_stat(line)
    assert (found.pid, found.parent, found.group, found.session, found.state, found.start) == (42, 1, 40, 41, "S", 777)
    child = found._replace(pid=43, parent=42)
    assert descendants({42: found, 43: child}, [42, 99]) == {42, 43}


def test_the_gate_gets_each_limit_in_its_unit() -> None:
    assert gate_limits({"open_files": 64, "address_space": 2, "cpu_time": 0}) == (
        "RLIMIT_NOFILE=64,RLIMIT_AS=2000000,RLIMIT_CORE=0"
    )


def test_backoff_doubles_up_to_an_hour() -> None:
    assert [backoff(n, 5) for n in (1, 2, 3, 30, 10**6)] == [5, 10, 20, 3600, 3600]


def test_times_and_ids() -> None:
    assert iso(0) == "1970-01-01T00:00:00.000Z" and iso(None) is None
    assert iso(1795349812613) == "2026-11-22T12:16:52.613Z"
    assert len(new_id("r")) == 22 and new_id("r") != new_id("r")

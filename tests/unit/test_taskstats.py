# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils import _taskstats
from ansible_collections.evenkeel.swarm.plugins.module_utils._schedstat import Schedstat, read_threads
from ansible_collections.evenkeel.swarm.plugins.module_utils._taskstats import (
    ProcessWindow,
    Taskstats,
    TaskstatsUnavailableError,
    answer_to,
    attribute,
    attributes,
    parse_start,
    parse_stats,
    parse_times,
)
from hypothesis import given
from hypothesis import strategies as st

S = 1_000_000_000
FAMILY = 29


def message(payload: bytes, sequence: int = 1, kind: int = FAMILY) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, 0, sequence, 0) + payload


def refusal(number: int, sequence: int = 1) -> bytes:
    return message(struct.pack("=i", -number) + bytes(16), sequence, kind=2)


def stats(run: int, delay: int, count: int, version: int = 14, run_at: int = 72) -> bytes:
    content = bytearray(376)
    struct.pack_into("=H", content, 0, version)
    for at, value in ((16, count), (24, delay), (run_at, run)):
        struct.pack_into("=Q", content, at, value)
    return bytes(content)


def reply(content: bytes, aggregate: int = 5) -> bytes:
    """A header of four bytes, then the nested answer: the id, an empty attribute for alignment, the struct."""
    nested = attribute(2, struct.pack("=I", 7)) + attribute(6, b"") + attribute(3, content)
    return bytes(4) + attribute(aggregate | 0x8000, nested)


# --- parsing ---


def test_an_answer_is_found_among_others() -> None:
    late, mine = message(b"late", sequence=1), message(b"mine", sequence=2)
    assert answer_to(late + mine, 2) == b"mine"
    assert answer_to(late, 2) is None
    assert answer_to(b"", 2) is None


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ESRCH, ProcessLookupError), (errno.EPERM, PermissionError), (errno.ENOBUFS, OSError)]
)
def test_a_refusal_is_the_kernels_error(number: int, error: type[OSError]) -> None:
    with pytest.raises(error) as raised:
        answer_to(refusal(number), 1)
    assert raised.value.errno == number


@pytest.mark.parametrize("cut", [1, 15, 17])
def test_a_message_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="cut off"):
        answer_to(message(b"payload")[:cut], 1)


def test_attributes_are_padded_and_flags_are_no_part_of_their_type() -> None:
    content = attribute(1, b"abcde") + attribute(0x8002, b"") + attribute(3, b"wxyz")
    assert len(content) % 4 == 0
    assert list(attributes(content)) == [(1, b"abcde"), (2, b""), (3, b"wxyz")]


@pytest.mark.parametrize("content", [struct.pack("=HH", 9, 1), struct.pack("=HH", 3, 1), struct.pack("=HH", 0, 1)])
def test_an_attribute_that_does_not_fit_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        list(attributes(content))


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parsers_do_anything_but_refuse(content: bytes) -> None:
    for parse in (lambda: answer_to(content, 1), lambda: parse_stats(content), lambda: parse_times(content, 72)):
        try:
            parse()
        except (ValueError, OSError):
            continue


@pytest.mark.parametrize("aggregate", [4, 5])
def test_the_statistics_of_a_thread_or_a_process_are_found(aggregate: int) -> None:
    content = stats(5, 6, 7)
    assert parse_times(parse_stats(reply(content, aggregate)), 72) == (5, 6, 7)


def test_a_reply_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="no statistics"):
        parse_stats(bytes(4) + attribute(6, b""))


def test_a_short_struct_is_refused() -> None:
    with pytest.raises(ValueError, match="only 79 bytes"):
        parse_times(stats(1, 2, 3)[:79], 72)


@pytest.mark.parametrize(
    ("content", "seconds"),
    [
        (b"7 (a) b (c)) S " + b"1 " * 18 + b"250 0 0\n", 2.5),
        (b"", None),
        (None, None),
        (b"7 (x) S 1 2\n", None),
    ],
)
def test_the_start_of_a_process_whatever_its_name(content: bytes | None, seconds: float | None) -> None:
    assert parse_start(content, 100) == seconds


# --- which layout, and whether at all ---


class Kernel:
    """Answers requests as a kernel does: the family's id, then the statistics that `answer` makes."""

    def __init__(self, answer: Callable[[], bytes]) -> None:
        self.answer = answer

    def __call__(self, kind: int, payload: bytes) -> bytes:
        assert payload
        return bytes(4) + attribute(1, struct.pack("=H", FAMILY)) if kind == 16 else self.answer()


def own() -> Schedstat:
    name = b"%d" % threading.get_native_id()
    return (read_threads([name]) or {})[name]


@pytest.mark.parametrize(("version", "run_at"), [(1, 72), (14, 72), (16, 72), (17, 72), (15, 120), (15, 96)])
def test_the_run_time_is_found_in_every_layout(version: int, run_at: int) -> None:
    source = _taskstats.attach(Kernel(lambda: reply(stats(*own(), version=version, run_at=run_at))))
    before, [now], after = own(), (source.processes([b"7"]) or {}).values(), own()
    assert all(low <= value <= high for low, value, high in zip(before, now, after, strict=True))


def test_numbers_that_contradict_schedstat_are_not_used() -> None:
    with pytest.raises(TaskstatsUnavailableError, match="version 99 contradicts schedstat"):
        _taskstats.attach(Kernel(lambda: reply(stats(*own(), version=99, run_at=200))))


def refuse(number: int) -> Callable[[], bytes]:
    def answer() -> bytes:
        raise OSError(number, os.strerror(number))

    return answer


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EPERM, "need the capability CAP_NET_ADMIN"), (errno.ENOBUFS, "can't be read: .*No buffer space")],
)
def test_a_refusal_becomes_a_reason(number: int, reason: str) -> None:
    with pytest.raises(TaskstatsUnavailableError, match=reason):
        _taskstats.attach(Kernel(refuse(number)))


def test_a_kernel_without_taskstats_is_a_reason() -> None:
    def exchange(_kind: int, _payload: bytes) -> bytes:
        raise FileNotFoundError(errno.ENOENT, "no such family")

    with pytest.raises(TaskstatsUnavailableError, match="network namespace or the kernel has no taskstats"):
        _taskstats.attach(exchange)


@pytest.mark.parametrize(
    ("answers", "sums"),
    [
        ([refusal(errno.ESRCH), message(reply(stats(1, 2, 3)))], {b"8": (1, 2, 3)}),
        ([refusal(errno.ENOBUFS), message(reply(stats(1, 2, 3))), refusal(errno.ESRCH)], {b"7": (1, 2, 3)}),
        ([refusal(errno.ENOBUFS), refusal(errno.ENOBUFS)], None),
        ([refusal(errno.EINVAL)], None),
        ([message(reply(b"short"))], None),
        ([message(b"foreign")], None),
    ],
    ids=["one is gone", "dropped once", "dropped twice", "refused", "short", "foreign"],
)
def test_what_a_process_query_makes_of_answers(answers: list[bytes], sums: dict[bytes, Schedstat] | None) -> None:
    left = iter(answers)
    source = Taskstats(lambda *_: answer_to(next(left), 1) or b"", FAMILY, 72)
    assert source.processes([b"7", b"8"]) == sums


def test_schedstat_can_be_asked_for() -> None:
    source, reason = _taskstats.choose("schedstat", "/proc")
    assert source is None
    assert "asked for" in reason


def test_foreign_process_ids_are_not_mixed_up(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("1")
    source, reason = _taskstats.choose("auto", str(tmp_path))
    assert source is None
    assert "own pid namespace" in reason
    with pytest.raises(TaskstatsUnavailableError):
        _taskstats.choose("taskstats", str(tmp_path))


# --- a window ---


def test_totals_of_processes_that_stay_come_go_and_move_in() -> None:
    window = ProcessWindow()
    window.look({b"1": (5 * S, 5 * S, 5), b"2": (S, S, 1)})
    assert window.newcomers([b"1", b"3", b"4"]) == [b"3", b"4"]
    window.look({b"1": (6 * S, 7 * S, 9), b"3": (2, 3, 1), b"4": (900, 900, 9)}, born={b"3"})
    window.look({b"1": (6 * S, 7 * S, 9), b"4": (1000, 1100, 10)})
    # 1: a second run, two of delay; 3 from zero; 4 from when it moved in.
    assert window.totals() == (S + 2 + 100, 2 * S + 3 + 200)


def test_an_id_given_to_a_new_process_is_two_processes() -> None:
    window = ProcessWindow()
    for sums in ({b"1": (10, 10, 5)}, {b"1": (30, 10, 6)}, {b"1": (7, 1, 1)}):
        window.look(sums)
    assert window.totals() == (27, 1)


@pytest.mark.parametrize("position", [0, 1])
def test_a_failed_look_spoils_the_totals(position: int) -> None:
    looks: list[dict[bytes, Schedstat] | None] = [{b"1": (1, 1, 1)}, {b"1": (2, 2, 2)}]
    looks[position] = None
    window = ProcessWindow()
    for look in looks:
        window.look(look)
    assert window.totals() is None
    assert ProcessWindow().totals() is None


def test_a_process_that_began_before_a_moment_was_not_born_since() -> None:
    moment = time.monotonic()
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    try:
        ids = [b"%d" % child, b"1", b"4194304000"]
        assert _taskstats.born_since(ids, moment, "/proc") == {ids[0]}
        assert _taskstats.born_since(ids, time.monotonic() + 1, "/proc") == set()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._demand import never_idle, thread_demand
from ansible_collections.evenkeel.swarm.plugins.module_utils._schedstat import (
    Schedstat,
    ThreadShare,
    ThreadWindow,
    parse_schedstat,
    read_threads,
    unfollowed,
)
from hypothesis import given
from hypothesis import strategies as st

S = 1_000_000_000


def test_parse() -> None:
    assert parse_schedstat(b"1996048 7 42\n") == (1996048, 7, 42)


@pytest.mark.parametrize("content", [b"", b"1 2\n", b"a b c\n", b"1 2 3 4\n"])
def test_parse_refuses_other_content(content: bytes) -> None:
    with pytest.raises(ValueError):
        parse_schedstat(content)


def test_threads_that_are_no_process_are_read_too() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        ids = [b"%d" % os.getpid(), b"%d" % (thread.native_id or 0)]
        stats = read_threads(ids)
    finally:
        done.set()
        thread.join()
    assert stats is not None
    assert list(stats) == ids
    assert stats[ids[0]][0] > 0


def test_a_vanished_thread_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "schedstat").write_bytes(b"1 2 3\n")
    assert read_threads([b"7", b"8"], str(tmp_path)) == {b"7": (1, 2, 3)}


@pytest.mark.parametrize("content", [b"", b"no numbers\n"])
def test_an_unreadable_thread_makes_the_look_unusable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "schedstat").write_bytes(content)
    assert read_threads([b"7"], str(tmp_path)) is None
    (tmp_path / "8" / "schedstat").mkdir(parents=True)
    assert read_threads([b"8"], str(tmp_path)) is None


def window(*looks: tuple[float, dict[bytes, Schedstat] | None]) -> ThreadWindow:
    result = ThreadWindow()
    for at, stats in looks:
        result.look(at, stats)
    return result


def test_shares_of_a_thread_that_is_there_from_end_to_end() -> None:
    looks = window((100.0, {b"1": (5 * S, 7 * S, 10)}), (110.0, {b"1": (7 * S, 15 * S, 50)}))
    [share] = looks.shares() or []
    assert (share.run, share.delay, share.life) == pytest.approx((0.2, 0.8, 1.0))
    assert share.wait == pytest.approx(0.8 / 40)


def test_a_thread_born_inside_is_followed_from_its_first_look_and_counts_before() -> None:
    looks = window((0.0, {}), (5.0, {}), (6.0, {b"1": (S // 10, S // 5, 1)}), (10.0, {b"1": (S, S, 9)}))
    [share, before] = looks.shares() or []
    assert (share.run, share.delay, share.life) == pytest.approx((0.09, 0.08, 0.4))
    # Its life before the first look isn't known: no idle time is granted to it.
    assert (before.run, before.delay, before.life) == pytest.approx((0.01, 0.02, 0.03))
    assert looks.totals() == (S, S)


def test_a_thread_seen_once_counts_with_what_it_did() -> None:
    looks = window((0.0, {}), (5.0, {b"1": (S, 2 * S, 1)}), (10.0, {}))
    [before] = looks.shares() or []
    assert (before.run, before.delay, before.life) == pytest.approx((0.1, 0.2, 0.3))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_no_share_of_a_thread_counts_more_than_run_and_delay(run: float, delay: float, idle: float) -> None:
    """The bound that unfollowed() rests on, over the estimator's own formula."""
    thread = ThreadShare(run, delay, run + delay + idle)
    if not never_idle(thread):
        assert thread_demand(thread) <= thread_demand(unfollowed(run, delay)) + 1e-9


def test_a_thread_that_ends_inside_is_followed_to_its_last_look() -> None:
    looks = window((0.0, {b"1": (S, S, 1)}), (5.0, {b"1": (2 * S, 3 * S, 3)}), (10.0, {}))
    [share] = looks.shares() or []
    assert (share.run, share.delay, share.life) == pytest.approx((0.1, 0.2, 0.5))


def test_a_thread_moved_in_does_not_bring_its_past() -> None:
    looks = window((0.0, {}), (5.0, {b"1": (900 * S, 0, 1)}), (10.0, {b"1": (901 * S, S, 3)}))
    [share] = looks.shares() or []
    assert (share.run, share.delay, share.life) == pytest.approx((0.1, 0.1, 0.5))


def test_an_id_given_to_a_new_thread_is_two_threads() -> None:
    looks = window((0.0, {b"1": (5 * S, 0, 5)}), (5.0, {b"1": (6 * S, 0, 6)}), (10.0, {b"1": (S // 2, 0, 1)}))
    shares = looks.shares() or []
    assert sorted(share.run for share in shares) == pytest.approx([0.05, 0.1])


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_failed_look_spoils_the_window(position: int) -> None:
    looks: list[tuple[float, dict[bytes, Schedstat] | None]] = [(0.0, {}), (5.0, {}), (10.0, {})]
    looks[position] = (looks[position][0], None)
    assert window(*looks).shares() is None


def test_one_look_has_no_shares() -> None:
    assert window((0.0, {b"1": (S, S, 1)})).shares() is None
    assert ThreadWindow().shares() is None


counters = st.tuples(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**6))


@given(
    st.lists(
        st.dictionaries(st.sampled_from([b"1", b"2", b"3"]), counters, max_size=3),
        min_size=2,
        max_size=6,
    )
)
def test_shares_are_never_negative_and_no_life_outlasts_the_window(looks: list[dict[bytes, Schedstat]]) -> None:
    shares = window(*((float(at), stats) for at, stats in enumerate(looks))).shares()
    assert shares is not None
    for share in shares:
        assert share.run >= 0
        assert share.delay >= 0
        # What nobody followed may be of several threads.
        assert 0 <= share.life <= 1 or share == unfollowed(share.run, share.delay)

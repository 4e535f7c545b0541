# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import (
    MIB,
    MIN_LIMIT_MEMORY,
    MIN_LIMIT_NANO_CPUS,
    NO_LIMIT,
    UnitError,
    format_cpus,
    format_memory,
    parse_cpus,
    parse_memory,
    parse_pids,
    parse_replicas,
)
from hypothesis import given, settings
from hypothesis import strategies as st

INT64_MAX = 2**63 - 1


@pytest.mark.parametrize(
    ("written", "nano_cpus"),
    [
        (0.5, 500_000_000),
        ("0.5", 500_000_000),
        (" 2 ", 2_000_000_000),
        (2, 2_000_000_000),
        (".25", 250_000_000),
        ("1.", 1_000_000_000),
        (2.01, 2_010_000_000),  # int(2.01 * 1e9) is 2009999999
        (1.001, 1_001_000_000),
        ("0.3333333333333", 333_333_333),
        (0.01, 10_000_000),
        ("unlimited", NO_LIMIT),
        ("Unlimited", NO_LIMIT),
    ],
)
def test_cpus(written: Any, nano_cpus: int) -> None:
    assert parse_cpus(written) == nano_cpus


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("512M", 512 * MIB),
        ("512m", 512 * MIB),
        ("512MB", 512 * MIB),
        ("512MiB", 512 * MIB),
        ("512 M", 512 * MIB),
        ("1G", 1024 * MIB),
        ("1.5GiB", 1536 * MIB),
        ("536870912", 536_870_912),
        ("536870912b", 536_870_912),
        (536870912, 536_870_912),
        (536870912.0, 536_870_912),
        ("0.7G", 751_619_276),  # docker update --limit-memory 0.7G drops the fraction, too
        ("6M", 6 * MIB),
        ("unlimited", NO_LIMIT),
    ],
)
def test_memory(written: Any, size: int) -> None:
    assert parse_memory(written) == size


@pytest.mark.parametrize(
    ("parse", "zero"),
    [(parse, zero) for parse in (parse_cpus, parse_memory) for zero in (0, "0", 0.0, "0.0")]
    + [(parse_pids, 0), (parse_pids, "0")],
)
def test_zero_is_refused_with_the_word_that_removes_a_limit(parse: Any, zero: Any) -> None:
    with pytest.raises(UnitError, match="`unlimited`"):
        parse(zero)


@pytest.mark.parametrize(
    "written",
    [
        "0.5x",
        "-1",
        -1,
        "1e400",
        "500m",
        "nan",
        "inf",
        float("nan"),
        float("inf"),
        "",
        "½",
        "٣",
        "1,5",
        True,
        None,
        [],
        {},
        "0.001",
        0.009,
        "1" * 400,
        1e300,
        "1e-1",
        "0x10",
        "1 2",
        "--1",
    ],
)
def test_what_is_no_number_of_cpus(written: Any) -> None:
    with pytest.raises(UnitError):
        parse_cpus(written)


@pytest.mark.parametrize(
    "written",
    ["512X", "-1M", "M", "", "1e3M", "512", 512, "5M", "0.5K", "1MM", "1 M B", "9" * 30, "99999999P", True, None, [1]],
)
def test_what_is_no_amount_of_memory(written: Any) -> None:
    with pytest.raises(UnitError):
        parse_memory(written)


def test_bytes_below_the_minimum_suggest_the_unit() -> None:
    with pytest.raises(UnitError, match=r"'512' is below Docker's minimum of 6M; did you mean 512M\?"):
        parse_memory(512)


@pytest.mark.parametrize(("written", "count"), [(1, 1), ("200", 200), (" 7 ", 7), ("unlimited", NO_LIMIT)])
def test_pids(written: Any, count: int) -> None:
    assert parse_pids(written) == count


@pytest.mark.parametrize("written", [-1, "1.5", 1.5, "many", True, None, "9" * 5000])
def test_what_is_no_count(written: Any) -> None:
    with pytest.raises(UnitError):
        parse_pids(written)
    with pytest.raises(UnitError):
        parse_replicas(written)


def test_zero_replicas_stop_a_service_and_unlimited_makes_no_sense() -> None:
    assert parse_replicas(0) == 0
    with pytest.raises(UnitError):
        parse_replicas("unlimited")


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(MIN_LIMIT_NANO_CPUS, INT64_MAX))
def test_cpus_read_back_as_written(nano_cpus: int) -> None:
    assert parse_cpus(format_cpus(nano_cpus)) == nano_cpus


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, 10**6))
def test_a_float_of_millicores_means_exactly_that(thousandths: int) -> None:
    if thousandths >= 10:
        assert parse_cpus(thousandths / 1000) == thousandths * 10**6


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(MIN_LIMIT_MEMORY, INT64_MAX))
def test_memory_reads_back_as_written(size: int) -> None:
    assert parse_memory(format_memory(size)) == size


scalars = st.one_of(
    st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.from_regex(r"[0-9.]+[KMGTPkib]*")
)


@settings(deadline=None)  # a busy machine is no failure
@given(scalars)
def test_anything_else_is_a_unit_error_and_nothing_out_of_bounds_gets_through(value: Any) -> None:
    for parse, least in ((parse_cpus, MIN_LIMIT_NANO_CPUS), (parse_memory, MIN_LIMIT_MEMORY), (parse_pids, 1)):
        try:
            parsed = parse(value)
        except UnitError as error:
            assert str(error)
            assert len(str(error)) < 1000 + len(repr(value))
        else:
            assert parsed == NO_LIMIT or least <= parsed <= INT64_MAX

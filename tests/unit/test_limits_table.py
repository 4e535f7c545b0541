# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_table import (
    Row,
    Selectable,
    match_rows,
    parse_table,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import MIB, NO_LIMIT
from hypothesis import given, settings
from hypothesis import strategies as st

CPU = {"cpus": 0.5}


def rows_of(*table: dict[str, Any]) -> list[Row]:
    rows, errors = parse_table(table)
    assert errors == []
    return rows


def errors_of(*table: Any) -> list[str]:
    return parse_table(table)[1]


def test_a_row_is_read_with_its_units() -> None:
    (row,) = rows_of(
        {
            "service": "api",
            "limits": {"cpus": "0.25", "memory": "256M", "pids": "unlimited"},
            "reservations": {"cpus": 0.002, "memory": "4M"},
            "replicas": 0,
        }
    )
    assert row.limits == {"cpus": 250_000_000, "memory": 256 * MIB, "pids": NO_LIMIT}
    assert row.reservations == {"cpus": 2_000_000, "memory": 4 * MIB}
    assert row.replicas == 0


def test_absent_suboptions_come_from_ansible_as_none() -> None:
    (row,) = rows_of({"service": None, "glob": "a*", "labels": None, "limits": {"cpus": 1, "memory": None}})
    assert row.limits == {"cpus": 10**9}
    assert row.reservations == {}
    assert row.replicas is None


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("redis", "row 1: is 'redis'; a row is a mapping"),
        ({}, "row 1 (no selector): has no selector"),
        ({"service": "a"}, "row 1 (service: a): sets nothing"),
        (
            {"service": "a", "limit": CPU, "replicas": 1},
            "row 1 (service: a): limit: unknown key; did you mean `limits`?",
        ),
        ({"service": "a", "limits": {"cpu": 1}}, "limits.cpu: unknown key; did you mean `cpus`?"),
        ({"service": "a", "reservations": {"pids": 1}}, "reservations.pids: unknown key; known are `cpus`, `memory`"),
        ({"service": "a", "glob": "*", "limits": CPU}, "service: an exact name stands alone"),
        ({"service": "a", "labels": {"x": "y"}, "limits": CPU}, "service: an exact name stands alone"),
        ({"service": "", "limits": CPU}, "service: '' is not a name"),
        ({"service": 12, "limits": CPU}, "service: 12 is not a name"),
        ({"labels": {}, "limits": CPU}, "labels: {} is not a mapping of labels"),
        ({"labels": {"a": True}, "limits": CPU}, "labels.a: True is not a string"),
        ({"labels": ["a"], "limits": CPU}, "labels: ['a'] is not a mapping of labels"),
        ({"service": "a", "limits": {}}, "limits: is empty"),
        ({"service": "a", "limits": "0.5"}, "limits: '0.5' is not a mapping"),
        (
            {"service": "a", "limits": {"cpus": "0.5x"}},
            "row 1 (service: a): limits.cpus: '0.5x' is not a number of CPUs",
        ),
        ({"service": "a", "limits": {"cpus": 0}}, "limits.cpus: 0 CPUs is not a limit: write `unlimited`"),
        ({"service": "a", "limits": {"memory": 512}}, "limits.memory: '512' is below Docker's minimum"),
        ({"service": "a", "replicas": -1}, "replicas: '-1' is not a number of replicas"),
        (
            {"glob": "a*", "labels": {"t": "x"}, "limits": {"cpus": 0.1}, "reservations": {"cpus": 0.2}},
            "row 1 (glob: a*, labels: t=x): limits.cpus: 0.1 is below reservations.cpus, 0.2",
        ),
    ],
)
def test_an_error_names_row_field_and_remedy(row: Any, expected: str) -> None:
    errors = errors_of(row)
    assert any(expected in error for error in errors), errors


def test_an_empty_table_is_an_error() -> None:
    assert errors_of() == ["the table is empty: give it at least one row"]


def test_all_errors_come_together() -> None:
    errors = errors_of(
        {"service": "a", "limits": {"cpus": "x", "memory": "y"}},
        {"glob": "b*", "limits": CPU},
        {"glob": "b*", "replicas": 1},
        {"replicas": 1},
    )
    assert [error.split(":")[0] for error in errors] == [
        "row 1 (service",
        "row 1 (service",
        "row 4 (no selector)",
        "row 3 (glob",
    ]
    assert errors[-1] == "row 3 (glob: b*): repeats the selector of row 2; keep one of the two"


REDIS = Selectable("infrastructure-shared-redis", {"tier": "cache", "env": "live"})


@pytest.mark.parametrize(
    ("weaker", "stronger"),
    [
        ({"glob": "*"}, {"glob": "*redis"}),
        ({"glob": "*redis*"}, {"glob": "*shared-redis"}),
        ({"glob": "*redis"}, {"labels": {"tier": "cache"}}),
        ({"labels": {"tier": "cache"}}, {"labels": {"tier": "cache", "env": "live"}}),
        ({"labels": {"tier": "cache"}}, {"labels": {"tier": "cache"}, "glob": "*r*"}),
        ({"labels": {"tier": "cache", "env": "live"}, "glob": "*"}, {"service": REDIS.name}),
        ({"glob": "[a-z]*"}, {"glob": "i*"}),
    ],
)
def test_the_more_specific_row_wins_whatever_the_order(weaker: dict[str, Any], stronger: dict[str, Any]) -> None:
    for table, winner in (([weaker, stronger], 2), ([stronger, weaker], 1)):
        chosen, errors = match_rows(rows_of(*({**row, "limits": CPU} for row in table)), [REDIS])
        assert errors == []
        assert chosen[REDIS.name].number == winner


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({"service": REDIS.name}, True),
        ({"service": "infrastructure-shared"}, False),
        ({"glob": "*redis*"}, True),
        ({"glob": "*REDIS*"}, False),
        ({"glob": "redis"}, False),
        ({"glob": "infra[r-t]*"}, True),
        ({"labels": {"tier": "cache"}}, True),
        ({"labels": {"tier": "cache", "env": "test"}}, False),
        ({"labels": {"missing": ""}}, False),
        ({"glob": "*redis*", "labels": {"tier": "frontend"}}, False),
    ],
)
def test_selectors(selector: dict[str, Any], matches: bool) -> None:
    (row,) = rows_of({**selector, "limits": CPU})
    assert row.matches(REDIS.name, REDIS.labels) is matches


def test_two_equally_specific_rows_are_an_error_naming_both_and_the_service() -> None:
    _, errors = match_rows(rows_of({"glob": "*redis", "limits": CPU}, {"glob": "infra*", "limits": CPU}), [REDIS])
    assert errors == [
        "row 1 (glob: *redis) and row 2 (glob: infra*) are equally specific for service "
        "infrastructure-shared-redis: make one of them more specific"
    ]


def test_a_row_that_matches_nothing_is_an_error_with_the_name_it_may_have_meant() -> None:
    _, errors = match_rows(rows_of({"service": "infrastructure-shared-reddis", "limits": CPU}), [REDIS])
    assert errors == [
        "row 1 (service: infrastructure-shared-reddis): matches none of the 1 services of this swarm; "
        "did you mean infrastructure-shared-redis?"
    ]


def test_a_row_that_only_loses_is_no_error() -> None:
    chosen, errors = match_rows(rows_of({"glob": "*", "limits": CPU}, {"service": REDIS.name, "limits": CPU}), [REDIS])
    assert errors == []
    assert chosen[REDIS.name].number == 2


names = st.text("abc", min_size=1, max_size=3)
labels = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"))
some_labels = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), min_size=1)
selectors = st.one_of(
    st.builds(lambda name: {"service": name}, names),
    st.builds(lambda glob: {"glob": glob}, st.text("abc*?", min_size=1, max_size=3)),
    st.builds(lambda found: {"labels": found}, some_labels),
    st.builds(lambda glob, found: {"glob": glob, "labels": found}, st.text("abc*", min_size=1), some_labels),
)
tables = st.lists(selectors, min_size=1, max_size=6, unique_by=str)
swarms = st.lists(st.builds(Selectable, names, labels), min_size=1, max_size=6, unique_by=lambda each: each.name)


@settings(deadline=None)  # a busy machine is no failure
@given(tables, swarms, st.randoms(use_true_random=False))
def test_matching_is_a_function_of_the_rows_not_of_their_order(
    table: list[dict[str, Any]], services: list[Selectable], shuffle: random.Random
) -> None:
    rows = list(parse_table([{**row, "limits": CPU} for row in table])[0])
    chosen, errors = match_rows(rows, services)
    mixed = list(rows)
    shuffle.shuffle(mixed)
    again, again_errors = match_rows(mixed, services)
    assert len(errors) == len(again_errors)
    if not errors:
        assert chosen == again


@settings(deadline=None)  # a busy machine is no failure
@given(tables, swarms)
def test_the_chosen_row_matches_and_no_matching_row_is_more_specific(
    table: list[dict[str, Any]], services: list[Selectable]
) -> None:
    rows, _ = parse_table([{**row, "limits": CPU} for row in table])
    chosen, errors = match_rows(rows, services)
    for service in services:
        matching = [row for row in rows if row.matches(service.name, service.labels)]
        assert (service.name in chosen) is bool(matching)
        if matching:
            row = chosen[service.name]
            assert row in matching
            assert row.weight == max(each.weight for each in matching)
            rivals = [each for each in matching if each.weight == row.weight]
            assert (len(rivals) > 1) is any(f"for service {service.name}:" in error for error in errors)


json_like = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
known_keys = st.sampled_from(["service", "glob", "labels", "limits", "reservations", "replicas", "limit"])


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.one_of(json_like, st.dictionaries(known_keys, json_like)), max_size=4))
def test_any_input_gives_rows_or_errors_never_an_exception(table: list[Any]) -> None:
    rows, errors = parse_table(table)
    bad = {int(error.removeprefix("row ").split(" ")[0].rstrip(":")) for error in errors if error.startswith("row ")}
    assert errors or len(rows) == len(table)
    assert {row.number for row in rows} | bad == set(range(1, len(table) + 1))

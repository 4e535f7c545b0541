# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._division import Claim, DivisionError, divide
from hypothesis import given, settings
from hypothesis import strategies as st

# What the estate's services want at full load; the rest wants next to nothing.
SEEDS = {
    "backend-django-crm": 10.8,
    "backend-saleor-api": 10.3,
    "backend-ai-agents": 2.6,
    "temporalserver": 1.6,
    "shared-redis": 1.2,
    **{f"small-{number}": 0.05 for number in range(16)},
}


def claim(service: str, wants: float, **changed: Any) -> Claim:
    return Claim(service, **{"tasks": 1, "wants": wants, **changed})


def test_who_wants_little_gets_it_and_the_rest_is_shared() -> None:
    shares = divide([claim("a", 0.5), claim("b", 3.0), claim("c", 9.0)], {"one": 4.0})
    assert shares == pytest.approx({"a": 0.5, "b": 1.75, "c": 1.75})


def test_enough_for_all_gives_everyone_what_it_wants() -> None:
    assert divide([claim("a", 0.5), claim("b", 3.0)], {"one": 4.0}) == pytest.approx({"a": 0.5, "b": 3.0})


def test_a_weight_is_a_share() -> None:
    shares = divide([claim("a", 9.0, weight=3.0), claim("b", 9.0)], {"one": 4.0})
    assert shares == pytest.approx({"a": 3.0, "b": 1.0})


def test_a_minimum_comes_first_and_counts_into_the_share() -> None:
    shares = divide([claim("a", 9.0, minimum=2.0), claim("b", 9.0), claim("c", 9.0)], {"one": 4.0})
    assert shares == pytest.approx({"a": 2.0, "b": 1.0, "c": 1.0})
    shares = divide([claim("a", 9.0, minimum=1.0), claim("b", 9.0)], {"one": 4.0})
    assert shares == pytest.approx({"a": 2.0, "b": 2.0})


def test_a_minimum_above_what_is_wanted_is_given() -> None:
    assert divide([claim("a", 0.1, minimum=0.5)], {"one": 4.0}) == pytest.approx({"a": 0.5})


def test_a_service_has_one_share_however_many_tasks() -> None:
    shares = divide([claim("a", 9.0, tasks=2), claim("b", 9.0)], {"one": 4.0})
    assert shares == pytest.approx({"a": 1.0, "b": 2.0})


def test_each_node_is_divided_among_those_that_run_there() -> None:
    claims = [claim("a", 9.0, nodes=["one"]), claim("b", 9.0, nodes=["one"]), claim("c", 1.5, nodes=["two"])]
    assert divide(claims, {"one": 4.0, "two": 2.0}) == pytest.approx({"a": 2.0, "b": 2.0, "c": 1.5})


def test_a_service_on_two_nodes_gets_what_the_fuller_one_can_give() -> None:
    claims = [claim("a", 9.0, tasks=2, nodes=["one", "two"]), claim("b", 9.0, nodes=["one"])]
    shares = divide(claims, {"one": 3.0, "two": 2.0})
    # Both rise to 2 cores, one of a's on either node; then the first node is full.
    assert shares == pytest.approx({"a": 1.0, "b": 2.0})


def test_a_service_of_unknown_place_counts_against_all_nodes_together() -> None:
    claims = [claim("a", 9.0), claim("b", 9.0, nodes=["one"])]
    shares = divide(claims, {"one": 4.0, "two": 2.0})
    assert shares == pytest.approx({"a": 3.0, "b": 3.0})


def test_oversubscription_multiplies_what_exists() -> None:
    assert divide([claim("a", 9.0), claim("b", 9.0)], {"one": 4.0}, 1.5) == pytest.approx({"a": 3.0, "b": 3.0})


def test_minima_that_do_not_fit_are_named() -> None:
    claims = [claim("a", 9.0, minimum=3.0, nodes=["one"]), claim("b", 9.0, minimum=0.75, tasks=2, nodes=["one"])]
    with pytest.raises(DivisionError, match=r"need 4\.50 cores on one; there are 4 to give: a 1 x 3, b 2 x 0\.75$"):
        divide(claims, {"one": 4.0, "two": 2.0})
    with pytest.raises(DivisionError, match=r"minima need 7\.00 cores in all"):
        divide([claim("a", 9.0, minimum=7.0)], {"one": 4.0, "two": 2.0})


def test_the_seeds_fleet_26_wanted_of_4() -> None:
    shares = divide([claim(name, wants, nodes=["kvm4"]) for name, wants in SEEDS.items()], {"kvm4": 4.0})
    assert sum(shares.values()) <= 4.0
    assert sum(shares.values()) > 3.9
    assert all(shares[f"small-{number}"] == pytest.approx(0.05) for number in range(16))
    # (4 - 0.8) / 5 for each of those that want more than that.
    assert [shares[name] for name in list(SEEDS)[:5]] == pytest.approx([0.64] * 5)


SERVICES = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.floats(0.01, 12),
        st.floats(0.01, 0.05),
        st.floats(0.1, 10),
        st.sets(st.sampled_from(["one", "two"])),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(SERVICES, st.floats(1, 2))
def test_fair_whatever_is_claimed(raw: list[tuple[int, float, float, float, set[str]]], over: float) -> None:
    claims = [
        Claim(f"s{number}", tasks, wants, minimum, weight, sorted(nodes))
        for number, (tasks, wants, minimum, weight, nodes) in enumerate(raw)
    ]
    cores = {"one": 4.0, "two": 3.0}
    shares = divide(claims, cores, over)
    full = []
    for node in ("one", "two", None):
        room = (cores[node] if node else sum(cores.values())) * over
        there = [each for each in claims if node is None or node in each.nodes]
        given_there = sum(
            shares[each.service] * (each.tasks / len(each.nodes) if node else each.tasks) for each in there
        )
        # Rounding a minimum is the caller's part: they may lie between hundredths.
        assert given_there <= room + 1e-6
        # Every task may be rounded down by less than a hundredth.
        if given_there >= room - 0.01 * sum(each.tasks for each in there) - 1e-6:
            full.append({each.service for each in there})
    for each in claims:
        share = shares[each.service]
        assert share <= max(each.wants, each.minimum) + 1e-9
        assert share >= each.minimum
        if share < each.wants - 0.0101:
            # Less than it wants only where something it runs on is full, and nobody there has more for its weight.
            sharing = [group for group in full if each.service in group]
            assert sharing
            level = (share + 0.0101) * each.tasks / each.weight
            assert any(
                all(
                    shares[other.service] <= other.minimum + 1e-9
                    or (shares[other.service] * other.tasks / other.weight <= level + 1e-6)
                    for other in claims
                    if other.service in group
                )
                for group in sharing
            )

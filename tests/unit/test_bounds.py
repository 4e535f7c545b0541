# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._bounds import BoundsError, out_of_bounds


@pytest.mark.parametrize(
    ("value", "bound", "fine"),
    [
        (0, {"min": 0, "max": 5}, True),
        (5, {"min": 0, "max": 5}, True),
        ("5", {"min": 0, "max": 5}, True),
        (" 2.5 ", {"min": 0, "max": 5}, True),
        (-0.001, {"min": 0, "max": 5}, False),
        (5.001, {"min": 0, "max": 5}, False),
        ("long", {"min": 0, "max": 5}, False),
        ("", {"min": 0, "max": 5}, False),
        (True, {"min": 0, "max": 5}, False),
        (None, {"min": 0}, False),
        ([1], {"min": 0}, False),
        ("nan", {"min": 0}, False),
        ("inf", {"min": 0}, False),
        (1, {"above": 1, "max": 10}, False),
        (1.01, {"above": 1, "max": 10}, True),
        (1, {"min": 0, "below": 1}, False),
        ("a", {"shortest": 1, "longest": 2}, True),
        ("", {"shortest": 1, "longest": 2}, False),
        ("abc", {"shortest": 1, "longest": 2}, False),
        (12, {"shortest": 1, "longest": 2}, False),
        (None, {"shortest": 0, "longest": 2}, True),
        (None, {"shortest": 1, "longest": 2}, False),
    ],
)
def test_a_value_is_within_its_bounds_or_named(value: Any, bound: dict[str, float], fine: bool) -> None:
    problems = out_of_bounds({"x": value}, {"x": bound})
    assert [problem.split()[0] for problem in problems] == ([] if fine else ["x"])


def test_the_sentence_says_what_would_be_right() -> None:
    bounds = {
        "window": {"min": 0, "max": 3600},
        "factor": {"above": 1, "max": 10},
        "name": {"shortest": 1, "longest": 255},
        "days": {"min": 1},
    }
    assert out_of_bounds({"window": "-1", "factor": 1, "name": "", "days": 0}, bounds) == [
        "window must be a number from 0, up to 3600; it is -1.",
        "factor must be a number above 1, up to 10; it is 1.",
        "name must have 1 to 255 characters; it is empty.",
        "days must be a number from 1; it is 0.",
    ]


def test_what_is_not_given_is_not_checked() -> None:
    assert out_of_bounds({}, {"x": {"min": 0}}) == []


@pytest.mark.parametrize("bound", [{}, {"least": 1}, {"min": 1, "longest": 2}, {"shortest": 1}])
def test_bounds_with_a_typo_are_an_error(bound: dict[str, float]) -> None:
    with pytest.raises(BoundsError, match="the bounds of x"):
        out_of_bounds({"x": 1}, {"x": bound})

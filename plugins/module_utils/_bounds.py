# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bounds of variables that people fill in: what Ansible's argument specs can't say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: What a bound may hold: inclusive and exclusive limits of a number, or the fewest and most characters of a text.
NUMBER_KEYS = {"min", "max", "above", "below"}
TEXT_KEYS = {"shortest", "longest"}


class BoundsError(ValueError):
    """The bounds themselves are wrong."""


def out_of_bounds(values: Mapping[str, Any], bounds: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return one sentence for each value that lies outside its bounds, naming the variable.

    A number may come as a text ("5"), as surveys and command lines give it. A bound whose variable is not among the
    values is passed over. Raises BoundsError for a bound that is neither a number's nor a text's.
    """
    return [
        problem for name, bound in bounds.items() if name in values for problem in _problem(name, values[name], bound)
    ]


def _problem(name: str, value: Any, bound: Mapping[str, float]) -> list[str]:
    if bound.keys() <= NUMBER_KEYS and bound:
        number = _number(value)
        fine = number is not None and _holds(number, bound)
        wanted = f"must be a number{_range(bound)}"
    elif bound.keys() == TEXT_KEYS:
        # An empty answer of a survey comes as null.
        text = "" if value is None else value
        fine = isinstance(text, str) and bound["shortest"] <= len(text) <= bound["longest"]
        wanted = f"must have {bound['shortest']} to {bound['longest']} characters"
    else:
        raise BoundsError(
            f"the bounds of {name} hold {sorted(bound)}: give {sorted(NUMBER_KEYS)} or {sorted(TEXT_KEYS)}"
        )
    return [] if fine else [f"{name} {wanted}; it is {_shown(value)}."]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _holds(number: float, bound: Mapping[str, float]) -> bool:
    return bound.get("min", -math.inf) <= number <= bound.get("max", math.inf) and bound.get(
        "above", -math.inf
    ) < number < bound.get("below", math.inf)


def _range(bound: Mapping[str, float]) -> str:
    words = {"min": "from", "above": "above", "max": "up to", "below": "below"}
    parts = [f"{word} {bound[key]:g}" for key, word in words.items() if key in bound]
    return " " + ", ".join(parts)


def _shown(value: Any) -> str:
    return "empty" if value in ("", None) else str(value)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Divide the cores that exist among services that want more: weighted max-min fairness. No I/O.

Every service's share rises at the pace of its weight until it has what it wants or a node it runs on is full
(progressive filling; Bertsekas and Gallager, Data Networks, 2nd ed., section 6.5.2). So nobody gets more than it wants,
and nobody's share could grow without taking from one that has no more for its weight.

A core can only be used where it is, so each node is divided by itself among the tasks that run on it; and since a
service may be placed anew, all tasks together never get more than all nodes have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Hundredths of a core: what a limit is rounded to.
_GRAIN = 0.01
_ALL = ""
_CLOSE = 1e-9


class DivisionError(ValueError):
    """Minima that alone exceed what exists; the message names them and where."""


@dataclass(frozen=True)
class Claim:
    """What a service wants for each of its tasks, in cores; `minimum` also for each task, `weight` for the service.

    `nodes` are those its tasks run on, in equal parts (which is how Swarm spreads them); empty: not known.
    """

    service: str
    tasks: int
    wants: float
    minimum: float = _GRAIN
    weight: float = 1.0
    nodes: Sequence[str] = ()


def divide(claims: Sequence[Claim], cores: Mapping[str, float], oversubscription: float = 1.0) -> dict[str, float]:
    """Return the cores for a task of each service, in hundredths rounded down so that no sum exceeds what exists.

    `cores`: what each node has; `oversubscription`: how many times over it may be given away. A service gets its
    minimum even if it wants less. Raises DivisionError if the minima don't fit.
    """
    rooms = {node: have * oversubscription for node, have in cores.items()}
    places = {claim.service: _places(claim, rooms) for claim in claims}
    # A name that no node has stands for all of them together.
    rooms[_ALL] = sum(rooms.values())
    _check_minima(claims, places, rooms)
    shares = {claim.service: claim.minimum for claim in claims}
    rising = list(claims)
    while rising:
        rest = {name: share for name, share in shares.items() if name not in {claim.service for claim in rising}}
        level, full = _rise(rising, rest, places, rooms)
        shares |= {claim.service: _share(claim, level) for claim in rising}
        rising = [claim for claim in rising if full and not any(node in places[claim.service] for node in full)]
    return {
        claim.service: max(claim.minimum, math.floor(shares[claim.service] / _GRAIN + 1e-4) * _GRAIN)
        for claim in claims
    }


def _places(claim: Claim, rooms: Mapping[str, float]) -> dict[str, float]:
    """Return how many tasks of a service each node bears, and how many there are in all."""
    known = [node for node in claim.nodes if node in rooms]
    return {**{node: claim.tasks / len(known) for node in known}, _ALL: float(claim.tasks)}


def _share(claim: Claim, level: float) -> float:
    """Return the cores of one task at a level: cores for each unit of weight."""
    return max(claim.minimum, min(claim.wants, claim.weight * level / claim.tasks))


def _given(node: str, places: Mapping[str, Mapping[str, float]], shares: Mapping[str, float]) -> float:
    return math.fsum(places[service].get(node, 0.0) * share for service, share in shares.items())


def _rise(
    rising: Sequence[Claim],
    rest: Mapping[str, float],
    places: Mapping[str, Mapping[str, float]],
    rooms: Mapping[str, float],
) -> tuple[float, list[str]]:
    """Return the highest level that fits and the nodes it fills; none if all get what they want."""

    def overfull(level: float) -> list[str]:
        shares = {**rest, **{claim.service: _share(claim, level) for claim in rising}}
        return [node for node, room in rooms.items() if _given(node, places, shares) > room + _CLOSE]

    low, high = 0.0, max(claim.wants * claim.tasks / claim.weight for claim in rising)
    full = overfull(high)
    if not full:
        return high, []
    while high - low > _CLOSE * high:
        middle = (low + high) / 2
        over = overfull(middle)
        low, high, full = (low, middle, over) if over else (middle, high, full)
    return low, full


def _check_minima(
    claims: Sequence[Claim], places: Mapping[str, Mapping[str, float]], rooms: Mapping[str, float]
) -> None:
    minima = {claim.service: claim.minimum for claim in claims}
    for node, room in rooms.items():
        needed = _given(node, places, minima)
        if needed > room + _CLOSE:
            there = sorted((claim for claim in claims if node in places[claim.service]), key=lambda each: -each.minimum)
            named = ", ".join(f"{claim.service} {claim.tasks} x {claim.minimum:g}" for claim in there)
            where = f"on {node}" if node != _ALL else "in all"
            raise DivisionError(f"the minima need {needed:.2f} cores {where}; there are {room:g} to give: {named}")

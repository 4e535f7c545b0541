# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide how a probe goes on and what it has found, without I/O.

A probe raises a limit step by step until the demand shows itself, and then looks once more at the same limit: work
that had piled up under the old limit is done in the meantime, and a window that holds some of it would show more than
is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._demand import UNIDENTIFIABLE, Demand

# Two windows agree if their estimates differ by no more than this share, or this many cores.
AGREE_SHARE = 0.10
AGREE_CORES = 0.02
# Raising a limit by less than this factor would show nothing new.
SMALLEST_RAISE = 1.1
# Limits are set in thousandths of a core; the engine's own smallest limit is 0.01.
LIMIT_DIGITS = 3


@dataclass(frozen=True)
class Policy:
    """How far a probe may go.

    `cpus`: the node's; `tasks`: how many of the service are raised together; `window` and `duration` in seconds,
    `duration` the most a limit stays raised; `min_idle`: the share of the node's CPUs that is not given away, 0 for no
    such check; `force`: raise even if the demand is known without.
    """

    factor: float
    steps: int
    window: float
    duration: float
    min_idle: float
    force: bool
    cpus: int
    tasks: int

    @property
    def windows(self) -> int:
        """How many measurements fit into the time a limit may be raised."""
        return math.floor(round(self.duration / self.window, 6))


@dataclass(frozen=True)
class Measurement:
    """One window. `limit` in cores for one task; `row` is a service's row of throttling_info's result."""

    limit: float
    row: dict[str, Any]
    node_idle: float | None

    @property
    def demand(self) -> Demand:
        """What the window says of the demand."""
        return Demand(**self.row["demand"])

    @property
    def known(self) -> bool:
        """Whether that is a number."""
        return self.demand.estimate is not None


def option_errors(factor: float, steps: int, window: float, duration: float, min_idle: float) -> list[str]:
    """Return what is wrong with a module's options."""
    errors = []
    if not 1 < factor <= 10:
        errors.append(f"factor must be more than 1 and at most 10: {factor:g}")
    if not 1 <= steps <= 10:
        errors.append(f"steps must be from 1 to 10: {steps}")
    if not (math.isfinite(window) and window >= 1):
        errors.append(f"window must be at least 1 second: {window:g}")
    elif not 2 * window <= duration <= 3600:
        errors.append(f"duration must hold two windows ({2 * window:g} s) and be at most 3600 seconds: {duration:g}")
    if not 0 <= min_idle < 1:
        errors.append(f"min_idle must be at least 0 and less than 1: {min_idle:g}")
    return errors


def next_limit(present: float, node_idle: float | None, policy: Policy) -> tuple[float | None, str]:
    """Return the limit to raise a task to, in cores; or None and why there is none."""
    wanted = min(present * policy.factor, policy.cpus)
    why = f"its limit of {present:g} is all that the node's {policy.cpus} CPUs allow"
    if policy.min_idle > 0:
        if node_idle is None:
            return None, "the node's idle time was not measured"
        room = max(0.0, node_idle - policy.min_idle) * policy.cpus
        if present + room / policy.tasks < wanted:
            wanted = present + room / policy.tasks
            why = f"the node is {node_idle:.0%} idle, and {policy.min_idle:.0%} (min_idle) shall stay idle"
    wanted = math.floor(round(wanted * 10**LIMIT_DIGITS, 6)) / 10**LIMIT_DIGITS
    return (wanted, "") if wanted >= present * SMALLEST_RAISE else (None, why)


def predicted_limits(present: float, policy: Policy) -> list[float]:
    """Return the limits of all steps as if the node were idle: what a run does at most."""
    limits = [present]
    for _ in range(policy.steps):
        limit, _ = next_limit(limits[-1], 1.0, policy)
        if limit is None:
            break
        limits.append(limit)
    return limits[1:]


def run_probe(
    present: float, policy: Policy, measure: Callable[[float], Measurement], raise_to: Callable[[float], None]
) -> tuple[list[Measurement], str]:
    """Measure, raise, measure again; returns all measurements and, where a raise was not made, why.

    `measure` takes the limit that holds, `raise_to` sets a new one; both raise what ends the probe.
    """
    taken = [measure(present)]
    why = _needless(taken[0], policy)
    if why:
        return taken, why
    limit, raises = present, 0
    for _ in range(policy.windows):
        if raises == 0 or (raises < policy.steps and not taken[-1].known and taken[-1].row["throttled_ratio"]):
            higher, why = next_limit(limit, taken[-1].node_idle, policy)
            if higher is not None:
                raise_to(higher)
                limit, raises = higher, raises + 1
            elif raises == 0:
                break
        taken.append(measure(limit))
        if _confirmed(taken):
            break
    return taken, why


def answer(taken: Sequence[Measurement], refused: str = "") -> Demand:
    """Return the demand that a probe found: a number only if the last two windows agree, or no raise was needed."""
    last = taken[-1]
    if len(taken) == 1:
        known = last.demand
        return known if known.estimate is not None or not refused else _unknown(known, f"not probed: {refused}")
    if _confirmed(taken):
        known = last.demand
        return Demand(
            known.estimate, known.lower, known.upper, known.regime, f"at {last.limit:g} cores: {known.reason}"
        )
    if last.known:
        said = [last.demand, taken[-2].demand] if taken[-2].limit == last.limit else [last.demand]
        lowers = [demand.lower for demand in said if demand.lower is not None]
        uppers = [demand.upper for demand in said if demand.upper is not None]
        interval = Demand(None, min(lowers, default=None), max(uppers, default=None), UNIDENTIFIABLE, "")
        return _unknown(interval, f"no two windows in a row at {last.limit:g} cores agreed; probe for longer")
    return _unknown(last.demand, f"still so at {last.limit:g} cores: {last.demand.reason}")


def _needless(baseline: Measurement, policy: Policy) -> str:
    if policy.force:
        return ""
    if baseline.known:
        return f"its demand is known without a probe ({baseline.demand.regime})"
    if not baseline.row["throttled_ratio"]:
        return f"its limit did not cut in, so a higher one would show nothing: {baseline.demand.reason}"
    return ""


def _confirmed(taken: Sequence[Measurement]) -> bool:
    if len(taken) < 3 or taken[-1].limit != taken[-2].limit:
        return False
    last, before = taken[-1].demand.estimate, taken[-2].demand.estimate
    return last is not None and before is not None and abs(last - before) <= max(AGREE_CORES, AGREE_SHARE * last)


def _unknown(demand: Demand, reason: str) -> Demand:
    return replace(demand, estimate=None, regime=UNIDENTIFIABLE, reason=reason)

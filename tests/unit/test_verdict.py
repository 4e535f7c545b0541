# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils import _verdict

from tests.reports import MIB, container, host, node, report, service, unmeasured


def demand(
    estimate: float | None, lower: float | None, upper: float | None, regime: str = "saturated"
) -> dict[str, Any]:
    return {"estimate": estimate, "lower": lower, "upper": upper, "regime": regime, "reason": "so it is"}


@pytest.mark.parametrize(
    ("at_least", "at_most", "verdict"),
    [
        (3.9, 3.9, "enough"),
        (4.1, 4.1, "short"),
        # An interval across the number of cores leaves it open; one whose firm part is above them doesn't.
        (3.0, 26.3, "maybe"),
        (4.5, 26.3, "short"),
        (1.0, None, "maybe"),
        (4.5, None, "short"),
        (None, None, "unknown"),
    ],
)
def test_cpu_verdict(at_least: float | None, at_most: float | None, verdict: str) -> None:
    assert _verdict.cpu_verdict(4.0, {"at_least": at_least, "at_most": at_most}) == verdict


@pytest.mark.parametrize(
    ("demands", "at_least", "at_most"),
    [
        ([demand(2.6, 0.5, 2.6), demand(None, 1.0, 10.8)], 3.6, 13.4),
        # A rough estimate has no upper end and is one all the same.
        ([demand(2.6, 0.5, None, "rough"), demand(None, 1.0, 10.8)], 3.6, 13.4),
        ([demand(2.6, 0.5, 2.6), demand(None, 1.0, None)], 3.6, None),
        ([demand(2.6, 0.5, 2.6), demand(None, None, None)], 2.6, None),
        ([demand(None, None, None)], None, None),
        ([], 0.0, 0.0),
    ],
)
def test_wanted_takes_estimates_and_else_the_ends_of_intervals(
    demands: list[dict[str, Any]], at_least: float | None, at_most: float | None
) -> None:
    assert _verdict.wanted(demands) == {"at_least": at_least, "at_most": pytest.approx(at_most)}


@pytest.mark.parametrize(
    ("limit", "changed", "held"),
    [
        (0.25, {}, True),
        (None, {}, False),
        (0.25, {"throttled_ratio": 0.2}, False),
        # Throttled in bursts only: the limit isn't what holds it back.
        (0.25, {"demand": demand(0.3, 0.3, 0.3, "unsaturated")}, False),
        (0.25, {"throttled_ratio": None, "periods": 0}, False),
        (0.25, {"throttled_ratio": None, "periods": None}, None),
    ],
)
def test_held_at_limit(limit: float | None, changed: dict[str, Any], held: bool | None) -> None:
    assert _verdict.held_at_limit({"cpus": limit}, container("a", **changed)) is held


def test_a_service_that_nobody_measured_is_not_known_to_be_held() -> None:
    assert _verdict.held_at_limit({"cpus": 0.25}, None) is None


def test_headline_says_cores_demand_limits_and_who_is_held() -> None:
    rows = [container("a"), container("b", demand=demand(None, 0.25, 25.1, "unidentifiable"))]
    built = report([host("one", *rows)], [service("a"), service("b")], [node("one", cpus=4.0)])
    assert built["verdict"]["cpu"] == "maybe"
    assert built["verdict"]["text"] == (
        "CPU may be short: 4 cores, wanted between 1.45 and 26.3, limits allow 9.5. 2 services are held at their limit."
    )
    assert built["nodes"][0]["verdict"] == "maybe"
    assert built["verdict"]["attention"] == []


def test_headline_of_what_was_not_measured_claims_nothing() -> None:
    built = report([host("one", unmeasured("a"))], [service("a")], [node("one")])
    assert built["verdict"]["text"] == (
        "CPU demand was not measured: 2 cores, wanted an amount that was not measured, limits allow 9.5. "
        "No service is held at its limit; 1 could not be measured."
    )


def test_a_service_without_a_limit_may_take_any_amount() -> None:
    built = report(
        [host("one", container("a", cpu_limit=None))],
        [service("a", limits={"cpus": None, "memory": MIB, "pids": None})],
        [node("one")],
    )
    assert "limits allow any amount (1 service without one)" in built["verdict"]["text"]


def test_what_needs_a_look_is_named() -> None:
    full = {"current": 250 * MIB, "working_set": 240 * MIB, "limit": 256 * MIB, "peak": None}
    rows = [container("a", oom_kills=3), container("b", memory=full)]
    services = [
        service("a", replicas=2),
        service("b", drift={"limits.cpus": {"expected": 1.0, "actual": 0.25}}),
        service("c", running=0, replicas=0, limits={"cpus": None, "memory": None, "pids": None}),
    ]
    built = report([host("one", *rows, steal_share=0.12)], services, [node("one")])
    assert built["verdict"]["attention"] == [
        "Tasks are missing: a (1 of 2).",
        "Killed for lack of memory: a (3).",
        "Close to the memory limit: b (94%).",
        "CPU time kept by the hypervisor: 12% on one.",
        "Differs from the table of limits: b.",
    ]


def test_many_names_are_counted() -> None:
    drift = {"limits.cpus": {"expected": 1.0, "actual": 0.25}}
    services = [service(f"s{number}", drift=drift) for number in range(8)]
    (line,) = report([host("one")], services, [node("one")])["verdict"]["attention"]
    assert line == "Differs from the table of limits: s0, s1, s2, s3, s4 and 3 more."

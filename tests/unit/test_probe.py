"""How a probe decides, on plain data: a service is a function from its limit to what a window would show."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._demand import (
    SATURATED,
    UNIDENTIFIABLE,
    UNSATURATED,
    Demand,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._probe import (
    Measurement,
    Policy,
    answer,
    next_limit,
    option_errors,
    predicted_limits,
    run_probe,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._probe_answer import predicted_lines, probe_answer

POLICY = Policy(factor=2, steps=2, window=60, duration=240, min_idle=0.25, force=False, cpus=4, tasks=1)
HIDDEN = Demand(None, 1.0, 10.8, UNIDENTIFIABLE, "never idle")


def known(estimate: float, regime: str = UNSATURATED) -> Demand:
    return Demand(estimate, estimate, estimate, regime, "seen")


class Service:
    """Shows one demand after the other, and what was done to it."""

    def __init__(self, *demands: Demand, idle: float | None = 1.0, ratio: float | None = 1.0) -> None:
        self.demands, self.idle, self.ratio = list(demands), idle, ratio
        self.done: list[str] = []

    def measure(self, limit: float) -> Measurement:
        self.done.append(f"measure {limit:g}")
        return Measurement(limit, {"demand": asdict(self.demands.pop(0)), "throttled_ratio": self.ratio}, self.idle)

    def raise_to(self, limit: float) -> None:
        self.done.append(f"raise {limit:g}")

    def probed(self, policy: Policy = POLICY, limit: float = 1.0) -> Demand:
        return answer(*run_probe(limit, policy, self.measure, self.raise_to))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"factor": 1.0}, "factor"),
        ({"factor": 10.5}, "factor"),
        ({"factor": float("nan")}, "factor"),
        ({"steps": 0}, "steps"),
        ({"window": 0.5}, "window"),
        ({"window": float("inf")}, "window"),
        ({"duration": 119.0}, "duration"),
        ({"duration": 3601.0}, "duration"),
        ({"duration": float("nan")}, "duration"),
        ({"min_idle": -0.1}, "min_idle"),
        ({"min_idle": 1.0}, "min_idle"),
    ],
)
def test_each_bad_option_is_named(change: dict[str, Any], named: str) -> None:
    good: dict[str, Any] = {"factor": 2.0, "steps": 2, "window": 60.0, "duration": 240.0, "min_idle": 0.25}
    assert option_errors(**good) == []
    (error,) = option_errors(**{**good, **change})
    assert error.startswith(named)


@pytest.mark.parametrize(
    ("present", "idle", "change", "limit"),
    [
        (0.25, 1.0, {}, 0.5),
        (0.3, 1.0, {}, 0.6),
        (3.0, 1.0, {}, 4.0),  # the node's CPUs
        (1.0, 0.40, {}, 1.6),  # 0.15 of four CPUs are idle beyond the share that stays
        (1.0, 0.40, {"tasks": 2}, 1.3),
        (1.0, 0.0, {"min_idle": 0.0}, 2.0),
        (1.0, None, {"min_idle": 0.0}, 2.0),
    ],
)
def test_the_next_limit(present: float, idle: float | None, change: dict[str, Any], limit: float) -> None:
    assert next_limit(present, idle, replace(POLICY, **change)) == (limit, "")


@pytest.mark.parametrize(
    ("present", "idle", "why"),
    [
        (1.0, 0.26, "26% idle, and 25% (min_idle) shall stay idle"),
        (1.0, 0.0, "0% idle"),
        (1.0, None, "not measured"),
        (4.0, 1.0, "all that the node's 4 CPUs allow"),
    ],
)
def test_no_higher_limit_and_why(present: float, idle: float | None, why: str) -> None:
    limit, said = next_limit(present, idle, POLICY)
    assert limit is None
    assert why in said


def test_a_check_run_predicts_every_step() -> None:
    assert predicted_limits(0.5, replace(POLICY, steps=3)) == [1.0, 2.0, 4.0]
    assert predicted_limits(0.5, replace(POLICY, steps=5)) == [1.0, 2.0, 4.0]
    assert predicted_limits(4.0, POLICY) == []


def test_raised_until_the_demand_shows_and_then_seen_twice() -> None:
    service = Service(HIDDEN, HIDDEN, known(1.7), known(1.6))
    assert service.probed() == Demand(1.6, 1.6, 1.6, UNSATURATED, "at 4 cores: seen")
    assert service.done == ["measure 1", "raise 2", "measure 2", "raise 4", "measure 4", "measure 4"]


def test_a_window_with_leftover_work_in_it_is_no_answer() -> None:
    service = Service(HIDDEN, known(1.9), known(1.2), known(1.2))
    assert service.probed().estimate == 1.2
    assert service.done == ["measure 1", "raise 2", "measure 2", "measure 2", "measure 2"]


def test_windows_that_never_agree_are_an_interval() -> None:
    found = Service(HIDDEN, known(1.9), known(1.2), known(1.9), known(1.2)).probed()
    assert (found.estimate, found.lower, found.upper, found.regime) == (None, 1.2, 1.9, UNIDENTIFIABLE)
    assert "probe for longer" in found.reason


def test_a_single_window_at_the_last_limit_is_no_answer() -> None:
    service = Service(HIDDEN, HIDDEN, known(1.6))
    found = service.probed(replace(POLICY, duration=120))
    assert (found.estimate, found.lower, found.upper) == (None, 1.6, 1.6)


def test_what_never_shows_stays_the_interval_of_the_highest_limit() -> None:
    wide = Demand(None, 4.0, 10.8, UNIDENTIFIABLE, "never idle")
    service = Service(HIDDEN, HIDDEN, wide, wide, wide)
    assert service.probed() == replace(wide, reason="still so at 4 cores: never idle")
    assert service.done[-3:] == ["measure 4", "measure 4", "measure 4"]


@pytest.mark.parametrize(
    ("service", "why"),
    [
        (Service(known(0.7, SATURATED)), ""),
        (Service(HIDDEN, ratio=0.0), "did not cut in"),
        (Service(HIDDEN, ratio=None), "did not cut in"),
        (Service(HIDDEN, idle=0.2), "shall stay idle"),
        (Service(HIDDEN, idle=None), "not measured"),
    ],
)
def test_nothing_is_raised_where_it_would_show_nothing_or_cannot_be(service: Service, why: str) -> None:
    found = service.probed()
    assert service.done == ["measure 1"]
    assert why in found.reason
    assert (found.estimate is None) == bool(why)


def test_force_raises_all_the_same() -> None:
    service = Service(known(0.7), known(0.7), known(0.7), ratio=0.0)
    assert service.probed(replace(POLICY, force=True)).estimate == 0.7
    assert service.done == ["measure 1", "raise 2", "measure 2", "measure 2"]


def result(demand: Demand, **changes: Any) -> dict[str, Any]:
    """A module's result, as far as the answer needs it."""
    memory = {"current": 9, "working_set": 7, "limit": 20, "peak": None}
    row = {
        "service": "crm",
        "cpu_used": 1.0,
        "cpu_limit": 2.0,
        "periods": 100,
        "throttled_periods": 50,
        "window_seconds": 60.0,
        "oom_kills": 0,
        "restarts": 1,
    }
    seen = {"limit": 2.0, "cpu_used": 1.0, "throttled_ratio": 0.5, "demand": asdict(demand)}
    return {
        "found": True,
        "service": "crm",
        "tasks": 1,
        "limit": 1.0,
        "raised": True,
        "refused": "",
        "recovered": [],
        "measurements": [seen],
        "demand": asdict(demand),
        "throttling": {"services": [row], "tasks": [{"memory": memory}]},
        **changes,
    }


def test_the_answer_of_two_hosts_is_one_record_and_words() -> None:
    probes = [
        {"name": "kvm4", "result": result(known(1.6))},
        {"name": "kvm2", "result": result(known(0.4), recovered=["c"])},
        {"name": "kvm1", "result": {"found": False, "recovered": []}},
    ]
    found = probe_answer(probes, "2026-11-22T06:00:00+00:00")
    assert found["lines"][0] == "crm wants 2.00 cores (unsaturated; seen)."
    assert "kvm4, at 2 cores: used 1.00, throttled in 50% of its periods, wants 1.60 (unsaturated)" in found["lines"]
    assert "kvm4: its limit is 1 core again." in found["lines"]
    assert any(line.startswith("kvm2: a probe had been killed here") for line in found["lines"])
    assert found["record"] == {
        "at": "2026-11-22T06:00:00+00:00",
        "source": "probe",
        "window_seconds": 60.0,
        "service": "crm",
        "tasks": 2,
        "cpu_used": 2.0,
        "cpu_limit": 4.0,
        "throttled_ratio": 0.5,
        "demand": asdict(known(2.0)),
        "memory": {"working_set": 7, "peak": None, "limit": 20},
        "oom_kills": 0,
        "restarts": 2,
    }


def test_an_answer_that_is_none_says_the_interval_and_why() -> None:
    probe = {"name": "kvm4", "result": result(HIDDEN, raised=False, refused="the node is 5% idle")}
    lines = probe_answer([probe], "")["lines"]
    assert lines[0] == "crm: what it wants is not known, the interval is 1.00..10.80 cores (never idle)."
    assert lines[-1] == "kvm4: not raised, as the node is 5% idle."


def test_a_service_that_runs_nowhere_has_no_record() -> None:
    found = probe_answer([{"name": "kvm4", "result": {"found": False, "recovered": []}}], "")
    assert found == {"lines": ["No running task on kvm4."], "record": None}


def test_a_check_run_in_words() -> None:
    there = {"found": True, "service": "crm", "limit": 1.0, "raised_limits": [2.0, 4.0], "seconds": 240.0}
    probes = [{"name": "kvm4", "result": there}, {"name": "kvm2", "result": {"found": False, "service": "crm"}}]
    assert predicted_lines(probes) == [
        "kvm4: if its demand can't be known at its limit of 1 core, would raise it to 2 and then 4 for 240 s at most, "
        "and put it back",
        "kvm2: no running task of crm",
    ]

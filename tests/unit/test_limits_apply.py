# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is begun when, and what a failure does to the others: against a swarm of plain data with a clock of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_apply import (
    Clock,
    Job,
    Loop,
    NodesSeen,
    Policy,
    Signals,
    forward_job,
    restore_job,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import Change, plan, read_service
from ansible_collections.evenkeel.swarm.plugins.module_utils._swarm import SwarmError

ROLL, MONITOR = 2.0, 5.0


class PlainSwarm:
    """Replaces a service's one task in ROLL seconds and calls it completed MONITOR later, or pauses if told so."""

    def __init__(self, *names: str, stateful: tuple[str, ...] = (), failing: tuple[str, ...] = ()) -> None:
        self.time = 0.0
        self.failing = set(failing)
        self.posted: dict[str, float] = {}
        self.rolling_at_once = 0
        self.outage: tuple[float, float] = (0.0, 0.0)
        self.raws: dict[str, Any] = {}
        for name in names:
            mounts = [{"Type": "volume"}] if name in stateful else []
            self.raws[name] = {
                "ID": name,
                "Spec": {
                    "Name": name,
                    "Mode": {"Replicated": {"Replicas": 1}},
                    "TaskTemplate": {"ContainerSpec": {"Mounts": mounts}, "Resources": {}},
                },
            }

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def services(self) -> list[Any]:
        if self.outage[0] < self.time < self.outage[1]:
            raise SwarmError("engine_unreachable", "gone")
        return [{**raw, **self._status(name)} for name, raw in self.raws.items()]

    def tasks(self) -> list[Any]:
        rolling = [name for name, at in self.posted.items() if self.time - at < ROLL]
        self.rolling_at_once = max(self.rolling_at_once, len(rolling))
        return [
            {
                "ID": f"{name}-{self.posted.get(name, 0)}",
                "ServiceID": name,
                "NodeID": "n",
                "DesiredState": "running",
                "Status": {"State": "starting" if name in rolling else "running"},
                "Spec": raw["Spec"]["TaskTemplate"],
            }
            for name, raw in self.raws.items()
        ]

    def _status(self, name: str) -> dict[str, Any]:
        if name not in self.posted:
            return {}
        age = self.time - self.posted[name]
        state = "updating" if age < ROLL else "paused" if name in self.failing else "updating"
        state = "completed" if age >= ROLL + MONITOR and state == "updating" else state
        return {"UpdateStatus": {"State": state, "StartedAt": str(self.posted[name]), "Message": state}}

    def update_service(self, service_id: str, edit: Callable[[Any], Any]) -> Any:
        before = copy.deepcopy({**self.raws[service_id], **self._status(service_id)})
        self.raws[service_id]["Spec"] = edit(before["Spec"])
        self.posted[service_id] = self.time
        return before


def changes_of(swarm: PlainSwarm) -> dict[str, Change]:
    found, errors = plan([{"glob": "*", "limits": {"cpus": 1}}], [read_service(raw) for raw in swarm.services()])
    assert errors == []
    return {change.service.name: change for change in found}


def run(
    swarm: PlainSwarm,
    jobs: list[Job],
    at_failure: str = "finish",
    parallel: int = 2,
    interrupted: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, str | None], list[tuple[str, Any]]]:
    """Run jobs; returns the verdicts (None: never begun) and the events."""
    events: list[tuple[str, Any]] = []

    def event(name: str, details: Mapping[str, Any]) -> None:
        events.append((name, details["service"]))

    loop = Loop(
        swarm,
        Clock(lambda: swarm.time, swarm.sleep),
        Policy(parallel, 30.0, at_failure),
        NodesSeen({"n": "kvm4"}, frozenset()),
        Signals(event, interrupted),
    )
    done = loop.run(jobs, "update")
    return {job.name: job.verdict.state if job.verdict else None for job in done}, events


def forward(swarm: PlainSwarm, **how: Any) -> tuple[dict[str, str | None], list[tuple[str, Any]]]:
    return run(swarm, [forward_job(change) for change in changes_of(swarm).values()], **how)


def test_all_converge_and_never_more_than_parallel_roll_at_once() -> None:
    swarm = PlainSwarm(*"abcdef")
    verdicts, _ = forward(swarm)
    assert set(verdicts.values()) == {"converged"}
    assert swarm.rolling_at_once == 2


def test_swarms_watching_of_new_tasks_does_not_hold_up_the_next() -> None:
    swarm = PlainSwarm(*"abcdef")
    forward(swarm)
    # Three rounds of replacing and one of watching, plus the pauses between looks.
    assert swarm.time < 3 * (ROLL + 1) + MONITOR + 1
    assert swarm.time >= 3 * ROLL + MONITOR


def test_services_with_volumes_come_last_and_are_replaced_alone() -> None:
    swarm = PlainSwarm(*"abcd", stateful=("a", "b"))
    forward(swarm, parallel=4)
    assert swarm.posted["c"] == swarm.posted["d"]
    assert swarm.posted["a"] >= swarm.posted["c"] + ROLL + MONITOR
    assert swarm.posted["b"] >= swarm.posted["a"] + ROLL


def test_swarms_watching_of_a_service_with_a_volume_does_not_hold_up_the_next() -> None:
    swarm = PlainSwarm(*"abc", stateful=("a", "b", "c"))
    forward(swarm)
    assert 3 * ROLL + MONITOR <= swarm.time < 3 * (ROLL + 1) + MONITOR + 1


def test_after_a_service_with_a_volume_failed_no_further_one_is_begun() -> None:
    swarm = PlainSwarm(*"ab", stateful=("a", "b"), failing=("a",))
    verdicts, _ = forward(swarm)
    assert verdicts == {"a": "failed", "b": None}


def test_what_takes_longest_begins_first() -> None:
    swarm = PlainSwarm(*"ab")
    swarm.raws["a"]["Spec"]["UpdateConfig"] = {"Order": "start-first"}
    _, events = forward(swarm, parallel=1)
    assert events[0] == ("update_started", "b")


def test_after_a_failure_nothing_is_begun_and_what_is_under_way_is_waited_for() -> None:
    swarm = PlainSwarm(*"abc", stateful=("c",), failing=("a",))
    verdicts, _ = forward(swarm)
    assert verdicts == {"a": "failed", "b": "converged", "c": None}
    assert "c" not in swarm.posted


def test_what_will_be_put_back_is_not_waited_for() -> None:
    swarm = PlainSwarm(*"abc", stateful=("c",), failing=("a",))
    verdicts, _ = forward(swarm, at_failure="drop")
    assert verdicts == {"a": "failed", "b": "waiting", "c": None}
    assert swarm.time < ROLL + MONITOR


def test_going_on_tries_every_service() -> None:
    swarm = PlainSwarm(*"abc", stateful=("c",), failing=("a",))
    verdicts, _ = forward(swarm, at_failure="continue")
    assert verdicts == {"a": "failed", "b": "converged", "c": "converged"}


def test_putting_back_restores_every_spec_and_waits_for_it() -> None:
    swarm = PlainSwarm(*"ab", failing=("a",))
    original = copy.deepcopy(swarm.raws)
    changes = changes_of(swarm)
    forward(swarm, at_failure="drop")
    assert swarm.raws != original
    swarm.failing.clear()
    verdicts, events = run(swarm, [restore_job(change) for change in changes.values()], "continue")
    assert swarm.raws == original
    assert verdicts == {"a": "converged", "b": "converged"}
    assert ("update_converged", "a") in events


def test_an_interrupt_ends_the_wait_and_begins_nothing() -> None:
    swarm = PlainSwarm(*"abc")
    verdicts, _ = forward(swarm, parallel=1, interrupted=lambda: swarm.time > 1)
    assert verdicts == {"a": "failed", "b": None, "c": None}


def test_a_refused_write_is_that_services_failure() -> None:
    class Refusing(PlainSwarm):
        def update_service(self, service_id: str, edit: Callable[[Any], Any]) -> Any:
            if service_id == "a":
                raise SwarmError("refused", "invalid spec")
            return super().update_service(service_id, edit)

    swarm = Refusing(*"ab")
    jobs = [forward_job(change) for change in changes_of(swarm).values()]
    verdicts, events = run(swarm, jobs, "continue")
    assert verdicts == {"a": "failed", "b": "converged"}
    assert not jobs[0].posted
    assert ("update_failed", "a") in events


def test_an_engine_that_restarts_is_waited_for_and_one_that_is_gone_is_not() -> None:
    swarm = PlainSwarm("a")
    swarm.outage = (1.0, 4.0)
    assert forward(swarm)[0] == {"a": "converged"}
    swarm = PlainSwarm("a")
    swarm.outage = (1.0, 1e9)
    with pytest.raises(SwarmError, match="gone"):
        forward(swarm)


def test_an_unchanged_service_under_way_is_waited_for_and_not_written() -> None:
    swarm = PlainSwarm("a")
    forward(swarm)
    swarm.posted["a"] = swarm.time
    (change,) = changes_of(swarm).values()
    written = copy.deepcopy(swarm.posted)
    assert run(swarm, [forward_job(change)])[0] == {"a": "converged"}
    assert swarm.posted == written

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps as data, and the one place that walks them: probe, write the intent down, do, see that it is so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError

DONE = "done"  # the probe says that there is nothing to do
DID = "did"
WOULD = "would"  # check mode: a run would do it
UNDONE = "undone"


class Tell(Protocol):
    """Takes a step's progress: any of `bytes`, `total`, `lag` (bytes or seconds), `eta` (seconds), `text`."""

    def __call__(self, **numbers: Any) -> None:
        """Tell."""


@dataclass(frozen=True)
class Step:
    """One step of a move.

    `probe() -> bool`: whether what the step is for is so already, observed, never remembered.
    `do(tell)`: make it so; safe to run again after a kill at any point. Raises MoveError.
    `undo()`: take it back, None where nothing is to be taken back; safe to run again, and where `do` never ran.
    `deadline`: seconds that `do` may take; `do` itself keeps it where it waits (see wait_until).
    `id` is unique in the unit: verb.part.what, e.g. `precopy.saleor-postgres.basebackup`.
    `changes`: False for a step that only checks; it never counts as a change. Such a step's `probe` raises MoveError
    where the check fails, and its `do` is not called.
    """

    id: str
    title: str
    host: str
    probe: Callable[[], bool]
    do: Callable[[Tell], None]
    deadline: float = 60
    undo: Callable[[], None] | None = None
    changes: bool = True


@dataclass(frozen=True)
class Together:
    """Lanes of steps that don't depend on each other: walked side by side, each lane in its order."""

    lanes: Sequence[Sequence[Step | Together]]


Stage = Step | Together


class Record(Protocol):
    """What the walk needs of a journal. Every entry is on disk when the call returns."""

    def intent(self, step: str) -> None:
        """Write down that a step begins."""

    def outcome(self, step: str, event: str, details: Mapping[str, Any]) -> None:
        """Write down what came of a step."""


@dataclass
class Walk:
    """Walks stages and remembers what became of each step.

    Check mode probes in order up to the first step that a run would do. What the steps after it would find can't be
    known, so they are said to be run.
    """

    journal: Record
    say: Callable[[str, Mapping[str, Any]], None]
    check: bool = False
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _blind: bool = False

    @property
    def changed(self) -> bool:
        """Whether any step changed something, or in check mode would."""
        return any(outcome["outcome"] in (DID, WOULD, UNDONE) for outcome in self.outcomes)

    def forward(self, stages: Sequence[Stage]) -> None:
        """Bring every step about, in order; stops at the first that fails, by raising its MoveError."""
        self._blind = self._lane(stages, self._blind)

    def _lane(self, stages: Sequence[Stage], blind: bool) -> bool:
        """Walk stages; returns whether a step in here, or one before, only would be run."""
        for stage in stages:
            blind = self._step(stage, blind) if isinstance(stage, Step) else self._side_by_side(stage, blind)
        return blind

    def back(self, steps: Sequence[Step]) -> None:
        """Undo steps, the last first."""
        for step in reversed(steps):
            if step.undo is None:
                continue
            if self.check:
                self._note(step, WOULD, 0.0)
                continue
            began = time.monotonic()
            self.say("undo_started", {"step": step.id, "title": step.title, "host": step.host})
            self.journal.intent(f"undo:{step.id}")
            step.undo()
            self._note(step, UNDONE, time.monotonic() - began)

    def _side_by_side(self, stage: Together, blind: bool) -> bool:
        with ThreadPoolExecutor(max(1, len(stage.lanes))) as pool:
            running = [pool.submit(self._lane, lane, blind) for lane in stage.lanes]
        # All lanes have ended here: nothing goes on behind a failure that is reported.
        return any([blind, *(each.result() for each in running)])

    def _step(self, step: Step, blind: bool) -> bool:
        began = time.monotonic()
        if not blind and (step.probe() or not step.changes):
            self._note(step, DONE, time.monotonic() - began)
            return False
        if self.check:
            self._note(step, WOULD, 0.0)
            return True
        self.say("step_started", {"step": step.id, "title": step.title, "host": step.host})
        self.journal.intent(step.id)
        try:
            step.do(lambda **numbers: self.say("step_progress", {"step": step.id, **numbers}))
            if not step.probe():
                raise MoveError("not_effective", f"{step.title}: done without an error, yet not so when looked at")
        except MoveError as error:
            error.details.setdefault("step", step.id)
            self._note(step, "failed", time.monotonic() - began, error=error.message)
            raise
        self._note(step, DID, time.monotonic() - began)
        return False

    def _note(self, step: Step, outcome: str, seconds: float, **more: Any) -> None:
        entry: dict[str, Any] = {"step": step.id, "title": step.title, "host": step.host, "outcome": outcome}
        entry |= {"seconds": round(seconds, 3), **more}
        with self._lock:
            self.outcomes.append(entry)
        if not self.check and outcome != DONE:
            self.journal.outcome(step.id, outcome, {"seconds": entry["seconds"], **more})
        self.say("step_ended", entry)


def lanes(each: Iterable[Sequence[Stage]]) -> Together:
    """Return lanes side by side, without the empty ones."""
    return Together([list(lane) for lane in each if lane])


def flat(stages: Sequence[Stage]) -> list[Step]:
    """Return steps in an order in which they may be walked one by one."""
    steps: list[Step] = []
    for stage in stages:
        steps += [stage] if isinstance(stage, Step) else [step for lane in stage.lanes for step in flat(lane)]
    return steps


def not_after(until: float, stage: Stage) -> Stage:
    """Return a stage none of whose steps begins after a time (seconds since 1970)."""
    if isinstance(stage, Together):
        return Together([[not_after(until, each) for each in lane] for lane in stage.lanes])

    def do(tell: Tell) -> None:
        if time.time() > until:
            message = "the deadline passed before the promotion: the unit goes back to its source"
            raise MoveError("deadline_passed", f"{message}; run verb=precopy, then verb=switch again")
        stage.do(tell)

    return replace(stage, do=do)


def wait_until(
    holds: Callable[[], bool],
    seconds: float,
    what: str,
    *,
    every: float = 0.1,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Look until something holds; raises MoveError `timeout` with `what` was waited for."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise MoveError("timeout", f"{what}: not within {seconds:g} s")
        sleep(every)

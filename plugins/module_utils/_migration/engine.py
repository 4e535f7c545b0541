# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs of a move. Each may be run again at any time, after whatever end of an earlier run.

A switch in order: consumers drained and off; what shortens the stop; the source's data parked under the services that
still run; lease off, state services off; the target's copy proven complete; the promotion's intent; from there only
forward: the copy is made the one, the lease goes to the target, services start and are checked there, the old follows.
Up to the intent an error here gives the unit back, and so does the watcher at the deadline if this process is gone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._engine import EngineError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import phase as phases
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.brought import BroughtHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.completing import refuse_to_complete
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import OutOfReach, SshHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import (
    ENDED,
    FENCED,
    PROMOTION,
    Journal,
    exclusive,
    last_mark,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import APP, Part
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import (
    Move,
    Mover,
    Place,
    Readiness,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.noted import note_of, part_of
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import copies
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.order import Order, consumers, with_state
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.phase import Phase, Seen
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.setting import Setting
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import (
    Stage,
    Step,
    Walk,
    flat,
    lanes,
    not_after,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.watch import Watcher

Say = Callable[[str, Mapping[str, Any]], None]


class Engine:
    """One verb on one unit."""

    def __init__(self, setting: Setting, verb: str, say: Say, *, check: bool = False, confirm: bool = False) -> None:
        self.unit = setting.unit
        self.setting = setting
        self.tools = setting.tools
        self.verb = verb
        self.check = check
        self.confirm = confirm
        looking = check or verb in phases.LOOKING
        self.journal = Journal(setting.unit.name, verb, setting.state, read_only=looking)
        self.watcher = Watcher(setting.unit.name, setting.state / setting.unit.name)
        self.walk = Walk(self.journal, say, check)
        self.warnings: list[str] = []
        self._parts: tuple[Part, ...] | None = None

    # --- running a verb ---

    def run(self) -> dict[str, Any]:
        """Run the verb; returns the unit's result (see the module's RETURN). Raises MoveError."""
        if self.verb in phases.LOOKING:
            return self._look()
        with contextlib.nullcontext() if self.check else exclusive(self.setting.state / "lock", wait=False):
            self._reach()
            phase = self.phase()
            refused = phases.refusal(self.verb, phase, self.unit)
            if refused:
                raise MoveError("wrong_phase", f"{self.unit.name}: {refused}", phase=phase.name)
            begun = len(self.journal.entries)
            {
                phases.PREPARE: self._prepare,
                phases.PRECOPY: self._precopy,
                phases.SWITCH: self._switch,
                phases.REVERSE: self._switch,
                phases.COMPLETE: self._complete,
                phases.CANCEL: self._cancel,
            }[self.verb](phase)
            if len(self.journal.entries) > begun:
                self._mirror()
            return self._result(self.phase())

    def after(self, error: MoveError) -> dict[str, Any]:
        """Return the unit's result after an error, as far as it can still be told."""
        try:
            phase = self.phase()
            result = self._result(phase)
            if self.verb not in phases.LOOKING and not phases.refusal(self.verb, phase, self.unit):
                # It may be in its last steps that it failed, with the phase behind it.
                result["next"] = error.details.get("next", self.verb)
        except MoveError:
            unknown = Phase("unknown", self.unit.home, self.unit.target)
            result = {**self._result(unknown), "runs_on": None, "next": error.details.get("next", phases.STATUS)}
        return {**result, "error": error.as_dict()}

    def phase(self) -> Phase:
        """Return where the move stands now."""
        return phases.decide(self.unit, self.journal.entries, self._observe())

    def _reach(self) -> None:
        """All hosts must be there before anything begins."""
        for place in self.setting.places.values() if not self._content_with_less() else ():
            if isinstance(place.host, OutOfReach):
                raise place.host.error
            if not place.node.ready:
                message = f"Swarm says that {place.name} is not ready and active"
                raise MoveError("node_not_ready", f"{message}: docker node ls", host=place.name)

    def _content_with_less(self) -> bool:
        """Tell whether a host may be missing: for a look, for cancel, and where nothing is left to be ended."""
        ended = self.verb == phases.COMPLETE and not self._anything_to_cancel()
        return ended or self.verb in (*phases.LOOKING, phases.CANCEL)

    def _observe(self) -> Seen:
        nodes = self.setting.cluster.nodes().values()
        lease = frozenset(node.hostname for node in nodes if node.labels.get(self.unit.lease) == "1")
        names = sorted({volume for part in self.parts() if part.kind != APP for volume in part.volumes})
        volumes: dict[str, dict[str, str | None]] = {name: {} for name in names}
        for place in self.setting.places.values() if names else ():
            found = self._volume_states(place, names)
            for name in names:
                volumes[name][place.name] = found.get(name)
        return Seen(lease, volumes, self.watcher.until() is not None)

    def _volume_states(self, place: Place, names: list[str]) -> dict[str, str]:
        try:
            found: dict[str, str] = place.host.call(copies, "states", root=place.root, volumes=names)
        except MoveError:
            if self._content_with_less():
                return {}
            raise
        return found

    def parts(self) -> tuple[Part, ...]:
        """Return the unit's parts: as found when the move began, since a half-moved unit looks different."""
        if self._parts is None:
            noted = self.journal.last("before", key="parts")
            if noted is None:
                self._parts = self.tools.find_parts(self.unit, self.setting.cluster, self.setting.places)
            else:
                self._parts = tuple(part_of(each, self.unit) for each in noted["value"])
        return self._parts

    # --- what a move is made of ---

    def _move(self, source: str, target: str) -> Move:
        places = self.setting.places
        setting = self.setting
        return Move(self.unit, places[source], places[target], setting.cluster, self.journal, setting.options)

    def _movers(self, move: Move) -> dict[str, Mover]:
        return {part.key: self.tools.mover(move, part) for part in self.parts()}

    def _order(self, move: Move, movers: Mapping[str, Mover]) -> Order:
        return Order(self.setting, self.verb, self.journal, self.watcher, self.parts(), move, movers, self._mirror)

    def _forward(self) -> Move:
        return self._move(self.unit.home, self.unit.target)

    # --- plan, status, verify ---

    def _look(self) -> dict[str, Any]:
        phase = self.phase()
        move = self._move(phase.source, phase.target)
        movers = self._movers(move)
        if self.verb == phases.PLAN:
            return {**self._result(phase), **self._plan(phase)}
        result = {**self._result(phase), "readiness": self._readiness(movers) if phase.name in _COPYING else []}
        if self.verb == phases.VERIFY:
            self._verify(phase, result["readiness"])
            result |= self._result(phase)
        return result

    def _plan(self, phase: Phase) -> dict[str, Any]:
        move = self._forward()
        movers = self._movers(move)
        plan = self.tools.plan(move, movers, phase.name, self._steps())
        return {"plan": plan, "plan_text": self.tools.plan_text(plan)}

    def questions(self) -> list[dict[str, Any]]:
        """Return what would have been asked of hosts without a link, as {"host", "question"} (see brought.py)."""
        hosts = [place.host for place in self.setting.places.values()]
        return [
            {"host": host.name, "question": each}
            for host in hosts
            if isinstance(host, BroughtHost)
            for each in host.open
        ]

    def _steps(self) -> dict[str, list[Stage]]:
        """Return what each verb would walk, were it run now: each named as in its own run."""
        stages = {phases.PREPARE: Engine._preparing, phases.PRECOPY: Engine._copying, phases.SWITCH: Engine._switching}
        found: dict[str, list[Stage]] = {}
        for verb, of in stages.items():
            engine = Engine(self.setting, verb, self.walk.say, check=True)
            engine._parts = self.parts()
            move = engine._forward()
            found[verb] = list(of(engine, move, engine._movers(move)))
        return found

    def _switching(self, move: Move, movers: Mapping[str, Mover]) -> Iterator[Stage]:
        yield from self._order(move, movers).whole()

    def _verify(self, phase: Phase, readiness: Sequence[Mapping[str, Any]]) -> None:
        if phase.problem:
            raise MoveError("contradiction", f"{self.unit.name}: {phase.problem}")
        if phase.name == phases.SWITCHED and phase.since is not None:
            movers = self._movers(self._forward())
            self.walk.forward([lanes(mover.verify() for mover in movers.values())])
        late = [each["text"] for each in readiness if not each["ready"]]
        if late:
            raise MoveError("not_ready", f"{self.unit.name}: {'; '.join(late)}", readiness=readiness)

    def _readiness(self, movers: Mapping[str, Mover]) -> list[dict[str, Any]]:
        return [{"part": key, **asdict(_readiness_of(mover))} for key, mover in movers.items()]

    # --- prepare, precopy ---

    def _prepare(self, phase: Phase) -> None:
        move = self._forward()
        movers = self._movers(move)
        self._refuse_traps(move, movers, phase)
        self.journal.before("parts", lambda: [note_of(part) for part in self.parts()])
        for stage in self._preparing(move, movers):
            self.walk.forward([stage])
        if phase.name not in (phases.PREPARED, phases.COPIED):
            self.journal.write(phases.PREPARED)

    def _preparing(self, move: Move, movers: Mapping[str, Mover]) -> Iterator[Stage]:
        yield from self._pins(move)
        yield lanes(mover.prepare() for mover in movers.values())
        yield lanes(mover.backup() for mover in movers.values())

    def _refuse_traps(self, move: Move, movers: Mapping[str, Mover], phase: Phase) -> None:
        plan = self.tools.plan(move, movers, phase.name, {})
        refused = [trap for trap in plan["traps"] if trap["refuses"]]
        if refused:
            said = " ".join(f"{trap['text']}: {trap['remedy']}." for trap in refused)
            codes = [trap["code"] for trap in refused]
            raise MoveError("trap", f"{self.unit.name} can't be moved yet. {said}", traps=codes)

    def _pins(self, move: Move) -> Sequence[Stage]:
        return list(self.tools.lease.pin(move, with_state(self.parts()) + consumers(self.parts())))

    def _precopy(self, phase: Phase) -> None:
        move = self._forward()
        self.walk.forward(list(self._copying(move, self._movers(move))))
        if phase.name != phases.COPIED:
            self.journal.write(phases.COPIED)

    def _copying(self, _move: Move, movers: Mapping[str, Mover]) -> Iterator[Stage]:
        yield lanes(mover.precopy() for mover in movers.values())

    # --- switch, reverse ---

    def _switch(self, phase: Phase) -> None:
        back = self.verb == phases.REVERSE
        move = self._move(self.unit.target, self.unit.home) if back else self._forward()
        movers = self._movers(move)
        if move.target.name != phase.source:
            phase = self._end_giving_back(phase, move, movers)
            if phase.name != phases.PROMOTING:
                self._fenced(phase, move, movers)
            for stage in self._order(move, movers).from_the_intent():
                self.walk.forward([stage])
            self.journal.write(phases.SWITCHED, source=move.source.name, target=move.target.name)
            self._followed(movers)
        else:
            self._stand(move, movers)

    def _stand(self, move: Move, movers: Mapping[str, Mover]) -> None:
        """Have a unit that was switched run where it is, and the old copy follow."""
        # A redeploy since then took the pin away, and where Swarm wants them now their data are parked.
        for stage in self._order(move, movers).started():
            self.walk.forward([stage])
        self._followed(movers)

    def _followed(self, movers: Mapping[str, Mover]) -> None:
        self.walk.forward([lanes(mover.follow() for mover in movers.values())])

    def _end_giving_back(self, phase: Phase, move: Move, movers: Mapping[str, Mover]) -> Phase:
        """A unit that was on its way back to its source first gets there."""
        if phase.name != phases.SWITCHING or last_mark(self.journal) == FENCED or self.check:
            return phase
        self._give_back(move, movers)
        return self.phase()

    def _fenced(self, phase: Phase, move: Move, movers: Mapping[str, Mover]) -> None:
        """Fence the unit and come to the promotion's intent, or give the unit back."""
        if phase.name != phases.SWITCHING:
            # Under way the pins stand, and the lease must not be given to the source again.
            self.walk.forward(self._pins(move))
            if self.verb == phases.REVERSE:
                # The switch may have been broken off in its last steps, or a switch back given back.
                forward = self._forward()
                self._stand(forward, self._movers(forward))
            self._refuse_unready(movers)
        try:
            order = self._order(move, movers)
            self.walk.forward([order.fence()])
            for stage in order.up_to_the_intent():
                until = self.watcher.until()
                self.walk.forward([stage if until is None else not_after(until, stage)])
        except Exception as error:
            if not self.check and last_mark(self.journal) != PROMOTION:
                self._after_failure(error, move, movers)
            raise

    def _refuse_unready(self, movers: Mapping[str, Mover]) -> None:
        patient_until = time.monotonic() + (0 if self.check else _CATCHING_UP)
        while True:
            readiness = self._readiness(movers)
            late = [each["text"] for each in readiness if not each["ready"]]
            if not late or time.monotonic() > patient_until:
                break
            time.sleep(1)
        if late:
            message = f"{self.unit.name} is not ready to switch: {'; '.join(late)}. Run verb={self._brings_nearer}"
            raise MoveError("not_ready", message, readiness=readiness, next=self._brings_nearer)

    @property
    def _brings_nearer(self) -> str:
        """The verb that has the copy on the other node follow again: what a switch does last, before a reverse."""
        return phases.SWITCH if self.verb == phases.REVERSE else phases.PRECOPY

    # --- giving back ---

    def _after_failure(self, error: Exception, move: Move, movers: Mapping[str, Mover]) -> None:
        """Give the unit back at once; what fails here is left to the watcher, which stays armed."""
        said = error.details if isinstance(error, MoveError) else {}
        try:
            self._give_back_soon(move, movers)
        except Exception as second:  # whatever it is, the first error is the one to report
            said["state"] = f"the unit is not given back yet ({second}); the watcher on the manager goes on trying"
        else:
            said["state"] = f"the unit was given back and runs on {move.source.name}; nothing was promoted"
            # A copy whose replica was let go for the switch has to follow again first.
            said["next"] = self._brings_nearer

    def _give_back_soon(self, move: Move, movers: Mapping[str, Mover]) -> None:
        """Give the unit back, again if need be: a Docker engine that was killed answers in seconds.

        The watcher would come at the deadline only, and until then the unit is off.
        """
        patient_until = time.monotonic() + _ANSWERING_AGAIN
        warned = len(self.warnings)
        while True:
            # What the last try could not undo is tried again.
            del self.warnings[warned:]
            try:
                self._give_back(move, movers)
            except (MoveError, EngineError) as error:
                for_good = isinstance(error, MoveError) and error.code == "promotion_intended"
                if for_good or time.monotonic() > patient_until:
                    raise
            else:
                return
            time.sleep(1)

    def _give_back(self, move: Move, movers: Mapping[str, Mover]) -> None:
        """Bring the unit back to life on its source, from wherever the switch was."""
        if self.watcher.until() is None:
            self.watcher.arm(self._order(move, movers).instructions(), _SECOND_TRY)
        self.walk.say("giving_back", {"unit": self.unit.name, "to": move.source.name})
        fenced = [step for mover in movers.values() for step in flat([*mover.park(), *mover.stopped()])]
        settled = [step for mover in movers.values() for step in flat(mover.settle())]
        drained = self._order(move, movers).drains()
        if not self.journal.unfence():
            raise MoveError("promotion_intended", "a promotion was intended: run verb=switch again")
        # Live again, the data must find nobody who is still stopping on them.
        self.watcher.wait_for_strays()
        self._undo(fenced)
        self.watcher.give_back(self.verb)
        self._undo([*settled, *drained])

    def _undo(self, steps: Sequence[Step]) -> None:
        """Undo each step by itself: one that fails must not keep the unit from being given back."""
        for step in reversed(steps):
            try:
                self.walk.back([step])
            except MoveError as error:
                self.warnings.append(f"could not undo: {step.title}: {error.message}")

    # --- cancel, complete ---

    def _cancel(self, phase: Phase) -> None:
        if phase.taken_back:
            self.warnings.append("the switch back was taken back already: there was nothing to cancel")
            return
        if phase.name == phases.SWITCHING:
            self._cancel_switch(phase)
            if not phase.forth:
                return
        if not self._anything_to_cancel():
            return
        self._reach_all()
        if not self.check:
            # Of a switch that was killed while it armed it: at the deadline it would tie the services again.
            self.watcher.disarm()
        move = self._forward()
        movers = self._movers(move)
        turned = self._movers(self._move(self.unit.target, self.unit.home)) if phase.since else {}
        made = [[*mover.prepare(), *mover.backup(), *mover.precopy()] for mover in movers.values()]
        steps = [step for stages in made for step in flat(stages)]
        steps += [step for mover in turned.values() for step in flat(mover.follow())]
        self.walk.back(steps)
        self.walk.forward(self.tools.lease.unpin(move, consumers(self.parts()) + with_state(self.parts())))
        self._end(phases.CANCEL)

    def _cancel_switch(self, phase: Phase) -> None:
        if self.check:
            self.walk.outcomes.append(_would(f"give {self.unit.name} back to {phase.source}", phase.source))
            return
        move = self._move(phase.source, phase.target)
        self._give_back(move, self._movers(move))
        self.walk.outcomes.append(_would(f"give {self.unit.name} back to {phase.source}", phase.source, "did"))

    def _anything_to_cancel(self) -> bool:
        events = [entry["event"] for entry in self.journal.entries]
        return bool(events) and events[-1] != ENDED

    def _reach_all(self) -> None:
        for place in self.setting.places.values():
            if isinstance(place.host, OutOfReach):
                message = f"{place.host.error.message}. The unit runs on {self.unit.home}; what the move made on "
                raise MoveError("host_unreachable", f"{message}{place.name} is removed by verb=cancel when it is back")

    def _complete(self, phase: Phase) -> None:
        if phase.name == phases.COMPLETED:
            return
        move = self._forward()
        movers = self._movers(move)
        finish = [lanes(mover.finish() for mover in movers.values())]
        confirmed = self.confirm or self.check
        refuse_to_complete(self.unit.name, phase.since, finish, self.setting.options.min_age, confirmed=confirmed)
        here = self._movers(self._move(self.unit.target, self.unit.home))
        self.walk.forward([lanes(mover.backup() for mover in here.values())])
        self.walk.forward(finish)
        self.walk.forward(self.tools.lease.release(move, with_state(self.parts()) + consumers(self.parts())))
        self._end(phases.COMPLETE)

    def _end(self, how: str) -> None:
        """Close the journal; before it, as no later run would, take away what else lies beside it."""
        if self.check:
            return
        for file in self.journal.path.parent.iterdir():
            if file != self.journal.path:
                file.unlink(missing_ok=True)
        self.journal.write(ENDED, how=how)

    # --- results ---

    def _mirror(self) -> None:
        """Keep a copy of the journal on the other host; that it fails is said, and stops nothing."""
        for place in self.setting.places.values():
            if isinstance(place.host, SshHost) and not self.check:
                directory = str(self.journal.path.parent)
                try:
                    place.host.run(["sh", "-c", _MIRROR, "sh", directory], stdin=self.journal.path.read_text())
                except (MoveError, OSError) as error:
                    self.warnings.append(f"the journal could not be mirrored to {place.name}: {error}")

    def _result(self, phase: Phase) -> dict[str, Any]:
        return {
            "unit": self.unit.name,
            "phase": phase.name,
            "runs_on": None if phase.name in (phases.SWITCHING, phases.PROMOTING) else phase.source,
            "target": phase.target,
            "since": phase.since,
            "problem": phase.problem,
            "next": phases.next_verb(phase),
            "outcomes": self.walk.outcomes,
            "changed": self.walk.changed,
            "warnings": self.warnings,
            "journal": str(self.journal.path),
        }


#: Seconds that a copy gets to come near: one that has just begun to follow is ready a moment later.
_CATCHING_UP = 15.0
#: Seconds that an engine or a link which has just failed gets to be there again.
_ANSWERING_AGAIN = 30.0
#: Seconds until the watcher goes on with a giving back that was interrupted.
_SECOND_TRY = 60.0
_COPYING = (phases.PREPARED, phases.COPIED, phases.SWITCHED)
_MIRROR = 'umask 077; mkdir -p "$1" && cat > "$1/journal.new" && mv "$1/journal.new" "$1/journal.jsonl"'


def _readiness_of(mover: Mover) -> Readiness:
    try:
        return mover.readiness()
    except MoveError as error:
        return Readiness(False, f"{mover.part.key}: {error.message}")


def _would(title: str, host: str, outcome: str = "would") -> dict[str, Any]:
    return {"step": "cancel.give-back", "title": title, "host": host, "outcome": outcome, "seconds": 0.0}

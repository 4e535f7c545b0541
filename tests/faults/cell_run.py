"""Runs one cell: a move up to a verb, the fault in it, what the operator does then, and the oracle over all of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lab import units
from lab.run import LabError
from lab.settings import HOSTS
from lab.swarm import MANAGER
from lab.units import Deployment
from tests.faults import ledger, tools, two_sides
from tests.faults.cells import BEFORE, CANCEL, RESUME, REVERSE, WHOLE, Cell, Outcome
from tests.faults.rig import DURABLE, Play, Rig, heal

TARGET = "kvm2"
#: Long enough for writes on both sides of what happens, short against a cell.
BREATH = 0.5
QUEUE_SECONDS = 30


def run_cell(rig: Rig, cell: Cell) -> Outcome:
    """Run a cell; whatever goes wrong is a problem of the outcome, not an exception.

    It begins with the snapshot, or where the cell before it has left a whole unit in the phase that this one needs.
    """
    deployed = deployment(rig, cell)
    mine = replace(rig, deployed=deployed, directory=rig.directory / cell.id.replace("/", "-"), plays=[])
    began = time.monotonic()
    problems: list[str] = []
    notes: dict[str, Any] = {}
    hit = False
    try:
        rig.stands = None
        home, promotions = _ready(mine, cell), mine.promotions()
        with two_sides.probing(mine.settings, mine.deployed), ledger.writing(mine.settings, mine.deployed):
            hit = _broken(mine, cell, notes)
            heal(mine.settings)
            mine.until_idle()
            place = _then(mine, cell, notes)
            problems += _again(mine, place, notes)
            time.sleep(BREATH)
        problems += judge(mine, place, notes, home=home, promotions=promotions)
        if not problems:
            rig.stands = notes["phase"], deployed
    except LabError as error:
        problems.append(str(error))
    return Outcome(cell.id, not problems, hit, round(time.monotonic() - began, 1), problems, notes)


def way(rig: Rig, cell: Cell) -> Sequence[str] | None:
    """Return the verbs from where the unit stands to where the cell begins, None if it begins with the snapshot."""
    if rig.stands is None or rig.stands[1] != deployment(rig, cell):
        return None
    return _WAYS.get((rig.stands[0], _BEGINS[cell.verb]))


def nearest(rig: Rig, cells: Sequence[Cell]) -> Cell:
    """Return the cell that needs the fewest verbs before it, the first of them."""
    return min(cells, key=lambda cell: _AFRESH + len(BEFORE[cell.verb]) if (to := way(rig, cell)) is None else len(to))


def deployment(rig: Rig, cell: Cell) -> Deployment:
    """Return how the unit is deployed for a cell."""
    env = {**(DURABLE if cell.fault.durable else {}), **_IGNORING.get(cell.fault.name, {})}
    return replace(rig.deployed, env=env, grace=_SHORT_GRACE if cell.fault.name == "redeploy-each" else None)


def _ready(rig: Rig, cell: Cell) -> str:
    """Bring the unit to where the cell's verb begins; returns the host that it runs on then."""
    verbs = way(rig, cell)
    if verbs is None:
        rig.restore()
        verbs = BEFORE[cell.verb]
    for verb in verbs:
        rig.succeed(verb, whole=verb == "prepare")
    return TARGET if cell.verb == "reverse" else MANAGER


#: What putting the snapshot back takes, in verbs.
_AFRESH = 2
NEW, CANCELLED, PREPARED, COPIED, SWITCHED = "new", "cancelled", "prepared", "copied", "switched"
#: The phase in which a verb begins.
_BEGINS: Mapping[str, str] = {"prepare": NEW, "precopy": PREPARED, "switch": COPIED, "reverse": SWITCHED}
#: Where a cell left the unit, where the next one begins -> the verbs in between; else it begins with the snapshot.
_WAYS: Mapping[tuple[str, str], Sequence[str]] = {
    **{(rest, begin): BEFORE[verb] for rest in (NEW, CANCELLED) for verb, begin in _BEGINS.items()},
    (COPIED, COPIED): (),
    (COPIED, SWITCHED): ("switch",),
    (SWITCHED, COPIED): ("reverse",),
    (SWITCHED, SWITCHED): (),
}
#: Programs that don't end on TERM, so that the stop's grace is exceeded.
_IGNORING: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "grace-exceeded": {"api": {"IGNORE_TERM": "1"}, "worker": {"IGNORE_TERM": "1"}}
}
#: For the many redeploys of one move: Redis under its shell takes all of its grace, in seconds.
_SHORT_GRACE = 3


def judge(rig: Rig, place: str, notes: dict[str, Any], *, home: str = MANAGER, promotions: int = 0) -> list[str]:
    """Return what the oracle finds wrong when the unit should be whole at a place. The writers have stopped.

    When they began the unit was at `home` and the journal had so many promotions.
    """
    problems = rig.wrong_end(place)
    if notes.get("phase") == CANCELLED:
        problems += rig.left_behind(place)
    if problems:
        return problems
    accepted = two_sides.accepted(rig.settings)
    writes = ledger.writes(rig.settings)
    deadline = time.monotonic() + QUEUE_SECONDS
    while ledger.unfinished(rig.settings, rig.deployed, place) and time.monotonic() < deadline:
        time.sleep(0.2)
    held = ledger.held(rig.settings, rig.deployed, place)
    verdict = ledger.compare([*writes, *two_sides.as_writes(accepted)], held)
    notes |= {
        "acknowledged": verdict.acknowledged,
        "unknown": verdict.unknown,
        "outages": {path: round(gap.seconds, 2) for path, gap in verdict.outages.items()},
    }
    problems += [f"{len(ids)} acknowledged writes are not in {at}: {ids[:3]}" for at, ids in verdict.lost.items()]
    problems += [f"{len(ids)} jobs left nothing in {at}: {ids[:3]}" for at, ids in ledger.owed(writes, held).items()]
    return problems + two_sides.violations(accepted, home, rig.promotions() - promotions)


def _broken(rig: Rig, cell: Cell, notes: dict[str, Any]) -> bool:
    """Run the cell's verb with its fault; returns whether the fault came about."""
    if cell.fault.name == "two-operators":
        return _two_operators(rig, cell.verb)
    if cell.fault.name.endswith("-each"):
        at_each = _killed_at_each if cell.fault.name.startswith("kill-engine") else _struck_at_each
        notes["broken_at"] = at_each(rig, cell, notes)
        return len(notes["broken_at"]) > 1
    if cell.step == WHOLE:
        with _WHOLE[cell.fault.name](rig):
            rig.run(cell.verb, whole=_needs_role(cell.verb))
        return True
    held = contextlib.ExitStack()
    plays: list[Play] = []

    def act(_entry: Mapping[str, Any]) -> None:
        _AT_STEP[cell.fault.name](rig, held, plays[0])

    kills = cell.fault.name.startswith("kill-engine")
    with (
        held,
        tools.AtStep(
            rig.settings, rig.unit, cell.step, cell.fault.event, act="kill" if kills else "hold",
            delay=cell.fault.part * cell.seconds, callback=act,
        ) as watch,
    ):  # fmt: skip
        plays.append(rig.begin(cell.verb, whole=_needs_role(cell.verb)))
        plays[0].wait()
    # A kill that comes when the engine has ended already is none.
    return watch.seen is not None and (watch.acted or not kills)


def _killed_at_each(rig: Rig, cell: Cell, _notes: dict[str, Any]) -> list[str]:
    """Run a verb until it is through, killed at every step that it comes to; returns these steps in order.

    Raises LabError if it fails otherwise.
    """
    killed: list[str] = []
    delay = _DURING if cell.fault.name == "kill-engine-during-each" else 0.0
    while len(killed) < _MOST_STEPS:
        watching = tools.AtStep(rig.settings, rig.unit, "*", cell.fault.event, act="kill", delay=delay, but=killed)
        with watching as watch:
            play = rig.run(cell.verb, whole=_needs_role(cell.verb) and not killed)
        if watch.seen is not None and watch.acted:
            killed.append(str(watch.seen["step"]))
        elif play.status:
            raise LabError(f"verb={cell.verb} failed after kills at {len(killed)} steps: {play.message}")
        if play.status == 0:
            return killed
    raise LabError(f"verb={cell.verb} is not through after kills at {len(killed)} steps")


def _struck_at_each(rig: Rig, cell: Cell, notes: dict[str, Any]) -> list[str]:
    """Run a verb until it is through, with the fault at every step that it comes to, once; returns these in order.

    A run that fails is followed by the verb that it names. Raises LabError if one fails that no fault came into.

    An engine that is killed again and again may be left with an overlay network that is cut off for good. Where that is
    the fault, the engine is restarted after a run that failed without a kill in it, once between two kills, as
    docs/moving.md says; `notes["restarted_after"]` has what these runs said.
    """
    strike, steps = _AT_EACH[cell.fault.name], list[str]()
    killed = cell.fault.name.removeprefix("kill-dockerd-").removesuffix("-each")
    restarted_at = -1

    def restart(play: Play) -> None:
        nonlocal restarted_at
        if killed not in HOSTS or restarted_at == len(steps):
            raise LabError(f"verb={play.verb} failed without a fault: {play.message}")
        restarted_at = len(steps)
        notes.setdefault("restarted_after", []).append(play.message)
        tools.restart_dockerd(rig.settings, killed)
        heal(rig.settings)

    for _ in range(_MOST_STEPS):
        known = len(steps)
        with contextlib.ExitStack() as held:

            def act(entry: Mapping[str, Any], held: contextlib.ExitStack = held) -> None:
                steps.append(str(entry["step"]))
                strike(rig, held)

            watching = tools.AtStep(
                rig.settings, rig.unit, "*", cell.fault.event, act="hold", every=True, but=tuple(steps), callback=act
            )
            with watching:
                # Time in which the engine is held is not the move's.
                play = rig.begin(cell.verb, whole=_needs_role(cell.verb) and not steps, deadline=_HELD_DEADLINE)
                play.wait(_HELD_DEADLINE)
        heal(rig.settings)
        if play.status == 0:
            return steps
        following = _following(rig, play)
        if following != cell.verb:
            while (led := rig.run(following, whole=False)).status:
                restart(led)
        elif len(steps) == known:
            restart(play)
    raise LabError(f"verb={cell.verb} is not through after faults at {len(steps)} steps")


def _following(rig: Rig, play: Play) -> str:
    """Return the verb that leads on after a failed run: the one that it names, or where it could not tell, status."""
    named = play.unit(rig.unit).get("next")
    if named in (None, "status"):
        named = rig.succeed("status", whole=False).unit(rig.unit).get("next")
    # Once it is switched, the verb itself has what is left to do.
    return named if named in BEFORE["reverse"] else play.verb


#: No verb has so many.
_MOST_STEPS = 100
#: Far beyond the grace of the redeploys.
_STOP_SECONDS = 60.0
#: A cut that Swarm notices without a move, and shorter than what one bears.
_FLAP_SECONDS = 10.0
_HELD_DEADLINE = 1200
#: Well inside of most steps, in seconds.
_DURING = 0.15


def _needs_role(verb: str) -> bool:
    """Whether the playbook does more for a verb than its main task: it makes the SSH link, or removes it."""
    return verb in ("prepare", "cancel")


def _two_operators(rig: Rig, verb: str) -> bool:
    """Let two operators want the same at once; returns whether one was refused. Raises LabError if both fail."""
    other = replace(rig, directory=rig.directory / "other", plays=[])
    plays = [each.begin(verb, whole=_needs_role(verb)) for each in (rig, other)]
    ended = [play.wait() for play in plays]
    if all(play.status for play in ended):
        raise LabError(f"both operators failed: {ended[0].message[:200]} / {ended[1].message[:200]}")
    # The second may have come when the first had ended: then it found everything done.
    return any("another move is under way" in play.message for play in ended if play.status)


def _then(rig: Rig, cell: Cell, notes: dict[str, Any]) -> str:
    """Do what the operator does after the fault; returns where the unit must be then."""
    # Given back, the copy has to be brought near again first: the failed run says by which verb.
    broken = rig.plays[-1]
    following = broken.unit(rig.unit).get("next") if broken.status else None
    if cell.then == CANCEL:
        cancelled = rig.run("cancel", whole=cell.verb != "reverse")
        if cancelled.status == 0:
            # A reverse that is taken back leaves the unit switched.
            back = cell.verb == "reverse" and cancelled.unit(rig.unit).get("phase") == "switched"
            return TARGET if back else MANAGER
        notes["cancel_refused"] = _refusal(rig, cancelled)
    if cell.then == REVERSE:
        reversed_ = rig.run("reverse", whole=False)
        if reversed_.status == 0:
            return MANAGER
        notes["reverse_refused"] = _refusal(rig, reversed_)
    if broken.status and following is None:
        # It ended with its host, or was killed, and could say nothing. The next one does.
        again = rig.run(cell.verb, whole=_needs_role(cell.verb))
        following = again.unit(rig.unit).get("next") if again.status else None
    if following in ("precopy", "switch") and following != cell.verb:
        rig.succeed(following, whole=False)
    if cell.verb == "reverse":
        rig.succeed("reverse", whole=False)
        return MANAGER
    verbs = [*BEFORE["reverse"]]
    for verb in verbs[verbs.index(cell.verb) :]:
        rig.succeed(verb, whole=_needs_role(verb))
    if cell.then in (RESUME, CANCEL):
        return TARGET
    rig.succeed("reverse", whole=False)
    return MANAGER


def _refusal(rig: Rig, play: Play) -> str:
    """Return why a verb was refused. Raises LabError if it began and failed: the fault is over, so it may not."""
    code = (play.unit(rig.unit).get("error") or {}).get("code")
    if code != "wrong_phase":
        raise LabError(f"verb={play.verb} failed: {play.message}")
    return play.message[:300]


def _again(rig: Rig, place: str, notes: dict[str, Any]) -> list[str]:
    """Run the last verb a second time: nothing may change, and the unit must be said to be where it is."""
    last = rig.plays[-1].verb
    second = rig.run(last, whole=False)
    phase = second.unit(rig.unit).get("phase")
    notes["phase"] = phase
    problems = []
    if second.status:
        problems.append(f"a second verb={last} failed: {second.message[:300]}")
    if second.changed:
        problems.append(f"a second verb={last} changed {second.changed} tasks")
    expected = {TARGET: {SWITCHED}, MANAGER: {COPIED, CANCELLED, NEW}}[place]
    if phase not in expected:
        problems.append(f"the phase is {phase!r}, not {' or '.join(sorted(expected))}")
    return problems


# --- what a fault does ---


def _nothing(_rig: Rig, _held: contextlib.ExitStack, _play: Play) -> None:
    """Do nothing here: the watcher on the manager has done it."""


def _held(make: Callable[[Rig], Any]) -> Callable[[Rig, contextlib.ExitStack, Play], None]:
    return lambda rig, held, _play: held.enter_context(make(rig))


_AT_STEP: Mapping[str, Callable[[Rig, contextlib.ExitStack, Play], None]] = {
    **dict.fromkeys(("kill-engine-before", "kill-engine-during", "kill-engine-after"), _nothing),
    "kill-controller": lambda _rig, _held, play: play.kill(),
    "kill-dockerd-kvm4": lambda rig, _held, _play: tools.kill_dockerd(rig.settings, "kvm4"),
    "kill-dockerd-kvm2": lambda rig, _held, _play: tools.kill_dockerd(rig.settings, "kvm2"),
    "reboot-kvm4": lambda rig, _held, _play: tools.reboot(rig.engine, rig.settings, "kvm4"),
    "reboot-kvm2": lambda rig, _held, _play: tools.reboot(rig.engine, rig.settings, "kvm2"),
    "link-cut": _held(lambda rig: tools.link_cut(rig.settings)),
    "link-cut-in": _held(lambda rig: tools.link_cut(rig.settings, ways="in")),
    "link-cut-out": _held(lambda rig: tools.link_cut(rig.settings, ways="out")),
    "disk-full": _held(lambda rig: tools.disk_full(rig.settings)),
    "disk-full-promoted": _held(lambda rig: tools.disk_full(rig.settings)),
    "redeploy": lambda rig, _held, _play: rig.redeploy(),
}


def _engine_killed(host: str) -> Callable[[Rig, contextlib.ExitStack], None]:
    def strike(rig: Rig, _held: contextlib.ExitStack) -> None:
        heal(rig.settings)  # of the kill at the step before, too: one that is not back can't be killed
        tools.kill_dockerd(rig.settings, host)

    return strike


def _flap(ways: str) -> Callable[[Rig, contextlib.ExitStack], None]:
    def strike(rig: Rig, _held: contextlib.ExitStack) -> None:
        heal(rig.settings)
        tools.link_flap(rig.settings, _FLAP_SECONDS, ways=ways)

    return strike


def _disk_filled(rig: Rig, held: contextlib.ExitStack) -> None:
    """Fill the target's disk until the run's end, anew: what was removed since may have made room."""
    held.close()
    held.enter_context(tools.disk_full(rig.settings))


#: What comes at every step of a verb, while the engine stands still there.
_AT_EACH: Mapping[str, Callable[[Rig, contextlib.ExitStack], None]] = {
    "redeploy-each": lambda rig, _held: rig.redeploy_databases(_STOP_SECONDS),
    "kill-dockerd-kvm4-each": _engine_killed("kvm4"),
    "kill-dockerd-kvm2-each": _engine_killed("kvm2"),
    "link-flap-each": _flap("both"),
    "link-flap-in-each": _flap("in"),
    "link-flap-out-each": _flap("out"),
    "disk-full-each": _disk_filled,
}


@contextlib.contextmanager
def _grace_exceeded(_rig: Rig) -> Iterator[None]:
    """Do nothing: the unit was deployed with programs that don't end on TERM."""
    yield


@contextlib.contextmanager
def _wrong_password(rig: Rig) -> Iterator[None]:
    """Change the passwords of the unit's own user and of every role that only replicates."""
    user = rig.deployed.environment("postgres")["POSTGRES_USER"]
    query = "SELECT rolname FROM pg_roles WHERE rolreplication AND NOT rolsuper"
    found = units.psql(rig.settings, rig.deployed, query, user=user).split()
    with contextlib.ExitStack() as held:
        for role in [user, *found]:
            held.enter_context(tools.wrong_password(rig.settings, rig.deployed, role))
        yield


_WHOLE: Mapping[str, Callable[[Rig], Any]] = {
    "link-lossy": lambda rig: tools.link_lossy(rig.settings),
    "link-slow": lambda rig: tools.link_slow(rig.settings),
    "populated": lambda rig: tools.populated(rig.settings, rig.deployed.volume("postgres-data")),
    "image-withheld": lambda rig: tools.image_withheld(rig.settings, rig.deployed.references["unit-app"]),
    "wrong-password": _wrong_password,
    "grace-exceeded": _grace_exceeded,
}

"""The matrix: a cell is a step of a verb, a fault at it, and what the operator does then. Pure."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

RESUME, REVERSE, CANCEL = THENS = ("resume", "reverse", "cancel")
#: Verbs whose steps are broken, with what must have run before.
BEFORE: Mapping[str, tuple[str, ...]] = {
    "prepare": (),
    "precopy": ("prepare",),
    "switch": ("prepare", "precopy"),
    "reverse": ("prepare", "precopy", "switch"),
}
#: Of steps that have the whole run of a verb in common.
WHOLE = "*"


@dataclass(frozen=True)
class FaultKind:
    """A kind of fault. `at`: at each step, or over each verb as a whole. `verbs`, `steps` (a glob): only there.

    `event`: which entry of the journal it waits for. `part`: how much of the step's usual time it then lets pass.
    `durable`: it kills databases themselves, or restarts them, so Redis needs a log of its own.
    """

    name: str
    at: str = "step"
    verbs: tuple[str, ...] = tuple(BEFORE)
    steps: str = "*"
    event: str = "intent"
    part: float = 0.0
    durable: bool = False


FAULTS = (
    FaultKind("kill-engine-before"),
    FaultKind("kill-engine-during", part=0.5),
    FaultKind("kill-engine-after", event="did"),
    FaultKind("kill-engine-before-each", at="verb"),
    FaultKind("kill-engine-during-each", at="verb"),
    FaultKind("kill-engine-after-each", at="verb", event="did"),
    FaultKind("redeploy-each", at="verb", durable=True),
    FaultKind("kill-dockerd-kvm4-each", at="verb", durable=True),
    FaultKind("kill-dockerd-kvm2-each", at="verb", durable=True),
    FaultKind("link-flap-each", at="verb"),
    FaultKind("link-flap-in-each", at="verb"),
    FaultKind("link-flap-out-each", at="verb"),
    FaultKind("disk-full-each", at="verb", verbs=("prepare", "precopy")),
    FaultKind("kill-controller"),
    FaultKind("kill-dockerd-kvm4", durable=True),
    FaultKind("kill-dockerd-kvm2", durable=True),
    FaultKind("reboot-kvm2", durable=True),
    FaultKind("reboot-kvm4", durable=True),
    FaultKind("link-cut"),
    FaultKind("link-cut-in"),
    FaultKind("link-cut-out"),
    FaultKind("redeploy", durable=True),
    FaultKind("disk-full", verbs=("prepare", "precopy")),
    FaultKind("disk-full-promoted", verbs=("switch",), steps="*promot*"),
    FaultKind("link-lossy", at="verb"),
    FaultKind("link-slow", at="verb"),
    FaultKind("two-operators", at="verb"),
    FaultKind("populated", at="verb", verbs=("prepare",)),
    FaultKind("image-withheld", at="verb", verbs=("prepare", "precopy", "switch")),
    FaultKind("wrong-password", at="verb", verbs=("prepare", "precopy", "switch")),
    FaultKind("grace-exceeded", at="verb", verbs=("switch", "reverse")),
)


@dataclass(frozen=True)
class Cell:
    """One cell. `seconds`: what the step takes when nothing is wrong."""

    verb: str
    step: str
    fault: FaultKind
    then: str
    seconds: float = 0.0

    @property
    def id(self) -> str:
        """Return the cell's name, the same in every run."""
        # Movers give a step of a reverse the same name as in a switch.
        step = self.step if self.step == WHOLE or self.step.startswith(f"{self.verb}.") else f"{self.verb}:{self.step}"
        return f"{self.verb if step == WHOLE else step}/{self.fault.name}/{self.then}"


@dataclass(frozen=True)
class Outcome:
    """What became of a cell. `problems`: none if it passed. `hit`: whether the fault came about."""

    cell: str
    passed: bool
    hit: bool
    seconds: float
    problems: Sequence[str]
    notes: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that is kept."""
        return asdict(self)


def steps_of(entries: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[str, float]]]:
    """Return verb -> (step, seconds) as they were done, from the journal of a move without faults."""
    found: dict[str, list[tuple[str, float]]] = {}
    for entry in entries:
        if entry["event"] == "did" and entry.get("verb") in BEFORE:
            found.setdefault(entry["verb"], []).append((entry["step"], float(entry.get("seconds", 0))))
    return found


def unplanned(
    plan: Mapping[str, Sequence[Mapping[str, Any]]], done: Mapping[str, Sequence[tuple[str, float]]]
) -> list[str]:
    """Return the steps that were done and that the plan (verb -> steps with an `id`) of before had not said."""
    said = {step["id"] for steps in plan.values() for step in steps}
    return [step for verb in BEFORE if verb in plan for step, _ in done.get(verb, ()) if step not in said]


def matrix(steps: Mapping[str, Sequence[tuple[str, float]]]) -> list[Cell]:
    """Return every cell: each fault at each step (or over each verb) with each way to go on."""
    cells = []
    for verb in BEFORE:
        for fault in (each for each in FAULTS if verb in each.verbs):
            places = [(WHOLE, 0.0)] if fault.at == "verb" else steps.get(verb, [])
            for step, seconds in places:
                if fault.at == "verb" or fnmatch.fnmatch(step, fault.steps):
                    cells += [Cell(verb, step, fault, then, seconds) for then in THENS]
    return cells


def core(cells: Sequence[Cell]) -> list[Cell]:
    """Return each fault at each step once: which way to go on is spread evenly, always the same for a cell."""
    return [
        cell
        for cell in cells
        if cell.then == THENS[hashlib.sha256(f"{cell.step}{cell.verb}{cell.fault.name}".encode()).digest()[0] % 3]
    ]


def _mixed(cell: Cell) -> bytes:
    """Return a key that orders cells by chance, always the same."""
    return hashlib.sha256(cell.id.encode()).digest()


def spread(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells in turns of fault and verb, steps mixed: however early a run ends, it has met some of each."""
    turns: dict[tuple[str, str], list[Cell]] = {}
    for cell in sorted(cells, key=_mixed):
        turns.setdefault((cell.fault.name, cell.verb), []).append(cell)
    return [cell for turn in zip_longest(*turns.values()) for cell in turn if cell is not None]


def fast() -> list[Cell]:
    """Return a few cells where most can go wrong; a step is a glob here, so that no move is needed to know the steps.

    In this order each begins where the one before it has left the unit.
    """
    faults = {fault.name: fault for fault in FAULTS}
    return [
        Cell("switch", "switch.*postgres*.stop", faults["kill-engine-during"], RESUME, 1.0),
        Cell("reverse", "reverse.*.promotion", faults["kill-engine-after"], RESUME),
        Cell("switch", "switch.*.give-*", faults["redeploy"], RESUME),
    ]


def table(outcomes: Sequence[Outcome], sets: Mapping[str, Sequence[str]]) -> str:
    """Return the matrix for people: passed of run cells by fault and what came then, each set's count, what failed.

    `sets`: name -> the ids of its cells. A cell whose fault never came about proves nothing: it is not counted as
    passed.
    """
    rows: dict[str, dict[str, list[int]]] = {}
    for outcome in outcomes:
        _, fault, then = outcome.cell.rsplit("/", 2)
        row = rows.setdefault(fault, {each: [0, 0] for each in THENS})
        row[then][0] += outcome.passed and outcome.hit
        row[then][1] += 1
    width = max([len("fault"), *map(len, rows)])
    lines = [f"{'fault':{width}}  " + "  ".join(f"{then:>9}" for then in THENS)]
    for fault, by_then in sorted(rows.items()):
        shown = [f"{passed}/{run}" if run else "–" for passed, run in by_then.values()]
        lines.append(f"{fault:{width}}  " + "  ".join(f"{each:>9}" for each in shown))
    lines += [_count(name, set(ids), outcomes) for name, ids in sets.items()]
    lines += [f"NOT HIT {each.cell}" for each in outcomes if each.passed and not each.hit]
    lines += [f"FAILED {each.cell}: {'; '.join(each.problems)}" for each in outcomes if not each.passed]
    return "\n".join(lines)


def _count(name: str, ids: set[str], outcomes: Sequence[Outcome]) -> str:
    run = [each for each in outcomes if each.cell in ids]
    passed = sum(each.passed and each.hit for each in run)
    missed = sum(each.passed and not each.hit for each in run)
    seconds = sum(each.seconds for each in run)
    failed = len(run) - passed - missed
    counts = f"{len(ids)} cells, {len(run)} run, {passed} passed, {missed} not hit, {failed} failed"
    return f"{name}: {counts}, {len(ids) - len(run)} never run; {seconds:.0f} seconds"

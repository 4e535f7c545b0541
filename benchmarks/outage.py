"""outage: how long clients can't write while a unit moves, ours beside stop, tar over SSH, start."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.bench import Bench
from benchmarks.report import Check, Report, Series, at_most, ratio
from lab import units
from lab.engine import connect
from lab.run import LabError
from tests.faults import ledger, naive, two_sides
from tests.faults.rig import Rig

MEGABYTES, QUICK_MEGABYTES = 1024, 100
#: Between two writes of a client on a path, and of the probers.
PAUSE = 0.01
#: Before and after a move: clients write undisturbed.
CALM = 3.0
WAYS = {
    "engine-postgres": "PostgreSQL at the engine",
    "engine-redis": "Redis at the engine",
    "postgres": "PostgreSQL by its service's name",
    "redis": "Redis by its service's name",
    "api": "through the API",
}


@dataclass
class Measured:
    """Outages in seconds by what was moved how and by path."""

    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, rig: Rig, how: str, began: float, ended: float) -> None:
        """Keep what clients saw from `began` to `ended` (seconds since the epoch). Raises LabError without a trace."""
        writes = [each for each in ledger.writes(rig.settings) if began <= (each.acknowledged or 0) <= ended]
        probes = [each for each in two_sides.accepted(rig.settings) if began <= each.ended <= ended]
        for path in WAYS:
            if path.startswith("engine-"):
                seconds = two_sides.handover(probes, path.replace("engine", "probe"))
            else:
                gap = ledger.outage(writes, path)
                seconds = gap.seconds if gap else None
            if seconds is None:
                raise LabError(f"{how}: nobody saw a write before and after it on the path {path}")
            self.seconds.setdefault((how, path), []).append(seconds)

    def series(self, how: str, path: str) -> Series:
        """Return the samples of one figure."""
        return Series(f"{how}: {WAYS[path]}", self.seconds[how, path])


def run(bench: Bench) -> Report:
    """Move a unit there and back, and by hand, in turns; compare the outages that clients saw."""
    megabytes = QUICK_MEGABYTES if bench.quick else MEGABYTES
    rig = make_rig(bench, megabytes)
    measured = Measured()
    for _ in range(bench.repetitions):
        by_hand(rig, measured)
        ours(rig, measured)
    units.down(rig.settings, rig.unit)
    series = [measured.series(how, path) for how in ("switch", "reverse", "by hand") for path in WAYS]
    return Report(
        "outage",
        f"How long can't clients write while a unit with a database of {megabytes} MB moves?",
        series,
        [check for how in ("switch", "reverse") for check in _checks(measured, how)],
        [
            "By hand: all services stop; PostgreSQL, Redis and the rest go by tar over SSH and start, side by side.",
            "At the engine: the last write that the source's container accepted to the first that the target's did.",
            f"Clients pause {PAUSE * 1000:g} ms between two writes. By hand Redis loses what it had not saved.",
        ],
    )


def make_rig(bench: Bench, megabytes: int) -> Rig:
    """Deploy the unit on the lab, fill its database and keep that as the beginning of every repetition."""
    engine = connect(bench.settings, start=False)
    if engine is None:
        raise LabError("the lab's engine is gone")
    deployed = units.deployment(engine, bench.settings, "saleor", "api")
    rig = Rig(bench.settings, engine, deployed, bench.settings.directory / "outage")
    rig.snapshot(megabytes)
    return rig


def ours(rig: Rig, measured: Measured) -> None:
    """Move the unit there and back with the playbook."""
    rig.restore()
    with _clients(rig):
        rig.succeed("prepare")
        rig.succeed("precopy")
        for how in ("switch", "reverse"):
            _timed(rig, measured, how, functools.partial(rig.succeed, how))


def by_hand(rig: Rig, measured: Measured) -> None:
    """Move the unit as a good script would."""
    rig.restore()
    with _clients(rig):
        _timed(rig, measured, "by hand", lambda: naive.move(rig.settings, rig.deployed))


def _timed(rig: Rig, measured: Measured, how: str, move: Callable[[], object]) -> None:
    time.sleep(CALM)
    began = time.time() - CALM
    move()
    time.sleep(CALM)
    measured.add(rig, how, began, time.time())


def _clients(rig: Rig) -> contextlib.ExitStack:
    """Let clients and probers write until the stack is closed."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(two_sides.probing(rig.settings, rig.deployed, PAUSE))
        stack.enter_context(ledger.writing(rig.settings, rig.deployed, PAUSE))
        return stack.pop_all()


def _checks(measured: Measured, how: str) -> list[Check]:
    bounds = {"engine-postgres": 1.0, "redis": 1.0, "api": 10.0}
    checks = [at_most(f"{how}: {WAYS[path]}", measured.series(how, path), bound) for path, bound in bounds.items()]
    return checks + [
        ratio(
            f"{how}: by hand takes longer, {WAYS[path]}",
            measured.series("by hand", path),
            measured.series(how, path),
            10,
        )
        for path in ("engine-postgres", "api")
    ]

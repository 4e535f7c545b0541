"""Run the fault matrix on a lab, or go on where it was broken off; prints the matrix. See lab/README.md.

Results are kept in tests/artifacts/faults, by what the code of moves was: after a change of it all cells count as not
run.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import units
from lab.__main__ import up
from lab.engine import Engine, connect
from lab.run import LabError, fail, say
from lab.settings import PROJECT, Settings, from_environment
from tests.faults.cell_run import nearest, run_cell
from tests.faults.cells import BEFORE, Cell, Outcome, core, fast, matrix, spread, steps_of, table, unplanned
from tests.faults.rig import Rig

#: What a cell's result depends on.
CODE = ("plugins", "roles", "playbooks")
#: Not with the lab, whose end they outlive.
KEPT = PROJECT / "tests" / "artifacts" / "faults"
#: From so many the next cell is chosen: enough for one that begins near, few enough to meet all kinds of faults soon.
NEXT = 12


def rig_on(engine: Engine, settings: Settings, way: str) -> Rig:
    """Return the Saleor-like unit on the lab, with a snapshot of its beginning."""
    rig = Rig(settings, engine, units.deployment(engine, settings, "saleor", way), settings.directory / "faults")
    if not rig.has_snapshot():
        rig.snapshot()
    return rig


def planned(rig: Rig) -> list[Cell]:
    """Return all cells; their steps are those that a move there and back does. Raises LabError if that fails."""
    kept = rig.directory / f"steps-{rig.deployed.way}-{fingerprint()}.json"
    if not kept.exists():
        rig.restore()
        plan = rig.succeed("plan").unit(rig.unit)["plan"]["steps"]
        for verb in (*BEFORE["reverse"], "reverse"):
            rig.succeed(verb, whole=verb == "prepare")
        done = steps_of(rig.journal())
        missing = unplanned(plan, done)
        if missing:
            raise LabError(f"the plan does not say these steps, which were done: {', '.join(missing)}")
        kept.write_text(json.dumps(done))
    return matrix({verb: [(step, seconds) for step, seconds in found] for verb, found in _load(kept).items()})


def fingerprint() -> str:
    """Return what changes when the code of moves does."""
    files = [file for folder in CODE for file in (PROJECT / folder).rglob("*") if file.suffix in (".py", ".yml", ".j2")]
    content = hashlib.sha256()
    for file in sorted(files):
        content.update(file.name.encode() + file.read_bytes())
    return content.hexdigest()[:12]


def main() -> int:
    """Run the cells; returns 0 if all that have run of those asked for passed."""
    arguments = _arguments()
    try:
        settings = from_environment(
            {"LAB_DISK": "4g", **os.environ, "LAB_NAME": os.environ.get("LAB_NAME") or "faults"}
        )
        up(settings, with_estate=False)
        engine = connect(settings, start=False)
        if engine is None:
            raise LabError("the lab's engine is gone")
        rig = rig_on(engine, settings, arguments.way)
        every = planned(rig)
        sets = {"all": every, "core": core(every), "fast": fast()}
        chosen = [cell for glob in arguments.match for cell in sets[arguments.set] if fnmatch.fnmatch(cell.id, glob)]
        outcomes = run_all(rig, list(dict.fromkeys(chosen)), again=arguments.again, minutes=arguments.minutes)
        known = results(rig)
    except LabError as error:
        return fail(str(error))
    say("\n" + table(list(known.values()), {name: [cell.id for cell in cells] for name, cells in sets.items()}))
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def results(rig: Rig) -> dict[str, Outcome]:
    """Return cell -> what came of it with the code of now."""
    lines = _lines(_kept(rig))
    return {each["cell"]: Outcome(**each) for line in lines if (each := json.loads(line))}


def run_all(rig: Rig, cells: Sequence[Cell], *, again: bool, minutes: float = math.inf) -> list[Outcome]:
    """Run the cells that have no result yet (with `again` also those that failed); returns the results that there are.

    Of the next few comes the one that begins nearest to where the one before it has left the unit. None is begun after
    `minutes`.
    """
    done = results(rig)
    left = spread(cell for cell in cells if cell.id not in done or (again and not done[cell.id].passed))
    until = time.monotonic() + minutes * 60
    while left and time.monotonic() < until:
        cell = nearest(rig, left[:NEXT])
        left.remove(cell)
        outcome = run_cell(rig, cell)
        done[cell.id] = outcome
        KEPT.mkdir(parents=True, exist_ok=True)
        with _kept(rig).open("a") as file:
            file.write(json.dumps(outcome.as_dict()) + "\n")
        word = "passed" if outcome.passed else f"FAILED: {'; '.join(outcome.problems)}"
        word += "" if outcome.hit else ", but its fault never came about"
        say(f"{len(left)} left; {cell.id}: {word} ({outcome.seconds:.0f} s)")
    return [done[cell.id] for cell in cells if cell.id in done]


def _kept(rig: Rig) -> Path:
    return KEPT / f"results-{rig.settings.debian}-{rig.deployed.way}-{fingerprint()}.jsonl"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--set", choices=["all", "core", "fast"], default="all", help="which cells (default: all)")
    parser.add_argument("--way", choices=units.WAYS, default="dokploy", help="how the unit is deployed (dokploy)")
    parser.add_argument("--match", nargs="+", default=["*"], help="only cells whose name matches one of these globs")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no cell after so many (default: all)")
    parser.add_argument("--again", action="store_true", help="run cells again that failed")
    return parser.parse_args()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _load(path: Path) -> Any:
    return json.loads(path.read_text())


if __name__ == "__main__":
    sys.exit(main())

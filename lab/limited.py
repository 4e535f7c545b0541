"""Real programs with a known demand in real, limited cgroups of this machine, for tests and benchmarks. Needs root.

True demand: what the programs use without a limit, and no less than arithmetic says of spinners and closed loops.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import hashlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils import _cgroup
from ansible_collections.evenkeel.swarm.plugins.module_utils._containers import Container
from ansible_collections.evenkeel.swarm.plugins.module_utils._taskstats import AUTO
from ansible_collections.evenkeel.swarm.plugins.module_utils._throttling import measure

ROOT = Path(_cgroup.DEFAULT_CGROUP_ROOT)
PARENT = "evenkeel-test"
PERIOD_US = 100_000
TOLERANCE = 0.05
WINDOW = 6.0
# How often a window is measured again that other work on the machine spoilt.
ATTEMPTS = 3
# Below this idle share, others take what the programs under test would have used.
IDLE_NEEDED = 0.15

Program = tuple[Callable[[], None], ...]


class LimitedGroup:
    """A cgroup named like a container's, on whatever cgroup version this machine has."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(32)
        self.tree = _cgroup.hierarchy(str(ROOT))
        parents = [ROOT] if self.tree.version == "v2" else [ROOT / "cpu", ROOT / "cpuacct"]
        if self.tree.version == "hybrid":
            parents.append(Path(self.tree.unified or ""))  # container engines join it, too: there is the pressure
        self.directories = [parent / PARENT / self.id for parent in parents]
        self.processes: list[int] = []

    def create(self) -> None:
        """Make the directories; raises OSError where cgroups can't be made."""
        if self.tree.version == "v2":
            (ROOT / "cgroup.subtree_control").write_text("+cpu")
        for directory in self.directories:
            directory.mkdir(parents=True)
            if self.tree.version == "v2":
                (directory.parent / "cgroup.subtree_control").write_text("+cpu")

    def limit(self, cores: float | None) -> None:
        """Set the CPU limit in cores, None for none."""
        quota = None if cores is None else round(cores * PERIOD_US)
        if self.tree.version == "v2":
            (self.directories[0] / "cpu.max").write_text(f"{quota or 'max'} {PERIOD_US}")
        else:
            (self.directories[0] / "cpu.cfs_quota_us").write_text(str(quota or -1))

    def start(self, body: Callable[[], None]) -> None:
        """Run `body` in a process of its own in the group."""
        process = os.fork()
        if process == 0:
            with contextlib.suppress(BaseException):
                self.join()
                body()
            os._exit(0)
        self.processes.append(process)

    def join(self) -> None:
        """Move the calling process into the group."""
        for directory in self.directories:
            (directory / "cgroup.procs").write_text(str(os.getpid()))

    def stop(self) -> None:
        """Kill everything in the group."""
        self.limit(None)
        # Also what the programs have started themselves.
        started = (self.directories[0] / "cgroup.procs").read_text().split()
        for process in {*self.processes, *map(int, started)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for process in self.processes:
            os.waitpid(process, 0)
        self.processes = []

    def remove(self) -> None:
        """Remove the group, and its parent if this was the last one in it."""
        for directory in self.directories:
            for _ in range(50):  # the kernel takes a moment to see the last process off
                with contextlib.suppress(OSError):
                    directory.rmdir()
                if not directory.exists():
                    break
                time.sleep(0.05)
            with contextlib.suppress(OSError):
                directory.parent.rmdir()

    def threads(self) -> int:
        """Return how many threads there are in the group."""
        return len(_cgroup.thread_ids(self.tree, f"{PARENT}/{self.id}") or ())

    def container(self) -> Container:
        """Return the container that an engine would list for it."""
        return Container(self.id, "under-test", "running", None, None, None, None)


@contextlib.contextmanager
def limited_group() -> Iterator[LimitedGroup]:
    """Make a group and take it away at the end, with all that runs in it; raises OSError where none can be made."""
    group = LimitedGroup()
    try:
        group.create()
        try:
            yield group
        finally:
            group.stop()
    finally:
        group.remove()


def spin() -> None:
    """Want a whole core, for ever."""
    while True:
        pass


def burn(seconds: float) -> None:
    """Use this much CPU time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def closed_loop(busy: float, idle: float) -> None:
    """Work, sleep, repeat: the next round begins when the last one is done, however long that took."""
    while True:
        burn(busy)
        time.sleep(idle)


def hash_forever(buffer: bytes) -> None:
    """Spin without holding the interpreter's lock."""
    while True:  # a large buffer: the lock of the interpreter is free while it is hashed
        hashlib.sha256(buffer)


def busy_threads(count: int) -> None:
    """Want as many cores, in the threads of one process."""
    buffer = bytes(32 * 1024 * 1024)
    for _ in range(count - 1):
        threading.Thread(target=hash_forever, args=(buffer,), daemon=True).start()
    hash_forever(buffer)


def idle_threads(count: int) -> None:
    """Have this many threads that only wait."""
    threading.stack_size(64 * 1024)
    wait = threading.Event()
    for _ in range(count - 1):
        threading.Thread(target=wait.wait, daemon=True).start()
    wait.wait()


def every(interval: float, action: Callable[[], object]) -> None:
    """Call `action` on a fixed grid, catching up when late: the arrivals of an open loop don't wait."""
    due = time.monotonic()
    while True:
        action()
        due += interval
        time.sleep(max(0.0, due - time.monotonic()))


def short_lived_processes() -> None:
    """Want a whole core, 20 ms of it in each of a chain of processes."""
    while True:
        child = os.fork()
        if child == 0:
            burn(0.02)
            os._exit(0)
        os.waitpid(child, 0)


def short_lived_threads(work: float, idle: float = 0.0) -> None:
    """Run a closed loop whose every round is done by a new thread."""
    done = threading.Lock()

    def work_once() -> None:
        burn(work)
        done.release()

    done.acquire()
    while True:
        # Not threading.Thread: its start() waits for the new thread, so for a while both would want to run.
        _thread.start_new_thread(work_once, ())
        done.acquire()
        time.sleep(idle)


def open_loop(workers: int, interval: float, work: float) -> Program:
    """Jobs arrive whether or not the last one is done; workers take them from a pipe."""
    jobs, arrivals = os.pipe()

    def work_off() -> None:
        while os.read(jobs, 1):
            burn(work)

    return (lambda: every(interval, lambda: os.write(arrivals, b"j")), *[work_off] * workers)


SPINNER: Program = (spin,)
PROGRAMS: dict[str, Callable[[], Program]] = {
    "1 spinner": lambda: SPINNER,
    "2 spinners": lambda: SPINNER * 2,
    "closed 4 x (30, 70)": lambda: (functools.partial(closed_loop, 0.030, 0.070),) * 4,
    "closed 1 x (5, 45)": lambda: (functools.partial(closed_loop, 0.005, 0.045),),
    "open 3 ms every 10 ms": lambda: open_loop(4, 0.010, 0.003),
    "burst 2 x 150 ms/s": lambda: (lambda: every(1.0, lambda: burn(0.150)),) * 2,
}


@dataclass(frozen=True)
class Row:
    """A row of the specification's truth table: a program under a limit, what it wants and what E was found to be.

    `truth` None: measured without a limit. `upper` None: there the upper bound is not what counts.
    """

    program: str
    limit: float
    truth: float | None
    upper: float | None
    regimes: frozenset[str]

    @property
    def name(self) -> str:
        """The row's name."""
        return f"{self.program} at {self.limit:g}"


UNIDENTIFIABLE, SATURATED, UNSATURATED = (frozenset({name}) for name in ("unidentifiable", "saturated", "unsaturated"))
#: How far above the demand the nearest of the table's limits lies: 0.32 for 0.307.
ABOVE = 0.32 / 0.307
TRUTH_TABLE = (
    Row("1 spinner", 0.2, 1.0, 0.999, UNIDENTIFIABLE),
    Row("2 spinners", 0.2, 2.0, 1.99, UNIDENTIFIABLE),
    Row("closed 4 x (30, 70)", 0.25, 1.2, 1.193, SATURATED),
    Row("closed 4 x (30, 70)", 0.5, 1.2, 1.209, SATURATED),
    # Now and then a period has room left: a queue that is worked off would look like that, too.
    Row("closed 4 x (30, 70)", 1.0, 1.2, 1.199, SATURATED | UNIDENTIFIABLE),
    Row("closed 1 x (5, 45)", 0.05, 0.1, 0.101, SATURATED),
    Row("open 3 ms every 10 ms", 0.20, None, 4.15, UNIDENTIFIABLE),
    # Held up once, it catches up at the limit: then how much it wants is open.
    Row("open 3 ms every 10 ms", 0.32, None, 0.321, UNSATURATED | SATURATED | UNIDENTIFIABLE),
    # The limit lies above what it wants, but a closed loop that works in step looks the same.
    Row("burst 2 x 150 ms/s", 0.35, 0.3, None, UNSATURATED | UNIDENTIFIABLE),
)


def observe(
    group: LimitedGroup, program: Program, limit: float | None, window: float = WINDOW, accounting: str = AUTO
) -> dict[str, Any]:
    """Run a program under a limit and return {"node": ..., "container": ...} as the module reports them."""
    group.limit(limit)
    for body in program:
        group.start(body)
    time.sleep(0.7)
    result = measure(lambda: [group.container()], window, 1.0, str(ROOT), "/proc", accounting=accounting)
    group.stop()
    return {"node": result["node"], "container": result["containers"][0]}


def true_demand(group: LimitedGroup, row: Row) -> float:
    """Return the cores that a row's program uses without a limit, measured while nothing held it up if possible.

    Also where arithmetic tells, as it leaves out what a round costs besides its work: next to nothing on a real
    processor, much on an emulated one. Of equal processes one is enough, and nothing holds that one up.
    """
    program = PROGRAMS[row.program]()
    alone = program[:1] if len(set(program)) == 1 else program
    for _ in range(ATTEMPTS):
        seen = observe(group, alone, None)
        if seen["node"]["cpu_idle_share"] >= IDLE_NEEDED:
            break
    used = float(seen["container"]["cpu_used"]) * len(program) / len(alone)
    return max(row.truth or 0.0, used)


def limit_for(row: Row, wanted: float) -> float:
    """Return the row's limit. One that the table has above the demand is above it here, too, whatever rounds cost."""
    return max(row.limit, ABOVE * wanted) if row.regimes & UNSATURATED else row.limit


def is_right(demand: Mapping[str, Any], wanted: float) -> bool:
    """Say whether a demand is the truth within the tolerance, or null with an interval that holds it."""
    estimate, lower, upper = demand["estimate"], demand["lower"], demand["upper"]
    if estimate is not None:
        return bool(abs(estimate - wanted) <= TOLERANCE * wanted)
    return bool(lower * (1 - TOLERANCE) <= wanted and (upper is None or wanted <= upper * (1 + TOLERANCE)))

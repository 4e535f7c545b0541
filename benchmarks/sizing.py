"""Limits sized on synthetic histories whose truth is known, and how they fare in the days that follow. Needs no lab.

A service's true demand is drawn for three weeks in steps of 20 seconds. Two weeks are played through the limit that it
has; what a sampler would see of them (windows of a minute) is the history. Each recommender sizes on that history,
and the third week is played through what it said.

Closed loops wait for each piece of work before they ask for the next: what the limit cuts is never done, and their
threads still pause, so the demand is identified (with an error, as measured). Open loops queue what the limit cuts
(up to a time-out) and never pause while there is a queue, so the demand is unidentifiable.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import mean

from ansible_collections.evenkeel.swarm.plugins.module_utils import _anchors, _demand
from ansible_collections.evenkeel.swarm.plugins.module_utils._history import LOOK, PROBE, Memory, Record
from ansible_collections.evenkeel.swarm.plugins.module_utils._sizing import Settings, size_service
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import MIB

from benchmarks.bench import Bench
from benchmarks.report import Check, Report

STEP = 20.0
WINDOW = 60.0
STEPS = int(WINDOW / STEP)
PER_DAY = int(86400 / STEP)
HISTORY_DAYS, REPLAY_DAYS = 14, 7
START = datetime(2026, 1, 5, tzinfo=UTC)
# Work that has waited this long for a CPU is given up by whoever asked for it.
TIMEOUT = 600.0
# The estimator's error in the saturated regime: its tests allow 5 %.
ESTIMATE_ERROR = 0.02
# On histories that no limit held down, all see the same; then ours may need this much more room for the same cut.
SLACK_TOLERANCE = 0.02
# What the oracle, who knows the days to come, lets a limit cut.
ORACLE_CUT = 0.01

Shape = Callable[[random.Random, int], list[float]]


@dataclass(frozen=True)
class Service:
    """`demand` in cores for each step of history and replay; `workers` bounds what an open loop's threads can show."""

    kind: str
    demand: Sequence[float]
    open_loop: bool
    workers: int
    seed: int


@dataclass(frozen=True)
class Played:
    """What a limit made of a demand, per step: cores used, whether it was throttled; work cut or late, core steps."""

    used: Sequence[float]
    throttled: Sequence[bool]
    missed: float


@dataclass(frozen=True)
class Outcome:
    """Shares: of the limit that was not used, of the demand that was cut or late, of the windows with throttling."""

    slack: float
    cut: float
    throttled: float


# --- demand ------------------------------------------------------------------------------------------------------


def diurnal(chance: random.Random, steps: int) -> list[float]:
    """A day with one broad peak, quieter weekends, noise that lasts a few minutes."""
    base, swing, weekend = chance.uniform(0.2, 0.8), chance.uniform(0.5, 0.9), chance.uniform(0.5, 0.9)
    peak = chance.uniform(0.4, 0.8)
    noise = _noise(chance, steps, 0.12)
    return [
        base
        * (1 + swing * math.cos(2 * math.pi * (step / PER_DAY - peak)))
        * (weekend if step // PER_DAY % 7 >= 5 else 1.0)
        * noise[step]
        for step in range(steps)
    ]


def bursty(chance: random.Random, steps: int) -> list[float]:
    """A low level with bursts of one to fifteen minutes, a few each hour, three to eight times as high."""
    base = chance.uniform(0.05, 0.2)
    demand = [base * noise for noise in _noise(chance, steps, 0.1)]
    step = 0
    while True:
        step += int(chance.expovariate(1 / (chance.uniform(15, 30) * 60 / STEP))) + 1
        length = int(chance.uniform(60, 900) / STEP)
        if step + length >= steps:
            return demand
        height = base * chance.uniform(3, 8)
        demand[step : step + length] = [max(height, level) for level in demand[step : step + length]]
        step += length


def growing(chance: random.Random, steps: int) -> list[float]:
    """A day's pattern that grows by one to four per cent a day."""
    growth = chance.uniform(0.01, 0.04)
    return [level * (1 + growth * step / PER_DAY) for step, level in enumerate(diurnal(chance, steps))]


def _noise(chance: random.Random, steps: int, deviation: float) -> list[float]:
    """Factors around 1 that are alike within some five minutes (a first-order autoregression, exponentiated)."""
    memory = math.exp(-STEP / 300)
    fresh = deviation * math.sqrt(1 - memory**2)
    level, factors = 0.0, []
    for _ in range(steps):
        level = memory * level + chance.gauss(0, fresh)
        factors.append(math.exp(level))
    return factors


SHAPES: dict[str, Shape] = {"diurnal": diurnal, "bursty": bursty, "growing": growing}


def fleet(seed: int, days: int = HISTORY_DAYS + REPLAY_DAYS) -> list[Service]:
    """Draw a service of each kind, closed and open."""
    services = []
    for number, (kind, shape) in enumerate(SHAPES.items()):
        for open_loop in (False, True):
            chance = random.Random(seed * 1000 + number * 10 + open_loop)  # noqa: S311 (reproducible, not secret)
            demand = shape(chance, days * PER_DAY)
            services.append(Service(kind, demand, open_loop, math.ceil(max(demand)) + chance.randint(1, 4), seed))
    return services


# --- a limit -----------------------------------------------------------------------------------------------------


def play(demand: Sequence[float], limit: float, *, open_loop: bool) -> Played:
    """Play a demand through a CPU limit. A closed loop's excess is never asked for; an open loop's waits its turn."""
    if not open_loop:
        return Played(
            [min(wanted, limit) for wanted in demand],
            [wanted > limit for wanted in demand],
            math.fsum(wanted - limit for wanted in demand if wanted > limit),
        )
    backlog = missed = 0.0
    most = limit * TIMEOUT / STEP
    used, throttled = [], []
    for wanted in demand:
        served = min(backlog + wanted, limit)
        left = backlog + wanted - served
        missed += min(wanted, left)
        backlog = min(left, most)
        used.append(served)
        throttled.append(left > 0)
    return Played(used, throttled, missed)


def observe(service: Service, limit: float, first: int, last: int, source: str = LOOK) -> list[Record]:
    """Return what a sampler would see of the steps from `first` to `last` under a limit, a record a window."""
    demand = service.demand[first:last]
    played = play(demand, limit, open_loop=service.open_loop)
    chance = random.Random(service.seed)  # noqa: S311 (reproducible, not secret)
    records = []
    for index in range(0, len(demand) - STEPS + 1, STEPS):
        window = slice(index, index + STEPS)
        used = math.fsum(played.used[window]) / STEPS
        share = sum(played.throttled[window]) / STEPS
        truth = math.fsum(demand[window]) / STEPS * (1 + chance.gauss(0, ESTIMATE_ERROR))
        records.append(
            Record(
                at=START + timedelta(seconds=(first + index + STEPS) * STEP),
                source=source,
                window_seconds=WINDOW,
                service=service.kind,
                tasks=1,
                cpu_used=used,
                cpu_limit=limit,
                throttled_ratio=share,
                demand=_estimate(used, limit, share, truth, service),
                memory=Memory(None, None, None),
                oom_kills=0,
                restarts=0,
            )
        )
    return records


def _estimate(used: float, limit: float, throttled: float, truth: float, service: Service) -> _demand.Demand:
    """Say what the estimator would say (the rules of _demand, on an otherwise idle node)."""
    if throttled < _demand.ALWAYS_THROTTLED_SHARE and used < _demand.SATURATED_SHARE * limit:
        return _demand.Demand(used, used, None, _demand.UNSATURATED, "")
    if service.open_loop:
        return _demand.Demand(None, used, float(service.workers), _demand.UNIDENTIFIABLE, "")
    estimate = max(used, truth)
    return _demand.Demand(estimate, used, estimate, _demand.SATURATED, "")


def probe(service: Service, limit: float, history: Sequence[Record]) -> list[Record]:
    """Probe four times in the last day of a history, each time that a window could not tell, and keep the answers.

    The limit is doubled for five minutes, up to three times, until the demand is identified.
    """
    answers = []
    for number in range(4):
        since = history[-1].at - timedelta(hours=24 - 6 * number)
        moment = next((each.at for each in history if each.at >= since and each.demand.estimate is None), None)
        if moment is not None:
            answers += _probe_at(service, limit, int((moment - START).total_seconds() / STEP) - STEPS, history[-1].at)
    return answers


def _probe_at(service: Service, limit: float, first: int, at: datetime) -> list[Record]:
    for factor in (2, 4, 8):
        answer = observe(service, limit * factor, first, first + 5 * STEPS, PROBE)[-1]
        if answer.demand.estimate is not None:
            return [replace(answer, at=at)]
    return []


# --- recommenders ------------------------------------------------------------------------------------------------


def _ours(records: Sequence[Record]) -> float:
    target = size_service(records, Settings()).cpu.target
    assert target is not None
    return target


def _anchor(anchor: _anchors.Anchor) -> float:
    assert anchor.cpu.target is not None
    return anchor.cpu.target


OURS, PROBED, VPA, KRR, ORACLE = "ours", "ours, probed", "VPA", "KRR", "oracle"


def recommended(name: str, service: Service, limit: float, history: Sequence[Record], first: int) -> float:
    """Return the limit that one of them recommends; `first` is where the days begin that the oracle knows."""
    if name == OURS:
        return _ours(history)
    if name == PROBED:
        return _ours([*history, *probe(service, limit, history)])
    if name == ORACLE:
        return oracle(service, first)
    return _anchor(_anchors.vpa(history) if name == VPA else _anchors.krr(history))


def oracle(service: Service, first: int) -> float:
    """Return the smallest limit that cuts at most ORACLE_CUT of the demand from `first` on."""
    demand = service.demand[first:]
    low, high = 0.0, max(demand)
    for _ in range(15):
        middle = (low + high) / 2
        cut = play(demand, middle, open_loop=service.open_loop).missed / math.fsum(demand)
        low, high = (low, middle) if cut <= ORACLE_CUT else (middle, high)
    return high


def replay(service: Service, limit: float, first: int) -> Outcome:
    """Play the days from `first` on through a limit."""
    demand = service.demand[first:]
    played = play(demand, limit, open_loop=service.open_loop)
    windows = [any(played.throttled[index : index + STEPS]) for index in range(0, len(demand), STEPS)]
    return Outcome(
        slack=1 - math.fsum(played.used) / (limit * len(demand)),
        cut=played.missed / math.fsum(demand),
        throttled=sum(windows) / len(windows),
    )


# --- cases -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Under which limit the history was made, for which loops, and on how many days in a row limits are sized anew."""

    name: str
    open_loop: bool
    held: bool
    rounds: int = 1


CASES = (
    Case("closed, held", open_loop=False, held=True),
    Case("closed, free", open_loop=False, held=False),
    Case("open, held", open_loop=True, held=True),
    Case("open, held, daily", open_loop=True, held=True, rounds=4),
    Case("open, free", open_loop=True, held=False),
)


def first_limit(service: Service, *, held: bool) -> float:
    """Return a limit that two fifths of the history's demand lie above, or one that nothing comes near."""
    past = sorted(service.demand[: HISTORY_DAYS * PER_DAY])
    return past[int(0.6 * len(past))] if held else 3 * past[-1]


def sized(name: str, case: Case, service: Service, days: int = HISTORY_DAYS) -> float:
    """Return the limit after `rounds` of sizing, a day apart, each on the history up to then."""
    now = days * PER_DAY
    limit = first_limit(service, held=case.held)
    history = observe(service, limit, 0, now)
    for number in range(case.rounds):
        limit = recommended(name, service, limit, history, (days + case.rounds - 1) * PER_DAY)
        if number + 1 < case.rounds and name != ORACLE:
            history = [*history, *observe(service, limit, now, now + PER_DAY)]
            now += PER_DAY
    return limit


@dataclass(frozen=True)
class Line:
    """What one recommender came to in one case: means over the services, the worst cut, and slack at ours' cut."""

    case: str
    name: str
    slack: float
    cut: float
    worst: float
    throttled: float
    alike: float | None = None


def compare(case: Case, services: Sequence[Service], days: int = HISTORY_DAYS) -> list[Line]:
    """Return a line for each recommender in one case."""
    chosen = [service for service in services if service.open_loop is case.open_loop]
    first = (days + case.rounds - 1) * PER_DAY
    names = [OURS, *([PROBED] if case.open_loop and case.held else []), VPA, KRR, ORACLE]
    limits = {name: [sized(name, case, service, days) for service in chosen] for name in names}
    lines = {name: _line(case, name, chosen, limits[name], first) for name in names}
    for name in (VPA, KRR):
        alike = _scaled(chosen, limits[name], first, lines[OURS].cut)
        lines[name] = replace(lines[name], alike=alike)
    return list(lines.values())


def _line(case: Case, name: str, services: Sequence[Service], limits: Sequence[float], first: int) -> Line:
    outcomes = [replay(service, limit, first) for service, limit in zip(services, limits, strict=True)]
    return Line(
        case.name,
        name,
        slack=mean(each.slack for each in outcomes),
        cut=mean(each.cut for each in outcomes),
        worst=max(each.cut for each in outcomes),
        throttled=mean(each.throttled for each in outcomes),
    )


def _scaled(services: Sequence[Service], limits: Sequence[float], first: int, cut: float) -> float:
    """Return the slack of all limits times the one factor that makes them cut as much as another recommender's."""
    low, high = -4.0, 6.0
    outcomes: list[Outcome] = []
    for _ in range(10):
        middle = (low + high) / 2
        outcomes = [replay(service, limit * 2**middle, first) for service, limit in zip(services, limits, strict=True)]
        low, high = (low, middle) if mean(each.cut for each in outcomes) <= cut else (middle, high)
    return mean(each.slack for each in outcomes)


# --- memory ------------------------------------------------------------------------------------------------------

MEMORY_WINDOW = 600.0
MEMORY_PER_DAY = int(86400 / MEMORY_WINDOW)


def working_sets(kind: str, chance: random.Random, days: int) -> list[float]:
    """Draw bytes for every ten minutes: steady, with jobs of uneven size, growing; or what a leak adds to a base."""
    base = chance.uniform(60, 1000) * MIB
    noise = [base * (1 + chance.gauss(0, 0.01)) for _ in range(days * MEMORY_PER_DAY)]
    if kind == "jobs":
        for day in range(days):
            begin = day * MEMORY_PER_DAY + chance.randrange(MEMORY_PER_DAY - 6)
            more = base * abs(chance.gauss(0.3, 0.1))
            noise[begin : begin + 6] = [size + more for size in noise[begin : begin + 6]]
    if kind == "growing":
        noise = [size * (1 + 0.015 * index / MEMORY_PER_DAY) for index, size in enumerate(noise)]
    if kind == "leaking":
        speed = base * chance.uniform(0.1, 0.3) / MEMORY_PER_DAY
        noise = [size + index * speed for index, size in enumerate(noise)]
    return noise


def live(sizes: Sequence[float], limit: float, *, leaks: bool) -> tuple[list[float], list[int]]:
    """Return the working sets under a limit and the kills so far; a kill empties a leak, other work tries again."""
    freed = kills = 0.0
    used, killed = [], []
    over = False
    for size in sizes:
        wanted = size - freed
        if wanted > limit:
            # A peak that lasts is one kill, not one every ten minutes.
            kills += not over
            freed += wanted - sizes[0] if leaks else 0.0
        over = wanted > limit and not leaks
        used.append(min(size - freed, limit))
        killed.append(int(kills))
    return used, killed


def memory_history(sizes: Sequence[float], limit: float, *, leaks: bool) -> list[Record]:
    """Return what a sampler would see of memory under a limit."""
    used, killed = live(sizes, limit, leaks=leaks)
    return [
        Record(
            at=START + timedelta(seconds=index * MEMORY_WINDOW),
            source=LOOK,
            window_seconds=MEMORY_WINDOW,
            service="a",
            tasks=1,
            cpu_used=0.1,
            cpu_limit=None,
            throttled_ratio=None,
            demand=_demand.Demand(0.1, 0.1, 0.1, _demand.UNSATURATED, ""),
            memory=Memory(int(size), None, int(limit)),
            oom_kills=kills,
            restarts=kills,
        )
        for index, (size, kills) in enumerate(zip(used, killed, strict=True))
    ]


@dataclass(frozen=True)
class MemoryLine:
    """What one recommender's memory limits came to: mean slack, kills in a week of a service."""

    kind: str
    name: str
    slack: float
    kills: float


def compare_memory(kind: str, *, tight: bool, seeds: Sequence[int]) -> list[MemoryLine]:
    """Size memory on two weeks, with a limit that killed now and then or one three times as large, and live a week."""
    found: dict[str, list[tuple[float, int]]] = {}
    leaks = kind == "leaking"
    for seed in seeds:
        sizes = working_sets(kind, random.Random(seed), HISTORY_DAYS + REPLAY_DAYS)  # noqa: S311
        past, future = sizes[: HISTORY_DAYS * MEMORY_PER_DAY], sizes[HISTORY_DAYS * MEMORY_PER_DAY :]
        limit = max(past) * (0.6 if leaks else 0.97) if tight else max(past) * 3
        history = memory_history(past, limit, leaks=leaks)
        targets = {
            OURS: size_service(history, Settings()).memory.target,
            VPA: _anchors.vpa(history).memory.target,
            KRR: _anchors.krr(history).memory.target,
            ORACLE: max(future) + 1,
        }
        # A leak goes on from where the history left it: here from its base, as after a restart.
        future = [size - future[0] + sizes[0] for size in future] if leaks else future
        for name, target in targets.items():
            assert target is not None
            used, killed = live(future, target, leaks=leaks)
            found.setdefault(name, []).append((1 - mean(used) / target, killed[-1]))
    label = f"{kind}, {'killed' if tight else 'free'}"
    return [
        MemoryLine(label, name, mean(slack for slack, _ in each), mean(kills for _, kills in each))
        for name, each in found.items()
    ]


# --- the report --------------------------------------------------------------------------------------------------


def run(bench: Bench) -> Report:
    """Compare all recommenders in all cases, on as many fleets as there are repetitions; needs no lab."""
    return report(range(bench.repetitions))


def report(seeds: Sequence[int]) -> Report:
    """Return the tables and what must hold for the fleets of these seeds."""
    services = [service for seed in seeds for service in fleet(seed)]
    lines = [line for case in CASES for line in compare(case, services)]
    memory = [
        line
        for kind in ("steady", "jobs", "growing", "leaking")
        for tight in (False, True)
        for line in compare_memory(kind, tight=tight, seeds=range(20))
    ]
    return Report(
        name="sizing",
        question="CPU and memory limits against truths that are known",
        series=[],
        checks=[check for case in CASES for check in _checks([line for line in lines if line.case == case.name])],
        notes=[*table(lines), "", *memory_table(memory), "", *REMARKS],
    )


REMARKS = (
    f"{HISTORY_DAYS} days of history, {REPLAY_DAYS} days replayed (daily: 4); means over services.",
    "cut: share of the demand that was cut (closed loops) or came late (open loops); thr.: windows with throttling.",
    "held: two fifths of the demand lay above the limit while the history was made; free: nothing came near it;",
    "daily: sized anew on four days in a row. The oracle knows the days to come and cuts 1 %.",
    "at ours' cut: the slack of VPA and KRR if all their limits were scaled by one factor (which nobody knows",
    "beforehand) until they cut as much as ours.",
    "Slack alone says little: limits that are too small have none.",
)


def _checks(lines: Sequence[Line]) -> list[Check]:
    by_name = {line.name: line for line in lines}
    ours = by_name[OURS]
    best = min(by_name[VPA].cut, by_name[KRR].cut)
    alike = min(line.alike for line in lines if line.alike is not None) + SLACK_TOLERANCE
    return [
        Check(f"{ours.case}: cut, ours", ours.cut, best, at_least=False, unit="%"),
        Check(f"{ours.case}: slack, ours; theirs at ours' cut + 2", ours.slack, alike, at_least=False, unit="%"),
    ]


def table(lines: Sequence[Line]) -> list[str]:
    """Write the comparison of CPU limits as a table."""
    alike = "at ours' cut"
    rows = [f"{'CPU':20}{'':14}{'slack':>8}{'cut':>8}{'worst':>8}{'thr.':>8}{alike:>14}"]
    rows += [
        f"{line.case:20}{line.name:14}{line.slack:8.1%}{line.cut:8.2%}{line.worst:8.2%}{line.throttled:8.1%}"
        f"{'' if line.alike is None else f'{line.alike:.1%}':>14}".rstrip()
        for line in lines
    ]
    return rows


def memory_table(lines: Sequence[MemoryLine]) -> list[str]:
    """Write the comparison of memory limits as a table."""
    rows = [f"{'Memory':20}{'':14}{'slack':>8}{'kills a week':>14}"]
    return rows + [f"{line.kind:20}{line.name:14}{line.slack:8.1%}{line.kills:14.2f}" for line in lines]

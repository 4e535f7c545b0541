# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a move will do, before it does anything: a document for programs, made of what was seen. No I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import (
    apply_edit,
    read_resources,
    read_settings,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.limits import limits_edit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import APP, FILES, Part, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Facts, Move, Readiness, Trap
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.pin import (
    SAFE_UPDATE,
    constraint,
    excluding,
    stop_grace,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.survey import HostSeen, Seen
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.traps import networks_of
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage, Step
from ansible_collections.evenkeel.swarm.plugins.module_utils._tasks import occupies_node

_NANO = 10**9
#: How the codes of traps end that only say what was not looked at.
NOT_SEEN = "_not_seen"
#: Phases after which there is nothing left to do.
FINISHED = ("switched", "completed")
# Beside the copies the target's engine needs room for what they write until the switch, and for its own work.
_DISK_RESERVE = 1 << 30
_RESOURCES = (
    ("limits", "cpus"),
    ("reservations", "cpus"),
    ("limits", "memory"),
    ("reservations", "memory"),
)


def build_plan(
    move: Move,
    parts: Sequence[Part],
    facts: Mapping[str, Facts],
    seen: Seen,
    *,
    phase: str,
    steps: Mapping[str, Sequence[Stage]],
    readiness: Mapping[str, Readiness] | None = None,
) -> dict[str, Any]:
    """Return the plan of a unit's move.

    `facts`, `readiness`: by part key. `phase`: where the unit is, as the engine names it; in one of FINISHED nothing is
    planned. `steps`: verb -> its stages. Bytes, seconds, cores; None is "not measured". `hash` is of what decides what
    is done, not of sizes and loads: the same world has the same hash.
    """
    if phase in FINISHED:
        return empty_plan(move.unit, phase)
    base = {"unit": move.unit.name, "source": move.source.name, "target": move.target.name, "phase": phase}
    told = [trap for part in parts if part.key in facts for trap in facts[part.key].traps]
    traps = _unique([*seen.traps, *told, *_disk_traps(move, parts, facts, seen)])
    shown = [_part(part, facts.get(part.key), seen, (readiness or {}).get(part.key)) for part in parts]
    plan = {
        **base,
        "empty": False,
        "refused": any(trap.refuses for trap in traps),
        "parts": shown,
        "disk": _disk(parts, facts, seen),
        "target_before": _load(move, seen, seen.target, _tasks_on(move, seen)),
        "target_after": _load(move, seen, seen.target, [*_tasks_on(move, seen), *_arriving(move, parts, seen)]),
        "outage": _outage(parts, facts),
        "duration": _duration(parts, facts, seen),
        "networks": _networks(parts, seen),
        "clients": {part.service: list(seen.clients.get(part.service, [])) for part in _services(parts)},
        "traps": [{"code": t.code, "text": t.text, "remedy": t.remedy, "refuses": t.refuses} for t in traps],
        "steps": {verb: list(step_rows(stages)) for verb, stages in steps.items()},
        "dokploy": {part.service: dokploy_record(move, part, seen) for part in _services(parts)},
    }
    return {**plan, "hash": _hash(_what_matters(plan, parts, seen))}


def empty_plan(unit: Unit, phase: str) -> dict[str, Any]:
    """Return the plan of a unit that is where it was to go."""
    base = {"unit": unit.name, "source": unit.home, "target": unit.target, "phase": phase}
    return {**base, "empty": True, "parts": [], "traps": [], "steps": {}, "refused": False, "hash": _hash(base)}


def step_rows(stages: Iterable[Stage]) -> Iterable[dict[str, Any]]:
    """Return the steps of stages in order: {"id", "title", "host", "changes"}."""
    for stage in stages:
        if isinstance(stage, Step):
            yield {"id": stage.id, "title": stage.title, "host": stage.host, "changes": stage.changes}
        else:
            for lane in stage.lanes:
                yield from step_rows(lane)


def dokploy_record(move: Move, part: Part, seen: Seen) -> dict[str, Any]:
    """Return what to enter in Dokploy's own record of a service, so that its next deploy keeps what the move set.

    `placementSwarm` and `updateConfigSwarm` are JSON, the limits strings of integers, the stop grace nanoseconds.
    """
    spec = seen.services[part.service]["Spec"]
    both = [seen.nodes[move.source.name], seen.nodes[move.target.name]]
    out = excluding(spec, move.unit, both)
    placement = spec["TaskTemplate"].get("Placement") or {}
    lease = constraint(move.unit)
    kept = [each for each in placement.get("Constraints") or [] if each not in out and each.replace(" ", "") != lease]
    replicas = max(1, read_settings(spec).replicas or 0)
    record: dict[str, Any] = {
        "placementSwarm": json.dumps({"Constraints": [*kept, lease], "MaxReplicas": replicas}),
        "updateConfigSwarm": json.dumps({"Parallelism": 1, **SAFE_UPDATE}),
        "stopGracePeriodSwarm": round(stop_grace(spec) * _NANO),
    }
    limits = _after(part, spec)
    for name, field in (("cpuLimit", ("limits", "cpus")), ("memoryLimit", ("limits", "memory"))):
        if limits[field]:
            record[name] = str(limits[field])
    return record


def _services(parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if part.kind != FILES]


def _part(part: Part, facts: Facts | None, seen: Seen, ready: Readiness | None) -> dict[str, Any]:
    image = seen.images.get(part.service) if part.kind != FILES else None
    spec = seen.services[part.service]["Spec"]
    return {
        "key": part.key,
        "kind": part.kind,
        "service": part.service,
        "users": list(part.users),
        "volumes": dict(part.volumes),
        "mover": part.member.mover,
        "bytes": None if facts is None else facts.bytes,
        "outage": None if facts is None else facts.outage,
        "detail": {} if facts is None else dict(facts.detail),
        "replicas": None if part.kind == FILES else read_settings(spec).replicas,
        "image": None
        if image is None
        else {"reference": image.reference, "id": image.id, "on_target": image.on_target},
        "ready": None if ready is None else {"ready": ready.ready, "text": ready.text, **ready.numbers},
    }


def _after(part: Part, spec: Mapping[str, Any]) -> Mapping[tuple[str, str], int]:
    """Return limits and reservations of a service on the unit's target; nano-CPUs, bytes, 0 for none."""
    edited = dict(spec)
    if part.member.limits:
        edited = apply_edit(edited, limits_edit(part.service, part.member.limits))
    return read_settings(edited).values


# --- room on the target ------------------------------------------------------------------------------------------


def _copied(parts: Sequence[Part], facts: Mapping[str, Facts], seen: Seen) -> list[int | None]:
    """Return the bytes that the target will hold more: data, and images that it lacks."""
    data = [facts[part.key].bytes if part.key in facts else None for part in parts if part.kind != APP]
    missing = {image.id: image.bytes for image in seen.images.values() if not image.on_target}
    return [*data, *missing.values()]


def _disk(parts: Sequence[Part], facts: Mapping[str, Facts], seen: Seen) -> dict[str, Any]:
    copied = _copied(parts, facts, seen)
    needed = None if None in copied else sum(each for each in copied if each is not None)
    return {"needed": needed, "free": seen.target.disk_free, "total": seen.target.disk_total}


def _disk_traps(move: Move, parts: Sequence[Part], facts: Mapping[str, Facts], seen: Seen) -> list[Trap]:
    known = sum(each for each in _copied(parts, facts, seen) if each is not None)
    if seen.target.disk_free is None or known + _DISK_RESERVE <= seen.target.disk_free:
        return []
    text = f"{move.target.name} has {seen.target.disk_free} bytes free, and {known} are to be copied there"
    remedy = f"free some: {_DISK_RESERVE} bytes must be left beside the copies"
    return [Trap("disk_full", text, remedy, refuses=True)]


def _tasks_on(move: Move, seen: Seen) -> list[Mapping[tuple[str, str], int]]:
    return [
        read_resources(task["Spec"])
        for task in seen.tasks
        if occupies_node(task) and task["NodeID"] == move.target.node.id
    ]


def _arriving(move: Move, parts: Sequence[Part], seen: Seen) -> list[Mapping[tuple[str, str], int]]:
    arriving = []
    for part in _services(parts):
        spec = seen.services[part.service]["Spec"]
        there = [
            task
            for task in seen.tasks
            if task["ServiceID"] == seen.services[part.service]["ID"]
            and occupies_node(task)
            and task["NodeID"] == move.target.node.id
        ]
        missing = (read_settings(spec).replicas or 0) - len(there)
        arriving += [_after(part, spec)] * max(0, missing)
    return arriving


def _load(move: Move, seen: Seen, host: HostSeen, tasks: Sequence[Mapping[tuple[str, str], int]]) -> dict[str, Any]:
    """Return sums of what the tasks on the target may use and have reserved, beside what it has."""
    node = seen.nodes[move.target.name]
    sums = {f"{section}_{name}": sum(task[section, name] for task in tasks) for section, name in _RESOURCES}
    return {
        "tasks": len(tasks),
        "without_cpu_limit": sum(not task["limits", "cpus"] for task in tasks),
        "without_memory_limit": sum(not task["limits", "memory"] for task in tasks),
        "cpus": node.nano_cpus / _NANO,
        "memory": node.memory,
        "memory_available": host.memory_available,
        "limits_cpus": sums["limits_cpus"] / _NANO,
        "reservations_cpus": sums["reservations_cpus"] / _NANO,
        "limits_memory": sums["limits_memory"],
        "reservations_memory": sums["reservations_memory"],
    }


# --- time --------------------------------------------------------------------------------------------------------


def _outage(parts: Sequence[Part], facts: Mapping[str, Facts]) -> dict[str, Any]:
    """Return how long nobody can write, as far as somebody has measured it; parts with data are switched in a row."""
    stateful = [part for part in parts if part.kind != APP]
    known = [facts[part.key].outage for part in stateful if part.key in facts]
    if not stateful:
        how = "no part has data; stop and start of the services are not measured"
        return {"seconds": None, "how": how}
    missing = [part.key for part in stateful if part.key not in facts or facts[part.key].outage is None]
    if missing:
        return {"seconds": None, "how": f"not measured yet for {', '.join(missing)}"}
    how = "sum over the parts with data, as their movers measured it; stop and start of the other services come on top"
    return {"seconds": sum(each for each in known if each is not None), "how": how}


def _duration(parts: Sequence[Part], facts: Mapping[str, Facts], seen: Seen) -> dict[str, Any]:
    """Return how long prepare and precopy take at least: the bytes to copy over the measured speed of the link."""
    needed = _disk(parts, facts, seen)["needed"]
    if needed is None or seen.link_rate is None:
        what = "sizes" if needed is None else "the link"
        return {"seconds": None, "link_rate": seen.link_rate, "how": f"{what} not measured"}
    how = "bytes to copy over the speed of the link as just measured; without the backup and its test"
    return {"seconds": needed / seen.link_rate, "link_rate": seen.link_rate, "how": how}


# --- networks, hash ----------------------------------------------------------------------------------------------


def _networks(parts: Sequence[Part], seen: Seen) -> list[dict[str, Any]]:
    by_id = {each[key]: each for each in seen.networks for key in ("Id", "Name")}
    used: dict[str, list[str]] = {}
    for part in _services(parts):
        for target in networks_of(seen.services[part.service]["Spec"]):
            used.setdefault(by_id.get(target, {}).get("Name", target), []).append(part.service)
    return [
        {"name": name, "driver": by_id.get(name, {}).get("Driver"), "services": services}
        for name, services in sorted(used.items())
    ]


def _unique(traps: Iterable[Trap]) -> list[Trap]:
    """Each trap once, those that refuse first."""
    return sorted(dict.fromkeys(traps), key=lambda trap: not trap.refuses)


def _what_matters(plan: Mapping[str, Any], parts: Sequence[Part], seen: Seen) -> Any:
    """What decides what the move does."""
    services = {part.service: seen.services[part.service]["Spec"] for part in _services(parts)}
    return {
        **{key: plan[key] for key in ("unit", "source", "target", "phase", "steps", "networks", "dokploy")},
        "parts": [
            {key: part[key] for key in ("key", "kind", "service", "users", "volumes", "mover", "replicas")}
            for part in plan["parts"]
        ],
        "images": {name: image.id for name, image in seen.images.items()},
        # Not what nobody could look at yet: prepare, with its link, must come to the hash of the plan before it.
        "traps": sorted((t["code"], t["refuses"]) for t in plan["traps"] if not t["code"].endswith(NOT_SEEN)),
        "specs": {name: {**spec, "Labels": None} for name, spec in services.items()},
    }


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the table asks of each service against what its spec says, and whether the nodes can carry it. No I/O."""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_table import (
    Row,
    Selectable,
    match_rows,
    parse_table,
    reservation_problems,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._tasks import occupies_node
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import (
    NANO,
    NO_LIMIT,
    format_cpus,
    format_memory,
)

Spec = dict[str, Any]
Field = tuple[str, str]
# A set of fields and the values they shall have: the only thing that is ever written to a spec.
Edit = Mapping[Field, int]

REPLICAS: Field = ("", "replicas")
# Where Docker's API keeps each field, under Spec.TaskTemplate.Resources.
_RESOURCE_KEYS: Mapping[Field, tuple[str, str]] = {
    ("limits", "cpus"): ("Limits", "NanoCPUs"),
    ("limits", "memory"): ("Limits", "MemoryBytes"),
    ("limits", "pids"): ("Limits", "Pids"),
    ("reservations", "cpus"): ("Reservations", "NanoCPUs"),
    ("reservations", "memory"): ("Reservations", "MemoryBytes"),
}
_MODES = {
    "Replicated": "replicated",
    "Global": "global",
    "ReplicatedJob": "replicated-job",
    "GlobalJob": "global-job",
}
# Mounts that outlive a task. A read-only one holds nothing that two tasks could fight over.
_STATEFUL_MOUNTS = ("volume", "bind", "cluster")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Settings(NamedTuple):
    """A service's limits (nano-CPUs, bytes, pids; 0 = none), reservations and replicas (None: not replicated)."""

    values: Mapping[Field, int]
    replicas: int | None

    def get(self, field: Field) -> int | None:
        return self.replicas if field == REPLICAS else self.values[field]

    def section(self, name: str) -> dict[str, int]:
        """The limits or the reservations by resource."""
        return {key: value for (section, key), value in self.values.items() if section == name}

    def merged(self, edit: Edit) -> Settings:
        values = {field: edit.get(field, value) for field, value in self.values.items()}
        return Settings(values, edit.get(REPLICAS, self.replicas))

    def report(self) -> dict[str, Any]:
        """Return the shape that modules return: cores as a decimal number, bytes; None = no limit."""
        limits, reservations = ({**self.section(name)} for name in ("limits", "reservations"))
        return {
            "limits": {
                "cpus": cores(limits["cpus"]),
                "memory": limits["memory"] or None,
                "pids": limits["pids"] or None,
            },
            "reservations": {"cpus": cores(reservations["cpus"]), "memory": reservations["memory"] or None},
            "replicas": self.replicas,
        }

    def text(self) -> str:
        """Write the settings one a line, for a diff."""
        lines = [f"{section}.{key}: {show(key, value)}" for (section, key), value in self.values.items()]
        if self.replicas is not None:
            lines.append(f"replicas: {self.replicas}")
        return "\n".join(lines) + "\n"


class Service(NamedTuple):
    """A service as the planner sees it, read from Docker's JSON."""

    id: str
    name: str
    labels: Mapping[str, str]
    mode: str
    stateful: bool
    settings: Settings
    spec: Spec
    update_status: Mapping[str, Any]

    @property
    def is_job(self) -> bool:
        return self.mode.endswith("-job")

    @property
    def start_first(self) -> bool:
        config = self.spec.get("UpdateConfig") or {}
        return str(config.get("Order", "stop-first")) == "start-first"


class Node(NamedTuple):
    """A node with what it has: nano-CPUs and bytes."""

    id: str
    hostname: str
    role: str
    state: str
    availability: str
    address: str
    operating_system: str
    architecture: str
    nano_cpus: int
    memory: int
    labels: Mapping[str, str]
    engine_labels: Mapping[str, str]

    @property
    def takes_tasks(self) -> bool:
        return self.state == "ready" and self.availability == "active"


class Change(NamedTuple):
    """One service with its row: where it is and where the table wants it. `stalled`: see _convergence."""

    service: Service
    row: Row
    edit: Edit
    before: Settings
    after: Settings
    stalled: bool = False

    @property
    def changed(self) -> bool:
        return self.before != self.after or self.stalled

    @property
    def restore(self) -> Edit:
        """The fields this change touches with their earlier values; other people's fields are not in it."""
        fields = [field for field in self.edit if self.before.get(field) != self.after.get(field)]
        return {field: self.before.get(field) or 0 for field in fields}

    @property
    def sets_new_limit(self) -> set[str]:
        """The resources whose limit becomes another one (removing a limit doesn't count)."""
        before, after = self.before.section("limits"), self.after.section("limits")
        return {key for key, value in after.items() if value not in (NO_LIMIT, before[key])}

    def diff(self) -> dict[str, str]:
        header = f"service {self.service.name}"
        return {
            "before_header": header,
            "after_header": header,
            "before": self.before.text(),
            "after": self.after.text(),
        }


def cores(nano_cpus: int) -> float | None:
    """Return nano-CPUs as a number of cores; None for no limit."""
    return nano_cpus / NANO if nano_cpus else None


def show(resource: str, value: int) -> str:
    """Write one limit as a person would in the table."""
    if not value:
        return "unlimited"
    return {"cpus": format_cpus, "memory": format_memory}.get(resource, str)(value)


# --- reading Docker's JSON -------------------------------------------------------------------------------------


def read_settings(spec: Mapping[str, Any]) -> Settings:
    """Read the fields the table can set from a service's Spec."""
    values = read_resources(spec.get("TaskTemplate") or {})
    replicated = (spec.get("Mode") or {}).get("Replicated")
    # Swarm's default for a replicated service that doesn't say: one.
    replicas = None if replicated is None else int(replicated.get("Replicas", 1))
    return Settings(values, replicas)


def read_resources(task_spec: Mapping[str, Any]) -> dict[Field, int]:
    """Read limits and reservations from a TaskTemplate, or from a task's own Spec; 0 = none."""
    resources = task_spec.get("Resources") or {}
    return {
        field: int((resources.get(section) or {}).get(key) or NO_LIMIT)
        for field, (section, key) in _RESOURCE_KEYS.items()
    }


def read_service(raw: Mapping[str, Any]) -> Service:
    """Read one element of GET /services."""
    spec: Spec = raw["Spec"]
    container = (spec.get("TaskTemplate") or {}).get("ContainerSpec") or {}
    mode = next((name for key, name in _MODES.items() if key in (spec.get("Mode") or {})), "replicated")
    mounts = container.get("Mounts") or []
    return Service(
        id=raw["ID"],
        name=spec["Name"],
        labels={**(container.get("Labels") or {}), **(spec.get("Labels") or {})},
        mode=mode,
        stateful=any(mount.get("Type") in _STATEFUL_MOUNTS and not mount.get("ReadOnly") for mount in mounts),
        settings=read_settings(spec),
        spec=spec,
        update_status=raw.get("UpdateStatus") or {},
    )


def read_node(raw: Mapping[str, Any]) -> Node:
    """Read one element of GET /nodes."""
    spec, status, description = raw.get("Spec") or {}, raw.get("Status") or {}, raw.get("Description") or {}
    resources, platform = description.get("Resources") or {}, description.get("Platform") or {}
    return Node(
        id=raw["ID"],
        hostname=description.get("Hostname", ""),
        role=spec.get("Role", ""),
        state=status.get("State", ""),
        availability=spec.get("Availability", ""),
        address=status.get("Addr", ""),
        operating_system=platform.get("OS", ""),
        architecture=platform.get("Architecture", ""),
        nano_cpus=int(resources.get("NanoCPUs", 0)),
        memory=int(resources.get("MemoryBytes", 0)),
        labels=spec.get("Labels") or {},
        engine_labels=(description.get("Engine") or {}).get("Labels") or {},
    )


# --- editing a spec --------------------------------------------------------------------------------------------


def apply_edit(spec: Spec, edit: Edit) -> Spec:
    """Return a copy of a spec with only the given fields changed; 0 removes a limit."""
    edited = copy.deepcopy(spec)
    for field, value in edit.items():
        if field == REPLICAS:
            edited["Mode"]["Replicated"]["Replicas"] = value
        elif read_resources(edited["TaskTemplate"])[field] != value:
            section, key = _RESOURCE_KEYS[field]
            # Any of these may be absent or null.
            resources = edited["TaskTemplate"]["Resources"] = edited["TaskTemplate"].get("Resources") or {}
            resources[section] = resources.get(section) or {}
            if value == NO_LIMIT:
                resources[section].pop(key, None)
            else:
                resources[section][key] = value
    return edited


def restore_spec(spec: Spec, edit: Edit, original: Spec) -> Spec:
    """Put fields back as they were in `original`, on a spec that others may have edited since.

    Swarm compares specs by value and restarts tasks that differ, `Limits: {}` and no Limits included. So where
    nobody else touched Resources, they get their original shape to the letter.
    """
    restored = apply_edit(spec, edit)
    earlier = original["TaskTemplate"].get("Resources")
    if _without_empty(restored["TaskTemplate"].get("Resources")) == _without_empty(earlier):
        if "Resources" in original["TaskTemplate"]:
            restored["TaskTemplate"]["Resources"] = copy.deepcopy(earlier)
        else:
            restored["TaskTemplate"].pop("Resources", None)
    return restored


def _without_empty(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    kept = {key: _without_empty(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item not in (None, 0, {}, [])} or None


# --- planning --------------------------------------------------------------------------------------------------


def row_edit(row: Row) -> Edit:
    """Return the fields a row sets."""
    edit: dict[Field, int] = {}
    for section, values in (("limits", row.limits), ("reservations", row.reservations)):
        edit.update({(section, key): value for key, value in values.items()})
    if row.replicas is not None:
        edit[REPLICAS] = row.replicas
    return edit


def plan(table: Sequence[Any], services: Sequence[Service]) -> tuple[list[Change], list[str]]:
    """Match a table with the services of a swarm.

    Returns one Change per service that has a row, sorted by name, and every error found in the table or in what it
    asks of a service. With errors nothing may be applied.
    """
    rows, errors = parse_table(table)
    chosen, match_errors = match_rows(rows, [Selectable(service.name, service.labels) for service in services])
    errors += match_errors if table else []
    changes = []
    for service in sorted(services, key=lambda each: each.name):
        row = chosen.get(service.name)
        if row is None:
            continue
        edit = row_edit(row)
        if REPLICAS in edit and service.settings.replicas is None:
            errors.append(f"{row.name}: replicas: service {service.name} is {service.mode}, it has no replicas to set")
            continue
        change = Change(service, row, edit, service.settings, service.settings.merged(edit))
        errors += _service_problems(change)
        changes.append(change)
    return changes, errors


def _service_problems(change: Change) -> list[str]:
    problems = []
    if change.changed:
        problems += reservation_problems(change.after.section("limits"), change.after.section("reservations"))
        if change.service.is_job and change.row.service is None:
            problems.append(
                "it is a job, and Swarm runs a job again when its limits change; accept that by a `service` row"
            )
    return [f"{change.row.name}: service {change.service.name}: {problem}" for problem in problems]


# --- can the nodes carry it? -----------------------------------------------------------------------------------


def eligible_nodes(service: Service, nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes that take tasks now and that the service's placement allows."""
    placement = (service.spec.get("TaskTemplate") or {}).get("Placement") or {}
    constraints, platforms = placement.get("Constraints") or [], placement.get("Platforms") or []
    return [
        node
        for node in nodes
        if node.takes_tasks
        and all(satisfies(node, constraint) for constraint in constraints)
        and (not platforms or any(_runs_platform(node, platform) for platform in platforms))
    ]


def satisfies(node: Node, constraint: str) -> bool:
    """Evaluate one placement constraint as Swarm does: values without regard to case, a missing label is ''."""
    operator = "!=" if "!=" in constraint else "=="
    key, _, wanted = (part.strip() for part in constraint.partition(operator))
    return _node_has(node, key, wanted) is (operator == "==")


def _node_has(node: Node, key: str, wanted: str) -> bool:
    if key == "node.ip":
        return _in_network(node.address, wanted)
    attributes = {
        "node.id": node.id,
        "node.hostname": node.hostname,
        "node.role": node.role,
        "node.platform.os": node.operating_system,
        "node.platform.arch": node.architecture,
    }
    if key in attributes:
        actual = attributes[key]
    elif key.startswith("node.labels."):
        actual = node.labels.get(key.removeprefix("node.labels."), "")
    elif key.startswith("engine.labels."):
        actual = node.engine_labels.get(key.removeprefix("engine.labels."), "")
    else:
        return False
    return actual.casefold() == wanted.casefold()


def _in_network(address: str, wanted: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        return False


def _runs_platform(node: Node, platform: Mapping[str, str]) -> bool:
    def same(wanted: str, actual: str) -> bool:
        return not wanted or _ARCHITECTURES.get(wanted, wanted) == _ARCHITECTURES.get(actual, actual)

    return same(platform.get("Architecture", ""), node.architecture) and same(
        platform.get("OS", ""), node.operating_system
    )


def preflight(
    changes: Sequence[Change],
    nodes: Sequence[Node],
    tasks: Sequence[Mapping[str, Any]],
    memory_in_use: Mapping[str, int],
    *,
    allow_memory_below_use: bool,
) -> list[str]:
    """Find what would keep changed services from running; `memory_in_use`: highest working set of a task, bytes.

    Services that stay as they are aren't judged: they run, or the table is not what keeps them from it.
    """
    changed = [change for change in changes if change.changed]
    problems = []
    for change in changed:
        found = [_no_node(change, nodes), _cpu_ceiling(change, nodes)]
        if not allow_memory_below_use:
            found.append(_memory_below_use(change, memory_in_use.get(change.service.name)))
        problems += [(change, problem) for problem in found if problem]
    problems += _reservation_shortages(changed, nodes, tasks)
    return [f"{change.row.name}: service {change.service.name}: {problem}" for change, problem in problems]


def _no_node(change: Change, nodes: Iterable[Node]) -> str | None:
    """An update of such a service would neither end nor fail. (A global one is content with no task.)"""
    if not change.after.replicas or eligible_nodes(change.service, nodes):
        return None
    placement = change.service.spec["TaskTemplate"].get("Placement") or {}
    constraints = ", ".join(placement.get("Constraints") or []) or "none"
    return (
        f"no node that takes tasks fits its placement (constraints: {constraints}), so it can't run: "
        "mend that first, or set `replicas: 0`"
    )


def _cpu_ceiling(change: Change, nodes: Iterable[Node]) -> str | None:
    """Swarm ignores limits when it places a task; the engine then rejects one above its own CPUs."""
    limit = change.after.section("limits")["cpus"]
    small = [node for node in eligible_nodes(change.service, nodes) if limit > node.nano_cpus]
    if not small:
        return None
    names = ", ".join(f"{node.hostname} ({format_cpus(node.nano_cpus)})" for node in small)
    return (
        f"limits.cpus: {format_cpus(limit)} is more than the CPUs of {names}, where Swarm may place it and the engine "
        "would reject it: lower the limit or constrain the service to larger nodes"
    )


def _memory_below_use(change: Change, in_use: int | None) -> str | None:
    limit = change.after.section("limits")["memory"]
    if in_use is None or "memory" not in change.sets_new_limit or limit >= in_use:
        return None
    return (
        f"limits.memory: {format_memory(limit)} is below the {in_use / 2**20:.1f}M that one of its tasks uses now, "
        "it would be killed as it starts: raise the limit, or set allow_memory_below_use"
    )


class _Room:
    """What is not reserved yet on each node: [nano-CPUs, bytes]."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.free = {node.id: [node.nano_cpus, node.memory] for node in nodes}

    def take(self, node_id: str, wanted: Sequence[int], sign: int = 1) -> None:
        if node_id in self.free:
            self.free[node_id] = [have - sign * want for have, want in zip(self.free[node_id], wanted)]  # noqa: B905

    def fits(self, node_id: str, wanted: Sequence[int]) -> bool:
        # A resource that isn't asked for is not looked at, even on a node that is overbooked already.
        return all(not want or have >= want for have, want in zip(self.free[node_id], wanted))  # noqa: B905


def reserved(task_spec: Mapping[str, Any]) -> tuple[int, int]:
    """Return what a TaskTemplate or a task's Spec reserves: nano-CPUs and bytes."""
    resources = read_resources(task_spec)
    return resources[("reservations", "cpus")], resources[("reservations", "memory")]


def _reservation_shortages(
    changed: Sequence[Change], nodes: Sequence[Node], tasks: Iterable[Mapping[str, Any]]
) -> list[tuple[Change, str]]:
    """Place the new reservations one service after another, each task on the emptiest node that fits.

    Swarm's ResourceFilter looks at each node by itself; what fits nowhere leaves tasks pending without an error.
    """
    room = _Room(nodes)
    own: dict[str, list[tuple[str, tuple[int, int]]]] = {}
    for task in tasks:
        if occupies_node(task):
            room.take(task["NodeID"], reserved(task["Spec"]))
            own.setdefault(task["ServiceID"], []).append((task["NodeID"], reserved(task["Spec"])))
    shortages = []
    for change in changed:
        after = change.after.section("reservations")
        wanted = (after["cpus"], after["memory"])
        same = change.before.section("reservations") == after and change.before.replicas == change.after.replicas
        if same or change.service.is_job:
            continue
        eligible = eligible_nodes(change.service, nodes)
        held = own.get(change.service.id, [])
        if not _place(room, change, eligible, held, wanted):
            shortages.append((change, _shortage(wanted, eligible, room)))
    return shortages


def _place(
    room: _Room,
    change: Change,
    eligible: Sequence[Node],
    held: Iterable[tuple[str, tuple[int, int]]],
    wanted: tuple[int, int],
) -> bool:
    count = len(eligible) if change.after.replicas is None else change.after.replicas
    if change.service.start_first and count and any(wanted) and not any(room.fits(n.id, wanted) for n in eligible):
        return False  # the new task must fit beside the old one
    for node_id, amount in held:
        room.take(node_id, amount, -1)
    if not any(wanted):
        return True
    left = list(eligible)
    for _ in range(count):
        fitting = [node for node in left if room.fits(node.id, wanted)]
        if not fitting:
            return False
        node = max(fitting, key=lambda each: room.free[each.id])
        room.take(node.id, wanted)
        if change.after.replicas is None:
            left.remove(node)  # a global service: one task on every node
    return True


def _shortage(wanted: tuple[int, int], eligible: Iterable[Node], room: _Room) -> str:
    left = ", ".join(
        f"{node.hostname} {format_cpus(max(room.free[node.id][0], 0))} CPUs and "
        f"{max(room.free[node.id][1], 0) / 2**20:.0f}M"
        for node in eligible
    )
    amounts = ((wanted[0], f"{format_cpus(wanted[0])} CPUs"), (wanted[1], format_memory(wanted[1])))
    asked = " and ".join(text for amount, text in amounts if amount)
    return (
        f"reservations: {asked} for each task fit no node, it would stay pending; "
        f"left to reserve: {left or 'no node is eligible'}"
    )

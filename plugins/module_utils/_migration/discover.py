# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a unit's inventory to its parts: which services, what they are, which volumes they have, and who shares them."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import read_settings
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import OURS, Cluster, Running
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import UNREACHABLE, MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.image import repository
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import (
    APP,
    FILES,
    MEMBER_KINDS,
    POSTGRES,
    REDIS,
    Member,
    Part,
    Unit,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.pin import image_of, named_volumes

Spec = Mapping[str, Any]
KIND_LABEL = "evenkeel.kind"
_IMAGES = {
    POSTGRES: re.compile(r"(postgres|postgresql|postgis|timescaledb|timescaledb-ha|pgvector)$"),
    REDIS: re.compile(r"(redis|redis-stack|redis-stack-server|valkey|keydb)$"),
}
_SERVERS = {POSTGRES: ("postgres", "postmaster"), REDIS: ("redis-server", "valkey-server", "keydb-server")}
# Where a server's own volume is mounted, at it or above it; other volumes of it are plain files.
_DATA = {POSTGRES: ("/var/lib/postgresql", "/bitnami/postgresql", "/home/postgres"), REDIS: ("/data", "/var/lib/redis")}


def find_parts(unit: Unit, cluster: Cluster, places: Mapping[str, Place]) -> tuple[Part, ...]:
    """Return the parts of a unit, in member order; a `files` part comes after the last part that uses it.

    Raises MoveError with the field: of a node that the Swarm does not have, of a member that matches no service or
    several, or whose kind can't be told.
    """
    _check_nodes(unit, cluster)
    specs = {each["Spec"]["Name"]: each["Spec"] for each in cluster.services()}
    names = match_members(unit, specs)
    kinds = {}
    for number, (member, name) in enumerate(zip(unit.members, names, strict=True)):
        kinds[name] = _kind(f"members[{number}]", member, specs[name], _processes(cluster.running(name), places))
        _check_replicas(f"members[{number}]", specs[name], kinds[name])
    return assemble(unit.members, [specs[name] for name in names], kinds)


def match_members(unit: Unit, specs: Mapping[str, Spec]) -> list[str]:
    """Return the one service of each member, in their order. Raises MoveError naming the member and the candidates."""
    names = sorted(name for name, spec in specs.items() if OURS not in (spec.get("Labels") or {}))
    taken: dict[str, int] = {}
    for number, member in enumerate(unit.members):
        field = f"members[{number}].service"
        found = fnmatch.filter(names, member.service)
        if len(found) != 1:
            raise _no_one_service(unit, member.service, field, found, names)
        if found[0] in taken:
            message = f"{unit.name}: {field} and members[{taken[found[0]]}].service are both the service {found[0]}"
            raise MoveError("service_twice", message, field=field)
        taken[found[0]] = number
    return list(taken)


def _no_one_service(unit: Unit, pattern: str, field: str, found: Sequence[str], names: Sequence[str]) -> MoveError:
    if found:
        message = f"{unit.name}: {field} {pattern} matches {', '.join(found)}: make it match one of them"
        return MoveError("several_services", message, field=field, candidates=list(found))
    near = difflib.get_close_matches(pattern.replace("*", ""), names, n=3, cutoff=0.4)
    hint = f"nearest: {', '.join(near)}" if near else f"there are {', '.join(names) or 'no services'}"
    return MoveError(
        "no_service", f"{unit.name}: {field} {pattern} matches no service; {hint}", field=field, candidates=near
    )


def _check_nodes(unit: Unit, cluster: Cluster) -> None:
    nodes = cluster.nodes()
    for field, name in (("home", unit.home), ("target", unit.target)):
        if name not in nodes:
            message = (
                f"{unit.name}: {field} is {name}, which is no node of this Swarm; there are {', '.join(sorted(nodes))}"
            )
            raise MoveError("no_node", message, field=field, candidates=sorted(nodes))
    if unit.home == unit.target:
        raise MoveError("no_node", f"{unit.name}: home and target are both {unit.home}", field="target")


def _check_replicas(field: str, spec: Spec, kind: str) -> None:
    replicas = read_settings(spec).replicas
    if replicas is None:
        message = f"{field}: {spec['Name']} is {next(iter(spec['Mode']))}: only replicated services can move"
        raise MoveError("mode", message, field=f"{field}.service")
    if replicas > 1 and (kind != APP or named_volumes(spec)):
        message = f"{field}: {spec['Name']} has {replicas} replicas on one volume: set it to 1 before the move"
        raise MoveError("replicas", message, field=f"{field}.service")


# --- kind --------------------------------------------------------------------------------------------------------


def _processes(running: Sequence[Running], places: Mapping[str, Place]) -> list[str] | None:
    """Return the names of the processes of a service, None where nobody can look."""
    for task in running:
        if task.node in places:
            argv = ["docker", "top", task.container, "-eo", "pid,comm"]
            try:
                done = places[task.node].host.run(argv, check=False)
            except MoveError as error:
                if error.code not in UNREACHABLE:
                    raise
                continue
            if done.status == 0:
                return [line.split(None, 1)[1].strip() for line in done.out.splitlines()[1:] if len(line.split()) > 1]
    return None


def _kind(field: str, member: Member, spec: Spec, processes: Sequence[str] | None) -> str:
    """Decide what a member is: as declared, else by label, else by what runs, else by image and command."""
    container = spec["TaskTemplate"]["ContainerSpec"]
    labels = {**(container.get("Labels") or {}), **(spec.get("Labels") or {})}
    declared = member.kind or labels.get(KIND_LABEL)
    if declared is not None:
        if declared not in MEMBER_KINDS:
            message = f"{field}.kind of {spec['Name']} is {declared!r}; it must be one of {', '.join(MEMBER_KINDS)}"
            raise MoveError("bad_kind", message, field=f"{field}.kind")
        return declared
    named = kind_by_name(spec)
    if processes is None:
        return named
    seen = next((kind for kind, servers in _SERVERS.items() if set(servers) & set(processes)), APP)
    if seen != named:
        runs = ", ".join(sorted(set(processes)))
        message = f"{field}: {spec['Name']} looks like {named} by image and command, and runs {runs}"
        raise MoveError("kind_unclear", f"{message}: set its `kind` ({', '.join(MEMBER_KINDS)})", field=f"{field}.kind")
    return seen


def kind_by_name(spec: Spec) -> str:
    """Return what a service is by the name of its image, or by the server that its command starts."""
    container = spec["TaskTemplate"]["ContainerSpec"]
    words = re.split(r"[\s;&|]+", " ".join([*(container.get("Command") or []), *(container.get("Args") or [])]))
    started = {word.rpartition("/")[2] for word in words}
    for kind, servers in _SERVERS.items():
        if started & set(servers):
            return kind
    last = repository(image_of(spec)).rpartition("/")[2]
    if container.get("Command"):
        return APP  # the image's own server is not what starts
    return next((kind for kind, pattern in _IMAGES.items() if pattern.match(last)), APP)


# --- parts -------------------------------------------------------------------------------------------------------


def assemble(members: Sequence[Member], specs: Sequence[Spec], kinds: Mapping[str, str]) -> tuple[Part, ...]:
    """Return the parts of members with their services' specs, both in the same order. Raises MoveError."""
    own: dict[str, dict[str, str]] = {}
    users: dict[str, list[int]] = {}
    for number, spec in enumerate(specs):
        own[spec["Name"]] = _own_volumes(spec, kinds[spec["Name"]])
        for volume in named_volumes(spec):
            users.setdefault(volume, []).append(number)
    servers = {volume: name for name, volumes in own.items() for volume in volumes}
    files = {volume: numbers for volume, numbers in users.items() if volume not in servers}
    _check_shared(specs, users, servers)
    parts = []
    for number, (member, spec) in enumerate(zip(members, specs, strict=True)):
        name = spec["Name"]
        parts.append(Part(_key(name), kinds[name], name, member, own[name], (name,) if own[name] else ()))
        for volume, numbers in files.items():
            if numbers[-1] == number:
                first = numbers[0]
                paths = {volume: named_volumes(specs[first])[volume]}
                names = tuple(specs[each]["Name"] for each in numbers)
                parts.append(Part(_key(f"files-{volume}"), FILES, names[0], members[first], paths, names))
    return tuple(parts)


def _own_volumes(spec: Spec, kind: str) -> dict[str, str]:
    """Return the volumes that a server's own replication carries; a service without a server has none."""
    volumes = named_volumes(spec)
    if kind not in _DATA or len(volumes) < 2:
        return volumes if kind in _DATA else {}
    own = {volume: path for volume, path in volumes.items() if _near(path, _data_directories(spec, kind))}
    if len(own) != 1:
        listed = ", ".join(f"{volume} at {path}" for volume, path in volumes.items())
        message = f"{spec['Name']}: which of its volumes ({listed}) has the data of {kind} can't be told"
        raise MoveError("volume_unclear", f"{message}: mount it at {_DATA[kind][0]}, or say so in PGDATA")
    return own


def _data_directories(spec: Spec, kind: str) -> Sequence[str]:
    environment = spec["TaskTemplate"]["ContainerSpec"].get("Env") or []
    stated = [each.partition("=")[2] for each in environment if each.startswith("PGDATA=")]
    return stated if kind == POSTGRES and stated else _DATA[kind]


def _near(path: str, directories: Sequence[str]) -> bool:
    """Tell whether a mount is at a directory, above it or below it."""
    bare = path.rstrip("/") + "/"
    return any(bare.startswith(f"{each}/") or f"{each}/".startswith(bare) for each in directories)


def _check_shared(specs: Sequence[Spec], users: Mapping[str, Sequence[int]], servers: Mapping[str, str]) -> None:
    for volume, server in servers.items():
        if len(users[volume]) > 1:
            names = ", ".join(specs[number]["Name"] for number in users[volume])
            message = f"volume {volume} of {server} is mounted by {names}: a server's data has one user"
            raise MoveError("volume_shared", message, field="members")


def _key(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")

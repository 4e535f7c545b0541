# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collect what a plan is made of, changing nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import Node, read_settings
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.bind_mounts import file_traps
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.brought import BroughtHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import (
    UNREACHABLE,
    MoveError,
    if_reachable,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import LocalHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.image import inspect, meant
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import FILES, Part
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Place, Trap
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import survey
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.patience import traps as patience_traps
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.pin import image_of
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.traps import (
    image_volume_traps,
    network_traps,
    open_network_traps,
    port_traps,
    service_traps,
    shared_volume_traps,
    whereabouts_traps,
)

# Sent over the link once, to know its speed: a second on a link of 64 Mbit/s.
_SAMPLE = 8 << 20


@dataclass(frozen=True)
class HostSeen:
    """What a host has. Bytes; None is "not measured", of a host that can't be reached (yet) all of it."""

    disk_free: int | None = None
    disk_total: int | None = None
    memory_available: int | None = None
    ports: frozenset[tuple[int, str]] = frozenset()
    containers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unreachable: str | None = None


@dataclass(frozen=True)
class ImageSeen:
    """An image that a service runs: its id, and whether the target has it; None where the source has not."""

    reference: str
    id: str | None
    bytes: int | None
    on_target: bool | None


@dataclass(frozen=True)
class Seen:
    """The world that a plan is made for.

    `services`, `tasks`, `networks` as the API has them. `clients`: service -> who holds connections to it, by service
    name or address. `link_rate`: bytes a second over the engine's own connection.
    """

    services: Mapping[str, Mapping[str, Any]]
    tasks: Sequence[Mapping[str, Any]]
    nodes: Mapping[str, Node]
    networks: Sequence[Mapping[str, Any]]
    source: HostSeen
    target: HostSeen
    images: Mapping[str, ImageSeen] = field(default_factory=dict)
    clients: Mapping[str, Sequence[str]] = field(default_factory=dict)
    link_rate: float | None = None
    traps: Sequence[Trap] = ()


def look(move: Move, parts: Sequence[Part]) -> Seen:
    """Look at the Swarm and at both hosts; of a host that can't be reached a trap says so. Raises MoveError."""
    seen = _world(move, parts)
    here, there = seen.source.unreachable is None, seen.target.unreachable is None
    own = [part for part in parts if part.kind != FILES]
    images = {
        part.service: _image(move, image_of(seen.services[part.service]["Spec"]), part.service, here=here)
        for part in own
    }
    clients = {part.service: _clients(move, part.service, seen) for part in own} if here else {}
    linked = not any(isinstance(place.host, BroughtHost) for place in (move.source, move.target))
    rate = link_rate(move) if here and there and linked else None
    return replace(seen, images=images, clients=clients, link_rate=rate, traps=_all_traps(move, parts, seen))


def find_traps(move: Move, parts: Sequence[Part]) -> list[Trap]:
    """Return the traps of a unit's services, without measuring anything. Raises MoveError."""
    return _all_traps(move, parts, _world(move, parts))


def _world(move: Move, parts: Sequence[Part]) -> Seen:
    volumes = sorted({volume for part in parts for volume in part.volumes})
    return Seen(
        services={each["Spec"]["Name"]: each for each in move.cluster.services()},
        tasks=move.cluster.tasks(),
        nodes=move.cluster.placement_nodes(),
        networks=move.cluster.networks(),
        source=_host(move.source, volumes),
        target=_host(move.target, volumes),
    )


def link_rate(move: Move) -> float | None:
    """Return how many bytes a second go to the other host, None where the sample was too quick to be measured."""
    other = next(place.host for place in (move.target, move.source) if not isinstance(place.host, LocalHost))
    took = []
    for size in (0, _SAMPLE):
        began = time.monotonic()
        other.run(["wc", "-c"], stdin="0" * size, timeout=120)
        took.append(time.monotonic() - began)
    return _SAMPLE / (took[1] - took[0]) if took[1] > took[0] else None


def _host(place: Place, volumes: Sequence[str]) -> HostSeen:
    try:
        seen = place.host.call(survey, "look", root=place.root, volumes=list(volumes))
    except MoveError as error:
        if error.code not in UNREACHABLE:
            raise
        return HostSeen(unreachable=error.message)
    ports = frozenset((int(port), str(protocol)) for port, protocol in seen["ports"])
    return HostSeen(seen["disk_free"], seen["disk_total"], seen["memory_available"], ports, seen["containers"])


def _image(move: Move, reference: str, service: str, *, here: bool) -> ImageSeen:
    if not here:
        return ImageSeen(reference, None, None, None)
    try:
        found = meant(move, reference, service)
    except MoveError as error:
        if error.code != "image_missing":
            raise
        return ImageSeen(reference, None, None, None)
    on_target = if_reachable(lambda: inspect(move.target.host, str(found["Id"])) is not None)
    return ImageSeen(reference, str(found["Id"]), int(found["Size"]), on_target)


def _all_traps(move: Move, parts: Sequence[Part], seen: Seen) -> list[Trap]:
    traps = [trap for part in parts if part.kind != FILES for trap in _part_traps(move, part, seen)]
    traps += shared_volume_traps(parts, list(seen.services.values()), seen.source.containers)
    traps += patience_traps(move.cluster.swarm_spec())
    for place, host in ((move.source, seen.source), (move.target, seen.target)):
        if host.unreachable is not None:
            text = f"{place.name} can't be looked at: {host.unreachable}"
            traps.append(Trap("host_not_seen", text, "nothing of its disk, ports, images and files is in this plan"))
        elif isinstance(place.host, BroughtHost):
            text = f"the speed of the way to {place.name} was not looked at, as there is no SSH link to it yet"
            traps.append(Trap("link_not_seen", text, "prepare makes it, and the plans after that have the speed"))
    return traps


def _part_traps(move: Move, part: Part, seen: Seen) -> list[Trap]:
    spec = seen.services[part.service]["Spec"]
    both = [seen.nodes[move.source.name], seen.nodes[move.target.name]]
    running = {task.node for task in move.cluster.running(part.service)}
    return [
        *service_traps(spec, move.unit, both, part.member, kind=part.kind),
        *whereabouts_traps(part.service, part.kind, read_settings(spec).replicas or 0, running, move.source.name),
        *network_traps(spec, seen.networks),
        *open_network_traps(spec, seen.networks, both, kind=part.kind, mover=part.member.mover),
        *port_traps(spec, seen.target.ports),
        *(_traps_on_hosts(move, part, spec) if seen.source.unreachable is None else ()),
    ]


def _traps_on_hosts(move: Move, part: Part, spec: Mapping[str, Any]) -> list[Trap]:
    declared = (inspect(move.source.host, image_of(spec)) or {}).get("Volumes") or {}
    return [*image_volume_traps(spec, list(declared), part.kind), *file_traps(move, part.service, part.kind)]


def _clients(move: Move, service: str, seen: Seen) -> list[str]:
    """Return who holds connections to a service: services by name, others by address."""
    names = {each["ID"]: name for name, each in seen.services.items()}
    owners = {
        address.partition("/")[0]: names.get(task["ServiceID"], "?")
        for task in seen.tasks
        for attached in task.get("NetworksAttachments") or []
        for address in attached.get("Addresses") or []
        if task["Status"]["State"] == "running"
    }
    found: set[str] = set()
    for task in move.cluster.running(service):
        if task.node == move.source.name:
            peers = move.source.host.call(survey, "clients", container=task.container)
            found |= {owners.get(peer, peer) for peer in peers}
    return sorted(found - {service})

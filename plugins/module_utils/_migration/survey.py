# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collect what a plan is made of, changing nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import Node, read_settings
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.bind_mounts import file_traps
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.image import inspect, meant
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import FILES, Part
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Place, Trap
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import survey
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.pin import image_of
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.traps import (
    image_volume_traps,
    network_traps,
    port_traps,
    service_traps,
    shared_volume_traps,
    whereabouts_traps,
)

# Sent over the link once, to know its speed: a second on a link of 64 Mbit/s.
_SAMPLE = 8 << 20


@dataclass(frozen=True)
class HostSeen:
    """What a host has. Bytes; None is "not measured"."""

    disk_free: int
    disk_total: int
    memory_available: int | None
    ports: frozenset[tuple[int, str]]
    containers: Mapping[str, Sequence[str]]


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
    images: Mapping[str, ImageSeen]
    clients: Mapping[str, Sequence[str]]
    link_rate: float | None
    traps: Sequence[Trap] = field(default=())


def look(move: Move, parts: Sequence[Part]) -> Seen:
    """Look at the Swarm and at both hosts. Raises MoveError where one can't be reached."""
    services = {each["Spec"]["Name"]: each for each in move.cluster.services()}
    tasks = [task for name in services for task in move.cluster.tasks(services[name]["ID"])]
    nodes = move.cluster.placement_nodes()
    networks = move.cluster.networks()
    volumes = sorted({volume for part in parts for volume in part.volumes})
    source, target = _host(move.source, volumes), _host(move.target, volumes)
    own = [part for part in parts if part.kind != FILES]
    images = {part.service: _image(move, image_of(services[part.service]["Spec"]), part.service) for part in own}
    traps = [trap for part in own for trap in _part_traps(move, part, services, nodes, networks, target)]
    traps += shared_volume_traps(parts, list(services.values()), source.containers)
    clients = {part.service: _clients(move, part.service, services, tasks) for part in own}
    rate = link_rate(move)
    return Seen(services, tasks, nodes, networks, source, target, images, clients, rate, traps)


def link_rate(move: Move) -> float | None:
    """Return how many bytes a second go from this host to the other one, None where that is none of the two."""
    argv = ["wc", "-c"]
    took = []
    for size in (0, _SAMPLE):
        began = time.monotonic()
        move.target.host.run(argv, stdin="0" * size, timeout=120)
        took.append(time.monotonic() - began)
    return _SAMPLE / (took[1] - took[0]) if took[1] > took[0] else None


def _host(place: Place, volumes: Sequence[str]) -> HostSeen:
    seen = place.host.call(survey, "look", root=place.root, volumes=list(volumes))
    ports = frozenset((int(port), str(protocol)) for port, protocol in seen["ports"])
    return HostSeen(seen["disk_free"], seen["disk_total"], seen["memory_available"], ports, seen["containers"])


def _image(move: Move, reference: str, service: str) -> ImageSeen:
    try:
        found = meant(move, reference, service)
    except MoveError as error:
        if error.code != "image_missing":
            raise
        return ImageSeen(reference, None, None, None)
    there = inspect(move.target.host, str(found["Id"])) is not None
    return ImageSeen(reference, str(found["Id"]), int(found["Size"]), there)


def _part_traps(
    move: Move,
    part: Part,
    services: Mapping[str, Mapping[str, Any]],
    nodes: Mapping[str, Node],
    networks: Sequence[Mapping[str, Any]],
    target: HostSeen,
) -> list[Trap]:
    spec = services[part.service]["Spec"]
    both = [nodes[move.source.name], nodes[move.target.name]]
    running = {task.node for task in move.cluster.running(part.service)}
    declared = inspect(move.source.host, image_of(spec)) or {}
    volumes = (declared.get("Config") or {}).get("Volumes") or {}
    return [
        *service_traps(spec, move.unit, both, part.member, kind=part.kind),
        *whereabouts_traps(part.service, part.kind, read_settings(spec).replicas or 0, running, move.source.name),
        *image_volume_traps(spec, list(volumes), part.kind),
        *port_traps(spec, target.ports),
        *network_traps(spec, networks),
        *file_traps(move, part.service),
    ]


def _clients(
    move: Move, service: str, services: Mapping[str, Mapping[str, Any]], tasks: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return who holds connections to a service: services by name, others by address."""
    names = {each["ID"]: name for name, each in services.items()}
    owners = {
        address.partition("/")[0]: names.get(task["ServiceID"], "?")
        for task in tasks
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

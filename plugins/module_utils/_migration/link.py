# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of a move: this one, and others over SSH with the key that the role made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._engine import EngineError, engine_get
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.brought import ROOT, BroughtHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster, Node
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host, LocalHost, OutOfReach, SshHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Place

SOCKETS = Path("/run/evenkeel-migration")
_INFO_SECONDS = 20


@dataclass(frozen=True)
class Link:
    """How the manager reaches other hosts.

    `addresses`: hostname -> address, where it isn't the Swarm node's own. `brought`: hostname -> answers that
    migration_info gave there, for a host to which there is no link yet.
    """

    key: Path
    known_hosts: Path
    addresses: Mapping[str, str] = field(default_factory=dict)
    brought: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def options(self) -> list[str]:
        """Return ssh's options; nothing of the machine's own SSH configuration counts."""
        settings = {
            "UserKnownHostsFile": self.known_hosts,
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": 10,
            # A host that is gone is noticed in 15 s, not when TCP gives up.
            "ServerAliveInterval": 5,
            "ServerAliveCountMax": 3,
            "ControlMaster": "auto",
            "ControlPath": SOCKETS / "%C",
            "ControlPersist": 60,
            "LogLevel": "ERROR",
        }
        return ["-F", "/dev/null", "-i", str(self.key), *(f"-o{key}={value}" for key, value in settings.items())]

    def host(self, node: Node) -> Host:
        """Return a host as the link reaches it."""
        if not self.key.exists():
            return BroughtHost(node.hostname, self.brought.get(node.hostname, ()))
        SOCKETS.mkdir(mode=0o700, exist_ok=True)
        return SshHost(node.hostname, self.options(), f"root@{self.addresses.get(node.hostname, node.address)}")


def find_places(unit: Unit, cluster: Cluster, docker_host: str, link: Link) -> dict[str, Place]:
    """Return home and target by hostname; one that can't be reached has an OutOfReach host.

    Raises MoveError: `no_node` with the field, `not_a_manager`, `engine_unreachable`.
    """
    me = local_info(docker_host)["Swarm"]["NodeID"]
    nodes = cluster.nodes()
    for key, name in (("home", unit.home), ("target", unit.target)):
        if name not in nodes:
            field_name = f"migration_units.{unit.name}.{key}"
            message = f"{field_name} is {name!r}, and no node of this Swarm: give one of {', '.join(sorted(nodes))}"
            raise MoveError("no_node", message, field=field_name)
    return {name: _place(nodes[name], me, link) for name in (unit.home, unit.target)}


def local_info(docker_host: str) -> dict[str, dict[str, str]]:
    """Return what the engine here says of itself; raises MoveError unless it is a Swarm manager."""
    try:
        info: dict[str, dict[str, str]] = engine_get(docker_host, "/info", _INFO_SECONDS)
    except EngineError as error:
        raise MoveError("engine_unreachable", str(error)) from error
    if not info["Swarm"].get("ControlAvailable"):
        raise MoveError("not_a_manager", "this host is no Swarm manager: run the move on one (group swarm_manager)")
    return info


def _place(node: Node, me: str, link: Link) -> Place:
    host: Host = LocalHost(node.hostname) if node.id == me else link.host(node)
    try:
        root = host.run(ROOT, timeout=_INFO_SECONDS).out.strip()
    except MoveError as error:
        return Place(host if isinstance(host, OutOfReach) else OutOfReach(node.hostname, error), node, "")
    return Place(host, node, root)

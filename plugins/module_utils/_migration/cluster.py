# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Swarm as a move sees it: services, tasks, node labels, secrets. For several threads."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import Node as PlacementNode
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import read_node
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._swarm import CONFLICT_TRIES, Swarm, SwarmError

Spec = dict[str, Any]
#: On every object that a move makes; its value is the unit's name.
OURS = "evenkeel.migration"


@dataclass(frozen=True)
class Node:
    """A Swarm node. `cpus` in cores, `memory` in bytes, `address` as Swarm has it."""

    id: str
    hostname: str
    address: str
    cpus: float
    memory: int
    ready: bool
    manager: bool
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Running:
    """A running task: the node's hostname and the container's id."""

    task: str
    node: str
    container: str


class Cluster:
    """One manager's API. Raises MoveError, with the Swarm's code and words."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._lock = threading.RLock()
        self._hostnames: dict[str, str] = {}

    def nodes(self) -> dict[str, Node]:
        """Return the nodes by hostname."""
        return {node.hostname: node for node in map(_node, self._request("GET", "/nodes"))}

    def placement_nodes(self) -> dict[str, PlacementNode]:
        """Return the nodes by hostname with all that a placement constraint can ask for."""
        return {node.hostname: node for node in map(read_node, self._request("GET", "/nodes"))}

    def services(self) -> list[dict[str, Any]]:
        """Return all services as the API has them."""
        return list(self._request("GET", "/services") or [])

    def find_service(self, name: str) -> dict[str, Any] | None:
        """Return the service of exactly that name, None if there is none."""
        try:
            found: dict[str, Any] = self._request("GET", f"/services/{quote(name, safe='')}")
        except MoveError as error:
            if error.code == "not_found":
                return None
            raise
        # The engine takes the beginning of an id for a name, too.
        return found if found["Spec"]["Name"] == name else None

    def service(self, name: str) -> dict[str, Any]:
        """Return the service of exactly that name; raises MoveError `no_service`."""
        found = self.find_service(name)
        if found is None:
            raise MoveError("no_service", f"there is no service {name}")
        return found

    def tasks(self, service_id: str | None = None) -> list[dict[str, Any]]:
        """Return the tasks that Swarm remembers, all or those of a service."""
        only = "" if service_id is None else "?filters=" + quote(json.dumps({"service": [service_id]}))
        return list(self._request("GET", f"/tasks{only}") or [])

    def running(self, name: str) -> list[Running]:
        """Return the running tasks of a service; none if there is no such service."""
        service = self.find_service(name)
        if service is None:
            return []
        return [
            Running(task["ID"], self._hostname(task.get("NodeID")), task["Status"]["ContainerStatus"]["ContainerID"])
            for task in self.tasks(service["ID"])
            if task["Status"]["State"] == "running"
        ]

    def _hostname(self, node_id: str | None) -> str:
        """Return a node's hostname, asked once: a switch looks at tasks often, and a node keeps its name."""
        if node_id not in self._hostnames:
            self._hostnames = {node.id: node.hostname for node in self.nodes().values()}
        return self._hostnames.get(node_id or "", "?")

    def edit_service(self, name: str, edit: Callable[[Spec], None]) -> bool:
        """Change a service's spec in place by `edit`, on a fresh read; returns whether that changed anything."""
        changed = False

        def whole(spec: Spec) -> Spec:
            nonlocal changed
            before = repr(spec)
            edit(spec)
            changed = repr(spec) != before
            return spec

        service = self.service(name)
        whole(service["Spec"])
        if changed:
            self._safely(lambda: self._swarm.update_service(service["ID"], whole))
        return changed

    def write_service(self, service: Mapping[str, Any], spec: Spec) -> bool:
        """Write a service's spec unless somebody else has since `service` was read; returns whether it was written."""
        try:
            self._request("POST", f"/services/{service['ID']}/update?version={service['Version']['Index']}", spec)
        except MoveError as error:
            if error.code != "conflict":
                raise
            return False
        return True

    def create_service(self, spec: Spec) -> str:
        """Create a service; returns its id."""
        return str(self._request("POST", "/services/create", spec)["ID"])

    def remove_service(self, name: str) -> None:
        """Remove a service; nothing if there is none."""
        found = self.find_service(name)
        if found is not None:
            self._request("DELETE", f"/services/{found['ID']}")

    def label_node(self, hostname: str, label: str, value: str | None) -> None:
        """Put a label on a node, or with None take it off."""

        def node() -> dict[str, Any]:
            [found] = [each for each in self._request("GET", "/nodes") if each["Description"]["Hostname"] == hostname]
            return dict(found)

        def labelled(spec: Spec) -> Spec:
            labels = {key: each for key, each in (spec.get("Labels") or {}).items() if key != label}
            return {**spec, "Labels": labels if value is None else {**labels, label: value}}

        self._rewrite(f"the node {hostname}", node, lambda found: f"/nodes/{found['ID']}/update", labelled)

    def swarm_spec(self) -> Spec:
        """Return the Swarm's own spec as the API has it."""
        spec: Spec = self._request("GET", "/swarm")["Spec"]
        return spec

    def edit_swarm(self, edit: Callable[[Spec], Spec]) -> None:
        """Change the Swarm's own spec."""
        self._rewrite("the Swarm", lambda: dict(self._request("GET", "/swarm")), lambda _found: "/swarm/update", edit)

    def _rewrite(
        self,
        what: str,
        read: Callable[[], dict[str, Any]],
        path: Callable[[Mapping[str, Any]], str],
        edit: Callable[[Spec], Spec],
    ) -> None:
        """Rewrite an object's spec on a fresh read, again if another writer was faster."""
        for _ in range(CONFLICT_TRIES):
            found = read()
            try:
                self._request("POST", f"{path(found)}?version={found['Version']['Index']}", edit(found["Spec"]))
            except MoveError as error:
                if error.code != "conflict":
                    raise
            else:
                return
        raise MoveError("conflict", f"other writers changed {what} all the time")

    def secret(self, name: str) -> str | None:
        """Return a secret's id, None if there is none of that name."""
        found = [each["ID"] for each in self._request("GET", "/secrets") or [] if each["Spec"]["Name"] == name]
        return found[0] if found else None

    def secrets(self, unit: str) -> list[str]:
        """Return the names of the secrets that moves of a unit made."""
        found = (each["Spec"] for each in self._request("GET", "/secrets") or [])
        return [spec["Name"] for spec in found if (spec.get("Labels") or {}).get(OURS) == unit]

    def secret_names(self) -> list[str]:
        """Return the names of all secrets."""
        return [each["Spec"]["Name"] for each in self._request("GET", "/secrets") or []]

    def create_secret(self, name: str, content: str, unit: str) -> str:
        """Create a secret; returns its id."""
        data = base64.b64encode(content.encode()).decode()
        return str(self._request("POST", "/secrets/create", {"Name": name, "Data": data, "Labels": {OURS: unit}})["ID"])

    def remove_secret(self, name: str) -> None:
        """Remove a secret; nothing if there is none."""
        found = self.secret(name)
        if found is not None:
            self._request("DELETE", f"/secrets/{found}")

    def networks(self) -> list[dict[str, Any]]:
        """Return all networks as the API has them."""
        return list(self._request("GET", "/networks") or [])

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        return self._safely(lambda: self._swarm.request(method, path, body))

    def _safely(self, call: Callable[[], Any]) -> Any:
        with self._lock:
            try:
                return call()
            except SwarmError as error:
                raise MoveError(error.code, f"the Swarm: {error.message}", **error.details) from error


def _node(node: Mapping[str, Any]) -> Node:
    resources = node["Description"]["Resources"]
    return Node(
        id=node["ID"],
        hostname=node["Description"]["Hostname"],
        address=node["Status"].get("Addr", ""),
        cpus=resources["NanoCPUs"] / 10**9,
        memory=resources["MemoryBytes"],
        ready=node["Status"]["State"] == "ready" and node["Spec"]["Availability"] == "active",
        manager=node["Spec"]["Role"] == "manager",
        labels=node["Spec"].get("Labels") or {},
    )

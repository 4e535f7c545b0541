# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all pieces of the PostgreSQL mover share: names, the layout, the servers, the copies on the two hosts."""

from __future__ import annotations

import math
import posixpath
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Running, Spec
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.companion import companion_spec, stop_companion
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.image import image_present, runnable
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Part
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import (
    STARTING_SECONDS,
    Layout,
    Names,
    Server,
    from_json,
    server_in,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_session import (
    ConnectedServer,
    connected,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import copies, pg_data, postmaster
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step, Tell

_NANO = 10**9
_STOP_SECONDS = 120


class Context:
    """A part of a move, and where its PostgreSQL is."""

    def __init__(self, move: Move, part: Part) -> None:
        self.move = move
        self.part = part
        self.names = Names(move.unit.name, part.key)
        self._servers: dict[str, Server] = {}
        self._layout: Layout | None = None

    @property
    def superuser(self) -> str:
        """Return the superuser: as declared, or as the image made it."""
        return self.part.member.superuser or self.environment().get("POSTGRES_USER") or "postgres"

    def spec(self) -> Spec:
        """Return the service's spec as it is now."""
        found: Spec = self.move.cluster.service(self.part.service)["Spec"]
        return found

    def environment(self) -> dict[str, str]:
        """Return the service's environment."""
        items = self.spec()["TaskTemplate"]["ContainerSpec"].get("Env") or []
        return {key: value for key, _, value in (item.partition("=") for item in items)}

    def place(self, node: str) -> Place:
        """Return one of the move's two places by its node."""
        for place in (self.move.source, self.move.target):
            if place.name == node:
                return place
        message = f"{self.part.service} runs on {node}, which is not a part of this move"
        raise MoveError("elsewhere", f"{message}: {self.move.source.name} or {self.move.target.name} would be right")

    def step(  # noqa: PLR0917
        self,
        verb: str,
        what: str,
        title: str,
        host: str,
        probe: Callable[[], bool],
        do: Callable[[Tell], None] = lambda _tell: None,
        undo: Callable[[], None] | None = None,
        *,
        changes: bool = True,
        deadline: float = 60,
    ) -> Step:
        """Return a step of this part."""
        whole = f"{self.part.service}: {title}"
        return Step(f"{verb}.{self.part.key}.{what}", whole, host, probe, do, deadline, undo, changes)

    # --- servers ---

    def running(self) -> Running | None:
        """Return the service's running task, None if there is none."""
        return next(iter(self.move.cluster.running(self.part.service)), None)

    def primary(self) -> Server:
        """Return the service's server, wherever it runs; one that is just starting is waited for.

        Raises MoveError `not_running`.
        """
        running = self.running()
        if running is None:
            message = f"{self.part.service} does not run, and the move has to ask its server"
            raise MoveError("not_running", f"{message}: start it, then run this again")
        patient_until = time.monotonic() + STARTING_SECONDS
        while True:
            try:
                return self.server(self.place(running.node), running.container)
            except MoveError as error:
                if error.code != "failed_on_host" or time.monotonic() > patient_until:
                    raise
            time.sleep(0.2)
            # A redeploy may have put another in its place.
            running = self.running() or running

    def standby(self, place: Place) -> Server | None:
        """Return the server of the companion on a node, None if it does not run (yet)."""
        running = next(iter(self.move.cluster.running(self.names.companion(place.name))), None)
        if running is None:
            return None
        try:
            return self.server(place, running.container)
        except MoveError as error:
            if error.code == "failed_on_host":  # it is just starting, or just failing
                return None
            raise

    def server(self, place: Place, container: str) -> Server:
        """Return the server of a container; looked up once."""
        if container not in self._servers:
            found = server_in(place.host, container, self.superuser, self.part.member.password_env)
            self._servers[container] = found
        return self._servers[container]

    def connect_to_standby(self, place: Place) -> None:
        """Keep a connection to the companion on a node, if it runs: in a switch every new one lengthens the outage."""
        standby = self.standby(place)
        if standby is not None and not isinstance(standby, ConnectedServer):
            self._servers[standby.container] = connected(standby)

    # --- layout and copies ---

    def layout(self) -> Layout:
        """Return where the data is; captured once a move, as it is needed when nothing runs."""
        if self._layout is None:
            found = self.move.journal.before(f"layout:{self.part.key}", lambda: self.observe().as_json())
            self._layout = from_json(found)
        return self._layout

    def observe(self) -> Layout:
        """Return where the data of the running service is. Raises MoveError with the trap that it is."""
        server = self.primary()
        place = self.place(server.host.name)
        found = place.host.call(postmaster, "find", container=server.container)
        volume, mount = volume_of(found["data"], self.part.volumes)
        found_at = place.host.call(copies, "state", root=place.root, volume=volume)
        # In a switch a server may still be running on data that are parked already.
        lies = found_at["parked" if found_at["state"] == copies.PARKED else "live"]
        root = place.host.call(pg_data, "ownership", base=lies)
        return Layout(
            volume=volume,
            mount=mount,
            relative=posixpath.relpath(found["data"], mount) if found["data"] != mount else "",
            exe=found["exe"],
            argv=tuple(found["argv"]),
            uid=found["uid"],
            gid=found["gid"],
            pgdata=found["pgdata"],
            socket=found["socket"],
            port=found["port"],
            superuser=self.superuser,
            owner=(root["uid"], root["gid"]),
            mode=root["mode"],
        )

    def paths(self, place: Place) -> Mapping[str, str]:
        """Return copies.state() of the part's volume on a node."""
        found: Mapping[str, str] = place.host.call(copies, "state", root=place.root, volume=self.layout().volume)
        return found

    def look(self, place: Place, side: str) -> dict[str, Any]:
        """Return pg_data.look() of the `live` or the `parked` copy on a node."""
        found: dict[str, Any] = place.host.call(
            pg_data, "look", base=self.path(place, side), relative=self.layout().relative
        )
        return found

    def path(self, place: Place, side: str) -> str:
        """Return the directory of the `live` or the `parked` copy on a node."""
        volume = self.layout().volume
        return str(copies.paths(place.root, volume)[side == copies.PARKED])

    def mark(self, place: Place, **facts: Any) -> None:
        """Write beside the parked copy on a node that it is ours, and what it is worth."""
        ours = {"unit": self.move.unit.name, "part": self.part.key, **facts}
        place.host.call(pg_data, "mark", base=self.path(place, copies.PARKED), facts=ours)

    def is_ours(self, marker: Any) -> bool:
        """Return whether a mark is of this part."""
        return isinstance(marker, Mapping) and (marker.get("unit"), marker.get("part")) == (
            self.move.unit.name,
            self.part.key,
        )

    # --- Swarm ---

    def subnets(self) -> list[str]:
        """Return the subnets of the service's overlay networks: from there a copy connects."""
        spec = self.spec()
        attached = spec["TaskTemplate"].get("Networks") or spec.get("Networks") or []
        wanted = {network["Target"] for network in attached}
        configs = [
            config
            for network in self.move.cluster.networks()
            if wanted & {network["Id"], network["Name"]}
            for config in (network.get("IPAM") or {}).get("Config") or []
        ]
        return sorted({config["Subnet"] for config in configs})

    def secret(self) -> str | None:
        """Return the name of the passfile's secret, None if there is none."""
        names = [name for name in self.move.cluster.secret_names() if name.startswith(self.names.secret)]
        return names[0] if names else None

    @property
    def passfile(self) -> str:
        """Return where a companion finds the passfile."""
        return f"/run/secrets/{self.names.secret}passfile"

    def image_step(self) -> Step:
        """Return the step that brings the service's image to the target."""
        reference = str(self.spec()["TaskTemplate"]["ContainerSpec"]["Image"])
        return image_present(self.move, self.move.target, reference, self.part.service)

    def image(self, place: Place) -> str:
        """Return the reference by which a node runs the very image of the service."""
        reference = str(self.spec()["TaskTemplate"]["ContainerSpec"]["Image"])
        return runnable(self.move, place, reference, self.part.service)

    def companion(self, place: Place, command: Sequence[str], *, once: bool = False) -> Spec:
        """Return the spec of the companion on a node that runs a command on the parked copy there."""
        layout, secret = self.layout(), self.secret()
        if secret is None:
            raise MoveError("not_prepared", f"the replication role of {self.part.service} is missing: run prepare")
        file = {"Name": self.passfile, "UID": str(layout.uid), "GID": str(layout.gid), "Mode": 0o400}
        spec = companion_spec(
            self.spec(),
            name=self.names.companion(place.name),
            unit=self.move.unit.name,
            node_id=place.node.id,
            command=command,
            data={layout.volume: self.path(place, copies.PARKED)},
            user=layout.user,
            secrets=[{"SecretID": self.move.cluster.secret(secret), "SecretName": secret, "File": file}],
        )
        container, task = spec["TaskTemplate"]["ContainerSpec"], spec["TaskTemplate"]
        container["Image"] = self.image(place)
        # A fast shutdown: SIGTERM would wait for clients.
        container["StopSignal"] = "SIGINT"
        container["StopGracePeriod"] = _STOP_SECONDS * _NANO
        if layout.pgdata is not None:
            others = [item for item in container.get("Env") or [] if not item.startswith("PGDATA=")]
            container["Env"] = [*others, f"PGDATA={layout.pgdata}"]
        limits = task["Resources"].get("Limits") or {}
        if limits.get("NanoCPUs"):
            # A limit above the node's CPUs is rejected, and the copy needs no more than the node has.
            limits["NanoCPUs"] = min(limits["NanoCPUs"], round(place.node.cpus * _NANO))
        if once:
            task["RestartPolicy"] = {"Condition": "none"}
        return spec

    def stop_companion(self, place: Place) -> None:
        """End the companion on a node, its server by a fast shutdown, and see there that it is gone."""
        for server in self._servers.values():
            if isinstance(server, ConnectedServer):
                server.disconnect()
        stop_companion(self.move.cluster, self.names.companion(place.name), place.host, _STOP_SECONDS)

    def last_words(self, place: Place, since: float | None = None) -> str:
        """Return what the companion's newest containers on a node wrote last, or in the last `since` seconds."""
        service = self.move.cluster.find_service(self.names.companion(place.name))
        tasks = self.move.cluster.tasks(service["ID"]) if service else []
        tasks.sort(key=lambda task: task["CreatedAt"], reverse=True)
        said = []
        lately = [] if since is None else ["--since", f"{math.ceil(since)}s"]
        for task in tasks[:2]:
            container = (task["Status"].get("ContainerStatus") or {}).get("ContainerID")
            if container:
                done = place.host.run(["docker", "logs", "--tail", "200", *lately, container], check=False)
                said.append(f"{done.out}\n{done.err}")
            said.append(task["Status"].get("Err") or "")
        return "\n".join(reversed(said)).strip()


def volume_of(data: str, volumes: Mapping[str, str]) -> tuple[str, str]:
    """Return the named volume that holds a data directory, and where it is mounted.

    Raises MoveError `data_outside` for a directory that no named volume holds: an anonymous one goes with its task.
    """
    holding = [
        (volume, mount.rstrip("/"))
        for volume, mount in volumes.items()
        if (data + "/").startswith(mount.rstrip("/") + "/")
    ]
    if not holding:
        message = f"data_directory {data} is in no named volume, and would be lost when the service stops"
        raise MoveError("data_outside", f"{message}: mount a named volume there and restore the data into it")
    return max(holding, key=lambda pair: len(pair[1]))

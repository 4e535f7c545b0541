# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The companion of a Redis: a replica of the service on a parked copy, that nobody but us can reach."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.companion import (
    LOOK_AT_LINK,
    companion_spec,
    cut,
    start_companion,
    stop_companion,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.image import runnable
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers import redis_state
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.redis_servers import Info, Servers
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.volumes import move_id, require_room
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.stopping import containers_on, end_orphans
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step, Tell

#: A copy that comes no nearer for so long is stuck, in seconds. Longer than a replica's own repl-timeout: for that long
#: it may try an address of before, as Swarm's DNS has named a task that was just ending.
STUCK = 90
_CONFIG = "evenkeel-redis.conf"
# A replica's words when the service can't be reached.
_UNREACHABLE = r"connect to MASTER|connecting to the MASTER|condition on socket for SYNC"


class Companion:
    """A replica on `place` of the service that runs on `primary`."""

    def __init__(self, servers: Servers, primary: Place, place: Place) -> None:
        self.servers = servers
        self.primary = primary
        self.place = place
        self.cluster = servers.move.cluster
        self.name = servers.companion(place)

    def steps(self, verb: str) -> Sequence[Step]:
        """Return the steps that have it run and follow."""
        key = f"{verb}.{self.servers.part.key}"
        run = Step(
            f"{key}.companion",
            "run a replica on the parked copy",
            self.place.name,
            probe=self.as_wanted,
            do=lambda _tell: self.run(),
            undo=self.forget,
            deadline=180,
        )
        link = Step(
            f"{key}.link",
            "copy all data, and follow",
            self.place.name,
            probe=self.following,
            do=self.wait_for_link,
            deadline=24 * 3600,
        )
        return [run, link]

    def as_wanted(self) -> bool:
        """Whether it runs, from the service's image and with the configuration that it should have."""
        found = self.cluster.find_service(self.name)
        if found is None or self.servers.companion_running(self.place) is None:
            return False
        digest, _content = self._configuration(self.servers.explore_service(self.primary))
        return _identity(found["Spec"]) == (self._image(), self._secret_name(digest))

    def run(self) -> None:
        """Have it run as wanted, made anew where it is not so."""
        servers, volume = self.servers, self.servers.volume
        explored = servers.explore_service(self.primary)
        needed = int(explored["info"]["used_memory"]) + redis_state.bytes_on_disk(explored)
        require_room(self.place, needed, volume.path(self.place), f"the copy of {servers.part.service}")
        digest, content = self._configuration(explored)
        secret = self._secret_name(digest)
        stop_companion(self.cluster, self.name, self.place.host)
        self._remove_secrets(but=secret)
        secret_id = self.cluster.secret(secret) or self.cluster.create_secret(secret, content, servers.move.unit.name)
        self._own_directory(explored)
        file = {"Name": _CONFIG, "UID": str(explored["uid"]), "GID": str(explored["gid"]), "Mode": 0o400}
        program = explored["info"].get("executable", "").rpartition("/")[2] or "redis-server"
        spec = companion_spec(
            servers.spec(),
            name=self.name,
            unit=servers.move.unit.name,
            node_id=self.place.node.id,
            command=[program, f"/run/secrets/{_CONFIG}"],
            data={volume.name: volume.path(self.place)},
            user=f"{explored['uid']}:{explored['gid']}",
            secrets=[{"SecretID": secret_id, "SecretName": secret, "File": file}],
        )
        spec["TaskTemplate"]["ContainerSpec"]["Image"] = self._image()
        start_companion(self.cluster, spec, 120)

    def following(self) -> bool:
        """Whether it has all data and gets every write; not yet where it does not listen yet."""
        return _follows(self._look()[0])

    def wait_for_link(self, tell: Tell) -> None:
        """Wait until it follows, for as long as it comes nearer."""
        end_orphans(self.servers.move.journal, self.place.host, self.place.root, [self.servers.volume.name])
        began, moved, seen = time.monotonic(), time.monotonic(), ""
        while True:
            now, (info, silent) = time.monotonic(), self._look()
            if _follows(info):
                return
            numbers = sync_progress(info, now - began)
            state = f"{info.get('master_sync_left_bytes')} {info.get('loading_loaded_bytes')} {numbers.get('text')}"
            if state != seen:
                moved, seen = now, state
                tell(**numbers)
            if now - moved > STUCK:
                self._raise_stuck(silent)
            time.sleep(0.2)

    def let_go(self) -> None:
        """Tell it to end, and don't wait for that."""
        self.cluster.remove_service(self.name)

    def end(self) -> None:
        """End it, and see that it is gone."""
        stop_companion(self.cluster, self.name, self.place.host)

    def gone(self) -> bool:
        """Whether nothing on the place has the parked copy mounted any more."""
        path = self.servers.volume.path(self.place)
        left = containers_on(self.place.host, [path])
        return not left and self.cluster.find_service(self.name) is None

    def forget(self) -> None:
        """End it and remove its configuration, and that of one on the other node: a move there and back leaves it."""
        self.end()
        for place in (self.servers.move.source, self.servers.move.target):
            Companion(self.servers, self.primary, place)._remove_secrets()

    def secrets(self) -> list[str]:
        """Return the names of its configurations."""
        mine = self._secret_name("")
        return [name for name in self.cluster.secrets(self.servers.move.unit.name) if name.startswith(mine)]

    def _image(self) -> str:
        """Return the reference by which the place runs the very image of the service, asking no registry."""
        return runnable(self.servers.move, self.place, self.servers.image(), self.servers.part.service)

    def _remove_secrets(self, but: str | None = None) -> None:
        for name in self.secrets():
            if name != but:
                self.cluster.remove_secret(name)

    def _secret_name(self, digest: str) -> str:
        return f"{cut(self.name, 50)}-{digest}"

    def _configuration(self, explored: Mapping[str, Any]) -> tuple[str, str]:
        content = redis_state.companion_config(
            explored,
            primary=f"tasks.{self.servers.part.service}",
            password=explored["password"],
            directory=explored["config"]["dir"],
        )
        # The move's id stands in files that only root reads: without it nobody can try passwords on the name.
        return hashlib.sha256((move_id(self.servers.move) + content).encode()).hexdigest()[:12], content

    def _own_directory(self, explored: Mapping[str, Any]) -> None:
        """Give the parked directory the owner and mode that the live one has, and make the one below it, if any."""
        volume = self.servers.volume
        below = redis_state.below(explored["config"]["dir"], self.servers.part.volumes)
        there = volume.where(self.primary)
        for directory in dict.fromkeys(("", below)):
            at = f"/{directory}" if directory else ""
            shown = self.primary.host.run(["stat", "-c", "%u %g %a", f"{there}{at}"])
            owner, group, mode = shown.out.split()
            path = f"{volume.path(self.place)}{at}"
            self.place.host.run(["install", "-d", "-o", owner, "-g", group, "-m", mode, path])

    def _look(self) -> tuple[Info, str]:
        """Return its INFO and "", or nothing and why it does not tell it: it may not listen yet."""
        try:
            return self.servers.info(self.place, self.servers.companion_container(self.place)), ""
        except MoveError as error:
            if error.code == "host_unreachable":
                raise
            return {}, error.message

    def _raise_stuck(self, silent: str) -> None:
        require_room(self.place, 0, self.servers.volume.path(self.place), f"the copy of {self.servers.part.service}")
        container = self.servers.companion_running(self.place)
        said = self.place.host.run(["docker", "logs", "--tail", "20", container], check=False) if container else None
        # What Redis warns of has this mark in its log.
        lines = [line for line in (said.out + said.err).splitlines() if " # " in line] if said else []
        last = lines[-1].strip() if lines else "its log says nothing"
        hint = [LOOK_AT_LINK] if re.search(_UNREACHABLE, last) else []
        why = "; ".join([*([silent] if silent else []), last, *hint])
        raise MoveError("replica_stuck", f"the copy on {self.place.name} came no nearer for {STUCK} s: {why}")


def _follows(info: Mapping[str, str]) -> bool:
    return info.get("master_link_status") == "up" and info.get("loading") == "0"


def sync_progress(info: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """Return a replica's progress (bytes, total, eta in seconds) from its INFO, after so many seconds of copying."""
    if info.get("master_sync_in_progress") == "1":
        total, left = int(info.get("master_sync_total_bytes") or 0), int(info.get("master_sync_left_bytes") or 0)
        if total <= 0:
            return {"text": "the server prepares its data"}
        done = total - left
        rate = done / seconds if seconds > 0 else 0
        return {"bytes": done, "total": total, **({"eta": round(left / rate, 1)} if rate else {})}
    if info.get("loading") == "1":
        return {"text": "the copy is read in", "bytes": int(info.get("loading_loaded_bytes") or 0)}
    return {"text": "the copy connects"}


def _identity(spec: Mapping[str, Any]) -> tuple[str, str]:
    container = spec["TaskTemplate"]["ContainerSpec"]
    ours = [each["SecretName"] for each in container.get("Secrets") or [] if each["File"]["Name"] == _CONFIG]
    return container["Image"], ours[0] if ours else ""

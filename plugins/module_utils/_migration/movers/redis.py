# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis by replication: writes are paused, the copy proves on disk that it has them all, and only then takes over.

The companion is never promoted: it is a replica from its start to its end, reachable by nobody but us. What takes over
is the service itself, which starts on the data that the companion left. So there is no moment with two writable copies.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.image import image_present
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Part
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers import backups, redis_state
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import (
    Facts,
    Move,
    Mover,
    Place,
    Readiness,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.redis_companion import Companion
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.redis_pause import Pause
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.redis_servers import (
    Info,
    Servers,
    first_error,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.volumes import human
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import (
    Stage,
    Step,
    Tell,
    Together,
    wait_until,
)


class RedisMover(Mover):
    """One Redis server and the named volume that holds its data."""

    def __init__(self, move: Move, part: Part) -> None:
        super().__init__(move, part)
        self.servers = Servers(move, part)
        self.companion = Companion(self.servers, move.source, move.target)
        self.pause = Pause(self.servers)

    def facts(self) -> Facts:
        """Look at the server, changing nothing."""
        explored = self.servers.explore(self.move.source, self.servers.service_container(self.move.source))
        traps = redis_state.traps(
            explored, self.part.volumes, limit=self._limit(), password_env=self.part.member.password_env
        )
        if explored["info"] is None or explored["config"] is None:
            return Facts(None, None, {"port": explored["port"], "password": "unknown"}, traps)
        info, config = explored["info"], explored["config"]
        size = max(int(info["used_memory"]), redis_state.bytes_on_disk(explored))
        detail = {
            "version": info["redis_version"],
            "password": "known" if explored["needed"] else "none",
            "used_memory": int(info["used_memory"]),
            "bytes_on_disk": redis_state.bytes_on_disk(explored),
            "save": config.get("save", ""),
            "appendonly": config.get("appendonly", "no"),
            "clients": int(info["connected_clients"]) - 1,  # less the one that asks
            "replicas": int(info["connected_slaves"]),
            "maxmemory": int(config.get("maxmemory") or 0) or None,
            "maxmemory_policy": config.get("maxmemory-policy"),
            "directory": config["dir"],
            "keys": {name: keys for name, (keys, _expiring) in redis_state.keyspace(info).items()},
            "modules": [each.get("name") for each in explored["modules"]],
        }
        return Facts(size, None, detail, traps)

    # --- the copy ---

    def prepare(self) -> Sequence[Stage]:
        """Refuse what can't be moved; bring the image; mark the source's data, make the target's volume."""
        image = image_present(self.move, self.move.target, self.servers.image(), self.part.service)
        return [self._refuse_traps(), image, self.servers.volume.mark(), self.servers.volume.make()]

    def backup(self) -> Sequence[Stage]:
        """Back the server up on the target, and load the backup once."""
        return [backups.of_redis(self.servers)]

    def precopy(self) -> Sequence[Stage]:
        """Have a replica follow the service on the target's parked copy."""
        return self.companion.steps("precopy")

    def readiness(self) -> Readiness:
        """Say how far the replica is behind."""
        source, target = self.move.source, self.move.target
        try:
            primary = self.servers.info(source, self.servers.service_container(source))
            replica = self.servers.info(target, self.servers.companion_container(target))
        except MoveError as error:
            return Readiness(False, f"the lag can't be measured: {error.message}", {"lag": None})
        if replica.get("master_link_status") != "up":
            text = f"the copy on {target.name} is not connected to {self.part.service}"
            return Readiness(False, text, {"lag": None, "link": "down"})
        lag = max(0, int(primary["master_repl_offset"]) - int(replica["master_repl_offset"]))
        numbers = {"lag": lag, "link": "up"}
        if lag > self.move.options.max_lag:
            allowed = f"{human(self.move.options.max_lag)} are allowed"
            return Readiness(False, f"the copy on {target.name} is {human(lag)} behind, {allowed}", numbers)
        return Readiness(True, f"the copy on {target.name} follows, {human(lag)} behind", numbers)

    def settle(self) -> Sequence[Stage]:
        """See that a replica follows."""
        target = self.move.target
        return [self._step("ready", "see that a replica follows", target, self._ready, self._make_ready, deadline=600)]

    def park(self) -> Sequence[Stage]:
        """Park the source's data; pause writes, have the replica take them all, put both sides on disk, let it end.

        The pause is an outage, so it comes last; what the server still saves goes to where its data are parked.
        """
        source, target, pause = self.move.source, self.move.target, self.pause
        begin = self._step(
            "pause", "pause writes and note how far they got", source, pause.holds, pause.begin, pause.lift
        )
        caught_up = self._step(
            "caught-up", "wait for the copy to have every write", target, pause.caught_up, pause.wait_for_copy
        )
        save_target = self._step(
            "save-target", "put the copy on disk", target, pause.copy_saved, pause.save_copy, deadline=600
        )
        end = self._step(
            "end-companion", "let the replica end", target, self._ending, lambda _tell: self.companion.let_go()
        )
        save_source = self._step(
            "save-source", "put the source's data on disk", source, pause.source_saved, pause.save_source, deadline=600
        )
        quick = self._step(
            "quick-end",
            "have the server end at once when it is told to",
            source,
            pause.end_armed,
            pause.arm_end,
            pause.disarm_end,
        )
        parked = self.servers.volume.park_source()
        return [parked, begin, caught_up, Together([[save_target, end], [save_source], [quick]])]

    def meanwhile(self) -> Sequence[Stage]:
        """See the replica's end, which has all on disk: it was told to, but by itself Swarm takes seconds for that."""
        target, companion = self.move.target, self.companion
        return [self._step("companion-end", "end the replica", target, companion.gone, self._end_companion)]

    def stopped(self) -> Sequence[Stage]:
        """Prove that nothing was written since, and that the copy on disk is complete."""
        source, target = self.move.source, self.move.target
        held = self._check(
            "pause-held", "see that writes were paused until the end", source, self.pause.refuse_not_held
        )
        gate = self._check("gate", "see that the copy on disk has every write", target, self.pause.refuse_incomplete)
        return [Together([[self.servers.volume.unused()], [held], [gate]])]

    def undo_on_hosts(self) -> Sequence[Mapping[str, Any]]:
        """Bring the source's volume live again."""
        return [{"do": "bring_live", "node": self.move.source.name, "volume": self.servers.volume.name}]

    def take_over(self) -> Sequence[Stage]:
        """See that the replica has ended, and bring its data live."""
        target, companion = self.move.target, self.companion
        gone = self._step("companion-gone", "wait for the replica's end", target, companion.gone, self._end_companion)
        return [gone, self.servers.volume.bring_live()]

    def verify(self) -> Sequence[Stage]:
        """See that the server on the target has every key and takes writes."""
        target = self.move.target
        return [self._check("verify", "see that the server has every key and takes writes", target, self._verify)]

    def follow(self) -> Sequence[Stage]:
        """Have a replica on the old node follow the service, on the old copy."""
        return Companion(self.servers, self.move.target, self.move.source).steps("follow")

    def finish(self) -> Sequence[Stage]:
        """Remove the old copy, the companions and their configurations, and the marks."""
        steps = []
        for place in (self.move.source, self.move.target):
            companion = Companion(self.servers, self.move.target, place)
            steps.append(
                Step(
                    f"complete.{self.part.key}.companion-{place.name}",
                    "remove the replica and its configuration",
                    place.name,
                    probe=lambda each=companion: each.gone() and not each.secrets(),  # type: ignore[misc]
                    do=lambda _tell, each=companion: each.forget(),  # type: ignore[misc]
                )
            )
        return [*steps, self.servers.volume.remove_source(), self.servers.volume.unmark()]

    # --- what the steps do ---

    def _ready(self) -> bool:
        if self.pause.holds() and self.pause.copy_saved():
            return True
        return self.companion.as_wanted() and self.companion.following()

    def _make_ready(self, tell: Tell) -> None:
        if not self.companion.as_wanted():
            self.companion.run()
        self.companion.wait_for_link(tell)

    def _ending(self) -> bool:
        return self.move.cluster.find_service(self.companion.name) is None

    def _end_companion(self, _tell: Tell) -> None:
        self.companion.end()
        wait_until(self.companion.gone, 60, f"{self.companion.name} to end")

    def _verify(self) -> None:
        servers, target = self.servers, self.move.target
        wait_until(lambda: servers.running(target) is not None, 60, f"{self.part.service} to run on {target.name}")
        container = servers.service_container(target)
        wait_until(lambda: self._loaded(target, container), 600, f"{self.part.service} to load its data")
        info = servers.info(target, container)
        if info["role"] != "master":
            raise MoveError("not_primary", f"{self.part.service} on {target.name} is a replica")
        token = self.pause.last_token() or {}
        before, now = token.get("keyspace", {}), redis_state.keyspace(info)
        # An append-only file is loaded in pieces, of which only some are counted.
        wrong = None if token.get("appends") else redis_state.lost_at_load(before, info)
        if wrong is None:
            wrong = redis_state.differences(before, now, taking_writes=True)
        if wrong and not self._verified(info):
            raise MoveError("keys_differ", f"{self.part.service} on {target.name}: {'; '.join(wrong)}")
        key = f"evenkeel:canary:{uuid.uuid4().hex}"
        replies = servers.ask(target, container, [["SET", key, "1", "EX", "60"], ["DEL", key]])["replies"]
        if replies != ["OK", 1]:
            why = first_error(replies)
            raise MoveError("no_writes", f"{self.part.service} on {target.name} takes no writes: {why}")
        self.move.journal.write("redis_verified", part=self.part.key, replid=info["master_replid"])

    def _verified(self, info: Info) -> bool:
        """Whether this same server passed before: consumers have written since."""
        return self.move.journal.last("redis_verified", part=self.part.key, replid=info["master_replid"]) is not None

    def _loaded(self, place: Place, container: str) -> bool:
        try:
            return self.servers.info(place, container)["loading"] == "0"
        except MoveError as error:
            if error.code == "host_unreachable":
                raise
            return False  # it does not listen yet

    def _limit(self) -> int | None:
        memory = (self.part.member.limits or {}).get("memory_bytes")
        limits = (self.servers.spec()["TaskTemplate"].get("Resources") or {}).get("Limits") or {}
        return int(memory or limits.get("MemoryBytes") or 0) or None

    def _step(self, what: str, title: str, place: Place, *calls: Any, deadline: float = 60) -> Step:
        """Return a step of the switch; `calls`: probe, do, and undo where there is one."""
        probe, do, undo = (*calls, None)[:3]
        return Step(f"switch.{self.part.key}.{what}", title, place.name, probe, do, deadline, undo)

    def _check(self, what: str, title: str, place: Place, check: Callable[[], None], verb: str = "switch") -> Step:
        def probe() -> bool:
            check()
            return True

        return Step(f"{verb}.{self.part.key}.{what}", title, place.name, probe, lambda _tell: None, changes=False)

    def _refuse_traps(self) -> Step:
        def check() -> None:
            refused = [trap for trap in self.facts().traps if trap.refuses]
            if refused:
                first = refused[0]
                raise MoveError(first.code, f"{self.part.service}: {first.text}: {first.remedy}")

        return self._check("traps", "see that the server can be moved", self.move.source, check, verb="prepare")

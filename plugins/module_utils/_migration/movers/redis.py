# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis by replication: writes are paused, the copy proves on disk that it has them all, and only then takes over.

The companion is never promoted: it is a replica from its start to its end, reachable by nobody but us. What takes over
is the service itself, which starts on the data that the companion left. So there is no moment with two writable copies.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.companion import (
    companion_spec,
    start_companion,
    stop_companion,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Part
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers import redis_state
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import (
    Facts,
    Move,
    Mover,
    Place,
    Readiness,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.volumes import (
    Volume,
    human,
    move_id,
    require_room,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import redis_server
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import (
    Stage,
    Step,
    Tell,
    Together,
    wait_until,
)

#: How much longer than the deadline writes stay paused, in seconds.
PAUSE_MARGIN = 60
#: A copy that comes no nearer for so long is stuck, in seconds.
STUCK = 60
_CONFIG = "evenkeel-redis.conf"
Info = dict[str, str]


class RedisMover(Mover):
    """One Redis server and the named volume that holds its data."""

    def __init__(self, move: Move, part: Part) -> None:
        super().__init__(move, part)
        self._explored: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    # --- what there is ---

    def facts(self) -> Facts:
        """Look at the server, changing nothing."""
        explored = self._explore(self.move.source, self._service_container(self.move.source))
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
        """Refuse what can't be moved; mark the source's data, make the target's volume."""
        return [self._refuse_traps(), self._volume().mark(), self._volume().make()]

    def precopy(self) -> Sequence[Stage]:
        """Have a replica follow the service on the target's parked copy."""
        return self._copy("precopy", self.move.source, self.move.target)

    def readiness(self) -> Readiness:
        """Say how far the replica is behind."""
        try:
            primary = self._info(self.move.source, self._service_container(self.move.source))
            replica = self._info(self.move.target, self._companion_container(self.move.target))
        except MoveError as error:
            return Readiness(False, f"the lag can't be measured: {error.message}", {"lag": None})
        if replica.get("master_link_status") != "up":
            return Readiness(False, f"the copy on {self.move.target.name} is not connected to {self.part.service}")
        lag = max(0, int(primary["master_repl_offset"]) - int(replica["master_repl_offset"]))
        numbers = {"lag": lag, "link": "up"}
        if lag > self.move.options.max_lag:
            allowed = f"{human(self.move.options.max_lag)} are allowed"
            return Readiness(False, f"the copy on {self.move.target.name} is {human(lag)} behind, {allowed}", numbers)
        return Readiness(True, f"the copy on {self.move.target.name} follows, {human(lag)} behind", numbers)

    # --- the switch ---

    def settle(self) -> Sequence[Stage]:
        """Pause writes, wait for the replica to have them all, put both on disk."""
        source, target = self.move.source, self.move.target
        pause = self._step(
            "pause", "pause writes and note how far they got", source, self._settled, self._pause, undo=self._resume
        )
        caught_up = self._step(
            "caught-up", "wait for the copy to have every write", target, self._caught_up, self._wait_for_copy
        )
        save_target = self._step(
            "save-target",
            "put the copy on disk",
            target,
            self._target_saved,
            lambda _tell: self._save(target),
            deadline=600,
        )
        save_source = self._step(
            "save-source",
            "put the source's data on disk",
            source,
            self._source_saved,
            lambda _tell: self._save(source),
            deadline=600,
        )
        end = self._step(
            "quick-end",
            "have the server end at once when it is told to",
            source,
            self._end_armed,
            self._arm_end,
            undo=self._disarm_end,
        )
        return [pause, caught_up, Together([[save_target], [save_source, end]])]

    def stopped(self) -> Sequence[Stage]:
        """Prove that nothing was written since, and that the copy on disk is complete; park the source."""
        source, target = self.move.source, self.move.target
        held = self._check("pause-held", "see that writes were paused until the server ended", source, self._pause_held)
        gate = self._check("gate", "see that the copy on disk has every write", target, self._gate)
        return [held, gate, self._volume().park_source()]

    def undo_on_hosts(self) -> Sequence[Mapping[str, Any]]:
        """Bring the source's volume live again."""
        volume = self._volume_name()
        return [{"do": "bring_live", "node": self.move.source.name, "volume": volume}]

    def take_over(self) -> Sequence[Stage]:
        """End the companion and bring its data live."""
        target = self.move.target
        end = self._step(
            "end-companion",
            "end the companion, its data complete on disk",
            target,
            lambda: self.move.cluster.find_service(self._name(target)) is None,
            lambda _tell: self._end_companion(target),
        )
        return [end, self._volume().bring_live()]

    def verify(self) -> Sequence[Stage]:
        """See that the server on the target has every key and takes writes."""
        target = self.move.target
        return [self._check("verify", "see that the server has every key and takes writes", target, self._verify)]

    def follow(self) -> Sequence[Stage]:
        """Have a replica on the old node follow the service, on the old copy."""
        return self._copy("follow", self.move.target, self.move.source)

    def finish(self) -> Sequence[Stage]:
        """Remove the old copy, its companion, the secrets and the marks."""
        source, target = self.move.source, self.move.target
        end = Step(
            f"complete.{self.part.key}.companion",
            "end the companion on the old copy",
            source.name,
            probe=lambda: self.move.cluster.find_service(self._name(source)) is None,
            do=lambda _tell: self._end_companion(source),
        )
        secrets = Step(
            f"complete.{self.part.key}.secrets",
            "remove the companions' configurations",
            target.name,
            probe=lambda: not self._secrets(source) + self._secrets(target),
            do=lambda _tell: self._remove_secrets(source, target),
        )
        volume = self._volume()
        return [end, secrets, volume.remove_source(), volume.unmark()]

    # --- copying: a replica of the service on `primary`, in the parked directory on `place` ---

    def _copy(self, verb: str, primary: Place, place: Place) -> Sequence[Stage]:
        key = f"{verb}.{self.part.key}"

        def run(_tell: Tell) -> None:
            explored = self._explore_service(primary)
            needed = int(explored["info"]["used_memory"]) + redis_state.bytes_on_disk(explored)
            require_room(place, needed, self._volume().path(place), f"the copy of {self.part.service}")
            self._run_companion(explored, primary, place)

        return [
            Step(
                f"{key}.companion",
                "run a replica on the parked copy",
                place.name,
                probe=lambda: self._companion_as_wanted(primary, place),
                do=run,
                undo=lambda: self._forget_companion(place),
                deadline=180,
            ),
            Step(
                f"{key}.link",
                "copy all data, and follow",
                place.name,
                probe=lambda: self._following(place),
                do=lambda tell: self._wait_for_link(place, tell),
                deadline=24 * 3600,
            ),
        ]

    def _companion_as_wanted(self, primary: Place, place: Place) -> bool:
        found = self.move.cluster.find_service(self._name(place))
        if found is None or not any(each.node == place.name for each in self.move.cluster.running(self._name(place))):
            return False
        name, _content = self._configuration(self._explore_service(primary))
        return _identity(found["Spec"]) == (
            self._spec()["TaskTemplate"]["ContainerSpec"]["Image"],
            self._secret_name(place, name),
        )

    def _run_companion(self, explored: Mapping[str, Any], primary: Place, place: Place) -> None:
        cluster = self.move.cluster
        digest, content = self._configuration(explored)
        secret = self._secret_name(place, digest)
        stop_companion(cluster, self._name(place))
        for name in self._secrets(place):
            if name != secret:
                cluster.remove_secret(name)
        secret_id = cluster.secret(secret) or cluster.create_secret(secret, content, self.move.unit.name)
        self._own_directory(explored, primary, place)
        user = str(explored["uid"])
        file = {"Name": _CONFIG, "UID": user, "GID": str(explored["gid"]), "Mode": 0o400}
        server = explored["info"].get("executable", "redis-server").rpartition("/")[2] or "redis-server"
        spec = companion_spec(
            self._spec(),
            name=self._name(place),
            unit=self.move.unit.name,
            node_id=place.node.id,
            command=[server, f"/run/secrets/{_CONFIG}"],
            data={self._volume_name(): self._volume().path(place)},
            user=f"{user}:{explored['gid']}",
            secrets=[{"SecretID": secret_id, "SecretName": secret, "File": file}],
        )
        start_companion(cluster, spec, 120)

    def _own_directory(self, explored: Mapping[str, Any], primary: Place, place: Place) -> None:
        """Give the parked directory the owner and mode that the live one has, and make the one below it, if any."""
        live, parked = self._volume().live_path(primary), self._volume().path(place)
        _volume, below = redis_state.volume_of(explored["config"]["dir"], self.part.volumes) or ("", "")
        for directory in dict.fromkeys(("", below)):
            at = f"/{directory}" if directory else ""
            owner, group, mode = primary.host.run(["stat", "-c", "%u %g %a", f"{live}{at}"]).out.split()
            place.host.run(["install", "-d", "-o", owner, "-g", group, "-m", mode, f"{parked}{at}"])

    def _configuration(self, explored: Mapping[str, Any]) -> tuple[str, str]:
        content = redis_state.companion_config(
            explored,
            primary=f"tasks.{self.part.service}",
            password=explored["password"],
            directory=explored["config"]["dir"],
        )
        # The move's id stands in files that only root reads: without it nobody can try passwords on the name.
        return hashlib.sha256((move_id(self.move) + content).encode()).hexdigest()[:12], content

    def _following(self, place: Place) -> bool:
        info = self._info(place, self._companion_container(place))
        return info.get("master_link_status") == "up" and info.get("loading") == "0"

    def _wait_for_link(self, place: Place, tell: Tell) -> None:
        began, moved, seen = time.monotonic(), time.monotonic(), ""
        while True:
            now = time.monotonic()
            info: Info = {}
            try:
                info = self._info(place, self._companion_container(place))
            except MoveError as error:
                if error.code == "host_unreachable":
                    raise
            if info.get("master_link_status") == "up" and info.get("loading") == "0":
                return
            numbers = sync_progress(info, now - began)
            state = f"{info.get('master_sync_left_bytes')} {info.get('loading_loaded_bytes')} {numbers}"
            if state != seen:
                moved, seen = now, state
                tell(**numbers)
            if now - moved > STUCK:
                self._raise_stuck(place)
            time.sleep(0.2)

    def _raise_stuck(self, place: Place) -> None:
        path = self._volume().path(place)
        require_room(place, 0, path, f"the copy of {self.part.service}")
        container = self._companion_container(place)
        said = place.host.run(["docker", "logs", "--tail", "20", container], check=False)
        lines = [line for line in (said.out + said.err).splitlines() if " # " in line] or ["its log says nothing"]
        raise MoveError("replica_stuck", f"the copy on {place.name} came no nearer for {STUCK} s: {lines[-1].strip()}")

    def _end_companion(self, place: Place) -> None:
        stop_companion(self.move.cluster, self._name(place))

    def _forget_companion(self, place: Place) -> None:
        self._end_companion(place)
        self._remove_secrets(place)

    def _secrets(self, place: Place) -> list[str]:
        return [
            name
            for name in self.move.cluster.secrets(self.move.unit.name)
            if name.startswith(self._secret_name(place, ""))
        ]

    def _remove_secrets(self, *places: Place) -> None:
        for place in places:
            for name in self._secrets(place):
                self.move.cluster.remove_secret(name)

    # --- settling ---

    def _token(self) -> dict[str, Any] | None:
        return self.move.journal.last("redis_token", part=self.part.key, source=self.move.source.name)

    def _held_token(self) -> dict[str, Any]:
        token = self._token()
        if token is None:
            raise MoveError("no_token", f"writes to {self.part.service} were not paused: run switch again")
        return token

    def _settled(self) -> bool:
        """Whether the pause of the last token still holds: same server, same boot, and time left."""
        if self._volume().parked(self.move.source):
            return True
        token = self._token()
        running = self._service_running(self.move.source)
        if token is None or running is None:
            if running is None and token is None:
                raise MoveError("not_running", f"{self.part.service} does not run on {self.move.source.name}")
            return token is not None
        now = self.move.source.host.call(redis_server, "clock")
        fresh = now["boot"] == token["boot"] and now["at"] < token["until"] - self.move.options.deadline
        if running != token["container"] or not fresh:
            return False
        return bool(self._info(self.move.source, running)["master_replid"] == token["replid"])

    def _pause(self, _tell: Tell) -> None:
        source, container = self.move.source, self._service_container(self.move.source)
        explored = self._explore(source, container)
        whole = redis_state.version(explored["info"]) < redis_state.PAUSE_WRITES
        # A pause that can't be lifted must not be longer than needed.
        seconds = (self.move.options.deadline + PAUSE_MARGIN) * (1 if whole else 2)
        milliseconds = int(seconds * 1000)
        pause = ["CLIENT", "PAUSE", milliseconds, *([] if whole else ["WRITE"])]
        # In one transaction: nothing gets between the pause and the position. An old server, once paused, answers
        # nobody any more, so it saves in the same breath.
        commands: list[list[Any]] = [
            ["MULTI"],
            pause,
            ["INFO", "replication"],
            ["INFO", "keyspace"],
            *([["SAVE"]] if whole else []),
            ["EXEC"],
        ]
        answer = self._ask(source, container, commands, seconds=600)
        done = answer["replies"][-1]
        if not isinstance(done, list) or any(isinstance(each, dict) for each in (*answer["replies"], *done)):
            raise MoveError(
                "pause_refused",
                f"{self.part.service} does not pause writes: {_first_error([*answer['replies'], *(done or [])])}",
            )
        replication = redis_server.parse_info(done[1])
        self.move.journal.write(
            "redis_token",
            part=self.part.key,
            source=source.name,
            container=container,
            replid=replication["master_replid"],
            offset=int(replication["master_repl_offset"]),
            at=answer["before"]["at"],
            wall=answer["before"]["wall"],
            boot=answer["before"]["boot"],
            # From before the pause began: it ends later than this.
            until=answer["before"]["at"] + milliseconds / 1000,
            keyspace=redis_state.keyspace(redis_server.parse_info(done[2])),
            saved=whole,
        )

    def _resume(self) -> None:
        running = self._service_running(self.move.source)
        if (
            running is not None
            and redis_state.version(self._explore(self.move.source, running)["info"]) >= redis_state.PAUSE_WRITES
        ):
            self._ask(self.move.source, running, [["CLIENT", "UNPAUSE"]])

    def _past(self) -> bool:
        """Whether the source is parked: what settling is for has been proven then."""
        return self._volume().parked(self.move.source)

    def _caught_up(self) -> bool:
        token = self._token()
        if self._past() or token is None:
            return token is not None
        info = self._info(self.move.target, self._companion_container(self.move.target))
        return bool(info["master_replid"] == token["replid"] and int(info["master_repl_offset"]) >= token["offset"])

    def _wait_for_copy(self, tell: Tell) -> None:
        token = self._held_token()
        tell(text="writes are paused; the copy takes the last ones")
        wait_until(
            self._caught_up, 30, f"the copy to reach the offset {token['offset']} of {token['replid']}", every=0.02
        )

    def _save(self, place: Place) -> None:
        container = self._container(place)
        if self._appends(place, container):
            wait_until(lambda: self._appended(place, container), 600, "the append-only file to be written")
            if place is self.move.target:
                place.host.run(["sync", "-f", self._volume().path(place)], timeout=600)
            return
        # A save that is under way (of a replica's, of the server's own schedule) would refuse ours.
        wait_until(lambda: self._info(place, container)["rdb_bgsave_in_progress"] == "0", 600, "another save to end")
        [answer] = self._ask(place, container, [["SAVE"]], seconds=600)["replies"]
        if answer != "OK":
            raise MoveError("save_failed", f"Redis on {place.name} can't save: {_first_error([answer])}")

    def _target_saved(self) -> bool:
        if self._past():
            return True
        return self._on_disk(self.move.target, self._volume().path(self.move.target))

    def _source_saved(self) -> bool:
        token = self._token()
        if token is None:
            return False
        if self._past() or self._service_running(self.move.source) is None or token["saved"]:
            return True
        return self._on_disk(self.move.source, self._volume().live_path(self.move.source))

    def _on_disk(self, place: Place, path: str) -> bool:
        """Whether what a server has saved holds every write up to the token."""
        token = self._token()
        if token is None:
            return False
        container = self._container(place)
        if self._appends(place, container):
            info = self._info(place, container)
            complete = info["master_replid"] == token["replid"] and int(info["master_repl_offset"]) >= token["offset"]
            return complete and self._appended(place, container)
        config = self._explore(place, container)["config"]
        _volume, below = redis_state.volume_of(config["dir"], self.part.volumes) or ("", "")
        file = "/".join(part for part in (path, below, config["dbfilename"]) if part)
        saved = place.host.call(redis_server, "saved_position", path=file)
        return saved is not None and saved["replid"] == token["replid"] and saved["offset"] >= token["offset"]

    def _appends(self, place: Place, container: str) -> bool:
        return bool(self._explore(place, container)["config"].get("appendonly") == "yes")

    def _appended(self, place: Place, container: str) -> bool:
        info = self._info(place, container)
        idle = all(info.get(name, "0") == "0" for name in _AOF_BUSY)
        return idle and info.get("aof_enabled") == "1" and all(info.get(name, "ok") == "ok" for name in _AOF_FINE)

    # --- the end of the source ---

    def _end_unit(self) -> str:
        return f"evenkeel-{self.move.unit.name}-{self.part.key}-end.service"

    def _end_armed(self) -> bool:
        if self._past() or self._service_running(self.move.source) is None:
            return True
        return not self.move.source.host.run(["systemctl", "is-active", "-q", self._end_unit()], check=False).status

    def _arm_end(self, _tell: Tell) -> None:
        """Kill the server as soon as the engine asks it to end: all is on disk, and some would not hear it.

        Only while writes are paused: later it may have data that are on no disk.
        """
        token, host = self._held_token(), self.move.source.host
        until = int(token["wall"] + token["until"] - token["at"] - PAUSE_MARGIN)
        script = (
            'docker events --filter "container=$1" --filter event=kill --until "$2" --format x'
            ' | { read -r _ && docker kill --signal KILL "$1"; }'
        )
        unit = f"--unit={self._end_unit()}"
        host.run(
            ["systemd-run", "--quiet", "--collect", unit, "/bin/sh", "-c", script, "sh", token["container"], str(until)]
        )

    def _disarm_end(self) -> None:
        self.move.source.host.run(["systemctl", "stop", self._end_unit()], check=False)

    def _pause_held(self) -> None:
        if self._past():
            return
        token = self._held_token()
        again = "the unit goes back to its source; run switch again"
        now = self.move.source.host.call(redis_server, "clock")
        if now["boot"] != token["boot"] or now["at"] >= token["until"]:
            raise MoveError("pause_over", f"{self.part.service} stopped later than its pause of writes lasted: {again}")
        if now["engine"] is None or now["engine"] >= token["at"]:
            raise MoveError(
                "pause_unproven", f"the engine on {self.move.source.name} restarted while writes were paused: {again}"
            )
        started = self._starts_since(token["wall"], now["wall"])
        if started:
            raise MoveError(
                "pause_unproven", f"{self.part.service} started once more after writes were paused: {again}"
            )

    def _starts_since(self, since: float, until: float) -> list[str]:
        service = f"label=com.docker.swarm.service.name={self.part.service}"
        window = ["--since", f"{since:.3f}", "--until", f"{until:.3f}"]
        filters = ["--filter", "type=container", "--filter", "event=start", "--filter", service]
        return self.move.source.host.run(["docker", "events", *window, *filters, "--format", "{{.ID}}"]).out.split()

    def _gate(self) -> None:
        if self._past():
            return
        token, target = self._held_token(), self.move.target
        if not self._on_disk(target, self._volume().path(target)):
            raise MoveError(
                "gate",
                f"the copy on {target.name} has not on disk what was written up to the offset {token['offset']}:"
                " the unit goes back to its source",
            )
        info = self._info(target, self._companion_container(target))
        wrong = redis_state.differences(token["keyspace"], redis_state.keyspace(info))
        if wrong:
            raise MoveError(
                "gate", f"the copy on {target.name} differs: {'; '.join(wrong)}: the unit goes back to its source"
            )

    # --- after it ---

    def _verify(self) -> None:
        target = self.move.target
        wait_until(
            lambda: self._service_running(target) is not None, 60, f"{self.part.service} to run on {target.name}"
        )
        container = self._service_container(target)
        wait_until(lambda: self._loaded(target, container), 600, f"{self.part.service} to load its data")
        info = self._info(target, container)
        if info["role"] != "master":
            raise MoveError("not_primary", f"{self.part.service} on {target.name} is a replica")
        token = self._token()
        before, now = (token or {}).get("keyspace", {}), redis_state.keyspace(info)
        wrong = redis_state.differences(before, now, taking_writes=True)
        if wrong and not self._written_since(info):
            raise MoveError("keys_differ", f"{self.part.service} on {target.name}: {'; '.join(wrong)}")
        key = f"evenkeel:canary:{uuid.uuid4().hex}"
        replies = self._ask(target, container, [["SET", key, "1", "EX", "60"], ["DEL", key]])["replies"]
        if replies != ["OK", 1]:
            raise MoveError(
                "no_writes", f"{self.part.service} on {target.name} takes no writes: {_first_error(replies)}"
            )
        self.move.journal.write("redis_verified", part=self.part.key, replid=info["master_replid"])

    def _written_since(self, info: Info) -> bool:
        """Whether that same server was verified before: consumers have written since."""
        return self.move.journal.last("redis_verified", part=self.part.key, replid=info["master_replid"]) is not None

    def _loaded(self, place: Place, container: str) -> bool:
        try:
            return self._info(place, container)["loading"] == "0"
        except MoveError as error:
            if error.code == "host_unreachable":
                raise
            return False  # it does not listen yet

    # --- ways to the servers ---

    def _step(
        self, what: str, title: str, place: Place, probe: Any, do: Any, *, undo: Any = None, deadline: float = 60
    ) -> Step:
        return Step(
            f"switch.{self.part.key}.{what}", title, place.name, probe=probe, do=do, undo=undo, deadline=deadline
        )

    def _check(self, what: str, title: str, place: Place, check: Any) -> Step:
        def probe() -> bool:
            check()
            return True

        return Step(
            f"switch.{self.part.key}.{what}", title, place.name, probe=probe, do=lambda _tell: None, changes=False
        )

    def _refuse_traps(self) -> Step:
        def check() -> bool:
            refused = [trap for trap in self.facts().traps if trap.refuses]
            if refused:
                first = refused[0]
                raise MoveError(first.code, f"{self.part.service}: {first.text}: {first.remedy}")
            return True

        return Step(
            f"prepare.{self.part.key}.traps",
            "see that the server can be moved",
            self.move.source.name,
            probe=check,
            do=lambda _tell: None,
            changes=False,
        )

    def _volume_name(self) -> str:
        if len(self.part.volumes) != 1:
            raise MoveError("more_volumes", f"{self.part.service} must have exactly one named volume, for its data")
        return next(iter(self.part.volumes))

    def _volume(self) -> Volume:
        return Volume(self.move, self.part, self._volume_name())

    def _spec(self) -> dict[str, Any]:
        return dict(self.move.cluster.service(self.part.service)["Spec"])

    def _limit(self) -> int | None:
        memory = (self.part.member.limits or {}).get("memory_bytes")
        limits = (self._spec()["TaskTemplate"].get("Resources") or {}).get("Limits") or {}
        return int(memory or limits.get("MemoryBytes") or 0) or None

    def _name(self, place: Place) -> str:
        return f"evenkeel-{self.move.unit.name}-{self.part.key}-{place.name}"[:63].rstrip("-")

    def _secret_name(self, place: Place, digest: str) -> str:
        return f"{self._name(place)[:50].rstrip('-')}-{digest}"

    def _service_running(self, place: Place) -> str | None:
        found = [each.container for each in self.move.cluster.running(self.part.service) if each.node == place.name]
        return found[0] if found else None

    def _service_container(self, place: Place) -> str:
        found = self._service_running(place)
        if found is None:
            raise MoveError("not_running", f"{self.part.service} does not run on {place.name}")
        return found

    def _companion_container(self, place: Place) -> str:
        found = [each.container for each in self.move.cluster.running(self._name(place)) if each.node == place.name]
        if not found:
            raise MoveError("no_companion", f"no replica runs on the copy on {place.name}: run precopy")
        return found[0]

    def _container(self, place: Place) -> str:
        return self._service_container(place) if place is self.move.source else self._companion_container(place)

    def _explore(self, place: Place, container: str) -> dict[str, Any]:
        """Look at a server once; what changes is asked anew by _info."""
        with self._lock:
            if container not in self._explored:
                password_env = self.part.member.password_env
                found = place.host.call(redis_server, "explore", container=container, password_env=password_env)
                self._explored[container] = dict(found)
            return self._explored[container]

    def _explore_service(self, place: Place) -> dict[str, Any]:
        explored = self._explore(place, self._service_container(place))
        if explored["info"] is None or explored["config"] is None:
            trap = redis_state.traps(explored, {}, limit=None, password_env=self.part.member.password_env)[0]
            raise MoveError(trap.code, f"{self.part.service}: {trap.text}: {trap.remedy}")
        return explored

    def _ask(
        self, place: Place, container: str, commands: Sequence[Sequence[Any]], seconds: float = 10
    ) -> dict[str, Any]:
        explored = self._explore(place, container)
        arguments = {"container": container, "port": explored["port"], "password": explored["password"]}
        return dict(
            place.host.call(redis_server, "ask", timeout=seconds + 30, commands=commands, seconds=seconds, **arguments)
        )

    def _info(self, place: Place, container: str) -> Info:
        [text] = self._ask(place, container, [["INFO"]])["replies"]
        if not isinstance(text, str):
            raise MoveError("no_answer", f"Redis on {place.name} does not answer INFO: {_first_error([text])}")
        return redis_server.parse_info(text)


_AOF_BUSY = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "aof_buffer_length", "aof_pending_rewrite")
_AOF_FINE = ("aof_last_write_status", "aof_last_bgrewrite_status")


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


def _first_error(replies: Sequence[Any]) -> str:
    return next((each["error"] for each in replies if isinstance(each, dict)), str(replies[-1:]))

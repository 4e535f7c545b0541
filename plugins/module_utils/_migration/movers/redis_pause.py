# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pause of writes around a switch of Redis, the position that they got to, and the proofs that hang on it."""

from __future__ import annotations

from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import of_this_fence
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers import redis_state
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.redis_servers import (
    Info,
    Servers,
    first_error,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import containers, redis_server
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Tell, wait_until

#: How much longer than the deadline writes stay paused, in seconds.
MARGIN = 60
_AGAIN = "the unit goes back to its source; run switch again"


class Pause:
    """The pause of one part's writes. Its token, in the journal, says which server, until when, and how far it got."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.service = servers.part.service
        self.source, self.target = servers.move.source, servers.move.target
        self.journal, self.deadline = servers.move.journal, servers.move.options.deadline

    def last_token(self) -> dict[str, Any] | None:
        """Return the last pause on this source, None if there was none."""
        return self.journal.last("redis_token", part=self.servers.part.key, source=self.source.name)

    def token(self) -> dict[str, Any] | None:
        """Return the pause of this fence, None if there was none or it was lifted.

        One of before proves nothing: given back, the server took writes again, and it may be gone by now.
        """
        token = of_this_fence(self.journal, "redis_token", part=self.servers.part.key, source=self.source.name)
        return None if token is None or self._lifted(token) else token

    def _lifted(self, token: dict[str, Any]) -> bool:
        return self.journal.last("redis_lifted", part=self.servers.part.key, until=token["until"]) is not None

    def held_token(self) -> dict[str, Any]:
        """Return the pause of this fence; raises MoveError `no_token`."""
        token = self.token()
        if token is None:
            raise MoveError("no_token", f"writes to {self.service} were not paused: run switch again")
        return token

    def holds(self) -> bool:
        """Whether the last pause still holds, with time left for a switch; also once the server has been stopped."""
        token, running = self.token(), self.servers.running(self.source)
        if running is None:
            if token is None:
                raise MoveError("not_running", f"{self.service} does not run on {self.source.name}")
            return True
        if token is None or running != token["container"]:
            return False
        now, replid = self._now_and_history(running, token)
        fresh = now["boot"] == token["boot"] and now["at"] < token["until"] - self.deadline
        return bool(fresh and replid == token["replid"])

    def _now_and_history(self, container: str, token: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
        """Return the source's clock and the id of its server's history, as far as it can be asked for.

        An old server, once paused, answers nobody: what is known is that it is the container of then.
        """
        if token["saved"]:
            return self.source.host.call(redis_server, "clock"), token["replid"]
        answer = self.servers.ask(self.source, container, [["INFO", "replication"]])
        return answer["after"], redis_server.parse_info(str(answer["replies"][0])).get("master_replid")

    def begin(self, _tell: Tell) -> None:
        """Pause writes, and write down the position in the same breath."""
        container = self.servers.service_container(self.source)
        explored = self.servers.explore(self.source, container)
        whole = redis_state.version(explored["info"]) < redis_state.PAUSE_WRITES
        # A pause that can't be lifted must not be longer than needed.
        milliseconds = int((self.deadline + MARGIN) * (1 if whole else 2) * 1000)
        pause = ["CLIENT", "PAUSE", milliseconds, *([] if whole else ["WRITE"])]
        # One transaction: nothing gets between the pause and the position. An old server, once paused, answers nobody
        # any more, so it saves in it, too.
        save = [["SAVE"]] if whole else []
        # The position by ROLE and first: at INFO an old server tells its replicas of the transaction, and they don't
        # count what they got of it before its end.
        asked = [["ROLE"], *save, ["INFO", "replication"], ["INFO", "keyspace"]]
        commands: list[list[Any]] = [["MULTI"], pause, *asked, ["EXEC"]]
        answer = self.servers.ask(self.source, container, commands, seconds=600)
        done = answer["replies"][-1] or [{"error": "the transaction was not run"}]
        replies = [*answer["replies"], *(done if isinstance(done, list) else [])]
        if any(isinstance(each, dict) for each in replies):
            raise MoveError("pause_refused", f"{self.service} does not pause writes: {first_error(replies)}")
        replication, keyspace = (redis_server.parse_info(text) for text in done[-2:])
        before = answer["before"]
        self.journal.write(
            "redis_token",
            part=self.servers.part.key,
            source=self.source.name,
            container=container,
            replid=replication["master_replid"],
            offset=int(done[1][1]),
            paused=before["at"],
            wall=before["wall"],
            boot=before["boot"],
            # Counted from before it began: it ends later than this.
            until=before["at"] + milliseconds / 1000,
            keyspace=redis_state.keyspace(keyspace),
            saved=whole,
            appends=explored["config"].get("appendonly") == "yes",
            file=redis_state.rdb_file(explored["config"], self.servers.part.volumes),
        )

    def lift(self) -> None:
        """Let writes through again, where that can be done: with an old server a pause ends by itself, or with it."""
        running, token = self.servers.running(self.source), self.last_token()
        if running is None:
            return
        if token is not None:
            self.journal.write("redis_lifted", part=self.servers.part.key, until=token["until"])
            if token["saved"]:
                return
        if redis_state.version(self.servers.explore(self.source, running)["info"]) >= redis_state.PAUSE_WRITES:
            self.servers.ask(self.source, running, [["CLIENT", "UNPAUSE"]])

    # --- the copy ---

    def caught_up(self) -> bool:
        """Whether the replica has every write up to the position."""
        token = self.token()
        if token is None:
            return False
        running = self.servers.companion_running(self.target)
        if running is None:
            return self.copy_saved()
        return _reached(self.servers.info(self.target, running), token)

    def wait_for_copy(self, tell: Tell) -> None:
        """Wait until the replica has every write."""
        token = self.held_token()
        tell(text="writes are paused; the copy takes the last ones")
        wait_until(self.caught_up, 30, f"the copy to reach the offset {token['offset']}", every=0.02)

    def copy_saved(self) -> bool:
        """Whether the copy on disk has every write up to the position."""
        token = self.token()
        if token is None:
            return False
        if token["appends"]:
            about = {"replid": token["replid"], "offset": token["offset"], "node": self.target.name}
            return self.journal.last("redis_appended", part=self.servers.part.key, **about) is not None
        return self._position_saved(self.target, self.servers.volume.path(self.target), token)

    def save_copy(self, _tell: Tell) -> None:
        """Put the replica's data on disk, and see that it has the keys that the source has."""
        token, container = self.held_token(), self.servers.companion_container(self.target)
        if token["appends"]:
            wait_until(lambda: redis_state.written(self._info(self.target)), 600, "the append-only file to be written")
            path = self.servers.volume.path(self.target)
            self.target.host.run(["sync", "-f", path], timeout=600)
        else:
            self._save(self.target, container)
        info = self._info(self.target)
        wrong = redis_state.differences(token["keyspace"], redis_state.keyspace(info))
        if wrong or not _reached(info, token):
            raise MoveError(
                "copy_differs", f"the copy on {self.target.name} differs: {'; '.join(wrong) or 'other data'}"
            )
        if token["appends"]:
            about = {"replid": token["replid"], "offset": token["offset"], "node": self.target.name}
            self.journal.write("redis_appended", part=self.servers.part.key, **about)

    def refuse_incomplete(self) -> None:
        """Raise MoveError `gate` if the copy on disk lacks any write up to the position."""
        if not self.copy_saved():
            offset = self.held_token()["offset"]
            text = f"the copy on {self.target.name} has not on disk what was written up to the offset {offset}"
            raise MoveError("gate", f"{text}: {_AGAIN}")

    # --- the source ---

    def source_saved(self) -> bool:
        """Whether the source's own data on disk has every write, so that giving back loses nothing."""
        token = self.token()
        if token is None:
            return False
        if token["saved"] or self.servers.running(self.source) is None:
            return True
        if token["appends"]:
            return redis_state.written(self._info(self.source))
        return self._position_saved(self.source, self.servers.volume.where(self.source), token)

    def save_source(self, _tell: Tell) -> None:
        """Put the source's data on disk."""
        if self.held_token()["appends"]:
            wait_until(self.source_saved, 600, "the append-only file to be written")
        else:
            self._save(self.source, self.servers.service_container(self.source))

    def end_armed(self) -> bool:
        """Whether the server is killed as soon as the engine asks it to end, or has ended."""
        token = self.token()
        if token is None or self.servers.running(self.source) is None:
            return token is not None
        return not self.source.host.run(["systemctl", "is-active", "-q", self._end_unit(token)], check=False).status

    def arm_end(self, _tell: Tell) -> None:
        """Have the server killed as soon as the engine asks it to end: some would not hear it, others save once more.

        Only while writes are paused: all is on disk then, and later it may not be.
        """
        token = self.held_token()
        until = int(token["wall"] + token["until"] - token["paused"] - MARGIN / 2)
        # Then all of the unit ends: `docker events` would go on until its time is up.
        script = (
            'docker events --filter "container=$1" --filter event=kill --until "$2" --format x'
            ' | { read -r _ && docker kill --signal KILL "$1"; kill 0; }'
        )
        unit, shell = f"--unit={self._end_unit(token)}", ["/bin/sh", "-c", script, "sh", token["container"], str(until)]
        self.source.host.run(["systemd-run", "--quiet", "--collect", unit, *shell])

    def disarm_end(self) -> None:
        """Leave the server its own way to end."""
        token = self.last_token()
        if token is not None:
            self.source.host.run(["systemctl", "stop", self._end_unit(token)], check=False)

    def refuse_not_held(self) -> None:
        """Raise MoveError `pause_over` or `pause_unproven` unless the pause held until the server had ended."""
        token, host = self.held_token(), self.source.host
        proven = {"part": self.servers.part.key, "container": token["container"], "until": token["until"]}
        if self.journal.last("redis_held", **proven) is not None and self.servers.volume.parked(self.source):
            return  # seen before, and nothing could start on the data since
        now = host.call(redis_server, "clock")
        if now["boot"] != token["boot"] or now["at"] >= token["until"]:
            raise MoveError("pause_over", f"{self.service} stopped later than its pause of writes lasted: {_AGAIN}")
        if now["engine"] is None or now["engine"] >= token["paused"]:
            raise MoveError("pause_unproven", f"the engine on {self.source.name} restarted during the pause: {_AGAIN}")
        if host.call(containers, "starts", service=self.service, since=token["wall"], until=now["wall"]):
            raise MoveError("pause_unproven", f"{self.service} started once more during the pause: {_AGAIN}")
        self.journal.write("redis_held", **proven)

    # --- how ---

    def _save(self, place: Place, container: str) -> None:
        """Save, after a save that is under way (for a replica, or by the server's own schedule)."""
        said = ""

        def saved() -> bool:
            nonlocal said
            [answer] = self.servers.ask(place, container, [["SAVE"]], seconds=600)["replies"]
            said = "" if answer == "OK" else first_error([answer])
            if said and "in progress" not in said:
                raise MoveError("save_failed", f"Redis on {place.name} can't save: {said}")
            return not said

        wait_until(saved, 600, "another save to end")

    def _position_saved(self, place: Place, path: str, token: dict[str, Any]) -> bool:
        saved = place.host.call(redis_server, "saved_position", path=f"{path}/{token['file']}")
        return bool(saved and saved["replid"] == token["replid"] and saved["offset"] >= token["offset"])

    def _info(self, place: Place) -> Info:
        servers = self.servers
        container = servers.service_container(place) if place is self.source else servers.companion_container(place)
        return servers.info(place, container)

    def _end_unit(self, token: dict[str, Any]) -> str:
        # By container: one that an earlier switch left waiting must not pass for this one.
        return f"evenkeel-{self.servers.move.unit.name}-{self.servers.part.key}-end-{token['container'][:12]}.service"


def _reached(info: Info, token: dict[str, Any]) -> bool:
    return bool(info["master_replid"] == token["replid"] and int(info["master_repl_offset"]) >= token["offset"])

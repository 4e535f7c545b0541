# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy: a base backup into the target's parked directory, proven, then a standby that follows the source."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.companion import start_companion
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Place, Readiness
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_context import Context
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import Server, literal
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_words import (
    BARE,
    PASSING,
    explain,
    last_line,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import copies, pg_data
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.stopping import end_orphans
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step, Tell, wait_until

_COPY_SECONDS = 24 * 3600.0
_CATCH_UP_SECONDS = 6 * 3600.0
_STREAMING_SECONDS = 90.0
#: Until trouble that is no passing one ends a wait; it shows within this time again where it goes on.
_TROUBLE_SECONDS = 3.0
_LOOK_SECONDS = 5.0
#: A link that is back within this time has cost nothing.
_SILENCE_SECONDS = 60.0
#: Seconds that a standby tries an address. Its receiver knows no connect_timeout, and Swarm's DNS may have named a task
#: that was just ending: without this it would try that one for more than two minutes.
_ADDRESS_SECONDS = 5.0

_BASEBACKUP = """
set -eu
"$1/pg_basebackup" -d "$2" -D "$3" --checkpoint=fast -X stream -C -S "$4" --no-password
exec "$1/pg_verifybackup" "$3"
"""


class Copy:
    """The copy on one node (`place`), which reads from wherever the service runs. Shared by precopy and follow."""

    def __init__(self, context: Context, place: Place) -> None:
        self.context = context
        self.place = place
        self.slot = context.names.slot(place.name)

    # --- steps ---

    def basebackup(self) -> Step:
        """Copy the data, and prove the copy."""
        title = "copy the running database"
        return self.context.step(
            "precopy",
            "basebackup",
            title,
            self.place.name,
            self.is_copied,
            self._copy,
            self.throw_away,
            deadline=_COPY_SECONDS,
        )

    def follow(self, verb: str) -> Step:
        """Have a standby on the copy follow the service, near enough for a switch."""
        title = f"the copy on {self.place.name} follows"
        return self.context.step(
            verb,
            "standby",
            title,
            self.place.name,
            self._is_near,
            self._catch_up,
            lambda: self.context.stop_companion(self.place),
            deadline=_CATCH_UP_SECONDS,
        )

    # --- the base backup ---

    def is_copied(self) -> bool:
        """Return whether there is a proven copy here that can still follow."""
        found = self.context.look(self.place, copies.PARKED)
        marker = found["marker"]
        if not self.context.is_ours(marker) or marker.get("copy") != "complete" or not found["standby"]:
            return False
        slot = self.slot_state(self.context.primary())
        return slot is not None and slot["wal_status"] != "lost"

    def _copy(self, tell: Tell) -> None:
        context, layout = self.context, self.context.layout()
        self._begin_anew()
        arguments = [layout.tool("pg_basebackup").rpartition("/")[0], self._conninfo(), layout.data, self.slot]
        command = ["sh", "-c", _BASEBACKUP, "sh", *arguments]
        context.move.cluster.create_service(context.companion(self.place, command, once=True))
        try:
            self._await_copy(tell)
        except MoveError:
            # What is left of it holds WAL on the source and room on the target.
            self.throw_away()
            raise
        path = context.path(self.place, copies.PARKED)
        context.stop_companion(self.place)
        self.place.host.call(pg_data, "only_follow", base=path, relative=layout.relative)
        context.mark(self.place, copy="complete")

    def _begin_anew(self) -> None:
        context, layout = self.context, self.context.layout()
        self.throw_away()
        context.mark(self.place, copy="begun")
        self.place.host.call(
            pg_data,
            "lay_out",
            base=context.path(self.place, copies.PARKED),
            relative=layout.relative,
            uid=layout.uid,
            gid=layout.gid,
            owner=layout.owner,
            mode=layout.mode,
        )

    def throw_away(self) -> None:
        """End what works on the copy, drop its slot on the source, empty its directory; its place and mark stay."""
        context = self.context
        marker = context.look(self.place, copies.PARKED)["marker"]
        context.stop_companion(self.place)
        drop_slot(context.primary(), self.slot)
        if context.is_ours(marker):
            context.mark(self.place, copy="none")
            self.place.host.call(pg_data, "wipe", base=context.path(self.place, copies.PARKED), timeout=600)

    def _await_copy(self, tell: Tell) -> None:
        deadline = time.monotonic() + _COPY_SECONDS
        server = self.context.primary()
        answered = looked = time.monotonic()
        while True:
            state = self._task_state()
            if state == "complete":
                return
            if state in ("failed", "rejected", "shutdown", "orphaned", "remove"):
                log = self.context.last_words(self.place)
                code, sentence = explain(log, self.place.name) or ("copy_failed", last_line(log))
                raise MoveError(code, f"the copy of {self.context.part.service} failed: {sentence}")
            if time.monotonic() > deadline:
                raise MoveError("timeout", f"the copy took more than {_COPY_SECONDS:g} s")
            progress = server.ask(
                "SELECT json_build_array(backup_streamed, backup_total, phase) FROM pg_stat_progress_basebackup LIMIT 1"
            )
            if progress:
                tell(bytes=progress[0], total=progress[1], text=progress[2])
            if time.monotonic() - looked > _LOOK_SECONDS:
                answered, looked = self._answered(answered), time.monotonic()
            time.sleep(0.3)

    def _answered(self, before: float) -> float:
        """Return when the node last answered. Raises MoveError once it is silent for too long.

        Of a node that is cut off Swarm goes on saying that its task runs, for a day.
        """
        try:
            self.place.host.run(["true"])
        except MoveError:
            if time.monotonic() - before > _SILENCE_SECONDS:
                raise
            return before
        return time.monotonic()

    def _task_state(self) -> str:
        service = self.context.move.cluster.find_service(self.context.names.companion(self.place.name))
        if service is None:
            return "remove"
        tasks = sorted(self.context.move.cluster.tasks(service["ID"]), key=lambda task: task["CreatedAt"])
        return str(tasks[-1]["Status"]["State"]) if tasks else "new"

    def _conninfo(self) -> str:
        """Return how the copy reaches the service: by its tasks' address, with the password in a file."""
        context = self.context
        return (
            f"host=tasks.{context.part.service} port={context.layout().port} user={context.names.role}"
            f" passfile={context.passfile} application_name={self.slot} connect_timeout=10"
            # Who only receives would wait for hours for a peer that is gone.
            f" keepalives_idle={_SILENCE_SECONDS / 2:.0f} keepalives_interval=10 keepalives_count=3"
        )

    # --- the standby ---

    def command(self) -> list[str]:
        """Return the standby's command: the source's own, and whom to follow. None of it stays in the data."""
        layout = self.context.layout()
        settings = {
            "primary_conninfo": f"{self._conninfo()} tcp_user_timeout={_ADDRESS_SECONDS * 1000:.0f}",
            "primary_slot_name": self.slot,
            "recovery_target_timeline": "latest",
            "hot_standby": "on",
            "wal_receiver_status_interval": "1s",
            "wal_retrieve_retry_interval": "1s",
        }
        given = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        return [layout.exe, *layout.argv[1:], *given]

    def start(self) -> None:
        """Have the companion of now: the right command, the right secret."""
        context = self.context
        wanted = context.companion(self.place, self.command())
        there = context.move.cluster.find_service(wanted["Name"])
        if there is not None and _essence(there["Spec"]) != _essence(wanted):
            context.stop_companion(self.place)
        end_orphans(context.move.journal, self.place.host, self.place.root, [context.layout().volume])
        start_companion(context.move.cluster, wanted)

    def _is_near(self) -> bool:
        found = self.stream()
        near = bool(found and found["state"] == "streaming" and found["lag"] <= self.context.move.options.max_lag)
        # After a cut of the link one that Swarm has replaced may still be streaming.
        return near and self.context.standby(self.place) is not None

    def _catch_up(self, tell: Tell) -> None:
        self.start()
        began, renewed = time.monotonic(), False
        while not self._is_near():
            found = self.stream()
            waited = time.monotonic() - began
            if found is None and waited > _TROUBLE_SECONDS:
                # What was said before belongs to the last switch, in which the service was off.
                trouble = self.trouble(since=waited)
                if trouble is not None and trouble[0] == BARE and not renewed:
                    # An engine that was killed between making a task's container and giving it its secrets starts it
                    # without them once it is back, and Swarm calls that running (seen on Docker 26.1).
                    self.context.stop_companion(self.place)
                    self.start()
                    began, renewed = time.monotonic(), True
                    continue
                lasting = trouble is not None and trouble[0] not in PASSING
                if lasting or waited > _STREAMING_SECONDS:
                    code, sentence = trouble or ("not_streaming", last_line(self.context.last_words(self.place)))
                    raise MoveError(code, f"the copy on {self.place.name} does not follow: {sentence}")
            if waited > _CATCH_UP_SECONDS:
                raise MoveError("timeout", f"the copy did not catch up within {_CATCH_UP_SECONDS:g} s")
            if found:
                tell(lag=found["lag"], text=found["state"])
            time.sleep(0.3)

    def trouble(self, since: float | None = None) -> tuple[str, str] | None:
        """Return code and sentence for why the copy does not follow, None if nothing is known.

        `since`: of its words only those of so many seconds count.
        """
        slot = self.slot_state(self.context.primary())
        if slot is None:
            return "slot_dropped", "its replication slot is gone: run precopy again, it copies anew"
        if slot["wal_status"] == "lost":
            return "wal_lost", "the source has thrown away WAL that it still needs: run precopy again, it copies anew"
        return explain(self.context.last_words(self.place, since), self.place.name)

    # --- what is observed ---

    def slot_state(self, server: Server) -> dict[str, Any] | None:
        """Return {"active", "wal_status"} of the copy's slot, None if there is none."""
        found: dict[str, Any] | None = server.ask(
            "SELECT json_build_object('active', active, 'wal_status', wal_status)"
            f" FROM pg_replication_slots WHERE slot_name = {literal(self.slot)}"
        )
        return found

    def stream(self) -> dict[str, Any] | None:
        """Return {"state", "lag": bytes, "seconds"} as the service sees the copy, None if it does not see it."""
        found: dict[str, Any] | None = self.context.primary().ask(
            "SELECT json_build_object('state', state, 'lag', pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn),"
            " 'seconds', coalesce(extract(epoch FROM replay_lag), 0)) FROM pg_stat_replication"
            f" WHERE application_name = {literal(self.slot)} AND replay_lsn IS NOT NULL"
        )
        return found

    def readiness(self) -> Readiness:
        """Say how far the copy is behind, or what is wrong with it and what to run."""
        try:
            return self._readiness()
        except MoveError as error:
            return Readiness(False, error.message, {"code": error.code})

    def _readiness(self) -> Readiness:
        context = self.context
        primary, found = context.primary(), self.stream()
        if found is None or found["state"] != "streaming":
            marker = context.look(self.place, copies.PARKED)["marker"]
            if not context.is_ours(marker) or marker.get("copy") != "complete":
                return Readiness(False, "there is no copy yet: run precopy", {"code": "no_copy"})
            code, sentence = self.trouble() or ("not_streaming", "it is not connected: run precopy again")
            return Readiness(False, f"the copy on {self.place.name} does not follow: {sentence}", {"code": code})
        standby = context.standby(self.place)
        if standby is None:
            text = f"the copy on {self.place.name} is just starting or ending: run precopy again"
            return Readiness(False, text, {"code": "not_running"})
        theirs, ours = standby.ask(_IDENTITY), primary.ask(_IDENTITY)
        if not theirs["in_recovery"] or theirs["system_id"] != ours["system_id"]:
            text = "the copy is not one of this database: run cancel, then prepare"
            return Readiness(False, text, {"code": "other_system"})
        numbers = {"lag": found["lag"], "seconds": found["seconds"], "max_lag": context.move.options.max_lag}
        text = f"{found['lag']} bytes and {found['seconds']:.1f} s behind"
        if found["lag"] > context.move.options.max_lag:
            return Readiness(False, f"{text}: more than max_lag, run precopy again", {**numbers, "code": "lag"})
        return Readiness(True, text, numbers)


_IDENTITY = (
    "SELECT json_build_object('system_id', (SELECT system_identifier::text FROM pg_control_system()),"
    " 'in_recovery', pg_is_in_recovery())"
)


def drop_slot(server: Server, slot: str, seconds: float = 30) -> None:
    """Drop a slot if it is there, and first end what reads from it."""
    name = literal(slot)
    sql = (
        f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = {name} AND active;\n"
        "SELECT pg_sleep(0.1);\n"
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        f" WHERE slot_name = {name} AND NOT active;\n"
    )

    def gone() -> bool:
        there = server.ask(f"SELECT to_json(count(*)) FROM pg_replication_slots WHERE slot_name = {name}")
        if there:
            # A reader may come back between the two statements: look again.
            with contextlib.suppress(MoveError):
                server.script(sql)
        return not there

    wait_until(gone, seconds, f"the replication slot {slot} to be dropped")


def _essence(spec: dict[str, Any]) -> Any:
    container = spec["TaskTemplate"]["ContainerSpec"]
    return container["Command"], sorted(each["SecretName"] for each in container.get("Secrets") or [])

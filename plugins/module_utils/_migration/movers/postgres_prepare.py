# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a copy needs before it begins: a place on the target, a replication role, a way in, a bound for kept WAL."""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Callable

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_context import Context
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_facts import (
    bounded_wal,
    look_at,
    room_needed,
    set_setting,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import literal, quoted
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.volumes import remove_volume
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import copies, pg_data
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.scram import fingerprint, verifier
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.stopping import bring_live
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step, Tell, wait_until

_SETTING = "max_slot_wal_keep_size"
# Whatever the server logs of statements, the verifier is not among it.
_UNLOGGED = "SET log_statement = 'none'; SET log_min_duration_statement = -1; SET log_min_error_statement = 'panic';\n"


class Preparation:
    """Makes and takes back what a copy needs. Each method is one step."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def steps(self) -> list[Step]:
        """Return the steps in their order."""
        return [self.room(), self.place(), self.role(), self.way_in(), self.wal_bound()]

    def taken_back(self) -> list[Step]:
        """Return the steps that take back for good what `complete` no longer needs, the place apart."""
        gone = {"wal_bound": self._bound_gone, "hba": self._way_in_gone, "role": self._role_gone}
        steps = []
        for made in (self.wal_bound(), self.way_in(), self.role()):
            what, title = made.id.rpartition(".")[2], f"take back: {made.title.partition(': ')[2]}"
            steps.append(self.context.step("complete", what, title, made.host, gone[what], _without_tell(made.undo)))
        return steps

    def _bound_gone(self) -> bool:
        found = self.context.move.journal.last("before", key=f"{_SETTING}:{self.context.part.key}")
        return found is None or self._bound_in_file() == found["value"]

    def _way_in_gone(self) -> bool:
        path, loaded = self._hba()
        mark = self.context.names.hba_mark
        return loaded and not self._primary_place().host.call(pg_data, "hba_lines", path=path, mark=mark)

    def _role_gone(self) -> bool:
        asked = f"SELECT to_json(count(*)) FROM pg_roles WHERE rolname = {literal(self.context.names.role)}"
        return self.context.secret() is None and not self.context.primary().ask(asked)

    # --- the target's place ---

    def room(self) -> Step:
        """Check that the copy fits on the target's disk."""
        context, target = self.context, self.context.move.target

        def fits() -> bool:
            marker = context.look(target, copies.PARKED)["marker"]
            if context.is_ours(marker) and marker.get("copy") == "complete":
                return True
            needed = room_needed(look_at(context.primary()))
            free = target.host.call(pg_data, "free", path=target.root)
            if free < needed:
                message = f"the copy of {context.part.service} takes {needed} bytes, {target.name} has {free} free"
                raise MoveError("disk_too_small", f"{message}: make room under {target.root} there")
            return True

        return self.context.step(
            "prepare", "room", "look for room on the target's disk", target.name, fits, changes=False
        )

    def place(self) -> Step:
        """Make the volume on the target and park it, empty: nothing can start on it from the beginning."""
        context, target = self.context, self.context.move.target
        volume = context.layout().volume

        def ready() -> bool:
            found = context.look(target, copies.PARKED)
            parked = context.paths(target)["state"] == copies.PARKED and self._volume_there(target)
            return parked and context.is_ours(found["marker"])

        def make(_tell: Tell) -> None:
            self._refuse_populated()
            context.move.journal.before(f"volume:{volume}:{target.name}", lambda: self._volume_there(target))
            # First of all ours: whatever comes now, cancel knows it.
            context.mark(target, copy="none")
            if not self._volume_there(target):
                target.host.run(["docker", "volume", "create", *self._labels(), volume])
            if context.paths(target)["state"] == copies.LIVE:
                target.host.call(copies, "park", root=target.root, volume=volume)
            layout = context.layout()
            target.host.call(
                pg_data,
                "lay_out",
                base=context.path(target, copies.PARKED),
                relative=layout.relative,
                uid=layout.uid,
                gid=layout.gid,
                owner=layout.owner,
                mode=layout.mode,
            )

        def remove() -> None:
            # Live it was not parked yet when a kill came; with files in it somebody has begun to use it.
            live = context.paths(target)["state"] == copies.LIVE and not context.look(target, copies.LIVE)["empty"]
            if live or not context.is_ours(context.look(target, copies.PARKED)["marker"]):
                return
            if context.move.journal.before(f"volume:{volume}:{target.name}", lambda: True):
                path = context.path(target, copies.PARKED)
                target.host.call(pg_data, "wipe", base=path)
                bring_live(context.move.journal, target.host, target.root, volume)
            else:
                remove_volume(target.host, volume)
            target.host.call(pg_data, "discard", base=context.path(target, copies.PARKED))

        def take_back() -> None:
            remove()
            source = context.move.source
            if context.paths(source)["state"] == copies.LIVE:
                # It may have been there and back: what lay around the parked copy is left.
                source.host.call(pg_data, "discard", base=context.path(source, copies.PARKED))

        title = "make the volume on the target, parked and empty"
        return self.context.step("prepare", "volume", title, target.name, ready, make, take_back)

    def _refuse_populated(self) -> None:
        context, target = self.context, self.context.move.target
        state = context.paths(target)["state"]
        live, parked = context.look(target, copies.LIVE), context.look(target, copies.PARKED)
        foreign = not parked["empty"] and not context.is_ours(parked["marker"])
        if state == copies.BOTH or not live["empty"] or foreign:
            where = context.path(target, copies.PARKED if foreign else copies.LIVE)
            message = f"{target.name} already has data in the volume {context.layout().volume} ({where})"
            raise MoveError("target_populated", f"{message}: save and remove what is there, then prepare again")

    def _volume_there(self, place: Place) -> bool:
        asked = ["docker", "volume", "inspect", self.context.layout().volume]
        return place.host.run(asked, check=False).status == 0

    def _labels(self) -> list[str]:
        mounts = self.context.spec()["TaskTemplate"]["ContainerSpec"].get("Mounts") or []
        [mount] = [each for each in mounts if each.get("Source") == self.context.layout().volume]
        labels = (mount.get("VolumeOptions") or {}).get("Labels") or {}
        return [argument for key, value in labels.items() for argument in ("--label", f"{key}={value}")]

    # --- the replication role ---

    def role(self) -> Step:
        """Make the replication role, and its password as a passfile in a Swarm secret."""
        context = self.context
        name = context.names.role

        def ready() -> bool:
            asked = (
                "SELECT to_json(rolpassword) FROM pg_authid"
                f" WHERE rolname = {literal(name)} AND rolreplication AND rolcanlogin"
            )
            stored = context.primary().ask(asked)
            return stored is not None and context.secret() == context.names.secret + fingerprint(stored)

        def make(_tell: Tell) -> None:
            # A companion that still uses the old secret would keep it from being removed.
            for place in (context.move.source, context.move.target):
                context.stop_companion(place)
            self._remove_secrets()
            password = secrets.token_hex(24)
            stored = verifier(password)
            context.primary().script(
                f"{_UNLOGGED}"
                f"SELECT 'CREATE ROLE {quoted(name)}' WHERE NOT EXISTS"
                f" (SELECT FROM pg_roles WHERE rolname = {literal(name)}) \\gexec\n"
                f"ALTER ROLE {quoted(name)} NOSUPERUSER REPLICATION LOGIN PASSWORD {literal(stored)};\n"
            )
            secret = context.names.secret + fingerprint(stored)
            context.move.cluster.create_secret(secret, f"*:*:*:{name}:{password}\n", context.move.unit.name)

        def remove() -> None:
            self._remove_secrets()
            context.primary().script(f"DROP ROLE IF EXISTS {quoted(name)};")

        return self.context.step(
            "prepare", "role", "make the replication role and its secret", context.move.source.name, ready, make, remove
        )

    def _remove_secrets(self) -> None:
        for name in self.context.move.cluster.secret_names():
            if name.startswith(self.context.names.secret):
                self.context.move.cluster.remove_secret(name)

    def way_in(self) -> Step:
        """Let the role in from the overlay networks, and from nowhere else."""
        context = self.context
        mark = context.names.hba_mark

        def wanted() -> list[str]:
            return [f"host replication {context.names.role} {subnet} scram-sha-256" for subnet in context.subnets()]

        def ready() -> bool:
            path, loaded = self._hba()
            place = self._primary_place()
            there = place.host.call(pg_data, "hba_lines", path=path, mark=mark)
            return loaded and there == [f"{line} {mark}" for line in wanted()]

        def have(lines: list[str]) -> None:
            path, _ = self._hba()
            self._primary_place().host.call(pg_data, "set_hba_lines", path=path, mark=mark, lines=lines)
            wait_until(self._reloaded, 15, "PostgreSQL to read its pg_hba.conf again", every=0.5)

        return self.context.step(
            "prepare",
            "hba",
            "let the replication role in from the overlay networks",
            context.move.source.name,
            ready,
            lambda _tell: have(wanted()),
            lambda: have([]),
        )

    def _reloaded(self) -> bool:
        self.context.primary().script("SELECT pg_reload_conf();")
        return self._hba()[1]

    def _hba(self) -> tuple[str, bool]:
        """Return pg_hba.conf's path on the host, and whether the server has surely read it since it was written."""
        # The file's time is known to the second only.
        found = self.context.primary().ask(
            "SELECT json_build_array(current_setting('hba_file'), pg_conf_load_time() >="
            " (pg_stat_file(current_setting('hba_file'))).modification + interval '1 second')"
        )
        layout = self.context.layout()
        live = self.context.path(self._primary_place(), copies.LIVE)
        return posixpath.join(live, posixpath.relpath(found[0], layout.mount)), bool(found[1])

    def _primary_place(self) -> Place:
        running = self.context.running()
        if running is None:
            raise MoveError("not_running", f"{self.context.part.service} does not run: start it, then run this again")
        return self.context.place(running.node)

    def wal_bound(self) -> Step:
        """Bound the WAL that a slot may keep: a copy that hangs must not fill the source's disk."""
        context = self.context
        key = f"{_SETTING}:{context.part.key}"

        def now() -> str:
            return str(context.primary().ask(f"SELECT to_json(current_setting('{_SETTING}'))"))

        def bound(_tell: Tell) -> None:
            context.move.journal.before(key, self._bound_in_file)
            place = self._primary_place()
            free = place.host.call(pg_data, "free", path=context.path(place, copies.LIVE))
            self._set(f"{bounded_wal(free)}MB", lambda: now() != "-1")

        def put_back() -> None:
            found = context.move.journal.last("before", key=key)
            if found is not None:
                self._set(found["value"], lambda: self._bound_in_file() == found["value"])

        title = "bound the WAL that the source keeps for the copy"
        return self.context.step(
            "prepare", "wal_bound", title, context.move.source.name, lambda: now() != "-1", bound, put_back
        )

    def _bound_in_file(self) -> str | None:
        found = self.context.primary().ask(
            f"SELECT to_json(setting) FROM pg_file_settings WHERE name = {literal(_SETTING)}"
            " AND sourcefile LIKE '%/postgresql.auto.conf'"
        )
        return None if found is None else str(found)

    def _set(self, value: str | None, holds: Callable[[], bool]) -> None:
        self.context.primary().script(f"{set_setting(_SETTING, value)}\nSELECT pg_reload_conf();")
        wait_until(holds, 15, f"PostgreSQL to take {_SETTING}")


def _without_tell(undo: Callable[[], None] | None) -> Callable[[Tell], None]:
    def do(_tell: Tell) -> None:
        if undo is not None:
            undo()

    return do

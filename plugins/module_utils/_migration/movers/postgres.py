# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves a PostgreSQL by a streaming standby, promoted only when it has all that the source ever wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.backup_postgres import Backup
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError, if_reachable
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Part
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import (
    Facts,
    Move,
    Mover,
    Place,
    Readiness,
    Trap,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_content import (
    check_structure,
    content,
    differences,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_context import Context
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_copy import Copy, drop_slot
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_facts import (
    SWITCH_SECONDS,
    look_at,
    refusals,
    warnings,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_prepare import Preparation
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import (
    Layout,
    literal,
    quoted,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_session import connected
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_switch import Switch
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.volumes import remove_volume
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import copies, pg_data
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage, Step, Tell


class PostgresMover(Mover):
    """A PostgreSQL 13 or newer on a named volume. See postgres_{prepare,copy,switch,content}.py for the steps."""

    def __init__(self, move: Move, part: Part) -> None:
        super().__init__(move, part)
        self.context = Context(move, part)
        self._taken = False

    def facts(self) -> Facts:
        """Look at the server, its files and the room on the target."""
        context = self.context
        try:
            layout = context.observe()
        except MoveError as error:
            if error.code != "data_outside":
                raise
            return Facts(None, None, {}, [Trap(error.code, error.message, "no move before that", refuses=True)])
        place = self._place_of_primary()
        found = look_at(context.primary())
        disk = context.look(place, copies.LIVE)
        other = self.move.target if place is self.move.source else self.move.source
        nodes = (self.move.source.name, self.move.target.name)
        ours = {context.names.slot(node) for node in nodes}
        traps = refusals(found, layout, disk, ours=ours, networks=context.subnets(), free=self._room(other))
        detail = {**found, "volume": layout.volume, "data_directory": layout.data, "argv": list(layout.argv)}
        return Facts(int(found["bytes"]), SWITCH_SECONDS, detail, [*traps, *warnings(found)])

    def _room(self, place: Place) -> int | None:
        """Return what is free on a node's disk; None where a copy lies already, or no way leads there yet."""

        def free() -> int | None:
            if self.context.standby(place) is not None:
                return None
            return int(place.host.call(pg_data, "free", path=place.root))

        return if_reachable(free)

    def prepare(self) -> Sequence[Stage]:
        """Bring the image; make the place, the role, the way in and the bound."""
        return [self.context.image_step(), *Preparation(self.context).steps()]

    def backup(self) -> Sequence[Stage]:
        """Back up to the target, restored there once for proof."""
        return [Backup(self.context).proven()]

    def precopy(self) -> Sequence[Stage]:
        """Copy, then follow; by a role and a way in that may have been changed since prepare."""
        copy = Copy(self.context, self.move.target)
        preparation = Preparation(self.context)
        ways = [_again("precopy", step) for step in (preparation.role(), preparation.way_in())]
        return [*ways, copy.basebackup(), copy.follow("precopy")]

    def readiness(self) -> Readiness:
        """Say how far the copy is behind."""
        changed = self._moved_house()
        if changed:
            return Readiness(False, changed, {"code": "layout_changed"})
        return Copy(self.context, self.move.target).readiness()

    def settle(self) -> Sequence[Stage]:
        """Checkpoint; take what stopped() compares with."""
        self._taken = False
        return [Switch(self.context).settle(), self._take_content()]

    def park(self) -> Sequence[Stage]:
        """Park the source's data under the running server."""
        return [Switch(self.context).park()]

    def stopped(self) -> Sequence[Stage]:
        """Fence, then the gate, and what the copy holds."""
        switch = Switch(self.context)
        return [switch.fence(), switch.gate(), self._same_content()]

    def undo_on_hosts(self) -> Sequence[Mapping[str, Any]]:
        """Return what takes parking and fence back."""
        return Switch(self.context).undo_on_hosts()

    def take_over(self) -> Sequence[Stage]:
        """Promote, end the companion, bring live."""
        switch = Switch(self.context)
        return [switch.promote(), switch.end_companion(), switch.bring_live()]

    def verify(self) -> Sequence[Stage]:
        """Check identity, in a full verify the structure, then write once."""
        return [self._identity(), *([self._structure()] if self._full else []), self._canary()]

    def follow(self) -> Sequence[Stage]:
        """Have the old copy follow, and the new one backed up every day."""
        backup = Backup(self.context)
        switch = Switch(self.context)
        # Once switched, prepare is over: a role that somebody changed since is made anew here.
        role = _again("follow", Preparation(self.context).role())
        return [role, switch.way_back.follow("follow"), switch.forget_forward(), backup.schedule(), backup.unschedule()]

    def finish(self) -> Sequence[Stage]:
        """End the following; remove the old copy and everything that the move made but the scheduled backup."""
        return [self._end_following(), self._remove_old(), self._unmark(), *Preparation(self.context).taken_back()]

    # --- the steps of its own ---

    def _place_of_primary(self) -> Place:
        running = self.context.running()
        if running is None:
            raise MoveError("not_running", f"{self.part.service} does not run: start it, then plan again")
        return self.context.place(running.node)

    def _moved_house(self) -> str | None:
        """Return a sentence if the service's data is no longer where it was when the move was prepared."""
        if self.context.running() is None:
            return f"{self.part.service} does not run"
        then, now = self.context.layout(), self.context.observe()
        if _house(then) == _house(now):
            return None
        message = f"{self.part.service} was redeployed with another server or place of its data"
        return f"{message} ({now.exe}, {now.data}): run cancel, then prepare"

    @property
    def _full(self) -> bool:
        return self.move.options.verify == "full"

    @property
    def _content_file(self) -> Path:
        return self.move.journal.path.with_name(f"{self.part.key}.content.json")

    def _take_content(self) -> Step:
        """Take what the server holds while no consumer changes it: anew for every try of a switch."""

        def take(_tell: Tell) -> None:
            # One connection for all questions: consumers are off meanwhile.
            server = connected(self.context.primary())
            try:
                _write_private(self._content_file, content(server, full=self._full))
            finally:
                server.disconnect()
            # The copy is asked the same between the stop and the promotion.
            self.context.connect_to_standby(self.move.target)
            self._taken = True

        title = "take what the database holds, every row" if self._full else "take what the database holds"
        return self.context.step(
            "settle", "content", title, self.move.source.name, lambda: self._taken, take, deadline=3600
        )

    def _identity(self) -> Step:
        def same() -> bool:
            token = Switch(self.context).token()
            running = self.context.running()
            if token is None or running is None or running.node != self.move.target.name:
                where = "nowhere" if running is None else f"on {running.node}"
                message = f"{self.part.service} runs {where}, not on {self.move.target.name}"
                raise MoveError("not_at_target", f"{message}: run switch again")
            found = self.context.primary().ask(_IDENTITY)
            wanted = {"system_id": token["system_id"], "timeline": token["timeline"] + 1, "read_write": True}
            if found != wanted:
                message = f"the server on {self.move.target.name} is {json.dumps(found)}, not {json.dumps(wanted)}"
                raise MoveError("other_server", f"{message}: stop it, then look at docs/moving.md")
            return True

        title = "system identifier, timeline, read and write"
        return self.context.step("verify", "identity", title, self.move.target.name, same, changes=False)

    def _same_content(self) -> Step:
        """Compare the copy before it is promoted: later its clients, or some that a redeploy started, write to it."""
        target = self.move.target

        def same() -> bool:
            try:
                before = json.loads(self._content_file.read_text())
            except FileNotFoundError as error:
                message = f"what {self.part.service} held before its stop was not written down"
                raise MoveError("nothing_to_compare", f"{message}; nothing was promoted: run switch again") from error
            standby = self.context.standby(target)
            if standby is None:
                raise MoveError("not_running", f"the copy on {target.name} does not run; nothing was promoted")
            full = any("rows" in kinds for kinds in before.values())
            found = differences(before, content(standby, full=full))
            if found:
                more = f" and {len(found) - 5} more" if len(found) > 5 else ""
                message = f"the copy is not what {self.part.service} was before its stop: {'; '.join(found[:5])}{more}"
                remedy = "somebody wrote after the consumers were stopped; nothing was promoted"
                raise MoveError("content_differs", f"{message}: {remedy}")
            return True

        title = "the copy has the same extensions, roles, grants, sequences, collation versions"
        whole = f"{title}, every row" if self._full else title
        return self.context.step("switch", "content", whole, target.name, same, changes=False, deadline=3600)

    def _structure(self) -> Step:
        def sound() -> bool:
            check_structure(self.context.primary())
            return True

        return self.context.step(
            "verify", "structure", "pg_amcheck", self.move.target.name, sound, changes=False, deadline=3600
        )

    def _canary(self) -> Step:
        """Write once, committed, and leave it where it goes with the role."""
        role = self.context.names.role

        def text() -> str:
            token = Switch(self.context).token() or {"timeline": 0}
            return f"written on {self.move.target.name}, timeline {token['timeline'] + 1}"

        def written() -> bool:
            found = self.context.primary().ask(
                f"SELECT to_json(shobj_description(oid, 'pg_authid')) FROM pg_roles WHERE rolname = {literal(role)}"
            )
            return bool(found == text())

        def write(_tell: Tell) -> None:
            self.context.primary().script(f"COMMENT ON ROLE {quoted(role)} IS {literal(text())};")

        return self.context.step("verify", "canary", "write once", self.move.target.name, written, write)

    def _end_following(self) -> Step:
        context, source = self.context, self.move.source
        slots = [context.names.slot(place.name) for place in (self.move.source, self.move.target)]

        def ended() -> bool:
            named = ", ".join(map(literal, slots))
            asked = f"SELECT to_json(count(*)) FROM pg_replication_slots WHERE slot_name IN ({named})"
            there = self.move.cluster.find_service(context.names.companion(source.name))
            return there is None and not context.primary().ask(asked)

        def end(_tell: Tell) -> None:
            context.stop_companion(source)
            for slot in slots:
                drop_slot(context.primary(), slot)

        return context.step("complete", "end_following", "end the following", source.name, ended, end, deadline=180)

    def _remove_old(self) -> Step:
        context, source = self.context, self.move.source
        volume = context.layout().volume

        def gone() -> bool:
            return context.paths(source)["state"] == copies.NEITHER

        def remove(_tell: Tell) -> None:
            if context.paths(source)["state"] != copies.PARKED:
                message = f"the volume {volume} on {source.name} has live data, and the move parked it"
                raise MoveError("source_live", f"{message}: look what brought it back before you remove it")
            # The copy goes last: while it is there, a run after a kill does all of this again.
            remove_volume(source.host, volume)
            source.host.call(pg_data, "discard", base=context.path(source, copies.PARKED), timeout=600)

        return context.step("complete", "remove_old", "remove the old copy", source.name, gone, remove, deadline=600)

    def _unmark(self) -> Step:
        """The data lives in its volume: of where the copy was made nothing is left."""
        context, target = self.context, self.move.target
        parked = context.path(target, copies.PARKED)

        def unmarked() -> bool:
            return not target.host.call(pg_data, "marked", base=parked)

        def unmark(_tell: Tell) -> None:
            if context.paths(target)["state"] != copies.LIVE:
                raise MoveError("no_copy", f"the volume {context.layout().volume} is not live on {target.name}")
            target.host.call(pg_data, "discard", base=parked)

        return context.step("complete", "unmark", "take this move's mark away", target.name, unmarked, unmark)


def _again(verb: str, step: Step) -> Step:
    """Return a step of prepare as one of another verb; it stays prepare's to undo."""
    return replace(step, id=f"{verb}.{step.id.partition('.')[2]}", undo=None)


_IDENTITY = (
    "SELECT json_build_object('system_id', (SELECT system_identifier::text FROM pg_control_system()),"
    " 'timeline', (SELECT timeline_id FROM pg_control_checkpoint()), 'read_write',"
    " NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off')"
)


def _house(layout: Layout) -> tuple[Any, ...]:
    return layout.volume, layout.mount, layout.relative, layout.exe, layout.uid


def _write_private(path: Path, value: Any) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        json.dump(value, handle)
        handle.flush()
        os.fsync(handle.fileno())
    fresh.rename(path)

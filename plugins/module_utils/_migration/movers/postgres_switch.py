# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The switch of a running standby: settle, fence, gate, promote, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import FENCED, PROMOTION, UNFENCED
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_context import Context
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_copy import Copy, drop_slot
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import (
    Server,
    literal,
    position,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import copies, pg_data
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.stopping import bring_live
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step, Tell, wait_until

#: WAL since the last checkpoint that a stop still has to write out, bytes; below it a stop takes no time.
_SETTLED = 16 * 1024**2
_GATE_SECONDS = 60.0
_PROMOTE_SECONDS = 60.0

# A checkpoint on a standby makes the newest checkpoint that it has replayed its own. So once the source's last one,
# that of its shutdown, stands in the standby's control file, the standby has replayed all that the source ever wrote.
_STANDBY = """
CHECKPOINT;
SELECT json_build_object(
  'system_id', (SELECT system_identifier::text FROM pg_control_system()),
  'timeline', c.timeline_id, 'checkpoint', c.checkpoint_lsn::text,
  'in_recovery', pg_is_in_recovery(), 'replayed', pg_last_wal_replay_lsn()::text) FROM pg_control_checkpoint() c
"""


class Switch:
    """The steps between the consumers' end and their new beginning."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.copy = Copy(context, context.move.target)
        self.way_back = Copy(context, context.move.source)

    # --- the source still runs ---

    def settle(self) -> Step:
        """Write everything out on both sides, so that stop and promotion have little left to write."""
        context = self.context

        def settled() -> bool:
            since = context.primary().ask(
                "SELECT to_json(pg_wal_lsn_diff(pg_current_wal_lsn(), redo_lsn)) FROM pg_control_checkpoint()"
            )
            return int(since) <= _SETTLED

        def checkpoint(_tell: Tell) -> None:
            context.primary().script("CHECKPOINT;", timeout=600)
            standby = context.standby(context.move.target)
            if standby is not None:
                standby.script("CHECKPOINT;", timeout=600)

        title = "checkpoint, so that the stop is short"
        return context.step("settle", "checkpoint", title, context.move.source.name, settled, checkpoint, deadline=600)

    def park(self) -> Step:
        """Park the source's data under its running server, which goes on in the renamed directory to its clean end."""
        context, source = self.context, self.context.move.source

        def parked() -> bool:
            return context.paths(source)["state"] == copies.PARKED

        def park(_tell: Tell) -> None:
            source.host.call(copies, "park", root=source.root, volume=context.layout().volume)

        def give_back() -> None:
            layout = context.layout()
            if self._promotion_intended():
                message = f"{context.part.service} may be promoted on {context.move.target.name} already"
                raise MoveError("promoted", f"{message}: run switch again to end it, then reverse")
            if context.paths(source)["state"] != copies.PARKED:
                return
            parked = context.path(source, copies.PARKED)
            source.host.call(pg_data, "may_lead", base=parked, relative=layout.relative)
            bring_live(context.move.journal, source.host, source.root, layout.volume)
            source.host.call(pg_data, "mark", base=parked, facts={})

        title = "park the source's data: nothing more can start on it"
        return context.step("switch", "park", title, source.name, parked, park, give_back)

    # --- the source is stopped ---

    def fence(self) -> Step:
        """Have the source's data only follow, and write down the token: what the target's copy must have."""
        context, source = self.context, self.context.move.source

        def fenced() -> bool:
            token = self.token()
            if token is None or context.paths(source)["state"] != copies.PARKED:
                return False
            found = context.look(source, copies.PARKED)
            return bool(found["standby"]) and _same(found["control"], token)

        def fence(_tell: Tell) -> None:
            layout = context.layout()
            state, parked = context.paths(source)["state"], context.path(source, copies.PARKED)
            if state != copies.PARKED:
                message = f"the data of {context.part.service} on {source.name} is {state}, not parked"
                raise MoveError("not_parked", f"{message}; nothing was promoted: run switch again")
            before = source.host.call(pg_data, "control", data=f"{parked}/{layout.relative}")
            if not before["clean"]:
                message = f"{context.part.service} was not shut down cleanly, it is {before['state']}"
                remedy = "nothing was promoted; give it a longer stop_grace_period, then run switch again"
                raise MoveError("not_shut_down", f"{message}: {remedy}")
            token = source.host.call(pg_data, "only_follow", base=parked, relative=layout.relative)
            if token != before:
                message = f"the data of {context.part.service} changed after its stop: something else runs on it"
                raise MoveError("written_after_stop", f"{message}; nothing was promoted")
            context.mark(source, copy="complete")
            context.move.journal.write("token", part=context.part.key, source=source.name, **token)

        title = "note where the source ended, and have its data only follow from now on"
        return context.step("switch", "fence", title, source.name, fenced, fence)

    def gate(self) -> Step:
        """Prove that the copy has replayed the source's shutdown checkpoint. Without it there is no promotion."""
        title = "the copy has everything up to the source's shutdown checkpoint"
        target = self.context.move.target.name
        return self.context.step("switch", "gate", title, target, self._passes, changes=False, deadline=_GATE_SECONDS)

    def token(self) -> dict[str, Any] | None:
        """Return what pg_data.control() said of the source's data after its stop, None if it was not stopped yet."""
        # A switch the other way has its own; given back, it must not be taken for the one that was promoted from.
        source = self.context.move.source.name
        return self.context.move.journal.last("token", part=self.context.part.key, source=source)

    def _passes(self) -> bool:
        context, token = self.context, self._token()
        if context.move.cluster.find_service(context.names.companion(context.move.target.name)) is None:
            if self._is_promoted():
                return True
            raise MoveError("gate", f"{refusal({}, token)}; nothing was promoted: run switch again")
        seen: dict[str, Any] = {}

        def passed() -> bool:
            standby = context.standby(context.move.target)
            seen.clear()
            seen.update({} if standby is None else _answer(standby))
            return bool(seen) and passes(seen, token)

        try:
            wait_until(passed, _GATE_SECONDS, "the copy to have all that the source wrote")
        except MoveError as error:
            raise MoveError("gate", f"{refusal(seen, token)}; nothing was promoted: run switch again") from error
        return True

    def _token(self) -> dict[str, Any]:
        token = self.token()
        if token is None:
            raise MoveError("no_token", f"the stop of {self.context.part.service} was never seen: run switch again")
        return token

    # --- forward only ---

    def promote(self) -> Step:
        """Promote the copy; before that, have it keep the WAL that the old one needs to follow."""
        title = "promote the copy"
        target = self.context.move.target.name
        return self.context.step("switch", "promote", title, target, self._is_promoted, self._promote)

    def _promote(self, _tell: Tell) -> None:
        context, slot = self.context, literal(self.way_back.slot)
        if not self._promotion_intended():
            message = "the promotion's intent is not written down, so the source may be given back at any moment"
            raise MoveError("no_intent", f"{message}: run switch again")
        if context.move.cluster.find_service(context.names.companion(context.move.target.name)) is None:
            self.copy.start()
        self._passes()
        standby = context.standby(context.move.target)
        if standby is None:
            raise MoveError("not_running", f"the copy on {context.move.target.name} has just ended: run switch again")
        there = f"FROM pg_replication_slots WHERE slot_name = {slot}"
        standby.script(
            f"SELECT pg_drop_replication_slot(slot_name) {there} AND NOT active AND pg_is_in_recovery();\n"
            f"SELECT pg_create_physical_replication_slot({slot}, true) WHERE NOT EXISTS (SELECT {there});\n"
            f"SELECT pg_promote(true, {_PROMOTE_SECONDS:.0f}) WHERE pg_is_in_recovery();\n"
            "CHECKPOINT;\n",
            timeout=_PROMOTE_SECONDS + 30,
        )

    def _promotion_intended(self) -> bool:
        """Return whether the source is given up: this side of it only undo leads on, on the other only promotion."""
        events = [entry["event"] for entry in self.context.move.journal.entries]
        return [event for event in events if event in (FENCED, UNFENCED, PROMOTION)][-1:] == [PROMOTION]

    def _is_promoted(self) -> bool:
        """Look whether the target's copy leads: asked where it runs, read from its files where nothing does."""
        context, target, token = self.context, self.context.move.target, self.token()
        if token is None:
            return False
        standby = context.standby(target)
        if standby is not None:
            return bool(standby.ask(_LEADS.format(slot=literal(self.way_back.slot))))
        state = context.paths(target)["state"]
        if state not in (copies.LIVE, copies.PARKED):
            return False
        found = context.look(target, state)
        control = found["control"] or {"timeline": 0, "system_id": ""}
        leads = control["timeline"] == token["timeline"] + 1 and control["system_id"] == token["system_id"]
        return leads and not found["standby"] and (state == copies.LIVE or self.way_back.slot in found["slots"])

    def end_companion(self) -> Step:
        """End the promoted companion, so that the service can have its data."""
        context, target = self.context, self.context.move.target
        name = context.names.companion(target.name)
        return context.step(
            "switch",
            "end_companion",
            "end the companion",
            target.name,
            lambda: context.move.cluster.find_service(name) is None,
            lambda _tell: context.stop_companion(target),
        )

    def bring_live(self) -> Step:
        """Put the promoted data where the service finds it."""
        context, target = self.context, self.context.move.target

        def bring(_tell: Tell) -> None:
            if context.paths(target)["state"] == copies.PARKED and not self._is_promoted():
                raise MoveError("not_promoted", f"the copy on {target.name} was not promoted: run switch again")
            bring_live(context.move.journal, target.host, target.root, context.layout().volume)
            target.host.call(pg_data, "mark", base=context.path(target, copies.PARKED), facts={})

        return context.step(
            "switch",
            "bring_live",
            "bring the promoted data live",
            target.name,
            lambda: context.paths(target)["state"] == copies.LIVE,
            bring,
        )

    def undo_on_hosts(self) -> list[Mapping[str, Any]]:
        """Return what takes fence() back without this class."""
        context, source = self.context, self.context.move.source
        layout = context.layout()
        signal = "/".join(filter(None, (context.path(source, copies.PARKED), layout.relative, "standby.signal")))
        return [
            {"do": "remove_file", "node": source.name, "path": signal},
            {"do": "bring_live", "node": source.name, "volume": layout.volume},
        ]

    # --- afterwards ---

    def forget_forward(self) -> Step:
        """Drop, on the old one that now follows, the slot that the new one read from: it would keep WAL for ever."""
        context, source = self.context, self.context.move.source
        slot = self.copy.slot

        def server() -> Server:
            standby = context.standby(source)
            if standby is None:
                raise MoveError("not_running", f"the copy on {source.name} does not run: run this again")
            return standby

        def gone() -> bool:
            asked = f"SELECT to_json(count(*)) FROM pg_replication_slots WHERE slot_name = {literal(slot)}"
            return not server().ask(asked)

        title = "drop the old slot"
        return context.step("follow", "slot", title, source.name, gone, lambda _tell: drop_slot(server(), slot))


_LEADS = (
    "SELECT to_json(NOT pg_is_in_recovery() AND EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {slot}))"
)


def passes(standby: Mapping[str, Any], token: Mapping[str, Any]) -> bool:
    """Return whether a standby (as _STANDBY answers) has replayed the shutdown checkpoint that the token names.

    One that was promoted from there already passes too.
    """
    if standby["system_id"] != token["system_id"]:
        return False
    if not standby["in_recovery"]:
        return bool(standby["timeline"] == token["timeline"] + 1)
    at, replayed = position(standby["checkpoint"]), position(standby["replayed"] or "0/0")
    return bool(standby["timeline"] == token["timeline"] and at == token["checkpoint"] < replayed)


def refusal(standby: Mapping[str, Any], token: Mapping[str, Any]) -> str:
    """Return why a standby does not pass, in one sentence."""
    if not standby:
        return "the copy does not run, so nobody can say what it has"
    if standby["system_id"] != token["system_id"]:
        return "the copy is one of another database"
    if not standby["in_recovery"]:
        return "the copy follows nobody"
    missing = token["checkpoint"] - position(standby["replayed"] or "0/0")
    if missing >= 0:
        return f"the copy lacks the source's last {missing} bytes of WAL and its shutdown checkpoint"
    return f"the copy is on timeline {standby['timeline']}, the source stopped on {token['timeline']}"


def _answer(standby: Server) -> dict[str, Any]:
    """Return what a standby says of itself, nothing while it is not ready to say it."""
    try:
        found: dict[str, Any] = standby.ask(_STANDBY)
    except MoveError as error:
        if error.code not in ("sql_failed", "timeout"):
            raise
        return {}
    return found


def _same(control: Mapping[str, Any] | None, token: Mapping[str, Any]) -> bool:
    return control is not None and all(control[key] == token[key] for key in ("system_id", "timeline", "checkpoint"))

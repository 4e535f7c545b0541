# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves a PostgreSQL by dump and restore, after its stop: for small ones, and those that no standby can follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Facts, Readiness
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres import PostgresMover
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_content import (
    Content,
    content,
    differences,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_facts import DUMPABLE
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_prepare import Preparation
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_scratch import (
    discard,
    end,
    lonely_server,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import Server
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_switch import Switch
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import copies, pg_data
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.pour import pour
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.stopping import bring_live
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage, Step, Tell

#: Bytes a second of a dump and its restore together: a guess nobody measured, for the estimate of the outage only.
_RATE = 10 * 1024**2
_DUMP_SECONDS = 6 * 3600.0
#: What a dump doesn't carry as it was, or the new cluster has by itself.
_OTHERWISE = ("database collation", "collation")
# The files that say who may come in and how the server runs; certificates with them.
_SETTINGS = ("pg_hba.conf", "pg_ident.conf", "postgresql.conf", "postgresql.auto.conf", "server.crt", "server.key")

_NEW_CLUSTER = """
set -eu
[ -s "$2/PG_VERSION" ] || "$1/initdb" -D "$2" -U "$3" --auth=trust -E "$4" --lc-collate="$5" --lc-ctype="$6" >/dev/null
exec "$1/postgres" -D "$2" -p "$7" -c listen_addresses= -c unix_socket_directories="$2" -c shared_preload_libraries="$8"
"""


class DumpMover(PostgresMover):
    """Fences first, then dumps a copy of the parked data and restores it on the target; each row is compared.

    The parked data itself is never opened: whatever happens, the source is given back as it was.
    """

    def facts(self) -> Facts:
        """Return what the streaming mover sees, less what forbids only that; the outage grows with the size."""
        found = super().facts()
        traps = [trap for trap in found.traps if trap.code not in DUMPABLE]
        outage = None if found.bytes is None else 10 + found.bytes / _RATE
        return Facts(found.bytes, outage, found.detail, traps)

    def prepare(self) -> Sequence[Stage]:
        """Bring the image, make the place on the target."""
        preparation = Preparation(self.context)
        return [self.context.image_step(), preparation.room(), preparation.place()]

    def precopy(self) -> Sequence[Stage]:
        """Return no steps: nothing is copied while the service runs."""
        return ()

    def readiness(self) -> Readiness:
        """Say how much will be dumped inside the outage."""
        changed = self._moved_house()
        if changed:
            return Readiness(False, changed, {"code": "layout_changed"})
        bytes_now = self.context.primary().ask("SELECT to_json(sum(pg_database_size(oid))) FROM pg_database")
        return Readiness(True, f"{bytes_now} bytes will be dumped and restored inside the outage", {"bytes": bytes_now})

    def settle(self) -> Sequence[Stage]:
        """Checkpoint."""
        return [Switch(self.context).settle()]

    def stopped(self) -> Sequence[Stage]:
        """Fence, then dump and restore; every row is compared before anything is given up."""
        return [Switch(self.context).fence(), self._transfer()]

    def take_over(self) -> Sequence[Stage]:
        """Bring the restored data live."""
        return [self._bring_live()]

    def verify(self) -> Sequence[Stage]:
        """Check where it runs; what it holds was compared before it was given up."""
        return [self._runs_there()]

    def follow(self) -> Sequence[Stage]:
        """Return the daily backup only: a dump has no way back but another dump."""
        return super().follow()[-2:]

    def finish(self) -> Sequence[Stage]:
        """Remove the old copy."""
        return [self._remove_old(), self._unmark()]

    def _differences(self, before: Content, after: Content) -> list[str]:
        """Return what differs, less what a new cluster has in its own way."""
        kept = [
            {
                name: {kind: each for kind, each in kinds.items() if kind not in _OTHERWISE}
                for name, kinds in whole.items()
            }
            for whole in (before, after)
        ]
        return differences(kept[0], kept[1])

    def _transfer(self) -> Step:
        context, target = self.context, self.move.target
        switch = Switch(context)

        def there() -> bool:
            token, marker = switch.token(), context.look(target, copies.PARKED)["marker"]
            if context.paths(target)["state"] == copies.LIVE:
                return True  # taken over already
            return token is not None and context.is_ours(marker) and marker.get("restored") == _name_of(token)

        def transfer(tell: Tell) -> None:
            token = switch.token()
            if token is None:
                raise MoveError("no_token", f"the stop of {self.part.service} was never seen: run switch again")
            self._empty_target()
            source = self.move.source
            scratch = f"{source.root}/evenkeel/{context.layout().volume}/scratch"
            discard(context, source, scratch)
            try:
                tell(text="copy the parked data aside")
                parked = context.path(source, copies.PARKED)
                source.host.run(["cp", "-a", "--reflink=auto", parked, scratch], timeout=_DUMP_SECONDS)
                source.host.call(pg_data, "may_lead", base=scratch, relative=context.layout().relative)
                self._dump_and_restore(scratch, tell)
            finally:
                discard(context, source, scratch)
            context.mark(target, copy="none", restored=_name_of(token))

        def undo() -> None:
            end(context, target)
            if context.paths(target)["state"] == copies.PARKED:
                self._empty_target()

        title = "dump, restore, compare every row"
        return context.step("switch", "transfer", title, target.name, there, transfer, undo, deadline=_DUMP_SECONDS)

    def _empty_target(self) -> None:
        context, layout, target = self.context, self.context.layout(), self.move.target
        end(context, target)
        context.mark(target, copy="none")
        path = context.path(target, copies.PARKED)
        target.host.call(pg_data, "wipe", base=path, timeout=600)
        target.host.call(
            pg_data,
            "lay_out",
            base=path,
            relative=layout.relative,
            uid=layout.uid,
            gid=layout.gid,
            owner=layout.owner,
            mode=layout.mode,
        )

    def _dump_and_restore(self, scratch: str, tell: Tell) -> None:
        context, layout = self.context, self.context.layout()
        source, target = self.move.source, self.move.target
        alone = ("-c", "listen_addresses=", "-c", f"unix_socket_directories={layout.data}")
        old_command = (layout.exe, *layout.argv[1:], *alone)
        path = context.path(target, copies.PARKED)
        with lonely_server(context, source, scratch, layout.mount, old_command, socket=layout.data) as old:
            made = old.ask(_CLUSTER)
            programs = layout.exe.rpartition("/")[0]
            arguments = (programs, layout.data, layout.superuser, *made[:3], str(layout.port), made[3])
            command = ("sh", "-c", _NEW_CLUSTER, "sh", *arguments)
            with lonely_server(context, target, path, layout.mount, command, socket=layout.data) as new:
                self._pour(old, new, tell)
                tell(text="compare every row")
                found = self._differences(content(old, full=True), content(new, full=True))
                if found:
                    message = f"the restore is not what was dumped: {'; '.join(found[:5])}"
                    raise MoveError("restore_differs", f"{message}; nothing was taken over")
                new.script("CHECKPOINT;", timeout=600)
        data = "/".join(filter(None, (scratch, layout.relative)))
        listed = source.host.run(["ls", "-A", data]).out.split()
        names = [name for name in _SETTINGS if name in listed]
        goal = "/".join(filter(None, (path, layout.relative)))
        packed = ["tar", "-C", data, "--numeric-owner", "-cf", "-", *names]
        pour(source.host, packed, target.host, ["tar", "-C", goal, "--numeric-owner", "-xpf", "-"])

    def _pour(self, old: Server, new: Server, tell: Tell) -> None:
        roles = old.program("pg_dumpall", "--globals-only")
        quiet = new.program("psql", "-X", "-q", "-d", "template1", "-o", "/dev/null", stdin=True)
        # The superuser is there already, which is one error; what matters is compared afterwards.
        pour(old.host, roles, new.host, quiet)
        for database in old.ask(_DATABASES):
            dump = old.program("pg_dump", "--format=custom", "--compress=1", "--dbname", database)
            options = ("--create", "--clean", "--if-exists", "--exit-on-error", "--dbname", "template1")
            restore = new.program("pg_restore", *options, stdin=True)
            pour(old.host, dump, new.host, restore, told=lambda count: tell(bytes=count, text="dump and restore"))

    def _bring_live(self) -> Step:
        context, target = self.context, self.move.target

        def bring(_tell: Tell) -> None:
            marker = context.look(target, copies.PARKED)["marker"]
            if not context.is_ours(marker) or not marker.get("restored"):
                raise MoveError("not_restored", f"nothing was restored on {target.name}: run switch again")
            bring_live(context.move.journal, target.host, target.root, context.layout().volume)
            target.host.call(pg_data, "mark", base=context.path(target, copies.PARKED), facts={})

        return context.step(
            "switch",
            "bring_live",
            "bring the restored data live",
            target.name,
            lambda: context.paths(target)["state"] == copies.LIVE,
            bring,
        )

    def _runs_there(self) -> Step:
        def runs() -> bool:
            running = self.context.running()
            if running is None or running.node != self.move.target.name:
                raise MoveError("not_at_target", f"{self.part.service} does not run on {self.move.target.name}")
            return bool(self.context.primary().ask("SELECT to_json(NOT pg_is_in_recovery())"))

        title = "it runs there, and writes"
        return self.context.step("verify", "identity", title, self.move.target.name, runs, changes=False)


_DATABASES = "SELECT json_agg(datname ORDER BY datname) FROM pg_database WHERE datallowconn AND NOT datistemplate"
_CLUSTER = (
    "SELECT json_build_array(pg_encoding_to_char(encoding), datcollate, datctype,"
    " current_setting('shared_preload_libraries')) FROM pg_database WHERE datname = 'template0'"
)


def _name_of(token: Mapping[str, Any]) -> str:
    return f"{token['system_id']}/{token['timeline']}/{token['checkpoint']}"

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of a PostgreSQL: one off its node, restored for proof, before a move; every day on its new node after it."""

from __future__ import annotations

import shlex
import time
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.calls import source_of
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_content import collect, rows
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_context import Context
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_scratch import (
    discard,
    scratch_server,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import Server
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import pg_backup
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.pour import pour
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step, Tell

_MAX_AGE = 24 * 3600.0
_KEEP = 7
_BACKUP_SECONDS = 6 * 3600.0
_DATABASES = "SELECT json_agg(datname ORDER BY datname) FROM pg_database WHERE datallowconn AND NOT datistemplate"
_FAILED = "evenkeel: dump failed"
# Renamed only when it is whole and on the disk; readable by root alone.
_KEEP_FILE = 'umask 077; cat > "$1.partial" && sync "$1.partial" && mv "$1.partial" "$1"'


class Backup:
    """Backups of a part on the move's target node."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.directory = f"{context.move.options.backup_directory}/{context.move.unit.name}/{context.part.key}"

    def proven(self) -> Step:
        """Back up off the source, restore once on the target."""
        title = "back up to the target, restored there for proof"
        target = self.context.move.target.name
        return self.context.step(
            "backup", "proven", title, target, self._is_fresh, self._back_up, self._clear, deadline=_BACKUP_SECONDS
        )

    def _clear(self) -> None:
        """Remove what a backup that was broken off has left: its server, and files that nobody has proven."""
        target = self.context.move.target
        discard(self.context, target, f"{self.directory}/scratch")
        target.host.call(pg_backup, "clear", directory=self.directory, timeout=600)

    def _is_fresh(self) -> bool:
        """Look for a proven backup of less than a day, taken on the timeline of now: a promotion begins a new one."""
        found = self.context.move.target.host.call(pg_backup, "newest", directory=self.directory)
        if found is None or time.time() - found["at"] > _MAX_AGE:
            return False
        return bool(found["timeline"] == _timeline(self.context.primary()))

    def _back_up(self, tell: Tell) -> None:
        context, target = self.context, self.context.move.target
        server, at = context.primary(), time.time()
        name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
        place = target.host.call(pg_backup, "begin", directory=self.directory, name=name)
        files, counts = self._dump_all(server, place, tell)
        tell(text="restore for proof")
        libraries = server.ask("SELECT to_json(current_setting('shared_preload_libraries'))")
        with scratch_server(context, target, self.directory, libraries) as scratch:
            restore(target, scratch, place, files)
            found = {name: _counted(scratch, name) for name in counts}
        wrong = disagreements(counts, found)
        if wrong:
            message = f"the backup of {context.part.service}, restored, is not what was dumped: {'; '.join(wrong[:5])}"
            raise MoveError("backup_unproven", message)
        record = {"name": name, "at": at, "proven": True, "files": files, "timeline": _timeline(server)}
        target.host.call(pg_backup, "finish", directory=self.directory, name=name, record=record, keep=_KEEP)

    def _dump_all(
        self, server: Server, place: str, tell: Tell
    ) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
        """Stream globals and all databases to the target; returns the files, and database -> table -> rows dumped."""
        globals_only = server.program("pg_dumpall", "--globals-only")
        files = [self._store(server, globals_only, "", f"{place}/globals.sql", tell)[0]]
        counts = {}
        for number, database in enumerate(server.ask(_DATABASES)):
            script = dump_script(server, database)
            file, said = self._store(server, server.psql(database), script, f"{place}/{number}.dump", tell)
            if _FAILED in said:
                raise MoveError("dump_failed", f"pg_dump of {database} failed: {said.strip()[-400:]}")
            files.append({**file, "database": database})
            counts[database] = _rows(said.splitlines())
        return files, counts

    def _store(self, server: Server, argv: list[str], stdin: str, path: str, tell: Tell) -> tuple[dict[str, Any], str]:
        target = self.context.move.target.host
        into = ["sh", "-c", _KEEP_FILE, "sh", path]
        digest, count, said = pour(
            server.host, argv, target, into, stdin=stdin, told=lambda bytes_so_far: tell(bytes=bytes_so_far)
        )
        file: dict[str, Any] = target.call(pg_backup, "checksum", path=path, timeout=600)
        if (file["sha256"], file["bytes"]) != (digest, count):
            raise MoveError("backup_damaged", f"{path} on {target.name} is not what was sent: run this again")
        return file, said

    # --- every day ---

    def schedule(self) -> Step:
        """Have a systemd timer on the target back the service up every day: nothing else looks at a worker."""
        target = self.context.move.target.host

        def config() -> dict[str, Any]:
            server = self.context.primary()
            return {
                "service": self.context.part.service,
                "directory": self.directory,
                "keep": _KEEP,
                "programs": server.exe.rpartition("/")[0],
                "user": server.user,
                "socket": server.socket or "127.0.0.1",
                "port": server.port,
                "superuser": server.superuser,
                "password_env": server.password_env,
            }

        def install(_tell: Tell) -> None:
            self._had_timer(self.context.move.target)
            program = source_of(pg_backup)
            target.call(pg_backup, "set_timer", name=self._timer, program=program, config=config(), when="daily")

        def remove() -> None:
            if not self._had_timer(self.context.move.target):
                target.call(pg_backup, "unset_timer", name=self._timer)

        return self.context.step(
            "follow",
            "backup_timer",
            "back up every day on the new node",
            target.name,
            lambda: bool(target.call(pg_backup, "timer", name=self._timer) == config()),
            install,
            remove,
        )

    def unschedule(self) -> Step:
        """Remove the timer of an earlier move from the node that the service left."""
        source = self.context.move.source.host

        def remove(_tell: Tell) -> None:
            self._had_timer(self.context.move.source)
            source.call(pg_backup, "unset_timer", name=self._timer)

        return self.context.step(
            "follow",
            "no_backup_timer",
            "no backup timer on the old node",
            source.name,
            lambda: source.call(pg_backup, "timer", name=self._timer) is None,
            remove,
        )

    def _had_timer(self, place: Place) -> bool:
        """Return whether a node had the timer, of an earlier move, before this one touched it."""
        return bool(
            self.context.move.journal.before(
                f"backup_timer:{self.context.part.key}:{place.name}",
                lambda: place.host.call(pg_backup, "timer", name=self._timer) is not None,
            )
        )

    @property
    def _timer(self) -> str:
        return f"evenkeel-backup-{self.context.move.unit.name}-{self.context.part.key}"


def dump_script(server: Server, database: str) -> str:
    """Return a psql script that dumps a database to standard output, and says on standard error what is in the dump.

    Both read one snapshot, so that the counts of a restore can be compared while the database goes on.
    """
    program = server.program("pg_dump", "--format=custom", "--dbname", database)
    inside = shlex.join(program[program.index(server.container) + 1 :])
    return (
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\n"
        "SET search_path = pg_catalog;\n"
        "SELECT pg_export_snapshot() AS snapshot \\gset\n"
        "\\setenv EVENKEEL_SNAPSHOT :snapshot\n"
        "\\o |cat >&2\n"
        f"{rows(hashed=False)}"
        "\\o\n"
        f'\\! {inside} --snapshot="$EVENKEEL_SNAPSHOT" || echo {shlex.quote(_FAILED)} >&2\n'
        "COMMIT;\n"
    )


def restore(place: Place, server: Server, directory: str, files: list[dict[str, Any]]) -> None:
    """Restore globals and databases from a backup's directory on the node of an empty server."""
    [roles] = [file for file in files if "database" not in file]
    # The superuser is there already, which is an error of one line; what matters is compared afterwards.
    psql = server.program("psql", "-X", "-q", "-d", "template1", "-o", "/dev/null", stdin=True)
    _feed(place, f"{directory}/{roles['name']}", psql)
    for file in files:
        if "database" in file:
            options = ("--create", "--clean", "--if-exists", "--exit-on-error", "--dbname", "template1")
            _feed(place, f"{directory}/{file['name']}", server.program("pg_restore", *options, stdin=True))


def _feed(place: Place, path: str, argv: list[str]) -> None:
    place.host.run(["sh", "-c", 'file=$1; shift; exec "$@" < "$file"', "sh", path, *argv], timeout=_BACKUP_SECONDS)


def disagreements(dumped: dict[str, dict[str, int]], restored: dict[str, dict[str, int]]) -> list[str]:
    """Return where the rows of a restore differ from those that were dumped, a sentence each."""
    return [
        f"{database}.{table}: {there.get(table, 'no table')} of {count} rows"
        for database, tables in dumped.items()
        for there in [restored.get(database, {})]
        for table, count in tables.items()
        if there.get(table) != count
    ] + [
        f"{database}: {len(restored.get(database, {}))} tables, {len(tables)} were dumped"
        for database, tables in dumped.items()
        if len(restored.get(database, {})) > len(tables)
    ]


def _counted(server: Server, database: str) -> dict[str, int]:
    return _rows(server.script(f"SET search_path = pg_catalog;\n{rows(hashed=False)}", database, _BACKUP_SECONDS))


def _rows(lines: list[str]) -> dict[str, int]:
    return {table: int(value[0]) for table, value in collect(lines).get("rows", {}).items()}


def _timeline(server: Server) -> int:
    return int(server.ask("SELECT to_json(timeline_id) FROM pg_control_checkpoint()"))

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a part's PostgreSQL lives and how to ask it: over its local socket, with SQL on standard input."""

from __future__ import annotations

import json
import posixpath
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.companion import cut
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_words import FULL
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import postmaster

#: How long a server that is just starting is waited for: a redeploy may have started it anew at any moment.
STARTING_SECONDS = 15.0
_STARTING = "the database system is starting up"
_IDENTIFIER = 63


@dataclass(frozen=True)
class Layout:
    """A server's place. `volume` is mounted at `mount`, the data directory is `relative` in it ("" is the volume's
    root). `exe` and `argv` are the postmaster's, `pgdata` its environment's. `owner`, `mode`: of the volume's root.
    """

    volume: str
    mount: str
    relative: str
    exe: str
    argv: tuple[str, ...]
    uid: int
    gid: int
    pgdata: str | None
    socket: str
    port: int
    superuser: str
    owner: tuple[int, int]
    mode: int

    @property
    def data(self) -> str:
        """Return the data directory as the container has it."""
        return posixpath.join(self.mount, self.relative) if self.relative else self.mount

    @property
    def user(self) -> str:
        """Return the data's owner as Docker takes it."""
        return f"{self.uid}:{self.gid}"

    def tool(self, name: str) -> str:
        """Return the path of one of PostgreSQL's programs: they lie beside the server."""
        return posixpath.join(posixpath.dirname(self.exe), name)

    def as_json(self) -> dict[str, Any]:
        """Return what from_json() takes."""
        return asdict(self)


def from_json(found: Mapping[str, Any]) -> Layout:
    """Return a layout as it was written down."""
    return Layout(**{**found, "argv": tuple(found["argv"]), "owner": tuple(found["owner"])})


@dataclass(frozen=True)
class Names:
    """What a move calls its things. `unit`, `key`: of the unit and the part."""

    unit: str
    key: str

    @property
    def role(self) -> str:
        """Return the replication role."""
        return identifier("evenkeel", self.unit, self.key)

    @property
    def secret(self) -> str:
        """Return what the names of the role's passfiles in Swarm begin with; the verifier's fingerprint follows."""
        return f"{cut('-'.join(('evenkeel', self.unit, self.key)), 50)}-pg-"

    @property
    def hba_mark(self) -> str:
        """Return the comment at the end of our lines in pg_hba.conf."""
        return f"# evenkeel {self.unit}/{self.key}"

    def slot(self, node: str) -> str:
        """Return the slot that the copy on a node reads from."""
        return identifier("evenkeel", self.unit, self.key, node)

    def companion(self, node: str) -> str:
        """Return the companion that holds the copy on a node."""
        return cut(f"evenkeel-{self.unit}-{self.key}-{node}", 63)


def identifier(*words: str) -> str:
    """Return a PostgreSQL name of lower-case letters, digits and underscores."""
    return cut(re.sub(r"[^a-z0-9_]", "_", "_".join(words).lower()), _IDENTIFIER, "_")


def literal(text: str) -> str:
    """Return an SQL string."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'" if "\\" in text else f"'{escaped}'"


def quoted(name: str) -> str:
    """Return an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def position(text: str) -> int:
    """Return a log position such as 0/3000028 in bytes."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL in a container."""

    host: Host
    container: str
    exe: str
    user: str
    socket: str
    port: int
    superuser: str
    password_env: str | None = None

    def program(self, name: str, *arguments: str, stdin: bool = False) -> list[str]:
        """Return the command that runs one of PostgreSQL's programs beside the server, as the server's user."""
        ran = [posixpath.join(posixpath.dirname(self.exe), name), *self._connection(), *arguments]
        if self.password_env:
            # The password stays in the container: its shell reads it from its own environment.
            ran = ["sh", "-c", f'PGPASSWORD="${{{self.password_env}}}" exec "$@"', "sh", *ran]
        plain = ["docker", "exec", *(["-i"] if stdin else []), "-u", self.user, "-e", "PGCLIENTENCODING=UTF8"]
        return [*plain, self.container, *ran]

    def psql(self, database: str = "postgres") -> list[str]:
        """Return the command that reads SQL from standard input and stops at the first error."""
        options = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database)
        return self.program("psql", *options, stdin=True)

    def script(self, sql: str, database: str = "postgres", timeout: float = 60) -> list[str]:
        """Run SQL; returns the lines it printed. Raises MoveError `sql_failed` with the server's words.

        A server that is still starting is waited for.
        """
        patient_until = time.monotonic() + STARTING_SECONDS
        while True:
            done = self.host.run(self.psql(database), stdin=sql, timeout=timeout, check=False)
            if not done.status:
                return done.out.splitlines()
            # Said before it would run anything, so it may be tried again.
            if _STARTING not in done.err or time.monotonic() > patient_until:
                raise sql_failed(self.host, done.status, done.err)
            time.sleep(0.2)

    def ask(self, select: str, database: str = "postgres", timeout: float = 60) -> Any:
        """Return the value, decoded, of a SELECT that answers with one JSON; None for NULL, and for no row."""
        lines = self.script(select, database, timeout)
        return json.loads(lines[-1]) if lines and lines[-1] else None

    def _connection(self) -> Sequence[str]:
        return ("-h", self.socket or "127.0.0.1", "-p", str(self.port), "-U", self.superuser)


def sql_failed(host: Host, status: int, said: str) -> MoveError:
    """Return the error of a psql that ended with a status and what it wrote to standard error."""
    words = re.sub(r"psql:<stdin>:\d+: ", "", said.strip()) or f"exit {status}"
    if re.search(FULL, words):
        message = f"the disk of {host.name} is full: make room there, then run this again"
        return MoveError("disk_full", f"{message}. PostgreSQL says: {words[-300:]}", host=host.name)
    return MoveError("sql_failed", f"PostgreSQL on {host.name} says: {words[-400:]}", host=host.name)


def server_in(host: Host, container: str, superuser: str, password_env: str | None = None) -> Server:
    """Return the server that runs in a container. Raises MoveError if there is none."""
    found = host.call(postmaster, "find", container=container)
    user = f"{found['uid']}:{found['gid']}"
    return Server(host, container, found["exe"], user, found["socket"], found["port"], superuser, password_env)

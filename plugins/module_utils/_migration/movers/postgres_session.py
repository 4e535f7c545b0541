# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A psql that stays connected: between the stop and the promotion every question lengthens the outage."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field, fields

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import SSH_FAILED
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import (
    Server,
    quoted,
    sql_failed,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.talk import Talk, TalkEnded

_FIRST = "postgres"


@dataclass(frozen=True, kw_only=True)
class ConnectedServer(Server):
    """A running PostgreSQL that is asked through one psql, as long as that lives; after it as any other.

    For one thread at a time.
    """

    #: The psql, and the database that it is connected to; empty once it has ended.
    _psql: list[tuple[Talk, str]] = field(default_factory=list)

    def script(self, sql: str, database: str = _FIRST, timeout: float = 60) -> list[str]:
        """Run SQL as Server.script does."""
        if not self._psql:
            return super().script(sql, database, timeout)
        try:
            return self._run(sql, database, time.monotonic() + timeout)
        except BaseException as error:
            self.disconnect()
            if isinstance(error, TalkEnded):
                if error.status == SSH_FAILED:
                    message = f"{self.host.name} can't be reached over SSH: {error.last_line}"
                    raise MoveError("host_unreachable", message, host=self.host.name) from error
                raise sql_failed(self.host, error.status, error.said) from error
            if isinstance(error, TimeoutError):
                message = f"psql on {self.host.name} did not end within {timeout:g} s"
                raise MoveError("timeout", message, host=self.host.name) from error
            raise

    def disconnect(self) -> None:
        """End the psql; a second time nothing."""
        while self._psql:
            self._psql.pop()[0].end()

    def _run(self, sql: str, database: str, deadline: float) -> list[str]:
        [(talk, connected)] = self._psql
        # What the script before set must not count in this one.
        begin = "RESET ALL;" if connected == database else f"\\connect {quoted(database)}"
        self._psql[0] = (talk, database)
        end = uuid.uuid4().hex
        talk.write(f"{begin}\n{sql}\n;\n\\echo {end}\n", deadline)
        lines: list[str] = []
        while (line := talk.line(deadline)) != end:
            lines.append(line)
        return lines


def connected(server: Server) -> ConnectedServer:
    """Return a server with a psql that stays."""
    given = {each.name: getattr(server, each.name) for each in fields(Server)}
    return ConnectedServer(**given, _psql=[(server.host.talk(server.psql(_FIRST)), _FIRST)])

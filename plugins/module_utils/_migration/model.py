# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units as inventory data: what moves together, from where to where, in which order."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

POSTGRES, REDIS, FILES, APP = "postgres", "redis", "files", "app"
#: What a member of the inventory may be; `files` are volumes of members, found by discovery.
MEMBER_KINDS = (POSTGRES, REDIS, APP)


@dataclass(frozen=True)
class Health:
    """When a member counts as healthy: a command in its container that exits 0, or an HTTP answer inside of it.

    HTTP: the answer has the `status` and contains `expect`. `seconds`: how long it may take to become so.
    """

    command: tuple[str, ...] = ()
    port: int | None = None
    path: str = "/"
    method: str = "GET"
    body: str = ""
    status: int = 200
    expect: str = ""
    seconds: float = 60


@dataclass(frozen=True)
class Drain:
    """How a member is emptied before it is stopped: a command in its container, then until `done` exits 0."""

    command: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    seconds: float = 60


@dataclass(frozen=True)
class Member:
    """One service of a unit. `service`: its name, or a glob that matches exactly one. `kind` None: discovered.

    `mover`: for PostgreSQL `stream` (default) or `dump`. `limits`: as rows of the limits table have them, set at the
    target; None: as they are. `superuser`, `password_env`: where discovery can't tell (see docs/moving.md).
    """

    service: str
    kind: str | None = None
    mover: str | None = None
    health: Health | None = None
    drain: Drain | None = None
    limits: Mapping[str, Any] | None = None
    superuser: str | None = None
    password_env: str | None = None


@dataclass(frozen=True)
class Unit:
    """What moves as one, between two Swarm nodes by hostname. Members start in their order and stop in reverse."""

    name: str
    home: str
    target: str
    members: tuple[Member, ...]

    @property
    def lease(self) -> str:
        """The node label that says where the unit may run: on exactly one node, or on none."""
        return f"evenkeel.lease.{self.name}"

    def member_of(self, service: str) -> Member | None:
        """Return the first member whose name or glob is a service's, None if it is none of the unit."""
        return next((each for each in self.members if fnmatch.fnmatchcase(service, each.service)), None)


@dataclass(frozen=True)
class Part:
    """A piece of a unit with a mover of its own, after discovery.

    `key`: unique in the unit, letters, digits and dashes. `service`: exact name of the service that runs it (of a
    `files` part: the first of `users`). `volumes`: named volume -> path in the container. `users`: services that
    mount it.
    """

    key: str
    kind: str
    service: str
    member: Member
    volumes: Mapping[str, str]
    users: tuple[str, ...] = ()

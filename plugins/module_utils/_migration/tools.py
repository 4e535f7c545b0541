# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The other parts of a move, in one place, imported when a move first needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import APP, FILES, POSTGRES, Part, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Facts, Move, Mover, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage, Step


class Lease(Protocol):
    """What the engine uses of lease.py."""

    def pin(self, move: Move, services: Sequence[str]) -> Sequence[Stage]: ...

    def unpin(self, move: Move, services: Sequence[str]) -> Sequence[Stage]: ...

    def release(self, move: Move, services: Sequence[str]) -> Sequence[Stage]: ...

    def withdraw(self, move: Move) -> Step: ...

    def give(self, move: Move, place: Place) -> Step: ...

    def stop(self, move: Move, service: str) -> Step: ...

    def start(self, move: Move, service: str, place: Place) -> Step: ...


class Tools:
    """What belongs to other modules: discovery, movers, lease, plan."""

    @property
    def lease(self) -> Lease:
        """The steps that pin, stop and start by the lease."""
        from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import lease  # noqa: PLC0415

        return lease

    def find_parts(self, unit: Unit, cluster: Cluster, places: Mapping[str, Place]) -> tuple[Part, ...]:
        """Return the parts of a unit as they are found."""
        from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.discover import (  # noqa: PLC0415
            find_parts,
        )

        return find_parts(unit, cluster, places)

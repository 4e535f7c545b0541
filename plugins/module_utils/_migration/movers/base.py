# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every mover of state is asked for, and by when in a move."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster, Node
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import Journal
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Part, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage


@dataclass(frozen=True)
class Place:
    """A node of the move: how to run things there, what Swarm says of it, and the engine's root directory."""

    host: Host
    node: Node
    root: str

    @property
    def name(self) -> str:
        """The node's hostname."""
        return self.node.hostname


@dataclass(frozen=True)
class Options:
    """What an operator may set for a run; seconds, bytes.

    `deadline`: from the fence to the promotion, after which the unit is given back to its source. `max_lag`: how far
    the target's copy may be behind when a switch begins. `backup_directory`: on the target. `min_age`: of a switch
    before it may be completed. `verify`: `quick`, or `full` to compare every row inside the outage.
    """

    deadline: float = 120
    max_lag: int = 16 * 1024 * 1024
    backup_directory: str = "/var/backups/evenkeel"
    min_age: float = 24 * 3600
    verify: str = "quick"


@dataclass(frozen=True)
class Move:
    """A unit on its way from `source` to `target`. A reverse move is the same with the two swapped."""

    unit: Unit
    source: Place
    target: Place
    cluster: Cluster
    journal: Journal
    options: Options


@dataclass(frozen=True)
class Readiness:
    """Whether a switch may begin for a part. `text`: one sentence, with the lag or why not; `numbers` for programs."""

    ready: bool
    text: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trap:
    """Something seen that would hurt. `refuses`: no move before it is gone; else `remedy` says what the move does."""

    code: str
    text: str
    remedy: str
    refuses: bool = False


@dataclass(frozen=True)
class Facts:
    """What a plan shows of a part; None is "not measured". Bytes, seconds."""

    bytes: int | None
    outage: float | None
    detail: Mapping[str, Any]
    traps: Sequence[Trap] = ()


class Mover(ABC):
    """Moves one part. Every list of stages may be walked again at any time; what is so already is probed and left.

    Order in a switch: consumers drained and off; settle(); park(); lease off, service stopped (meanwhile()); stopped();
    the promotion's intent; lease to the target; take_over(), service started there, verify(); consumers on; follow().
    Parts don't wait for each other from their stop to the intent, nor from it to their verify(). Files that only
    consumers use are parked, copied and proved while databases still take writes.
    """

    def __init__(self, move: Move, part: Part) -> None:
        self.move = move
        self.part = part

    @abstractmethod
    def facts(self) -> Facts:
        """Look at the part, changing nothing."""

    @abstractmethod
    def prepare(self) -> Sequence[Stage]:
        """Make what the copy needs on both sides. Undone by cancel."""

    def backup(self) -> Sequence[Stage]:
        """Back the running service up, off the node where it runs, and restore the backup once for proof."""
        return ()

    @abstractmethod
    def precopy(self) -> Sequence[Stage]:
        """Copy while the service runs; each run brings the copy nearer. Undone by cancel."""

    @abstractmethod
    def readiness(self) -> Readiness:
        """Say how far the copy is behind, changing nothing."""

    def settle(self) -> Sequence[Stage]:
        """Consumers are off, the service still runs: what makes its stop short, and what needs it to run."""
        return ()

    def park(self) -> Sequence[Stage]:
        """Park the source's data under the service that still runs: it goes on in the renamed directory.

        From here on nothing else can start on the data, so a redeploy while the service is stopping can't put a second
        container on it. What holds writes back comes last in here, as it is an outage. Then the lease is withdrawn.
        """
        return ()

    def meanwhile(self) -> Sequence[Stage]:
        """While the services stop: what would lengthen the outage after that, and needs no undo."""
        return ()

    def stopped(self) -> Sequence[Stage]:
        """Prove that the target's copy is complete: the service is stopped, its data parked, nobody has the lease.

        Whatever is done here can be taken back (the steps' undo) until the promotion's intent is written.
        """
        return ()

    def undo_on_hosts(self) -> Sequence[Mapping[str, Any]]:
        """Return what the deadline's watcher must do to take park() and stopped() back, as it can't ask this class.

        Actions: {"do": "bring_live", "node": hostname, "volume": name} and {"do": "remove_file", "node", "path"}.
        """
        return ()

    def take_over(self) -> Sequence[Stage]:
        """Make the target's copy the one: promote, end the companion, bring the data live. Only reverse leads back."""
        return ()

    def verify(self) -> Sequence[Stage]:
        """Check the part where it now runs, before consumers come (steps with `changes` False)."""
        return ()

    def follow(self) -> Sequence[Stage]:
        """Let the old copy follow the new one, so that a reverse is as fast as a switch."""
        return ()

    def finish(self) -> Sequence[Stage]:
        """Complete: end the following, remove the old copy and everything that the move made."""
        return ()

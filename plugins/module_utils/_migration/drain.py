# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Empty a member before it is stopped: its drain command, then `done` until that exits 0."""

from __future__ import annotations

import time

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.health import run_in
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Drain
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.pin import restarted
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step, Tell, wait_until

DRAINED = "drained"


def drain(move: Move, service: str, how: Drain) -> Step:
    """Drain a service where it runs on the source. `how.command` must be safe to run again, and not end its container.

    Undone by a restart of what was told to drain: only that makes it take work again.
    """
    place = move.source

    def here() -> list[str]:
        return [task.container for task in move.cluster.running(service) if task.node == place.name]

    def told(container: str) -> bool:
        return not how.command or move.journal.last(DRAINED, container=container) is not None

    def is_empty(container: str) -> tuple[bool, str]:
        return run_in(place, container, how.done) if how.done else (True, "")

    def probe() -> bool:
        return all(told(container) and is_empty(container)[0] for container in here())

    def do(tell: Tell) -> None:
        for container in here():
            if how.command:
                ok, said = run_in(place, container, how.command, how.seconds)
                if not ok:
                    raise MoveError("drain_failed", f"the drain command of {service} failed: {said}", field="drain")
                move.journal.write(DRAINED, container=container, service=service)
        _wait(tell)

    def _wait(tell: Tell) -> None:
        began = time.monotonic()
        said = ""

        def empty() -> bool:
            nonlocal said
            answers = [is_empty(container) for container in here()]
            said = next((text for ok, text in answers if not ok), "")
            waited = time.monotonic() - began
            tell(eta=max(0.0, how.seconds - waited), text=said or f"{service} is empty")
            return not said

        try:
            wait_until(empty, how.seconds, f"{service} to drain", every=0.5)
        except MoveError as error:
            if error.code != "timeout":
                raise
            raise MoveError("drain_timeout", f"{error.message}; last: {said}", field="drain.seconds") from error

    def undo() -> None:
        if any(move.journal.last(DRAINED, container=container) is not None for container in here()):
            move.cluster.edit_service(service, restarted)

    return Step(
        id=f"{move.journal.verb}.{service}.drain",
        title=f"drain {service}",
        host=place.name,
        probe=probe,
        do=do,
        deadline=how.seconds,
        undo=undo,
    )

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Single files of the node's disk that services mount (Dokploy's `file` mounts): the same file at the same path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError, if_reachable
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import APP
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Place, Trap
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import bind_files
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.pin import bind_sources
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.traps import bind_traps
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step, Tell

COPIED = "file_copied"
Described = dict[str, dict[str, Any]]


def describe(place: Place, paths: Iterable[str]) -> Described:
    """Return path -> {"kind": file|directory|missing|other, "bytes", "sha256", "mode", "owner"} at a place."""
    return {path: place.host.call(bind_files, "describe", path=path) for path in paths}


def file_traps(move: Move, service: str, kind: str = APP) -> list[Trap]:
    """Return the traps of what a service mounts of its node's disk."""
    paths = _paths(move, service)
    ours = [path for path in paths if _ours(move, path)]
    there: Described = {}
    for path in paths:
        there |= if_reachable(lambda path=path: describe(move.target, [path])) or {}  # type: ignore[misc]
    return bind_traps(service, describe(move.source, paths), there, ours, kind)


def copy_files(move: Move, service: str) -> Sequence[Step]:
    """Copy the files that a service mounts to the same paths on the target. Undone by cancel."""
    return [_copy(move, service, path) for path in _paths(move, service)]


def stale_files(move: Move, service: str) -> list[str]:
    """Return the mounted files that are not the same on both nodes."""
    return [path for path in _paths(move, service) if not _same(move, path)]


def _paths(move: Move, service: str) -> list[str]:
    return bind_sources(move.cluster.service(service)["Spec"])


def _copy(move: Move, service: str, path: str) -> Step:
    target = move.target

    def do(_tell: Tell) -> None:
        here, there = describe(move.source, [path]), describe(target, [path])
        ours = [path] if _ours(move, path) else []
        for trap in bind_traps(service, here, there, ours):
            if trap.refuses:
                raise MoveError(trap.code, f"{trap.text}: {trap.remedy}")
        move.journal.write(COPIED, path=path, node=target.name)
        content = move.source.host.call(bind_files, "read", path=path)
        target.host.call(bind_files, "write", path=path, **content)

    def undo() -> None:
        if _ours(move, path):
            target.host.call(bind_files, "remove", path=path)

    return Step(
        id=f"{move.journal.verb}.{service}.file-{path.strip('/').replace('/', '-')}",
        title=f"copy {path} to {target.name}",
        host=target.name,
        probe=lambda: _same(move, path),
        do=do,
        undo=undo,
    )


def _same(move: Move, path: str) -> bool:
    [here], [there] = (describe(place, [path]).values() for place in (move.source, move.target))
    return here["kind"] == "file" and here == there


def _ours(move: Move, path: str) -> bool:
    """Tell whether the file on the target is a copy that this move made, and so may be replaced and removed."""
    return move.journal.last(COPIED, path=path, node=move.target.name) is not None

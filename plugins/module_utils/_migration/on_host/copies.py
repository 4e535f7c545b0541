# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the data of a volume lies on a host: live, where containers find it, or parked, where none does.

Standard library only: its source is sent to the host. A volume's directory without `_data` is a fence that neither a
redeploy nor a restart of the engine passes: the engine (20.10 and 26.1 tried) refuses to start any container on the
volume. One rename makes the difference, so at every moment a copy is live or parked, never half of each.
The parked copy lies outside of the volume, where no `docker volume prune` reaches it. Beside it, never inside, lies
`owner.json`: the unit and the move that it belongs to. So a copy that somebody else left is never taken for ours.
"""

import json
import os
import shutil
from pathlib import Path

LIVE, PARKED, BOTH, NEITHER = "live", "parked", "both", "neither"
#: Of states(): live, with nothing in it, and marked as a move's.
EMPTY = "empty"


def state(root: str, volume: str) -> dict[str, object]:
    """Return {"state", "live": path, "parked": path} of a volume below the engine's root directory."""
    live, parked = paths(root, volume)
    there = {(True, False): LIVE, (False, True): PARKED, (True, True): BOTH, (False, False): NEITHER}
    return {"state": there[live.is_dir(), parked.is_dir()], "live": str(live), "parked": str(parked)}


def states(root: str, volumes: list[str]) -> dict[str, object]:
    """Return volume -> "live", "empty", "parked", "both" or "neither".

    "empty": live as the engine makes a volume, and marked: if a move was killed there, it goes on with parking it.
    """
    found = {volume: state(root, volume)["state"] for volume in volumes}
    return {volume: EMPTY if _just_made(root, volume, now) else now for volume, now in found.items()}


def _just_made(root: str, volume: str, now: object) -> bool:
    live, parked = paths(root, volume)
    marks = parked.parent
    return now == LIVE and marks.is_dir() and any(marks.iterdir()) and next(live.iterdir(), None) is None


def look(root: str, volume: str) -> dict[str, object]:
    """Return what `state` returns, and more of the copy that is there.

    "empty": whether nothing is in it, None where there is no or more than one copy. "owner": {"unit", "move"} of the
    marker, None where there is none. "free", "total", "files": see `room`, of the parked copy.
    """
    found = state(root, volume)
    where = found.get(str(found["state"]))
    empty = next(Path(str(where)).iterdir(), None) is None if where else None
    return {**found, "empty": empty, "owner": _owner(root, volume), **room(str(found["parked"]))}


def room(path: str) -> "dict[str, int | None]":
    """Return {"free": bytes, "total": bytes, "files"} of the file system that a path is or would be on.

    "files": how many more it takes, None where that has no limit.
    """
    there = Path(path)
    while not there.exists():
        there = there.parent
    system = os.statvfs(there)
    files = system.f_favail if system.f_files else None
    return {"free": system.f_bavail * system.f_frsize, "total": system.f_blocks * system.f_frsize, "files": files}


def claim(root: str, volume: str, unit: str, move: str) -> None:
    """Write down whom the volume's copy belongs to; raises ValueError if it is somebody else's."""
    wanted = {"unit": unit, "move": move}
    found = _owner(root, volume)
    if found == wanted:
        return
    if found is not None:
        raise ValueError(f"the copy of the volume {volume} belongs to {_whose(found)}, not to {_whose(wanted)}")
    marker = _marker(root, volume)
    marker.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = marker.with_suffix(".new")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(wanted, file)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(marker)
    _sync(marker.parent)


def release(root: str, volume: str, unit: str, move: str) -> None:
    """Take the marker away, as the copy is nobody's matter any more; nothing if there is none or another's."""
    if _owner(root, volume) == {"unit": unit, "move": move}:
        _marker(root, volume).unlink(missing_ok=True)
        # Only an empty directory goes.
        if not any(_marker(root, volume).parent.iterdir()):
            _marker(root, volume).parent.rmdir()


def discard(root: str, volume: str, unit: str, move: str) -> None:
    """Remove a parked copy of ours and its marker; safe to run again. Raises ValueError if it isn't ours."""
    _live, parked = paths(root, volume)
    owner = _owner(root, volume)
    if owner != {"unit": unit, "move": move}:
        if parked.is_dir():
            raise ValueError(f"the parked copy {parked} belongs to {_whose(owner)}: it is left where it is")
        return
    # The marker goes last: a copy half removed is still known as ours.
    if parked.is_dir():
        shutil.rmtree(parked)
    release(root, volume, unit, move)


def park(root: str, volume: str) -> str:
    """Take a volume's data out of every container's reach; returns where it lies. Raises OSError, ValueError."""
    return _rename(root, volume, LIVE, PARKED)


def bring_live(root: str, volume: str) -> str:
    """Put parked data where containers find it; returns where it lies. Raises OSError, ValueError."""
    return _rename(root, volume, PARKED, LIVE)


def _rename(root: str, volume: str, before: str, after: str) -> str:
    live, parked = paths(root, volume)
    now = state(root, volume)["state"]
    origin, goal = (live, parked) if after == PARKED else (parked, live)
    if now == after:
        return str(goal)
    if now != before:
        raise ValueError(f"volume {volume} has {now} of the copies {live} and {parked}: exactly one must be there")
    goal.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    origin.rename(goal)
    for directory in (origin.parent, goal.parent):
        _sync(directory)
    return str(goal)


def paths(root: str, volume: str) -> tuple[Path, Path]:
    """Return where a volume's live and its parked copy lie below the engine's root directory."""
    return Path(root, "volumes", volume, "_data"), Path(root, "evenkeel", volume, "data")


def _marker(root: str, volume: str) -> Path:
    return Path(root, "evenkeel", volume, "owner.json")


def _owner(root: str, volume: str) -> "dict[str, str] | None":
    try:
        found = json.loads(_marker(root, volume).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"unit": "?", "move": "?"}


def _whose(owner: "dict[str, str] | None") -> str:
    return "nobody that can be told" if owner is None else f"the unit {owner.get('unit')} (move {owner.get('move')})"


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the data of a volume lies on a host: live, where containers find it, or parked, where none does.

Standard library only: its source is sent to the host. A volume's directory without `_data` is a fence that neither a
redeploy nor a restart of the engine passes: the engine (20.10 and 26.1 tried) refuses to start any container on the
volume. One rename makes the difference, so at every moment a copy is live or parked, never half of each.
The parked copy lies outside of the volume, where no `docker volume prune` reaches it.
"""

import os
from pathlib import Path

LIVE, PARKED, BOTH, NEITHER = "live", "parked", "both", "neither"


def state(root: str, volume: str) -> dict[str, object]:
    """Return {"state", "live": path, "parked": path} of a volume below the engine's root directory."""
    live, parked = paths(root, volume)
    there = {(True, False): LIVE, (False, True): PARKED, (True, True): BOTH, (False, False): NEITHER}
    return {"state": there[live.is_dir(), parked.is_dir()], "live": str(live), "parked": str(parked)}


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
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    return str(goal)


def paths(root: str, volume: str) -> tuple[Path, Path]:
    """Return where a volume's live and its parked copy lie below the engine's root directory."""
    return Path(root, "volumes", volume, "_data"), Path(root, "evenkeel", volume, "data")

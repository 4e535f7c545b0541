# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PostgreSQL data directory on a host, where no server may be asked: what it is, and what a move writes into it.

Standard library only: its source is sent to the host. global/pg_control is read here, not by pg_controldata: that
takes a container, which on a stopped and fenced copy costs most of a second of the outage and is one more thing that
can start there. The head of the file is the same in all versions up to 18; its checksum is proven, and the plan
compares the reading with what the running server says of itself.
"""

import json
import os
import shutil
import struct
from pathlib import Path

SHUT_DOWN = (1, 2)  # DB_SHUTDOWNED, DB_SHUTDOWNED_IN_RECOVERY
STATES = {
    0: "starting up",
    1: "shut down",
    2: "shut down in recovery",
    3: "shutting down",
    4: "in crash recovery",
    5: "in archive recovery",
    6: "in production",
}
_HEAD = struct.Struct("<QIIi4xqQQI")
# Where the checksum may stand: the file's structure has grown with the versions.
_CHECKSUM_AT = range(200, 508, 4)


def control(data: str) -> dict[str, object]:
    """Return {"system_id", "version", "state", "clean", "checkpoint", "redo", "timeline"} of a data directory.

    System identifier as text, log positions in bytes. Raises OSError, and ValueError for what is no pg_control.
    """
    return parse_control(Path(data, "global", "pg_control").read_bytes())


def parse_control(raw: bytes) -> dict[str, object]:
    """Return what control() returns, of the file's content."""
    if not _checksum_fits(raw):
        raise ValueError("global/pg_control has no valid checksum: it is damaged, or of a version not known here")
    system, version, _catalog, state, _time, checkpoint, redo, timeline = _HEAD.unpack_from(raw)
    return {
        "system_id": str(system),
        "version": version,
        "state": STATES.get(state, f"state {state}"),
        "clean": state in SHUT_DOWN,
        "checkpoint": checkpoint,
        "redo": redo,
        "timeline": timeline,
    }


def crc32c(raw: bytes, crc: int = 0) -> int:
    """Return the CRC-32C (Castagnoli) of some bytes, going on from `crc` of those before."""
    crc ^= 0xFFFFFFFF
    for byte in raw:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 & -(crc & 1))
    return crc ^ 0xFFFFFFFF


def _checksum_fits(raw: bytes) -> bool:
    crc, done = 0, 0
    for end in _CHECKSUM_AT:
        if end + 4 > len(raw):
            return False
        crc, done = crc32c(raw[done:end], crc), end
        if end >= _HEAD.size and struct.unpack_from("<I", raw, end)[0] == crc:
            return True
    return False


def look(base: str, relative: str) -> dict[str, object]:
    """Return what lies in a volume's directory `base` with the data directory at `relative`.

    {"there", "empty", "entries": of base, "marker", "manifest", "standby", "wal_elsewhere", "slots", "control": as of
    control() or None, "free": bytes on its disk}.
    """
    place, data = Path(base), Path(base, relative)
    there = place.is_dir()
    names = sorted(entry.name for entry in place.iterdir()) if there else []
    try:
        found: dict[str, object] | None = control(str(data))
    except (OSError, ValueError):
        found = None
    slots = data / "pg_replslot"
    return {
        "there": there,
        "empty": not _files(place) if there else True,
        "entries": names,
        "marker": _marker(place),
        "manifest": (data / "backup_manifest").is_file(),
        "standby": (data / "standby.signal").exists(),
        "wal_elsewhere": (data / "pg_wal").is_symlink(),
        "slots": sorted(entry.name for entry in slots.iterdir()) if slots.is_dir() else [],
        "control": found,
        "free": free(base),
    }


def free(path: str) -> int:
    """Return the bytes that are free on the disk of a path, or of its nearest parent that is there."""
    place = Path(path)
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def mark(base: str, facts: dict[str, object]) -> None:
    """Write beside a parked copy whose it is and what it is worth; no facts take the mark away."""
    path = _marker_path(Path(base))
    if not facts:
        path.unlink(missing_ok=True)
        return
    _write(path, json.dumps(facts) + "\n", 0o600)


def marked(base: str) -> bool:
    """Return whether the directory around a parked copy is there, with a mark or without."""
    return Path(base).parent.is_dir()


def lay_out(base: str, relative: str, *, uid: int, gid: int, owner: list[int], mode: int) -> None:
    """Make an empty place for a copy: the volume's directory with `owner` and `mode`, in it the data directory."""
    data = Path(base)
    data.mkdir(parents=True, exist_ok=True)
    os.chown(data, *owner)
    data.chmod(mode)
    for name in Path(relative).parts:
        data = data / name
        data.mkdir(mode=0o700, exist_ok=True)
        os.chown(data, uid, gid)


def ownership(base: str) -> dict[str, int]:
    """Return {"uid", "gid", "mode"} of a directory."""
    found = Path(base).stat()
    return {"uid": found.st_uid, "gid": found.st_gid, "mode": found.st_mode & 0o7777}


def wipe(base: str) -> None:
    """Remove everything in a directory, but not itself. A directory that is not there is empty already."""
    place = Path(base)
    for entry in place.iterdir() if place.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def discard(base: str) -> None:
    """Remove a parked copy with its mark and the directory around it."""
    if Path(base).is_dir():
        shutil.rmtree(base)
    _marker_path(Path(base)).unlink(missing_ok=True)
    around = Path(base).parent
    if around.is_dir() and not any(around.iterdir()):
        around.rmdir()


def only_follow(base: str, relative: str) -> dict[str, object]:
    """Make a stopped server's data such that a server on it can only follow another; returns control() of it."""
    data = Path(base, relative)
    found = control(str(data))
    signal = data / "standby.signal"
    if not signal.exists():
        _write(signal, "", 0o600)
        status = data.stat()
        os.chown(signal, status.st_uid, status.st_gid)
    return found


def may_lead(base: str, relative: str) -> None:
    """Take only_follow() back."""
    Path(base, relative, "standby.signal").unlink(missing_ok=True)


def hba_lines(path: str, mark: str) -> list[str]:
    """Return the lines of a pg_hba.conf that carry our mark."""
    return [line for line in Path(path).read_text().splitlines() if line.endswith(mark)]


def set_hba_lines(path: str, mark: str, lines: list[str]) -> None:
    """Have exactly these lines with our mark, before all others: the first that fits counts. The rest stays."""
    place = Path(path)
    status = place.stat()
    kept = [line for line in place.read_text().splitlines() if not line.endswith(mark)]
    fresh = place.with_name(f".{place.name}.evenkeel")
    _write(fresh, "\n".join([*(f"{line} {mark}" for line in lines), *kept]) + "\n", status.st_mode & 0o7777)
    os.chown(fresh, status.st_uid, status.st_gid)
    fresh.rename(place)


def _files(place: Path) -> bool:
    return any(files for _, _, files in os.walk(place))


def _marker_path(base: Path) -> Path:
    return base.with_name("copy.json")


def _marker(base: Path) -> object:
    try:
        return json.loads(_marker_path(base).read_text())
    except (OSError, ValueError):
        return None


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    fresh.chmod(mode)
    fresh.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

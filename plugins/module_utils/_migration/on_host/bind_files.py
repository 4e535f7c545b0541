# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Single files of a node's disk that a container mounts: look at them, read and write them whole.

Standard library only: its source is sent to the host.
"""

import base64
import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path


def describe(path: str) -> dict[str, object]:
    """Return {"kind": file|directory|missing|other}, of a file also its "bytes", "sha256", "mode" and "owner"."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return {"kind": "missing"}
    if stat.S_ISDIR(found.st_mode):
        return {"kind": "directory"}
    if not stat.S_ISREG(found.st_mode):
        return {"kind": "other"}
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    owner = [found.st_uid, found.st_gid]
    return {
        "kind": "file",
        "bytes": found.st_size,
        "sha256": digest,
        "mode": stat.S_IMODE(found.st_mode),
        "owner": owner,
    }


def read(path: str) -> dict[str, object]:
    """Return {"content" (base64), "mode", "uid", "gid"} of a file. Raises OSError."""
    found = os.stat(path)  # noqa: PTH116
    content = base64.b64encode(Path(path).read_bytes()).decode()
    return {"content": content, "mode": stat.S_IMODE(found.st_mode), "uid": found.st_uid, "gid": found.st_gid}


def write(path: str, content: str, *, mode: int, uid: int, gid: int) -> str:
    """Put a file there in one piece, or not at all. Raises OSError."""
    goal = Path(path)
    goal.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=goal.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(base64.b64decode(content))
            os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(goal)
    except OSError:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    return path


def remove(path: str) -> str:
    """Remove a file; nothing if there is none. Raises OSError."""
    Path(path).unlink(missing_ok=True)
    return path

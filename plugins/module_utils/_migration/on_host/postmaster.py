# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PostgreSQL of a container, as the host sees it.

Standard library only: its source is sent to the host. The container's first process may be a wrapper (an init, a shell,
a script), and the server's files need not be on the container's PATH: /proc knows both.
"""

import subprocess
from pathlib import Path

_LINES = 8


def find(container: str) -> dict[str, object]:
    """Return the postmaster of a running container.

    {"exe", "argv", "uid", "gid", "data": its data directory as the container has it, "pgdata": its PGDATA or None,
    "socket": directory or "", "port"}. Raises ValueError if there is none.
    """
    asked = ["docker", "inspect", "--format", "{{.State.Pid}}", container]
    first = subprocess.run(asked, capture_output=True, text=True, check=False)
    if first.returncode or first.stdout.strip() in ("", "0"):
        raise ValueError(f"the container {container[:12]} is not running")
    parents = _parents()
    family = _descendants(int(first.stdout), parents)
    servers = [pid for pid in family if _is_server(pid)]
    roots = [pid for pid in servers if parents.get(pid) not in servers]
    if len(roots) != 1:
        raise ValueError(f"the container {container[:12]} runs {len(roots)} PostgreSQL servers, not one")
    return _describe(Path("/proc", str(roots[0])))


def _describe(process: Path) -> dict[str, object]:
    try:
        lines = (process / "cwd" / "postmaster.pid").read_text().splitlines()
    except OSError as error:
        raise ValueError("PostgreSQL is just starting, or just ending: look again") from error
    # The last one, its status, comes when it listens; before that the line of the socket's directory may be empty.
    if len(lines) < _LINES:
        raise ValueError("PostgreSQL is still starting: its postmaster.pid is not complete")
    environment = (process / "environ").read_bytes().split(b"\0")
    pgdata = [item.partition(b"=")[2].decode() for item in environment if item.startswith(b"PGDATA=")]
    # The server's own working directory is its data directory: it goes there when it starts.
    status = process.stat()
    return {
        "exe": str((process / "exe").readlink()),
        "argv": [item.decode() for item in (process / "cmdline").read_bytes().split(b"\0") if item],
        "uid": status.st_uid,
        "gid": status.st_gid,
        "data": str((process / "cwd").readlink()),
        "pgdata": pgdata[0] if pgdata else None,
        "socket": lines[4].strip(),
        "port": int(lines[3]),
    }


def _parents() -> dict[int, int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name in parentheses may hold anything, so count from its end.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # ended meanwhile
    return parents


def _descendants(first: int, parents: dict[int, int]) -> list[int]:
    found = [first]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _is_server(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name == "postgres"
    except OSError:
        return False

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan wants to know of a host: room on its disk, memory, ports in use, who mounts a volume, who is connected.

Standard library only: its source is sent to the host. Nothing is changed.
"""

import os
import subprocess
from pathlib import Path

_LISTEN, _ESTABLISHED = "0A", "01"
_UDP_UNCONNECTED = "07"


def look(root: str, volumes: list[str]) -> dict[str, object]:
    """Return {"disk_free", "disk_total", "memory_available" (bytes), "ports": [[port, protocol]], "containers": ...}.

    `root`: the engine's directory. `containers`: volume -> names of containers on it that are no Swarm tasks.
    """
    disk = os.statvfs(root)
    return {
        "disk_free": disk.f_bavail * disk.f_frsize,
        "disk_total": disk.f_blocks * disk.f_frsize,
        "memory_available": _memory_available(),
        "ports": sorted(_ports()),
        "containers": {volume: _containers(volume) for volume in volumes},
    }


def clients(container: str) -> list[str]:
    """Return the addresses that hold connections to a port on which something in the container listens."""
    shown = subprocess.run(
        ["docker", "inspect", "--format", "{{.State.Pid}}", container], capture_output=True, text=True, check=False
    )
    pid = shown.stdout.strip()
    if shown.returncode or pid in ("", "0"):
        return []
    rows = [row for kind in ("tcp", "tcp6") for row in _sockets(Path("/proc", pid, "net", kind))]
    listening = {local[1] for state, local, _remote in rows if state == _LISTEN}
    peers = {remote[0] for state, local, remote in rows if state == _ESTABLISHED and local[1] in listening}
    return sorted(peers - {"127.0.0.1"})


def _memory_available() -> int | None:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _ports() -> set[tuple[int, str]]:
    used = set()
    for kind, state in (("tcp", _LISTEN), ("tcp6", _LISTEN), ("udp", _UDP_UNCONNECTED), ("udp6", _UDP_UNCONNECTED)):
        for found, local, _remote in _sockets(Path("/proc/net", kind)):
            if found == state:
                used.add((local[1], kind[:3]))
    return used


def _sockets(table: Path) -> list[tuple[str, tuple[str, int], tuple[str, int]]]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:  # no IPv6, or the process has ended
        return []
    rows = [line.split() for line in lines]
    return [(row[3], _endpoint(row[1]), _endpoint(row[2])) for row in rows]


def _endpoint(text: str) -> tuple[str, int]:
    """Read hexadecimal address:port; the address is in the machine's (little-endian) order, word by word."""
    address, _, port = text.partition(":")
    last = bytes.fromhex(address[-8:])[::-1]  # of IPv6 only mapped IPv4 ends in one
    mapped = len(address) == 8 or address[16:24] == "FFFF0000"
    return (".".join(map(str, last)) if mapped else address), int(port, 16)


def _containers(volume: str) -> list[str]:
    form = '{{.Names}}\t{{.Label "com.docker.swarm.task.id"}}'
    shown = subprocess.run(
        ["docker", "ps", "--all", "--filter", f"volume={volume}", "--format", form],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.partition("\t") for line in shown.stdout.splitlines()]
    return sorted(name for name, _, task in rows if not task)

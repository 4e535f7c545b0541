# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask an HTTP server inside a container how it is, from its own network namespace: the image needs no client.

Standard library only: its source is sent to the host.
"""

import ctypes
import http.client
import json
import os
import subprocess

CLONE_NEWNET = 0x40000000


def ask(
    *, container: str, port: int, path: str, method: str, body: str, status: int, expect: str, seconds: float
) -> dict[str, object]:
    """Return {"ok", "text"}: whether the answer has the status and contains `expect`, and what came instead."""
    shown = subprocess.run(
        ["docker", "inspect", "--type", "container", container], capture_output=True, text=True, check=False
    )
    if shown.returncode:
        return {"ok": False, "text": "its container is gone"}
    [inspected] = json.loads(shown.stdout)
    _enter_network(inspected["State"]["Pid"])
    said = "no answer"
    for address in _addresses(inspected):
        try:
            found, text = _request(address=address, port=port, path=path, method=method, body=body, seconds=seconds)
        except (OSError, http.client.HTTPException) as error:
            said = f"{method} {path} on port {port}: {error}"
            continue
        if found != status:
            return {"ok": False, "text": f"{method} {path} answered {found}, not {status}"}
        if expect not in text:
            return {"ok": False, "text": f"{method} {path} answered {found} without {expect!r}"}
        return {"ok": True, "text": f"{method} {path} answered {found}"}
    return {"ok": False, "text": said}


def _enter_network(pid: int) -> None:
    if not pid:
        raise OSError("the container does not run")
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net", "rb") as namespace:  # noqa: PTH123
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _addresses(inspected: dict[str, dict[str, object]]) -> list[str]:
    """The loopback first; some servers listen on the container's own address only."""
    networks = inspected["NetworkSettings"]["Networks"] or {}
    own = [network.get("IPAddress") for network in networks.values()]  # type: ignore[attr-defined]
    return ["127.0.0.1", *(address for address in own if address)]


def _request(*, address: str, port: int, path: str, method: str, body: str, seconds: float) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, port, timeout=seconds)
    try:
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request(method, path, body=body.encode() or None, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 20).decode(errors="replace")
    finally:
        connection.close()

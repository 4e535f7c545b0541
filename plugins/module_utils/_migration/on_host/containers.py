# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The containers of a Swarm service on this host, asked of its engine directly, and those it forgot; and images.

Standard library only: its source is sent to the host. The engine answers in milliseconds; each start of its command
line takes a tenth of a second, and a switch asks often.
"""

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

DOCKER_SOCKET = "/var/run/docker.sock"
_SERVICE = "com.docker.swarm.service.name"
#: Beyond the grace: what the engine takes to kill and to answer.
_ANSWER_SECONDS = 30
_PROC = Path("/proc")
#: Docker's names of a container's control group: those of other engines have other words before the id.
_ID = re.compile(r"(?:/|docker-)([0-9a-f]{64})(?:\.scope)?(?:/|$)", re.MULTILINE)
#: Within this time an engine knows of a container that it starts, or ends one that it found at its own start.
_MOMENT = 5.0


class _Engine(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(DOCKER_SOCKET)


def running(services: list[str]) -> list[str]:
    """Return the ids of some services' running containers. Raises OSError with the engine's words."""
    return [each["Id"] for each in _running({"label": [_SERVICE]}, services)]


def image_ids(service: str) -> list[str]:
    """Return the ids of the images that a service's containers run."""
    return [each["ImageID"] for each in _running({"label": [f"{_SERVICE}={service}"]})]


def mounting(volumes: list[str]) -> "dict[str, str]":
    """Return id -> name of the running containers that have one of the volumes, or directories, mounted."""
    return {each["Id"]: each["Names"][0].lstrip("/") for each in _running({"volume": volumes})}


def end_orphans(directories: list[str]) -> "list[str]":
    """Kill the containers that have one of the directories mounted but are none that runs to the engine; returns ids.

    An engine that was killed while it started a container forgets that one: it goes on with its data, Swarm starts
    another beside it, and no command of the engine reaches it (seen on Docker 26.1). Raises OSError if one stays.
    """
    deadline = time.monotonic() + _MOMENT
    while found := orphans(directories):
        if time.monotonic() > deadline:
            for container in found:
                _kill(container)
            return found
        time.sleep(0.2)
    return []


def orphans(directories: list[str]) -> "list[str]":
    """Return the ids of what end_orphans would kill, and for a moment of those that are just starting or ending."""
    having = _having(directories)
    # The list answers at once. Asked for one container that is just ending, the engine answers when it has taken its
    # network apart, a quarter of a second later; meanwhile it is gone from the kernel's tables.
    unknown = {each for each in having - _listed_as_running() if not _look(each).get("State", {}).get("Running")}
    return sorted(unknown & _having(directories)) if unknown else []


def _listed_as_running() -> "set[str]":
    status, answer = _request("GET", "/containers/json", _ANSWER_SECONDS)
    _refuse(status, answer, "containers")
    return {each["Id"] for each in json.loads(answer)}


def _having(directories: list[str]) -> "set[str]":
    """Return the ids of Docker's containers that have one of the directories, or a part of one, mounted.

    As the kernel says. The processes of a container share their mounts, so one of them tells.
    """
    found, seen = set(), {(_PROC / "self/ns/mnt").readlink()}
    for process in (each for each in _PROC.iterdir() if each.name.isdigit()):
        with contextlib.suppress(OSError):  # it has just ended
            space = (process / "ns/mnt").readlink()
            if space in seen:
                continue
            container = _ID.search((process / "cgroup").read_text(encoding="utf-8"))
            if container and any(_has(process, directory) for directory in directories):
                found.add(container[1])
            seen.add(space)
    return found


def _has(process: Path, directory: str) -> bool:
    # What the kernel shows of a mount's origin begins at its file system's own root: its end is that of the directory.
    end = "/" + "/".join(directory.split("/")[-3:]) + "/"
    mounts = (process / "mountinfo").read_text(encoding="utf-8", errors="replace")
    if end[:-1] not in mounts:
        return False  # nearly all: this is inside an outage
    for line in mounts.splitlines():
        origin, at = line.split()[3:5]
        _before, there, below = f"{origin}/".partition(end)
        with contextlib.suppress(OSError):
            # Another engine, such as Podman, has volumes of the same name elsewhere.
            if there and Path(directory, below).samefile(f"{process}/root{_unescaped(at)}"):
                return True
    return False


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _kill(container: str) -> None:
    handles = [_handle(container, int(each.name)) for each in _PROC.iterdir() if each.name.isdigit()]
    try:
        for handle in filter(None, handles):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle in filter(None, handles):
            if not select.select([handle], [], [], _ANSWER_SECONDS)[0]:
                raise OSError(f"the container {container}, which the engine does not know, does not end")
    finally:
        for handle in filter(None, handles):
            os.close(handle)


def starts(service: str, since: float, until: float) -> list[str]:
    """Return the ids of a service's containers that were started between two times, in seconds since 1970."""
    filters = {"type": ["container"], "event": ["start"], "label": [f"{_SERVICE}={service}"]}
    window = {"since": f"{since:.3f}", "until": f"{until:.3f}", "filters": json.dumps(filters)}
    status, answer = _request("GET", f"/events?{urlencode(window)}", _ANSWER_SECONDS)
    _refuse(status, answer, "events")
    return [json.loads(line)["Actor"]["ID"] for line in answer.splitlines() if line]


def image(reference: str) -> "dict[str, object] | None":
    """Return {"Id", "Size", "RepoDigests", "Volumes"} of an image, None if the engine has none of that name."""
    status, answer = _request("GET", f"/images/{quote(reference, safe='/:@')}/json", _ANSWER_SECONDS)
    if status == http.client.NOT_FOUND:
        return None
    _refuse(status, answer, f"the image {reference}")
    found = json.loads(answer)
    # Not the image's environment: somebody may have put a secret there.
    return {
        **{key: found[key] for key in ("Id", "Size", "RepoDigests")},
        "Volumes": (found.get("Config") or {}).get("Volumes"),
    }


def stop(service: str, grace: float) -> "dict[str, list[str]]":
    """Stop a service's containers with their own stop signals; returns {"ended", "left"}, ids of containers.

    `grace`: seconds until they are killed. "ended": seen to have no process any more. "left": those that run then.
    """
    found = running([service])
    if not found:
        return {"ended": [], "left": []}
    with ThreadPoolExecutor(len(found)) as pool:
        gone = list(pool.map(lambda container: _stop(container, grace), found))
    ended = [container for container, is_gone in zip(found, gone, strict=True) if is_gone]
    return {"ended": ended, "left": [container for container in running([service]) if container not in ended]}


def _stop(container: str, grace: float) -> bool:
    """Have a container's processes end; returns whether that was seen.

    Not by the engine's own "stop": that answers only when it has taken the network apart, a quarter of a second after.
    When the first process is gone, all of the container are: the kernel kills them before.
    """
    found = _look(container)
    handle = _handle(container, int(found.get("State", {}).get("Pid", 0)))
    if handle is None:
        _request("POST", f"/containers/{container}/stop?t={grace:.0f}", grace + _ANSWER_SECONDS)
        return False
    signal = found.get("Config", {}).get("StopSignal") or "SIGTERM"
    try:
        return any(_ends(container, handle, *how) for how in ((signal, grace), ("SIGKILL", _ANSWER_SECONDS)))
    finally:
        os.close(handle)


def _handle(container: str, pid: int) -> "int | None":
    """Return a handle on a container's first process, None if that is none of the container's (any more)."""
    if not pid:
        return None
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        # The number may have gone to another process since the engine said it.
        if container in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8"):
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def _ends(container: str, handle: int, signal: str, seconds: float) -> bool:
    _request("POST", f"/containers/{container}/kill?signal={signal}", _ANSWER_SECONDS)
    return bool(select.select([handle], [], [], seconds)[0])


def _look(container: str) -> "dict[str, dict[str, str]]":
    """Return what the engine knows of a container, nothing if it has none of that id."""
    status, answer = _request("GET", f"/containers/{container}/json", _ANSWER_SECONDS)
    if status == http.client.NOT_FOUND:
        return {}
    _refuse(status, answer, f"the container {container}")
    found: dict[str, dict[str, str]] = json.loads(answer)
    return found


def _running(filters: "dict[str, list[str]]", services: "list[str] | None" = None) -> "list[dict[str, Any]]":
    """Return the running containers (of some services), as the engine lists them; for a moment after their end, too.

    Each is asked for by itself: the list shows what the engine could last write down. When its disk was full that has
    ended containers as running, and running ones as not started, for as long as they are there.
    """
    query = urlencode({"all": "true", "filters": json.dumps(filters)})
    status, answer = _request("GET", f"/containers/json?{query}", _ANSWER_SECONDS)
    _refuse(status, answer, "containers")
    listed = [each for each in json.loads(answer) if services is None or each["Labels"][_SERVICE] in services]
    return [each for each in listed if _is_running(each)]


def _is_running(listed: "dict[str, Any]") -> bool:
    status, answer = _request("GET", f"/containers/{listed['Id']}/json", _ANSWER_SECONDS)
    if status == http.client.OK:
        return bool(json.loads(answer)["State"]["Running"])
    # One that the engine can't read any more, such as one without its layer, it still lists.
    return status != http.client.NOT_FOUND and listed["State"] == "running"


def _refuse(status: int, answer: bytes, what: str) -> None:
    if status != http.client.OK:
        raise OSError(f"the engine does not show {what} (HTTP {status}): {answer.decode(errors='replace')}")


def _request(method: str, path: str, seconds: float) -> "tuple[int, bytes]":
    connection = _Engine("docker", timeout=seconds)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"the engine's answer was cut off: {error!r}") from error
    finally:
        connection.close()

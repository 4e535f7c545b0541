# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Speak with the Redis of a container on this host, from inside of its network namespace.

Standard library only: its source is sent to the host. No client in the image is needed, a look takes milliseconds
(`docker exec` takes a tenth of a second and more), replies come unparsed, and the password is in no argument vector.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Read = Callable[[str], "str | None"]
Settings = dict[str, list[list[str]]]

DOCKER_SOCKET = "/var/run/docker.sock"
ENGINE_PID = "/var/run/docker.pid"
SHELLS = ("sh", "dash", "bash", "ash", "busybox", "zsh")
_NEW_NETWORK = 0x40000000
_CHUNK = 1 << 20
_VARIABLE = re.compile(r"\$(?:\{([\w\x01]+)\}|(\w+))")
_CAT = re.compile(r"\$\(\s*(?:cat|<)\s+([^\s)]+)\s*\)|`\s*cat\s+([^\s`]+)\s*`")
_WELL_KNOWN = ("REDIS_PASSWORD", "REDIS_PASS", "REDISCLI_AUTH", "VALKEY_PASSWORD")


class RedisError(ValueError):
    """What the server answered instead of doing it."""


def ask(
    container: str, port: int, password: str | None, commands: Sequence[Sequence[Any]], seconds: float = 10
) -> dict[str, Any]:
    """Send commands (lists of words) over one connection; returns {"replies", "before", "after"}.

    A reply is text, a number, None, a list of such, or {"error": text}. `before`, `after`: clock() around them.
    Raises OSError, and RedisError if the password is refused.
    """
    _enter_network(_inspect(container)["State"]["Pid"])
    with _Connection(port, seconds) as connection:
        connection.login(password)
        before = clock()
        replies = connection.many(commands)
    return {"replies": replies, "before": before, "after": clock()}


def clock() -> dict[str, Any]:
    """Return this host's time, and what can interrupt a proof.

    "at": seconds since boot, a clock that nobody sets; "boot": which boot; "wall": seconds since 1970; "engine": at
    which second since boot the Docker engine started, None if that can't be told.
    """
    return {
        "at": time.clock_gettime(time.CLOCK_BOOTTIME),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        "wall": time.time(),
        "engine": _engine_start(),
    }


def _engine_start() -> float | None:
    try:
        pid = Path(ENGINE_PID).read_text(encoding="ascii").strip()
        # The name in the second field may hold spaces; the start is the 20th field after it, in ticks.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def saved_position(path: str) -> dict[str, Any] | None:
    """Return {"replid", "offset"} that a saved file says its data are of; None if there is no file or it says none."""
    try:
        with Path(path).open("rb") as file:
            return position(file.read(4096))
    except FileNotFoundError:
        return None


def position(head: bytes) -> dict[str, Any] | None:
    """Read the position in the stream of replication from the first bytes of a saved file (fields 0xFA, RDB format)."""
    if not head.startswith(b"REDIS"):
        return None
    fields, at = {}, 9
    while at < len(head) and head[at] == 0xFA:
        name, at = _string(head, at + 1)
        value, at = _string(head, at)
        fields[name] = value
    if "repl-id" not in fields or "repl-offset" not in fields:
        return None
    return {"replid": fields["repl-id"], "offset": int(fields["repl-offset"])}


def _string(head: bytes, at: int) -> tuple[str, int]:
    first = head[at]
    if first >> 6 == 3:  # a number of 1, 2 or 4 bytes
        width = 1 << (first & 0x3F)
        return str(int.from_bytes(head[at + 1 : at + 1 + width], "little", signed=True)), at + 1 + width
    if first >> 6 == 0:
        size, start = first, at + 1
    else:
        size, start = ((first & 0x3F) << 8) | head[at + 1], at + 2
    return head[start : start + size].decode(errors="replace"), start + size


def explore(container: str, password_env: str | None = None) -> dict[str, Any]:
    """Look at the server without changing anything.

    Returns {"port", "needed": whether it wants a password, "password": the one that it takes or None,
    "shell": name of a shell that stands between the engine's signals and the server or None, "uid", "gid" of the
    server, "startup": settings that it starts with, each a list of its values, "info", "config": name -> value,
    "modules": [{"name", "path", "args"}], "files": {relative path: bytes} in its directory, "limit": bytes of memory
    or None}. "info" is None where no password fits.
    """
    found = _inspect(container)
    root = Path(f"/proc/{found['State']['Pid']}/root")
    environment = dict(item.partition("=")[::2] for item in found["Config"].get("Env") or [])
    read = _reader(root)
    startup = startup_settings([found["Path"], *found["Args"]], environment, read)
    port = int((startup.get("port") or [["6379"]])[-1][0])
    _enter_network(found["State"]["Pid"])
    answer: dict[str, Any] = {
        "port": port,
        "startup": {name: values for name, values in startup.items() if name in _SHOWN},
    }
    answer["limit"] = found["HostConfig"].get("Memory") or None
    password, needed = _password(port, candidates(startup, environment, password_env))
    answer |= {"needed": needed, "password": password, "info": None}
    if needed and password is None:
        return answer
    with _Connection(port, 10) as connection:
        connection.login(password)
        info, config, modules = connection.many([["INFO", "everything"], ["CONFIG", "GET", "*"], ["MODULE", "LIST"]])
    if not isinstance(info, str):
        raise RedisError(f"the server does not answer INFO: {info}")
    answer["info"] = parse_info(info)
    answer["config"] = pairs(config) if isinstance(config, list) else None
    answer["modules"] = [pairs(module) for module in modules] if isinstance(modules, list) else []
    answer |= _process(found["State"]["Pid"], int(answer["info"]["process_id"]))
    answer["files"] = _files(root, (answer["config"] or {}).get("dir"))
    return answer


_SHOWN = ("port", "dir", "appendonly", "appendfilename", "appenddirname", "dbfilename", "save")


def rdb(container: str, port: int, password: str | None, path: str, seconds: float = 3600) -> dict[str, Any]:
    """Write the server's data, as it sends them to a new replica, to a file of mode 0600; returns bytes and sha256.

    The file has its name only when it is whole and on disk.
    """
    _enter_network(_inspect(container)["State"]["Pid"])
    draft = Path(f"{path}.part")
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file, _Connection(port, seconds) as connection:
            connection.login(password)
            for piece in connection.synchronisation():
                file.write(piece)
                digest.update(piece)
                size += len(piece)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    return {"bytes": size, "sha256": digest.hexdigest()}


def parse_info(text: str) -> dict[str, str]:
    """Return the fields of an INFO answer by name, all text."""
    fields = (line.partition(":") for line in text.splitlines() if ":" in line and not line.startswith("#"))
    return {name: value for name, _colon, value in fields}


def pairs(flat: Sequence[Any]) -> dict[str, Any]:
    """Return a reply of names and values, one after the other, as a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=False))


def startup_settings(argv: Sequence[str], environment: Mapping[str, str], read: Read) -> Settings:
    """Return the settings that a server starts with, from its command line and configuration file: name -> values.

    A shell's script is read as that shell would: variables, its arguments, and files that it `cat`s. `read(path)`
    returns a file's text, None if there is none. Each value is a list of words, in order; the last counts, except for
    `save`.
    """
    words = _server_words(argv, environment, read)
    settings: Settings = {}
    if words and not words[0].startswith("--"):
        for line in (read(words[0]) or "").splitlines():
            try:
                name, *values = shlex.split(line, comments=False) or [""]
            except ValueError:
                continue
            if name and not name.startswith("#"):
                settings.setdefault(name.lower(), []).append(values)
    given: Settings = {}
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, *glued = word[2:].split("=", 1)
            given.setdefault(name.lower(), []).append(list(glued))
        elif given:
            next(reversed(given.values()))[-1].append(word)
    return {**settings, **given}


def candidates(startup: Settings, environment: Mapping[str, str], password_env: str | None = None) -> list[str]:
    """Return the passwords that the server may want, the likeliest first."""
    named = [environment[password_env]] if password_env and password_env in environment else []
    set_up = [values[-1] for values in reversed(startup.get("requirepass", [])) if values]
    known = [environment[name] for name in _WELL_KNOWN if environment.get(name)]
    return list(dict.fromkeys(word for word in (*named, *set_up, *known) if word))


def _server_words(argv: Sequence[str], environment: Mapping[str, str], read: Read) -> list[str]:
    """Return the words after the server's name on a command line, [] where it isn't named."""
    for index, word in enumerate(argv):
        if word == "-c" and index and Path(argv[index - 1]).name in SHELLS and index + 1 < len(argv):
            try:
                script = _shell_words(argv[index + 1], environment, read)
            except ValueError:
                return []
            # What follows the script is its name, then its arguments.
            given = [each for word in script for each in (argv[index + 3 :] if word == "$@" else [word])]
            return _server_words(given, environment, read)
        if Path(word).name in ("redis-server", "valkey-server", "keydb-server"):
            rest = list(argv[index + 1 :])
            end = next((at for at, each in enumerate(rest) if each in (";", "&&", "||", "|", "&", ">", ">>")), None)
            return rest[:end]
    return []


def _shell_words(script: str, environment: Mapping[str, str], read: Read) -> list[str]:
    known = dict(environment)

    def remember(match: re.Match[str]) -> str:
        known[f"file {len(known)}"] = (read(match[1] or match[2]) or "").rstrip("\n")
        return f"${{file\x01{len(known) - 1}}}"

    def value(match: re.Match[str]) -> str:
        return known.get((match[1] or match[2]).replace("\x01", " "), "")

    # Split before values come in: these may hold quotes and spaces, and stay one word where they stand in quotes.
    return [_VARIABLE.sub(value, word) for word in shlex.split(_CAT.sub(remember, script), comments=True)]


def _reader(root: Path) -> Read:
    def read(path: str) -> str | None:
        inside = root / path.lstrip("/")
        try:
            return inside.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    return read


def _password(port: int, possible: Sequence[str]) -> tuple[str | None, bool]:
    """Return (the password that the server takes or None, whether it wants one)."""
    for password in (None, *possible):
        with _Connection(port, 10) as connection:
            try:
                connection.login(password)
            except RedisError:
                continue
            [answer] = connection.many([["PING"]])
            if answer == "PONG" or "LOADING" in str(answer):
                return password, password is not None
    return None, True


def _process(first: int, inside: int) -> dict[str, Any]:
    """Return the server's user and the shell between it and the first process of its container."""
    space = Path(f"/proc/{first}/ns/pid").readlink()
    for directory in Path("/proc").iterdir():
        try:
            if not directory.name.isdigit() or (directory / "ns" / "pid").readlink() != space:
                continue
            status = _status(directory.name)
        except OSError:
            continue
        if status["NSpid"].split()[-1] == str(inside):
            found = {"uid": int(status["Uid"].split()[1]), "gid": int(status["Gid"].split()[1])}
            return {**found, "shell": _shell_above(status, first)}
    raise RedisError("the server's process can't be found in its container")


def _shell_above(status: Mapping[str, str], first: int) -> str | None:
    while int(status["Pid"]) != first and int(status["PPid"]) > 1:
        status = _status(status["PPid"])
        if status["Name"] in SHELLS:
            return status["Name"]
    return None


def _status(pid: str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: value.strip() for name, _colon, value in (line.partition(":") for line in lines)}


def _files(root: Path, directory: str | None) -> dict[str, int]:
    if not directory:
        return {}
    inside = root / directory.lstrip("/")
    sizes: dict[str, int] = {}
    for path, _directories, names in os.walk(inside):
        for name in names:
            file = Path(path, name)
            try:
                sizes[str(file.relative_to(inside))] = file.lstat().st_size
            except FileNotFoundError:
                continue
    return sizes


def _inspect(container: str) -> dict[str, Any]:
    # By hand, in HTTP/1.0: the engine closes after the answer, and importing a client takes longer than all of this.
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(DOCKER_SOCKET)
        connection.sendall(f"GET /containers/{container}/json HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(_CHUNK), b""))
    head, _blank, body = answer.partition(b"\r\n\r\n")
    found: dict[str, Any] = json.loads(body) if b" 200 " in head.split(b"\r\n")[0] else {}
    if not found or not found["State"]["Pid"]:
        raise OSError(f"the container {container[:12]} does not run")
    return found


def _enter_network(pid: int) -> None:
    # os.setns came with Python 3.12; Debian 12 has 3.11.
    with Path(f"/proc/{pid}/ns/net").open("rb") as space:
        library = ctypes.CDLL(None, use_errno=True)
        if library.setns(space.fileno(), _NEW_NETWORK):
            number = ctypes.get_errno()
            raise OSError(number, f"entering the container's network: {os.strerror(number)}")


class _Connection:
    def __init__(self, port: int, seconds: float) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._file.close()
        self._socket.close()

    def login(self, password: str | None) -> None:
        """Raise RedisError if the password is refused, or is missing."""
        [answer] = self.many([["AUTH", password] if password is not None else ["PING"]])
        if isinstance(answer, dict) and not answer["error"].startswith(("LOADING", "MASTERDOWN", "BUSY")):
            # Nothing of what was sent may stand in an error.
            raise RedisError("the server refuses the password" if password else "the server wants a password")

    def many(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        self._socket.sendall(b"".join(map(encode, commands)))
        return [self._reply() for _ in commands]

    def synchronisation(self) -> Iterator[bytes]:
        """Ask for the data as a replica does, and yield them piece by piece."""
        # Old servers know none of these, and then send the size first.
        self.many([["REPLCONF", "capa", "eof"], ["REPLCONF", "rdb-only", "1"]])
        self._socket.sendall(encode(["SYNC"]))
        line = b"\n"
        while line == b"\n":  # it keeps the connection alive with these while it saves
            line = self._file.readline()
        if not line.startswith(b"$"):
            raise RedisError(f"the server does not send its data: {line.decode(errors='replace').strip()}")
        head = line[1:].strip()
        return self._until(head[4:]) if head.startswith(b"EOF:") else self._exactly(int(head))

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._file.read(min(size, _CHUNK))
            if not piece:
                raise OSError("the server broke off in the middle of its data")
            size -= len(piece)
            yield piece

    def _until(self, mark: bytes) -> Iterator[bytes]:
        kept = b""
        while True:
            piece = self._file.read1(_CHUNK)
            if not piece:
                raise OSError("the server broke off in the middle of its data")
            kept += piece
            if kept.endswith(mark):
                yield kept[: -len(mark)]
                return
            yield kept[: -len(mark)]
            kept = kept[-len(mark) :]

    def _reply(self) -> Any:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise OSError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode(errors="replace")
        if kind == b"-":
            return {"error": rest.decode(errors="replace")}
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._file.read(int(rest) + 2)[:-2].decode(errors="replace")
        if kind == b"*":
            return None if rest == b"-1" else [self._reply() for _ in range(int(rest))]
        raise OSError(f"the server speaks something else than Redis does: {line[:20]!r}")


def encode(words: Sequence[Any]) -> bytes:
    """Return a command as it goes over the wire."""
    raw = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in raw)

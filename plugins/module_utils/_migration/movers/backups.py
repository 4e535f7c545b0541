# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of volumes and of Redis: a stream off the source into a file on the target, restored there once for proof.

A backup is `<backup directory>/<unit>/<part>-<name>-<UTC time>.<kind>` and beside it the same with `.json`: what proves
it. Without that it counts for nothing. Both have mode 0600, their directory 0700.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers import redis_state
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.redis_servers import Servers
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.volumes import (
    Volume,
    move_id,
    require_room,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import manifest, redis_server
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step, Tell, wait_until

_CHUNK = 1 << 20
_READING = 6 * 3600
# Of tar: files changed, or went, while it read them. That is what a backup of a volume in use is like.
_CHANGED = 1
#: How names of backups go on behind their prefix; so those of part "cache" are not those of "cache-2".
_STAMP = "[0-9]" * 8 + "T*"
_PROOFS = f'for each in "$1"{_STAMP}.json; do [ -e "$each" ] && cat "$each" && echo; done; true'
#: What is neither a proof nor proven.
_CLEAR = f'''for each in "$1"{_STAMP}
do case $each in *.json) ;; *) [ -e "$each.json" ] || rm -rf -- "$each" ;; esac; done'''


@dataclass(frozen=True)
class Target:
    """Where backups of one part go."""

    place: Place
    directory: str
    move: str
    prefix: str
    unit: str

    def proven(self) -> bool:
        """Whether a backup of this move is there that was restored once, as long as it was then."""
        shown = self.place.host.run(["sh", "-c", _PROOFS, "sh", f"{self.directory}/{self.prefix}"]).out
        records = [json.loads(line) for line in shown.splitlines() if line.strip()]
        return any(record["move"] == self.move and self._size(record["file"]) == record["bytes"] for record in records)

    def new(self, kind: str) -> str:
        """Return the path of a new backup; makes the directory."""
        self.clear()
        self.place.host.run(["install", "-d", "-m", "700", self.directory])
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        return f"{self.directory}/{self.prefix}{now}.{kind}"

    @property
    def container(self) -> str:
        """The name of the throwaway container that proves a backup."""
        return f"evenkeel-scratch-{self.unit}-{self.prefix.strip('-')}"

    def clear(self) -> None:
        """Remove what a backup that was broken off has left: its container, and files that nobody has proven."""
        self.place.host.run(["docker", "rm", "-f", "-v", self.container], check=False)
        self.place.host.run(["sh", "-c", _CLEAR, "sh", f"{self.directory}/{self.prefix}"], timeout=600)

    def prove(self, path: str, record: dict[str, Any]) -> None:
        """Write down what proves a backup; from here on it counts."""
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        text = json.dumps({"file": path, "move": self.move, "at": at, **record})
        script = 'umask 077; cat > "$1.new" && sync "$1.new" && mv "$1.new" "$1"'
        self.place.host.run(["sh", "-c", script, "sh", f"{path}.json"], stdin=text)

    def _size(self, path: str) -> int | None:
        shown = self.place.host.run(["stat", "-c", "%s", path], check=False)
        return None if shown.status else int(shown.out)


def send(source: Host, read: Sequence[str], target: Host, path: str, *, tell: Tell, total: int) -> dict[str, Any]:
    """Write what a command on one host prints into a file of mode 0600 on another; returns bytes and sha256.

    The file has its name only when it is whole, on disk, and its digest there is that of what was sent.
    """
    digest, size, told = hashlib.sha256(), 0, time.monotonic()
    script = 'umask 077; cat > "$1.part" && sync "$1.part"'
    with tempfile.TemporaryFile() as errors:
        pipe = subprocess.PIPE
        reader = source.start(read, stdin=subprocess.DEVNULL, stdout=pipe, stderr=errors)
        writer = target.start(["sh", "-c", script, "sh", path], stdin=pipe, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            while piece := reader.stdout.read(_CHUNK) if reader.stdout else b"":
                digest.update(piece)
                size += len(piece)
                if writer.stdin:
                    writer.stdin.write(piece)
                if time.monotonic() - told > 0.5:
                    told = time.monotonic()
                    tell(bytes=size, total=total)
            if writer.stdin:
                writer.stdin.close()
        except BrokenPipeError:
            reader.kill()
        status = reader.wait()
        if writer.wait():
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()[-400:]
            code = "disk_full" if "No space left" in said else "backup_failed"
            raise MoveError(code, f"the backup can't be written to {path} on {target.name}: {said}")
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()[-400:]
    if status not in (0, _CHANGED):
        raise MoveError("backup_failed", f"the backup can't be read on {source.name} (exit {status}): {said}")
    there = target.run(["sha256sum", f"{path}.part"], timeout=_READING).out.split()[0]
    if there != digest.hexdigest():
        raise MoveError("backup_failed", f"{path} on {target.name} is not what was sent: its disk, or the link, is bad")
    target.run(["mv", "--", f"{path}.part", path])
    return {"bytes": size, "sha256": there}


def of_volume(volume: Volume) -> Step:
    """Return the step that backs a volume up as tar, and unpacks it once."""
    source, target = volume.move.source, volume.move.target
    where = _where(volume, f"{volume.part.key}-{volume.name}-")

    def do(tell: Tell) -> None:
        began = float(source.host.run(["date", "+%s"]).out) - 1
        live = volume.live_path(source)
        size = source.host.call(manifest, "size", path=live, timeout=600)
        path = where.new("tar")
        # Once for the archive, once for what is unpacked from it.
        require_room(target, size["bytes"] + size["allocated"], where.directory, "the backup and its proof")
        tar = ["tar", "-C", live, "--format=posix", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"]
        record = send(
            source.host, [*tar, "--sparse", "-cf", "-", "."], target.host, path, tell=tell, total=size["bytes"]
        )
        tell(text="the backup is unpacked once, for proof")
        where.prove(path, record | _unpacked(volume, path, began))

    title = f"back the volume {volume.name} up, and unpack the backup once"
    return Step(
        f"prepare.{volume.part.key}.backup-{volume.name}", title, target.name, where.proven, do, _READING, where.clear
    )


def _unpacked(volume: Volume, path: str, began: float) -> dict[str, Any]:
    """Unpack a backup, compare it with the source, and remove what was unpacked; returns what it held."""
    source, host = volume.move.source, volume.move.target.host
    live, scratch = volume.live_path(source), f"{path}.unpacked"
    try:
        host.run(["install", "-d", "-m", "700", scratch])
        options = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--same-permissions"]
        host.run(["tar", "-C", scratch, *options, "-xf", path], timeout=_READING)
        there = host.call(manifest, "summary", path=scratch, timeout=_READING)
        here = source.host.call(manifest, "summary", path=live, timeout=_READING)
        pairs = zip(here["buckets"], there["buckets"], strict=True)
        shares = [index for index, (mine, yours) in enumerate(pairs) if mine != yours]
        mine = source.host.call(manifest, "entries", timeout=_READING, path=live, buckets=shares, limit=100_000)
        yours = host.call(manifest, "entries", timeout=_READING, path=scratch, buckets=shares, limit=100_000)
        differing = sorted(name for name in {*mine, *yours} if mine.get(name) != yours.get(name))
        changed = source.host.call(manifest, "changed_since", path=live, names=differing, since=began, timeout=600)
        wrong = sorted({*differing} - {*changed})
        if wrong:
            raise MoveError("backup_differs", f"the backup {path} differs from its source in {', '.join(wrong[:5])}")
        return {"entries": there["entries"], "changed_meanwhile": len(changed)}
    finally:
        host.run(["rm", "-rf", "--", scratch], timeout=600)


def of_redis(servers: Servers) -> Step:
    """Return the step that backs a Redis up as a saved file, and loads it once in a container without a network."""
    volume = servers.volume
    source, target = servers.move.source, servers.move.target
    where = _where(volume, f"{servers.part.key}-")

    def do(tell: Tell) -> None:
        container = servers.service_container(source)
        explored = servers.explore_service(source)
        used = int(explored["info"]["used_memory"])
        scratch = f"{source.root}/evenkeel/{volume.name}/backup.rdb"
        require_room(source, used, scratch, "the backup of Redis on its way")
        require_room(target, 2 * used, where.directory, "the backup and its proof")
        arguments = {"container": container, "port": explored["port"], "password": explored["password"]}
        try:
            source.host.call(redis_server, "rdb", path=scratch, timeout=_READING, **arguments)
            path = where.new("rdb")
            record = send(source.host, ["cat", scratch], target.host, path, tell=tell, total=used)
        finally:
            source.host.run(["rm", "-f", "--", scratch])
        tell(text="the backup is loaded once, for proof")
        where.prove(path, record | _loaded(servers, path, where.container))

    title = f"back {servers.part.service} up, and load the backup once"
    return Step(f"prepare.{servers.part.key}.backup", title, target.name, where.proven, do, _READING, where.clear)


def _loaded(servers: Servers, path: str, container: str) -> dict[str, Any]:
    """Load a backup in a throwaway container on the target; returns how many keys it holds."""
    host, explored = servers.move.target.host, servers.explore_service(servers.move.source)
    program = explored["info"].get("executable", "").rpartition("/")[2] or "redis-server"
    modules = [word for each in explored["modules"] if each.get("path") for word in ("--loadmodule", each["path"])]
    image = servers.spec()["TaskTemplate"]["ContainerSpec"]["Image"]
    options = ["--network", "none", "--label", f"evenkeel.migration={servers.move.unit.name}", "--entrypoint", program]
    server = ["--dir", "/", "--dbfilename", "backup.rdb", "--save", "", "--appendonly", "no", *modules]
    host.run(["docker", "create", "--name", container, *options, "--user", "0:0", image, *server], timeout=600)
    try:
        host.run(["docker", "cp", path, f"{container}:/backup.rdb"], timeout=600)
        host.run(["docker", "start", container])
        seen: dict[str, str] = {}

        def loaded() -> bool:
            try:
                answer = host.call(
                    redis_server, "ask", container=container, port=6379, password=None, commands=[["INFO"]]
                )
            except MoveError as error:
                if error.code == "host_unreachable" or "does not run" in error.message:
                    raise
                return False
            seen.update(redis_server.parse_info(str(answer["replies"][0])))
            return seen.get("loading") == "0"

        wait_until(loaded, 600, "the backup to load")
        return {"keys": {name: keys for name, (keys, _expiring) in redis_state.keyspace(seen).items()}}
    finally:
        host.run(["docker", "rm", "-f", "-v", container], check=False)


def _where(volume: Volume, prefix: str) -> Target:
    move = volume.move
    directory = f"{move.options.backup_directory}/{move.unit.name}"
    return Target(move.target, directory, move_id(move), prefix, move.unit.name)

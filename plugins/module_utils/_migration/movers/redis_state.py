# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a Redis server, judged: plain data in, plain data out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Trap

#: From this version on writes alone can be paused, and the pause be lifted.
PAUSE_WRITES = (6, 2)
#: Before it a server connects to its primary from the address that it is bound to.
OWN_SOURCE_ADDRESS = (7, 0)
#: Where a server finds its data when it starts: what it runs with must be what it starts with.
_PLACES = ("appendonly", "dir", "dbfilename", "appendfilename", "appenddirname")
_OWN_FILES = re.compile(r"(^|/)(temp-[^/]*\.(rdb|aof)|[^/]*\.log)$")


def version(info: Mapping[str, str]) -> tuple[int, ...]:
    """Return the version of an INFO answer, for comparing."""
    return tuple(int(part) for part in re.findall(r"\d+", info["redis_version"])[:3])


def keyspace(info: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return for each database (`db0`) that holds any: keys, and how many of these expire."""
    found = {}
    for name, value in info.items():
        match = re.match(r"keys=(\d+),expires=(\d+)", value)
        if re.fullmatch(r"db\d+", name) and match:
            found[name] = (int(match[1]), int(match[2]))
    return found


def differences(
    before: Mapping[str, Sequence[int]], after: Mapping[str, Sequence[int]], *, taking_writes: bool = False
) -> list[str]:
    """Return what a copy's databases lack or have too much; keys that expire may have gone since.

    Shape of both as keyspace() returns it. `taking_writes`: others may have added keys meanwhile.
    """
    wrong = []
    for name in sorted({*before, *after}):
        keys, expiring = before.get(name, (0, 0))
        now, still = after.get(name, (0, 0))
        more = now - still > keys - expiring or still > expiring
        if now - still < keys - expiring or (more and not taking_writes):
            wrong.append(f"{name} had {keys} keys ({expiring} of them expire) and has {now} ({still})")
    return wrong


def lost_at_load(before: Mapping[str, Sequence[int]], info: Mapping[str, str]) -> list[str] | None:
    """Return what a server that loaded a saved file lacks of the keys of before; None where it can't say (before 7.0).

    Other than its databases, this does not change when clients write or take jobs from queues.
    """
    counts = [info.get(f"rdb_last_load_keys_{what}") for what in ("loaded", "expired")]
    if None in counts:
        return None
    loaded = sum(int(str(count)) for count in counts)
    kept = sum(keys - expiring for keys, expiring in before.values())
    return [f"it loaded {loaded} keys, and {kept} that don't expire were saved"] if loaded < kept else []


def words(*values: Any) -> str:
    """Return a line of a server's configuration, each value quoted as it reads them."""
    return " ".join(_quoted(str(value)) for value in values)


def _quoted(value: str) -> str:
    if re.fullmatch(r"[\w./:*-]+", value):
        return value
    plain = re.fullmatch(r"[ -~]*", value)
    if plain:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return '"' + "".join(f"\\x{byte:02x}" for byte in value.encode()) + '"'


def companion_config(explored: Mapping[str, Any], *, primary: str, password: str | None, directory: str) -> str:
    """Return the whole configuration of a companion: a replica of `primary` that keeps its data in `directory`.

    It saves when it is told to, so that its end is quick; the append-only file is kept as the source keeps it. A
    restart reads the same file, so nothing ever makes it writable.
    """
    config, info = explored["config"], explored["info"]
    lines = [
        words("port", explored["port"]),
        words("protected-mode", "no"),
        words("dir", directory),
        words("databases", config.get("databases", "16")),
        words("dbfilename", config.get("dbfilename", "dump.rdb")),
        words("appendonly", config.get("appendonly", "no")),
        words("appendfilename", config.get("appendfilename", "appendonly.aof")),
        'save ""',
        words("replica-read-only", "yes"),
        words("replicaof", primary, explored["port"]),
    ]
    if "appenddirname" in config:
        lines.append(words("appenddirname", config["appenddirname"]))
    if version(info) >= OWN_SOURCE_ADDRESS:
        # Nobody but us, who come from inside its network namespace, can speak with it.
        lines.append(words("bind", "127.0.0.1"))
    if password is not None:
        lines += [words("masterauth", password), words("requirepass", password)]
    lines += [
        words("loadmodule", each["path"], *(each.get("args") or [])) for each in explored["modules"] if each.get("path")
    ]
    return "\n".join(lines) + "\n"


def volume_of(directory: str, volumes: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the named volume that a directory of the container lies in, and the path below it; None if in none."""
    for volume, mounted in sorted(volumes.items(), key=lambda item: -len(item[1])):
        if directory == mounted or directory.startswith(mounted.rstrip("/") + "/"):
            return volume, directory[len(mounted.rstrip("/")) :].strip("/")
    return None


def below(directory: str, volumes: Mapping[str, str]) -> str:
    """Return the path of a directory below the volume that it lies in, "" where it is the volume itself."""
    return (volume_of(directory, volumes) or ("", ""))[1]


def rdb_file(config: Mapping[str, str], volumes: Mapping[str, str]) -> str:
    """Return the path of the saved file below the volume that it lies in."""
    return "/".join(part for part in (below(config["dir"], volumes), config["dbfilename"]) if part)


def bytes_on_disk(explored: Mapping[str, Any]) -> int:
    """Return the size of all files in the server's directory."""
    return sum(explored["files"].values())


def foreign_files(explored: Mapping[str, Any]) -> list[str]:
    """Return the files in the server's directory that replication does not bring along."""
    config = explored["config"]
    rdb, aof = config.get("dbfilename", "dump.rdb"), config.get("appendfilename", "appendonly.aof")
    folder = config.get("appenddirname")
    return sorted(
        name
        for name in explored["files"]
        if name not in (rdb, aof) and not _OWN_FILES.search(name) and not (folder and name.startswith(folder + "/"))
    )


def written(info: Mapping[str, str]) -> bool:
    """Whether an append-only file has everything that the server has, and nothing is under way with it."""
    busy = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "aof_buffer_length")
    fine = ("aof_last_write_status", "aof_last_bgrewrite_status")
    idle = all(info.get(name, "0") == "0" for name in busy)
    return idle and info.get("aof_enabled") == "1" and all(info.get(name, "ok") == "ok" for name in fine)


def traps(
    explored: Mapping[str, Any], volumes: Mapping[str, str], *, limit: int | None, password_env: str | None
) -> list[Trap]:
    """Return what would hurt a move of that server. `limit`: bytes of memory on the target, None without."""
    if explored["info"] is None:
        where = (
            f"the variable {password_env} of its container"
            if password_env
            else "its command line, configuration or environment"
        )
        text = f"the server wants a password, and none that stands in {where} is right"
        return [
            Trap("password_unknown", text, "name the variable that holds it: password_env of the member", refuses=True)
        ]
    if explored["config"] is None:
        text = "the server does not answer CONFIG GET"
        return [Trap("config_refused", text, "let the default user run CONFIG for the time of the move", refuses=True)]
    return [
        *_of_kind(explored),
        *_of_pause(explored["info"]),
        *_of_place(explored, volumes),
        *_of_persistence(explored),
        *_of_memory(explored, limit),
    ]


def _of_kind(explored: Mapping[str, Any]) -> list[Trap]:
    info = explored["info"]
    found = []
    if info.get("role") != "master":
        text = f"the server is a replica (of {info.get('master_host')})"
        found.append(
            Trap("not_primary", text, "move the primary; a replica is made anew where it is wanted", refuses=True)
        )
    if info.get("redis_mode", "standalone") != "standalone":
        text = f"the server runs as {info['redis_mode']}"
        found.append(Trap("not_standalone", text, "only standalone servers are moved", refuses=True))
    if int(info.get("connected_slaves", "0")):
        text = f"{info['connected_slaves']} replicas of others follow the server"
        found.append(Trap("other_replicas", text, "they follow the name, and copy everything anew after the switch"))
    # An empty path: it is part of the server's own program, as vectorset is of Redis 8.
    unknown = [each["name"] for each in explored["modules"] if each.get("path") is None]
    if unknown:
        text = f"modules are loaded, and the server does not say from where: {', '.join(map(str, unknown))}"
        found.append(Trap("modules", text, "the companion could not read their data", refuses=True))
    return found


def _of_pause(info: Mapping[str, str]) -> list[Trap]:
    if version(info) >= PAUSE_WRITES:
        return []
    text = f"Redis {info['redis_version']} can only be paused whole, reads as well, and the pause can't be lifted"
    remedy = "given back before its stop, it answers again when the pause ends, a minute after the deadline"
    return [Trap("whole_pause", text, remedy)]


def _of_place(explored: Mapping[str, Any], volumes: Mapping[str, str]) -> list[Trap]:
    config = explored["config"]
    found = []
    if volume_of(config["dir"], volumes) is None:
        text = f"the data directory {config['dir']} is in no named volume: a stop loses it"
        found.append(Trap("data_outside_volume", text, "set `dir` to a path in a named volume", refuses=True))
    elif len(volumes) > 1:
        text = f"the server has more than one volume: {', '.join(sorted(volumes))}"
        found.append(
            Trap("more_volumes", text, "only the one with its data is moved: take the others off", refuses=True)
        )
    others = foreign_files(explored)
    if others:
        text = f"the data directory holds files that replication does not bring along: {', '.join(others[:5])}"
        found.append(Trap("foreign_files", text, "put them elsewhere, or remove them", refuses=True))
    for name in _PLACES:
        starts = explored["startup"].get(name)
        if starts and starts[-1] and name in config and starts[-1][0].rstrip("/") != config[name].rstrip("/"):
            text = f"{name} is {config[name]!r} now, and {starts[-1][0]!r} from the next start on"
            found.append(Trap("changed_at_run_time", text, "set it where the server starts from, too", refuses=True))
    return found


def _of_persistence(explored: Mapping[str, Any]) -> list[Trap]:
    found = []
    remedy = "the move pauses writes, replicates them all and saves on both sides before the stop: nothing is lost"
    if explored["shell"]:
        text = f"{explored['shell']} stands between the engine and the server and swallows the signal to stop"
        found.append(Trap("shell_swallows_stop", text, remedy))
    if explored["config"].get("save", "") == "" and explored["config"].get("appendonly") != "yes":
        found.append(Trap("not_persistent", "the server keeps nothing on disk by itself", remedy))
    if int(explored["config"].get("min-replicas-to-write") or explored["config"].get("min-slaves-to-write") or 0):
        text = "the server takes writes only while it has replicas"
        found.append(Trap("min_replicas", text, "set min-replicas-to-write to 0 before the move", refuses=True))
    return found


def _of_memory(explored: Mapping[str, Any], limit: int | None) -> list[Trap]:
    used = int(explored["info"]["used_memory"])
    most = int(explored["config"].get("maxmemory") or 0)
    policy = explored["config"].get("maxmemory-policy", "noeviction")
    found = []
    if limit is not None and used > limit:
        text = f"the data take {used} bytes of memory, and the limit on the target is {limit}"
        found.append(Trap("memory_limit", text, "raise the member's limit", refuses=True))
    elif limit is not None and most > limit:
        text = f"maxmemory is {most}, and the limit on the target is {limit}: the kernel would kill before Redis evicts"
        found.append(Trap("maxmemory_over_limit", text, "the data fit today; raise the limit or lower maxmemory"))
    if most and policy != "noeviction":
        text = f"the server evicts ({policy}) from {most} bytes on"
        found.append(
            Trap("evicts", text, "evicted keys are evicted on both sides; the companion evicts nothing itself")
        )
    return found

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find a container's cgroup and read its counters: cgroup v1, v2 and hybrid, cgroupfs and systemd drivers.

Everything that parses takes bytes and returns plain values; everything that reads returns None for a file that is
missing or unreadable. None always means "not measured" (or, for a limit, "no limit": see the fields), never 0.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Number = TypeVar("Number", int, float)

DEFAULT_CGROUP_ROOT = "/sys/fs/cgroup"

# "docker/<id>" (cgroupfs driver) or "docker-<id>.scope" (systemd driver), anywhere in the tree.
_CONTAINER_DIRECTORY = re.compile(r"(?:docker-)?([0-9a-f]{64})(\.scope)?")
# Where an engine with default settings puts its containers; other parents are searched for.
_USUAL_PARENTS = ("docker", "system.slice")
_SEARCH_DEPTH = 8
# v1 writes "no limit" as the largest page-aligned signed 64 bit number, which differs with the page size.
_V1_NO_MEMORY_LIMIT = 1 << 60
_READ_SIZE = 65536
# A read far below a page was the last: most files take a single one.
_SURELY_ALL = 2048


@dataclass(frozen=True)
class Hierarchy:
    """Where the controllers are: `version` is v1, v2 or hybrid, `controllers` maps a name to its mount point.

    `unified` is the v2 tree, or None on a pure v1 host. On hybrid hosts it holds no controllers, only PSI files.
    """

    version: str
    controllers: dict[str, str]
    unified: str | None

    def directory(self, controller: str, path: str) -> str | None:
        """Return the directory of the cgroup `path` under a controller, None where that is not mounted."""
        mount = self.unified if self.version == "v2" else self.controllers.get(controller)
        return None if mount is None else f"{mount}/{path}" if path else mount


@dataclass(frozen=True)
class Limit:
    """A CPU limit: `cores` None means unlimited; `period` is the enforcement period in seconds."""

    cores: float | None
    period: float


@dataclass(frozen=True)
class Pressure:
    """One line of a PSI file: the kernel's averages in percent and the stalled time so far in seconds."""

    avg10: float
    avg60: float
    avg300: float
    total: float


@dataclass(frozen=True)
class CpuStat:
    """Counters of cpu.stat since the cgroup was made; times in seconds. Bursts need kernel 5.14."""

    periods: int | None
    throttled_periods: int | None
    throttled_seconds: float | None
    bursts: int | None
    burst_seconds: float | None
    usage_seconds: float | None


@dataclass(frozen=True)
class CpuReading:
    """One look at a cgroup's CPU counters. `at` is monotonic seconds, `inode` tells one life of a cgroup from the next.

    `limit` None means that the limit could not be read; unlimited is a Limit whose cores are None.
    """

    at: float
    inode: int
    usage_seconds: float | None
    stat: CpuStat
    limit: Limit | None
    pressure: dict[str, Pressure] | None


@dataclass(frozen=True)
class MemoryReading:
    """Bytes; `limit` None means no limit or not readable, `peak` needs kernel 5.19 on v2."""

    current: int | None
    working_set: int | None
    limit: int | None
    peak: int | None
    oom_kills: int | None


def read_bytes(path: str) -> bytes | None:
    """Return a small kernel file's content, None where it is missing or unreadable (also: gone while reading)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        content = more = os.read(descriptor, _READ_SIZE)
        # Lists come a page at a time, cut at a whole line, however much is asked for.
        while len(more) > _SURELY_ALL:
            more = os.read(descriptor, _READ_SIZE)
            content += more
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return content


def parse_flat(content: bytes | None) -> dict[bytes, int]:
    """Parse "name value" lines (cpu.stat, memory.stat, memory.events); lines of another shape are left out."""
    values: dict[bytes, int] = {}
    for line in (content or b"").splitlines():
        name, _, value = line.partition(b" ")
        if value.isdigit():
            values[name] = int(value)
    return values


def parse_number(content: bytes | None) -> int | None:
    """Parse a file of one non-negative number; "max", "-1" and anything else are None."""
    text = (content or b"").strip()
    return int(text) if text.isdigit() else None


def parse_cpu_stat_v1(content: bytes | None) -> CpuStat:
    """Parse v1's cpu.stat; its times are nanoseconds and it has no usage."""
    values = parse_flat(content)
    return CpuStat(
        periods=values.get(b"nr_periods"),
        throttled_periods=values.get(b"nr_throttled"),
        throttled_seconds=_scaled(values.get(b"throttled_time"), 1e-9),
        bursts=values.get(b"nr_bursts"),
        burst_seconds=_scaled(values.get(b"burst_time"), 1e-9),
        usage_seconds=None,
    )


def parse_cpu_stat_v2(content: bytes | None) -> CpuStat:
    """Parse v2's cpu.stat; its times are microseconds."""
    values = parse_flat(content)
    return CpuStat(
        periods=values.get(b"nr_periods"),
        throttled_periods=values.get(b"nr_throttled"),
        throttled_seconds=_scaled(values.get(b"throttled_usec"), 1e-6),
        bursts=values.get(b"nr_bursts"),
        burst_seconds=_scaled(values.get(b"burst_usec"), 1e-6),
        usage_seconds=_scaled(values.get(b"usage_usec"), 1e-6),
    )


def parse_quota_v1(quota: bytes | None, period: bytes | None) -> Limit | None:
    """Parse cpu.cfs_quota_us (-1: unlimited) and cpu.cfs_period_us."""
    length = parse_number(period)
    if not length or quota is None:
        return None
    if quota.strip() == b"-1":
        return Limit(None, length / 1e6)
    allowed = parse_number(quota)
    return None if allowed is None else Limit(allowed / length, length / 1e6)


def parse_cpu_max(content: bytes | None) -> Limit | None:
    """Parse v2's cpu.max: "<quota or max> <period>", both in microseconds."""
    quota, _, period = (content or b"").strip().partition(b" ")
    return parse_quota_v1(b"-1" if quota == b"max" else quota, period)


def parse_pressure(content: bytes | None) -> dict[str, Pressure] | None:
    """Parse a PSI file to {"some": Pressure, "full": Pressure}; None where PSI is off; cpu has "full" since 5.13."""
    lines: dict[str, Pressure] = {}
    for line in (content or b"").decode("ascii", "replace").splitlines():
        kind, _, fields = line.partition(" ")
        values = dict(field.split("=", 1) for field in fields.split() if "=" in field)
        try:
            avg10, avg60, avg300 = (float(values[name]) for name in ("avg10", "avg60", "avg300"))
            lines[kind] = Pressure(avg10, avg60, avg300, int(values["total"]) / 1e6)
        except (KeyError, ValueError):
            continue
    return lines or None


def parse_cpu_list(content: bytes | None) -> int | None:
    """Count the CPUs in a list such as "0-3,8"; None for an empty list and for anything else."""
    count = 0
    for part in (content or b"").strip().split(b","):
        first, _, last = part.partition(b"-")
        if not first.isdigit() or not (last or first).isdigit():
            return None
        count += int(last or first) - int(first) + 1
    return count


def delta(before: Number | None, after: Number | None) -> Number | None:
    """Return how far a counter went, None if it is unknown at an end or went backwards (was reset)."""
    if before is None or after is None or after < before:
        return None
    return after - before


def pressure_shares(
    first: dict[str, Pressure] | None, last: dict[str, Pressure] | None, window: float | None
) -> dict[str, dict[str, float | None]] | None:
    """Return {"some": {share, avg10, avg60, avg300}, "full": ...}: the share of the window and the kernel's percent."""
    if last is None:
        return None
    result: dict[str, dict[str, float | None]] = {}
    for kind, line in last.items():
        before = first.get(kind) if first else None
        stalled = delta(before.total, line.total) if before else None
        share = None if stalled is None or not window else min(1.0, stalled / window)
        result[kind] = {"share": share, "avg10": line.avg10, "avg60": line.avg60, "avg300": line.avg300}
    return result


def working_set(current: int | None, inactive_file: int | None) -> int | None:
    """Memory that can't simply be dropped: usage without inactive page cache (the kubelet's and cAdvisor's formula)."""
    if current is None or inactive_file is None:
        return None
    return max(0, current - inactive_file)


def hierarchy(cgroup_root: str = DEFAULT_CGROUP_ROOT) -> Hierarchy:
    """Find the mounted controllers under `cgroup_root`.

    v1 names a mount after its controllers, alone ("cpu") or together ("cpu,cpuacct"); v2 has cgroup.controllers in
    its root; a hybrid host has v1 controllers and a v2 tree named "unified".
    """
    root = cgroup_root.rstrip("/")
    if os.access(f"{root}/cgroup.controllers", os.R_OK):
        return Hierarchy("v2", {}, root)
    controllers: dict[str, str] = {}
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.is_dir():
                    controllers.update(dict.fromkeys(entry.name.split(","), entry.path))
    except OSError as error:
        raise FileNotFoundError(f"no cgroup hierarchy at {cgroup_root}: {error.strerror}") from error
    unified = controllers.pop("unified", None)
    if "cpu" not in controllers:
        raise FileNotFoundError(f"no cgroup hierarchy at {cgroup_root}: neither cgroup.controllers nor cpu is there")
    return Hierarchy("hybrid" if unified else "v1", controllers, unified)


def container_paths(tree: Hierarchy, wanted: Iterable[str] | None = None, controller: str = "cpu") -> dict[str, str]:
    """Map container ids to their cgroup's path below the controllers' mount points.

    Looks where Docker puts containers by default, then, only for ids still missing, through the whole tree
    (another cgroup parent, rootless, nested engines). Without `wanted` the whole tree is searched.
    """
    root = tree.directory(controller, "")
    if root is None:
        return {}
    if wanted is None:
        return dict(_search(root, "", _SEARCH_DEPTH))
    missing = set(wanted)
    found: dict[str, str] = {}
    # Both searches are generators: the second one reads nothing unless something is still missing.
    for container, path in itertools.chain(_usual_places(root), _search(root, "", _SEARCH_DEPTH)):
        if container in missing:
            found[container] = path
            missing.discard(container)
        if not missing:
            break
    return found


def driver_of(path: str) -> str:
    """Return the cgroup driver that made a container's cgroup: systemd or cgroupfs."""
    return "systemd" if path.endswith(".scope") else "cgroupfs"


def read_cpu(tree: Hierarchy, path: str) -> CpuReading | None:
    """Read a cgroup's CPU counters, None if the cgroup does not exist."""
    cpu = tree.directory("cpu", path)
    if cpu is None:
        return None
    try:
        inode = os.stat(cpu).st_ino  # noqa: PTH116 - a Path object costs more than the call
    except OSError:
        return None
    at = time.monotonic()
    if tree.version == "v2":
        stat = parse_cpu_stat_v2(read_bytes(f"{cpu}/cpu.stat"))
        usage = stat.usage_seconds
    else:
        accounting = tree.directory("cpuacct", path)
        usage = _scaled(parse_number(read_bytes(f"{accounting}/cpuacct.usage")), 1e-9)
        stat = parse_cpu_stat_v1(read_bytes(f"{cpu}/cpu.stat"))
    pressure = parse_pressure(read_bytes(f"{tree.unified}/{path}/cpu.pressure")) if tree.unified else None
    return CpuReading(at, inode, usage, stat, read_limit(tree, path), pressure)


def read_limit(tree: Hierarchy, path: str) -> Limit | None:
    """Read a cgroup's CPU limit, None if it can't be read; a Limit without cores is "unlimited"."""
    cpu = tree.directory("cpu", path)
    if tree.version == "v2":
        return parse_cpu_max(read_bytes(f"{cpu}/cpu.max"))
    return parse_quota_v1(read_bytes(f"{cpu}/cpu.cfs_quota_us"), read_bytes(f"{cpu}/cpu.cfs_period_us"))


def cores_used(first: CpuReading | None, last: CpuReading | None) -> float | None:
    """Return the cores used between two readings, None if one is missing or the counter was reset."""
    if first is None or last is None or last.at <= first.at:
        return None
    used = delta(first.usage_seconds, last.usage_seconds)
    return None if used is None else used / (last.at - first.at)


def read_memory(tree: Hierarchy, path: str) -> MemoryReading:
    """Read a cgroup's memory: usage, working set, limit, peak and the number of OOM kills so far."""
    directory = tree.directory("memory", path)
    if directory is None:
        return MemoryReading(None, None, None, None, None)
    if tree.version == "v2":
        names = ("memory.current", "memory.max", "memory.peak", "memory.events")
        inactive = b"inactive_file"
    else:
        names = ("memory.usage_in_bytes", "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control")
        inactive = b"total_inactive_file"
    current, limit, peak = (parse_number(read_bytes(f"{directory}/{name}")) for name in names[:3])
    return MemoryReading(
        current=current,
        working_set=working_set(current, parse_flat(read_bytes(f"{directory}/memory.stat")).get(inactive)),
        limit=None if limit is None or limit >= _V1_NO_MEMORY_LIMIT else limit,
        peak=peak,
        oom_kills=parse_flat(read_bytes(f"{directory}/{names[3]}")).get(b"oom_kill"),
    )


def read_pids(tree: Hierarchy, path: str) -> int | None:
    """Return the number of processes and threads the pids controller counts."""
    directory = tree.directory("pids", path)
    return None if directory is None else parse_number(read_bytes(f"{directory}/pids.current"))


def process_ids(tree: Hierarchy, path: str) -> list[bytes] | None:
    """List the processes of a cgroup and of those below it, as thread_ids does."""
    directory = tree.directory("cpu", path)
    return None if directory is None else _member_ids(directory, "cgroup.procs")


def read_cpu_count(tree: Hierarchy, path: str) -> int | None:
    """Return how many CPUs a cgroup's cpuset lets it run on, None where no cpuset says so."""
    directory = tree.directory("cpuset", path)
    file = "cpuset.cpus.effective" if tree.version == "v2" else "cpuset.effective_cpus"
    return None if directory is None else parse_cpu_list(read_bytes(f"{directory}/{file}"))


def thread_ids(tree: Hierarchy, path: str) -> list[bytes] | None:
    """List the threads of a cgroup and of those below it, None if it is gone. Ids stay bytes: they become paths."""
    directory = tree.directory("cpu", path)
    if directory is None:
        return None
    return _member_ids(directory, "cgroup.threads" if tree.version == "v2" else "tasks")


def working_sets(cgroup_root: str = DEFAULT_CGROUP_ROOT) -> dict[str, int]:
    """Map the id of every container on this host to its working set in bytes; unreadable ones are left out."""
    tree = hierarchy(cgroup_root)
    readings = {
        container: read_memory(tree, path).working_set
        for container, path in container_paths(tree, controller="memory").items()
    }
    return {container: size for container, size in readings.items() if size is not None}


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _usual_places(root: str) -> Iterator[tuple[str, str]]:
    for parent in _USUAL_PARENTS:
        yield from _search(f"{root}/{parent}", parent, 1)


def _search(directory: str, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """Yield (container id, path) for the containers in `directory` and, breadth last, `depth` levels deep."""
    try:
        with os.scandir(directory) as entries:
            children = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for name in children:
        below = f"{path}/{name}" if path else name
        match = _CONTAINER_DIRECTORY.fullmatch(name)
        if match:
            yield match.group(1), below
        if depth > 1:
            yield from _search(f"{directory}/{name}", below, depth - 1)


def _member_ids(directory: str, file: str) -> list[bytes] | None:
    content = read_bytes(f"{directory}/{file}")
    if content is None:
        return None
    members = content.split()
    try:
        # A directory has two links and one more for each directory in it: most containers have none.
        if os.stat(directory).st_nlink > 2:  # noqa: PTH116 - as above
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        members += _member_ids(entry.path, file) or []
    except OSError:
        return None
    return members

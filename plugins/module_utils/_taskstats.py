# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run time and run delay of whole processes, ended threads included, from the kernel's taskstats (generic netlink).

A walk over /proc sees the threads that exist at the moment. The kernel also keeps, for each living process, what its
ended threads did; taskstats by thread group gives both in one sum. It needs CAP_NET_ADMIN (in the machine's own user
namespace, and on some kernels in its own network namespace), and works with kernel.task_delayacct=0.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from ansible_collections.evenkeel.swarm.plugins.module_utils._cgroup import read_bytes
from ansible_collections.evenkeel.swarm.plugins.module_utils._schedstat import Schedstat, read_threads

AUTO, TASKSTATS, SCHEDSTAT = "auto", "taskstats", "schedstat"
CHOICES = (AUTO, TASKSTATS, SCHEDSTAT)

# include/uapi/linux/{netlink,genetlink,taskstats}.h
_NETLINK_GENERIC = 16
_NLMSG_ERROR = 2
_NLM_F_REQUEST = 1
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
_CMD_GET, _ATTR_PID, _ATTR_TGID = 1, 1, 2
_TYPE_STATS, _TYPE_AGGREGATES = 3, (4, 5)
_ATTRIBUTE_TYPE = 0x3FFF  # the upper two bits are flags
_MESSAGE = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_GENERIC = struct.Struct("=BBH")  # command, version, reserved
_ATTRIBUTE = struct.Struct("=HH")  # length, type

# struct taskstats begins with version (u16); cpu_count and cpu_delay_total have been at 16 and 24 ever since. Fields
# go to the struct's end, but in version 15 (Linux 6.14) some came before the run time; 16 put that right.
_COUNT_AT, _DELAY_AT = 16, 24
_RUN_AT = (72,)
_RUN_AT_BY_VERSION = {15: (120, 96)}
_U64 = struct.Struct("=Q")

_TIMEOUT = 2.0
_RECEIVE_SIZE = 16384


class TaskstatsUnavailableError(Exception):
    """Taskstats can't be used here; the message says why, as the end of a sentence."""


# Sends one request (message type, payload) and returns the payload of its answer; raises OSError with the kernel's
# errno if that refuses, ValueError for an answer that makes no sense.
Exchange = Callable[[int, bytes], bytes]


# --- parsing: bytes in, plain values out -----------------------------------------------------------------------


def attribute(kind: int, value: bytes) -> bytes:
    """Return one netlink attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, value) of the attributes in `content`; raises ValueError if one does not fit in."""
    at = 0
    while at + _ATTRIBUTE.size <= len(content):
        length, kind = _ATTRIBUTE.unpack_from(content, at)
        if length < _ATTRIBUTE.size or at + length > len(content):
            raise ValueError("a netlink attribute is longer than its message")
        yield kind & _ATTRIBUTE_TYPE, content[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4


def answer_to(content: bytes, sequence: int) -> bytes | None:
    """Return the payload of the message in `content` that answers request `sequence`, None if there is none.

    Raises OSError with the kernel's errno for its refusal, ValueError for a message that was cut off.
    """
    at = 0
    while at < len(content):
        if len(content) - at < _MESSAGE.size:
            raise ValueError("a netlink message was cut off")
        length, kind, _, number, _ = _MESSAGE.unpack_from(content, at)
        if length < _MESSAGE.size or at + length > len(content):
            raise ValueError("a netlink message was cut off")
        payload = content[at + _MESSAGE.size : at + length]
        if number == sequence:
            if kind == _NLMSG_ERROR:
                raise _refusal(payload)
            return payload
        at += length + -length % 4
    return None


def parse_family(payload: bytes) -> int:
    """Return the id in the controller's answer about a family; raises ValueError if there is none."""
    for kind, value in attributes(payload[_GENERIC.size :]):
        if kind == _CTRL_ATTR_FAMILY_ID and len(value) == 2:
            return int.from_bytes(value, "little" if struct.pack("=H", 1)[0] else "big")
    raise ValueError("the answer about the family TASKSTATS has no id")


def parse_stats(payload: bytes) -> bytes:
    """Return the struct taskstats in an answer; raises ValueError if there is none."""
    for kind, value in attributes(payload[_GENERIC.size :]):
        if kind in _TYPE_AGGREGATES:
            for inner, stats in attributes(value):
                if inner == _TYPE_STATS:
                    return stats
    raise ValueError("the answer holds no statistics")


def run_offsets(stats: bytes) -> tuple[int, ...]:
    """Return where cpu_run_virtual_total may be in this version of the struct, the likeliest first."""
    return _RUN_AT_BY_VERSION.get(int(struct.unpack_from("=H", stats)[0]), _RUN_AT)


def parse_times(stats: bytes, run_at: int) -> Schedstat:
    """Return (run ns, delay ns, times on a CPU), as schedstat has them; raises ValueError if the struct is too short.

    The run time is cpu_run_virtual_total: the scheduler's own sum, which cgroups and schedstat count too.
    cpu_run_real_total is made of the clock's ticks.
    """
    if len(stats) < run_at + _U64.size:
        raise ValueError(f"the kernel's taskstats are only {len(stats)} bytes")
    run, delay, count = (int(_U64.unpack_from(stats, at)[0]) for at in (run_at, _DELAY_AT, _COUNT_AT))
    return run, delay, count


def parse_start(content: bytes | None, ticks: int) -> float | None:
    """Return when a process began, in seconds since the machine did, from /proc/<pid>/stat; None if it is gone.

    The name in brackets may hold anything; after it, the start is the 20th field, in clock ticks.
    """
    fields = (content or b"").rpartition(b")")[2].split()
    return int(fields[19]) / ticks if len(fields) > 19 and fields[19].isdigit() else None


def _refusal(payload: bytes) -> OSError:
    number = -int(struct.unpack_from("=i", payload)[0]) if len(payload) >= 4 else errno.EPROTO
    return OSError(number, os.strerror(number))


# --- asking ----------------------------------------------------------------------------------------------------


class Channel:
    """A netlink socket as an Exchange: one request, its answer, nobody else's."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
        self._socket.settimeout(_TIMEOUT)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __call__(self, kind: int, payload: bytes) -> bytes:
        """Send a request and wait for the message with its number; late answers to earlier ones are dropped."""
        self._sequence += 1
        length = _MESSAGE.size + len(payload)
        self._socket.sendto(_MESSAGE.pack(length, kind, _NLM_F_REQUEST, self._sequence, 0) + payload, (0, 0))
        while True:
            content, sender = self._socket.recvfrom(_RECEIVE_SIZE)
            # Any process may send to this socket; port 0 is the kernel.
            answer = answer_to(content, self._sequence) if sender[0] == 0 else None
            if answer is not None:
                return answer

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Taskstats:
    """Asks for the sums of processes by their ids, as the caller's pid namespace has them."""

    def __init__(self, exchange: Exchange, family: int, run_at: int) -> None:
        self._exchange, self._family, self._run_at = exchange, family, run_at

    def processes(self, pids: Iterable[bytes]) -> dict[bytes, Schedstat] | None:
        """Return the sums of the processes that still exist, None if one exists but can't be asked for."""
        sums: dict[bytes, Schedstat] = {}
        for pid in pids:
            try:
                stats = parse_stats(_ask(self._exchange, self._family, _ATTR_TGID, int(pid)))
                sums[pid] = parse_times(stats, self._run_at)
            except ProcessLookupError:
                continue
            except (OSError, ValueError):
                return None
        return sums


def choose(accounting: str, proc_root: str) -> tuple[Taskstats | None, str]:
    """Return (Taskstats or None for schedstat alone, why). Raises TaskstatsUnavailableError if it must be and can't."""
    if accounting == SCHEDSTAT:
        return None, "schedstat alone was asked for: what ended threads did is not known"
    try:
        return connect(proc_root), "taskstats answer here: ended threads are counted too"
    except TaskstatsUnavailableError as error:
        if accounting == TASKSTATS:
            raise
        return None, f"{error}: what ended threads did is not known"


def connect(proc_root: str = "/proc") -> Taskstats:
    """Return a Taskstats that was checked against schedstat; raises TaskstatsUnavailableError with the reason."""
    if not _same_pids(proc_root):
        raise TaskstatsUnavailableError(f"{proc_root} does not show this process's own pid namespace")
    try:
        exchange = Channel()
    except OSError as error:
        raise TaskstatsUnavailableError(f"no netlink socket: {error.strerror}") from error
    try:
        return attach(exchange)
    except TaskstatsUnavailableError:
        exchange.close()
        raise


def attach(exchange: Exchange) -> Taskstats:
    """Find the family and check its numbers on the calling thread; raises TaskstatsUnavailableError."""
    try:
        name = attribute(_CTRL_ATTR_FAMILY_NAME, b"TASKSTATS\0")
        family = parse_family(exchange(_GENL_ID_CTRL, _GENERIC.pack(_CTRL_CMD_GETFAMILY, 1, 0) + name))
    except FileNotFoundError as error:
        raise TaskstatsUnavailableError("the network namespace or the kernel has no taskstats") from error
    except (OSError, ValueError) as error:
        raise TaskstatsUnavailableError(f"the kernel's netlink families can't be read: {error}") from error
    try:
        run_at = _checked_offset(exchange, family)
    except PermissionError as error:
        raise TaskstatsUnavailableError("taskstats need the capability CAP_NET_ADMIN") from error
    except (OSError, ValueError) as error:
        raise TaskstatsUnavailableError(f"taskstats can't be read: {error}") from error
    return Taskstats(exchange, family, run_at)


def _checked_offset(exchange: Exchange, family: int) -> int:
    """Return where the run time is, proved on the calling thread: schedstat before <= taskstats <= schedstat after."""
    thread = threading.get_native_id()
    before = _own_schedstat(thread)
    stats = parse_stats(_ask(exchange, family, _ATTR_PID, thread))
    after = _own_schedstat(thread)
    for offset in run_offsets(stats):
        now = parse_times(stats, offset)
        if all(low <= value <= high for low, value, high in zip(before, now, after, strict=True)):
            return offset
    raise ValueError(f"version {struct.unpack_from('=H', stats)[0]} contradicts schedstat")


def _own_schedstat(thread: int) -> Schedstat:
    name = b"%d" % thread
    stats = read_threads([name])
    if not stats:
        raise ValueError("schedstat can't be read")
    return stats[name]


def _ask(exchange: Exchange, family: int, by: int, number: int) -> bytes:
    payload = _GENERIC.pack(_CMD_GET, 1, 0) + attribute(by, struct.pack("=I", number))
    try:
        return exchange(family, payload)
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise
        # The kernel dropped an answer for want of memory: ask again, once.
        return exchange(family, payload)


def _same_pids(proc_root: str) -> bool:
    try:
        return os.readlink(f"{proc_root}/self") == str(os.getpid())  # noqa: PTH115 - a name, not a path
    except OSError:
        return False


# --- a window --------------------------------------------------------------------------------------------------


def born_since(pids: Iterable[bytes], at: float, proc_root: str) -> set[bytes]:
    """Return those of the processes that began after `at` (monotonic seconds); the others moved in."""
    since_boot = at + time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    ticks = os.sysconf("SC_CLK_TCK")
    starts = {pid: parse_start(read_bytes(f"{proc_root}/{os.fsdecode(pid)}/stat"), ticks) for pid in pids}
    # A start is rounded down to a tick.
    return {pid for pid, start in starts.items() if start is not None and start >= since_boot - 1 / ticks}


@dataclass
class _Process:
    first: Schedstat
    last: Schedstat


class ProcessWindow:
    """Collects looks at one cgroup's processes and sums up what they, with all their threads, did in the window.

    What a process did after its last look is lost (the estimator notices, as with threads).
    """

    def __init__(self) -> None:
        self._processes: dict[bytes, _Process] = {}
        self._ended: list[_Process] = []
        self._begun = False
        self.complete = True

    def newcomers(self, sums: Collection[bytes]) -> list[bytes]:
        """Return those of the processes that no look has seen; none at the first look, when all began before."""
        return [pid for pid in sums if pid not in self._processes] if self._begun else []

    def look(self, sums: dict[bytes, Schedstat] | None, born: Collection[bytes] = ()) -> None:
        """Add a look: sums as Taskstats.processes gives them (None spoils the window); `born` began since the last."""
        if sums is None:
            self.complete = False
            return
        processes: dict[bytes, _Process] = {}
        for pid, now in sums.items():
            process = self._processes.pop(pid, None)
            if process is not None and all(new >= old for new, old in zip(now, process.last, strict=True)):
                process.last = now
            elif process is not None:  # the id was given to a new process
                self._ended.append(process)
                process = _Process((0, 0, 0), now)
            else:
                process = _Process((0, 0, 0) if pid in born else now, now)
            processes[pid] = process
        self._ended += self._processes.values()
        self._processes = processes
        self._begun = True

    def totals(self) -> tuple[int, int] | None:
        """Return (run ns, delay ns) of all processes and threads in the window, None if a look failed or is missing."""
        if not self.complete or not self._begun:
            return None
        every = [*self._ended, *self._processes.values()]
        return (
            sum(process.last[0] - process.first[0] for process in every),
            sum(process.last[1] - process.first[1] for process in every),
        )

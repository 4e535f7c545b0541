# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every tunable once: name, type, unit, default, bounds, the seed's value, one line of help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from job_launcher.refused import Refused

#: Memory that the launcher keeps for itself when workers are counted by memory, bytes.
OWN_MEMORY = 256 * 2**20
WORKERS_PER_CPU = 2
#: A drain and the end of its workers must fit into the shortest stop grace of the service, seconds.
DRAIN_MARGIN, STOP_GRACE = 5, 60

Number = int | float


@dataclass(frozen=True)
class Info:
    """What people are told about a tunable; `seed` is the tuning note's value, None if it has none."""

    unit: str
    default: Number
    minimum: Number
    maximum: Number
    help: str
    seed: str | None
    whole: bool

    def to_json(self) -> dict[str, Any]:
        """Return what /api/config serves."""
        return {
            "unit": self.unit,
            "default": self.default,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "help": self.help,
        }


def _tunable(
    default: Number, unit: str, minimum: Number, maximum: Number, help_: str, *, seed: str | None = None
) -> Any:  # what field() returns stands for the default of any type
    info = Info(unit, default, minimum, maximum, help_, seed, isinstance(default, int))
    return field(default=default, metadata={"info": info})


@dataclass(frozen=True)
class Tunables:
    """All tunables, each within its bounds: `load` makes it. Whole numbers are int, the others float."""

    max_parallel_limit: int = _tunable(
        8,
        "workers",
        1,
        256,
        "Most workers at once over all runs; the effective limit is also bounded by CPU and memory.",
        seed="8, 2 per core",
    )
    max_parallel: int = _tunable(4, "workers", 1, 256, "Workers of a run that names no number; at most the limit.")
    worker_memory: int = _tunable(
        250, "MB", 1, 1048576, "Memory a worker is expected to need; the effective limit counts by it.", seed="150-250"
    )
    worker_start_stagger: float = _tunable(
        1.5,
        "s",
        0,
        60,
        "Time between two starts while the number of workers grows; who takes the place of an ended worker starts at "
        "once.",
        seed="2 -> 1.5",
    )
    status_report_wait: float = _tunable(
        1.5,
        "s",
        0,
        60,
        "Longest wait for output and reports after a worker has ended; it ends as soon as all are in.",
        seed="2 -> 1.5",
    )
    number_queue_interval: float = _tunable(
        15.0,
        "s",
        1,
        300,
        "Longest sleep of the number queue while a number waits; it wakes at the next deadline, and an empty queue "
        "sleeps on.",
        seed="10 -> 15",
    )
    number_min_hold: float = _tunable(120.0, "s", 0, 86400, "A number is released no sooner after it was acquired.")
    number_release_timeout: float = _tunable(30.0, "s", 1, 600, "Time that a release hook has.")
    number_release_attempts: int = _tunable(8, "attempts", 1, 100, "Failed releases after which a number is dead.")
    number_retry_backoff: float = _tunable(
        5.0, "s", 0.1, 3600, "Wait after the first failed release; it doubles with each one up to an hour."
    )
    no_numbers_pause: float = _tunable(
        60.0,
        "s",
        1,
        3600,
        "Pause of templates that need numbers after a worker found none; a released number ends it sooner.",
    )
    log_buffer_lines: int = _tunable(
        5,
        "lines",
        1,
        100000,
        "So many waiting lines are written at once if the last write is log_flush_interval ago; fewer wait for the "
        "timer.",
        seed="5",
    )
    log_flush_interval: float = _tunable(
        0.5,
        "s",
        0.02,
        60,
        "Least time between two log writes of the whole launcher, and longest time that a line waits.",
        seed="0.5",
    )
    log_file_buffer: int = _tunable(
        8192,
        "bytes",
        512,
        1048576,
        "So many waiting bytes are written at once, as log_buffer_lines says, however few the lines.",
        seed="8192",
    )
    log_memory: int = _tunable(
        8388608, "bytes", 262144, 1073741824, "Unwritten log in memory at which workers' output is no longer read."
    )
    log_segment_size: int = _tunable(8388608, "bytes", 65536, 1073741824, "A segment file of this size is closed.")
    log_line_cap: int = _tunable(65536, "bytes", 256, 1048576, "A longer line is kept in pieces of this size.")
    log_retention_days: float = _tunable(30.0, "days", 0.01, 3650, "Closed segments older than this are removed.")
    log_retention_size: int = _tunable(
        2147483648, "bytes", 1048576, 2**46, "Log on disk above which the oldest closed segments are removed."
    )
    log_stall_timeout: float = _tunable(
        30.0, "s", 1, 3600, "Runs fail with a clear message once their log couldn't be written for so long."
    )
    disk_reserve: int = _tunable(
        4194304,
        "bytes",
        65536,
        1073741824,
        "Kept on the data volume by a file, and given to the database when the disk is full.",
    )
    socketio_max_http_buffer_size: int = _tunable(
        1000000, "bytes", 1024, 104857600, "Largest message that a client may send.", seed="1e6"
    )
    socketio_ping_timeout: float = _tunable(60.0, "s", 1, 600, "A client silent for so long is cut off.", seed="60")
    socketio_ping_interval: float = _tunable(25.0, "s", 1, 600, "Time between two pings of a client.", seed="25")
    status_poll_interval: int = _tunable(
        3000, "ms", 250, 600000, "Status polling by the browser, only while the socket is down.", seed="2 -> 3 s"
    )
    log_poll_interval: int = _tunable(
        3000, "ms", 250, 600000, "Log polling by the browser, only while the socket is down.", seed="2 -> 3 s"
    )
    log_push_interval: int = _tunable(150, "ms", 20, 1000, "Log is gathered for so long before it is pushed.")
    client_buffer: int = _tunable(
        262144, "bytes", 16384, 67108864, "A client further behind than this is told to pull the log itself."
    )
    run_max_units: int = _tunable(10000, "units", 1, 1000000, "Most units of one run.")
    unit_timeout: float = _tunable(3600.0, "s", 1, 2592000, "A unit running longer is ended.")
    unit_idle_timeout: float = _tunable(
        0.0, "s", 0, 2592000, "A unit that prints and reports nothing for so long is ended; 0 = never."
    )
    unit_retries: int = _tunable(0, "retries", 0, 100, "Times that a failed unit is tried again.")
    term_grace: float = _tunable(5.0, "s", 0, 300, "Time between SIGTERM and SIGKILL.")
    drain_timeout: float = _tunable(
        45.0, "s", 0, STOP_GRACE - DRAIN_MARGIN, "Time that running units have when the launcher is told to stop."
    )
    report_max_size: int = _tunable(65536, "bytes", 256, 1048576, "A worker's longest report; longer ones are ignored.")
    report_max_count: int = _tunable(1000, "reports", 1, 1000000, "Reports taken from one worker; more are ignored.")
    worker_open_files: int = _tunable(1024, "files", 16, 1048576, "Open files of a worker's process (RLIMIT_NOFILE).")
    worker_address_space: int = _tunable(
        0, "MB", 0, 1048576, "Address space of a worker's process (RLIMIT_AS); 0 = not limited."
    )
    worker_cpu_time: int = _tunable(0, "s", 0, 2592000, "CPU time of a worker's process (RLIMIT_CPU); 0 = not limited.")
    worker_file_size: int = _tunable(
        0, "MB", 0, 1048576, "Largest file that a worker writes (RLIMIT_FSIZE); 0 = not limited."
    )
    worker_rss_kill: int = _tunable(
        1024, "MB", 0, 1048576, "A worker whose processes together are larger is killed; 0 = never."
    )

    def to_json(self) -> dict[str, Number]:
        """Return name and value of each."""
        return {name: getattr(self, name) for name in INFO}


INFO: Mapping[str, Info] = {each.name: each.metadata["info"] for each in fields(Tunables)}


def load(mapping: Mapping[str, Any]) -> Tunables:
    """Return the tunables with these values in place of defaults.

    Raises Refused, naming the field, for an unknown name, a wrong type, a value outside its bounds, and values
    that don't fit together.
    """
    values: dict[str, Number] = {}
    for name, value in mapping.items():
        info = INFO.get(name)
        if info is None:
            raise Refused(f"tunables.{name}", f"is not a tunable; there are {', '.join(sorted(INFO))}")
        values[name] = _checked(name, info, value)
    tunables = Tunables(**values)  # type: ignore[arg-type] # _checked has made each of its type
    if tunables.max_parallel > tunables.max_parallel_limit:
        if "max_parallel" in values:
            raise Refused(
                "tunables.max_parallel", f"must be at most max_parallel_limit ({tunables.max_parallel_limit})"
            )
        tunables = Tunables(**{**values, "max_parallel": tunables.max_parallel_limit})  # type: ignore[arg-type]
    if tunables.log_line_cap > tunables.log_memory // 4:
        raise Refused("tunables.log_line_cap", "must be at most a quarter of log_memory")
    return tunables


def _checked(name: str, info: Info, value: Any) -> Number:
    kind = "a whole number" if info.whole else "a number"
    right = f"must be {kind} of {info.unit} from {info.minimum:g} to {info.maximum:g}"
    if isinstance(value, bool) or not isinstance(value, int if info.whole else (int, float)):
        raise Refused(f"tunables.{name}", f"{right}, not {value!r}")
    if not info.minimum <= value <= info.maximum:
        raise Refused(f"tunables.{name}", f"{right}, not {value:g}")
    return int(value) if info.whole else float(value)


def effective_limit(tunables: Tunables, cpu_quota: float | None, memory_limit: int | None) -> tuple[int, str]:
    """Return the most workers at once, and which of "max_parallel_limit", "cpu", "memory" sets it.

    `cpu_quota` is in CPUs, `memory_limit` in bytes; None is no limit. At least 1, however small the machine.
    """
    bounds = [(tunables.max_parallel_limit, "max_parallel_limit")]
    if cpu_quota is not None:
        bounds.append((int(WORKERS_PER_CPU * cpu_quota), "cpu"))
    if memory_limit is not None:
        bounds.append(((memory_limit - OWN_MEMORY) // (tunables.worker_memory * 10**6), "memory"))
    limit, by = min(bounds, key=lambda bound: bound[0])
    return max(1, limit), by

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils import _cgroup, _host

STAT = (
    b"cpu  6431 0 3517 168584 369 0 93 9 0 0\n"
    b"cpu0 1810 0 1182 86458 57 0 12 3 0 0\n"
    b"cpu1 4620 0 2334 82125 312 0 80 5 7 0\n"
    b"intr 1 2 3\n"
)


@pytest.mark.parametrize(
    ("processors", "ticks"),
    [
        ({0, 1}, _host.CpuTicks(total=89522 + 89476, idle=86515 + 82437, steal=8)),
        ({1}, _host.CpuTicks(total=89476, idle=82437, steal=5)),
        ({0, 2}, None),
        (set(), None),
    ],
)
def test_only_the_given_processors_count(processors: set[int], ticks: _host.CpuTicks | None) -> None:
    assert _host.parse_stat(STAT, processors) == ticks


@pytest.mark.parametrize("content", [None, b"", b"cpu0 1 2 3\n"])
def test_incomplete_stat_is_null(content: bytes | None) -> None:
    assert _host.parse_stat(content, {0}) is None


@pytest.mark.parametrize(
    ("content", "load"),
    [(b"21.93 19.07 15.07 3/512 9999\n", [21.93, 19.07, 15.07]), (b"x y z\n", None), (b"1\n", None), (None, None)],
)
def test_load(content: bytes | None, load: list[float] | None) -> None:
    assert _host.parse_load(content) == load


def test_meminfo() -> None:
    values = _host.parse_meminfo(b"MemTotal:       24684084 kB\nHugePages_Total:       0\n")
    assert values == {b"MemTotal": 24684084 * 1024, b"HugePages_Total": 0}


def reading(
    at: float, *, idle: int, steal: int = 0, total: int | None = None, used: float = 0.0, quota: float | None = None
) -> _host.HostReading:
    """Return a look at a host; `total` ticks default to 100 a second."""
    stat = _cgroup.CpuStat(None, None, None, None, None, None)
    root = _cgroup.CpuReading(at, 1, used, stat, _cgroup.Limit(quota, 0.1), None)
    return _host.HostReading(at, _host.CpuTicks(round(at * 100) if total is None else total, idle, steal), None, root)


@pytest.mark.parametrize(
    ("last", "idle", "steal"),
    [
        (reading(10, idle=500), 0.5, 0.0),
        (reading(10, idle=500, steal=200), 0.5, 0.2),
        (reading(10, idle=500, used=5.0, quota=2.0), 0.5, 0.0),
        # A quota on the whole tree (a host that is a container) runs out before the processors do.
        (reading(10, idle=500, used=19.5, quota=2.0), 0.025, 0.0),
        (reading(10, idle=500, used=21.0, quota=2.0), 0.0, 0.0),
        (reading(10, idle=0, total=0), None, None),
    ],
)
def test_idle_and_steal(last: _host.HostReading, idle: float | None, steal: float | None) -> None:
    assert _host.idle_and_steal(reading(0, idle=0), last) == (
        None if idle is None else pytest.approx(idle),
        None if steal is None else pytest.approx(steal),
    )


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    tree = _cgroup.hierarchy(str(tmp_path))
    first = _host.read_host(tree, "/proc")
    report = _host.host_report(first, first, False, tree, "/proc")
    assert report["cpus"] >= 1
    assert report["memory_total"] > report["memory_available"] > 0
    assert len(report["load"]) == 3
    assert (report["cpu_used"], report["cpu_idle_share"]) == (None, None)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils import _cgroup
from hypothesis import given
from hypothesis import strategies as st

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)

# As read on kernel 6.18 (v1) and 6.12 (v2).
V1_CPU_STAT = b"nr_periods 137\nnr_throttled 133\nthrottled_time 48123456789\nnr_bursts 2\nburst_time 1500000\n"
V1_CPU_STAT_OLD = b"nr_periods 137\nnr_throttled 133\nthrottled_time 48123456789\n"
V2_CPU_STAT = (
    b"usage_usec 3374019\nuser_usec 3300000\nsystem_usec 74019\nnice_usec 0\ncore_sched.force_idle_usec 0\n"
    b"nr_periods 137\nnr_throttled 133\nthrottled_usec 48123456\nnr_bursts 2\nburst_usec 1500\n"
)
V2_CPU_STAT_WITHOUT_CONTROLLER = b"usage_usec 3374019\nuser_usec 3300000\nsystem_usec 74019\n"
PRESSURE = (
    b"some avg10=87.68 avg60=34.97 avg300=29.52 total=8757833\nfull avg10=1.00 avg60=0.50 avg300=0.25 total=1000000\n"
)
V1_MEMORY_STAT = b"cache 9256960\nrss 6295552\ninactive_file 4096\ntotal_cache 9256960\ntotal_inactive_file 1048576\n"
V2_MEMORY_STAT = b"anon 6295552\nfile 9256960\ninactive_file 1048576\nactive_file 4096\n"
V2_MEMORY_EVENTS = b"low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"


def write(directory: Path, files: dict[str, bytes]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)


V1_CPU = {"cpu.stat": V1_CPU_STAT, "cpu.cfs_quota_us": b"25000\n", "cpu.cfs_period_us": b"100000\n", "tasks": b"7\n8\n"}
V1_ACCOUNTING = {"cpuacct.usage": b"3374019000\n"}
V1_MEMORY = {
    "memory.usage_in_bytes": b"12582912\n",
    "memory.limit_in_bytes": b"268435456\n",
    "memory.max_usage_in_bytes": b"33554432\n",
    "memory.stat": V1_MEMORY_STAT,
    "memory.oom_control": b"oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
}
V2_FILES = {
    "cpu.stat": V2_CPU_STAT,
    "cpu.max": b"25000 100000\n",
    "cpu.pressure": PRESSURE,
    "cgroup.threads": b"7\n8\n",
    "memory.current": b"12582912\n",
    "memory.max": b"268435456\n",
    "memory.peak": b"33554432\n",
    "memory.stat": V2_MEMORY_STAT,
    "memory.events": V2_MEMORY_EVENTS,
    "pids.current": b"11\n",
    "pids.max": b"max\n",
}


def make_v1(root: Path, path: str, cpu: str, accounting: str) -> None:
    write(root / cpu / path, V1_CPU)
    write(root / accounting / path, V1_ACCOUNTING)
    write(root / "memory" / path, V1_MEMORY)
    write(root / "pids" / path, {"pids.current": b"11\n"})


@pytest.fixture(
    params=[
        pytest.param(("v1", "cpu", "cpuacct", "docker/{id}"), id="v1-separate"),
        pytest.param(("v1", "cpu,cpuacct", "cpu,cpuacct", "docker/{id}"), id="v1-together"),
        pytest.param(("v1", "cpuacct,cpu", "cpuacct,cpu", "system.slice/docker-{id}.scope"), id="v1-systemd"),
        pytest.param(("hybrid", "cpu,cpuacct", "cpu,cpuacct", "docker/{id}"), id="hybrid"),
        pytest.param(("v2", "", "", "system.slice/docker-{id}.scope"), id="v2-systemd"),
        pytest.param(("v2", "", "", "docker/{id}"), id="v2-cgroupfs"),
        pytest.param(
            ("v2", "", "", "user.slice/user-1000.slice/user@1000.service/docker-{id}.scope"), id="v2-rootless"
        ),
    ]
)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, Path]:
    version, cpu, accounting, place = request.param
    path = place.format(id=A)
    if version == "v2":
        write(tmp_path, {"cgroup.controllers": b"cpuset cpu io memory pids\n"})
        write(tmp_path / path, V2_FILES)
    else:
        make_v1(tmp_path, path, cpu, accounting)
    if version == "hybrid":
        write(tmp_path / "unified" / path, {"cpu.pressure": PRESSURE})
    return version, path, tmp_path


def test_every_layout_is_found_and_read_alike(host: tuple[str, str, Path]) -> None:
    version, path, root = host
    tree = _cgroup.hierarchy(str(root))
    assert tree.version == version
    assert _cgroup.container_paths(tree, [A]) == {A: path}
    assert _cgroup.driver_of(path) == ("systemd" if path.endswith(".scope") else "cgroupfs")
    cpu = _cgroup.read_cpu(tree, path)
    assert cpu is not None
    assert cpu.usage_seconds == pytest.approx(3.374019)
    assert cpu.limit == _cgroup.Limit(0.25, 0.1)
    assert (cpu.stat.periods, cpu.stat.throttled_periods, cpu.stat.bursts) == (137, 133, 2)
    assert cpu.stat.throttled_seconds == pytest.approx(48.123456, abs=1e-5)
    assert cpu.stat.burst_seconds == pytest.approx(0.0015)
    assert (cpu.pressure is None) == (version == "v1")
    assert _cgroup.read_memory(tree, path) == _cgroup.MemoryReading(
        current=12582912, working_set=12582912 - 1048576, limit=268435456, peak=33554432, oom_kills=2
    )
    assert _cgroup.read_pids(tree, path) == 11
    assert _cgroup.thread_ids(tree, path) == [b"7", b"8"]
    assert _cgroup.working_sets(str(root)) == {A: 12582912 - 1048576}


def test_missing_files_are_not_measured_and_not_zero(host: tuple[str, str, Path]) -> None:
    _, path, root = host
    tree = _cgroup.hierarchy(str(root))
    for file in root.rglob("*"):
        if file.is_file() and A in str(file):
            file.unlink()
    cpu = _cgroup.read_cpu(tree, path)
    assert cpu is not None
    assert (cpu.usage_seconds, cpu.limit, cpu.pressure) == (None, None, None)
    assert cpu.stat == _cgroup.CpuStat(None, None, None, None, None, None)
    assert _cgroup.read_memory(tree, path) == _cgroup.MemoryReading(None, None, None, None, None)
    assert _cgroup.read_pids(tree, path) is None
    assert _cgroup.thread_ids(tree, path) is None
    assert _cgroup.working_sets(str(root)) == {}


def test_a_cgroup_that_is_gone_has_no_reading(host: tuple[str, str, Path]) -> None:
    _, _, root = host
    tree = _cgroup.hierarchy(str(root))
    assert _cgroup.read_cpu(tree, f"docker/{B}") is None
    assert _cgroup.container_paths(tree, [B]) == {}


def test_containers_are_found_wherever_they_are_and_no_other(tmp_path: Path) -> None:
    places = {
        A: f"docker/{A}",
        B: f"system.slice/docker-{B}.scope",
        C: f"custom.slice/custom-deep.slice/docker-{C}.scope",
        D: f"docker/{A}/docker/{D}",
    }
    write(tmp_path, {"cgroup.controllers": b""})
    for path in (*places.values(), "system.slice/ssh.service", "docker/buildkit", f"machine/libpod-{'e' * 64}.scope"):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
    tree = _cgroup.hierarchy(str(tmp_path))
    assert _cgroup.container_paths(tree, [B, C, D, "f" * 64]) == {k: places[k] for k in (B, C, D)}
    assert _cgroup.container_paths(tree) == places


def test_the_tree_is_not_searched_when_all_containers_are_in_the_usual_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"cgroup.controllers": b""})
    for path in (f"docker/{A}", f"system.slice/docker-{B}.scope", "user.slice/deep/deeper"):
        (tmp_path / path).mkdir(parents=True)
    tree = _cgroup.hierarchy(str(tmp_path))
    scanned: list[str] = []
    real = os.scandir

    def scandir(path: str) -> object:
        scanned.append(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert set(_cgroup.container_paths(tree, [A, B])) == {A, B}
    assert scanned == [str(tmp_path / "docker"), str(tmp_path / "system.slice")]


def test_threads_of_cgroups_inside_a_container_count(tmp_path: Path) -> None:
    write(tmp_path, {"cgroup.controllers": b""})
    write(tmp_path / "docker" / A, {"cgroup.threads": b"1\n2\n"})
    write(tmp_path / "docker" / A / "init.scope", {"cgroup.threads": b"3\n"})
    write(tmp_path / "docker" / A / "docker", {"cgroup.threads": b""})
    write(tmp_path / "docker" / A / "docker" / B, {"cgroup.threads": b"4\n5\n"})
    tree = _cgroup.hierarchy(str(tmp_path))
    assert sorted(_cgroup.thread_ids(tree, f"docker/{A}") or []) == [b"1", b"2", b"3", b"4", b"5"]


def test_a_long_list_of_threads_is_read_whole(tmp_path: Path) -> None:
    write(tmp_path, {"cgroup.controllers": b"", "cgroup.threads": b"".join(b"%d\n" % n for n in range(40000))})
    assert len(_cgroup.thread_ids(_cgroup.hierarchy(str(tmp_path)), "") or []) == 40000


@pytest.mark.parametrize("layout", [[], ["memory", "pids"]])
def test_no_hierarchy_is_said_so(tmp_path: Path, layout: list[str]) -> None:
    for name in layout:
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match="no cgroup hierarchy at"):
        _cgroup.hierarchy(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="No such file"):
        _cgroup.hierarchy(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("quota", "period", "limit"),
    [
        (b"25000\n", b"100000\n", _cgroup.Limit(0.25, 0.1)),
        (b"-1\n", b"100000\n", _cgroup.Limit(None, 0.1)),
        (b"150000\n", b"50000\n", _cgroup.Limit(3.0, 0.05)),
        (None, b"100000\n", None),
        (b"25000\n", None, None),
        (b"25000\n", b"0\n", None),
        (b"garbage", b"100000\n", None),
    ],
)
def test_quota_v1(quota: bytes | None, period: bytes | None, limit: _cgroup.Limit | None) -> None:
    assert _cgroup.parse_quota_v1(quota, period) == limit


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        (b"max 100000\n", _cgroup.Limit(None, 0.1)),
        (b"1000 100000\n", _cgroup.Limit(0.01, 0.1)),
        (b"", None),
        (None, None),
        (b"100000\n", None),
    ],
)
def test_cpu_max(content: bytes | None, limit: _cgroup.Limit | None) -> None:
    assert _cgroup.parse_cpu_max(content) == limit


@pytest.mark.parametrize(
    ("content", "count"),
    [(b"0\n", 1), (b"0-3,8\n", 5), (b"2,10-11", 3), (b"\n", None), (None, None), (b"a-b", None)],
)
def test_cpu_list(content: bytes | None, count: int | None) -> None:
    assert _cgroup.parse_cpu_list(content) == count


def test_the_cpuset_says_how_many_cpus_a_container_may_use(tmp_path: Path) -> None:
    write(tmp_path / "v1" / "cpuset" / "docker" / A, {"cpuset.effective_cpus": b"0-1\n"})
    write(tmp_path / "v1" / "cpu", {})
    write(tmp_path / "v2", {"cgroup.controllers": b"cpu\n"})
    write(tmp_path / "v2" / "docker" / A, {"cpuset.cpus.effective": b"0-2\n"})
    assert [_cgroup.read_cpu_count(_cgroup.hierarchy(str(tmp_path / v)), f"docker/{A}") for v in ("v1", "v2")] == [2, 3]
    assert _cgroup.read_cpu_count(_cgroup.hierarchy(str(tmp_path / "v2")), f"docker/{B}") is None


def test_counters_older_kernels_lack_are_null() -> None:
    assert _cgroup.parse_cpu_stat_v1(V1_CPU_STAT_OLD).bursts is None
    stat = _cgroup.parse_cpu_stat_v2(V2_CPU_STAT_WITHOUT_CONTROLLER)
    assert stat.usage_seconds == pytest.approx(3.374019)
    assert (stat.periods, stat.throttled_periods, stat.throttled_seconds) == (None, None, None)


@pytest.mark.parametrize("limit", [b"9223372036854771712\n", b"9223372036854710272\n", b"max\n"])
def test_no_memory_limit_is_null(tmp_path: Path, limit: bytes) -> None:
    make_v1(tmp_path, "docker/x", "cpu", "cpuacct")
    write(tmp_path / "memory/docker/x", {"memory.limit_in_bytes": limit})
    assert _cgroup.read_memory(_cgroup.hierarchy(str(tmp_path)), "docker/x").limit is None


def test_working_set_is_never_negative() -> None:
    # The two files are read one after the other: the cache may have grown in between.
    assert _cgroup.working_set(100, 120) == 0
    assert _cgroup.working_set(None, 120) is None
    assert _cgroup.working_set(100, None) is None


def test_pressure() -> None:
    lines = _cgroup.parse_pressure(PRESSURE)
    assert lines is not None
    assert lines["some"] == _cgroup.Pressure(87.68, 34.97, 29.52, 8.757833)
    assert set(lines) == {"some", "full"}
    assert _cgroup.parse_pressure(b"") is None
    assert _cgroup.parse_pressure(b"some avg10=x\n") is None


def test_pressure_shares() -> None:
    first = {"some": _cgroup.Pressure(0, 0, 0, 1.0)}
    last = {"some": _cgroup.Pressure(10, 5, 1, 3.0), "full": _cgroup.Pressure(1, 1, 1, 1.0)}
    shares = _cgroup.pressure_shares(first, last, 8.0)
    assert shares is not None
    assert shares["some"] == {"share": 0.25, "avg10": 10, "avg60": 5, "avg300": 1}
    assert shares["full"]["share"] is None
    assert _cgroup.pressure_shares(first, None, 8.0) is None


@pytest.mark.parametrize(
    ("before", "after", "result"), [(1, 3, 2), (3, 3, 0), (3, 1, None), (None, 1, None), (1, None, None)]
)
def test_a_counter_that_went_back_was_reset(before: int | None, after: int | None, result: int | None) -> None:
    assert _cgroup.delta(before, after) == result


@given(st.binary(max_size=200))
def test_parsers_never_fail_on_unexpected_content(content: bytes) -> None:
    _cgroup.parse_flat(content)
    _cgroup.parse_number(content)
    _cgroup.parse_pressure(content)
    _cgroup.parse_cpu_max(content)
    _cgroup.parse_cpu_stat_v1(content)
    _cgroup.parse_cpu_stat_v2(content)

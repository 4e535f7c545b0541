# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A history from Prometheus, against a real one with two hours of cAdvisor's metrics."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ansible_collections.evenkeel.swarm.plugins.filter.service_recommendation import service_recommendation
from ansible_collections.evenkeel.swarm.plugins.module_utils._history import HistoryError, parse_history
from ansible_collections.evenkeel.swarm.plugins.module_utils._prometheus import (
    QUERIES,
    SERVICE_LABEL,
    fetch,
    span,
    spans,
)

ROOT = Path(__file__).resolve().parents[2]
LABEL = SERVICE_LABEL
MIB = 2**20
HOURS = 2
SCRAPE = 15
# name, tasks, cores used by each, limit of each in cores (0: none), share of the periods throttled
SERVICES = (("web", 2, 0.25, 0.5, 0.0), ("api", 1, 0.5, 0.5, 0.9), ("free", 1, 0.3, 0, 0.0))


def metrics(end: int) -> Iterator[str]:
    """Write what cAdvisor would have said every 15 seconds for two hours, as OpenMetrics: metric by metric."""
    times = range(end - HOURS * 3600, end + 1, SCRAPE)
    tasks = [
        (f'id="/docker/{name}{number}",{LABEL}="{name}"', used, limit, throttled)
        for name, count, used, limit, throttled in SERVICES
        for number in range(count)
    ]
    # Containers outside Swarm have no label.
    tasks.append(('id="/docker/other"', 3.0, 0, 0.0))
    first = times[0]
    for name, kind, value in (
        ("container_cpu_usage_seconds", "counter", lambda at, used, *_: (at - first) * used),
        ("container_cpu_cfs_periods", "counter", lambda at, _, limit, __: (at - first) * 10 if limit else None),
        (
            "container_cpu_cfs_throttled_periods",
            "counter",
            lambda at, _, limit, throttled: (at - first) * 10 * throttled if limit else None,
        ),
        ("container_spec_cpu_quota", "gauge", lambda _, __, limit, ___: limit * 100_000 or None),
        ("container_spec_cpu_period", "gauge", lambda *_: 100_000),
        ("container_memory_working_set_bytes", "gauge", lambda at, *_: (100 + (at // 600) % 3) * MIB),
        ("container_spec_memory_limit_bytes", "gauge", lambda _, __, limit, ___: 512 * MIB if limit else 0),
    ):
        yield f"# TYPE {name} {kind}"
        suffix = "_total" if kind == "counter" else ""
        for labels, used, limit, throttled in tasks:
            for at in times:
                sample = value(at, used, limit, throttled)
                if sample is not None:
                    yield f"{name}{suffix}{{{labels}}} {sample} {at}"
    yield "# EOF\n"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus of Debian's, with the metrics in it."""
    fetched = subprocess.run(
        [str(ROOT / "tests" / "fetch-package"), "prometheus"], capture_output=True, text=True, check=False, timeout=300
    )
    if fetched.returncode:
        pytest.skip(f"Debian's package prometheus can't be fetched: {fetched.stderr.strip().splitlines()[-1:]}")
    programs = Path(fetched.stdout.strip()) / "usr" / "bin"
    directory = tmp_path_factory.mktemp("prometheus")
    (directory / "metrics").write_text("\n".join(metrics(int(time.time()) // 60 * 60)))
    (directory / "prometheus.yml").write_text("scrape_configs: []\n")
    subprocess.run(
        [programs / "promtool", "tsdb", "create-blocks-from", "openmetrics", directory / "metrics", directory / "data"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (directory / "log").open("w") as log:
        server = subprocess.Popen(
            [
                programs / "prometheus",
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={address}",
                # Its pages are in another directory of the package than the program thinks.
                f"--web.console.templates={directory}",
                f"--web.console.libraries={directory}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        wait_until_ready(f"http://{address}", server, directory / "log")
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(20)


def wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=1):  # noqa: S310 (http, above)
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"Prometheus is not ready: {log.read_text()[-1000:]}")


def asked(url: str) -> str:
    """The last two hours as JSON lines."""
    end = time.time() // 60 * 60
    return "\n".join(json.dumps(record) for record in fetch(url, end - HOURS * 3600, end, 60))


def test_a_real_prometheus_becomes_a_history(prometheus: str) -> None:
    history = parse_history(asked(prometheus))
    assert {record.service for record in history.records} == {"web", "api", "free"}
    last = {record.service: record for record in history.records if record.at < history.records[-1].at}
    web, api, free = last["web"], last["api"], last["free"]
    assert (web.tasks, web.cpu_limit, web.throttled_ratio) == (2, 1.0, 0.0)
    assert web.cpu_used == web.demand.estimate == pytest.approx(0.5, rel=0.01)
    assert web.demand.regime == free.demand.regime == "unsaturated"
    assert (api.demand.estimate, api.demand.regime) == (None, "unidentifiable")
    assert api.throttled_ratio == pytest.approx(0.9, rel=0.01)
    assert "usage only" in api.demand.reason
    assert (free.cpu_limit, free.throttled_ratio, free.memory.limit) == (None, None, None)
    assert (web.memory.limit, web.memory.peak) == (512 * MIB, None)
    assert web.memory.working_set in (100 * MIB, 101 * MIB, 102 * MIB)
    # A window a minute, all tasks' figures in each of them.
    assert 115 <= len([record for record in history.records if record.service == "web"]) <= 121


def test_what_a_real_prometheus_asks_for(prometheus: str) -> None:
    rows = {row["service"]: row for row in service_recommendation(asked(prometheus), margin=0.0)["services"]}
    assert rows["web"]["cpus"]["target"] == pytest.approx(0.25, abs=0.01)
    # All of its windows were throttled: a step, no upper bound, and it says so.
    assert rows["api"]["cpus"]["target"] == pytest.approx(0.75, abs=0.01)
    assert rows["api"]["cpus"]["upper"] is None
    assert "the demand can't be known" in rows["api"]["reason"]
    assert rows["free"]["now"] == {"cpus": None, "memory": None}


def test_prometheus_own_words_and_an_empty_one(prometheus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    with pytest.raises(HistoryError, match="has no container_cpu_usage_seconds_total"):
        fetch(prometheus, now - 90 * 86400, now - 89 * 86400, 60)
    with pytest.raises(HistoryError, match="answers 404: Not Found"):
        fetch(f"{prometheus}/elsewhere", now - 60, now, 60)
    monkeypatch.setitem(QUERIES, "cpu_used", "sum(")
    with pytest.raises(HistoryError, match=r"answers 400: .*parse error"):
        fetch(prometheus, now - 60, now, 60)


def test_the_role_asks_prometheus(prometheus: str, tmp_path: Path) -> None:
    shown = play(tmp_path, prometheus, recommendation_prometheus_days=0.1)
    assert json.loads((tmp_path / "recommendation.json").read_text())["history"]["windows"] > 300
    assert "web" in shown


def play(tmp_path: Path, url: str, **variables: float) -> str:
    """Run the role against a Prometheus and return what it shows."""
    playbook = tmp_path / "play.yml"
    roles = {"hosts": "localhost", "gather_facts": False, "roles": ["evenkeel.swarm.recommendation"]}
    playbook.write_text(yaml.safe_dump([roles]))
    extra = {"recommendation_directory": str(tmp_path), "recommendation_prometheus_url": url, **variables}
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local", str(playbook)]
    ran = subprocess.run(
        [*command, "-e", json.dumps(extra)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    return " ".join((ran.stdout + ran.stderr).split())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host", "'ftp://host' is not the address of a Prometheus: write http://host:9090"),
        ("host:9090", "is not the address"),
        ("http://user:secret@127.0.0.1:1", "http://127.0.0.1:1 can't be asked"),
    ],
)
def test_addresses_are_checked_and_passwords_kept(url: str, said: str) -> None:
    with pytest.raises(HistoryError) as error:
        fetch(url, 0, 60, 60)
    assert said in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("days", "step", "said"), [(0, 60, "days: 0 is"), (400, 60, "days: 400 is"), (7, 0, "step: 0 is")]
)
def test_the_time_asked_for_is_checked(days: float, step: int, said: str) -> None:
    with pytest.raises(HistoryError, match=said):
        span(days, step, 1e9)


def test_windows_end_on_whole_steps() -> None:
    assert span(1, 60, 1_000_000_030.0) == (1_000_000_020.0 - 86400, 1_000_000_020.0)


def test_long_times_are_asked_for_in_parts_without_a_gap_or_a_point_twice() -> None:
    parts = list(spans(0, 14 * 86400, 60))
    points = [at for first, last in parts for at in range(int(first), int(last) + 1, 60)]
    assert points == list(range(0, 14 * 86400 + 1, 60))
    assert all((last - first) / 60 < 11_000 for first, last in parts)

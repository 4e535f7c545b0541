# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.filter.recommendation_text import recommendation_text
from ansible_collections.evenkeel.swarm.plugins.filter.service_recommendation import service_recommendation
from ansible_collections.evenkeel.swarm.plugins.module_utils._history import Memory, Record
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_table import parse_table

from tests.unit.sizing_data import DAY, MIB, every, free, held, lines, unknown

ROOT = Path(__file__).resolve().parents[2]
# What the estate's heavy services have and want at full load.
WANTED = {
    "backend-django-crm": (1.0, 10.8),
    "backend-saleor-api": (1.5, 10.3),
    "backend-ai-agents": (0.5, 2.6),
    "temporalserver": (1.0, 1.6),
    "shared-redis": (0.25, 1.2),
}


def history(service: str, window: dict[str, Any], hours: int = 30, **changed: Any) -> list[Record]:
    fields = {"window_seconds": 3600.0, "memory": Memory(100 * MIB, None, 512 * MIB), "service": service, **changed}
    return every(timedelta(hours=1), [window] * hours, **fields)


def seeds() -> str:
    """A day of the estate: the heavy services held at their limits, sixteen small ones that nobody holds."""
    records = [record for name, (limit, wanted) in WANTED.items() for record in history(name, held(limit, wanted))]
    records += [record for number in range(16) for record in history(f"small-{number}", free(0.04))]
    return lines(records)


def on_nodes(**services: Sequence[str]) -> dict[str, Any]:
    """A report that says where services run; kvm4 has 4 cores and kvm2 has 2."""
    nodes = [{"hostname": name, "cores": {"real": cores}} for name, cores in (("kvm4", 4.0), ("kvm2", 2.0))]
    return {"nodes": nodes, "services": [{"service": name, "nodes": nodes} for name, nodes in services.items()]}


def test_the_seeds_fleet_gets_a_table_that_sums_to_what_exists() -> None:
    got = service_recommendation(seeds(), cores={"kvm4": 4}, margin=0.0)
    assert got["totals"]["wants"] == pytest.approx(26.5 + 16 * 0.05)
    assert 3.9 < got["totals"]["gets"] <= 4.0
    rows, errors = parse_table(got["table"])
    assert errors == []
    assert sum(row.limits["cpus"] for row in rows) <= 4 * 10**9
    by_name = {row["service"]: row for row in got["services"]}
    assert by_name["backend-django-crm"]["cpus"]["target"] == 10.8
    assert by_name["backend-django-crm"]["gets"] == by_name["shared-redis"]["gets"] == pytest.approx(0.64)
    assert by_name["backend-django-crm"]["lacks"] == pytest.approx(10.8 - 0.64)
    assert "gets 0.64 of 10.8 cores: the fleet wants more than there is" in by_name["backend-django-crm"]["reason"]
    # It wants 0.04: the least a start is given.
    assert by_name["small-3"]["gets"] == 0.05
    assert "a start takes more than idling" in by_name["small-3"]["reason"]
    assert by_name["small-3"]["lacks"] == 0
    # The anchors see the limit only.
    assert by_name["backend-django-crm"]["anchors"]["krr"]["cpus"]["target"] == 1.0


def test_the_least_that_is_recommended_is_not_above_what_a_service_lives_with() -> None:
    text = lines(history("small", free(0.01)))
    (row,) = service_recommendation(text, minimum_memory=1024 * MIB)["services"]
    assert row["now"]["memory"] == row["memory"]["target"] == 512 * MIB
    (row,) = service_recommendation(text, minimum_cpus=0.2, minimum_memory=200 * MIB)["services"]
    assert (row["cpus"]["target"], row["memory"]["target"]) == (0.2, 200 * MIB)
    assert row["cpus"]["lower"] == 0.01


def test_weights_minimums_and_oversubscription() -> None:
    got = service_recommendation(
        seeds(),
        cores={"kvm4": 4},
        weights={"backend-saleor-api": 3},
        minimums={"shared-redis": 0.7, "small-0": 0.1},
        oversubscription=1.5,
    )
    gets = {row["service"]: row["gets"] for row in got["services"]}
    assert gets["backend-saleor-api"] == pytest.approx(3 * gets["backend-django-crm"], abs=0.03)
    assert gets["shared-redis"] >= 0.7
    assert gets["small-0"] == 0.1
    assert 5.9 < got["totals"]["gets"] <= 6.0


def test_a_report_says_what_exists_and_where_services_run() -> None:
    text = lines([*history("a", held(1.0, 9.0)), *history("b", held(1.0, 9.0)), *history("c", held(1.0, 9.0))])
    got = service_recommendation(text, report=on_nodes(a=["kvm4"], b=["kvm4"], c=["kvm2"]))
    assert [row["gets"] for row in got["services"]] == [2.0, 2.0, 2.0]
    assert [(node["name"], node["gets"]) for node in got["nodes"]] == [("kvm2", 2.0), ("kvm4", 4.0)]
    # An engine refuses more than its node has.
    (alone,) = service_recommendation(lines(history("c", held(1.0, 9.0))), report=on_nodes(c=["kvm2"]))["services"]
    assert alone["gets"] == 2.0
    assert "no node has more" in alone["reason"]


def test_undo_is_the_table_of_today() -> None:
    records = [*history("a", held(0.025, 1.0), tasks=1), *history("b", free(0.2), memory=Memory(90 * MIB, None, None))]
    got = service_recommendation(lines(records))
    assert got["undo"] == [
        {"service": "a", "limits": {"cpus": 0.025, "memory": "512M"}},
        {"service": "b", "limits": {"cpus": "unlimited", "memory": "unlimited"}},
    ]
    assert parse_table(got["undo"])[1] == []
    assert parse_table(got["table"])[1] == []


def test_memory_that_was_not_measured_is_left_alone_both_ways() -> None:
    got = service_recommendation(lines(history("a", free(0.2), memory=Memory(None, None, None))))
    assert got["table"] == [{"service": "a", "limits": {"cpus": 0.23}}]
    assert got["undo"] == [{"service": "a", "limits": {"cpus": "unlimited"}}]


def test_services_that_are_gone_or_too_new_are_not_in_the_table() -> None:
    old = history("old", free(0.2), hours=10)
    records = [*old, *history("here", free(0.2), hours=72), *history("new", free(0.2), hours=72)[-1:]]
    short = [*records[:-1], *every(DAY, [free(0.2)] * 4, service="new", window_seconds=60.0)[-1:]]
    got = service_recommendation(lines(short))
    assert list(got["left_out"]) == ["old"]
    assert [row["service"] for row in got["table"]] == ["here"]
    new = next(row for row in got["services"] if row["service"] == "new")
    assert (new["gets"], new["lacks"], new["cpus"]["target"]) == (None, None, None)
    assert "only 0.02 hours" in new["reason"]
    # One that the report doesn't know can't be given a limit: the table's row would select nothing.
    got = service_recommendation(lines(short), report=on_nodes(here=["kvm4"], old=["kvm4"]))
    assert got["left_out"]["new"] == "not in the report: no such service any more"


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"weights": {"x": 1}}, "weights.x: no such service in the history"),
        ({"weights": {"a": "heavy"}}, "weights.a: 'heavy' is not a number above 0"),
        ({"weights": {"a": 0}}, "weights.a: 0 is not a number above 0"),
        ({"minimums": {"a": True}}, "minimums.a: True is not a number above 0"),
        ({"minimums": {"a": float("nan")}}, "minimums.a: nan is not a number above 0"),
        ({"cores": {"one": "4"}}, "cores.one: '4' is not a number of cores"),
        ({"cores": {"one": 4}, "minimums": {"a": 5}}, "minimums.a: 5 is more than a node has"),
        ({"cores": {"one": 4, "two": 4}, "minimums": {"a": 3, "b": 3, "c": 3}}, "minimums: the minima need 9.00 cores"),
        ({"percentile": 95}, "percentile: 95 is not a number from 0.5 to 1"),
        ({"margin": -0.1}, "margin: -0.1 is not a number from 0 to 2"),
        ({"minimum_hours": "1"}, "minimum_hours: '1' is not a number"),
        ({"minimum_cpus": 0}, "minimum_cpus: 0 is not a number from 0.01"),
        ({"minimum_memory": 1}, "minimum_memory: 1 is not a number from 6.29146e+06"),
        ({"oversubscription": 0}, "oversubscription: 0 is not a number from 0.1 to 100"),
        ({"minimum_hours": 31}, "history: too little, 30.00 hours of windows for a service at most"),
    ],
)
def test_wrong_wishes_are_named(wishes: dict[str, Any], said: str) -> None:
    text = lines([record for name in "abc" for record in history(name, free(0.2))])
    with pytest.raises(AnsibleFilterError) as error:
        service_recommendation(text, **wishes)
    assert f"service_recommendation: {said}" in str(error.value)


def test_all_wrong_wishes_are_told_at_once() -> None:
    with pytest.raises(AnsibleFilterError, match=r"margin: .*; weights\.x: .*; minimums\.y: "):
        service_recommendation(lines(history("a", free(0.2))), margin=9, weights={"x": 1}, minimums={"y": 1})


def test_an_empty_or_broken_history_is_an_error_of_its_own() -> None:
    with pytest.raises(AnsibleFilterError, match="history: is empty"):
        service_recommendation("\n")
    with pytest.raises(AnsibleFilterError, match="line 1: at: is missing"):
        service_recommendation('{"source": "look", "demand": {}, "memory": {}}\n')


def test_the_text_tells_what_a_person_needs() -> None:
    records = [*history("a", held(1.0, 9.0)), *history("b", unknown(0.5, None)), *history("c", free(0.2), hours=5)[:1]]
    text = recommendation_text(service_recommendation(lines(records) + '{"at": "2026', cores={"one": 4}))
    row = next(line for line in text.splitlines() if line.startswith("a  ")).split()
    assert row[:8] == ["a", "1", "1", "10.35", "8.99..18.63", "3.13", "7.22", "1.17"]
    assert "0.50..?" in next(line for line in text.splitlines() if line.startswith("b  "))
    assert "b: 95% of its load is in windows of 0.75 cores or less;" in text
    assert "1 lines of the history were cut off" in text
    assert "All tasks want 11.22 cores and get 4.00 of 4." in text
    assert "Left out: c, not seen since 2026-11-02T00:00:00+00:00." in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "were divided" not in text
    assert "nothing was divided" in recommendation_text(service_recommendation(lines(records)))


# --- the role ---


def play(tmp_path: Path, *arguments: str, succeeds: bool = True) -> str:
    playbook = tmp_path / "play.yml"
    roles = {"hosts": "localhost", "gather_facts": False, "roles": ["evenkeel.swarm.recommendation"]}
    playbook.write_text(yaml.safe_dump([roles]))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local", str(playbook)]
    ran = subprocess.run(
        [*command, "-e", json.dumps({"recommendation_directory": str(tmp_path / "r")}), *arguments],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (ran.returncode == 0) is succeeds, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_the_role_writes_tables_that_service_limits_accepts(tmp_path: Path) -> None:
    directory = tmp_path / "r"
    directory.mkdir()
    (directory / "history.jsonl").write_text(seeds())
    (directory / "throttling.json").write_text(
        json.dumps(on_nodes(**{name: ["kvm4"] for name in [*WANTED, *(f"small-{number}" for number in range(16))]}))
    )
    assert "All tasks want" in play(tmp_path, "--check")
    assert not (directory / "recommendation.json").exists()
    assert "changed=0" in play(tmp_path, "-e", "recommendation_margin=0.1")
    recommendation = json.loads((directory / "recommendation.json").read_text())
    assert recommendation["settings"]["margin"] == 0.1
    for name, cpus in (("recommended-limits.yml", 0.64), ("undo-limits.yml", 1.0)):
        tables = yaml.safe_load((directory / name).read_text())
        assert list(tables) == ["service_limits_table"]
        rows, errors = parse_table(tables["service_limits_table"])
        assert (len(rows), errors) == (21, [])
        row = next(row for row in rows if row.service == "backend-django-crm")
        assert row.limits["cpus"] == pytest.approx(cpus * 10**9, abs=10**7)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({}, "There is no history yet at"),
        ({"recommendation_prometheus_url": "ftp://here"}, "is not the address of a Prometheus"),
        ({"recommendation_prometheus_url": "http://127.0.0.1:1"}, "http://127.0.0.1:1 can't be asked"),
        ({"recommendation_percentile": "most"}, "recommendation_percentile"),
        ({"recommendation_weights": [1]}, "recommendation_weights"),
    ],
)
def test_the_role_says_what_is_missing(tmp_path: Path, extra: dict[str, Any], said: str) -> None:
    assert said in " ".join(play(tmp_path, "-e", json.dumps(extra), succeeds=False).split())

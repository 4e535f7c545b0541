# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof's pure parts: ledger, turns of two hosts, the matrix, the units as data, leaks."""

from __future__ import annotations

import base64
import json
import stat
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from lab import units
from lab.run import LabError
from lab.settings import from_environment
from lab.units import Deployment
from tests.faults import cell_run, cells, leaks, ledger, two_sides
from tests.faults.cells import BEFORE, FAULTS, THENS, WHOLE, Cell, FaultKind, Outcome
from tests.faults.ledger import Write
from tests.faults.rig import DURABLE, Play, Rig
from tests.faults.two_sides import Accepted

# --- ledger ---


def record(name: str, event: str, wall: float, path: str = "postgres") -> str:
    return json.dumps({"id": name, "path": path, "event": event, "mono": 0.0, "wall": wall})


def test_a_write_without_an_answer_is_unknown_and_a_cut_off_line_is_none() -> None:
    lines = [
        record("b", "begin", 2),
        record("a", "begin", 1),
        record("a", "ack", 1.5),
        record("b", "fail", 2.5),
        '{"id": "c"',
    ]
    assert ledger.parse(lines) == [Write("a", "postgres", 1, 1.5), Write("b", "postgres", 2, None)]


@pytest.mark.parametrize(
    ("held", "lost"),
    [
        ({"a", "b"}, {}),
        ({"a"}, {}),  # b is unknown: not there is as good as there
        (set(), {"postgres.direct_writes": ["a"]}),
    ],
)
def test_only_what_was_acknowledged_can_be_lost(held: set[str], lost: dict[str, list[str]]) -> None:
    writes = [Write("a", "postgres", 1, 2), Write("b", "postgres", 2, None)]
    verdict = ledger.compare(writes, {"postgres.direct_writes": held})
    assert verdict.lost == lost
    assert verdict.losses == len(lost)
    assert (verdict.acknowledged, verdict.unknown) == ({"postgres": 1}, {"postgres": 1})


@pytest.mark.parametrize("place", ledger.PLACES["api"])
def test_an_order_must_be_in_all_three_places(place: str) -> None:
    held = {each: {"a"} for each in ledger.PLACES["api"] if each != place}
    assert ledger.compare([Write("a", "api", 1, 2)], held).lost == {place: ["a"]}


def test_the_worker_owes_a_result_for_acknowledged_orders_only() -> None:
    writes = [Write("a", "api", 1, 2), Write("b", "api", 2, None), Write("c", "postgres", 2, 3)]
    assert ledger.owed(writes, {"postgres.results": {"a"}}) == {"media.results": ["a"]}


def test_the_outage_is_the_longest_time_between_two_acknowledgements_of_a_path() -> None:
    times = [1.0, 1.1, 4.1, 4.2]
    writes = [Write(str(at), "redis", at - 0.01, at) for at in times]
    writes += [Write("u", "redis", 2, None), Write("other", "api", 2, 2.5)]
    found = ledger.outage(writes, "redis")
    assert found is not None
    assert found.seconds == pytest.approx(3.0)
    assert (found.began, found.ended) == (1.1, 4.1)
    assert ledger.outage(writes, "api") is None


# --- two sides ---


def accepted(*writes: tuple[str, float, float]) -> list[Accepted]:
    return [Accepted(str(number), "probe-redis", *write) for number, write in enumerate(writes)]


ONE_HOST = accepted(("kvm4", 1, 2), ("kvm4", 3, 4))
MOVED = accepted(("kvm4", 1, 2), ("kvm4", 3, 4), ("kvm2", 5, 6), ("kvm2", 7, 8))
AND_BACK = [*MOVED, *accepted(("kvm4", 9, 10))]
# The answer of the source's last write came late: its time reaches over the target's first, and proves nothing.
LATE_ANSWER = accepted(("kvm4", 1, 2), ("kvm4", 3, 7), ("kvm2", 5, 6))
BOTH = accepted(("kvm4", 1, 1.1), ("kvm2", 1.2, 1.3), ("kvm4", 1.4, 1.5), ("kvm2", 1.6, 1.7))
TARGET_FIRST = accepted(("kvm2", 1, 2), ("kvm4", 3, 4))


@pytest.mark.parametrize(
    ("writes", "turns"),
    [([], 0), (ONE_HOST, 1), (MOVED, 2), (AND_BACK, 3), (LATE_ANSWER, 2), (BOTH, 4), (TARGET_FIRST, 2)],
)
def test_turns_are_those_that_the_times_prove(writes: list[Accepted], turns: int) -> None:
    assert len(two_sides.turns(writes)) == turns
    assert len(two_sides.turns(reversed(writes))) == turns


@pytest.mark.parametrize(
    ("writes", "promotions", "wrong"),
    [
        (ONE_HOST, 0, False),
        (MOVED, 1, False),
        (MOVED, 0, True),
        (AND_BACK, 2, False),
        (AND_BACK, 1, True),  # the source accepted after the target had, and nobody had reversed
        (BOTH, 1, True),
        (TARGET_FIRST, 1, True),
    ],
)
def test_hosts_take_turns_only_by_promotions_and_from_home(
    writes: list[Accepted], promotions: int, *, wrong: bool
) -> None:
    assert bool(two_sides.violations(writes, "kvm4", promotions)) == wrong


def test_paths_are_judged_apart() -> None:
    other = [Accepted("x", "probe-postgres", "kvm4", 5.5, 5.6)]
    assert two_sides.violations([*MOVED, *other], "kvm4", 1) == []


def test_the_handover_is_from_the_last_write_here_to_the_first_there() -> None:
    assert two_sides.handover(MOVED, "probe-redis") == 2
    assert two_sides.handover(ONE_HOST, "probe-redis") is None


def test_an_accepted_probe_is_a_write_that_must_not_be_lost() -> None:
    verdict = ledger.compare(two_sides.as_writes(ONE_HOST), {"redis.two_sides": {"0"}})
    assert verdict.lost == {"redis.two_sides": ["1"]}


def test_records_of_a_prober_are_read_but_for_a_cut_off_line() -> None:
    line = json.dumps({"id": "0", "path": "probe-redis", "host": "kvm4", "began": 1, "ended": 2})
    assert two_sides.parse([line, line[:-5]]) == ONE_HOST[:1]


# --- the matrix ---

STEPS = {verb: [(f"{verb}.{n}", 1.0) for n in ("a", "promotion")] for verb in BEFORE}


def test_every_step_meets_every_fault_and_every_way_on() -> None:
    found = cells.matrix(STEPS)
    assert len({cell.id for cell in found}) == len(found)
    by_step = Counter((cell.step, cell.then) for cell in found if cell.verb == "reverse" and cell.step != WHOLE)
    at_steps = [each for each in FAULTS if each.at == "step" and "reverse" in each.verbs]
    assert set(by_step.values()) == {len(at_steps)}
    assert set(by_step) == {(step, then) for step, _ in STEPS["reverse"] for then in THENS}
    assert {cell.fault.name for cell in found} == {fault.name for fault in FAULTS}


def test_a_step_that_has_one_name_in_two_verbs_makes_two_cells() -> None:
    found = [Cell(verb, "switch.a", FaultKind("redeploy"), "resume").id for verb in ("switch", "reverse")]
    assert found == ["switch.a/redeploy/resume", "reverse:switch.a/redeploy/resume"]


def test_a_fault_stays_with_its_verbs_and_steps() -> None:
    found = cells.matrix(STEPS)
    assert {cell.verb for cell in found if cell.fault.name == "populated"} == {"prepare"}
    assert {cell.step for cell in found if cell.fault.name == "disk-full-promoted"} == {"switch.promotion"}


def test_core_has_each_fault_at_each_step_once_and_all_ways_on() -> None:
    found = cells.matrix(STEPS)
    once = Counter((cell.verb, cell.step, cell.fault.name) for cell in cells.core(found))
    assert set(once.values()) == {1}
    assert len(once) == len(found) / len(THENS)
    assert {cell.then for cell in cells.core(found)} == set(THENS)


def test_a_run_that_ends_early_has_met_every_fault_in_every_verb() -> None:
    every = cells.matrix({verb: [(f"{verb}.{number}", 1.0) for number in range(9)] for verb in BEFORE})
    kinds = {(cell.fault.name, cell.verb) for cell in every}
    in_turns = cells.spread(every)
    assert Counter(in_turns) == Counter(every)
    assert {(cell.fault.name, cell.verb) for cell in in_turns[: len(kinds)]} == kinds
    first = [cell.step for cell in in_turns[: len(kinds)] if cell.step != WHOLE]
    assert len({step.partition(".")[2] for step in first}) > 5, "always the same steps first"
    assert cells.spread(reversed(every)) == in_turns


def test_fast_needs_no_move_before_and_begins_each_cell_where_the_last_one_ended() -> None:
    found = cells.fast()
    assert len({cell.fault.name for cell in found}) == len(found)
    after = {("switch", "resume"): "reverse", ("reverse", "resume"): "switch", ("reverse", "cancel"): "reverse"}
    assert [cell.verb for cell in found[1:]] == [after[cell.verb, cell.then] for cell in found[:-1]]


def test_next_comes_the_cell_that_begins_nearest_to_where_the_unit_stands() -> None:
    faults = {fault.name: fault for fault in FAULTS}
    cut, killed = faults["link-cut"], faults["kill-dockerd-kvm4"]
    prepare, switch, reverse = (Cell(verb, f"{verb}.a", cut, "resume") for verb in ("prepare", "switch", "reverse"))
    durable = Cell("reverse", "reverse.a", killed, "resume")
    rig = Rig(cast("Any", None), cast("Any", None), deployment("saleor", "api"), Path())
    every = [reverse, switch, prepare, durable]
    orders = []
    for stands in (None, ("switched", {}), ("copied", {}), ("cancelled", {}), ("switched", DURABLE)):
        rig.stands = stands and (stands[0], rig.with_env(stands[1]).deployed)
        orders.append(cell_run.nearest(rig, every))
    assert orders == [prepare, reverse, switch, prepare, durable]
    assert cell_run.way(rig, switch) is None


def test_steps_come_from_what_a_move_did() -> None:
    entries: list[dict[str, Any]] = [
        {"event": "intent", "verb": "switch", "step": "switch.a"},
        {"event": "did", "verb": "switch", "step": "switch.a", "seconds": 0.5},
        {"event": "did", "verb": "status", "step": "status.a", "seconds": 0.5},
        {"event": "failed", "verb": "switch", "step": "switch.b", "seconds": 0.5},
    ]
    assert cells.steps_of(entries) == {"switch": [("switch.a", 0.5)]}


def test_a_step_that_the_plan_did_not_say_is_told() -> None:
    done = {"switch": [("switch.a", 1.0), ("switch.b", 1.0)], "reverse": [("reverse.a", 1.0)]}
    assert cells.unplanned({"switch": [{"id": "switch.a"}]}, done) == ["switch.b"]


def test_the_table_counts_each_sets_cells_and_names_what_failed_or_was_not_hit() -> None:
    outcomes = [
        Outcome("switch.a/redeploy/resume", True, True, 10.0, [], {}),
        Outcome("switch.b/redeploy/resume", False, True, 20.0, ["lost 3"], {}),
        Outcome("switch.c/link-cut/cancel", True, False, 5.0, [], {}),
    ]
    every = [*(each.cell for each in outcomes), "switch.d/redeploy/resume"]
    shown = cells.table(outcomes, {"all": every, "core": every[:1]}).splitlines()
    assert "all: 4 cells, 3 run, 1 passed, 1 not hit, 1 failed, 1 never run; 35 seconds" in shown
    assert "core: 1 cells, 1 run, 1 passed, 0 not hit, 0 failed, 0 never run; 10 seconds" in shown
    assert any(line.split() == ["redeploy", "1/2", "–", "–"] for line in shown)
    assert any(line.split() == ["link-cut", "–", "–", "0/1"] for line in shown)
    assert "NOT HIT switch.c/link-cut/cancel" in shown
    assert "FAILED switch.b/redeploy/resume: lost 3" in shown


def test_a_run_says_what_the_module_said_last_of_a_unit(tmp_path: Path) -> None:
    looked, refused = {"phase": "switched"}, {"phase": "switched", "error": {"code": "wrong_phase"}}
    results = [{"lines": [], "units": {"shop": looked}}, {"lines": [], "units": {"shop": refused}, "failed": True}]
    tasks = [{"hosts": {"kvm4": each}} for each in [*results, {"msg": "where things stand"}]]
    log = tmp_path / "run.log"
    log.write_text("a warning\n" + json.dumps({"plays": [{"tasks": tasks}]}, indent=4))
    play = Play("cancel", cast("Any", None), log)
    assert play.unit("shop") == refused
    assert play.unit("other") == {}


# --- units as data ---


def deployment(unit: str, way: str) -> Deployment:
    images = {name: f"registry:5000/{name}@sha256:1" for name in ("unit-postgres", "unit-redis", "unit-app")}
    return Deployment(unit, way, images, {role: f"word-of-{role}" for role in units.load()[unit]})


def test_a_units_passwords_are_made_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = cast("Any", SimpleNamespace(directory=tmp_path))
    file = tmp_path / "unit-saleor.json"

    def broken_off(*_about: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(json, "dump", broken_off)
        units.passwords(lab, "saleor")
    assert not list(tmp_path.iterdir())
    made = units.passwords(lab, "saleor")
    assert list(made) == list(units.load()["saleor"])
    assert len(set(made.values())) == len(made)
    assert units.passwords(lab, "saleor") == made
    assert list(tmp_path.iterdir()) == [file]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_of_two_runs_that_make_passwords_both_have_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = cast("Any", SimpleNamespace(directory=tmp_path))
    file, dump = tmp_path / "unit-saleor.json", json.dump

    def other_first(*about: Any) -> None:
        file.write_text('{"postgres": "word-of-the-other"}')
        dump(*about)

    monkeypatch.setattr(json, "dump", other_first)
    assert units.passwords(lab, "saleor") == {"postgres": "word-of-the-other"}


@pytest.mark.parametrize("unit", units.load())
def test_names_differ_by_way_and_nothing_is_left_to_fill_in(unit: str) -> None:
    names = [deployment(unit, way).service(role) for way in units.WAYS for role in units.load()[unit]]
    assert len(set(names)) == len(names)
    for way in units.WAYS:
        text = json.dumps([deployment(unit, way).environment(role) for role in units.load()[unit]])
        assert "!password" not in text
        assert "{" not in text.replace('{"', "").replace("{}", "")


def test_dokploys_shape_has_the_traps_that_a_move_must_see() -> None:
    spec = deployment("saleor", "dokploy").spec("postgres")
    assert spec["TaskTemplate"]["Placement"]["Constraints"] == ["node.role==manager"]
    assert spec["UpdateConfig"]["FailureAction"] == "rollback"
    worker = deployment("saleor", "dokploy").spec("worker")
    assert (worker["UpdateConfig"]["Order"], len(worker["TaskTemplate"]["ContainerSpec"]["Mounts"])) == (
        "start-first",
        1,
    )
    assert spec["TaskTemplate"]["ContainerSpec"]["Mounts"][0]["Source"] == f"{spec['Name']}-data"
    assert deployment("saleor", "dokploy").spec("redis")["TaskTemplate"]["ContainerSpec"]["Args"][:2] == ["sh", "-c"]


def test_a_stack_has_its_database_password_as_a_secret_only() -> None:
    compose = deployment("saleor", "stack").compose()
    postgres = compose["services"]["postgres"]
    [secret] = postgres["secrets"]
    assert postgres["environment"]["POSTGRES_PASSWORD_FILE"] == f"/run/secrets/{secret}"
    assert "word-of-postgres" not in json.dumps(postgres)
    assert compose["services"]["redis"]["command"][2].startswith("redis-server --requirepass $$REDIS_PASSWORD")
    assert all(each["deploy"]["endpoint_mode"] == "dnsrr" for each in compose["services"].values())


def test_a_shared_volume_is_one_volume() -> None:
    for way in units.WAYS:
        saleor = deployment("saleor", way)
        assert len(saleor.volumes()) == 3
        assert saleor.volumes(["worker"]) == saleor.volumes(["api"])


def test_a_database_may_stay_where_it_is() -> None:
    move = deployment("temporal", "api").inventory(leave=["postgres"])["migration_units"]["temporal"]
    assert [member["service"] for member in move["members"]] == ["temporal-server", "temporal-ui"]
    assert yaml.safe_load(yaml.safe_dump(move)) == move


@pytest.mark.parametrize("size", ["3g", "2500m"])
def test_a_labs_disk_has_a_size(size: str) -> None:
    assert from_environment({"LAB_DISK": size}).disk == size


@pytest.mark.parametrize("size", ["3", "3gb", "0g", "lots"])
def test_a_labs_disk_without_a_size_is_refused(size: str) -> None:
    with pytest.raises(LabError, match="LAB_DISK"):
        from_environment({"LAB_DISK": size})


# --- leaks ---


def test_a_secret_is_found_as_it_is_and_in_base64() -> None:
    secrets = {"a's password": "planted-a-1234567890"}
    encoded = base64.b64encode(b"planted-a-1234567890").decode()
    texts = [("here", "x planted-a-1234567890 y"), ("there", encoded), ("nowhere", "planted-b")]
    assert leaks.in_texts(texts, secrets) == ["a's password in here", "a's password in there"]


@pytest.mark.parametrize(
    ("argv", "service", "own"),
    [
        (["redis-server", "--requirepass", "x"], "saleor-redis", True),
        (["redis-server", "--requirepass", "x"], "evenkeel-saleor-redis-kvm2", False),
        (["redis-cli", "-a", "x"], "saleor-redis", False),
    ],
)
def test_only_the_units_own_redis_may_have_its_password_in_argv(argv: list[str], service: str, *, own: bool) -> None:
    assert leaks.own_command(argv, service, deployment("saleor", "api")) == own


def test_dokploy_has_no_two_databases_on_one_directory() -> None:
    """Redeployed start-first a PostgreSQL lost its own checkpoint record, with no move in sight."""
    specs = {role: deployment("saleor", "dokploy").spec(role) for role in units.load()["saleor"]}
    orders = {role: spec["UpdateConfig"]["Order"] for role, spec in specs.items()}
    first = "start-first"
    assert orders == {"postgres": "stop-first", "redis": "stop-first", "worker": first, "api": first}

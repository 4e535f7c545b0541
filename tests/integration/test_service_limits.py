"""service_limits and service_limits_info on a real Swarm: what the foundation promises, one test a promise."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lab.settings import PROJECT
from tests.integration.harness import Ansible, Spec, Swarm, wait_for, without_limits

MIB = 1024**2
MODULE = "service_limits"
KILL_LOCK_HOLDER = r"""
for lock in /run/lock/evenkeel-service-limits-*.lock; do
    inode=$(stat -c %i "$lock")
    awk -v inode="$inode" '$2 == "FLOCK" && $6 ~ ":" inode "$" {print $5}' /proc/locks | xargs -r kill -KILL
done
"""


def row(name: str, *, replicas: int | None = None, **limits: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"service": name}
    if limits:
        made["limits"] = limits
    if replicas is not None:
        made["replicas"] = replicas
    return made


def rows_by_service(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["service"]: each for each in result["services"]}


def limits_of(swarm: Swarm, name: str) -> dict[str, int]:
    resources: Spec = swarm.specs()[name]["TaskTemplate"].get("Resources") or {}
    limits: dict[str, int] = resources.get("Limits") or {}
    return limits


def rich(spec: Spec) -> None:
    """Everything that a careless update loses."""
    container = spec["TaskTemplate"]["ContainerSpec"]
    container["Env"] = ["A=1", "B=two words"]
    container["Labels"] = {"inside": "yes"}
    container["Mounts"] = [{"Type": "tmpfs", "Target": "/scratch", "TmpfsOptions": {"SizeBytes": 1024 * 1024}}]
    container["Healthcheck"] = {"Test": ["CMD", "true"], "Interval": 1_000_000_000}
    container["DNSConfig"] = {"Options": ["timeout:1"]}
    container["Hosts"] = ["192.0.2.1 example.test"]
    spec["TaskTemplate"]["Networks"] = [{"Target": "dokploy-network", "Aliases": ["alias-of-it"]}]
    spec["TaskTemplate"]["Placement"]["Preferences"] = [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}]
    spec["TaskTemplate"]["Placement"]["MaxReplicas"] = 2
    spec["TaskTemplate"]["LogDriver"] = {"Name": "json-file", "Options": {"max-size": "1m"}}
    spec["TaskTemplate"]["Resources"] = {
        "Limits": {"Pids": 50, "MemoryBytes": 128 * MIB},
        "Reservations": {"MemoryBytes": 16 * MIB, "NanoCPUs": 10_000_000},
    }


def with_a_bind_mount(spec: Spec) -> None:
    spec["TaskTemplate"]["ContainerSpec"]["Mounts"] = [{"Type": "bind", "Source": "/srv", "Target": "/mnt"}]


def test_check_mode_predicts_what_the_run_does_and_the_second_run_does_nothing(
    ansible: Ansible, swarm: Swarm, service: Callable[..., str]
) -> None:
    one, two = service("one"), service("two", replicas=2)
    table = [row(one, cpus="0.25", memory="64M", pids=40), row(two, replicas=1, cpus=2.01 / 3)]
    before = swarm.specs()
    predicted = ansible.module("kvm4", MODULE, {"table": table}, check=True)
    assert swarm.specs() == before
    done = ansible.module("kvm4", MODULE, {"table": table})
    for result in (predicted, done):
        assert result["changed"] is True
    facts = ("service", "id", "row", "before", "after", "changed", "stateful")
    assert [{key: each[key] for key in facts} for each in predicted["services"]] == [
        {key: each[key] for key in facts} for each in done["services"]
    ]
    assert predicted["diff"]
    assert {each["state"] for each in done["services"]} == {"converged"}
    assert limits_of(swarm, one) == {"NanoCPUs": 250_000_000, "MemoryBytes": 64 * MIB, "Pids": 40}
    assert limits_of(swarm, two) == {"NanoCPUs": 670_000_000}
    again = ansible.module("kvm4", MODULE, {"table": table})
    assert again["changed"] is False
    assert not again["diff"]


def test_nothing_but_resources_changes_in_a_spec(ansible: Ansible, swarm: Swarm, service: Callable[..., str]) -> None:
    name = service(edit=rich)
    before = swarm.specs()[name]
    result = ansible.module("kvm4", MODULE, {"table": [row(name, cpus=0.5)]})
    assert rows_by_service(result)[name]["state"] == "converged"
    after = swarm.specs()[name]
    assert without_limits(after) == without_limits(before)
    # CPU alone was in the row: memory, pids and reservations survive it.
    expected = {**before["TaskTemplate"]["Resources"]["Limits"], "NanoCPUs": 500_000_000}
    assert after["TaskTemplate"]["Resources"]["Limits"] == expected
    assert after["TaskTemplate"]["Resources"]["Reservations"] == before["TaskTemplate"]["Resources"]["Reservations"]
    removed = ansible.module("kvm4", MODULE, {"table": [row(name, cpus="unlimited")]})
    assert removed["changed"] is True
    assert "NanoCPUs" not in limits_of(swarm, name)
    assert limits_of(swarm, name)["Pids"] == 50


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"cpus": 64}, ["limits.cpus", "kvm4", "CPU"]),
        ({"memory": "8M"}, ["limits.memory", "use"]),
    ],
)
def test_a_limit_that_no_task_could_live_with_is_refused_before_anything_changes(
    ansible: Ansible, swarm: Swarm, service: Callable[..., str], limits: dict[str, Any], said: list[str]
) -> None:
    ballast = ["python3", "-c", "import time; b = b'x' * (64 << 20); time.sleep(1e9)"]
    name, other = service("big", command=ballast), service("other")
    wait_for(lambda: _memory(ansible, name) > 60 * MIB, 20, "ballast in memory")
    before = swarm.specs()
    result = ansible.module("kvm4", MODULE, {"table": [row(name, **limits), row(other, cpus=0.5)]})
    assert result["failed"]
    assert all(word in result["msg"] for word in [name, *said]), result["msg"]
    assert swarm.specs() == before


def _memory(ansible: Ansible, name: str) -> int:
    look = ansible.module("kvm4", "throttling_info", {"window": 0})
    return max(int(each["memory"]["working_set"]) for each in look["services"] if each["service"] == name)


def test_a_reservation_that_no_node_can_hold_is_refused(
    ansible: Ansible, swarm: Swarm, service: Callable[..., str]
) -> None:
    name = service()
    before = swarm.specs()
    table = [{"service": name, "reservations": {"memory": "900G"}}]
    result = ansible.module("kvm4", MODULE, {"table": table})
    assert result["failed"]
    assert name in result["msg"]
    assert "reservations" in result["msg"]
    assert swarm.specs() == before


@pytest.fixture
def doomed(service: Callable[..., str]) -> str:
    """A service that only Docker can know will die under the limit: it grows after the start."""
    return service("m-doomed", command=["python3", "-c", "import time; b = b'x' * (96 << 20); time.sleep(1e9)"])


@pytest.mark.parametrize("failure_action", ["pause", "rollback", "continue"])
def test_a_failed_service_is_reported_with_its_own_error_and_all_is_put_back(
    ansible: Ansible, swarm: Swarm, service: Callable[..., str], failure_action: str
) -> None:
    ballast = ["python3", "-c", "import time; b = b'x' * (96 << 20); time.sleep(1e9)"]
    doomed, good = service("m-doomed", command=ballast, failure_action=failure_action), service("a-good")
    before = swarm.specs()
    table = [row(good, cpus=0.5), row(doomed, memory="20M")]
    result = ansible.module(
        "kvm4", MODULE, {"table": table, "allow_memory_below_use": True, "timeout": 60, "parallel": 1}
    )
    assert result["failed"]
    rows = rows_by_service(result)
    assert rows[doomed]["error"]
    assert "exit" in rows[doomed]["error"].lower()
    assert {rows[good]["state"], rows[doomed]["state"]} == {"rolled_back"}
    assert {name: spec["TaskTemplate"] for name, spec in swarm.specs().items()} == {
        name: spec["TaskTemplate"] for name, spec in before.items()
    }
    swarm.wait_running(doomed)


def test_keep_going_changes_the_others_and_still_fails(
    ansible: Ansible, swarm: Swarm, service: Callable[..., str], doomed: str
) -> None:
    good = service("z-good")
    table = [row(good, cpus=0.5), row(doomed, memory="20M")]
    options = {"allow_memory_below_use": True, "timeout": 60, "on_failure": "keep_going", "parallel": 1}
    result = ansible.module("kvm4", MODULE, {"table": table, **options})
    assert result["failed"]
    assert rows_by_service(result)[good]["state"] == "converged"
    assert limits_of(swarm, good) == {"NanoCPUs": 500_000_000}
    assert limits_of(swarm, doomed) == {}


def test_stop_leaves_what_was_done_and_begins_nothing_more(
    ansible: Ansible, swarm: Swarm, service: Callable[..., str], doomed: str
) -> None:
    # Stateful services come last and alone, so this one must wait for the other's verdict.
    later = service("z-later", edit=with_a_bind_mount)
    table = [row(later, cpus=0.5), row(doomed, memory="20M")]
    options = {"allow_memory_below_use": True, "timeout": 60, "on_failure": "stop", "parallel": 1}
    result = ansible.module("kvm4", MODULE, {"table": table, **options})
    assert result["failed"]
    assert rows_by_service(result)[later]["state"] == "skipped"
    assert limits_of(swarm, later) == {}


def test_another_writer_in_a_loop_loses_nothing_and_costs_nothing(
    ansible: Ansible, swarm: Swarm, service: Callable[..., str]
) -> None:
    names = [service(f"s{number}") for number in range(3)]
    written = dict.fromkeys(names, 0)
    stop = threading.Event()

    def write_labels() -> None:
        while not stop.is_set():
            for name in names:
                count = written[name] + 1
                swarm.update(name, lambda spec, value=count: spec["Labels"].update(writer=str(value)))  # type: ignore[misc]
                written[name] = count

    writer = threading.Thread(target=write_labels)
    writer.start()
    try:
        result = ansible.module("kvm4", MODULE, {"table": [row(name, cpus=0.5) for name in names]})
    finally:
        stop.set()
        writer.join()
    assert not result.get("failed"), result.get("msg")
    assert min(written.values()) > 5, "the other writer hardly wrote: this run proved nothing"
    specs = swarm.specs()
    for name in names:
        assert specs[name]["Labels"]["writer"] == str(written[name])
        assert limits_of(swarm, name) == {"NanoCPUs": 500_000_000}


def test_killed_half_way_and_run_again_it_converges(
    ansible: Ansible, swarm: Swarm, service: Callable[..., str], on_host: Callable[..., str]
) -> None:
    names = [service(f"s{number}", replicas=2) for number in range(4)]
    arguments = {"table": [row(name, cpus=0.5) for name in names], "parallel": 1}
    argv = ansible.module_argv("kvm4", MODULE, arguments)
    first = subprocess.Popen(
        argv, cwd=PROJECT, env=ansible.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: any(limits_of(swarm, name) for name in names), 30, "a first changed service")
    first.send_signal(signal.SIGKILL)
    first.wait()
    # The controller is dead; now the module on the host, as a reboot would have it. It is who holds the lock.
    on_host("kvm4", KILL_LOCK_HOLDER)
    touched = [name for name in names if limits_of(swarm, name)]
    assert len(touched) < len(names), "the kill came too late to prove anything"
    again = ansible.module("kvm4", MODULE, arguments)
    assert not again.get("failed"), again.get("msg")
    assert {each["state"] for each in again["services"]} <= {"converged", "unchanged"}
    for name in names:
        assert limits_of(swarm, name) == {"NanoCPUs": 500_000_000}
        assert len(swarm.running(name)) == 2
    assert ansible.module("kvm4", MODULE, arguments)["changed"] is False


def test_two_operators_at_once_do_not_interleave(ansible: Ansible, swarm: Swarm, service: Callable[..., str]) -> None:
    names = [service(f"s{number}") for number in range(3)]
    arguments = {"table": [row(name, cpus=0.5) for name in names], "parallel": 1}
    argv = ansible.module_argv("kvm4", MODULE, arguments)
    first = subprocess.Popen(
        argv, cwd=PROJECT, env=ansible.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: any(limits_of(swarm, name) for name in names), 30, "a first changed service")
    other = {"table": [row(name, cpus=0.4) for name in names]}
    impatient = ansible.module("kvm4", MODULE, {**other, "timeout": 0.1})
    assert impatient["failed"]
    assert "another run" in impatient["msg"]
    patient = ansible.module("kvm4", MODULE, other)
    assert not patient.get("failed"), patient.get("msg")
    assert first.wait() == 0
    assert {each["before"]["limits"]["cpus"] for each in patient["services"]} == {0.5}
    assert [limits_of(swarm, name) for name in names] == [{"NanoCPUs": 400_000_000}] * 3


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([{"service": "{}", "limts": {"cpus": 1}}], ["row 1", "limts"]),
        ([{"service": "{}", "limits": {"cpu": 1}}], ["row 1", "cpu"]),
        ([{"service": "{}", "limits": {"cpus": 1}}] * 2, ["row 1", "row 2"]),
        ([{"glob": "{}*", "limits": {"cpus": 1}}, {"glob": "*{}", "limits": {"cpus": 1}}], ["row 1", "row 2", "{}"]),
        ([{"service": "no-such-service", "limits": {"cpus": 1}}], ["row 1", "no-such-service"]),
        ([{"glob": "no-such-*", "limits": {"cpus": 1}}], ["row 1", "no-such-*"]),
        ([{"service": "{}", "limits": {"cpus": "0.5x"}}], ["row 1", "limits.cpus", "0.5x"]),
        ([{"service": "{}", "limits": {"cpus": "-1"}}], ["row 1", "limits.cpus", "-1"]),
        ([{"service": "{}", "limits": {"cpus": "1e400"}}], ["row 1", "limits.cpus", "1e400"]),
        ([{"service": "{}", "limits": {"cpus": 0}}], ["row 1", "limits.cpus", "unlimited"]),
        ([{"service": "{}", "limits": {"memory": "512"}}], ["row 1", "limits.memory", "512"]),
        ([{"service": "{}", "limits": {"memory": "0.5x"}}], ["row 1", "limits.memory", "0.5x"]),
        (
            [{"service": "{}", "limits": {"cpus": 0.1}, "reservations": {"cpus": 0.2}}],
            ["row 1", "limits.cpus", "reservation"],
        ),
        ([{"service": "{}", "replicas": -1}], ["row 1", "replicas"]),
        ([{"service": "{}"}], ["row 1"]),
        ([{"limits": {"cpus": 1}}], ["row 1", "service"]),
        ([], ["table"]),
    ],
)
def test_bad_input_names_row_and_field_and_changes_nothing(
    ansible: Ansible, swarm: Swarm, table: list[dict[str, Any]], said: list[str]
) -> None:
    name = "frontend-admin-dashboard"
    filled = [{key: _fill(value, name) for key, value in each.items()} for each in table]
    before = swarm.specs()
    result = ansible.module("kvm4", MODULE, {"table": filled})
    assert result["failed"]
    for word in said:
        assert word.format(name) in result["msg"], result["msg"]
    assert swarm.specs() == before


def _fill(value: Any, name: str) -> Any:
    return value.format(name) if isinstance(value, str) else value


def test_a_worker_is_not_asked(ansible: Ansible) -> None:
    result = ansible.module("kvm2", MODULE, {"table": [row("x", cpus=1)]})
    assert result["failed"]
    assert result["error"]["code"] == "not_a_manager"
    assert "manager" in result["msg"]


def test_an_engine_that_is_down_is_named(ansible: Ansible) -> None:
    result = ansible.module("kvm4", MODULE, {"table": [row("x", cpus=1)], "docker_host": "unix:///run/no-engine.sock"})
    assert result["failed"]
    assert "unix:///run/no-engine.sock" in result["msg"]


def test_a_missing_sdk_is_named(ansible: Ansible, on_host: Callable[..., str]) -> None:
    # -S leaves the distribution's packages, the SDK among them, out of the path.
    on_host(
        "kvm4",
        "printf '#!/bin/sh\\nexec /usr/bin/python3 -S \"$@\"\\n' > /usr/local/bin/python-bare;"
        " chmod +x /usr/local/bin/python-bare",
    )
    arguments = {"table": [row("x", cpus=1)]}
    result = ansible.module("kvm4", MODULE, arguments, ansible_python_interpreter="/usr/local/bin/python-bare")
    assert result["failed"]
    assert "docker" in result["msg"]
    assert "python3-docker" in result["msg"]


def test_a_wrong_python_is_named(ansible: Ansible) -> None:
    arguments = {"table": [row("x", cpus=1)]}
    result = ansible.module("kvm4", MODULE, arguments, ansible_python_interpreter="/usr/bin/python3.4")
    assert result["failed"]
    assert "/usr/bin/python3.4" in str(result)


def test_a_redeploy_is_seen_as_drift_and_put_back(ansible: Ansible, swarm: Swarm, service: Callable[..., str]) -> None:
    name = service()
    table = [row(name, cpus=0.25, memory="64M")]
    ansible.module("kvm4", MODULE, {"table": table})
    clean = ansible.module("kvm4", "service_limits_info", {"table": table})
    assert clean["drifted"] == []

    def redeploy(spec: Spec) -> None:
        spec["TaskTemplate"]["Resources"] = {}
        spec["TaskTemplate"]["ForceUpdate"] = spec["TaskTemplate"].get("ForceUpdate", 0) + 1

    swarm.update(name, redeploy)
    seen = ansible.module("kvm4", "service_limits_info", {"table": table})
    assert seen["drifted"] == [name]
    mine = next(each for each in seen["services"] if each["service"] == name)
    assert mine["drift"]["limits.cpus"] == {"expected": 0.25, "actual": None}
    assert ansible.module("kvm4", MODULE, {"table": table})["changed"] is True
    assert ansible.module("kvm4", "service_limits_info", {"table": table})["drifted"] == []


def test_totals_are_what_the_tasks_add_up_to(ansible: Ansible, swarm: Swarm) -> None:
    info = ansible.module("kvm4", "service_limits_info", {})
    assert not info.get("failed"), info.get("msg")
    specs = swarm.specs()
    expected = 0.0
    for name, spec in specs.items():
        cpus = ((spec["TaskTemplate"].get("Resources") or {}).get("Limits") or {}).get("NanoCPUs", 0) / 1e9
        expected += cpus * len(swarm.running(name))
    assert info["totals"]["limits_cpus"] == pytest.approx(expected)
    assert sum(node["limits_cpus"] for node in info["nodes"]) == pytest.approx(expected)
    for node in info["nodes"]:
        assert node["oversubscription"] == pytest.approx(node["limits_cpus"] / node["cpus"], abs=0.01)

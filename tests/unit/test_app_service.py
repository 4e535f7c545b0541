# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One service with its files: names, comparison, verdicts. And the resources that it gets from a table."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.filter.service_resources import service_resources
from ansible_collections.evenkeel.swarm.plugins.module_utils._app_service import (
    TASK_LABEL,
    config_file,
    holds,
    judge,
    leftovers,
    object_body,
    secret_file,
    shown,
    wanted_spec,
    with_ids,
)

SPEC: dict[str, Any] = {
    "TaskTemplate": {"ContainerSpec": {"Image": "x:1", "Env": ["A=1"]}},
    "Mode": {"Replicated": {"Replicas": 1}},
}
CONFIG = config_file("app", "config", "/etc/app.yml", "a: 1\n")
SECRET = secret_file("app", "word", "word", "open sesame", "swarm-1")


def wanted(**container: Any) -> dict[str, Any]:
    spec = copy.deepcopy(SPEC)
    spec["TaskTemplate"]["ContainerSpec"] |= container
    return dict(wanted_spec("app", spec, [CONFIG, SECRET], "7"))


def test_a_name_follows_its_content_and_a_secrets_also_its_swarm() -> None:
    assert config_file("app", "config", "/etc/app.yml", "a: 2\n").name != CONFIG.name
    assert secret_file("app", "word", "word", "open sesame", "swarm-1") == SECRET
    others = {secret_file("app", "word", "word", *pair).name for pair in (("open sesame", "s2"), ("shut", "swarm-1"))}
    assert SECRET.name not in others
    assert "sesame" not in SECRET.name
    with pytest.raises(ValueError, match="64 characters"):
        config_file("a" * 60, "config", "/x", "")


def test_what_the_engine_adds_is_no_difference_and_what_is_missing_is() -> None:
    spec = wanted()
    actual = with_ids(spec, {CONFIG.name: "id1", SECRET.name: "id2"})
    actual["TaskTemplate"]["ForceUpdate"] = 0
    actual["TaskTemplate"]["ContainerSpec"]["Isolation"] = "default"
    assert holds(spec, actual)
    assert not holds(wanted(Env=["A=2"]), actual)
    # Wanted no longer: only the labels with the hashes can tell.
    less = copy.deepcopy(SPEC)
    del less["TaskTemplate"]["ContainerSpec"]["Env"]
    assert not holds(wanted_spec("app", less, [CONFIG, SECRET], "7"), actual)
    assert holds({"a": [], "b": "", "c": {}}, {"a": None}) and not holds({"a": [1]}, {"a": None})


def test_a_label_of_the_service_alone_leaves_its_tasks_alone() -> None:
    labelled = {**copy.deepcopy(SPEC), "Labels": {"traefik.enable": "true"}}
    labels = [
        each["TaskTemplate"]["ContainerSpec"]["Labels"][TASK_LABEL]
        for each in (wanted(), wanted_spec("app", labelled, [CONFIG, SECRET], "7"))
    ]
    assert labels[0] == labels[1]


def test_a_diff_shows_contents_of_configs_and_of_secrets_only_names() -> None:
    text = str(shown(wanted(), wanted(), {CONFIG.name: CONFIG.content}))
    assert "a: 1" in text and SECRET.name in text
    assert "sesame" not in text and TASK_LABEL not in text
    assert object_body(CONFIG, "app")["Data"] == "YTogMQo="


def test_only_what_was_made_for_the_service_is_left_over() -> None:
    def item(name: str, owner: str) -> dict[str, Any]:
        return {"Spec": {"Name": name, "Labels": {"evenkeel.app": owner}}}

    objects = [item("app-old", "app"), item(CONFIG.name, "app"), item("other-old", "other"), {"Spec": {"Name": "x"}}]
    assert [each["Spec"]["Name"] for each in leftovers(objects, "app", [CONFIG.name])] == ["app-old"]


def task(state: str, desired: str = "running", *, old: bool = False, error: str = "") -> dict[str, Any]:
    container = wanted()["TaskTemplate"]["ContainerSpec"]
    labels = {TASK_LABEL: "before"} if old else container["Labels"]
    status = {"State": state, "Err": error}
    spec, node = {"ContainerSpec": {"Labels": labels}}, "" if state == "pending" else "n1"
    return {"Spec": spec, "Status": status, "DesiredState": desired, "NodeID": node, "CreatedAt": "1"}


@pytest.mark.parametrize(
    ("status", "tasks", "state"),
    [
        ({}, [], "waiting"),
        ({}, [task("starting")], "waiting"),
        ({}, [task("running")], "converged"),
        ({}, [task("running", old=True)], "waiting"),
        ({}, [task("running", "shutdown", old=True), task("running")], "waiting"),
        # Waited for a port that only came free as its version was taken back: nobody clears it away.
        ({}, [task("pending", "shutdown", old=True), task("running")], "converged"),
        ({}, [task("pending", "ready", old=True), task("running")], "waiting"),
        ({"State": "updating", "StartedAt": "2"}, [task("running")], "waiting"),
        (
            {"State": "completed", "StartedAt": "2"},
            [task("running"), task("shutdown", "shutdown", old=True)],
            "converged",
        ),
        ({"State": "rollback_completed", "StartedAt": "2"}, [task("running"), task("failed", old=True)], "failed"),
        # Seen on Docker 20.10: it says so while the version of before waits for its start.
        ({"State": "rollback_completed", "StartedAt": "2"}, [task("ready", "ready")], "waiting"),
        ({"State": "rollback_completed", "StartedAt": "1"}, [task("running")], "converged"),  # of an earlier update
        ({"State": "rollback_started", "StartedAt": "2"}, [], "waiting"),
        ({"State": "paused", "StartedAt": "2"}, [task("failed", "shutdown", error="no")], "failed"),
        ({}, [task("failed", "shutdown", error="no")] * 3, "failed"),
    ],
)
def test_an_update_has_come_to_its_end_or_not(status: dict[str, str], tasks: list[Any], state: str) -> None:
    verdict = judge({"Spec": wanted(), "UpdateStatus": status}, tasks, "1")
    assert verdict.state == state
    if "no" in [each["Status"]["Err"] for each in tasks]:
        assert "no" in verdict.message


def test_a_wait_says_what_the_tasks_do_where_they_have_no_error() -> None:
    tasks = [task("running"), task("ready", "shutdown", old=True), task("shutdown", "shutdown", old=True)]
    said = "a task as wanted is running and shall be running; a task of another version is ready and shall be shutdown"
    assert judge({"Spec": wanted()}, tasks, None).message == said
    assert judge({"Spec": wanted()}, [], None).message == "it has no task"


OWN = {"limits": {"cpus": 1, "memory": "1G"}, "reservations": {"memory": "256M"}}


@pytest.mark.parametrize(
    ("table", "limits"),
    [
        ([], {"NanoCPUs": 10**9, "MemoryBytes": 2**30}),
        ([{"service": "other", "limits": {"cpus": 3}}], {"NanoCPUs": 10**9, "MemoryBytes": 2**30}),
        ([{"glob": "a*", "limits": {"cpus": 3}}], {"NanoCPUs": 3 * 10**9, "MemoryBytes": 2**30}),
        (
            [{"glob": "a*", "limits": {"cpus": 3}}, {"service": "app", "limits": {"memory": "2G", "pids": 9}}],
            {"NanoCPUs": 10**9, "MemoryBytes": 2**31, "Pids": 9},
        ),
    ],
)
def test_the_tables_row_comes_before_the_services_own(table: list[Any], limits: dict[str, int]) -> None:
    assert service_resources(table, "app", OWN) == {"Limits": limits, "Reservations": {"MemoryBytes": 2**28}}


@pytest.mark.parametrize(
    ("table", "own", "said"),
    [
        ([], {"limits": {"cpus": "much"}}, "limits.cpus"),
        ([{"service": "app", "limits": {"memory": "100M"}}], OWN, "reservations.memory"),
        ([{"service": "app", "limit": {}}], OWN, "limit"),
    ],
)
def test_resources_that_make_no_sense_are_refused(table: list[Any], own: dict[str, Any], said: str) -> None:
    with pytest.raises(AnsibleFilterError, match=said):
        service_resources(table, "app", own)

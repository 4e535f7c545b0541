# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers as Swarm jobs: what the gateway allows, what tasks say, how a log is read."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from job_launcher import templates
from job_launcher.execution.executor import Job
from job_launcher.execution.swarm_jobs import Errors, Frames, job_name, job_state, request, service_spec
from job_launcher.refused import Refused

KNOWN = templates.load(
    {
        "far": {
            "argv": ["work", "{n}"],
            "env": {"MODE": "{mode}", "FIXED": "1"},
            "parameters": {
                "n": {"type": "integer", "minimum": 1, "maximum": 9},
                "mode": {"type": "choice", "choices": ["a", "b"]},
            },
            "executor": "swarm",
            "image": "registry.example.org/work:1",
            "constraints": ["node.role==worker"],
            "cpus": 0.5,
            "memory": 64,
        },
        "near": {"argv": ["true"]},
    }
)
JOB = Job(
    *("r_abc", "u_abc", 1, 2, 3, KNOWN["far"], ["work", "5"], {"MODE": "a", "FIXED": "1"}),
    timeout=10,
    idle_timeout=0,
    term_grace=2.5,
    limits={"open_files": 100, "rss_kill": 900, "cpu_time": 0},
)


def test_a_job_has_its_templates_image_node_and_limits() -> None:
    spec = service_spec("launcher", job_name(JOB), KNOWN, request(JOB))
    template = spec["TaskTemplate"]
    container = template["ContainerSpec"]
    assert spec["Name"] == "launcher-u-abc-2"
    assert spec["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}}
    assert (container["Image"], container["Command"]) == ("registry.example.org/work:1", ["work", "5"])
    assert {"MODE=a", "FIXED=1", "LAUNCHER_UNIT_ID=u_abc", "LAUNCHER_REPORT_FD=2"} <= set(container["Env"])
    assert template["Placement"] == {"Constraints": ["node.role==worker"]}
    assert template["Resources"] == {"Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 64 * 2**20}}
    assert container["Ulimits"] == [{"Name": "nofile", "Soft": 100, "Hard": 100}]
    assert container["StopGracePeriod"] == 2_500_000_000
    assert "Mounts" not in container


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"template": "near"}, "template"),
        ({"template": "none"}, "template"),
        ({"argv": ["sh", "5"]}, "argv"),
        ({"argv": ["work", "5", "x"]}, "argv"),
        ({"argv": "work 5"}, "argv"),
        ({"env": {}}, "env"),
        ({"env": {**request(JOB)["env"], "LD_PRELOAD": "/x"}}, "env"),
        ({"env": {**request(JOB)["env"], "FIXED": "2"}}, "env"),
        ({"term_grace": 301}, "term_grace"),
        ({"term_grace": True}, "term_grace"),
        ({"limits": {"rss_kill": -1}}, "limits"),
        ({"image": "evil"}, "must be"),
    ],
)
def test_what_no_template_allows_is_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused, match=field):
        service_spec("launcher", "x", KNOWN, {**copy.deepcopy(request(JOB)), **change})


def task(state: str, code: int | None = None, *, owner: str = "launcher", created: str = "1") -> dict[str, Any]:
    container = {} if code is None else {"ContainerID": "c", "ExitCode": code}
    labels = {"job-launcher.owner": owner, "job-launcher.job": "x"}
    status = {"State": state, "ContainerStatus": container, "Err": "why"}
    return {"ID": state, "CreatedAt": created, "Status": status, "Spec": {"ContainerSpec": {"Labels": labels}}}


@pytest.mark.parametrize(
    ("tasks", "state", "code"),
    [
        ([], "none", None),
        ([task("running", 0, owner="another")], "none", None),
        ([task("pending")], "waiting", None),
        ([task("running", 0)], "running", None),
        ([task("complete", 0)], "ended", 0),
        ([task("failed", 7)], "ended", 7),
        ([task("rejected")], "ended", None),
        ([task("orphaned", 0)], "ended", None),
        ([task("failed", 1), task("running", 0, created="2")], "running", None),
    ],
)
def test_a_jobs_state_is_its_newest_tasks(tasks: list[Any], state: str, code: int | None) -> None:
    said = job_state(tasks, "launcher", "x")
    assert (said["state"], said["exit_code"]) == (state, code)


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def test_frames_come_whole_however_they_are_cut_and_once_after_a_break() -> None:
    whole = frame(1, b"one\n") + frame(2, b"") + frame(1, b"two\0\xff")
    frames = Frames()
    got = [each for position in range(len(whole)) for each in frames.feed(whole[position : position + 1])]
    assert got == [(1, b"one\n"), (2, b""), (1, b"two\0\xff")]
    assert Frames(2).feed(whole) == got[2:]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_reports_are_told_from_log_however_they_are_cut(size: int) -> None:
    reports = b'{"type": "acquired", "number": "7"}\n{"done": 1, "of": 2, "type": "progress"}\n'
    log = b'warning\n{"type": "other"}\n{not json\nsaid {"type": "result"}\n' + b"\n"
    errors, found = Errors(), [b"", b""]
    for data in (log, reports):
        for start in range(0, len(data), size):
            for kind, piece in enumerate(errors.feed(data[start : start + size])):
                found[kind] += piece
    assert found == [reports, log]
    assert errors.feed(b'{"type": "result", "success": true}') == (b"", b"")
    assert errors.close() == (b'{"type": "result", "success": true}\n', b"")


def test_a_line_that_is_longer_than_a_report_is_log_at_once() -> None:
    errors = Errors(longest=20)
    assert errors.feed(b'{"type": "acquired", "number"') == (b"", b'{"type": "acquired", "number"')
    assert errors.feed(b': "7"}\n') == (b"", b': "7"}\n')

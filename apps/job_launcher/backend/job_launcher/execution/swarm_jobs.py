# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers as Swarm jobs: what is asked for, the service it becomes, what its tasks say, its log. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from job_launcher.execution.executor import Job
from job_launcher.refused import Refused
from job_launcher.templates import PLACE, Template

Json = dict[str, Any]
#: On each service that the gateway makes: whose it is, and the job's name.
OWNER_LABEL, NAME_LABEL = "job-launcher.owner", "job-launcher.job"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
#: A Swarm job inherits no pipe: reports are lines of its standard error.
REPORT_FD = "2"
CONTRACT = ("LAUNCHER_RUN_ID", "LAUNCHER_UNIT_ID", "LAUNCHER_WORKER_NO", "LAUNCHER_REPORT_FD")
LONGEST_GRACE = 300
REPORTS = ("acquired", "no_numbers", "progress", "result")
STDERR = 2
_SECOND, _MIB, _MB = 10**9, 2**20, 10**6
_ULIMITS = {"open_files": ("nofile", 1), "cpu_time": ("cpu", 1), "file_size": ("fsize", _MB)}
_GONE = ("complete", "failed", "shutdown", "rejected", "orphaned", "remove")


def job_name(job: Job) -> str:
    """Return the name by which an attempt is found again, by the gateway and in the Swarm."""
    return f"{job.unit_id}-{job.attempt}".replace("_", "-").lower()


def request(job: Job) -> Json:
    """Return what the launcher asks the gateway for: nothing of images, nodes or mounts is in it."""
    return {
        "template": job.template.name,
        "argv": list(job.argv),
        "env": {**job.env, **job.contract(), "LAUNCHER_REPORT_FD": REPORT_FD},
        "term_grace": job.term_grace,
        "limits": dict(job.limits),
    }


def service_spec(owner: str, name: str, templates: Mapping[str, Template], asked: Any) -> Json:
    """Return the service for a request; raises Refused if a template doesn't allow it."""
    if not isinstance(asked, dict) or asked.keys() != {"template", "argv", "env", "term_grace", "limits"}:
        raise Refused("", "must be template, argv, env, term_grace and limits")
    template = templates.get(str(asked["template"]))
    if template is None or template.executor != "swarm":
        raise Refused("template", "is none that runs on the Swarm")
    grace, limits = asked["term_grace"], asked["limits"]
    if isinstance(grace, bool) or not isinstance(grace, (int, float)) or not 0 <= grace <= LONGEST_GRACE:
        raise Refused("term_grace", f"must be a number of seconds up to {LONGEST_GRACE}")
    if not isinstance(limits, dict) or not all(type(each) is int and each >= 0 for each in limits.values()):
        raise Refused("limits", "must be whole numbers by name")
    labels = {OWNER_LABEL: owner, NAME_LABEL: name}
    memory = template.memory * _MIB if template.memory else limits.get("rss_kill", 0) * _MB
    resources = {"NanoCPUs": round((template.cpus or 0) * _SECOND), "MemoryBytes": memory}
    return {
        "Name": f"{owner}-{name}",
        "Labels": labels,
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": template.image,
                "Command": _argv(template, asked["argv"]),
                "Env": _environment(template, asked["env"]),
                "Labels": labels,
                "Init": True,
                "CapabilityDrop": ["ALL"],
                "StopGracePeriod": round(grace * _SECOND),
                "Ulimits": [
                    {"Name": ulimit, "Soft": limits[key] * factor, "Hard": limits[key] * factor}
                    for key, (ulimit, factor) in _ULIMITS.items()
                    if limits.get(key)
                ],
            },
            "Resources": {"Limits": {key: value for key, value in resources.items() if value}},
            "Placement": {"Constraints": list(template.constraints)},
            "RestartPolicy": {"Condition": "none"},
        },
        "Mode": {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}},
    }


def _argv(template: Template, argv: Any) -> list[str]:
    texts = argv if isinstance(argv, list) and all(isinstance(each, str) for each in argv) else []
    allowed = len(texts) == len(template.argv) and all(
        given == wanted or PLACE.fullmatch(wanted) for given, wanted in zip(texts, template.argv, strict=True)
    )
    if not allowed:
        raise Refused("argv", "is not what the template allows")
    return texts


def _environment(template: Template, env: Any) -> list[str]:
    wanted = {*template.env, *CONTRACT}
    if not isinstance(env, dict) or env.keys() != wanted or not all(isinstance(each, str) for each in env.values()):
        raise Refused("env", "is not what the template allows")
    for name, value in template.env.items():
        if env[name] != value and not PLACE.fullmatch(value):
            raise Refused("env", f"{name} is not what the template allows")
    return [f"{name}={value}" for name, value in sorted(env.items())]


def job_state(tasks: Iterable[Json], owner: str, name: str) -> Json:
    """Return {state, exit_code, error} of a job: state is none (no task), waiting, running or ended."""
    mine = [task for task in tasks if _is_of(task, owner, name)]
    if not mine:
        return {"state": "none", "exit_code": None, "error": "", "task": None}
    task = max(mine, key=lambda each: str(each.get("CreatedAt", "")))
    status = task.get("Status") or {}
    said = str(status.get("State", "new"))
    container = status.get("ContainerStatus") or {}
    started = bool(container.get("ContainerID"))
    state = "ended" if said in _GONE else "running" if said == "running" else "waiting"
    code = container.get("ExitCode", 0) if state == "ended" and started and said in ("complete", "failed") else None
    return {"state": state, "exit_code": code, "error": str(status.get("Err", "")), "task": task["ID"]}


def _is_of(task: Json, owner: str, name: str) -> bool:
    labels = (task["Spec"].get("ContainerSpec") or {}).get("Labels") or {}
    return bool(labels.get(OWNER_LABEL) == owner and labels.get(NAME_LABEL) == name)


class Frames:
    """Splits the engine's log stream into its frames: 4 bytes that begin with the stream's number, a length, data.

    The first `skip` frames are passed over: they came before the connection broke.
    """

    def __init__(self, skip: int = 0) -> None:
        self.seen = 0
        self._skip = skip
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return (stream, data) of each frame that is whole by now."""
        data = self._rest + data
        frames, start = [], 0
        while len(data) >= start + 8:
            end = start + 8 + int.from_bytes(data[start + 4 : start + 8], "big")
            if len(data) < end:
                break
            self.seen += 1
            if self.seen > self._skip:
                frames.append((data[start], data[start + 8 : end]))
            start = end
        self._rest = data[start:]
        return frames


class Errors:
    """Tells reports from log in a worker's standard error, by whole lines; a report is a JSON object with a type."""

    def __init__(self, longest: int = 65536) -> None:
        self._longest = longest
        self._rest = b""
        # Whether the beginning of the present line has been given as log already.
        self._begun = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return (reports, log) of what is decided by now."""
        *lines, rest = (self._rest + data).split(b"\n")
        reports: list[bytes] = []
        log: list[bytes] = []
        for line in lines:
            (log if self._begun or not _is_report(line) else reports).append(line + b"\n")
            self._begun = False
        self._rest = rest
        if rest and (self._begun or not rest.startswith(b"{") or len(rest) > self._longest):
            log.append(rest)
            self._rest, self._begun = b"", True
        return b"".join(reports), b"".join(log)

    def close(self) -> tuple[bytes, bytes]:
        """Return (reports, log) of a last line without its newline."""
        rest, self._rest = self._rest, b""
        return (rest + b"\n", b"") if _is_report(rest) else (b"", rest)


def _is_report(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    try:
        report = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(report, dict) and report.get("type") in REPORTS

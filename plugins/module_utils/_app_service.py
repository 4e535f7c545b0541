# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One Swarm service with its configs and secrets: names that carry a hash, the spec wanted, what came of an update.

Swarm's configs and secrets can't be changed, so new content is a new object, and its name says which content it has.
Pure: Docker's JSON in, Docker's JSON or a verdict out.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.evenkeel.swarm.plugins.module_utils._tasks import is_over

Json = Any
#: On the service: a hash of the whole spec wanted. A key that is wanted no longer leaves no other trace.
SPEC_LABEL = "evenkeel.app.spec"
#: On its tasks: a hash of their part, by which tasks of this update are told from those before.
TASK_LABEL = "evenkeel.app.task"
#: On configs and secrets: the service they were made for.
OWNER_LABEL = "evenkeel.app"
#: Docker's own bound.
LONGEST_NAME = 64
FAILURES_TO_GIVE_UP = 3
# A secret's name is for all to read, and may be of a password that can be guessed: each guess shall cost time.
_SCRYPT = {"n": 2**15, "r": 8, "p": 1, "maxmem": 64 * 1024 * 1024}


class File(NamedTuple):
    """A config or secret as the containers see it. `kind`: Config or Secret; `name`: with the hash of its content."""

    kind: str
    name: str
    target: str
    content: str


class Verdict(NamedTuple):
    """`state`: waiting, converged or failed, then with a message."""

    state: str
    message: str = ""


def config_file(service: str, name: str, target: str, content: str) -> File:
    """Name a config by its content. Raises ValueError where the name gets too long for Docker."""
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    return File("Config", _fitting(f"{service}-{name}-{digest}"), target, content)


def secret_file(service: str, name: str, target: str, content: str, swarm_id: str) -> File:
    """Name a secret by a slow hash of its content, salted with the Swarm's id. Raises ValueError like config_file."""
    salt = f"{swarm_id}/{service}/{name}".encode()
    digest = hashlib.scrypt(content.encode(), salt=salt, dklen=5, **_SCRYPT).hex()
    return File("Secret", _fitting(f"{service}-{name}-{digest}"), target, content)


def _fitting(name: str) -> str:
    if len(name) > LONGEST_NAME:
        raise ValueError(f"{name}: a config or secret may have {LONGEST_NAME} characters in its name: shorten it")
    return name


def object_body(file: File, service: str) -> Json:
    """Return what makes the config or secret (POST /configs/create, /secrets/create)."""
    data = base64.b64encode(file.content.encode()).decode()
    return {"Name": file.name, "Labels": {OWNER_LABEL: service}, "Data": data}


def wanted_spec(name: str, spec: Mapping[str, Any], files: Sequence[File], owner: str) -> Json:
    """Return the whole spec: with references to the files (ids still missing) and the labels that carry hashes."""
    wanted = copy.deepcopy(dict(spec))
    container = wanted["TaskTemplate"]["ContainerSpec"]
    for kind in ("Config", "Secret"):
        container[f"{kind}s"] = [_reference(file, owner) for file in files if file.kind == kind]
    container["Labels"] = {**(container.get("Labels") or {}), TASK_LABEL: _hash(wanted["TaskTemplate"])}
    wanted["Name"] = name
    wanted["Labels"] = {**(wanted.get("Labels") or {}), SPEC_LABEL: _hash(wanted)}
    return wanted


def _reference(file: File, owner: str) -> Json:
    # As files in a directory that root owns: readable by the one user who runs the service.
    return {
        f"{file.kind}Name": file.name,
        "File": {"Name": file.target, "UID": owner, "GID": owner, "Mode": 0o400},
    }


def _hash(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def with_ids(spec: Json, ids: Mapping[str, str]) -> Json:
    """Return a spec whose references to configs and secrets have their ids, by name."""
    filled = copy.deepcopy(spec)
    container = filled["TaskTemplate"]["ContainerSpec"]
    for kind in ("Config", "Secret"):
        for reference in container[f"{kind}s"]:
            reference[f"{kind}ID"] = ids[reference[f"{kind}Name"]]
    return filled


def holds(wanted: Json, actual: Json) -> bool:
    """Tell whether all that is wanted is there. The engine adds defaults of its own, which don't count."""
    if isinstance(wanted, Mapping):
        there = actual if isinstance(actual, Mapping) else {}
        return all(holds(value, there.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        listed = actual or []
        return len(wanted) == len(listed) and all(holds(*pair) for pair in zip(wanted, listed, strict=True))
    return bool(wanted == actual) or (not wanted and not actual and wanted is not None)


def shown(spec: Json, wanted: Json, contents: Mapping[str, str]) -> Json:
    """Return the part of a spec that is looked at, for a diff: without hashes, with the contents of configs."""
    picked = _picked(spec, wanted)
    for holder, label in ((picked, SPEC_LABEL), (picked["TaskTemplate"]["ContainerSpec"], TASK_LABEL)):
        holder.get("Labels", {}).pop(label, None)
    for reference in picked["TaskTemplate"]["ContainerSpec"].get("Configs", []):
        reference["Content"] = contents.get(reference["ConfigName"], "")
    return picked


def _picked(value: Json, like: Json) -> Json:
    if isinstance(value, Mapping) and isinstance(like, Mapping):
        # Labels whole: one that is wanted no longer is a difference, too.
        return {
            key: copy.deepcopy(value[key]) if key == "Labels" else _picked(value[key], like[key])
            for key in like
            if key in value
        }
    if isinstance(value, list) and isinstance(like, list):
        same = len(value) == len(like)
        return [_picked(item, like[index]) if same else copy.deepcopy(item) for index, item in enumerate(value)]
    return copy.deepcopy(value)


def leftovers(objects: Iterable[Json], service: str, used: Iterable[str]) -> list[Json]:
    """Return the configs or secrets that were made for a service and aren't named in its spec any more."""
    names = set(used)
    return [
        item
        for item in objects
        if (item["Spec"].get("Labels") or {}).get(OWNER_LABEL) == service and item["Spec"]["Name"] not in names
    ]


def judge(service: Json, tasks: Iterable[Json], stale_status: str | None) -> Verdict:
    """Say how far a service is on its way to its spec.

    `stale_status`: StartedAt of the UpdateStatus from before our own write, which answers nothing. A task counts
    as running once its health check passes, as Swarm itself sees it.
    """
    status = service.get("UpdateStatus") or {}
    state = "" if stale_status and status.get("StartedAt") == stale_status else status.get("State", "")
    label = service["Spec"]["TaskTemplate"]["ContainerSpec"]["Labels"].get(TASK_LABEL)
    mine: list[Json] = []
    others: list[Json] = []
    for task in tasks:
        labels = task["Spec"]["ContainerSpec"].get("Labels") or {}
        (mine if labels.get(TASK_LABEL) == label else others).append(task)
    error = _last_error(mine if not state.startswith("rollback") else [*mine, *others])
    running = [task for task in mine if task["Status"]["State"] == "running" and task["DesiredState"] == "running"]
    old = [task for task in others if not is_over(task)]
    replicas = service["Spec"]["Mode"]["Replicated"]["Replicas"]
    if state.startswith(("paused", "rollback")):
        return _given_up(state, error or status.get("Message", ""), runs=len(running) == replicas)
    if state != "updating" and len(running) == replicas and not old:
        return Verdict("converged")
    failed = [task for task in mine if task["Status"]["State"] in ("failed", "rejected")]
    if not state and len(failed) >= FAILURES_TO_GIVE_UP:
        return Verdict("failed", f"its task failed {len(failed)} times: {error}")
    return Verdict("waiting", error or _told(mine, others))


def _given_up(state: str, error: str, *, runs: bool) -> Verdict:
    if state == "rollback_started":
        return Verdict("waiting")
    if state != "rollback_completed":
        return Verdict("failed", f"Docker says {state}: {error}")
    # Docker may say so while the version of before still waits for its start.
    if runs:
        return Verdict("failed", f"Docker put the version of before back: {error}")
    return Verdict("waiting", f"Docker put the version of before back, which doesn't run either. The new one: {error}")


def _told(mine: Sequence[Json], others: Sequence[Json]) -> str:
    """Say what the tasks that have not ended are doing, where none of them has an error to tell."""
    told = [
        f"{version} is {task['Status']['State']} and shall be {task['DesiredState']}"
        for version, tasks in (("a task as wanted", mine), ("a task of another version", others))
        for task in tasks
        if not is_over(task)
    ]
    return "; ".join(told) or "it has no task"


def _last_error(tasks: Sequence[Json]) -> str:
    newest = sorted(tasks, key=lambda task: str(task.get("CreatedAt", "")), reverse=True)
    return next((task["Status"]["Err"] for task in newest if task["Status"].get("Err")), "")

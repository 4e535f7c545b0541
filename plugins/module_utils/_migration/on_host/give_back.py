# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give a fenced unit back to its source, by what a file says: on an error the engine does, at the deadline the watcher.

The watcher runs this without Ansible and without the engine, from an archive that watch.py lays down on the manager
(`python3 -I give_back.zip <instructions.json> <timer>`), so it and what it imports use the standard library only.
Everything is safe to run again, and it is run again until it succeeds.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._engine import EngineError, engine_get, engine_post
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host, LocalHost, SshHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import Journal, exclusive
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import containers
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.stopping import bring_live
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import wait_until

UNITS = Path("/etc/systemd/system")
STAMPS = Path("/var/lib/systemd/timers")
#: How long the watcher waits for an engine that is still at it: it sees `unfenced` and gives the unit back itself.
PATIENCE = 30.0
#: The longest that a container may take to stop before it is given up waiting for, until the next try.
_STOP_SECONDS = 180.0
_TIMEOUT = 20.0
# As in _swarm.py: each try reads anew.
_TRIES = 60

Json = Any


def give_back(instructions: Path, verb: str = "deadline") -> bool:
    """Give the unit back; returns False where that may not be, as a promotion was intended.

    Without the file there is nothing to do. Raises MoveError or EngineError, and what is left can be done again.
    """
    try:
        wanted = read(instructions)
    except FileNotFoundError:
        return True
    journal = _journal(wanted, verb)
    if not journal.unfence():
        return False
    wait_for_strays(wanted)
    for action in wanted["undo"]:
        _undo(journal, wanted, action)
    _lease(wanted)
    for name, replicas in wanted["services"].items():
        _wake(wanted, name, replicas)
    journal.write("given_back", source=wanted["source"])
    return True


def read(instructions: Path) -> dict[str, Json]:
    """Return the instructions."""
    wanted: dict[str, Json] = json.loads(instructions.read_text(encoding="utf-8"))
    return wanted


def wait_for_strays(wanted: Mapping[str, Json]) -> None:
    """Wait until each container of the unit on the source is one that stays.

    One that is stopping goes on with its parked data. Were these live, Swarm could start a second one beside it.
    """
    for name in wanted["services"]:
        _wait_for_strays(wanted, name)


def _wait_for_strays(wanted: Mapping[str, Json], name: str) -> None:
    host, _root = _place(wanted, wanted["source"])

    def gone() -> bool:
        return not {*host.call(containers, "running", services=[name])} - _staying(wanted, name)

    wait_until(gone, _STOP_SECONDS, f"the old containers of {name} to end", every=0.3)


def _staying(wanted: Mapping[str, Json], name: str) -> set[str]:
    """Return the containers of a service that Swarm keeps running: none of one that was stopped or has no lease."""
    docker_host = wanted["docker_host"]
    spec = engine_get(docker_host, f"/services/{name}", _TIMEOUT)["Spec"]
    constraints = spec["TaskTemplate"].get("Placement", {}).get("Constraints") or []
    off = _constraint(wanted) in constraints and wanted["source"] not in _holders(wanted)
    if off or not spec["Mode"]["Replicated"].get("Replicas"):
        return set()
    tasks = _wanted_tasks(docker_host, name)
    return {str((task["Status"].get("ContainerStatus") or {}).get("ContainerID")) for task in tasks}


def _constraint(wanted: Mapping[str, Json]) -> str:
    return f"node.labels.{wanted['lease']}==1"


def disarm(instructions: Path, timer: str) -> None:
    """Remove instructions and timer. The instructions go first: without them a timer that is left does nothing."""
    instructions.unlink(missing_ok=True)
    files = [UNITS / f"{timer}.timer", UNITS / f"{timer}.service"]
    if any(path.exists() for path in files):
        _systemctl("disable", "--now", "--quiet", f"{timer}.timer")
        for path in (*files, STAMPS / f"stamp-{timer}.timer"):
            path.unlink(missing_ok=True)
        _systemctl("daemon-reload")


def _systemctl(*arguments: str) -> None:
    subprocess.run(["systemctl", *arguments], capture_output=True, check=False, timeout=_TIMEOUT)


def _journal(wanted: Mapping[str, Json], verb: str) -> Journal:
    return Journal(wanted["unit"], verb, Path(wanted["state"]))


def _holders(wanted: Mapping[str, Json]) -> list[str]:
    nodes = engine_get(wanted["docker_host"], "/nodes", _TIMEOUT)
    return [
        str(node["Description"]["Hostname"])
        for node in nodes
        if (node["Spec"].get("Labels") or {}).get(wanted["lease"]) == "1"
    ]


def _place(wanted: Mapping[str, Json], name: str) -> tuple[Host, str]:
    where = wanted["hosts"][name]
    ssh = where["ssh"]
    return LocalHost(name) if ssh is None else SshHost(name, ssh["options"], ssh["destination"]), where["root"]


def _undo(journal: Journal, wanted: Mapping[str, Json], action: Mapping[str, str]) -> None:
    host, root = _place(wanted, action["node"])
    if action["do"] == "bring_live":
        bring_live(journal, host, root, action["volume"])
    elif action["do"] == "remove_file":
        host.run(["rm", "-f", "--", action["path"]])
    else:
        raise MoveError("bad_instructions", f"nobody knows how to {action['do']!r}")


def _lease(wanted: Mapping[str, Json]) -> None:
    """Put the lease on the source, and on no other node: off everywhere else first."""
    nodes = engine_get(wanted["docker_host"], "/nodes", _TIMEOUT)
    for node in sorted(nodes, key=lambda node: node["Description"]["Hostname"] == wanted["source"]):
        mine = node["Description"]["Hostname"] == wanted["source"]
        _edit_node(wanted["docker_host"], node["ID"], wanted["lease"], "1" if mine else None)


def _edit_node(docker_host: str, node_id: str, label: str, value: str | None) -> None:
    def edit(spec: Json) -> bool:
        labels = spec.setdefault("Labels", None) or {}
        if labels.get(label) == value:
            return False
        spec["Labels"] = {key: each for key, each in labels.items() if key != label}
        spec["Labels"] |= {} if value is None else {label: value}
        return True

    _edit(docker_host, f"/nodes/{node_id}", edit)


def _wake(wanted: Mapping[str, Json], name: str, replicas: int) -> None:
    """Set the replicas of before, with tasks made anew: one that waits does not see the label (moby#31014).

    And one that has ended may be taken for the one wanted, if the service's restart condition is `none`.
    """
    docker_host, constraint = wanted["docker_host"], _constraint(wanted)

    def edit(spec: Json) -> bool:
        placement = spec["TaskTemplate"].setdefault("Placement", {})
        constraints = placement.get("Constraints") or []
        mode = spec["Mode"]["Replicated"]
        as_before = mode.get("Replicas") == replicas and constraint in constraints
        if as_before and (not replicas or _runs(docker_host, name)):
            return False
        # A redeploy may have come meanwhile: it took the pin away, and what ran until then may still be stopping. Swarm
        # forgets that at an update. If one comes in here, the spec's version is another, and this is done anew.
        _wait_for_strays(wanted, name)
        placement["Constraints"] = [*(each for each in constraints if each != constraint), constraint]
        if replicas:
            spec["TaskTemplate"]["ForceUpdate"] = spec["TaskTemplate"].get("ForceUpdate", 0) + 1
        mode["Replicas"] = replicas
        return True

    if _edit(docker_host, f"/services/{name}", edit) and replicas:
        # A service that fails by itself must not keep the others waiting.
        with contextlib.suppress(MoveError):
            wait_until(lambda: _runs(docker_host, name), _TIMEOUT, f"{name} to run")


def _runs(docker_host: str, name: str) -> bool:
    return any(task["Status"]["State"] == "running" for task in _wanted_tasks(docker_host, name))


def _wanted_tasks(docker_host: str, name: str) -> list[Json]:
    filters = urllib.parse.quote(json.dumps({"service": {name: True}, "desired-state": {"running": True}}))
    return list(engine_get(docker_host, f"/tasks?filters={filters}", _TIMEOUT) or [])


def _edit(docker_host: str, path: str, edit: Any) -> bool:
    """Change a spec in place on a fresh read, again if another writer was faster; returns whether it changed."""
    for _ in range(_TRIES):
        found = engine_get(docker_host, path, _TIMEOUT)
        if not edit(found["Spec"]):
            return False
        try:
            engine_post(docker_host, f"{path}/update?version={found['Version']['Index']}", found["Spec"], _TIMEOUT)
        except EngineError as error:
            if "out of sequence" not in (error.said or ""):
                raise
        else:
            return True
    raise MoveError("conflict", f"other writers changed {path} all the time")


def main() -> None:
    """Act as the watcher: `give_back.zip <instructions.json> <timer>`."""
    instructions, timer = Path(sys.argv[1]), sys.argv[2]
    try:
        if _watch(instructions):
            disarm(instructions, timer)
    except (MoveError, EngineError, OSError) as error:
        # systemd tries again.
        sys.exit(f"not given back yet: {error}")


def _watch(instructions: Path) -> bool:
    """Give the unit back if that is due; returns whether the watcher's work is over."""
    due = _due(instructions)
    if due is None:
        return not instructions.exists()
    # First of all nothing may be promoted any more; then a living engine gets a moment to give the unit back itself.
    if not _journal(due, "deadline").unfence():
        print("a promotion was intended: nothing to give back")
        return True
    with contextlib.ExitStack() as held:
        with contextlib.suppress(MoveError):
            wait_until(lambda: _taken(held, Path(due["state"], "lock")), PATIENCE, "the engine to end")
        if _due(instructions) is None:
            return not instructions.exists()
        print("given back" if give_back(instructions) else "a promotion was intended: nothing to give back")
    return True


def _due(instructions: Path) -> dict[str, Json] | None:
    """Return the instructions if their time has come; a switch that was run again has put the deadline off."""
    try:
        wanted = read(instructions)
    except FileNotFoundError:
        return None
    return wanted if time.time() >= wanted["until"] else None


def _taken(held: contextlib.ExitStack, lock: Path) -> bool:
    try:
        held.enter_context(exclusive(lock, wait=False))
    except MoveError:
        return False
    return True

"""Walk the stages of one mover on the manager, as the engine does: a stand-in for it, sent to a lab host.

Reads a job as JSON from its first argument's file: {"unit", "key", "kind", "member", "volumes", "users", "source",
"target", "nodes": {name: ssh destination, null for this host}, "ssh": options, "state", "options", "do": [...]}. In
"do" stand the mover's stages by name, "undo:<stage>", "stop", "start", "give-back" (start on the source), "readiness",
"facts". Writes one JSON object a line: events, and the answer of each thing done.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host, LocalHost, SshHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import Journal
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Member, Part, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Mover, Options, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.files import FilesMover
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.redis import RedisMover
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage, Step, Walk, wait_until
from ansible_collections.evenkeel.swarm.plugins.module_utils._swarm import Swarm

ENDED = ("complete", "failed", "shutdown", "rejected", "orphaned", "remove")
MOVERS: Mapping[str, type[Mover]] = {"redis": RedisMover, "files": FilesMover}


def say(event: str, data: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps({"event": event, **data}) + "\n")
    sys.stdout.flush()


def build(job: Mapping[str, Any]) -> Mover:
    cluster = Cluster(Swarm("unix:///var/run/docker.sock"))
    nodes = cluster.nodes()

    def place(name: str) -> Place:
        destination = job["nodes"][name]
        host: Host = LocalHost(name) if destination is None else SshHost(name, job["ssh"], destination)
        root = host.run(["docker", "info", "--format", "{{.DockerRootDir}}"]).out.strip()
        return Place(host, nodes[name], root)

    member = Member(**job["member"])
    part = Part(job["key"], job["kind"], member.service, member, job["volumes"], tuple(job["users"]))
    unit = Unit(job["unit"], job["source"], job["target"], (member,))
    journal = Journal(job["unit"], "test", Path(job["state"]))
    options = Options(**job.get("options", {}))
    move = Move(unit, place(job["source"]), place(job["target"]), cluster, journal, options)
    return MOVERS[job["kind"]](move, part)


def stop(mover: Mover) -> None:
    cluster = mover.move.cluster
    for service in mover.part.users:
        cluster.edit_service(service, lambda spec: spec["Mode"]["Replicated"].update(Replicas=0))
        found = cluster.service(service)["ID"]

        def gone(found: str = found) -> bool:
            return all(task["Status"]["State"] in ENDED for task in cluster.tasks(found))

        wait_until(gone, 60, f"{service} to stop", every=0.05)


def start(mover: Mover, where: str) -> None:
    cluster = mover.move.cluster

    def edit(spec: dict[str, Any]) -> None:
        spec["TaskTemplate"]["Placement"] = {"Constraints": [f"node.hostname=={where}"]}
        spec["Mode"]["Replicated"]["Replicas"] = 1

    for service in mover.part.users:
        cluster.edit_service(service, edit)

        def there(service: str = service) -> bool:
            return [each.node for each in cluster.running(service)] == [where]

        wait_until(there, 60, f"{service} to run on {where}", every=0.05)


def flat(stages: Any) -> list[Step]:
    found: list[Step] = []
    for stage in stages:
        if isinstance(stage, Step):
            found.append(stage)
        else:
            for lane in stage.lanes:
                found.extend(flat(lane))
    return found


def one(mover: Mover, walk: Walk, what: str) -> Any:
    if what in ("stop", "start", "give-back"):
        if what == "stop":
            stop(mover)
        else:
            start(mover, mover.move.target.name if what == "start" else mover.move.source.name)
        return None
    if what == "readiness":
        found = mover.readiness()
        return {"ready": found.ready, "text": found.text, "numbers": dict(found.numbers)}
    if what == "facts":
        facts = mover.facts()
        traps = [{"code": trap.code, "refuses": trap.refuses, "text": trap.text} for trap in facts.traps]
        return {"bytes": facts.bytes, "detail": dict(facts.detail), "traps": traps}
    verb, _colon, name = what.rpartition(":")
    stages: list[Stage] = list(getattr(mover, name)())
    if verb == "undo":
        walk.back(flat(stages))
    else:
        walk.forward(stages)
    return None


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text())
    mover = build(job)
    walk = Walk(mover.move.journal, say)
    for what in job["do"]:
        began = time.monotonic()
        say("begins", {"what": what})
        try:
            answer = one(mover, walk, what)
        except MoveError as error:
            say("failed", {"what": what, **error.as_dict()})
            return 1
        say("done", {"what": what, "seconds": round(time.monotonic() - began, 3), "answer": answer})
    say("end", {"changed": walk.changed})
    return 0


if __name__ == "__main__":
    sys.exit(main())

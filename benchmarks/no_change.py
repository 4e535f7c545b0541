"""A run that finds nothing to do: one `service_limits` call against a loop of `docker_swarm_service`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.bench import PLAYBOOKS, Bench, task
from benchmarks.report import Report, Series, at_most, ratio
from lab.run import LabError

QUESTION = "30 services that already have their limits"
NANO = 10**9


def run(bench: Bench) -> Report:
    """Measure both tasks in the same plays, one after the other."""
    bench.settle()
    networks = _network_names(bench)
    variables = {"benchmark_services": [restate(raw["Spec"], networks) for raw in bench.services()]}
    ours: list[float] = []
    loop: list[float] = []
    for _ in range(bench.repetitions):
        tasks = bench.play(PLAYBOOKS / "no_change.yml", variables)
        for name, samples in (("One call", ours), ("Loop", loop)):
            done = task(tasks, name)
            if done.result.get("changed"):
                raise LabError(f"{name!r} of no_change.yml reports changes, so it measures something else")
            samples.append(done.seconds)
    one = Series("evenkeel.swarm.service_limits, one task", ours)
    many = Series(f"docker_swarm_service, looped over {len(variables['benchmark_services'])}", loop)
    return Report(
        "no_change",
        QUESTION,
        [one, many],
        [ratio("ratio", many, one, 20), at_most("service_limits", one, 0.7)],
        ["Wall time of the task as Ansible sees it, from its start to its last result; both report changed=false."],
    )


def restate(spec: Mapping[str, Any], networks: Mapping[str, str]) -> dict[str, Any]:
    """Write a service's Spec as options of docker_swarm_service, so that this module finds nothing to change.

    Covers what the lab's estate uses. `networks`: id -> name.
    """
    template, container = spec["TaskTemplate"], spec["TaskTemplate"]["ContainerSpec"]
    limits = (template.get("Resources") or {}).get("Limits") or {}
    endpoint, update, restart = spec["EndpointSpec"], spec["UpdateConfig"], template["RestartPolicy"]
    return {
        "name": spec["Name"],
        "image": container["Image"],
        "limits": {
            **({"cpus": limits["NanoCPUs"] / NANO} if limits.get("NanoCPUs") else {}),
            **({"memory": str(limits["MemoryBytes"])} if limits.get("MemoryBytes") else {}),
        },
        "env": container.get("Env", []),
        "init": container.get("Init", False),
        "labels": spec.get("Labels", {}),
        "container_labels": container.get("Labels", {}),
        "mounts": [
            {"type": mount["Type"], "source": mount["Source"], "target": mount["Target"]}
            for mount in container.get("Mounts", [])
        ],
        "secrets": [_file("secret", each) for each in container.get("Secrets", [])],
        "configs": [_file("config", each) for each in container.get("Configs", [])],
        "networks": [networks[each["Target"]] for each in template.get("Networks", [])],
        "publish": [
            {
                "published_port": port["PublishedPort"],
                "target_port": port["TargetPort"],
                "protocol": port["Protocol"],
                "mode": port["PublishMode"],
            }
            for port in endpoint.get("Ports", [])
        ],
        "endpoint_mode": endpoint["Mode"],
        "placement": {"constraints": template["Placement"]["Constraints"]},
        "replicas": spec["Mode"]["Replicated"]["Replicas"],
        "restart_config": {"condition": restart["Condition"], "delay": _duration(restart["Delay"])},
        "update_config": {
            "parallelism": update["Parallelism"],
            "failure_action": update["FailureAction"],
            "order": update["Order"],
        },
        "stop_grace_period": _duration(container["StopGracePeriod"]),
    }


def _file(kind: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    title, file = kind.capitalize(), entry["File"]
    return {
        f"{kind}_id": entry[f"{title}ID"],
        f"{kind}_name": entry[f"{title}Name"],
        "filename": file["Name"],
        "uid": file["UID"],
        "gid": file["GID"],
        "mode": file["Mode"],
    }


def _network_names(bench: Bench) -> dict[str, str]:
    lines = bench.ssh("docker network ls --no-trunc --format '{{.ID}} {{.Name}}'").splitlines()
    return dict(line.split(maxsplit=1) for line in lines)


def _duration(nanoseconds: int) -> str:
    """Write a duration with the smallest unit that the module knows."""
    return f"{nanoseconds // 1000}us"

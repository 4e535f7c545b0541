"""The seeds' estate on the lab's Swarm: images into the registry, then one Swarm service per entry of estate.yml."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import yaml

from lab import hosts, images
from lab.engine import Engine
from lab.run import LabError, step
from lab.settings import HOSTS, Settings
from lab.swarm import MANAGER

ESTATE = Path(__file__).resolve().parent / "estate.yml"
SPEC_LABEL = "evenkeel.lab.spec"
CONVERGE_SECONDS = 180
#: Share of a core that one of the loops wants which make up what a demand has over whole cores.
SMALL_SHARE = 0.1


def load() -> dict[str, Any]:
    """Return estate.yml: the network's name and the services by name."""
    content: dict[str, Any] = yaml.safe_load(ESTATE.read_text())
    return content


def up(engine: Engine, settings: Settings) -> None:
    """Put the estate on the Swarm, or find it there; wait until what should run does."""
    estate = load()
    references = push(engine, settings, images.workloads(engine))
    with api(settings, MANAGER) as client:
        present = {service["Spec"]["Name"]: service for service in client.services()}
        wanted = {
            name: spec(name, entry, estate["estate_network"], references, settings.load)
            for name, entry in estate["estate_services"].items()
        }
        stale = {
            name: body
            for name, body in wanted.items()
            if present.get(name, {}).get("Spec", {}).get("Labels", {}).get(SPEC_LABEL) != body["Labels"][SPEC_LABEL]
        }
        if not stale:
            return
        with step(f"deploy {len(stale)} services of the estate (load {settings.load:g})"):
            _objects(client, estate)
            for name, body in stale.items():
                create_or_update(client, present.get(name), body)
            converge(client, wanted)


def spec(name: str, entry: dict[str, Any], network: str, references: dict[str, str], scale: float) -> dict[str, Any]:
    """Swarm service spec (as the engine's API takes it) for an entry of estate.yml."""
    env = [
        f"SERVICE={name}",
        *(f"{key}={value}" for key, value in demand(entry.get("demand", 0) * scale, entry.get("demand", 0)).items()),
    ]
    stateful = "volume" in entry
    container: dict[str, Any] = {
        "Image": references[entry["image"]],
        "Env": env,
        "Init": True,
        "Labels": {"evenkeel.tier": entry["tier"]},
        "Mounts": [
            {"Type": "volume", "Source": volume, "Target": path} for volume, path in entry.get("volume", {}).items()
        ],
        "StopGracePeriod": 30_000_000_000 if stateful else 10_000_000_000,
    }
    body: dict[str, Any] = {
        "Name": name,
        "Labels": {"evenkeel.tier": entry["tier"]},
        "TaskTemplate": {
            "ContainerSpec": container,
            "Placement": {"Constraints": [f"node.hostname=={MANAGER}"]},
            "Networks": [{"Target": network}],
            "RestartPolicy": {"Condition": "any", "Delay": 2_000_000_000},
        },
        "Mode": {"Replicated": {"Replicas": entry.get("replicas", 1)}},
        "UpdateConfig": {
            "Parallelism": 1,
            "FailureAction": "rollback",
            # Two copies on one volume, or on one host port, can't be.
            "Order": "stop-first" if stateful or "ports" in entry else "start-first",
        },
        "EndpointSpec": {"Mode": "dnsrr"},
    }
    if entry.get("ports"):
        body["EndpointSpec"]["Ports"] = [
            {"PublishedPort": published, "TargetPort": target, "PublishMode": "host", "Protocol": "tcp"}
            for published, target in entry["ports"].items()
        ]
    for kind in ("secrets", "configs"):
        container[kind.capitalize()] = [{"name": item} for item in entry.get(kind, {})]
    body["Labels"][SPEC_LABEL] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    return body


def demand(cores: float, at_full_load: float) -> dict[str, str]:
    """Environment for the workload's `demand` script: as many busy loops as the real service has, each at its share.

    10.8 cores are ten loops that never pause and eight that work a tenth of the time; at a fiftieth of that, ten at
    2 % and eight at 0.2 %. The rest is many small loops because a loop that wants f of a core and is slowed down to
    the speed s pauses for (1 - f) / (f/s + 1 - f) of the time: with a large f next to none, and nobody could see that
    it wants less than a whole core.
    """
    if cores <= 0:
        return {}
    loops = max(cores, at_full_load)
    whole, rest = math.floor(loops), round(loops % 1, 6)
    share = cores / loops
    small = math.ceil(round(rest / SMALL_SHARE, 6))
    groups = [(whole, share)] if whole else []
    groups += [(small, share * rest / small)] if small else []
    return {"DEMAND": " ".join(f"{count}x{each:.6g}" for count, each in groups)}


@contextmanager
def api(settings: Settings, host: str) -> Iterator[docker.APIClient]:
    """Docker SDK client for a host's engine, through an SSH tunnel: the host exposes nothing but sshd."""
    with tempfile.TemporaryDirectory(prefix="evenkeel-") as directory:
        socket = Path(directory) / "docker.sock"
        with hosts.tunnel(settings, host, socket):
            client = docker.APIClient(base_url=f"unix://{socket}", version="auto", timeout=60)
            try:
                yield client
            finally:
                client.close()


def push(engine: Engine, settings: Settings, built: Mapping[str, str]) -> dict[str, str]:
    """Push images (by name) to the lab's registry and have both hosts pull them. Returns name -> image@digest."""
    port = engine.docker("port", settings.container("registry"), "5000/tcp").splitlines()[0].rpartition(":")[2]
    references = {}
    for name, image in built.items():
        tag = f"evenkeel/{name}:{image.rpartition(':')[2]}"
        local, inside = f"127.0.0.1:{port}/{tag}", f"registry:5000/{tag}"
        marker = settings.directory / f"pushed-{name}"
        if not marker.exists() or not marker.read_text().startswith(inside + "@"):
            with step(f"push the image {name} to the registry"):
                engine.docker("tag", image, local)
                engine.docker("push", "-q", local)
                digests = json.loads(engine.docker("image", "inspect", "--format", "{{json .RepoDigests}}", local))
                digest = next(
                    item.partition("@")[2] for item in digests if item.startswith(local.rpartition(":")[0] + "@")
                )
                engine.docker("rmi", local)
                marker.write_text(f"{inside}@{digest}")
        references[name] = marker.read_text()
    missing = [
        (host, reference)
        for host in HOSTS
        for reference in references.values()
        if not _has(engine, settings, host, reference)
    ]
    if missing:
        with step(f"pull {len(missing)} images on the hosts"), ThreadPoolExecutor(len(HOSTS)) as pool:
            list(
                pool.map(
                    lambda pair: hosts.execute(engine, settings, pair[0], "docker", "pull", "-q", pair[1]), missing
                )
            )
    return references


def _has(engine: Engine, settings: Settings, host: str, reference: str) -> bool:
    script = 'docker image inspect "$1" >/dev/null 2>&1 && echo yes || echo no'
    return hosts.execute(engine, settings, host, "sh", "-c", script, "sh", reference) == "yes"


def _objects(client: docker.APIClient, estate: dict[str, Any]) -> None:
    """Make the overlay network, secrets and configs that the services name."""
    if not client.networks(names=[estate["estate_network"]]):
        client.create_network(estate["estate_network"], driver="overlay", attachable=True, scope="swarm")
    entries = estate["estate_services"].values()
    for kind, listed, create in (
        ("secrets", client.secrets, client.create_secret),
        ("configs", client.configs, client.create_config),
    ):
        there = {item["Spec"]["Name"] for item in listed()}
        for entry in entries:
            for name, content in entry.get(kind, {}).items():
                if name not in there:
                    create(name, content.encode())


def create_or_update(client: docker.APIClient, present: dict[str, Any] | None, body: dict[str, Any]) -> None:
    """Post a whole spec, with the ids of its secrets and configs filled in."""
    container = body["TaskTemplate"]["ContainerSpec"]
    for kind, listed in (("Secrets", client.secrets), ("Configs", client.configs)):
        ids = {item["Spec"]["Name"]: item["ID"] for item in listed()} if container[kind] else {}
        single = kind[:-1]
        container[kind] = [
            {
                f"{single}ID": ids[item["name"]],
                f"{single}Name": item["name"],
                "File": {"Name": item["name"], "UID": "0", "GID": "0", "Mode": 0o400},
            }
            for item in container[kind]
        ]
    # The SDK's own calls rebuild a spec from the keys they know; the engine takes the whole one as it is.
    path = f"/services/{present['ID']}/update?version={present['Version']['Index']}" if present else "/services/create"
    answer = client.post(f"{client.base_url}/v{client.api_version}{path}", json=body)
    if not answer.ok:
        raise LabError(f"the engine refused the service {body['Name']}: {answer.text.strip()}")


def converge(client: docker.APIClient, wanted: dict[str, dict[str, Any]]) -> None:
    """Wait until every service runs as many tasks as it should."""
    deadline = time.monotonic() + CONVERGE_SECONDS
    while True:
        running: dict[str, int] = {}
        tasks = client.tasks(filters={"desired-state": "running"})
        services = client.services()
        names = {service["ID"]: service["Spec"]["Name"] for service in services}
        updating = {
            service["Spec"]["Name"]
            for service in services
            if (service.get("UpdateStatus") or {}).get("State") == "updating"
        }
        for task in tasks:
            if task["Status"]["State"] == "running":
                running[names.get(task["ServiceID"], "")] = running.get(names.get(task["ServiceID"], ""), 0) + 1
        short = [
            name
            for name, body in wanted.items()
            if name in updating or running.get(name, 0) < body["Mode"]["Replicated"]["Replicas"]
        ]
        if not short:
            return
        if time.monotonic() > deadline:
            errors = {
                names.get(task["ServiceID"]): task["Status"].get("Err") for task in tasks if task["Status"].get("Err")
            }
            raise LabError(f"not running after {CONVERGE_SECONDS} s: {', '.join(short)}; task errors: {errors}")
        time.sleep(0.5)

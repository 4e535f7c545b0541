"""The ledger: what was acknowledged to a client, compared with what PostgreSQL, Redis and the media volume hold.

The client (lab/images/unit/writer.py) runs as a Swarm service on the unit's own network, so it sees what any client
sees; its records lie on the manager's disk.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from lab import estate, hosts
from lab.settings import Settings
from lab.swarm import MANAGER
from lab.units import Deployment, passwords

DIRECTORY = "/var/lib/lab-ledger"
SERVICE = "lab-ledger"
#: Path of a write -> the places that must hold it when it was acknowledged.
PLACES = {
    "api": ("postgres.orders", "redis.order", "media.orders"),
    "postgres": ("postgres.direct_writes",),
    "redis": ("redis.direct",),
    "probe-postgres": ("postgres.two_sides",),
    "probe-redis": ("redis.two_sides",),
}
#: What the worker owes for an acknowledged order once its queue is empty.
OWED = ("postgres.results", "media.results")


@dataclass(frozen=True)
class Write:
    """One write of a client. Times are seconds since the epoch; `acknowledged` None: unknown, may be there or not."""

    id: str
    path: str
    began: float
    acknowledged: float | None


@dataclass(frozen=True)
class Outage:
    """The longest time between two acknowledgements on a path, in seconds, and when it began and ended."""

    seconds: float
    began: float
    ended: float


@dataclass
class Verdict:
    """What the comparison found. `lost`: place -> ids acknowledged and not there. Counts are by path."""

    lost: dict[str, list[str]]
    acknowledged: dict[str, int]
    unknown: dict[str, int]
    outages: dict[str, Outage] = field(default_factory=dict)

    @property
    def losses(self) -> int:
        """Return how many acknowledged writes are missing somewhere."""
        return sum(len(ids) for ids in self.lost.values())


def parse(lines: Iterable[str]) -> list[Write]:
    """Return the writes of a client's records, by their beginning; a line that a kill cut off is none."""
    began: dict[str, tuple[str, float]] = {}
    acknowledged: dict[str, float] = {}
    for line in lines:
        try:
            record = json.loads(line)
            name, event, wall = record["id"], record["event"], record["wall"]
        except (ValueError, KeyError):
            continue
        if event == "begin":
            began[name] = (record["path"], wall)
        elif event == "ack":
            acknowledged[name] = wall
    writes = [Write(name, path, wall, acknowledged.get(name)) for name, (path, wall) in began.items()]
    return sorted(writes, key=lambda write: write.began)


def compare(writes: Sequence[Write], held: Mapping[str, set[str]]) -> Verdict:
    """Compare the acknowledged writes with what each place holds. A place that `held` lacks holds nothing."""
    lost: dict[str, list[str]] = {}
    for write in writes:
        if write.acknowledged is None:
            continue
        for place in PLACES[write.path]:
            if write.id not in held.get(place, set()):
                lost.setdefault(place, []).append(write.id)
    paths = sorted({write.path for write in writes})
    counted = {path: [write.acknowledged is not None for write in writes if write.path == path] for path in paths}
    return Verdict(
        lost,
        {path: sum(each) for path, each in counted.items()},
        {path: len(each) - sum(each) for path, each in counted.items()},
        {path: gap for path in paths if (gap := outage(writes, path)) is not None},
    )


def owed(writes: Sequence[Write], held: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Return acknowledged orders whose job left no result, by place; for when the queue is empty."""
    orders = [write.id for write in writes if write.path == "api" and write.acknowledged is not None]
    missing = {place: [name for name in orders if name not in held.get(place, set())] for place in OWED}
    return {place: ids for place, ids in missing.items() if ids}


def outage(writes: Sequence[Write], path: str) -> Outage | None:
    """Return the longest time between two acknowledgements on a path; None with fewer than two."""
    times = sorted(each.acknowledged for each in writes if each.path == path and each.acknowledged is not None)
    gaps = [Outage(after - before, before, after) for before, after in itertools.pairwise(times)]
    return max(gaps, key=lambda gap: gap.seconds, default=None)


@contextmanager
def writing(settings: Settings, deployed: Deployment, pause: float = 0.02) -> Iterator[None]:
    """Let the client write on all paths while the block runs."""
    hosts.ssh(settings, MANAGER, f"rm -rf {DIRECTORY}; mkdir -p {DIRECTORY}")
    start(settings, deployed, pause)
    try:
        yield
    finally:
        stop(settings)


def start(settings: Settings, deployed: Deployment, pause: float = 0.02) -> None:
    """Start the client and wait for its first acknowledgement on each path."""
    stop(settings)
    users = {"postgres": deployed.environment("postgres")["POSTGRES_USER"]}
    database = deployed.service("postgres")
    urls = [
        f"api=http://{deployed.service('api')}:8000/order",
        f"postgres=postgresql://{users['postgres']}@{database}/{users['postgres']}",
        f"redis=redis://{deployed.service('redis')}:6379/1",
    ]
    with estate.api(settings, MANAGER) as client:
        client.create_secret(SERVICE, json.dumps(passwords(settings, deployed.unit)).encode())
        spec = {
            "Name": SERVICE,
            "Labels": {},
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": deployed.references["unit-app"],
                    "Command": ["python3", "/srv/writer.py", *urls],
                    "Env": [f"WRITER_PASSWORDS_FILE=/run/secrets/{SERVICE}", f"WRITER_PAUSE={pause}"],
                    "Mounts": [{"Type": "bind", "Source": DIRECTORY, "Target": "/ledger"}],
                    "Secrets": [{"name": SERVICE}],
                    "Configs": [],
                },
                "Placement": {"Constraints": [f"node.hostname=={MANAGER}"]},
                "Networks": [{"Target": deployed.network}],
                "RestartPolicy": {"Condition": "any", "Delay": 500_000_000},
            },
            "Mode": {"Replicated": {"Replicas": 1}},
            "EndpointSpec": {"Mode": "dnsrr"},
        }
        estate.create_or_update(client, None, spec)
    wait = "for p in api postgres redis; do until grep -qs '\"ack\"' {}/*-$p.jsonl; do sleep 0.1; done; done"
    hosts.ssh(settings, MANAGER, wait.format(DIRECTORY), timeout=60)


def stop(settings: Settings) -> None:
    """End the client and wait until it is gone: after that no record is added."""
    script = f"""
        docker service rm {SERVICE} >/dev/null 2>&1
        while [ -n "$(docker ps -q --filter label=com.docker.swarm.service.name={SERVICE})" ]; do sleep 0.1; done
        docker secret rm {SERVICE} >/dev/null 2>&1; true"""
    hosts.ssh(settings, MANAGER, "sh -s", stdin=script)


def writes(settings: Settings) -> list[Write]:
    """Return the client's records so far."""
    return parse(hosts.ssh(settings, MANAGER, f"cat {DIRECTORY}/*.jsonl").splitlines())


def held(settings: Settings, deployed: Deployment, host: str) -> dict[str, set[str]]:
    """Return what PostgreSQL, Redis and the media volume hold, on the host where the unit runs now."""
    tables = ("orders", "results", "direct_writes", "two_sides")
    script = _HELD.format(
        of=OF,
        postgres=deployed.service("postgres"),
        redis=deployed.service("redis"),
        user=deployed.environment("postgres")["POSTGRES_USER"],
        media=deployed.volume("media"),
        sql=" UNION ALL ".join(f"SELECT 'postgres.{table} ' || id FROM {table}" for table in tables),
        password=deployed.passwords["redis"],
    )
    found: dict[str, set[str]] = {}
    for line in hosts.ssh(settings, host, "bash -s", stdin=script, timeout=120).splitlines():
        place, _, name = line.partition(" ")
        found.setdefault(place, set()).add(name)
    return found


def unfinished(settings: Settings, deployed: Deployment, host: str) -> bool:
    """Return whether the worker's queue still holds something."""
    asked = f'docker exec "$(of {deployed.service("worker")})" unit queue-empty 2>/dev/null && echo empty || true'
    return hosts.ssh(settings, host, "bash -s", stdin=f"{OF}\n{asked}") != "empty"


#: A shell function: the container of a service that runs here. Each is asked: what the engine lists is wrong for those
#: that began or ended while its disk was full.
OF = """of() {
    all=$(docker ps -aq --filter label=com.docker.swarm.service.name="$1")
    { [ -z "$all" ] || docker inspect --format '{{if .State.Running}}{{.Id}}{{end}}' $all 2>/dev/null || true; } |
        awk 'NF && !seen++'
}"""


#: Lines of `<place> <id>`. The password goes through standard input, as everywhere.
_HELD = r"""
set -euo pipefail
{of}
docker exec -i "$(of {postgres})" psql -X -q -A -t -v ON_ERROR_STOP=1 -U {user} <<< "{sql}"
redis=$(of {redis})
for kind in order direct two_sides; do
    printf 'AUTH {password}\nSELECT 1\nKEYS %s:*\n' "$kind" | docker exec -i "$redis" redis-cli --raw |
        {{ grep "^$kind:" || true; }} | sed "s/^$kind:/redis.$kind /"
done
data=$(docker info --format '{{{{.DockerRootDir}}}}')/volumes/{media}/_data
for kind in orders results; do
    {{ find "$data/$kind" -type f ! -name '.*' -printf "media.$kind %f\n" 2>/dev/null || true; }}
done
"""

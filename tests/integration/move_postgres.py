"""A PostgreSQL service on the lab's Swarm, a move of it, and a client that writes down what was acknowledged."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster, Spec
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import SshHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import FENCED, UNFENCED, Journal
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Member, Part, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Mover, Options, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres import PostgresMover
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_dump import DumpMover
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import Server, server_in
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage, Step, Walk
from ansible_collections.evenkeel.swarm.plugins.module_utils._swarm import Swarm

from lab import hosts
from lab.settings import Settings
from tests.integration.harness import LEFT_BY_TESTS, wait_for

PASSWORD = "planted-secret-of-the-superuser"  # noqa: S105
#: As the official image has it: the volume is the data directory. The lab's own has it one below.
OFFICIAL, BELOW = "/var/lib/postgresql/data", "/var/lib/postgresql"


@dataclass
class Estate:
    """A PostgreSQL service, and what a move of it needs. Everything that it makes has its name."""

    lab: Settings
    cluster: Cluster
    places: dict[str, Place]
    image: str
    directory: Path
    mount: str = OFFICIAL
    restart: str = "any"
    name: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:6]}")
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def service(self) -> str:
        return f"{self.name}-db"

    @property
    def volume(self) -> str:
        return f"{self.name}-data"

    def sh(self, host: str, command: str, timeout: float = 120) -> str:
        return hosts.ssh(self.lab, host, command, timeout=timeout)

    # --- the service ---

    def create(self, rows: int = 1000) -> None:
        self.sh("kvm4", f"docker network create -d overlay --attachable {self.name}-net")
        self.cluster.create_service(self._spec())
        self.wait_running("kvm4")
        self.as_official()
        self.sql(
            "CREATE EXTENSION pgcrypto;"
            "CREATE ROLE shop LOGIN; CREATE TABLE ledger (id bigint PRIMARY KEY,"
            " server text DEFAULT host(inet_server_addr()));"
            "CREATE TABLE goods (id bigserial PRIMARY KEY, text text); GRANT SELECT ON goods TO shop;"
            f"INSERT INTO goods (text) SELECT repeat(md5(i::text), 30) FROM generate_series(1, {rows}) i;"
            "SELECT lo_from_bytea(0, 'a large object');"
        )

    def as_official(self) -> None:
        """Passwords over the network, as the official image sets it up."""
        self.sql(f"SET password_encryption = 'scram-sha-256'; ALTER ROLE postgres PASSWORD '{PASSWORD}';")
        hba = self.sql("SHOW hba_file;")[0]
        container = self.server().container
        self.sh("kvm4", f"docker exec {container} sh -c 'echo host all all all scram-sha-256 >> {hba}'")
        self.sql("SELECT pg_reload_conf();")

    def _spec(self) -> Spec:
        return {
            "Name": self.service,
            "Labels": {LEFT_BY_TESTS: self.name},
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": self.image,
                    "Init": True,
                    "Mounts": [{"Type": "volume", "Source": self.volume, "Target": self.mount}],
                    "StopGracePeriod": 60_000_000_000,
                },
                "Placement": {"Constraints": ["node.hostname==kvm4"], "MaxReplicas": 1},
                "Networks": [{"Target": f"{self.name}-net"}],
                "RestartPolicy": {"Condition": self.restart, "Delay": 500_000_000},
            },
            "Mode": {"Replicated": {"Replicas": 1}},
            "UpdateConfig": {"Parallelism": 1, "FailureAction": "pause", "Order": "stop-first"},
            "EndpointSpec": {"Mode": "dnsrr"},
        }

    def wait_running(self, node: str) -> None:
        wait_for(lambda: self._answers(node), 120, f"{self.service} that answers on {node}")

    def _answers(self, node: str) -> bool:
        with contextlib.suppress(MoveError):
            there = [each.node for each in self.cluster.running(self.service)] == [node]
            return there and bool(self.server().ask("SELECT to_json(true)"))
        return False

    def server(self) -> Server:
        [running] = self.cluster.running(self.service)
        return server_in(self.places[running.node].host, running.container, "postgres")

    def sql(self, text: str, database: str = "postgres") -> list[str]:
        return self.server().script(text, database, timeout=300)

    def stop(self, grace: float = 90) -> None:
        """As the engine does with the lease off: no task, and no container on any host."""
        ids = [(self.places[each.node], each.container) for each in self.cluster.running(self.service)]

        def to_nothing(spec: Spec) -> None:
            spec["Mode"]["Replicated"]["Replicas"] = 0

        self.cluster.edit_service(self.service, to_nothing)
        for place, container in ids:
            # Swarm itself waits three seconds before it stops a task that it no longer wants.
            place.host.run(["docker", "stop", "--time", str(int(grace)), container], timeout=grace + 10, check=False)

    def start(self, node: str) -> None:
        def there(spec: Spec) -> None:
            spec["TaskTemplate"]["Placement"]["Constraints"] = [f"node.hostname=={node}"]
            spec["Mode"]["Replicated"]["Replicas"] = 1
            # As the engine does: with the restart condition `none` Swarm may else take the ended task for it.
            spec["TaskTemplate"]["ForceUpdate"] = spec["TaskTemplate"].get("ForceUpdate", 0) + 1

        self.cluster.edit_service(self.service, there)
        self.wait_running(node)

    # --- the move ---

    def move(self, source: str = "kvm4", target: str = "kvm2", **options: Any) -> Move:
        unit = Unit(self.name, "kvm4", "kvm2", (Member(self.service, "postgres"),))
        journal = Journal(self.name, "test", self.directory)
        chosen = Options(backup_directory=f"/var/backups/{self.name}", **options)
        return Move(unit, self.places[source], self.places[target], self.cluster, journal, chosen)

    def mover(self, source: str = "kvm4", target: str = "kvm2", **options: Any) -> PostgresMover:
        return PostgresMover(self.move(source, target, **options), self.part())

    def dump_mover(self) -> DumpMover:
        return DumpMover(self.move(), self.part())

    def part(self) -> Part:
        member = Member(self.service, "postgres")
        return Part("db", "postgres", self.service, member, {self.volume: self.mount}, (self.service,))

    def walk(self, stages: Sequence[Stage], move: Move | None = None) -> Walk:
        walk = Walk((move or self.move()).journal, lambda event, data: self.events.append((event, dict(data))))
        walk.forward(stages)
        return walk

    def copy(self, mover: Mover) -> None:
        for stages in (mover.prepare(), mover.precopy()):
            self.walk(stages)

    def switch(self, mover: Mover) -> dict[str, float]:
        """The engine's switch, for one part; returns the seconds of each phase."""
        seconds, began = {}, time.monotonic()
        for name in ("settle", "park", "stop", "stopped", "take_over", "start", "verify"):
            if name == "stop":
                mover.move.journal.write(FENCED)
                self.stop()
            elif name == "start":
                self.start(mover.move.target.name)
            else:
                if name == "take_over":
                    mover.move.journal.claim_promotion()
                self.walk(getattr(mover, name)())
            seconds[name] = time.monotonic() - began
            began = time.monotonic()
        return seconds

    def back(self, stages: Sequence[Stage]) -> None:
        steps = [stage for stage in stages if isinstance(stage, Step)]
        Walk(self.move().journal, lambda _event, _data: None).back(steps)

    def give_back(self, mover: Mover) -> None:
        mover.move.journal.write(UNFENCED)
        self.back([*mover.park(), *mover.stopped()])
        self.start(mover.move.source.name)

    def replication_password(self, mover: PostgresMover) -> str:
        [companion] = self.cluster.running(mover.context.names.companion("kvm2"))
        return self.sh("kvm2", f"docker exec {companion.container} cat {mover.context.passfile}").rpartition(":")[2]

    # --- the two copies ---

    def state(self, node: str) -> str:
        root = self.places[node].root
        tests = (f"test -d {root}/volumes/{self.volume}/_data", f"test -d {root}/evenkeel/{self.volume}/data")
        return "".join(self.sh(node, f"{test} && echo 1 || echo 0") for test in tests).replace("\n", "")

    def remove(self) -> None:
        for service in self.cluster.services():
            if self.name in service["Spec"]["Name"]:
                self.cluster.remove_service(service["Spec"]["Name"])
        for node in self.places:
            self.sh(
                node,
                f"for i in 1 2 3 4 5 6 7 8 9 10; do docker ps -aq --filter name={self.name} | xargs -r docker rm -fv"
                f" >/dev/null 2>&1; docker volume rm -f {self.volume} >/dev/null 2>&1 && break; sleep 1; done;"
                f" umount /var/lib/docker/evenkeel/{self.volume}/data 2>/dev/null;"
                f" rm -rf /var/lib/docker/evenkeel/{self.volume} /var/backups/{self.name};"
                f" systemctl disable --now evenkeel-backup-{self.name}-db.timer >/dev/null 2>&1;"
                f" rm -f /etc/systemd/system/evenkeel-backup-{self.name}-db.* /etc/evenkeel/*{self.name}*"
                f" /usr/local/lib/evenkeel/*{self.name}*",
            )
        for secret in self.cluster.secret_names():
            if self.name in secret:
                self.cluster.remove_secret(secret)
        wait_for(self._network_gone, 60, "removed network")

    def _network_gone(self) -> bool:
        self.sh("kvm4", f"docker network rm {self.name}-net >/dev/null 2>&1 || true")
        return all(network["Name"] != f"{self.name}-net" for network in self.cluster.networks())


class Ledger:
    """A client that never repeats an id and writes down when each was acknowledged."""

    def __init__(self, estate: Estate, also: Sequence[str] = (), node: str = "kvm4") -> None:
        self.estate = estate
        self.node = node
        self.container = f"{estate.name}-ledger-{uuid.uuid4().hex[:4]}"
        addresses = ",".join([f"tasks.{estate.service}", *(f"tasks.{name}" for name in also)])
        connection = f"host={addresses} user=postgres dbname=postgres connect_timeout=1 target_session_attrs=read-write"
        start = int(time.time()) * 100000
        loop = (
            f'i={start}; while :; do i=$((i+1)); psql -X -q -c "INSERT INTO ledger (id) VALUES ($i)"'
            f" '{connection}' 2>/dev/null && echo $(date +%s.%N) $i; done"
        )
        estate.sh(
            node,
            f"docker run -d --init --name {self.container} --network {estate.name}-net -e PGPASSWORD={PASSWORD}"
            f" --entrypoint sh {estate.image} -c {shlex.quote(loop)}",
        )
        wait_for(lambda: len(self.acknowledged()) > 5, 30, "a writing ledger")

    def acknowledged(self) -> list[tuple[float, int]]:
        lines = self.estate.sh(self.node, f"docker logs {self.container} 2>/dev/null").splitlines()
        pairs = [line.split() for line in lines]
        return [(float(pair[0]), int(pair[1])) for pair in pairs if len(pair) == 2]

    def stop(self) -> list[tuple[float, int]]:
        self.estate.sh(self.node, f"docker stop -t 3 {self.container}")
        return self.acknowledged()

    def pauses(self) -> list[float]:
        """Seconds from the last acknowledged write of the first server to the first one of each that came after it."""
        wrote = dict(line.split("|") for line in self.estate.sql("SELECT id, server FROM ledger;"))
        times: dict[str, list[float]] = {}
        for at, number in self.acknowledged():
            times.setdefault(wrote[str(number)], []).append(at)
        first, *others = times.values()
        return [each[0] - first[-1] for each in others]

    def lost(self) -> list[int]:
        """Acknowledged ids that are not there."""
        acknowledged = self.acknowledged()
        there = {int(line) for line in self.estate.sql("SELECT id FROM ledger;")}
        return [number for _, number in acknowledged if number not in there]


@contextlib.contextmanager
def connections(lab: Settings) -> Iterator[tuple[Cluster, dict[str, Place]]]:
    """The manager's API through a tunnel, and both hosts over one kept SSH connection each."""
    with tempfile.TemporaryDirectory(prefix="evenkeel-") as directory:
        socket = Path(directory) / "docker.sock"
        with hosts.tunnel(lab, "kvm4", socket):
            cluster = Cluster(Swarm(f"unix://{socket}"))
            kept = ["-o", "ControlMaster=auto", "-o", f"ControlPath={directory}/%n", "-o", "ControlPersist=60"]
            nodes = cluster.nodes()
            yield (
                cluster,
                {
                    name: Place(
                        SshHost(name, ["-F", str(lab.ssh_config), *kept], f"{name}.{lab.name}"),
                        nodes[name],
                        "/var/lib/docker",
                    )
                    for name in nodes
                },
            )


def image_of(lab: Settings) -> str:
    """The lab's PostgreSQL image, by digest."""
    return (lab.directory / "pushed-postgres").read_text().strip()


Make = Callable[..., Estate]

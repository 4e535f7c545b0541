"""Units with real writers on the lab's Swarm, for moving them: each deployable in three ways.

`api`: services as `docker service create` makes them. `stack`: `docker stack deploy`, on an overlay network that only
services may join. `dokploy`: whole specs as Dokploy posts them (manager constraint, rollback, start-first but for
databases).
"""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import json
import re
import secrets
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from lab import estate, hosts, images
from lab.engine import Engine
from lab.run import LabError, say, step
from lab.settings import HOSTS, Settings
from lab.swarm import MANAGER

UNITS = Path(__file__).resolve().parent / "units.yml"
FILL = Path(__file__).resolve().parent / "fill.sql"
WAYS = ("api", "stack", "dokploy")
#: Images of databases. Dokploy since 0.29.8 updates them stop-first: before, each redeploy had two servers write to one
#: directory for seconds, and a PostgreSQL that did not survive that proved nothing about a move.
DATABASES = ("unit-postgres", "unit-redis")
NETWORK = "dokploy-network"
LABEL = "evenkeel.lab.unit"
#: What a move makes in the Swarm, and where it keeps its state on the hosts.
MOVES = "evenkeel.migration"
LEASE = "evenkeel.lease."
STATE = "/var/lib/evenkeel"
READY_SECONDS = 60
_NANO = 10**9

Spec = dict[str, Any]


def load() -> dict[str, dict[str, Any]]:
    """Return units.yml: unit -> role -> entry."""
    units: dict[str, dict[str, Any]] = yaml.safe_load(UNITS.read_text())["units"]
    return units


@dataclass(frozen=True)
class Deployment:
    """A unit in one of the ways, as its record has it. `env`: more environment by role.

    `references`: image name -> image@digest. `passwords`: role -> password. `grace`: the seconds between TERM and KILL,
    None: each image's own.
    """

    unit: str
    way: str
    references: Mapping[str, str]
    passwords: Mapping[str, str]
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    grace: int | None = None

    @property
    def roles(self) -> list[str]:
        """Return the roles in the order of starting."""
        return list(load()[self.unit])

    @property
    def network(self) -> str:
        """Return the name of the overlay network that the unit's services share."""
        return f"{self.unit}_default" if self.way == "stack" else NETWORK

    def service(self, role: str) -> str:
        """Return the exact name of a role's service."""
        if self.way == "stack":
            return f"{self.unit}_{role}"
        if self.way == "api":
            return f"{self.unit}-{role}"
        return f"infrastructureservices-{self.unit}{role}-{_suffix(self.unit + role)}"

    def volume(self, name: str) -> str:
        """Return the Swarm's name of a volume of the unit."""
        if self.way == "stack":
            return f"{self.unit}_{name}"
        role = name.removesuffix("-data")
        return f"{self.service(role)}-data" if self.way == "dokploy" and role in self.roles else f"{self.unit}-{name}"

    def volumes(self, roles: Sequence[str] = ()) -> list[str]:
        """Return the Swarm's names of the volumes of some roles, or of all."""
        entries = load()[self.unit]
        names = [name for role in roles or entries for name in entries[role].get("volumes", {})]
        return [self.volume(name) for name in dict.fromkeys(names)]

    def environment(self, role: str) -> dict[str, str]:
        """Return a role's environment, without what its `secret` puts there."""
        entry = load()[self.unit][role]
        return {key: self._filled(value) for key, value in {**entry.get("env", {}), **self.env.get(role, {})}.items()}

    def spec(self, role: str) -> Spec:
        """Return the whole spec of a role's service, for the ways `api` and `dokploy`."""
        entry = load()[self.unit][role]
        env = self.environment(role)
        if "secret" in entry:
            env[entry["secret"]] = self.passwords[role]
        dokploy = self.way == "dokploy"
        container: Spec = {
            "Image": self.references[entry["image"]],
            "Env": [f"{key}={value}" for key, value in env.items()],
            "Mounts": [
                {"Type": "volume", "Source": self.volume(name), "Target": path}
                for name, path in entry.get("volumes", {}).items()
            ],
            "StopGracePeriod": self._grace(entry) * _NANO,
            "Secrets": [],
            "Configs": [],
        }
        if "command" in entry:
            container["Args"] = entry["command"]
        return {
            "Name": self.service(role),
            "Labels": {LABEL: self.unit},
            "TaskTemplate": {
                "ContainerSpec": container,
                "Placement": {"Constraints": ["node.role==manager" if dokploy else f"node.hostname=={MANAGER}"]},
                "Networks": [{"Target": self.network}],
                "RestartPolicy": {"Condition": "any", "Delay": _NANO},
                "ForceUpdate": 0,
            },
            "Mode": {"Replicated": {"Replicas": 1}},
            "UpdateConfig": {
                "Parallelism": 1,
                "Monitor": _NANO,
                "FailureAction": "rollback" if dokploy else "pause",
                "Order": "start-first" if dokploy and entry["image"] not in DATABASES else "stop-first",
            },
            "EndpointSpec": {"Mode": "dnsrr"},
        }

    def compose(self) -> dict[str, Any]:
        """Return the compose file for the way `stack`; PostgreSQL's password is a Swarm secret there."""
        services: dict[str, Any] = {}
        files: dict[str, Any] = {}
        for role, entry in load()[self.unit].items():
            env = self.environment(role)
            service: dict[str, Any] = {
                "image": self.references[entry["image"]],
                "volumes": [f"{name}:{path}" for name, path in entry.get("volumes", {}).items()],
                "stop_grace_period": f"{self._grace(entry)}s",
                "deploy": {
                    "endpoint_mode": "dnsrr",
                    "placement": {"constraints": [f"node.hostname=={MANAGER}"]},
                    "restart_policy": {"condition": "any", "delay": "1s"},
                    "update_config": {"order": "stop-first", "monitor": "1s"},
                    "labels": {LABEL: self.unit},
                },
            }
            if "command" in entry:
                # A dollar of our own, not one for compose to fill in.
                service["command"] = [word.replace("$", "$$") for word in entry["command"]]
            if "secret" in entry:
                name = f"{self.unit}-{role}-password"
                service["secrets"] = [name]
                files[name] = {"external": True}
                env[f"{entry['secret']}_FILE"] = f"/run/secrets/{name}"
            service["environment"] = {key: value.replace("$", "$$") for key, value in env.items()}
            services[role] = service
        names = [name for entry in load()[self.unit].values() for name in entry.get("volumes", {})]
        return {"version": "3.8", "services": services, "volumes": {name: {} for name in names}, "secrets": files}

    def inventory(self, leave: Sequence[str] = ()) -> dict[str, Any]:
        """Return `migration_units` for the unit, without the roles in `leave` (a database that stays)."""
        members = [
            {"service": self.service(role), **entry.get("member", {})}
            for role, entry in load()[self.unit].items()
            if role not in leave
        ]
        return {"migration_units": {self.unit: {"home": "kvm4", "target": "kvm2", "members": members}}}

    def _grace(self, entry: Mapping[str, Any]) -> int:
        own = 10 if entry["image"] == "unit-app" else 30
        return own if self.grace is None else self.grace

    def _filled(self, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            role, secret = match.groups()
            if role not in self.roles:
                raise LabError(f"{UNITS.name}: {match.group()} names no role of the unit {self.unit}")
            return self.passwords[role] if secret else self.service(role)

        return re.sub(r"\{(\w+)(!password)?\}", value, text)


def deployment(engine: Engine, settings: Settings, unit: str, way: str = "api", **env: Mapping[str, str]) -> Deployment:
    """Return a unit's deployment with its images in the lab's registry. `env`: more environment by role.

    Raises LabError for a unit or a way that isn't there.
    """
    if unit not in load() or way not in WAYS:
        raise LabError(
            f"there is no unit {unit!r} in the way {way!r}; units: {', '.join(load())}; ways: {', '.join(WAYS)}"
        )
    references = estate.push(engine, settings, images.unit_workloads(engine))
    return Deployment(unit, way, references, passwords(settings, unit), env)


def passwords(settings: Settings, unit: str) -> dict[str, str]:
    """Return the unit's passwords by role, made once for each lab: distinctive, so that tests can look for them."""
    file = settings.directory / f"unit-{unit}.json"
    if not file.exists():
        # Whole or not at all: a run may be broken off here, or be one of two.
        with tempfile.NamedTemporaryFile("w", dir=settings.directory) as fresh:  # for its owner only
            json.dump({role: f"planted-{role}-{secrets.token_hex(8)}" for role in load()[unit]}, fresh)
            fresh.flush()
            with contextlib.suppress(FileExistsError):
                file.hardlink_to(fresh.name)
    content: dict[str, str] = json.loads(file.read_text())
    return content


def deploy(settings: Settings, deployed: Deployment, roles: Sequence[str] = ()) -> None:
    """Deploy a unit (or some of its roles) from its record: the whole spec replaces whatever is there, as Dokploy does.

    Does not wait for tasks. A stack is always deployed whole.
    """
    with estate.api(settings, MANAGER) as client:
        if deployed.way == "stack":
            for role, entry in load()[deployed.unit].items():
                name = f"{deployed.unit}-{role}-password"
                if "secret" in entry and not client.secrets(filters={"name": name}):
                    client.create_secret(name, deployed.passwords[role].encode(), {LABEL: deployed.unit})
            # No shell reads the file, and it holds passwords: it goes through standard input.
            content = base64.b64encode(json.dumps(deployed.compose()).encode()).decode()
            command = f"base64 -d | docker stack deploy --prune --with-registry-auth -c - {deployed.unit}"
            hosts.ssh(settings, MANAGER, command, stdin=content, timeout=120)
            return
        if not client.networks(names=[deployed.network]):
            client.create_network(deployed.network, driver="overlay", attachable=True, scope="swarm")
        for role in roles or deployed.roles:
            _replace(client, deployed.spec(role))


def _replace(client: Any, spec: Mapping[str, Any]) -> None:
    """Make a service, or replace its whole spec; read anew where another writer, such as a move, was faster."""
    for last in [False] * 20 + [True]:
        body = copy.deepcopy(dict(spec))
        found = next((each for each in client.services() if each["Spec"]["Name"] == body["Name"]), None)
        if found:
            body["TaskTemplate"]["ForceUpdate"] = found["Spec"]["TaskTemplate"].get("ForceUpdate", 0) + 1
        try:
            estate.create_or_update(client, found, body)
        except LabError as error:
            if last or "out of sequence" not in str(error):
                raise
        else:
            return


def converge(settings: Settings, deployed: Deployment, host: str = MANAGER) -> None:
    """Wait until every service of the unit answers as its member's health says, on the host."""
    checks = []
    for role, entry in load()[deployed.unit].items():
        health = entry["member"].get("health", {"command": ["true"]})
        command = health.get("command") or [
            "python3", "-c", _ASK, f"http://127.0.0.1:{health['port']}{health.get('path', '/')}", health["expect"],
            *([health["body"]] if "body" in health else []),
        ]  # fmt: skip
        checks.append(f"check {deployed.service(role)} {shlex.join(command)}")
    hosts.ssh(settings, host, "sh -s", stdin=_WAIT + "\n".join(checks), timeout=READY_SECONDS)


def up(settings: Settings, deployed: Deployment, megabytes: int = 0) -> None:
    """Deploy a unit, wait for it, and fill its database."""
    with step(f"deploy the unit {deployed.unit} (way {deployed.way})"):
        deploy(settings, deployed)
        converge(settings, deployed)
    if megabytes:
        with step(f"fill its database with {megabytes} MB"):
            fill(settings, deployed, megabytes)


def fill(settings: Settings, deployed: Deployment, megabytes: int) -> None:
    """Put megabytes of data into the unit's PostgreSQL, with whatever else a database may hold (fill.sql)."""
    user = load()[deployed.unit]["postgres"]["env"]["POSTGRES_USER"]
    script = f"SET evenkeel.megabytes = {megabytes};\n{FILL.read_text()}"
    psql(settings, deployed, script, user=user, timeout=900)


def psql(
    settings: Settings, deployed: Deployment, script: str, *, user: str, host: str = MANAGER, timeout: float = 60
) -> str:
    """Run SQL in the unit's PostgreSQL on a host, over the socket in its container; returns bare rows."""
    name = deployed.service("postgres")
    container = f"$(docker ps -q --filter label=com.docker.swarm.service.name={name})"
    inner = f"docker exec -i {container} psql -X -q -A -t -v ON_ERROR_STOP=1 -U {user}"
    return hosts.ssh(settings, host, inner, stdin=script, timeout=timeout)


def down(settings: Settings, unit: str) -> None:
    """Remove a unit in whatever way it was deployed, and all that a move of it has left, on every host.

    Companions, leases, secrets, volumes, parked data, the journal: afterwards nothing tells that it was there.
    """
    mine = {f"{LABEL}={unit}", f"{MOVES}={unit}"}
    with estate.api(settings, MANAGER) as client:
        for service in client.services():
            labels = {f"{key}={value}" for key, value in service["Spec"].get("Labels", {}).items()}
            if labels & mine:
                client.remove_service(service["ID"])
        for node in client.nodes():
            spec = node["Spec"]
            kept = {key: value for key, value in spec.get("Labels", {}).items() if key != LEASE + unit}
            if kept != spec.get("Labels", {}):
                client.update_node(node["ID"], node["Version"]["Index"], cast(Any, {**spec, "Labels": kept}))
    # Whole names: the estate has services whose names begin like the unit's.
    names = {"services": set[str](), "volumes": set[str]()}
    for deployed in (Deployment(unit, way, {}, {}) for way in WAYS):
        names["services"] |= {deployed.service(role) for role in deployed.roles}
        names["volumes"] |= set(deployed.volumes())
    patterns = {kind: f"^({'|'.join(sorted(each))})$" for kind, each in names.items()}
    for host in HOSTS:
        hosts.ssh(settings, host, "sh -s", stdin=_REMOVE.format(unit=unit, moves=MOVES, state=STATE, **patterns))
    with estate.api(settings, MANAGER) as client:
        for secret in client.secrets():
            labels = {f"{key}={value}" for key, value in (secret["Spec"].get("Labels") or {}).items()}
            if labels & mine:
                client.remove_secret(secret["ID"])
        stack = {"label": f"com.docker.stack.namespace={unit}"}
        for network in client.networks(filters=stack):
            client.remove_network(network["Id"])


_ASK = """import sys, urllib.request as u
request = u.Request(sys.argv[1], *[word.encode() for word in sys.argv[3:]])
sys.exit(sys.argv[2] not in u.urlopen(request, timeout=5).read().decode())
"""
_WAIT = """
check() {
    service=$1
    shift
    until container=$(docker ps -q --filter label=com.docker.swarm.service.name="$service" | head -n 1) &&
        [ -n "$container" ] && docker exec "$container" "$@" >/dev/null 2>&1 </dev/null; do sleep 0.1; done
}
"""

#: Containers are killed, not stopped: their data goes in the next line. A volume is found by its name in every way.
_REMOVE = r"""
set -u
units=$(systemctl list-units --all --plain --no-legend 'evenkeel-*-{unit}*' | awk '{{print $1}}')
[ -z "$units" ] || systemctl stop $units 2>/dev/null
cd /etc/systemd/system && rm -f evenkeel-*-{unit}* *.wants/evenkeel-*-{unit}*
rm -rf /var/backups/evenkeel/{unit}
systemctl daemon-reload
for round in 1 2 3 4 5 6 7 8 9 10; do
    found=$(docker ps -aq --filter label={moves}={unit}
        docker ps -a --format '{{{{.ID}}}} {{{{.Label "com.docker.swarm.service.name"}}}}' |
            awk '$2 ~ /{services}/ {{print $1}}')
    [ -n "$found" ] || break
    echo $found | xargs docker rm -f >/dev/null 2>&1
    sleep 0.2
done
root=$(docker info --format '{{{{.DockerRootDir}}}}')
for volume in $(docker volume ls -q | grep -E '{volumes}'); do
    mkdir -p "$root/volumes/$volume/_data"
    docker volume rm -f "$volume" >/dev/null
done
for parked in "$root"/evenkeel/*; do
    [ -e "$parked" ] || continue
    if basename "$parked" | grep -qE '{volumes}'; then rm -rf "$parked"; fi
done
rm -rf {state}/migration/{unit}
exit 0
"""


def _suffix(text: str) -> str:
    """Return six characters, always the same for a text, as Dokploy puts behind a name."""
    digits = "abcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(digits[byte % len(digits)] for byte in hashlib.sha256(text.encode()).digest()[:6])


def main(engine: Engine, settings: Settings, action: str, unit: str, *, way: str, megabytes: int) -> None:
    """Run one action of `python -m lab units`."""
    if action == "down":
        for name in [unit] if unit != "all" else load():
            down(settings, name)
        return
    for name in [unit] if unit != "all" else load():
        deployed = deployment(engine, settings, name, way)
        if action == "up":
            up(settings, deployed, megabytes if "postgres" in deployed.roles else 0)
        elif action == "redeploy":
            deploy(settings, deployed)
        else:
            say(yaml.safe_dump(deployed.inventory(), sort_keys=False).rstrip())

"""What a move leaves behind: all that can be seen of it on the hosts, in the Swarm and in the databases."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from lab import estate, hosts, units
from lab.settings import HOSTS
from lab.swarm import MANAGER
from tests.faults import ledger
from tests.faults.rig import Rig

#: Lines of `<kind> <what>`. Of files that a move may change for good the content counts, too.
_ON_HOST = r"""
set -u
root=$(docker info --format '{{.DockerRootDir}}')
find /etc/systemd/system -name '*evenkeel*' -printf 'timer %p\n'
systemctl list-units --all --plain --no-legend '*evenkeel*' | awk '{print "unit " $1}'
find /var/lib/evenkeel /var/backups/evenkeel -type f -printf 'file %p\n' 2>/dev/null
find /run /tmp -maxdepth 1 -name '*evenkeel*' -printf 'file %p\n' 2>/dev/null
sed -n 's/.*\( [^ ]*migration@.*\)/key\1/p' /root/.ssh/authorized_keys 2>/dev/null
docker ps -a --format 'container {{.Label "com.docker.swarm.service.name"}} {{.Label "evenkeel.migration"}}' | sort -u
docker volume ls -q | sed 's/^/volume /'
docker image ls --format 'tag {{.Repository}}:{{.Tag}}' | grep evenkeel- | grep -v evenkeel-lab/
find "$root/evenkeel" -mindepth 1 -maxdepth 1 -printf 'parked %f\n' 2>/dev/null
pgrep -af '[s]sh: .*evenkeel|[e]venkeel-move' | sed 's/^[0-9]* /process /'
true
"""
_IN_POSTGRES = r"""
SELECT 'slot ' || slot_name FROM pg_replication_slots;
SELECT 'role ' || rolname FROM pg_roles WHERE rolname !~ '^pg_';
SELECT 'publication ' || pubname FROM pg_publication;
SELECT 'subscription ' || subname FROM pg_subscription;
SELECT 'sender ' || application_name FROM pg_stat_replication;
SELECT 'hba ' || array_to_string(database, ',') || ' ' || array_to_string(user_name, ',')
    || ' ' || coalesce(address, type) || ' ' || auth_method FROM pg_hba_file_rules;
SELECT 'setting ' || name || '=' || setting FROM pg_file_settings;
SELECT 'file ' || name FROM pg_ls_dir('.') AS name WHERE name ~ 'signal$|evenkeel';
SELECT 'recovering' WHERE pg_is_in_recovery();
"""
_IN_REDIS = "AUTH {password}\nINFO replication\nCONFIG GET masterauth\nCONFIG GET masteruser\nACL LIST\n"
#: Values that say nothing of a move: where replication stands.
_MOVING = ("master_repl", "master_replid", "repl_backlog", "second_repl", "master_failover")


def of(rig: Rig, place: str) -> set[str]:
    """Return what is there now, with the unit running on a place. Lines of `<where>: <kind> <what>`."""
    found = {f"swarm: {line}" for line in _in_swarm(rig)}
    for host in HOSTS:
        told = hosts.ssh(rig.settings, host, "bash -s", stdin=_ON_HOST)
        found |= {f"{host}: {line}" for line in told.splitlines()}
    if "postgres" in rig.deployed.roles:
        user = rig.deployed.environment("postgres")["POSTGRES_USER"]
        told = units.psql(rig.settings, rig.deployed, _IN_POSTGRES, user=user, host=place)
        found |= {f"postgres: {line}" for line in told.splitlines() if line}
    if "redis" in rig.deployed.roles:
        found |= {f"redis: {line}" for line in _in_redis(rig, place)}
    return found


def _in_swarm(rig: Rig) -> Iterable[str]:
    with estate.api(rig.settings, MANAGER) as client:
        names = [rig.deployed.service(role) for role in rig.deployed.roles]
        for service in client.services():
            spec = service["Spec"]
            yield f"service {spec['Name']}"
            if spec["Name"] in names:
                yield from (f"spec {spec['Name']} {line}" for line in _flat(spec))
        yield from (f"secret {each['Spec']['Name']}" for each in client.secrets())
        yield from (f"config {each['Spec']['Name']}" for each in client.configs())
        yield from (f"network {each['Name']}" for each in client.networks(filters={"scope": "swarm"}))
        for node in client.nodes():
            labels = node["Spec"].get("Labels") or {}
            yield from (f"label {node['Description']['Hostname']} {key}={value}" for key, value in labels.items())
        # How long it waits for a silent host, among others.
        yield from (f"setting {line}" for line in _flat(client.inspect_swarm()["Spec"]))


def _flat(value: Any, path: str = "") -> Iterable[str]:
    """Return a line for each leaf of a JSON value. Null and an empty object are the same to Docker, and no line."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _flat(each, f"{path}.{key}" if path else key)
    elif value is not None:
        yield f"{path}={json.dumps(value, sort_keys=True)}"


def _in_redis(rig: Rig, place: str) -> Iterable[str]:
    name = rig.deployed.service("redis")
    run = f'{ledger.OF}\ndocker exec -i "$(of {name})" redis-cli'
    told = hosts.ssh(rig.settings, place, run, stdin=_IN_REDIS.format(password=rig.deployed.passwords["redis"]))
    # The ACL's line holds a hash of the password, which stays.
    return [line.strip() for line in told.splitlines() if line.strip() and not line.startswith(_MOVING)]

"""A unit on the lab that can be put back to its beginning in seconds, and the playbook that moves it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lab import estate, hosts, units
from lab.engine import Engine
from lab.run import LabError
from lab.settings import HOSTS, PROJECT, Settings
from lab.swarm import MANAGER
from lab.units import Deployment
from tests.faults import ledger, tools, two_sides
from tests.faults.tools import STATE

PLAYBOOK = PROJECT / "playbooks" / "migrate.yml"
SNAPSHOT = "/var/lib/lab-snapshot"
PLAY_SECONDS = 600
#: Docker's own, in nanoseconds: a node that is silent for three of them counts as lost.
USUAL_HEARTBEAT = 5 * 10**9
#: The Swarm's label with its heartbeat of before a move.
PATIENCE = "evenkeel.heartbeat"
#: For faults that kill Redis itself: without a log of its own it loses what it had acknowledged, move or not.
DURABLE = {"redis": {"REDIS_OPTIONS": "--appendonly yes --appendfsync always"}}
_HOLDERS = f'for f in /proc/[0-9]*/fd/*; do [ "$(readlink "$f")" = {STATE}/lock ] && echo "$f"; done 2>/dev/null; true'

# Docker's own word for each of them: its list may hide one that runs.
_FORGOTTEN = (
    "ctr -n moby task ls | awk '$3 == \"RUNNING\" { print $1 }' | while read -r task; do"
    ' [ "$(docker inspect -f \'{{.State.Running}}\' "$task" 2>/dev/null)" = true ] || echo "$task"; done'
)
#: One that is just starting or ending is known within this time, in seconds.
_KNOWN_SECONDS = 5


@dataclass
class Play:
    """A run of the playbook. `status` and what follows: None and empty until it has ended."""

    verb: str
    process: subprocess.Popen[bytes]
    log: Path
    status: int | None = None

    def wait(self, seconds: float = PLAY_SECONDS) -> Play:
        """Wait for its end. Raises LabError if that does not come."""
        try:
            self.status = self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise LabError(f"verb={self.verb} has not ended within {seconds:g} s: {self.log}") from error
        return self

    def kill(self) -> None:
        """Kill -9 ansible-playbook with all that it has started on this machine."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.status = self.process.wait()

    @property
    def document(self) -> dict[str, Any]:
        """Return what the JSON callback wrote, {} if it was killed before."""
        _, begin, rest = ("\n" + self.log.read_text(errors="replace")).partition("\n{\n")
        try:
            found: dict[str, Any] = json.JSONDecoder().raw_decode(begin.strip() + "\n" + rest)[0]
        except ValueError:
            return {}
        return found

    @property
    def changed(self) -> int:
        """Return how many tasks changed something on any host."""
        return sum(stats["changed"] for stats in self.document.get("stats", {}).values())

    @property
    def message(self) -> str:
        """Return what failed tasks said."""
        results = [each for each in _dicts(self.document) if each.get("failed") is True]
        return "; ".join(str(each.get("msg", "")) for each in results) or f"exit {self.status}: {self.log}"

    def unit(self, name: str) -> dict[str, Any]:
        """Return what the module said last of a unit, {} if it said nothing: the role may look before it acts."""
        results = [each for each in _dicts(self.document) if "lines" in each and isinstance(each.get("units"), dict)]
        told = [each["units"][name] for each in results if isinstance(each["units"].get(name), dict)]
        return dict(told[-1]) if told else {}


@dataclass
class Rig:
    """One unit on one lab."""

    settings: Settings
    engine: Engine
    deployed: Deployment
    directory: Path
    plays: list[Play] = field(default_factory=list)
    #: The phase in which the last cell left the unit, whole and idle, and how it was deployed.
    stands: tuple[str, Deployment] | None = None

    @property
    def unit(self) -> str:
        """Return the unit's name."""
        return self.deployed.unit

    def with_env(self, env: Mapping[str, Mapping[str, str]]) -> Rig:
        """Return the same rig with more environment for some roles."""
        return replace(self, deployed=replace(self.deployed, env=env), plays=[])

    # --- the beginning ---

    def snapshot(self, megabytes: int = 5) -> None:
        """Deploy and fill the unit, and keep its volumes for restore()."""
        units.down(self.settings, self.unit)
        units.up(self.settings, self.deployed, megabytes)
        services = " ".join(f"{self.deployed.service(role)}=0" for role in self.deployed.roles)
        names = "|".join(self.deployed.service(role) for role in self.deployed.roles)
        label = f"label=com.docker.swarm.service.name={self.deployed.service('redis')}"
        script = f"""
            set -e
            # Redis under a shell hears no TERM: what it holds must be saved before.
            docker exec -i $(docker ps -q --filter {label}) redis-cli >/dev/null
            docker service scale --detach {services} >/dev/null
            docker kill $(docker ps -q --filter {label}) >/dev/null
            while docker ps --format '{{{{.Names}}}}' | grep -qE '^({names})[.]'
            do sleep 0.1; done
            root=$(docker info --format '{{{{.DockerRootDir}}}}')
            rm -rf {SNAPSHOT}; mkdir -p {SNAPSHOT}
            for volume in {" ".join(self.deployed.volumes())}; do
                cp -a "$root/volumes/$volume/_data" "{SNAPSHOT}/$volume"
            done
            touch {SNAPSHOT}/{self._stamp}"""
        answers = f"AUTH {self.deployed.passwords['redis']}\nSAVE\n"
        hosts.ssh(self.settings, MANAGER, f"sh -c {shlex.quote(script)}", stdin=answers, timeout=180)

    def has_snapshot(self) -> bool:
        """Whether the lab still has the snapshot that an earlier run made of this unit."""
        return hosts.ssh(self.settings, MANAGER, f"[ -e {SNAPSHOT}/{self._stamp} ] && echo yes || echo no") == "yes"

    @property
    def _stamp(self) -> str:
        return f"of-{self.unit}-{self.deployed.way}"

    def restore(self) -> None:
        """Put the unit, the hosts and the Swarm back to the snapshot, whatever happened since."""
        self.stands = None
        # One whose cell was broken off goes on without its controller.
        hosts.ssh(
            self.settings,
            MANAGER,
            f"for engine in $({_HOLDERS}); do pid=${{engine#/proc/}}; kill -9 ${{pid%%/*}}; done",
        )
        heal(self.settings)
        ledger.stop(self.settings)
        two_sides.stop(self.settings)
        units.down(self.settings, self.unit)
        for host in HOSTS:
            for task in forgotten(self.settings, host):
                hosts.ssh(self.settings, host, f"ctr -n moby task kill -s KILL {task}")
        _wait_as_usual(self.settings)
        volumes = " ".join(self.deployed.volumes())
        script = f"""
            set -e
            [ -d {SNAPSHOT} ]
            root=$(docker info --format '{{{{.DockerRootDir}}}}')
            for volume in {volumes}; do
                docker volume create "$volume" >/dev/null
                cp -a "{SNAPSHOT}/$volume/." "$root/volumes/$volume/_data/"
            done"""
        hosts.ssh(self.settings, MANAGER, "sh -s", stdin=script)
        units.deploy(self.settings, self.deployed)
        units.converge(self.settings, self.deployed)

    # --- the playbook ---

    def begin(
        self, verb: str, *arguments: str, verbosity: str = "", whole: bool = True, deadline: int | None = None
    ) -> Play:
        """Start the playbook with a verb; in a process group of its own, so that it can be killed whole.

        Not `whole`: only what the playbook's main task does, without looking whether the hosts are ready, and without
        making or removing the SSH link; `deadline`: of the switch, in seconds, None the usual one.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / f"{len(self.plays):02}-{verb}.log"
        programs, inventory = Path(sys.executable).parent, self.deployed.inventory()
        if whole:
            file = self.directory / "units.json"
            file.write_text(json.dumps(inventory))
            argv = [str(programs / "ansible-playbook"), str(PLAYBOOK), "-e", f"@{file}"]
            argv += ["-e", f"verb={verb}", "-e", f"unit={self.unit}", *arguments, *([verbosity] if verbosity else [])]
        else:
            options = {"units": inventory["migration_units"], "unit": self.unit, "verb": verb, "progress": True}
            options |= {} if deadline is None else {"deadline": deadline}
            argv = [str(programs / "ansible"), MANAGER, "-m", "evenkeel.swarm.migration", "-a", json.dumps(options)]
        environment = {
            **os.environ,
            "LAB_NAME": self.settings.name,
            "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "default" if verbosity else "ansible.posix.json",
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv, cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        play = Play(verb, process, log)
        self.plays.append(play)
        return play

    def run(self, verb: str, *arguments: str, whole: bool = True) -> Play:
        """Run the playbook with a verb to its end."""
        return self.begin(verb, *arguments, whole=whole).wait()

    def succeed(self, verb: str, *arguments: str, whole: bool = True) -> Play:
        """Run the playbook with a verb. Raises LabError if it fails."""
        play = self.run(verb, *arguments, whole=whole)
        if play.status:
            raise LabError(f"verb={verb} failed: {play.message}")
        return play

    def until_idle(self, seconds: float = 180) -> None:
        """Wait until no engine is at work on the manager: one goes on when only its controller was killed."""
        deadline = time.monotonic() + seconds
        while hosts.ssh(self.settings, MANAGER, "sh -s", stdin=_HOLDERS):
            if time.monotonic() > deadline:
                raise LabError(f"the engine is still at work after {seconds:g} s")
            time.sleep(0.2)

    # --- what is there ---

    def journal(self) -> list[dict[str, Any]]:
        """Return the journal's whole entries."""
        text = hosts.ssh(self.settings, MANAGER, f"cat {STATE}/{self.unit}/journal.jsonl 2>/dev/null || true")
        return [entry for line in text.splitlines() if (entry := _loads(line)) is not None]

    def promotions(self) -> int:
        """Return how often a promotion was intended."""
        return sum(entry["event"] == "promotion_intended" for entry in self.journal())

    def running(self) -> dict[str, list[str]]:
        """Return the roles whose containers run on each host."""
        names = {self.deployed.service(role): role for role in self.deployed.roles}
        found = {host: [name for _id, name in self._containers(host)] for host in HOSTS}
        return {host: sorted(names[name] for name in each if name in names) for host, each in found.items()}

    def databases(self) -> dict[str, set[str]]:
        """Return the ids of the running containers of the unit's databases on each host."""
        entries = units.load()[self.unit]
        names = [self.deployed.service(role) for role, entry in entries.items() if entry["image"] in units.DATABASES]
        return {host: {container for container, name in self._containers(host) if name in names} for host in HOSTS}

    def _containers(self, host: str) -> list[tuple[str, str]]:
        """Return (id, service) of the containers of services that run on a host.

        Asked one by one: what the engine lists is wrong for those that began or ended while its disk was full.
        """
        label = "com.docker.swarm.service.name"
        form = f'{{{{if .State.Running}}}}{{{{.Id}}}} {{{{index .Config.Labels "{label}"}}}}{{{{end}}}}'
        script = f"docker ps -aq --filter label={label} | xargs -r docker inspect --format '{form}' 2>/dev/null; true"
        lines = hosts.ssh(self.settings, host, script).splitlines()
        return [(words[0], words[1]) for line in lines if (words := line.split())]

    def redeploy(self) -> None:
        """Redeploy the unit as a new version: what did not change at all a stack would leave running."""
        version = {"REDEPLOYED": str(time.time_ns())}
        env = {role: {**self.deployed.env.get(role, {}), **version} for role in self.deployed.roles}
        units.deploy(self.settings, replace(self.deployed, env=env))

    def redeploy_databases(self, seconds: float) -> None:
        """Redeploy the unit, and wait until the databases that ran have ended. Raises LabError where one does not.

        Swarm forgets a container that is still stopping when the next redeploy comes: it starts another one beside it,
        on the same directory. That loses writes without any move. Others, start-first, may stay until that one runs.
        """
        before = self.databases()
        self.redeploy()
        deadline = time.monotonic() + seconds
        while left := [each for host, now in self.databases().items() for each in now & before[host]]:
            if time.monotonic() > deadline:
                raise LabError(f"{', '.join(left)} still run {seconds:g} s after a redeploy")
            time.sleep(0.2)

    def volume_states(self) -> dict[str, dict[str, str]]:
        """Return volume -> host -> live, parked, both or neither."""
        script = """
            root=$(docker info --format '{{.DockerRootDir}}')
            for volume in "$@"; do
                live=no; [ -d "$root/volumes/$volume/_data" ] && live=yes
                parked=no; [ -d "$root/evenkeel/$volume/data" ] && parked=yes
                echo "$volume $live $parked"
            done"""
        words = {("yes", "no"): "live", ("no", "yes"): "parked", ("yes", "yes"): "both", ("no", "no"): "neither"}
        states: dict[str, dict[str, str]] = {}
        for host in HOSTS:
            told = hosts.ssh(self.settings, host, f"sh -s {' '.join(self.deployed.volumes())}", stdin=script)
            for volume, live, parked in (line.split() for line in told.splitlines()):
                states.setdefault(volume, {})[host] = words[live, parked]
        return states

    def leases(self) -> list[str]:
        """Return the hosts that have the unit's lease."""
        template = '{{.Description.Hostname}} {{index .Spec.Labels "evenkeel.lease.' + self.unit + '"}}'
        told = hosts.ssh(self.settings, MANAGER, f"docker node inspect --format '{template}' $(docker node ls -q)")
        return [line.split()[0] for line in told.splitlines() if line.endswith(" 1")]

    def wrong_end(self, place: str) -> list[str]:
        """Say what is not as it should be when the whole unit is at one place."""
        found = []
        for host, roles in self.running().items():
            wanted = sorted(self.deployed.roles) if host == place else []
            if roles != wanted:
                found.append(f"on {host} run {roles}, not {wanted}")
        for volume, states in self.volume_states().items():
            live = [host for host, state in states.items() if state in ("live", "both")]
            if live != [place] or "both" in states.values():
                found.append(f"volume {volume} is {states}, not live on {place} alone")
        for host in HOSTS:
            unknown = [task[:12] for task in forgotten(self.settings, host)]
            if unknown:
                found.append(f"on {host} run containers that Docker does not know: {unknown}")
        if self.leases() not in ([place], []):
            found.append(f"the lease is on {self.leases()}, not on {place}")
        return found

    def left_behind(self, place: str) -> list[str]:
        """Say what a move has left though it was cancelled, with the unit at a place. Its proven backups stay."""
        script = f"""
            root=$(docker info --format '{{{{.DockerRootDir}}}}')
            docker ps --filter label={units.MOVES}={self.unit} --format 'container {{{{.Names}}}}'
            for volume in {" ".join(self.deployed.volumes())}; do
                [ -e "$root/evenkeel/$volume" ] && echo "parked $volume"
                docker volume inspect "$volume" >/dev/null 2>&1 && echo "volume $volume"
            done
            systemctl list-units --all --plain --no-legend 'evenkeel-*-{self.unit}*' | awk '{{print "unit " $1}}'
            docker secret ls -q --filter label={units.MOVES}={self.unit} 2>/dev/null | sed 's/^/secret /'
            docker info --format '{{{{json .Swarm.Cluster}}}}' | grep -oF '{PATIENCE}' | sed 's/^/label /'
            true"""
        told = {host: hosts.ssh(self.settings, host, "sh -s", stdin=script).splitlines() for host in HOSTS}
        return [
            f"{host} still has {line}"
            for host, lines in told.items()
            for line in lines
            if host != place or not line.startswith("volume ")
        ]


def forgotten(settings: Settings, host: str) -> list[str]:
    """Return the ids of the containers on a host that run without Docker's knowing it."""
    deadline = time.monotonic() + _KNOWN_SECONDS
    while found := hosts.ssh(settings, host, _FORGOTTEN).split():
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    return found


def heal(settings: Settings) -> None:
    """Undo every fault that a test may have left on the hosts."""
    script = f"""
        for hook in INPUT OUTPUT; do while iptables -w -D $hook -j {tools.CHAIN} 2>/dev/null; do :; done; done
        iptables -w -F {tools.CHAIN} 2>/dev/null; iptables -w -X {tools.CHAIN} 2>/dev/null
        tc qdisc del dev eth0 root 2>/dev/null
        rm -f /var/lib/docker/lab-filler
        systemctl stop 'lab-undo-*.timer' 2>/dev/null
        true"""
    for host in HOSTS:
        hosts.ssh(settings, host, "sh -s", stdin=script)
        tools.engine_back(settings, host)
    # Swarm notices only seconds later; until then a verb rightly says that a node is not ready.
    ready = "docker node ls --format '{{.Status}}' | sort -u"
    hosts.ssh(settings, MANAGER, f'until [ "$({ready})" = Ready ]; do sleep 0.2; done')


def _wait_as_usual(settings: Settings) -> None:
    """Have the Swarm wait for a silent host as long as it usually does, and forget what a move has noted of that."""
    with estate.api(settings, MANAGER) as client:
        swarm = client.inspect_swarm()
        spec = swarm["Spec"]
        labels = {key: value for key, value in (spec.get("Labels") or {}).items() if key != PATIENCE}
        dispatcher = {**(spec.get("Dispatcher") or {}), "HeartbeatPeriod": USUAL_HEARTBEAT}
        client.update_swarm(swarm["Version"]["Index"], {**spec, "Labels": labels, "Dispatcher": dispatcher})


def _loads(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "event" in entry else None


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Return every mapping within a JSON value."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _dicts(each)

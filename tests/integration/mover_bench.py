"""Drive one mover between the two hosts of a lab: the driver on the manager, services, writers and their ledger."""

from __future__ import annotations

import io
import itertools
import json
import shlex
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ansible

from lab.settings import PROJECT, Settings
from tests.integration.harness import LEFT_BY_TESTS, Spec, Swarm, wait_for

OnHost = Callable[..., str]
HOME = "/tmp/evenkeel-movers"
_SSH = ["-i", f"{HOME}/key", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new"]
_SSH += ["-o", f"UserKnownHostsFile={HOME}/known_hosts", "-o", "ControlMaster=auto", "-o", "ControlPersist=60"]
_SSH += ["-o", f"ControlPath={HOME}/cm-%C", "-o", "ConnectTimeout=5", "-o", "ServerAliveInterval=5"]


@dataclass
class Ran:
    """What a run of the driver said: its events, and its exit status (negative where it was killed)."""

    status: int
    events: list[dict[str, Any]]
    text: str

    def answer(self, what: str) -> Any:
        return self._done(what)["answer"]

    def seconds(self, what: str) -> float:
        return float(self._done(what)["seconds"])

    @property
    def failed(self) -> dict[str, Any] | None:
        return next((each for each in self.events if each["event"] == "failed"), None)

    @property
    def did(self) -> list[str]:
        """Steps that changed something."""
        return [each["step"] for each in self.events if each["event"] == "step_ended" and each["outcome"] == "did"]

    def _done(self, what: str) -> dict[str, Any]:
        return next(each for each in self.events if each["event"] == "done" and each["what"] == what)


@dataclass
class Bench:
    """The manager of a lab with the driver and the collection's code on it."""

    lab: Settings
    on_host: OnHost
    swarm: Swarm
    addresses: dict[str, str] = field(default_factory=dict)
    #: Of the driver that was started last.
    pid_file: str = ""

    def install(self) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            package = Path(str(ansible.__file__)).parent
            # Its own would load all of the command line.
            tar.addfile(tarfile.TarInfo("lib/ansible/__init__.py"))
            tar.add(package / "module_utils", "lib/ansible/module_utils")
            code = PROJECT / "plugins" / "module_utils"
            tar.add(code, "lib/ansible_collections/evenkeel/swarm/plugins/module_utils")
            for name in ("move_driver.py", "ledger_writer.py"):
                tar.add(Path(__file__).with_name(name), name)
        argv = ["ssh", "-F", str(self.lab.ssh_config), f"kvm4.{self.lab.name}"]
        script = f"rm -rf {HOME}/lib && mkdir -p {HOME} && tar -C {HOME} -xzf -"
        subprocess.run([*argv, script], input=archive.getvalue(), check=True, timeout=60)
        made = (
            f"[ -e {HOME}/key ] || ssh-keygen -q -t ed25519 -N '' -C evenkeel-movers -f {HOME}/key; cat {HOME}/key.pub"
        )
        public = self.on_host("kvm4", made).strip()
        grant = f"grep -qF '{public}' .ssh/authorized_keys || echo '{public}' >> .ssh/authorized_keys"
        self.on_host("kvm2", f"mkdir -p .ssh && touch .ssh/authorized_keys && {grant}")
        for node in self.swarm.client.nodes():
            self.addresses[node["Description"]["Hostname"]] = node["Status"]["Addr"]

    def start(self, job: dict[str, Any], do: Sequence[str], **changes: Any) -> subprocess.Popen[str]:
        """Start the driver; it is killed with the process that is returned."""
        whole = {
            "nodes": {"kvm4": None, "kvm2": f"root@{self.addresses['kvm2']}"},
            "state": f"{HOME}/state",
            "ssh": _SSH,
            **job,
            **changes,
            "do": list(do),
        }
        path = f"{HOME}/job-{uuid.uuid4().hex[:8]}.json"
        argv = ["ssh", "-F", str(self.lab.ssh_config), f"kvm4.{self.lab.name}"]
        subprocess.run([*argv, f"umask 077; cat > {path}"], input=json.dumps(whole), text=True, check=True, timeout=30)
        self.pid_file = f"{path}.pid"
        run = f"echo $$ > {self.pid_file}; exec env PYTHONPATH={HOME}/lib python3 {HOME}/move_driver.py {path}"
        return subprocess.Popen(
            [*argv, f"sh -c '{run}'"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def run(self, job: dict[str, Any], *do: str, **changes: Any) -> Ran:
        process = self.start(job, do, **changes)
        text, _ = process.communicate(timeout=500)
        return read(process.returncode, text)

    def done(self, job: dict[str, Any], *do: str, **changes: Any) -> Ran:
        """Run, and expect no failure."""
        ran = self.run(job, *do, **changes)
        assert ran.status == 0, ran.text[-3000:]
        return ran

    def run_and_kill(self, job: dict[str, Any], do: Sequence[str], when: Callable[[dict[str, Any]], bool]) -> Ran:
        """Run until an event is seen, then kill the driver without a warning."""
        process = self.start(job, do)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if any(when(event) for event in read(0, line).events):
                self.on_host("kvm4", f"kill -9 $(cat {self.pid_file})")
                break
        rest, _ = process.communicate(timeout=60)
        return read(process.returncode, "".join(lines) + rest)


def read(status: int, text: str) -> Ran:
    events = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return Ran(status, events, text)


def stateful_spec(name: str, image: str, volume: str, path: str, network: str, **container: Any) -> Spec:
    """A service on kvm4 with one named volume."""
    return {
        "Name": name,
        "Labels": {LEFT_BY_TESTS: name},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": image,
                "Mounts": [{"Type": "volume", "Source": volume, "Target": path}],
                "StopGracePeriod": 10_000_000_000,
                "Init": True,
                **container,
            },
            "Placement": {"Constraints": ["node.hostname==kvm4"]},
            "Networks": [{"Target": network}],
            "RestartPolicy": {"Condition": "any", "Delay": 500_000_000},
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "UpdateConfig": {"Parallelism": 1, "FailureAction": "pause", "Order": "stop-first"},
        "EndpointSpec": {"Mode": "dnsrr"},
    }


@dataclass
class Writer:
    """A container beside a Redis that writes to it without end and keeps a ledger of what was acknowledged."""

    on_host: OnHost
    name: str
    image: str
    network: str
    service: str
    password: str

    @property
    def ledger(self) -> str:
        return f"{HOME}/{self.name}.ledger"

    def start(self) -> None:
        self.on_host(
            "kvm4",
            f"umask 077; printf %s {shlex.quote(self.password)} > {HOME}/{self.name}.password; : > {self.ledger}",
        )
        self._run("-d", "write")

    def stop(self) -> None:
        self.on_host("kvm4", f"docker rm -f {self.name} >/dev/null 2>&1; true")

    def times(self) -> list[float]:
        lines = self.on_host("kvm4", f"cat {self.ledger}").splitlines()
        return [float(line.split()[1]) for line in lines if line.count(" ") == 1]

    def outage(self) -> float:
        """The longest time between two acknowledged writes, in seconds."""
        times = self.times()
        return max(after - before for before, after in itertools.pairwise(times))

    def missing(self) -> tuple[int, int]:
        """Acknowledged writes, and how many of them the service does not have."""
        acknowledged, lost, *_which = self._run("--rm", "read").split()
        return int(acknowledged), int(lost)

    def _run(self, how: str, what: str) -> str:
        named = f"--name {self.name}" if what == "write" else ""
        script = f"{HOME}/ledger_writer.py {what} {self.service} {HOME}/{self.name}.password {self.ledger}"
        mount = f"-v {HOME}:{HOME} --network {self.network}"
        return self.on_host("kvm4", f"docker run {how} {named} {mount} {self.image} python3 {script}", timeout=300)


def image_of(lab: Settings, name: str) -> str:
    """A workload image by digest, as the lab's registry has it."""
    return (lab.directory / f"pushed-{name}").read_text()


def clean_up(swarm: Swarm, on_host: OnHost, prefix: str) -> None:
    for name in list(swarm.specs()):
        if name.startswith((prefix, f"evenkeel-{prefix}")):
            swarm.remove(name)
    wait_for(lambda: not _containers(on_host, prefix), 60, f"containers of {prefix} to be gone")
    for secret in swarm.client.secrets():
        if secret["Spec"]["Name"].startswith(f"evenkeel-{prefix}"):
            swarm.client.remove_secret(secret["ID"])
    for host in ("kvm4", "kvm2"):
        on_host(host, f"docker volume ls -q | grep ^{prefix} | xargs -r docker volume rm >/dev/null; true")
        places = ("/var/backups/evenkeel", "/var/lib/docker/evenkeel", "/var/lib/docker/volumes")
        on_host(host, "rm -rf " + " ".join(f"{place}/{prefix}*" for place in places))
    on_host("kvm4", f"rm -rf {HOME}/state/{prefix}*")


def _containers(on_host: OnHost, prefix: str) -> str:
    listed = "docker ps -q --filter name={0} --filter name=evenkeel-{0}"
    return "".join(on_host(host, listed.format(prefix)) for host in ("kvm4", "kvm2")).strip()

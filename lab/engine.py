"""The Docker engine that carries the lab: the machine's own if it answers, else one that the lab starts and stops."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from lab.run import LabError, run, step
from lab.settings import Settings

#: Without `-b`, every engine on a machine configures docker0; two of them then cut each other's network.
BRIDGE = "evenkeel0"
BRIDGE_ADDRESS = "10.213.0.1/24"
START_SECONDS = 60
STOP_SECONDS = 60
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


class Engine:
    """An engine that answers on docker_host (None: whatever the docker client uses by default)."""

    def __init__(self, docker_host: str | None = None) -> None:
        self.environment = dict(os.environ)
        if docker_host:
            self.environment["DOCKER_HOST"] = docker_host

    def docker(
        self, *argv: str | Path, stdin: str | bytes | None = None, timeout: float = 600, check: bool = True
    ) -> str:
        """Run the docker client against this engine."""
        return run(["docker", *argv], stdin=stdin, env=self.environment, timeout=timeout, check=check)

    def answers(self) -> bool:
        """Whether there is a client and the engine answers it."""
        if not shutil.which("docker"):
            return False
        done = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            env=self.environment,
            capture_output=True,
            timeout=30,
            check=False,
        )
        return done.returncode == 0

    def exists(self, kind: str, name: str) -> bool:
        """Whether a container, image, network or volume of that name exists."""
        return bool(self.docker(kind, "inspect", "--format", "found", name, check=False))

    def running(self, container: str) -> bool:
        """Whether the container exists and runs."""
        return self.docker("container", "inspect", "--format", "{{.State.Running}}", container, check=False) == "true"


class OwnEngine:
    """The engine that the lab starts where the machine has none: one for all checkouts, as two would fight.

    Two engines in one network namespace rewrite each other's firewall chains. Its store lies in .lab/engine of the
    checkout that started it.
    """

    def __init__(self, settings: Settings) -> None:
        self.directory = settings.project / ".lab" / "engine"
        # Not below the checkout: a socket's path must stay under 108 bytes.
        self.runtime = Path("/run/evenkeel-lab")
        self.pid_file = self.runtime / "docker.pid"
        self.socket = self.runtime / "docker.sock"
        self.before = self.runtime / "iptables-before"
        self.engine = Engine(f"unix://{self.socket}")

    def start(self) -> None:
        """Start dockerd and wait until it answers. Raises LabError with the end of its log."""
        install_missing()
        for directory in (self.directory, self.runtime):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o700)
        if not self.before.exists():
            forward = IP_FORWARD.read_text().strip()
            self.before.write_text(f"{forward}\n{run(['iptables-save'])}")
        if not Path("/sys/class/net", BRIDGE).exists():
            run(["ip", "link", "add", BRIDGE, "type", "bridge"])
            run(["ip", "address", "add", BRIDGE_ADDRESS, "dev", BRIDGE])
            run(["ip", "link", "set", BRIDGE, "up"])
        if self._pid() is None:
            # Left by a killed engine; dockerd would take whoever has that pid now for one that runs.
            self.pid_file.unlink(missing_ok=True)
        log = self.directory / "dockerd.log"
        with log.open("wb") as output:
            subprocess.Popen(
                [
                    "dockerd",
                    f"--data-root={self.directory / 'data'}",
                    f"--exec-root={self.runtime / 'exec'}",
                    f"--pidfile={self.pid_file}",
                    f"--host=unix://{self.socket}",
                    f"--bridge={BRIDGE}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.engine.answers():
            if time.monotonic() > deadline:
                raise LabError(f"dockerd did not start; the end of {log}:\n{log.read_text()[-1500:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop dockerd by its own pid and take back what it did to the machine's network."""
        pid = self._pid()
        if pid:
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
                if time.monotonic() > deadline:
                    raise LabError(f"dockerd (pid {pid}) did not stop within {STOP_SECONDS} s")
                time.sleep(0.2)
        if Path("/sys/class/net", BRIDGE).exists():
            run(["ip", "link", "delete", BRIDGE])
        if self.before.exists():
            forward, _, rules = self.before.read_text().partition("\n")
            for argv in undo_rules(rules, run(["iptables-save"])):
                run(["iptables", *argv], check=False)
            IP_FORWARD.write_text(forward)
        shutil.rmtree(self.runtime, ignore_errors=True)

    def uses(self, directory: Path) -> bool:
        """Whether the running engine's store lies below a directory."""
        pid = self._pid()
        return bool(pid) and f"--data-root={directory}/".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()

    def _pid(self) -> int | None:
        """Pid of our dockerd, if it is really ours: a pid file may outlive its process."""
        try:
            pid = int(self.pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(self.runtime).encode() in command else None


def undo_rules(before: str, after: str) -> list[Sequence[str]]:
    """Arguments for iptables that remove what an engine added between two outputs of iptables-save.

    Only Docker's chains and rules on Docker's or the lab's bridges count; anything else that came in meanwhile stays.
    Chain policies go back to what they were.
    """
    old, new = _rules_by_table(before), _rules_by_table(after)
    remove: list[Sequence[str]] = []
    for table, lines in new.items():
        known = old.get(table, [])
        added = [line for line in lines if line not in known]
        chains = [line.split()[0][1:] for line in added if line.startswith(":DOCKER")]
        remove += [
            ["-t", table, "-D", *shlex.split(line)[1:]]
            for line in added
            if line.startswith("-A") and re.search(rf"DOCKER|{BRIDGE}|\bbr-[0-9a-f]{{12}}\b", line)
        ]
        remove += [["-t", table, "-F", chain] for chain in chains]
        remove += [["-t", table, "-X", chain] for chain in chains]
        for line in known:
            if line.startswith(":") and line.split()[1] in ("ACCEPT", "DROP"):
                remove.append(["-t", table, "-P", line.split()[0][1:], line.split()[1]])
        if table not in old and any(line.startswith(":FORWARD") for line in lines):
            remove.append(["-t", table, "-P", "FORWARD", "ACCEPT"])
    return remove


def _rules_by_table(saved: str) -> dict[str, list[str]]:
    """Rules and chains of iptables-save's output by table, packet counters cut off."""
    tables: dict[str, list[str]] = {}
    current: list[str] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            current = tables.setdefault(line[1:].strip(), [])
        elif line.startswith((":", "-A")):
            current.append(re.sub(r" \[\d+:\d+\]$", "", line.strip()))
    return tables


def install_missing() -> None:
    """Install the engine and its tools from Debian's packages where they are missing."""
    wanted = {"dockerd": "docker.io", "docker": "docker.io", "iptables": "iptables", "ip": "iproute2"}
    missing = sorted({package for program, package in wanted.items() if not shutil.which(program)})
    if missing:
        install(missing)


def install(packages: Sequence[str]) -> None:
    """Install Debian packages. Raises LabError where that can't be done, with what to do instead."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise LabError(
            f"missing: {', '.join(packages)}; "
            "install a Docker engine that `docker info` reaches, or run as root on Debian"
        )
    with step(f"install {', '.join(packages)}"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-q"], env=environment)
        run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages], env=environment, timeout=1200)


def connect(settings: Settings, *, start: bool) -> Engine | None:
    """Return the engine to use: the machine's own first, else the lab's (started if start is true, else None)."""
    own = OwnEngine(settings)
    if own.engine.answers():
        return own.engine
    machine = Engine()
    if machine.answers():
        return machine
    if not start:
        return None
    with step("start a Docker engine for the lab"):
        own.start()
    return own.engine

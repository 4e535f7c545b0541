"""Faults on lab hosts, each with its undo; a timer on the host undoes what a killed test left (`UNDO_SECONDS`).

Only lab hosts are ever touched: every function takes the lab's Settings and reaches hosts by their names in it.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import hosts
from lab.engine import Engine
from lab.run import LabError
from lab.settings import HOSTS, Settings
from lab.swarm import MANAGER
from lab.units import Deployment, psql

UNDO_SECONDS = 300
STATE = "/var/lib/evenkeel/migration"
WATCHER = Path(__file__).with_name("on_host_watcher.py")
CHAIN = "LAB_FAULT"


@contextmanager
def fault(settings: Settings, host: str, name: str, do: str, undo: str) -> Iterator[None]:
    """Bring a fault about on a host by a shell script while the block runs; `undo` must be safe to run twice."""
    arm = f"systemd-run --quiet --collect --on-active={UNDO_SECONDS} --unit=lab-undo-{name} sh -c {shlex.quote(undo)}"
    hosts.ssh(settings, host, f"systemctl stop lab-undo-{name}.timer 2>/dev/null; {arm}")
    try:
        hosts.ssh(settings, host, "sh -s", stdin=do)
        yield
    finally:
        hosts.ssh(settings, host, "sh -s", stdin=f"{undo}\nsystemctl stop lab-undo-{name}.timer 2>/dev/null; true")


def address(settings: Settings, host: str) -> str:
    """Return a host's address in the lab's network, as its peer has it in the Swarm."""
    return hosts.ssh(settings, host, "docker info --format '{{.Swarm.NodeAddr}}'")


# --- the link between the hosts ---


def _chain(rules: str) -> tuple[str, str]:
    undo = f"""
        for hook in INPUT OUTPUT; do while iptables -w -D $hook -j {CHAIN} 2>/dev/null; do :; done; done
        iptables -w -F {CHAIN} 2>/dev/null; iptables -w -X {CHAIN} 2>/dev/null; true"""
    hook = f"for hook in INPUT OUTPUT; do iptables -w -I $hook -j {CHAIN}; done"
    do = f"{undo}\nset -e; iptables -w -N {CHAIN}\n{rules}\n{hook}"
    return do, undo


def link_cut(settings: Settings, host: str = "kvm2", *, ways: str = "both") -> Any:
    """Drop what goes between the hosts; seen from `host`, `ways` is both, in or out."""
    return fault(settings, host, "link", *_cut(settings, host, ways))


def link_flap(settings: Settings, seconds: float, host: str = "kvm2", *, ways: str = "both") -> None:
    """Cut the link as link_cut() does, and return at once: the host itself mends it after some seconds."""
    do, undo = _cut(settings, host, ways)
    arm = "systemd-run --quiet --collect --timer-property=AccuracySec=100ms --unit=lab-undo-flap"
    arm += f" --on-active={seconds:g} sh -c {shlex.quote(undo)}"
    hosts.ssh(settings, host, "sh -s", stdin=f"systemctl stop lab-undo-flap.timer 2>/dev/null; {arm}\n{do}")


def _cut(settings: Settings, host: str, ways: str) -> tuple[str, str]:
    peer = address(settings, next(other for other in HOSTS if other != host))
    rules = {"in": f"iptables -w -A {CHAIN} -s {peer} -j DROP", "out": f"iptables -w -A {CHAIN} -d {peer} -j DROP"}
    return _chain("\n".join(rules.values() if ways == "both" else [rules[ways]]))


def link_lossy(settings: Settings, host: str = "kvm2", *, share: float = 0.05) -> Any:
    """Lose a share of the packets that come from the other host."""
    peer = address(settings, next(other for other in HOSTS if other != host))
    rule = f"iptables -w -A {CHAIN} -s {peer} -m statistic --mode random --probability {share} -j DROP"
    return fault(settings, host, "loss", *_chain(rule))


def link_slow(settings: Settings, host: str = MANAGER, *, mbit: int = 20) -> Any:
    """Slow down everything that a host sends; the source by default, as copies go from there."""
    undo = "tc qdisc del dev eth0 root 2>/dev/null; true"
    return fault(
        settings,
        host,
        "slow",
        f"{undo}; tc qdisc add dev eth0 root tbf rate {mbit}mbit burst 64kb latency 300ms",
        undo,
    )


# --- engines, hosts, disks ---


def kill_dockerd(settings: Settings, host: str) -> None:
    """Kill -9 the Docker engine of a host; systemd starts it again."""
    hosts.ssh(settings, host, "kill -9 $(cat /run/docker.pid)")


def restart_dockerd(settings: Settings, host: str) -> None:
    """Restart the Docker engine of a host, as an operator does."""
    hosts.ssh(settings, host, "systemctl reset-failed docker; systemctl restart docker")


def engine_back(settings: Settings, host: str) -> None:
    """Wait until a host's Docker engine answers."""
    wait = "systemctl reset-failed docker; systemctl start docker; until docker node ls >/dev/null 2>&1 ||"
    hosts.ssh(settings, host, f"{wait} docker info 2>/dev/null | grep -q 'Swarm: active'; do sleep 0.2; done")


def reboot(engine: Engine, settings: Settings, host: str) -> None:
    """Cut a host's power and switch it on again; waits until it has booted. Its SSH port is another afterwards."""
    engine.docker("kill", "--signal=KILL", settings.container(host))
    hosts.up(engine, settings)


def disk_full(settings: Settings, host: str = "kvm2", *, left: int = 0) -> Any:
    """Fill the file system of a host's Docker engine up to `left` bytes. Only on a lab with LAB_DISK."""
    file = "/var/lib/docker/lab-filler"
    do = f"""
        [ "$(stat -f -c %T /var/lib/docker)" = tmpfs ] || {{ echo "the lab needs LAB_DISK for this" >&2; exit 1; }}
        free=$(df --output=avail -B1 /var/lib/docker | tail -n 1)
        size=$((free - {left}))
        # Others write, too.
        until fallocate -l $size {file} 2>/dev/null; do size=$((size - 1048576)); done
        [ {left} -gt 0 ] || head -c 64M /dev/zero >> {file} 2>/dev/null || true"""
    return fault(settings, host, "disk", do, f"rm -f {file}")


def image_withheld(settings: Settings, image: str, host: str = "kvm2") -> Any:
    """Take an image (by digest) from a host and keep the registry from it: its digest can't be had there."""
    do, undo = _chain(f"iptables -w -A {CHAIN} -p tcp --dport 5000 -j REJECT")
    again = f"docker pull -q {image} >/dev/null 2>&1; true"
    return fault(settings, host, "image", f"{do}\ndocker rmi -f {image} >/dev/null 2>&1; true", f"{undo}\n{again}")


# --- the unit itself ---


@contextmanager
def wrong_password(settings: Settings, deployed: Deployment, role: str) -> Iterator[None]:
    """Change a PostgreSQL role's password to one that nobody knows; back to the record's afterwards, if it has one."""
    user = deployed.environment("postgres")["POSTGRES_USER"]
    psql(settings, deployed, f"ALTER ROLE \"{role}\" PASSWORD 'not-what-anybody-knows';", user=user)
    try:
        yield
    finally:
        if role == user:
            password = deployed.passwords["postgres"]
            # A switch may have moved it meanwhile.
            mine = f"docker ps -q --filter label=com.docker.swarm.service.name={deployed.service('postgres')}"
            host = next((each for each in HOSTS if hosts.ssh(settings, each, mine)), MANAGER)
            psql(settings, deployed, f"ALTER ROLE \"{role}\" PASSWORD '{password}';", user=user, host=host)


@contextmanager
def populated(settings: Settings, volume: str, host: str = "kvm2") -> Iterator[None]:
    """Let somebody else's data lie in a volume of that name on the target."""
    file = "$(docker volume inspect --format '{{.Mountpoint}}' " + volume + ")/somebody-elses"
    hosts.ssh(settings, host, f"docker volume create {volume} >/dev/null && echo precious > {file}")
    try:
        yield
    finally:
        hosts.ssh(settings, host, f'[ "$(cat {file})" = precious ] && docker volume rm {volume} >/dev/null')


# --- at a step ---


class AtStep:
    """Acts on the engine when its journal shows an event of a step: on the manager, within milliseconds.

    `event` is an outcome (`did`, `failed`) or `intent`. `act`: `kill` (-9); `hold`: the engine stands still while
    `callback` is called here with the entry, and then goes on, so that a fault comes exactly there; or `none`.
    A step may be a glob; at those in `but` nothing is done. Only the first counts, or with `every` each. `seen` is the
    newest entry, None until then. `acted`: whether there was an engine to kill or to hold.
    """

    def __init__(
        self,
        settings: Settings,
        unit: str,
        step: str,
        event: str,
        *,
        act: str = "none",
        delay: float = 0.0,
        but: Sequence[str] = (),
        every: bool = False,
        callback: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.settings = settings
        self.given = {"unit": unit, "step": step, "event": event, "act": act, "delay": delay, "but": list(but)}
        self.every = every
        self.callback = callback
        self.seen: dict[str, Any] | None = None
        self.acted = False
        self.error: Exception | None = None

    def __enter__(self) -> AtStep:
        """Start the watcher; returns when it looks."""
        hosts.ssh(self.settings, MANAGER, "cat > /run/lab-watcher.py", stdin=WATCHER.read_text())
        argument = shlex.quote(json.dumps({**self.given, "every": self.every, "state": STATE}))
        self._process = subprocess.Popen(
            ["ssh", "-F", str(self.settings.ssh_config), f"{MANAGER}.{self.settings.name}",
             f"python3 /run/lab-watcher.py {argument}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout
        if self._process.stdout.readline().strip() != "looking":
            raise LabError("the watcher of the journal did not start")
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Let the watcher end, and hear what it still has to say; raises what the callback raised."""
        self._end()
        self._thread.join(timeout=120)
        self._process.terminate()
        self._process.wait()
        if self.error is not None:
            raise self.error

    def _wait(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            word, _, rest = line.partition(" ")
            self.acted = self.acted or word in ("killed", "held")
            if word == "seen":
                self.seen = json.loads(rest)
                try:
                    if self.callback is not None:
                        self.callback(self.seen)
                except (LabError, OSError) as error:
                    self.error = error
                finally:
                    if self.every:
                        self._go_on()
                    else:
                        self._end()

    def _go_on(self) -> None:
        """Let an engine that was held go on."""
        assert self._process.stdin
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def _end(self) -> None:
        """Let an engine that was held go on, and the watcher end: so does this process's own death."""
        assert self._process.stdin
        # After a reboot of the manager nobody is there any more.
        with contextlib.suppress(OSError):
            self._process.stdin.close()

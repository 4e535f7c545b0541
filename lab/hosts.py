"""The hosts of a lab: containers with systemd, sshd and their own engine, reached over SSH on 127.0.0.1."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab import images
from lab.engine import Engine, OwnEngine
from lab.run import LabError, run, step
from lab.settings import HOSTS, Settings

#: Where labs look for a free /24.
ADDRESS_POOL = ipaddress.IPv4Network("10.213.0.0/16")
#: The host whose engine's store LAB_DISK bounds.
SMALL = "kvm2"
REGISTRY_OCTET = 5
BOOT_SECONDS = 120
TUNNEL_SECONDS = 15
LABEL = "evenkeel.lab"
#: What a host needs where --privileged is refused (the machine lacks CAP_SYS_RESOURCE).
ALMOST_PRIVILEGED = (
    "--cap-add=ALL",
    "--cap-drop=SYS_RESOURCE",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
    "--device-cgroup-rule=a *:* rwm",
)


def up(engine: Engine, settings: Settings) -> None:
    """Bring network, registry and hosts up, or find them up; then write the SSH configuration."""
    settings.directory.mkdir(parents=True, exist_ok=True)
    key = ssh_key(settings.directory / "id_ed25519", f"evenkeel lab {settings.name}")
    image = images.host(engine, settings)
    subnet = _network(engine, settings)
    _registry(engine, settings, subnet)
    for name, (octet, vcpus) in HOSTS.items():
        container = settings.container(name)
        if not engine.exists("container", container):
            with step(f"start the host {name} (Debian {settings.debian})"):
                _create(
                    engine,
                    settings,
                    name,
                    image,
                    address=f"{subnet[octet]}",
                    cpus=cpu_set(name, vcpus, os.cpu_count() or 1),
                )
        elif not engine.running(container):
            with step(f"start the host {name} again"):
                engine.docker("start", container)
        _wait_for_boot(engine, container)
        engine.docker(
            "exec",
            "-i",
            container,
            "sh",
            "-c",
            # Others may have put keys there, such as a move: a reboot does not take them away.
            "umask 077; mkdir -p /root/.ssh; cd /root/.ssh; touch authorized_keys; read -r key;"
            ' grep -qxF "$key" authorized_keys || echo "$key" >> authorized_keys',
            stdin=key,
        )
    _write_ssh_config(engine, settings)
    for name in HOSTS:
        ssh(settings, name, "true")


def down(engine: Engine, settings: Settings) -> None:
    """Remove what `up` made of this lab: containers with their volumes, then the network."""
    containers = engine.docker("ps", "-aq", "--filter", f"label={LABEL}={settings.network}").split()
    if containers:
        with step(f"remove {len(containers)} containers"):
            engine.docker("rm", "-f", "-v", *containers)
    volumes = engine.docker("volume", "ls", "-q", "--filter", f"label={LABEL}={settings.network}").split()
    if volumes:
        engine.docker("volume", "rm", *volumes)
    if engine.exists("network", settings.network):
        engine.docker("network", "rm", settings.network)


def labs(engine: Engine) -> list[str]:
    """Networks of all labs on the engine, of every checkout."""
    return engine.docker("network", "ls", "--filter", f"label={LABEL}", "--format", "{{.Name}}").split()


def execute(
    engine: Engine, settings: Settings, host: str, *argv: str, stdin: str | None = None, timeout: float = 300
) -> str:
    """Run argv on a host, past SSH: for building the lab only."""
    interactive = ["-i"] if stdin is not None else []
    return engine.docker("exec", *interactive, settings.container(host), *argv, stdin=stdin, timeout=timeout)


def ssh(settings: Settings, host: str, command: str, timeout: float = 60, stdin: str | None = None) -> str:
    """Run a shell command on a host over SSH, as any operator would."""
    return run(["ssh", "-F", settings.ssh_config, f"{host}.{settings.name}", command], timeout=timeout, stdin=stdin)


@contextmanager
def tunnel(settings: Settings, host: str, address: Path) -> Iterator[None]:
    """Forward a local Unix socket to the host's engine over SSH while the block runs."""
    forward = f"{address}:/var/run/docker.sock"
    client = subprocess.Popen(
        [
            "ssh",
            "-F",
            settings.ssh_config,
            "-o",
            "ExitOnForwardFailure=yes",
            "-N",
            "-L",
            forward,
            f"{host}.{settings.name}",
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + TUNNEL_SECONDS
        while not _answers(address):
            if client.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"no SSH tunnel to {host}: is the lab {settings.name!r} up?")
            time.sleep(0.02)
        yield
    finally:
        client.terminate()
        client.wait()


def _answers(address: Path) -> bool:
    """Whether somebody listens there: a busy machine has the file before anybody does."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(address))
        except OSError:
            return False
    return True


def ssh_key(path: Path, comment: str) -> str:
    """Return the public half of a key pair at path, made on the first call."""
    if not path.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path])
    return path.with_suffix(".pub").read_text()


def write_ssh_config(settings: Settings, ports: dict[str, tuple[int, str]]) -> None:
    """Write ssh_config and known_hosts for hosts on 127.0.0.1: name -> (port, the host's public key)."""
    blocks, known = [], []
    for name, (port, host_key) in ports.items():
        known.append(f"[127.0.0.1]:{port} {' '.join(host_key.split()[:2])}")
        blocks.append(
            f"Host {name}.{settings.name}\n    HostName 127.0.0.1\n    Port {port}\n    User root\n"
            f'    IdentityFile "{settings.directory}/id_ed25519"\n    IdentitiesOnly yes\n'
            f'    UserKnownHostsFile "{settings.directory}/known_hosts"\n    StrictHostKeyChecking yes\n'
            "    LogLevel ERROR\n"
        )
    (settings.directory / "known_hosts").write_text("\n".join(known) + "\n")
    _write_if_changed(settings.ssh_config, "\n".join(blocks))


def release(engine: Engine, settings: Settings) -> list[str]:
    """Return the labs that are up; without any, stop the engine that a lab had started."""
    others = labs(engine)
    if not others:
        OwnEngine(settings).stop()
    return others


def cpu_set(host: str, vcpus: int, cores: int) -> str:
    """CPUs of this machine for a host: kvm4 from the first, kvm2 from the last, as many as there are up to vcpus.

    On fewer than six cores they overlap: both hosts then share what there is.
    """
    count = min(vcpus, cores)
    first = 0 if host == "kvm4" else cores - count
    return f"{first}-{first + count - 1}"


def _network(engine: Engine, settings: Settings) -> ipaddress.IPv4Network:
    """Return the lab's subnet, on its own network that is made on the first call."""
    if not engine.exists("network", settings.network):
        rules = run(["iptables-save", "-t", "nat"], check=False) if shutil.which("iptables-save") else ""
        for candidate in subnets(rules):
            try:
                engine.docker(
                    "network",
                    "create",
                    f"--label={LABEL}={settings.network}",
                    f"--subnet={candidate}",
                    settings.network,
                )
            except LabError as error:
                if "overlap" not in str(error):
                    raise
            else:
                break
        else:
            raise LabError(f"no free /24 in {ADDRESS_POOL} for the lab's network")
    subnet = engine.docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", settings.network)
    return ipaddress.IPv4Network(subnet)


def subnets(rules: str) -> list[ipaddress.IPv4Network]:
    """Return those that a lab may take if no network overlaps. `rules`: what iptables-save says of its table nat.

    A killed engine leaves its rules. By one for a bridge that is gone, the hosts of a new lab on that subnet would see
    each other at their gateway's address, and so would Swarm.
    """
    return [each for each in list(ADDRESS_POOL.subnets(new_prefix=24))[1:] if f" -s {each} " not in rules]


def _registry(engine: Engine, settings: Settings, subnet: ipaddress.IPv4Network) -> None:
    container = settings.container("registry")
    if engine.running(container):
        return
    image = images.registry(engine)
    with step("start the registry"):
        if engine.exists("container", container):
            engine.docker("start", container)
        else:
            options = [
                f"--name={container}", f"--label={LABEL}={settings.network}", f"--network={settings.network}",
                "--network-alias=registry", f"--ip={subnet[REGISTRY_OCTET]}", "--publish=127.0.0.1::5000",
            ]  # fmt: skip
            engine.docker("run", "-d", *options, image)


def _create(engine: Engine, settings: Settings, name: str, image: str, *, address: str, cpus: str) -> None:
    """Start a host's container, privileged where the machine can, else with as much as it can give."""
    options = [
        f"--name={settings.container(name)}", f"--hostname={name}", f"--label={LABEL}={settings.network}",
        f"--network={settings.network}", f"--ip={address}", f"--cpuset-cpus={cpus}",
        # No CPU quota for a host: it would count into the run delay of every thread inside.
        # Shares keep the machine responsive.
        "--cpu-shares=512", "--cgroupns=private", "--env=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
        "--tmpfs=/run", "--tmpfs=/tmp:exec", "--publish=127.0.0.1::22",
    ]  # fmt: skip
    if settings.disk and name == SMALL:
        options.append(f"--volume={_disk(engine, settings, image)}:/var/lib/docker")
    privileges: Sequence[str] = ("--privileged",) if _may_be_privileged(engine, image) else ALMOST_PRIVILEGED
    engine.docker("run", "-d", *options, *privileges, image)


def _disk(engine: Engine, settings: Settings, image: str) -> str:
    """Make a volume of bounded size, in memory: only a file system of its own can be full by itself. Returns its name.

    A second container keeps it mounted: with its last one it would be emptied, and a reboot would lose the disk.
    """
    name = settings.container("disk")
    label = f"--label={LABEL}={settings.network}"
    size = [f"--opt={option}" for option in ("type=tmpfs", "device=tmpfs", f"o=size={settings.disk}")]
    engine.docker("volume", "create", label, *size, name)
    if engine.exists("container", name):
        engine.docker("start", name)
        return name
    keeper = [f"--name={name}", label, "--network=none", f"--volume={name}:/disk", "--entrypoint=sleep"]
    engine.docker("run", "-d", *keeper, image, "infinity")
    return name


def _may_be_privileged(engine: Engine, image: str) -> bool:
    return "yes" in engine.docker("run", "--rm", "--privileged", "--entrypoint=echo", image, "yes", check=False)


def _wait_for_boot(engine: Engine, container: str) -> None:
    """Wait until systemd has started everything and the inner engine answers."""
    deadline = time.monotonic() + BOOT_SECONDS
    state = engine_answer = ""
    while time.monotonic() < deadline:
        state = engine.docker("exec", container, "systemctl", "is-system-running", check=False)
        engine_answer = engine.docker(
            "exec", container, "docker", "version", "--format", "{{.Server.Version}}", check=False
        )
        if state == "running" and engine_answer:
            return
        time.sleep(0.5)
    failed = engine.docker("exec", container, "systemctl", "--failed", "--no-legend", check=False)
    raise LabError(
        f"{container} did not boot in {BOOT_SECONDS} s: systemd says {state!r}, its engine {engine_answer!r};"
        f" failed units: {failed}"
    )


def _write_ssh_config(engine: Engine, settings: Settings) -> None:
    """Point the SSH configuration at the hosts. A container that starts again has another port, so all is read anew."""
    ports = {}
    for name in HOSTS:
        container = settings.container(name)
        port = engine.docker("port", container, "22/tcp").splitlines()[0].rpartition(":")[2]
        host_key = engine.docker("exec", container, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")
        ports[name] = (int(port), host_key)
    write_ssh_config(settings, ports)


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)

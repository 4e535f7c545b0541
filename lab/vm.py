"""A virtual machine with a distribution's own kernel: cgroup v2 and Docker's systemd driver, whatever runs here.

It is a lab host like kvm4, on a disk of its own: same image, same SSH, same inventory. LAB_DEBIAN chooses the release
(trixie: kernel 6.12, Docker 26.1; bookworm: kernel 6.1, Docker 20.10).
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from lab import hosts, images, qemu
from lab.engine import connect, install
from lab.run import LabError, fail, run, say, step
from lab.settings import DEBIAN_RELEASES, Settings, from_environment

#: The inventory's name for it, so that Ansible and the tests reach it as they reach any lab's manager.
HOST = "kvm4"
DISK_SIZE = "6G"
MEMORY_MIB = 2048
#: What the truth table needs at once; an emulator shares one host processor among all of them.
PROCESSORS = 2
#: Kernel 6.1 starts its second processor in a loop that a counted clock stretches to ten minutes and more.
EMULATED_PROCESSORS = {"bookworm": 1}
#: Under emulation a boot takes one minute, beside much other work it was seen to take three.
BOOT_SECONDS = 600
SSH_SECONDS = 20
STOP_SECONDS = 10


def settings_of(settings: Settings) -> Settings:
    """The machine's own settings: a lab whose name no two-host lab can have."""
    return replace(settings, name=f"vm-{settings.debian}")


def up(settings: Settings) -> None:
    """Boot the machine, or find it up. Raises LabError with the console's end if it does not come up."""
    machine = settings_of(settings)
    say(f"Virtual machine {machine.name!r}:")
    if running_pid(machine) is None:
        _prepare(machine)
        _boot(machine)
    _wait(machine)
    kernel = hosts.ssh(machine, HOST, "uname -r")
    config = machine.ssh_config.relative_to(machine.project)
    say(f"It is up, kernel {kernel}. Log in with: ssh -F {config} {HOST}.{machine.name}")


def down(settings: Settings) -> None:
    """Stop the machine by its own pid. Its disk stays, as it was made."""
    machine = settings_of(settings)
    pid = running_pid(machine)
    if pid is None:
        say(f"Virtual machine {machine.name!r} is not up.")
    else:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while running_pid(machine) is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        say(f"Virtual machine {machine.name!r} is stopped. `make clean` removes its disk.")
    for name in ("qemu.pid", "ssh_config"):
        (machine.directory / name).unlink(missing_ok=True)


def down_all(settings: Settings) -> None:
    """Stop the machines of all releases."""
    for release in DEBIAN_RELEASES:
        if settings_of(replace(settings, debian=release)).directory.exists():
            down(replace(settings, debian=release))


def _prepare(machine: Settings) -> None:
    """Install QEMU, make keys and disk, where they are missing."""
    if not shutil.which(qemu.QEMU):
        install(["qemu-system-x86"])
    machine.directory.mkdir(parents=True, exist_ok=True)
    machine.directory.chmod(0o700)
    folders = (images.IMAGES / "host", images.IMAGES / "vm")
    made_of = images.fingerprint((machine.debian, DEBIAN_RELEASES[machine.debian], HOST, DISK_SIZE), *folders)
    stamp = machine.directory / "disk-made-of"
    if (machine.directory / "disk.img").exists() and stamp.exists() and stamp.read_text() == made_of:
        return
    stamp.unlink(missing_ok=True)
    _make_disk(machine)
    stamp.write_text(made_of)


def _make_disk(machine: Settings) -> None:
    """Write the root file system of the machine's image to a disk, with the lab's keys in it."""
    for key in ("id_ed25519", "host_ed25519"):
        hosts.ssh_key(machine.directory / key, f"evenkeel {machine.name}")
    engine = connect(machine, start=True)
    if engine is None:
        raise LabError("no Docker engine could be started, and the disk is made from an image")
    try:
        image = images.virtual_machine(engine, machine)
        with step(f"make a disk of it ({DISK_SIZE}, sparse)"):
            engine.docker(
                *("run", "--rm", "--network=none", f"--memory={images.BUILD_MEMORY}", "--volume=/stage"),
                *(f"--volume={machine.directory}:/out", image, "lab-make-disk", HOST, DISK_SIZE),
            )
    finally:
        hosts.release(engine, machine)


def _boot(machine: Settings) -> None:
    """Start QEMU and note its pid. It goes on when this process ends."""
    directory = machine.directory
    with step("see whether KVM boots a kernel"):
        accelerator, reason = qemu.accelerator(directory / "vmlinuz", directory)
    say(f"  No: {reason}. The processors are emulated: expect minutes, not seconds." if reason else "  Yes.")
    processors = EMULATED_PROCESSORS.get(machine.debian, PROCESSORS) if reason else PROCESSORS
    guest = qemu.Guest(directory, processors, MEMORY_MIB, _free_port())
    guest.console.unlink(missing_ok=True)
    with (directory / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            qemu.guest_argv(guest, accelerator),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # The snapshot's temporary file: not in /tmp, which may be memory.
            env={**os.environ, "TMPDIR": str(directory)},
            start_new_session=True,
        )
    (directory / "qemu.pid").write_text(str(process.pid))
    hosts.write_ssh_config(machine, {HOST: (guest.port, (directory / "host_ed25519.pub").read_text())})


def _wait(machine: Settings) -> None:
    """Wait until systemd has started everything and the engine answers."""
    console = machine.directory / "console.log"
    with step(f"wait for it to boot ({BOOT_SECONDS} s at most)"):
        deadline = time.monotonic() + BOOT_SECONDS
        state = ""
        while state != "running":
            if running_pid(machine) is None:
                said = (machine.directory / "qemu.log").read_text(errors="replace")[-500:]
                raise LabError(f"QEMU ended: {said}\nThe console's end:\n{qemu.last_lines(console)}")
            if time.monotonic() > deadline:
                down(machine)
                raise LabError(
                    f"no boot within {BOOT_SECONDS} s (systemd says {state or 'nothing'}). "
                    f"The console's end:\n{qemu.last_lines(console)}"
                )
            time.sleep(1)
            state = _state(machine)
    engine = hosts.ssh(machine, HOST, "docker version --format '{{.Server.Version}}'")
    say(f"  Its Docker engine is {engine}.")


def _state(machine: Settings) -> str:
    """What systemd says of itself; "" while SSH does not answer."""
    options = ["-o", f"ConnectTimeout={SSH_SECONDS}", "-o", "BatchMode=yes"]
    argv: list[str | Path] = [
        "ssh",
        "-F",
        machine.ssh_config,
        *options,
        f"{HOST}.{machine.name}",
        "systemctl is-system-running",
    ]
    try:
        return run(argv, timeout=2 * SSH_SECONDS, check=False)
    except LabError:
        return ""


def running_pid(machine: Settings) -> int | None:
    """Pid of this machine's QEMU, if it is really that: a pid file may outlive its process."""
    try:
        pid = int((machine.directory / "qemu.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if f"{machine.directory}/disk.img".encode() in command else None


def _free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Run one verb; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab.vm", description=__doc__)
    parser.add_argument("verb", choices=["up", "down"])
    verb = parser.parse_args().verb
    try:
        settings = from_environment()
        if verb == "up":
            up(settings)
        else:
            down(settings)
    except LabError as error:
        return fail(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""QEMU: which accelerator really runs a kernel here, how a guest is started, what its console says."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

QEMU = "qemu-system-x86_64"
KVM = ("-accel", "kvm", "-cpu", "host")
#: Without -cx16 QEMU 7.2 crashes the guest's memory allocator; -la57 saves a page table level.
#: -icount: the guest's clock counts its instructions, 4 ns each. Against real time, what other work on this machine
#: takes from the emulator would look in the guest like work of its own programs, never like stolen time: wrong answers
#: from a guest that seems idle (seen: estimates 10 % off). It needs one host thread for all processors.
EMULATION = ("-accel", "tcg,thread=single", "-icount", "shift=2,sleep=on", "-cpu", "max,-cx16,-la57")
#: mitigations=off: costly under emulation, and the guest runs nothing of anybody else.
KERNEL_OPTIONS = "root=/dev/vda rw console=ttyS0 mitigations=off panic=-1"
#: A kernel without a disk says this at the end of its own start.
NO_ROOT = "Unable to mount root fs"
KVM_DEVICE = Path("/dev/kvm")
#: A kernel under working KVM reaches its end in about a second.
PROBE_SECONDS = 20.0
CONSOLE_LINES = 25


@dataclass(frozen=True)
class Guest:
    """One virtual machine: kernel, initramfs and disk in a directory, virtual processors, memory in MiB, SSH port."""

    directory: Path
    processors: int
    memory: int
    port: int

    @property
    def console(self) -> Path:
        """What the kernel and systemd print."""
        return self.directory / "console.log"


def guest_argv(guest: Guest, accelerator: tuple[str, ...]) -> list[str]:
    """Command that runs the guest. Its writes go to a temporary file: the disk stays as it was made."""
    directory = guest.directory
    return [
        QEMU, *accelerator, "-machine", "q35", "-smp", str(guest.processors), "-m", str(guest.memory),
        "-kernel", str(directory / "vmlinuz"), "-initrd", str(directory / "initrd"), "-append", KERNEL_OPTIONS,
        "-drive", f"file={_escaped(directory / 'disk.img')},format=raw,if=virtio,cache=unsafe", "-snapshot",
        "-nic", f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{guest.port}-:22",
        "-device", "virtio-rng-pci", "-display", "none", "-monitor", "none", "-no-reboot",
        "-serial", f"file:{guest.console}",
    ]  # fmt: skip


def probe_argv(kernel: Path) -> list[str]:
    """Command that runs a kernel under KVM, without any disk, with its console on standard output."""
    options = "console=ttyS0 panic=-1"
    return [
        QEMU, *KVM, "-machine", "q35", "-m", "256", "-kernel", str(kernel), "-append", options,
        "-nic", "none", "-display", "none", "-monitor", "none", "-no-reboot", "-serial", "stdio",
    ]  # fmt: skip


def verdict(said: str, exited: bool) -> str | None:
    """Judge a probe by what the kernel and QEMU have said: "" KVM works, a reason why not, None if still open."""
    if NO_ROOT in said:
        return ""
    for line in said.splitlines():
        if "emulation failure" in line or "KVM internal error" in line or "Could not access KVM" in line:
            return line.strip()
    return f"QEMU ended: {(said.strip().splitlines() or ['without a word'])[-1].rstrip('.')}" if exited else None


def accelerator(kernel: Path, scratch: Path) -> tuple[tuple[str, ...], str]:
    """Return the options for the guest's processors, and "" or the reason why they are emulated.

    That /dev/kvm opens proves nothing (inside some virtual machines it does, and no instruction runs): a kernel has to
    boot.
    """
    if not KVM_DEVICE.exists():
        return EMULATION, f"{KVM_DEVICE} does not exist"
    output = scratch / "kvm-probe.log"
    with output.open("wb") as log:
        qemu = subprocess.Popen(
            probe_argv(kernel), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PROBE_SECONDS
        while time.monotonic() < deadline:
            exited = qemu.poll() is not None
            reason = verdict(output.read_text(errors="replace"), exited)
            if reason is not None:
                return (EMULATION, reason) if reason else (KVM, "")
            time.sleep(0.1)
    finally:
        qemu.kill()
        qemu.wait()
    return EMULATION, f"a kernel under KVM did not start within {PROBE_SECONDS:.0f} s"


def last_lines(console: Path) -> str:
    """The end of the console, for an error message."""
    if not console.exists():
        return "(the console is empty)"
    lines = [line.rstrip() for line in console.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-CONSOLE_LINES:]) or "(the console is empty)"


def _escaped(path: Path) -> str:
    """A path inside an option: QEMU takes a comma for the end unless it is doubled."""
    return str(path).replace(",", ",,")

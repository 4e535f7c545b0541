# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual machine's pure parts: QEMU's command, the judgement on KVM, the console's end, what a disk is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import images, qemu, vm
from lab.run import LabError
from lab.settings import from_environment

GUEST = qemu.Guest(Path("/state/vm,1"), processors=2, memory=2048, port=2222)
BOOTED = "[    1.0] Linux version 6.12\n[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on ...\n"


def after(argv: list[str], option: str) -> str:
    return argv[argv.index(option) + 1]


def test_the_guest_is_reached_on_the_loopback_address_only() -> None:
    argv = qemu.guest_argv(GUEST, qemu.KVM)
    assert after(argv, "-nic").endswith("hostfwd=tcp:127.0.0.1:2222-:22")
    assert (after(argv, "-smp"), after(argv, "-m")) == ("2", "2048")


def test_the_disk_is_never_written_and_its_path_may_hold_a_comma() -> None:
    argv = qemu.guest_argv(GUEST, qemu.KVM)
    assert "-snapshot" in argv
    assert after(argv, "-drive").startswith("file=/state/vm,,1/disk.img,")


@pytest.mark.parametrize("accelerator", [qemu.KVM, qemu.EMULATION])
def test_the_accelerator_is_the_one_chosen(accelerator: tuple[str, ...]) -> None:
    argv = qemu.guest_argv(GUEST, accelerator)
    assert tuple(argv[1 : 1 + len(accelerator)]) == accelerator


def test_an_emulated_guest_s_clock_does_not_run_on_while_the_emulator_waits() -> None:
    assert "-icount" in qemu.EMULATION
    assert "-icount" not in qemu.KVM


@pytest.mark.parametrize(
    ("said", "exited", "expected"),
    [
        (BOOTED, True, ""),
        (BOOTED, False, ""),
        ("", False, None),
        ("[    0.0] Linux version 6.12\n", False, None),
        ("KVM internal error. Suberror: 1\nemulation failure\nEAX=...", False, "KVM internal error. Suberror: 1"),
        ("emulation failure\n", False, "emulation failure"),
        ("Could not access KVM kernel module: Permission denied\n", True, "Could not access KVM kernel module"),
        ("qemu: failed to set MSR\nqemu: Assertion failed.\n", True, "QEMU ended: qemu: Assertion failed"),
        ("", True, "QEMU ended: without a word"),
    ],
)
def test_kvm_works_only_if_a_kernel_reached_its_end(said: str, exited: bool, expected: str | None) -> None:
    judged = qemu.verdict(said, exited)
    assert judged == expected or (expected and judged and judged.startswith(expected))


def test_without_the_device_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "KVM_DEVICE", tmp_path / "kvm")
    assert qemu.accelerator(tmp_path / "vmlinuz", tmp_path) == (qemu.EMULATION, f"{tmp_path}/kvm does not exist")


def test_the_console_s_end_is_shown(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    assert qemu.last_lines(console) == "(the console is empty)"
    console.write_bytes(b"".join(b"line %d\r\n\r\n" % number for number in range(100)) + b"\xff panic\r\n")
    shown = qemu.last_lines(console).splitlines()
    assert len(shown) == qemu.CONSOLE_LINES
    assert shown[0] == "line 76"
    assert shown[-1].endswith(" panic")


def test_the_machine_is_a_lab_of_its_own_and_one_for_each_release() -> None:
    names = {vm.settings_of(from_environment({"LAB_DEBIAN": release})).name for release in ("trixie", "bookworm")}
    assert names == {"vm-trixie", "vm-bookworm"}
    for name in names:
        with pytest.raises(LabError):  # so no two-host lab can have that name
            from_environment({"LAB_NAME": name})


def test_a_fingerprint_changes_with_arguments_names_and_content(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("x")
    first = images.fingerprint("one", tmp_path)
    assert images.fingerprint("one", tmp_path) == first
    assert images.fingerprint("two", tmp_path) != first
    file.write_text("y")
    assert images.fingerprint("one", tmp_path) != first
    file.write_text("x")
    file.rename(tmp_path / "b")
    assert images.fingerprint("one", tmp_path) != first


def test_a_pid_file_that_outlived_its_process_is_nobody_s(tmp_path: Path) -> None:
    machine = vm.settings_of(from_environment({}))
    machine = type(machine)(machine.name, machine.debian, machine.load, project=tmp_path)
    machine.directory.mkdir(parents=True)
    for content in ("1", "none", ""):
        (machine.directory / "qemu.pid").write_text(content)
        assert vm.running_pid(machine) is None

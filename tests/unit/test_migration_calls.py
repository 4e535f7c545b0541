# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls on a host: real Pythons that stay, their ends, and what is said of them."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.calls import Calls
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import LocalHost, SshHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.talk import Talk

SOURCE = """
from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass

COUNT = []


@dataclass
class Pair:
    a: int


def parent():
    return os.getppid()


def count():
    COUNT.append(1)
    return len(COUNT)


def echo(text):
    return text


def pair(a):
    return Pair(a).a


def noisy():
    print("not an answer")
    return subprocess.run(["cat"], capture_output=True, check=True).stdout.decode()


def missing():
    raise FileNotFoundError(2, "No such file", "/no/such")


def mistaken():
    return {}["key"]


def slow(seconds, path):
    time.sleep(seconds)
    open(path, "w").close()


def fall():
    os._exit(3)
"""


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "sent.py").write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("sent", tmp_path / "sent.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "sent", module)  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def test_calls_share_a_python_and_nothing_else(sent: ModuleType) -> None:
    here = LocalHost("here")
    assert here.call(sent, "parent") == here.call(sent, "parent") != os.getpid()
    assert [here.call(sent, "count") for _ in range(3)] == [1, 1, 1]
    assert here.call(sent, "pair", a=7) == 7


@pytest.mark.parametrize("text", ["", "line\nline", "ä€\0", "x" * 3_000_000])
def test_any_text_goes_there_and_back(sent: ModuleType, text: str) -> None:
    assert LocalHost("here").call(sent, "echo", text=text) == text


def test_what_a_call_starts_neither_reads_nor_writes_between_the_lines(sent: ModuleType) -> None:
    here = LocalHost("here")
    assert here.call(sent, "noisy") == ""
    assert here.call(sent, "echo", text="next") == "next"


@pytest.mark.parametrize(
    ("function", "said"),
    [("missing", "/no/such"), ("mistaken", "KeyError: 'key'"), ("fall", "fall ended without an answer")],
)
def test_a_failure_there_is_one_here_and_the_next_call_works(sent: ModuleType, function: str, said: str) -> None:
    here = LocalHost("here")
    with pytest.raises(MoveError, match=f"here: .*{said}") as caught:
        here.call(sent, function)
    assert caught.value.code == "failed_on_host"
    assert here.call(sent, "echo", text="next") == "next"


def test_calls_of_threads_run_side_by_side(sent: ModuleType, tmp_path: Path) -> None:
    here = LocalHost("here")
    began = time.monotonic()
    threads = [
        threading.Thread(target=lambda each=each: here.call(sent, "slow", seconds=1.0, path=str(tmp_path / str(each))))
        for each in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 4
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == list("01234")


def test_a_call_that_takes_too_long_is_said_and_leaves_no_answer_behind(sent: ModuleType, tmp_path: Path) -> None:
    here = LocalHost("here")
    with pytest.raises(MoveError, match=r"slow on here did not end within 0\.2 s") as caught:
        here.call(sent, "slow", timeout=0.2, seconds=2, path=str(tmp_path / "late"))
    assert caught.value.code == "timeout"
    assert here.call(sent, "echo", text="next") == "next"


def test_a_python_that_ended_meanwhile_is_replaced(sent: ModuleType) -> None:
    here = LocalHost("here")
    first = here.call(sent, "parent")
    os.kill(first, signal.SIGKILL)
    assert here.call(sent, "parent") != first


def test_a_python_that_dies_under_a_call_is_not_asked_again(sent: ModuleType, tmp_path: Path) -> None:
    here = LocalHost("here")
    killed = here.call(sent, "parent")
    threading.Timer(0.3, os.kill, (killed, signal.SIGKILL)).start()
    with pytest.raises(MoveError, match="here: no answer"):
        here.call(sent, "slow", seconds=1.0, path=str(tmp_path / "once"))


def test_it_ends_with_the_one_who_started_it(sent: ModuleType) -> None:
    child = os.fork()
    if child == 0:  # dies as by kill -9, with its Python idle
        pid = LocalHost("here").call(sent, "parent")
        Path(sent.__file__ or "").with_name("pid").write_text(str(pid))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    pid = int(Path(sent.__file__ or "").with_name("pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, "it outlives the engine"
        time.sleep(0.05)


def test_an_unreachable_host_is_said_to_be(sent: ModuleType) -> None:
    there = SshHost("kvm2", ["-F", "/dev/null", "-oBatchMode=yes", "-p", "9"], "root@127.0.0.1")
    with pytest.raises(MoveError, match=r"kvm2 can't be reached over SSH: .*refused") as caught:
        there.call(sent, "echo", text="hello")
    assert caught.value.code == "host_unreachable"


def test_a_python_is_kept_only_as_long_as_few_wait(sent: ModuleType, tmp_path: Path) -> None:
    begun: list[Sequence[str]] = []

    def start(argv: Sequence[str]) -> Talk:
        begun.append(argv)
        return Talk(argv)

    calls = Calls(start)
    for _ in range(2):
        threads = [
            threading.Thread(
                target=lambda each=each: calls.call(sent, "slow", {"seconds": 0.5, "path": str(tmp_path / each)}, 30)
            )
            for each in "abcde"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(begun) == 5 + 2

"""Hosts: the source that is sent to them, and those that are seen only by what was brought from them."""

from __future__ import annotations

import importlib
import linecache
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import calls
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.brought import (
    FUNCTIONS,
    ROOT,
    BroughtHost,
    answer,
    refused,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.calls import source_of
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError, if_reachable
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import LocalHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import copies, survey
from ansible_collections.evenkeel.swarm.plugins.modules.migration import by_host, unique
from ansible_collections.evenkeel.swarm.plugins.modules.migration_info import answers


def test_the_source_of_a_module_in_an_archive_is_found_by_threads(tmp_path: Path) -> None:
    """Ansible sends modules in an archive, and lanes of a move are threads: seen in a switch, once in some."""
    archive = tmp_path / "sent.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("sent_in_an_archive.py", "def f():\n    return 1\n" * 300)
    sys.path.insert(0, str(archive))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    failures: list[str] = []
    try:
        module = importlib.import_module("sent_in_an_archive")
        for _ in range(200):
            linecache.clearcache()
            calls._sources.clear()
            together = threading.Barrier(8)

            def read(together: threading.Barrier = together) -> None:
                together.wait()
                try:
                    source_of(module)
                except OSError as error:
                    failures.append(str(error))

            threads = [threading.Thread(target=read) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
        sys.path.remove(str(archive))
    assert failures == []


def test_a_command_that_is_not_there_ends_as_in_a_shell() -> None:
    assert LocalHost("here").run(["no-such-command-6b1f"], check=False).status == 127
    with pytest.raises(MoveError, match="no-such-command-6b1f is not installed"):
        LocalHost("here").run(["no-such-command-6b1f"])


# --- hosts by what was brought from them ---


def brought(*pairs: tuple[dict[str, Any], dict[str, Any]]) -> BroughtHost:
    root = ({"argv": list(ROOT)}, {"status": 0, "out": "/var/lib/docker\n", "err": ""})
    return BroughtHost("kvm2", [{"host": "kvm2", "question": q, "answer": a} for q, a in (root, *pairs)])


def test_what_was_not_brought_is_asked_for_and_nothing_before_the_root() -> None:
    host = BroughtHost("kvm2", ())
    assert if_reachable(lambda: host.call(copies, "states", root="", volumes=["data"])) is None
    assert host.open == []
    assert if_reachable(lambda: host.run(ROOT)) is None
    assert host.open == [{"argv": list(ROOT)}]

    host = brought()
    assert host.run(ROOT).out == "/var/lib/docker\n"
    for _ in range(2):
        with pytest.raises(MoveError, match="no SSH link to it yet; verb=prepare makes it") as caught:
            host.call(copies, "states", root="/var/lib/docker", volumes=["data"])
        assert caught.value.code == "no_link"
    assert host.open == [
        {"module": "copies", "function": "states", "arguments": {"root": "/var/lib/docker", "volumes": ["data"]}}
    ]


def test_an_answer_is_what_the_link_would_have_given(tmp_path: Path) -> None:
    (tmp_path / "volumes" / "data" / "_data").mkdir(parents=True)
    here = LocalHost("kvm2")
    asked = {"module": "copies", "function": "states", "arguments": {"root": str(tmp_path), "volumes": ["data"]}}
    missing = {"module": "pg_data", "function": "free", "arguments": {"path": str(tmp_path / "no" / "such")}}
    host = brought((asked, answer(here, asked)), (missing, answer(here, missing)))
    assert host.call(copies, "states", root=str(tmp_path), volumes=["data"]) == {"data": "live"}
    assert host.open == []
    direct = answer(here, {"argv": ["rsync", "--version"]})
    assert set(direct) == {"status", "out", "err"}


def test_an_error_there_is_an_error_here() -> None:
    asked = {"module": "survey", "function": "look", "arguments": {"root": "/no/such", "volumes": []}}
    host = brought((asked, answer(LocalHost("kvm2"), asked)))
    with pytest.raises(MoveError, match=r"^kvm2: [^:]*No such file") as caught:
        host.call(survey, "look", root="/no/such", volumes=[])
    assert caught.value.code == "failed_on_host"


@pytest.mark.parametrize(
    "question",
    [
        {"argv": ["docker", "exec", "a", "sh"]},
        {"argv": ["rm", "-rf", "/"]},
        {"argv": []},
        {"module": "copies", "function": "discard", "arguments": {}},
        {"module": "copies", "function": "bring_live", "arguments": {"root": "/", "volume": "data"}},
        {"module": "copies", "function": "look"},
        {},
    ],
)
def test_only_what_looks_is_answered(question: dict[str, Any]) -> None:
    assert refused(question)
    with pytest.raises(MoveError, match=r"^questions\[1\]: ") as caught:
        answers("kvm2", [{"argv": ["rsync", "--version"]}, question])
    assert caught.value.field == "questions[1]"


def test_every_function_that_may_be_asked_is_there() -> None:
    for (_name, function), module in FUNCTIONS.items():
        assert callable(getattr(module, function))


def test_answers_are_sorted_by_host_and_an_incomplete_one_is_named() -> None:
    one: dict[str, Any] = {"host": "kvm2", "question": {}, "answer": {}}
    other = {**one, "host": "kvm3"}
    assert by_host([one, other, one]) == {"kvm2": [one, one], "kvm3": [other]}
    with pytest.raises(MoveError, match=r"brought\[1\] must have host, question and answer"):
        by_host([one, {"host": "kvm2"}])
    assert unique([one, other, one]) == [one, other]

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A job that is watched from the controller, without a host."""

from __future__ import annotations

import shlex
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible_collections.evenkeel.swarm.plugins.plugin_utils import _watched


class Host:
    """Has files, some of them in memory, and a job that ends at a look; or never, with the host.

    `sealed`: no file can be made. `fails_at`: the look whose shell fails, as that of a wrong sudo does.
    """

    def __init__(
        self, looks: int, starts_anew_at: int | None = None, *, sealed: bool = False, fails_at: int | None = None
    ) -> None:
        self.files: set[str] = set()
        self.sealed, self.fails_at = sealed, fails_at
        self.looks, self.starts_anew_at, self.asked = looks, starts_anew_at, 0

    def run(self, command: str) -> dict[str, Any]:
        if command.startswith("touch ") and self.sealed:
            return {"rc": 1}
        if command.startswith(("touch ", "rm -f ")):
            change = self.files.add if command.startswith("touch ") else self.files.discard
            for name in command.removeprefix("touch ").removeprefix("rm -f ").split():
                change(name)
            return {"rc": 0}
        self.asked += 1
        if self.asked == self.starts_anew_at:
            self.files.clear()
        if self.asked == self.fails_at:
            return {"rc": 1, "stdout": ""}
        alive, _, otherwise = command.rpartition("[ -e ")[2].partition(" ] || exit ")
        return {"rc": 0 if alive in self.files else int(otherwise), "stdout": ""}

    def status(self) -> dict[str, Any]:
        return {"finished": self.asked >= self.looks, "changed": True}


def watched(host: Host, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    action = object.__new__(_watched.WatchedAction)
    connection = SimpleNamespace(_shell=SimpleNamespace(quote=shlex.quote), reset=lambda: None)
    parts: dict[str, Any] = {
        "_task": SimpleNamespace(async_val=0),
        "_connection": connection,
        "_low_level_execute_command": host.run,
        "_module": lambda *_all, **_named: {"ansible_job_id": "j1"},
        "_status": lambda _job, _vars, mode: host.status() if mode == "status" else {},
        "progress": lambda _name: SimpleNamespace(lines_read=0, read=lambda _text: []),
    }
    for name, value in parts.items():
        monkeypatch.setattr(action, name, value, raising=False)
    monkeypatch.setattr(_watched, "POLL_SECONDS", 0)
    return action._watched({"progress_file": "/run/lock/p"}, {"inventory_hostname": "kvm4"}, ours=True)


def test_a_job_is_watched_to_its_end_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(looks=3)
    assert watched(host, monkeypatch) == {"changed": True}
    assert host.asked == 4
    assert host.files == set()


def test_a_job_that_ended_with_its_host_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ansible knows of a job only what that wrote itself: it would say for a day that it is not finished."""
    with pytest.raises(AnsibleError, match="started anew"):
        watched(Host(looks=1000, starts_anew_at=2), monkeypatch)


def test_a_job_that_ended_before_its_host_did_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(Host(looks=2, starts_anew_at=2), monkeypatch) == {"changed": True}


@pytest.mark.parametrize(
    "host", [Host(looks=3, sealed=True), Host(looks=3, fails_at=2)], ids=["sealed", "a failed look"]
)
def test_only_a_mark_that_was_there_and_is_gone_says_that_the_host_started_anew(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watched(host, monkeypatch) == {"changed": True}

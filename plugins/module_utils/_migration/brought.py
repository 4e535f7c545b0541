# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that the manager has no link to, seen by answers that Ansible brought from there.

Before the first prepare there is no SSH link, and a plan makes none. So whatever the plan would ask the other host over
the link becomes a question in the module's result; the role has `migration_info` answer it there and plans again. Who
asks need not know: to a mover such a host is a Host like any other, one that can only be looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Done, Host, OutOfReach
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import (
    bind_files,
    containers,
    copies,
    manifest,
    pg_data,
    survey,
)

Question = Mapping[str, Any]

#: What may be asked: functions that only look, and commands by how they begin.
FUNCTIONS = {
    (module.__name__.rpartition(".")[2], function): module
    for module, function in (
        (bind_files, "describe"),
        (containers, "image"),
        (copies, "look"),
        (copies, "state"),
        (copies, "states"),
        (manifest, "size"),
        (pg_data, "free"),
        (survey, "look"),
    )
}
COMMANDS = (
    ("docker", "info", "--format"),
    ("docker", "volume", "inspect"),
    ("rsync", "--version"),
)
_SECONDS = 600
#: Asked first and alone: paths make no sense before the engine's directory is known.
ROOT = ("docker", "info", "--format", "{{.DockerRootDir}}")


def refused(question: Question) -> str:
    """Say why a question is not answered, "" if it may be."""
    if set(question) == {"argv"}:
        argv = question["argv"]
        if any(tuple(argv[: len(begin)]) == begin for begin in COMMANDS):
            return ""
        return f"{' '.join(map(str, argv[:3]))} is no command that only looks"
    if set(question) == {"module", "function", "arguments"}:
        named = (question["module"], question["function"])
        return "" if named in FUNCTIONS else f"{'.'.join(map(str, named))} is no function that only looks"
    return "a question has argv, or module, function and arguments"


def answer(host: Host, question: Question) -> dict[str, Any]:
    """Return what a host answers to a question that may be asked: {"status", "out", "err"}, {"result"} or {"error"}."""
    if "argv" in question:
        done = host.run(question["argv"], timeout=_SECONDS, check=False)
        return {"status": done.status, "out": done.out, "err": done.err}
    module = FUNCTIONS[question["module"], question["function"]]
    try:
        return {"result": host.call(module, question["function"], timeout=_SECONDS, **question["arguments"])}
    except MoveError as error:
        if error.code != "failed_on_host":
            raise
        return {"error": error.message.removeprefix(f"{host.name}: ")}


class BroughtHost(OutOfReach):
    """A host by the answers that were brought from it. What they lack is remembered in `open` and raises `no_link`."""

    def __init__(self, name: str, brought: Iterable[Mapping[str, Any]]) -> None:
        message = f"{name} can't be looked at: there is no SSH link to it yet; verb=prepare makes it"
        super().__init__(name, MoveError("no_link", message, host=name))
        self.open: list[Question] = []
        self._answers = {_key(each["question"]): each["answer"] for each in brought}

    def _done(self, argv: Sequence[str], stdin: str, env: Mapping[str, str], timeout: float) -> Done:
        """Return how the command ended when it was run there."""
        del timeout
        if stdin or env:
            raise self.error
        return Done(**self._found({"argv": list(argv)}))

    def _answer(
        self, module: ModuleType, function: str, arguments: Mapping[str, Any], timeout: float
    ) -> Mapping[str, Any]:
        """Return what the function returned there."""
        del timeout
        named = module.__name__.rpartition(".")[2]
        return self._found({"module": named, "function": function, "arguments": dict(arguments)})

    def _found(self, question: Question) -> dict[str, Any]:
        found = self._answers.get(_key(question))
        if found is not None:
            return dict(found)
        first = {"argv": list(ROOT)}
        askable = _key(first) in self._answers or question == first
        if askable and question not in self.open and not refused(question):
            self.open.append(question)
        raise self.error


def _key(question: Question) -> str:
    return json.dumps(question, sort_keys=True)

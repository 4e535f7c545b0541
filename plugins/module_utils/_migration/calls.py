# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls of functions on a host, through Pythons that stay there (see on_host/answering.py). For several threads."""

from __future__ import annotations

import inspect
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import answering
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.talk import Talk, TalkEnded

#: Each holds one of the ten sessions that sshd grants a connection.
_KEPT = 3

Start = Callable[[Sequence[str]], Talk]


class CallError(Exception):
    """The Python ended before it answered.

    `status`: of its command; `said`: its last line of standard error; `begun`: whether the call had begun.
    """

    def __init__(self, status: int, said: str, *, begun: bool) -> None:
        super().__init__(said)
        self.status = status
        self.said = said
        self.begun = begun


class Calls:
    """The Pythons on one host. `start`: Host.talk."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._idle: list[_Python] = []
        self._lock = threading.Lock()

    def call(self, module: ModuleType, function: str, arguments: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Return {"result"}, {"error"} (an OSError or ValueError there) or {"broken"}; raises CallError, TimeoutError.

        A Python that ended before the call began (its host restarted, the link was cut) is replaced by a fresh one. One
        that ended later is not: whether the call was carried out is for its caller to see.
        """
        deadline = time.monotonic() + timeout
        python = self._take()
        while python is not None:
            try:
                return self._ask(python, module, function, arguments, deadline)
            except CallError as error:
                if error.begun:
                    raise
            python = self._take()
        fresh = _Python(self._start(["python3", "-I", "-c", _PROGRAM]))
        return self._ask(fresh, module, function, arguments, deadline)

    def _take(self) -> _Python | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _ask(
        self, python: _Python, module: ModuleType, function: str, arguments: Mapping[str, Any], deadline: float
    ) -> dict[str, Any]:
        try:
            answer = python.call(module, function, arguments, deadline)
        except BaseException:
            python.end()
            raise
        with self._lock:
            keep = len(self._idle) < _KEPT
            if keep:
                self._idle.append(python)
        if not keep:
            python.end()
        return answer


class _Python:
    """One that stays; for one call at a time."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._known: set[str] = set()

    def call(self, module: ModuleType, function: str, arguments: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        """Call a function of a module there, until a time of the monotonic clock."""
        request: dict[str, Any] = {"module": module.__name__, "function": function, "arguments": dict(arguments)}
        if module.__name__ not in self._known:
            request["source"] = source_of(module)
        begun = False
        try:
            self._talk.write(json.dumps(request) + "\n", deadline)
            self._talk.line(deadline)
            begun = True
            answer: dict[str, Any] = json.loads(self._talk.line(deadline))
        except TalkEnded as ended:
            raise CallError(ended.status, ended.last_line, begun=begun) from ended
        self._known.add(module.__name__)
        return answer

    def end(self) -> None:
        """End it; a call that is under way there goes on to its end."""
        self._talk.end()


_sources: dict[ModuleType, str] = {}
_reading = threading.Lock()


def source_of(module: ModuleType) -> str:
    """Return a module's source.

    One thread at a time: of a module in an archive, as Ansible sends it, two that read at once may both find nothing.
    """
    with _reading:
        if module not in _sources:
            _sources[module] = inspect.getsource(module)
        return _sources[module]


_PROGRAM = source_of(answering) + "\n\nserve()\n"

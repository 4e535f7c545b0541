# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run things on a host of the Swarm: on this one, or over SSH with the key that the role made for the move."""

from __future__ import annotations

import shlex
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import IO, Any, NoReturn

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.calls import CallError, Calls
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.talk import Talk

# What ssh itself returns when it can't connect or loses the connection.
SSH_FAILED = 255
# What a shell returns for a command that is not there.
NOT_FOUND = 127


@dataclass(frozen=True)
class Done:
    """How a command ended: exit status and what it wrote, decoded."""

    status: int
    out: str
    err: str


class Host(ABC):
    """A host, named as its Swarm node is. Commands are argument vectors; no shell reads them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._calls = Calls(self.talk)

    @abstractmethod
    def _argv(self, argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
        """Return the command to start on this machine."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        check: bool = True,
    ) -> Done:
        """Run a command and wait for its end.

        What is secret goes into `stdin`, never into argv, and not into `env` either, which stands in argv over SSH.
        Raises MoveError: `host_unreachable`, `timeout`, and with `check` `command_failed` with its last words.
        """
        done = self._done(argv, stdin or "", env or {}, timeout)
        if check:
            self._raise_if_failed(argv[0], done)
        return done

    def _done(self, argv: Sequence[str], stdin: str, env: Mapping[str, str], timeout: float) -> Done:
        """Run a command to its end there, whatever end; raises MoveError as run does, but for `command_failed`."""
        command = self._argv(argv, env)
        try:
            ended = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            message = f"{argv[0]} on {self.name} did not end within {timeout:g} s"
            raise MoveError("timeout", message, host=self.name) from error
        except FileNotFoundError as error:
            if command[0] == argv[0]:
                return Done(NOT_FOUND, "", f"{argv[0]} is not installed on {self.name}")
            raise _not_installed(command[0]) from error
        done = Done(ended.returncode, ended.stdout, ended.stderr)
        self._raise_if_unreachable(done)
        return done

    def _raise_if_failed(self, command: str, done: Done) -> None:
        if done.status:
            said = (done.err or done.out).strip()[-600:]
            message = f"{command} on {self.name} failed (exit {done.status}): {said}"
            raise MoveError("command_failed", message, host=self.name)

    def start(
        self, argv: Sequence[str], *, stdin: int, stdout: int, stderr: int | IO[bytes] = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Start a command; the streams are as subprocess takes them. Whoever starts it waits for its end."""
        return subprocess.Popen(self._argv(argv, {}), stdin=stdin, stdout=stdout, stderr=stderr)

    def talk(self, argv: Sequence[str]) -> Talk:
        """Start a command that is spoken with by lines. Whoever starts it ends it."""
        return Talk(self._argv(argv, {}))

    def call(self, module: ModuleType, function: str, *, timeout: float = 60, **arguments: Any) -> Any:
        """Call a function of a module of `on_host` there; arguments and the answer are JSON.

        The module's source is sent along, so it may use the standard library only. An OSError or ValueError there
        comes back as a MoveError `failed_on_host` with its text.
        """
        return self._result(self._answer(module, function, arguments, timeout))

    def _answer(
        self, module: ModuleType, function: str, arguments: Mapping[str, Any], timeout: float
    ) -> Mapping[str, Any]:
        """Return {"result": ...}, {"error": text} or {"broken": text}."""
        try:
            return self._calls.call(module, function, arguments, timeout)
        except TimeoutError as error:
            message = f"{function} on {self.name} did not end within {timeout:g} s"
            raise MoveError("timeout", message, host=self.name) from error
        except CallError as ended:
            self._raise_if_unreachable(Done(ended.status, "", ended.said))
            raise MoveError("failed_on_host", f"{self.name}: {ended.said}", host=self.name) from ended
        except FileNotFoundError as error:
            raise _not_installed(str(error.filename)) from error

    def _result(self, answer: Mapping[str, Any]) -> Any:
        said = answer.get("error", answer.get("broken"))
        if said is not None:
            raise MoveError("failed_on_host", f"{self.name}: {said}", host=self.name)
        return answer["result"]

    @abstractmethod
    def _raise_if_unreachable(self, done: Done) -> None:
        """Raise MoveError if the command never got there."""


def _not_installed(command: str) -> MoveError:
    return MoveError("command_failed", f"{command} is not installed, and the move needs it")


class LocalHost(Host):
    """The host that the engine runs on."""

    def _argv(self, argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
        assigned = ["env", *(f"{key}={value}" for key, value in env.items())] if env else []
        return [*assigned, *argv]

    def _raise_if_unreachable(self, done: Done) -> None:
        """Do nothing: there is no way to it that could fail."""


class SshHost(Host):
    """Another host, over SSH. One connection is kept open and shared by all commands."""

    def __init__(self, name: str, options: Sequence[str], destination: str) -> None:
        super().__init__(name)
        self.options = list(options)
        self.destination = destination

    def command(self) -> list[str]:
        """Return the ssh command without the destination, as rsync takes it for `--rsh`."""
        return ["ssh", *self.options]

    def _argv(self, argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
        assigned = ["env", *(f"{key}={value}" for key, value in env.items())] if env else []
        return [*self.command(), "--", self.destination, shlex.join([*assigned, *argv])]

    def _raise_if_unreachable(self, done: Done) -> None:
        if done.status == SSH_FAILED:
            said = done.err.strip().splitlines()[-1:] or ["no answer"]
            raise MoveError("host_unreachable", f"{self.name} can't be reached over SSH: {said[0]}", host=self.name)


class OutOfReach(Host):
    """A host that can't be reached now, and why: whatever is asked of it raises that."""

    def __init__(self, name: str, error: MoveError) -> None:
        super().__init__(name)
        self.error = error

    def _argv(self, argv: Sequence[str], env: Mapping[str, str]) -> NoReturn:
        del argv, env
        raise MoveError(self.error.code, self.error.message, host=self.name)

    def _raise_if_unreachable(self, done: Done) -> None:
        """Do nothing: it never comes to an answer."""

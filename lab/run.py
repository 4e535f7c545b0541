"""Run commands, say what happens."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class LabError(Exception):
    """Something the lab can't do; the message is for the person at the screen."""


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 600,
    check: bool = True,
) -> str:
    """Run argv and return its standard output, stripped.

    Raises LabError with the command's own last words if it exits non-zero (unless check is false) or takes longer
    than timeout seconds.
    """
    data = stdin.encode() if isinstance(stdin, str) else stdin
    command = " ".join(map(str, argv))[:200]
    try:
        done = subprocess.run(
            list(map(str, argv)), input=data, capture_output=True, env=env, timeout=timeout, check=False
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed, and the lab needs it") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"no answer within {timeout:.0f} s from: {command}") from error
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise LabError(f"exit {done.returncode} from: {command}\n{said[-2000:]}")
    return done.stdout.decode(errors="replace").strip()


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print what is being done, then how long it took."""
    began = time.monotonic()
    print(f"  {what} ... ", end="", flush=True)
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.monotonic() - began:.1f} s", flush=True)


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def fail(text: str) -> int:
    """Print an error for a person and return the exit status for it."""
    print(f"lab: {text}", file=sys.stderr, flush=True)
    return 1

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers calls on a host, one line of JSON each, for as long as its standard input stays open.

Standard library only: its source is sent to the host. A Python that stays saves each call the start of one, and its
imports. Every call runs in a child of its own, which may enter a container's namespaces or die without harm.
"""

import json
import os
import sys
import types
from typing import Any


def serve() -> None:
    """Answer until the input ends: {"module", "source" (the first time), "function", "arguments"} a line."""
    modules: dict[str, types.ModuleType] = {}
    for line in sys.stdin:
        # Whoever asked knows from this that it came here; before it nothing has begun.
        sys.stdout.write("\n")
        sys.stdout.flush()
        request = json.loads(line)
        name = request["module"]
        if "source" in request:
            modules[name] = _load(name, request["source"])
        answer = _in_a_child(modules[name], request["function"], request["arguments"])
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def _load(name: str, source: str) -> types.ModuleType:
    # Dataclasses look their module up by its name.
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)  # noqa: S102 - our own, and nobody else has this input
    return module


def _in_a_child(module: types.ModuleType, function: str, arguments: dict[str, Any]) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            # What it starts must not read the calls that wait, nor write between the answers.
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            with os.fdopen(writing, "w") as out:
                out.write(json.dumps(_answer(module, function, arguments)))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as incoming:
        answer = incoming.read()
    os.waitpid(child, 0)
    return answer or json.dumps({"broken": f"{function} ended without an answer"})


def _answer(module: types.ModuleType, function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": getattr(module, function)(**arguments)}
    except (OSError, ValueError) as error:
        return {"error": str(error)}
    except Exception as error:  # a mistake in the function: its name says more than its text
        return {"broken": f"{type(error).__name__}: {error}"}

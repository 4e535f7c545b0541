# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A move in words: what is going on while it is at it, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import DID, DONE, UNDONE, WOULD
from ansible_collections.evenkeel.swarm.plugins.module_utils._progress import Progress
from ansible_collections.evenkeel.swarm.plugins.module_utils._words import count, size

#: Seconds between two lines about one step's progress.
EVERY = 5.0
_ENDS = {DID: "done", UNDONE: "undone", "failed": "FAILED"}


class MigrationProgress(Progress):
    """The progress of a move: a line when a step starts, at most every few seconds how far it is, and its end."""

    def __init__(self, host: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(host)
        self._clock = clock
        self._titles: dict[str, str] = {}
        self._said: dict[str, float] = {}

    def line(self, event: dict[str, Any]) -> str | None:
        """Return what to say of an event."""
        name = event["event"]
        if name in ("step_started", "undo_started"):
            self._titles[event["step"]] = event["title"]
            self._said[event["step"]] = self._clock()
            return f"{'undoing: ' if name == 'undo_started' else ''}{event['title']} ..."
        if name == "step_progress":
            return self._progress(event)
        if name == "step_ended" and event["outcome"] in _ENDS:
            why = f": {event['error']}" if event.get("error") else ""
            return f"{event['title']}: {_ENDS[event['outcome']]} after {event['seconds']:.1f} s{why}"
        if name == "giving_back":
            return f"giving {event['unit']} back to {event['to']} ..."
        return None

    def _progress(self, event: Mapping[str, Any]) -> str | None:
        step = event["step"]
        now = self._clock()
        if now - self._said.get(step, now - EVERY) < EVERY:
            return None
        self._said[step] = now
        return f"  {self._titles.get(step, step)}: {progress_words(event)}"


def progress_words(numbers: Mapping[str, Any]) -> str:
    """Say a step's progress: `bytes` of `total`, `lag` (bytes), `eta` (seconds), `text`; None is not measured."""
    parts = []
    if numbers.get("bytes") is not None:
        total = numbers.get("total")
        of = f" of {size(total)} ({numbers['bytes'] / total:.0%})" if total else ""
        parts.append(f"{size(numbers['bytes'])}{of}")
    if numbers.get("lag") is not None:
        parts.append(f"{size(numbers['lag'])} behind")
    if numbers.get("eta") is not None:
        parts.append(f"{numbers['eta']:.0f} s to go")
    if numbers.get("text"):
        parts.append(str(numbers["text"]))
    return ", ".join(parts) or "at it"


def result_lines(result: Mapping[str, Any]) -> list[str]:
    """Return what a verb on a unit came to, as lines."""
    lines = [_where(result)]
    lines += [f"  {each['part']}: {each['text']}" for each in result.get("readiness") or []]
    lines += [f"  would {each['title']}" for each in result["outcomes"] if each["outcome"] == WOULD]
    did = [each for each in result["outcomes"] if each["outcome"] in _ENDS]
    if did:
        seconds = sum(each["seconds"] for each in did)
        idle = sum(1 for each in result["outcomes"] if each["outcome"] == DONE)
        lines.append(f"  {count(len(did), 'step')} in {seconds:.1f} s of work; {count(idle, 'step')} had nothing to do")
    lines += [f"  warning: {each}" for each in result["warnings"]]
    if result["problem"]:
        lines.append(f"  PROBLEM: {result['problem']}")
    elif result["next"]:
        lines.append(f"  next: verb={result['next']}")
    return lines


def failure_text(verb: str, result: Mapping[str, Any]) -> str:
    """Say what failed, in what state things are now, and what to run next."""
    error = result["error"]
    step = next((each["title"] for each in result["outcomes"] if each["outcome"] == "failed"), None)
    what = f"{verb} of {result['unit']} failed" + (f" at: {step}" if step else "")
    parts = [f"{what}: {error['message']}."]
    if error["details"].get("state"):
        parts.append(f"Now {error['details']['state']}.")
    if result["phase"] != "unknown":
        parts.append(f"The move is {result['phase']}.")
    if result["next"]:
        parts.append(f"Next: verb={result['next']} (verb=status looks first).")
    return " ".join(parts)


def _where(result: Mapping[str, Any]) -> str:
    runs = result["runs_on"]
    if result["phase"] == "unknown":
        return f"{result['unit']}: where it stands can't be told"
    where = f"runs on {runs}" if runs else f"on its way to {result['target']}"
    since = f", since {result['since']}" if result["since"] else ""
    return f"{result['unit']}: {result['phase']}, {where}{since}"

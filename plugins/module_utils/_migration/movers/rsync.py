# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run rsync between two hosts of a move, one of which is this one, with progress and failures in clear words."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host, LocalHost, SshHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import copies
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Tell

#: Everything that a file is: links, owners by number, access control lists, attributes, holes, nanoseconds.
WHOLE = ("-aHAX", "--numeric-ids", "--sparse", "--delete", "--partial", "--modify-window=-1", "--timeout=300")
VANISHED = 24
_NO_LINK = (10, 12, 30, 35, 255)
_TOLD_EVERY = 0.5
#: How often a running copy's target is looked at, in seconds, and how little there means that it is full, in bytes.
_WATCHED_EVERY = 5.0
_FULL = 1024 * 1024


@dataclass(frozen=True)
class Delta:
    """What a copy lacks: changes of any kind, and bytes of the files among them that would be sent."""

    items: int
    bytes: int


@dataclass(frozen=True)
class Ends:
    """A directory on one host and its copy on another."""

    source: Host
    source_path: str
    target: Host
    target_path: str

    def arguments(self) -> list[str]:
        """Return rsync's arguments that name both ends; raises MoveError `no_way` if this machine is neither."""
        local = (isinstance(self.source, LocalHost), isinstance(self.target, LocalHost))
        remote = self.target if local[0] else self.source
        if not any(local) or not (isinstance(remote, SshHost) or all(local)):
            raise MoveError(
                "no_way",
                f"files can't be copied from {self.source.name} to {self.target.name}: the engine runs on neither;"
                " run it on the manager, and choose the manager as source or target",
            )
        rsh = ["--rsh", shlex.join(remote.command())] if isinstance(remote, SshHost) else []
        return [*rsh, "--", _end(self.source, self.source_path), _end(self.target, self.target_path)]


def _end(host: Host, path: str) -> str:
    return f"{host.destination}:{path}/" if isinstance(host, SshHost) else f"{path}/"


def delta(ends: Ends, *, checksum: bool = False) -> Delta:
    """Return what the copy lacks, changing nothing; with `checksum` by content instead of by size and time."""
    items = size = 0
    options = ["--dry-run", "--out-format=%i %l", *(["--checksum"] if checksum else [])]
    for line in _run(ends, options, tolerated=(VANISHED,)):
        found = re.match(r"(\S{11}|\*deleting) +(\d+)$", line)
        if found:
            items += 1
            size += int(found[2]) if found[1][:2] in ("<f", ">f") else 0
    return Delta(items, size)


def differs(ends: Ends) -> list[str]:
    """Return what a dry run by content prints, up to twenty lines: nothing if the copy is complete."""
    found: list[str] = []
    for line in _run(ends, ["--dry-run", "--checksum", "--itemize-changes"]):
        if line.strip() and len(found) < 20:
            found.append(line.strip())
    return found


def copy(ends: Ends, tell: Tell, *, total: int, checksum: bool = False, still: bool = False) -> float:
    """Bring the copy nearer; returns the seconds that took.

    `total`: bytes that are expected, for the progress. `still`: nobody writes, so a file that vanishes is a failure.
    """
    began = told = time.monotonic()
    options = ["--info=progress2", "--no-human-readable", "--outbuf=L", *(["--checksum"] if checksum else [])]
    for line in _run(ends, options, tolerated=() if still else (VANISHED,), watched=True):
        now = time.monotonic()
        done = progress(line)
        if done is not None and now - told >= _TOLD_EVERY:
            told = now
            rate = done / (now - began)
            tell(bytes=done, total=total, **({"eta": round(max(0, total - done) / rate, 1)} if rate else {}))
    return time.monotonic() - began


def progress(line: str) -> int | None:
    """Return the bytes that a line of --info=progress2 says are done, None if it is none."""
    found = re.match(r"\s*(\d+)\s+\d+%\s", line)
    return int(found[1]) if found else None


def failure(status: int, said: str, ends: Ends) -> MoveError:
    """Return what an exit status and the last words of rsync mean."""
    last = said.strip().splitlines()[-6:]
    what = f"copying {ends.source_path} from {ends.source.name} to {ends.target.name}"
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return MoveError(
            "disk_full", f"{what}: no space (bytes or files) is left at {ends.target_path}: make room, and run it again"
        )
    if "command not found" in said or status == 127:
        return MoveError("no_rsync", f"{what}: rsync is not installed on both hosts (Debian: rsync)")
    if status < 0:
        return MoveError(
            "copy_killed", f"{what}: rsync was killed (signal {-status}); run it again, what is copied stays"
        )
    if status in _NO_LINK:
        return MoveError(
            "copy_broken_off",
            f"{what}: the connection broke off ({'; '.join(last[:2])}); run it again, what is copied stays",
        )
    return MoveError("copy_failed", f"{what} failed (rsync exit {status}): {'; '.join(last)}")


def _watch(ends: Ends, process: subprocess.Popen[str], ended: threading.Event, full: threading.Event) -> None:
    """Kill a copy whose target is full: rsync can hang on that instead of failing (seen with no files left)."""
    while not ended.wait(_WATCHED_EVERY):
        try:
            room = ends.target.call(copies, "room", path=ends.target_path)
        except MoveError:
            continue  # rsync itself will say that the host is gone
        if room["free"] < _FULL or room["files"] == 0:
            full.set()
            process.kill()
            return


def _run(ends: Ends, options: Sequence[str], *, tolerated: Sequence[int] = (), watched: bool = False) -> Iterator[str]:
    """Run rsync and yield what it prints, by line or carriage return; raises MoveError if it fails."""
    # It must not outlive us: a next run would start a second one beside it.
    argv = ["setpriv", "--pdeathsig", "KILL", "rsync", *WHOLE, *options, *ends.arguments()]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace"
            )
        except FileNotFoundError as error:
            raise MoveError("command_failed", "setpriv is not installed, and the move needs it") from error
        ended, full = threading.Event(), threading.Event()
        watch = threading.Thread(target=_watch, args=(ends, process, ended, full), daemon=True)
        if watched:
            watch.start()
        try:
            yield from _pieces(process.stdout)
        finally:
            status = process.wait()
            ended.set()
        if full.is_set():
            raise failure(status, "No space left on device", ends)
        if status and status not in tolerated:
            errors.seek(0)
            raise failure(status, errors.read()[-4000:], ends)


def _pieces(stream: IO[str] | None) -> Iterator[str]:
    # Universal newlines: a carriage return ends a line, too.
    for line in stream or ():
        yield line.rstrip("\n")

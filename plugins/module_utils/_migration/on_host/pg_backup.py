# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of a PostgreSQL on a host: what is there, and one more, without anybody's help.

Standard library only: its source is sent to the host, and installed there as the program of a systemd timer.
A backup is a directory of its own below `directory`: globals.sql, one custom-format dump a database, and backup.json,
which is written last: what has none is not a backup.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

RECORD = "backup.json"


def newest(directory: str) -> object:
    """Return the record of the newest proven backup whose files are as they were written, None if there is none."""
    for place in sorted(_backups(directory), reverse=True):
        record = json.loads((place / RECORD).read_text())
        if record.get("proven") and all(_intact(place, file) for file in record["files"]):
            return record
    return None


def begin(directory: str, name: str) -> str:
    """Make the directory of a backup, with nothing in it; returns its path. What earlier ones left unfinished goes."""
    root = Path(directory)
    before = os.umask(0o077)
    try:
        root.mkdir(parents=True, exist_ok=True)
    finally:
        os.umask(before)
    clear(directory)
    place = root / name
    place.mkdir(mode=0o700)
    return str(place)


def clear(directory: str) -> None:
    """Remove what backups that were broken off have left."""
    root = Path(directory)
    for entry in root.iterdir() if root.is_dir() else ():
        if entry.is_dir() and not (entry / RECORD).exists():
            shutil.rmtree(entry)


def finish(directory: str, name: str, record: dict[str, object], keep: int) -> None:
    """Write a backup's record, which makes it one; remove the oldest of more than `keep`."""
    place = Path(directory, name)
    _write(place / RECORD, json.dumps(record) + "\n")
    for old in sorted(_backups(directory))[:-keep]:
        shutil.rmtree(old)


def checksum(path: str) -> dict[str, object]:
    """Return {"name", "bytes", "sha256"} of a file."""
    place = Path(path)
    digest = hashlib.sha256()
    with place.open("rb") as handle:
        while chunk := handle.read(1024 * 1024):
            digest.update(chunk)
    return {"name": place.name, "bytes": place.stat().st_size, "sha256": digest.hexdigest()}


def back_up(config: dict[str, object]) -> str:
    """Back the service up where it runs here. `config`: see Backup.schedule(). Returns a sentence. Raises OSError."""
    container = _running(str(config["service"]))
    if container is None:
        return f"{config['service']} does not run here: nothing to back up"
    directory, name = str(config["directory"]), time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    place = Path(begin(directory, name))
    files = [_dump(config, container, ["pg_dumpall", "--globals-only"], place / "globals.sql")]
    listed = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname"
    psql = ["psql", "-X", "-A", "-t", "-d", "postgres", "-c", listed]
    databases = subprocess.run(_in(config, container, psql), capture_output=True, text=True, check=True).stdout
    for number, database in enumerate(databases.splitlines()):
        argv = ["pg_dump", "--format=custom", "--dbname", database]
        files.append({**_dump(config, container, argv, place / f"{number}.dump"), "database": database})
    finish(
        directory, name, {"name": name, "at": time.time(), "proven": False, "files": files}, int(str(config["keep"]))
    )
    return f"{config['service']} is backed up in {place}"


def _running(service: str) -> "str | None":
    """Return the id of a service's running container, None if there is none.

    Each is asked by itself: after a full disk the engine's list has running containers as not started, as long as they
    are there, and a night without a backup would look like one on which the service runs elsewhere.
    """
    listed = ["docker", "ps", "-aq", "--no-trunc", "--filter", f"label=com.docker.swarm.service.name={service}"]
    for container in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split():
        asked = ["docker", "inspect", "--format", "{{.State.Running}}", container]
        # One that Swarm has just removed can't be asked any more.
        if subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() == "true":
            return container
    return None


def _dump(config: dict[str, object], container: str, argv: list[str], path: Path) -> dict[str, object]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        subprocess.run(_in(config, container, argv), stdout=handle, check=True)
        os.fsync(handle.fileno())
    return checksum(str(path))


def _in(config: dict[str, object], container: str, argv: list[str]) -> list[str]:
    """Return the command that runs one of PostgreSQL's programs in the container."""
    connection = ["-h", str(config["socket"]), "-p", str(config["port"]), "-U", str(config["superuser"])]
    ran = [f"{config['programs']}/{argv[0]}", *connection, *argv[1:]]
    if config.get("password_env"):
        ran = ["sh", "-c", f'PGPASSWORD="${{{config["password_env"]}}}" exec "$@"', "sh", *ran]
    return ["docker", "exec", "-u", str(config["user"]), container, *ran]


def _backups(directory: str) -> list[Path]:
    root = Path(directory)
    return [entry for entry in root.iterdir() if (entry / RECORD).is_file()] if root.is_dir() else []


def _intact(place: Path, file: dict[str, object]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return (place / str(file["name"])).stat().st_size == file["bytes"]
    return False


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    fresh.rename(path)


def set_timer(name: str, program: str, config: dict[str, object], when: str) -> None:
    """Install a systemd timer that runs this module as `program` text with `config`, and start it."""
    place, settings, units = timer_files(name)
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    settings.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(place, program)
    _write(settings, json.dumps(config) + "\n")
    service, timer = units
    _write(
        service,
        f"[Unit]\nDescription=Even Keel: back up {config['service']}\nAfter=docker.service\n\n"
        f"[Service]\nType=oneshot\nUMask=0077\nExecStart=/usr/bin/env python3 -I {place} {settings}\n",
    )
    _write(
        timer,
        f"[Unit]\nDescription=Even Keel: back up {config['service']} ({when})\n\n"
        f"[Timer]\nOnCalendar={when}\nRandomizedDelaySec=30min\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n",
    )
    _systemctl("daemon-reload")
    _systemctl("enable", "--now", timer.name)


def unset_timer(name: str) -> None:
    """Remove a timer and what it runs; the backups stay."""
    place, settings, (service, timer) = timer_files(name)
    if timer.exists():
        _systemctl("disable", "--now", timer.name)
    for path in (place, settings, service, timer):
        path.unlink(missing_ok=True)
    _systemctl("daemon-reload")


def timer(name: str) -> object:
    """Return the configuration of a timer that runs, None if there is none."""
    _, settings, (_, unit) = timer_files(name)
    active = subprocess.run(["systemctl", "is-active", "--quiet", unit.name], check=False).returncode == 0
    if not active or not settings.exists():
        return None
    return json.loads(settings.read_text())


def timer_files(name: str) -> tuple[Path, Path, tuple[Path, Path]]:
    """Return where a timer's program, its configuration and its two units lie."""
    units = Path("/etc/systemd/system")
    both = units / f"{name}.service", units / f"{name}.timer"
    return Path("/usr/local/lib/evenkeel", f"{name}.py"), Path("/etc/evenkeel", f"{name}.json"), both


def _systemctl(*argv: str) -> None:
    done = subprocess.run(["systemctl", *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"systemctl {' '.join(argv)}: {done.stderr.strip()}")


# Sent to a host by itself it has no argument.
if __name__ == "__main__" and len(sys.argv) == 2:
    print(back_up(json.loads(Path(sys.argv[1]).read_text())))

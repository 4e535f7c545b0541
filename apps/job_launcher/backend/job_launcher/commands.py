# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands of the command line do. Each returns whether what was asked for succeeded."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import sqlite3
import sys
import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from job_launcher import config
from job_launcher.client import Client
from job_launcher.healthcheck import CONFIG, config_path
from job_launcher.model import ACTIVE, iso, new_id, now_ms
from job_launcher.passwords import fingerprint, hashed, new_secret
from job_launcher.refused import Refused
from job_launcher.store import audit, sessions, users
from job_launcher.store.accounts import Accounts
from job_launcher.validation import faults

DAY_MS = 24 * 3_600_000
_PIECE = 1_048_576

T = TypeVar("T")


def serve(arguments: Namespace) -> bool:
    """Run the server. What only it needs is imported here: a health check must not load a web server."""
    from job_launcher import journal, serving  # noqa: PLC0415

    chosen = _config(arguments) if not arguments.demo or config_path(arguments) else _demo_config(arguments)
    journal.begin()
    asyncio.run(serving.serve(chosen, demo=arguments.demo))
    return True


def user_add(arguments: Namespace) -> bool:
    """Add a user."""
    _check_name(arguments.name)
    now = now_ms()
    user = users.User(arguments.name, arguments.role, hashed(_password(arguments)), None, now, now)

    def add(db: sqlite3.Connection) -> bool:
        if not users.add(db, user):
            return False
        audit.write(db, audit.Entry(now, "command line", "user add", user.name, detail=user.role))
        return True

    if not _accounts(arguments, add):
        raise Refused("name", f"there is a user {user.name} already")
    return True


def user_passwd(arguments: Namespace) -> bool:
    """Set a password."""
    new, now = hashed(_password(arguments)), now_ms()

    def change(db: sqlite3.Connection) -> bool:
        if not users.set_password(db, arguments.name, new, now):
            return False
        sessions.close_all(db, arguments.name)
        audit.write(db, audit.Entry(now, "command line", "password", arguments.name))
        return True

    return _of_user(arguments, change)


def user_token(arguments: Namespace) -> bool:
    """Make a token and print it."""
    if not 1 <= arguments.days <= 366:
        raise Refused("--days", "must be from 1 to 366")
    secret, now = new_secret(), now_ms()
    token = sessions.Token(new_id("t"), arguments.purpose[:200], now, now + arguments.days * DAY_MS, None)

    def make(db: sqlite3.Connection) -> bool:
        if users.find(db, arguments.name) is None:
            return False
        if not sessions.add_token(db, token, fingerprint(secret), arguments.name):
            raise Refused("name", f"{arguments.name} has {sessions.MAX_TOKENS} tokens already")
        audit.write(db, audit.Entry(now, "command line", "token add", token.id, detail=arguments.name))
        return True

    _of_user(arguments, make)
    print(secret)
    return True


def user_list(arguments: Namespace) -> bool:
    """Print all users."""
    for user in _accounts(arguments, lambda db: users.page(db, "", -1)):
        print(f"{user.name}\t{user.role}\t{iso(user.created_at)}")
    return True


def credit(arguments: Namespace) -> bool:
    """Give a user credits."""
    _check_name(arguments.name)
    body = {"amount": arguments.amount, "reason": arguments.reason}
    print(json.dumps(_client(arguments).post(f"/api/users/{arguments.name}/credit", body)))
    return True


def run(arguments: Namespace) -> bool:
    """Start a run; with --wait follow it."""
    client = _client(arguments)
    body = {"template": arguments.template, "total": arguments.total}
    if arguments.max_parallel is not None:
        body["max_parallel"] = arguments.max_parallel
    body["parameters"] = _parameters(client, arguments.template, arguments.parameters)
    key = arguments.idempotency_key or str(uuid.uuid4())
    started = client.post("/api/run", body, {"Idempotency-Key": key})
    print(started["id"], file=sys.stderr if arguments.wait else sys.stdout, flush=True)
    return _follow(client, started["id"], 0) if arguments.wait else True


def tail(arguments: Namespace) -> bool:
    """Print a run's log."""
    if not arguments.run_id.isidentifier():
        raise Refused("run_id", "must be a run's id, such as r_ and 20 letters and digits")
    client = _client(arguments)
    if arguments.no_follow:
        _print_log(client, arguments.run_id, arguments.start)
    else:
        _follow(client, arguments.run_id, arguments.start)
    return True


def export(arguments: Namespace) -> bool:
    """Print everything of a kind."""
    items = _client(arguments).pages(f"/api/{arguments.what}")
    if arguments.format == "json":
        for item in items:
            print(json.dumps(item))
        return True
    writer: csv.DictWriter[str] | None = None
    for item in items:
        row = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in item.items()}
        if writer is None:
            writer = csv.DictWriter(sys.stdout, list(row))
            writer.writeheader()
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return True


def _cell(value: object) -> object:
    """A value that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t")) else value


def _config(arguments: Namespace) -> config.Config:
    return config.read(Path(config_path(arguments) or CONFIG))


def _demo_config(arguments: Namespace) -> config.Config:
    from job_launcher.demo import templates  # noqa: PLC0415

    document = {
        "data_dir": arguments.data_dir,
        "listen": arguments.listen,
        "public_url": f"http://{arguments.listen}",
        "templates": templates(),
    }
    if arguments.static_dir:
        document["static_dir"] = arguments.static_dir
    return config.parse(document, Path.cwd())


def _accounts(arguments: Namespace, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do `work` in the accounts of the configuration, beside a server that may be running."""

    async def do() -> T:
        accounts = Accounts(_config(arguments).data_dir)
        await accounts.open()
        try:
            return await accounts.write(work)
        finally:
            await accounts.close()

    return asyncio.run(do())


def _of_user(arguments: Namespace, work: Callable[[sqlite3.Connection], bool]) -> bool:
    if not _accounts(arguments, work):
        raise Refused("name", f"there is no user {arguments.name}")
    return True


def _check_name(name: str) -> None:
    for fault in faults({"type": "string", "pattern": config.NAME_PATTERN}, name, "name"):
        raise Refused(fault.field, fault.message)


def _password(arguments: Namespace) -> str:
    source = Path(arguments.password_file) if arguments.password_file else Path("/dev/stdin")
    if not arguments.password_file and sys.stdin.isatty():
        raise Refused("password", "comes from --password-file or from standard input that is no terminal")
    return config.read_password(source, "password")


def _client(arguments: Namespace) -> Client:
    url = arguments.url or os.environ.get("JOB_LAUNCHER_URL", "http://127.0.0.1:8080")
    path = arguments.token_file or os.environ.get("JOB_LAUNCHER_TOKEN_FILE")
    try:
        token = Path(path).read_text(encoding="utf-8") if path else os.environ.get("JOB_LAUNCHER_TOKEN", "")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused("--token-file", f"can't read {path}: {type(error).__name__}") from error
    token = token.strip()
    if not token.isascii() or not token.isprintable() or not token:
        raise Refused("--token-file", "a token is needed: `job-launcher user token NAME` or POST /api/tokens makes one")
    return Client(url, token)


def _parameters(client: Client, template: str, given: list[str]) -> dict[str, Any]:
    """NAME=VALUE as the template's types want them; what doesn't fit goes as text: the server says what is wrong."""
    if not given:
        return {}
    known: Mapping[str, Any] = next(
        (each["parameters"] for each in client.get("/api/config")["templates"] if each["name"] == template), {}
    )
    parameters: dict[str, Any] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals:
            raise Refused("--set", f"must be NAME=VALUE, not {pair}")
        parameters[name] = _typed(known.get(name, {}).get("type"), text)
    return parameters


def _typed(kind: str | None, text: str) -> Any:
    if kind not in ("integer", "number", "boolean"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _print_log(client: Client, run_id: str, start: int) -> int:
    """Print what is there from `start`; returns where to go on."""
    while True:
        data, start, size = client.log(run_id, start, _PIECE)
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        if start >= size:
            return start


def _follow(client: Client, run_id: str, start: int) -> bool:
    """Print a log until its run has ended; whether all units succeeded."""
    pause = client.get("/api/config")["tunables"]["log_poll_interval"] / 1000
    while True:
        # Asked before the log is read: what is read after the end is everything.
        status = client.get(f"/api/runs/{run_id}")["status"]
        start = _print_log(client, run_id, start)
        if status not in ACTIVE:
            return bool(status == "succeeded")
        time.sleep(pause)

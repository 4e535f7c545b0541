# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The users that the configuration names, and the admin of a demonstration."""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import sys
from collections.abc import Iterable
from pathlib import Path

from job_launcher.config import ConfiguredUser, read_password
from job_launcher.engine import Engine
from job_launcher.model import now_ms
from job_launcher.passwords import hashed, matches
from job_launcher.store import audit, sessions, users
from job_launcher.store.accounts import Accounts

DEMO_ADMIN, DEMO_CREDITS = "admin", 1000


async def make_configured(accounts: Accounts, engine: Engine, configured: Iterable[ConfiguredUser]) -> None:
    """Make who isn't there yet, with the opening balance; give who is there the role, and the password if the
    secret is another than at the last start."""
    for user in configured:
        await _make(accounts, engine, user, read_password(user.password_file))


async def make_demo_admin(accounts: Accounts, engine: Engine, data_dir: Path) -> None:
    """An admin with a random password if there is none yet. The password goes into a file for the owner's eyes only,
    and once to the terminal, if it is one."""
    if await accounts.read(lambda db: users.find(db, DEMO_ADMIN)) is not None:
        return
    password = secrets.token_urlsafe(12)
    path = data_dir / "admin-password"
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(password + "\n")
    await _make(accounts, engine, ConfiguredUser(DEMO_ADMIN, "admin", DEMO_CREDITS, path), password)
    print(f"First login: {DEMO_ADMIN}; its password is in {path}", flush=True)
    if sys.stdout.isatty():
        print(f"Password (shown this once): {password}", flush=True)


async def _make(accounts: Accounts, engine: Engine, wanted: ConfiguredUser, password: str) -> None:
    found = await accounts.read(lambda db: users.find(db, wanted.name))
    if found is None:
        # Before the user: a start that was broken off between the two doesn't give it twice.
        if wanted.balance and not (await engine.ledger(wanted.name, limit=1)).items:
            await engine.credit(wanted.name, wanted.balance, "configuration", "opening balance")
        new = await asyncio.to_thread(hashed, password)
        await accounts.write(lambda db: _add(db, wanted, new))
        return
    same = found.configured is not None and await asyncio.to_thread(matches, password, found.configured)
    if same and found.role == wanted.role:
        return
    new = found.configured if same and found.configured else await asyncio.to_thread(hashed, password)
    await accounts.write(lambda db: _update(db, wanted, new, new_password=not same))


def _add(db: sqlite3.Connection, wanted: ConfiguredUser, password: str) -> None:
    now = now_ms()
    users.add(db, users.User(wanted.name, wanted.role, password, password, now, now))
    audit.write(db, audit.Entry(now, "configuration", "user add", wanted.name, detail=wanted.role))


def _update(db: sqlite3.Connection, wanted: ConfiguredUser, configured: str, *, new_password: bool) -> None:
    now = now_ms()
    users.set_configured(db, wanted.name, wanted.role, configured)
    if new_password:
        users.set_password(db, wanted.name, configured, now)
        sessions.close_all(db, wanted.name)
    action = "password" if new_password else "role"
    audit.write(db, audit.Entry(now, "configuration", action, wanted.name, detail=wanted.role))

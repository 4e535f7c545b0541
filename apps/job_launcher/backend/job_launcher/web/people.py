# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What only admins do: users, their credits, the audit."""

from __future__ import annotations

import asyncio
import sqlite3

from aiohttp import web

from job_launcher.model import Balance, iso, now_ms
from job_launcher.passwords import hashed
from job_launcher.store import audit, users
from job_launcher.web import shapes
from job_launcher.web.problems import Problem, no_such
from job_launcher.web.routes import Answer, Call, Parameter, Route, answer
from job_launcher.web.runs import BEFORE, DEFAULT_PAGE, LIMIT


async def list_users(call: Call) -> web.StreamResponse:
    """A page of users by name, with their balances."""
    after, limit = call.values["after"] or "", call.values["limit"] or DEFAULT_PAGE
    found = await call.server.accounts.read(lambda db: users.page(db, after, limit + 1))
    items = [user_json(user, await call.server.engine.balance(user.name)) for user in found[:limit]]
    return answer({"items": items, "next": found[limit - 1].name if len(found) > limit else None})


async def add_user(call: Call) -> web.StreamResponse:
    """Add a user."""
    body, who, now = call.body, call.who, now_ms()
    async with call.server.hashing:
        password = await asyncio.to_thread(hashed, body["password"])
    user = users.User(body["name"], body["role"], password, None, now, now)

    def add(db: sqlite3.Connection) -> bool:
        if not users.add(db, user):
            return False
        audit.write(db, audit.Entry(now, who.name, "user add", user.name, call.address, user.role))
        return True

    if not await call.server.accounts.write(add):
        raise Problem(409, f"There is a user {user.name} already.")
    return answer(user_json(user, await call.server.engine.balance(user.name)), 201)


async def credit(call: Call) -> web.StreamResponse:
    """Give a user credits."""
    who, name, amount = call.who, call.values["name"], int(call.body["amount"])
    if await call.server.accounts.read(lambda db: users.find(db, name)) is None:
        raise no_such("user")
    entry = await call.server.engine.credit(name, amount, who.name, call.body["reason"])
    await call.server.audit(who.name, "credit", name, call.address, str(amount))
    return answer(entry.to_json(), 201)


async def read_audit(call: Call) -> web.StreamResponse:
    """A page of the audit, the newest first."""
    before, limit = call.values["before"], call.values["limit"] or DEFAULT_PAGE
    start = int(before) if before else 2**63 - 1
    found = await call.server.accounts.read(lambda db: audit.page(db, start, limit + 1))
    items = [{**vars(entry), "id": number, "at": iso(entry.at)} for number, entry in found[:limit]]
    return answer({"items": items, "next": str(found[limit - 1][0]) if len(found) > limit else None})


def user_json(user: users.User, balance: Balance) -> dict[str, object]:
    """What an admin sees of a user."""
    return {"name": user.name, "role": user.role, "created_at": iso(user.created_at), "balance": balance.to_json()}


_NAME = Parameter("name", "path", shapes.NAME, "A user's name", thing="user")

ROUTES = (
    Route("GET", "/api/users", "admin", "All users", list_users, {200: Answer("A page", shapes.page("User"))},
          parameters=(Parameter("after", "query", shapes.NAME, "The last page's `next`"), LIMIT)),
    Route("POST", "/api/users", "admin", "Add a user", add_user, {201: Answer("The user", shapes.ref("User"))},
          body=shapes.USER_BODY, problems=(409,)),
    Route("POST", "/api/users/{name}/credit", "admin", "Give a user credits", credit,
          {201: Answer("The entry in the ledger", shapes.ref("LedgerEntry"))},
          parameters=(_NAME,), body=shapes.CREDIT_BODY),
    Route("GET", "/api/audit", "admin", "Who did what, the newest first", read_audit,
          {200: Answer("A page", shapes.page("AuditEntry"))}, parameters=(BEFORE, LIMIT)),
)  # fmt: skip

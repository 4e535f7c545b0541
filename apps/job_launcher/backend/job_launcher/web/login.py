# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logging in and out, and tokens for scripts."""

from __future__ import annotations

import asyncio
import sqlite3

from aiohttp import web

from job_launcher.model import iso, new_id, now_ms
from job_launcher.passwords import csrf_token, fingerprint, matches, new_secret, nobody
from job_launcher.store import audit, sessions, users
from job_launcher.web import shapes
from job_launcher.web.access import COOKIE
from job_launcher.web.callers import limit_key
from job_launcher.web.limits import retry_after
from job_launcher.web.problems import Problem, no_such
from job_launcher.web.routes import Answer, Call, Parameter, Route, answer
from job_launcher.web.server import Server

DAY_MS = 24 * 3_600_000


async def login(call: Call) -> web.StreamResponse:
    """Check the password, start a session under a new id whatever the browser sent, answer its CSRF token."""
    name, password = call.body["name"], call.body["password"]
    user = await _checked_user(call, name, password)
    secret, old = new_secret(), call.request.cookies.get(COOKIE)
    await call.server.accounts.write(lambda db: _open(db, call, user, secret, old))
    if old:
        call.server.revoked(fingerprint(old))
    response = answer({"user": {"name": user.name, "role": user.role}, "csrf_token": csrf_token(secret)})
    response.set_cookie(
        COOKIE,
        secret,
        max_age=sessions.ABSOLUTE_MS // 1000,
        path="/",
        httponly=True,
        samesite="Strict",
        secure=call.server.config.secure_cookies,
    )
    return response


async def logout(call: Call) -> web.StreamResponse:
    """End this session; a token is only taken back by its id."""
    who = call.who
    if who.csrf_token is None:
        raise Problem(403, "A token has no session; take it back with DELETE /api/tokens/{id}.")

    def end(db: sqlite3.Connection) -> None:
        sessions.close_session(db, who.credential)
        audit.write(db, audit.Entry(now_ms(), who.name, "logout", address=call.address))

    await call.server.accounts.write(end)
    call.server.revoked(who.credential)
    response = web.Response(status=204)
    response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict", secure=call.server.config.secure_cookies)
    return response


async def me(call: Call) -> web.StreamResponse:
    """Who asks, what they may use, and the CSRF token for this session."""
    who = call.who
    balance = await call.server.engine.balance(who.name)
    return answer({
        "user": {"name": who.name, "role": who.role}, "csrf_token": who.csrf_token, "balance": balance.to_json(),
    })  # fmt: skip


async def add_token(call: Call) -> web.StreamResponse:
    """Make a token and show it this once."""
    who = call.who
    if who.csrf_token is None:
        raise Problem(403, "A token can't make tokens; log in with a password.")
    secret, now = new_secret(), now_ms()
    expires_at = now + int(call.body["expires_in_days"]) * DAY_MS
    token = sessions.Token(new_id("t"), call.body["name"], now, expires_at, None)

    def keep(db: sqlite3.Connection) -> bool:
        if not sessions.add_token(db, token, fingerprint(secret), who.name):
            return False
        audit.write(db, audit.Entry(now, who.name, "token add", token.id, call.address, token.name))
        return True

    if not await call.server.accounts.write(keep):
        raise Problem(409, f"You have {sessions.MAX_TOKENS} tokens already; delete one first.")
    return answer({**token_json(token), "token": secret}, 201)


async def list_tokens(call: Call) -> web.StreamResponse:
    """The caller's tokens without their secrets."""
    who = call.who
    found = await call.server.accounts.read(lambda db: sessions.tokens(db, who.name, now_ms()))
    return answer({"items": [token_json(token) for token in found], "next": None})


async def delete_token(call: Call) -> web.StreamResponse:
    """Take a token back."""
    who, token_id = call.who, call.values["token_id"]

    def take_back(db: sqlite3.Connection) -> str | None:
        secret_hash = sessions.delete_token(db, who.name, token_id)
        if secret_hash is not None:
            audit.write(db, audit.Entry(now_ms(), who.name, "token delete", token_id, call.address))
        return secret_hash

    secret_hash = await call.server.accounts.write(take_back)
    if secret_hash is None:
        raise no_such("token")
    call.server.revoked(secret_hash)
    return web.Response(status=204)


def token_json(token: sessions.Token) -> dict[str, str | None]:
    """What people see of a token."""
    return {
        "id": token.id,
        "name": token.name,
        "created_at": iso(token.created_at),
        "expires_at": iso(token.expires_at),
        "used_at": iso(token.used_at),
    }


async def _checked_user(call: Call, name: str, password: str) -> users.User:
    """The user, if name and password are right. Problem 401 otherwise, 429 after too many failures."""
    server, address = call.server, limit_key(call.address)
    wait = max(server.failures_by_name.wait(name), server.failures_by_address.wait(address))
    if wait:
        server.metrics.logins_failed.inc()
        raise Problem(429, "Too many failed logins; wait a while.", headers=retry_after(wait))
    server.failures_by_name.begin(name)
    server.failures_by_address.begin(address)
    user = await server.accounts.read(lambda db: users.find(db, name))
    right = await _hash_matches(server, password, user.password if user else nobody())
    if user is None or not right:
        server.metrics.logins_failed.inc()
        # People type passwords into the wrong field: an unknown name isn't written down.
        await server.audit(None, "login failed", user.name if user else "unknown name", call.address)
        raise Problem(401, "Name or password is wrong.", headers={"WWW-Authenticate": "Bearer"})
    server.failures_by_name.forgive(name)
    server.failures_by_address.forgive(address)
    return user


async def _hash_matches(server: Server, password: str, stored: str) -> bool:
    """Compare in a thread, one at a time: each takes 16 MiB and a fifth of a second of a core."""
    if server.hashes_waiting >= server.limits.hashes_waiting:
        raise Problem(429, "Too many logins at once; try again.", headers=retry_after(1))
    server.hashes_waiting += 1
    try:
        async with server.hashing:
            return await asyncio.to_thread(matches, password, stored)
    finally:
        server.hashes_waiting -= 1


def _open(db: sqlite3.Connection, call: Call, user: users.User, secret: str, old: str | None) -> None:
    current = users.find(db, user.name)
    if current is None or current.password != user.password:  # changed since it was checked
        raise Problem(401, "Name or password is wrong.", headers={"WWW-Authenticate": "Bearer"})
    now = now_ms()
    sessions.open_session(db, fingerprint(secret), fingerprint(old) if old else None, user.name, now)
    audit.write(db, audit.Entry(now, user.name, "login", address=call.address))


_TOKEN_ID = Parameter("token_id", "path", shapes.TOKEN_ID, "A token's id", thing="token")

ROUTES = (
    Route("POST", "/api/login", "open", "Log in", login,
          {200: Answer("Logged in; the cookie is the session", shapes.LOGIN)},
          body=shapes.LOGIN_BODY, problems=(401,)),
    Route("POST", "/api/logout", "viewer", "End this session", logout, {204: Answer("Logged out")}),
    Route("GET", "/api/me", "viewer", "Who am I", me, {200: Answer("The caller", shapes.ME)}),
    Route("POST", "/api/tokens", "viewer", "Make a token for a script", add_token,
          {201: Answer("The token, shown this once", shapes.ref("NewToken"))},
          body=shapes.TOKEN_BODY, problems=(409,)),
    Route("GET", "/api/tokens", "viewer", "My tokens", list_tokens,
          {200: Answer("All of them", shapes.page("Token"))}),
    Route("DELETE", "/api/tokens/{token_id}", "viewer", "Take a token back", delete_token,
          {204: Answer("It is worth nothing any more")}, parameters=(_TOKEN_ID,)),
)  # fmt: skip

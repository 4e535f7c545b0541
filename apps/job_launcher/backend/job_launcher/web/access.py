# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who asks: sessions of browsers, tokens of scripts, and what keeps other sites' pages from using them."""

from __future__ import annotations

import hmac

from aiohttp import web

from job_launcher.model import now_ms
from job_launcher.passwords import csrf_token, fingerprint
from job_launcher.store import sessions
from job_launcher.web.callers import origin_allowed
from job_launcher.web.problems import Problem
from job_launcher.web.routes import Access, Principal
from job_launcher.web.server import Server

COOKIE = "launcher_session"
CSRF_HEADER = "X-CSRF-Token"
_RANK = {"viewer": 0, "operator": 1, "admin": 2}
_MAX_SECRET = 200  # characters; ours are shorter


async def principal_of(server: Server, request: web.Request) -> Principal | None:
    """Who sent the request; None if nobody known did. A token, right or wrong, goes before a cookie."""
    header = request.headers.get("Authorization")
    if header is not None:
        kind, _, secret = header.partition(" ")
        return await _by_token(server, secret.strip()) if kind.lower() == "bearer" else None
    secret = request.cookies.get(COOKIE, "")
    return await _by_session(server, secret) if secret else None


async def still_valid(server: Server, principal: Principal) -> bool:
    """Whether the session or token still stands; an open socket counts as its use."""
    now, credential = now_ms(), principal.credential
    if principal.csrf_token is None:
        return await server.accounts.read(lambda db: sessions.token_holder(db, credential, now)) is not None
    holder = await server.accounts.read(lambda db: sessions.session_holder(db, credential, now))
    if holder is not None and holder.note_use:
        await server.accounts.write(lambda db: sessions.note_session_use(db, credential, now))
    return holder is not None


def check_role(principal: Principal, access: Access) -> None:
    """Problem 403 if the role doesn't reach."""
    if access != "open" and _RANK[principal.role] < _RANK[access]:
        raise Problem(403, f"This needs the role {access}; yours is {principal.role}.")


def check_origin(server: Server, request: web.Request) -> None:
    """Problem 403 if another site's page sent this."""
    headers = request.headers
    origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site")
    if not origin_allowed(origin, site, headers.get("Host"), server.config.public_url):
        raise Problem(403, "The request comes from another site's page (Origin).")


def check_csrf(request: web.Request, principal: Principal) -> None:
    """Problem 403 if a cookie comes without the token that only our own pages know. Bearer tokens need none."""
    if principal.csrf_token is None:
        return
    given = request.headers.get(CSRF_HEADER, "")
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), principal.csrf_token.encode()):
        raise Problem(403, f"The header {CSRF_HEADER} is missing or wrong; /api/me gives it.")


async def _by_token(server: Server, secret: str) -> Principal | None:
    if not 0 < len(secret) <= _MAX_SECRET:
        return None
    now, credential = now_ms(), fingerprint(secret)
    holder = await server.accounts.read(lambda db: sessions.token_holder(db, credential, now))
    if holder is None:
        return None
    if holder.note_use:
        await server.accounts.write(lambda db: sessions.note_token_use(db, credential, now))
    return Principal(holder.user, holder.role, credential, None)


async def _by_session(server: Server, secret: str) -> Principal | None:
    if len(secret) > _MAX_SECRET:
        return None
    now, credential = now_ms(), fingerprint(secret)
    holder = await server.accounts.read(lambda db: sessions.session_holder(db, credential, now))
    if holder is None:
        return None
    if holder.note_use:
        await server.accounts.write(lambda db: sessions.note_session_use(db, credential, now))
    return Principal(holder.user, holder.role, credential, csrf_token(secret))

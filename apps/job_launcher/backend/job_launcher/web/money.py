# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Balances, the ledger, and the numbers on their way back."""

from __future__ import annotations

from aiohttp import web

from job_launcher.model import NUMBER_STATUSES
from job_launcher.web import shapes
from job_launcher.web.routes import Answer, Call, Parameter, Route, answer
from job_launcher.web.runs import BEFORE, DEFAULT_PAGE, LIMIT


async def balance(call: Call) -> web.StreamResponse:
    """The caller's balance."""
    return answer((await call.server.engine.balance(call.who.name)).to_json())


async def ledger(call: Call) -> web.StreamResponse:
    """The caller's ledger, the newest first."""
    limit = call.values["limit"] or DEFAULT_PAGE
    return answer((await call.server.engine.ledger(call.who.name, call.values["before"], limit)).to_json())


async def list_numbers(call: Call) -> web.StreamResponse:
    """A page of numbers, the newest first; an admin sees everyone's."""
    who, values = call.who, call.values
    found = await call.server.engine.numbers(
        None if who.admin else who.name, values["status"], values["before"], values["limit"] or DEFAULT_PAGE
    )
    return answer(found.to_json())


async def retry_number(call: Call) -> web.StreamResponse:
    """Release a held or dead number anew."""
    who, number_id = call.who, call.values["number_id"]
    await call.server.engine.retry_number(number_id, who.name, None if who.admin else who.name)
    await call.server.audit(who.name, "number retry", number_id, call.address)
    return web.Response(status=204)


async def drop_number(call: Call) -> web.StreamResponse:
    """Call a number released that someone has released by hand."""
    who, number_id, reason = call.who, call.values["number_id"], call.body["reason"]
    await call.server.engine.drop_number(number_id, who.name, reason)
    await call.server.audit(who.name, "number drop", number_id, call.address, reason)
    return web.Response(status=204)


_NUMBER_ID = Parameter("number_id", "path", shapes.NUMBER_ID, "A number's id", thing="number")

ROUTES = (
    Route("GET", "/api/balance", "viewer", "My balance", balance, {200: Answer("Credits", shapes.ref("Balance"))}),
    Route("GET", "/api/ledger", "viewer", "My ledger, the newest first", ledger,
          {200: Answer("A page", shapes.page("LedgerEntry"))}, parameters=(BEFORE, LIMIT)),
    Route("GET", "/api/numbers", "viewer", "My numbers, the newest first", list_numbers,
          {200: Answer("A page", shapes.page("Number"))},
          parameters=(Parameter("status", "query", {"type": "string", "enum": list(NUMBER_STATUSES)}, "Only these"),
                      BEFORE, LIMIT)),
    Route("POST", "/api/numbers/{number_id}/retry", "operator", "Release a number anew", retry_number,
          {204: Answer("It is released as soon as its hold allows")}, parameters=(_NUMBER_ID,), problems=(409,)),
    Route("POST", "/api/numbers/{number_id}/drop", "admin", "A number was released by hand", drop_number,
          {204: Answer("Its hook is not called any more")}, parameters=(_NUMBER_ID,),
          body=shapes.exactly({"reason": shapes.SHORT_TEXT}), problems=(409,)),
)  # fmt: skip

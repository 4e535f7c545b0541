# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs, their units and their logs. A run of another owner looks like one that isn't there."""

from __future__ import annotations

from aiohttp import web

from job_launcher.engine import KEY_LENGTH
from job_launcher.model import RUN_STATUSES, Run
from job_launcher.refused import Refused
from job_launcher.web import shapes
from job_launcher.web.problems import no_such
from job_launcher.web.routes import BINARY, Answer, Call, Parameter, Principal, Route, answer
from job_launcher.web.server import Server

DEFAULT_PAGE, DEFAULT_UNITS, DEFAULT_LOG = 50, 200, 65_536
MAX_LOG = 1_048_576


async def own_run(server: Server, who: Principal, run_id: str) -> Run:
    """The run, if it is there and `who` may see it; Problem 404 otherwise."""
    try:
        run = await server.engine.get_run(run_id)
    except Refused as error:
        raise (no_such("run") if error.status == 404 else error) from error
    if not who.admin and run.owner != who.name:
        raise no_such("run")
    return run


async def start_run(call: Call) -> web.StreamResponse:
    """Start a run; the same Idempotency-Key gives the same run."""
    who, body = call.who, call.body
    run, created = await call.server.engine.start_run(
        who.name,
        body["template"],
        int(body["total"]),
        int(body["max_parallel"]) if "max_parallel" in body else None,
        body.get("parameters", {}),
        idempotency_key=call.values["Idempotency-Key"],
    )
    if created:
        await call.server.audit(who.name, "run start", run.id, call.address, f"{run.template} x {run.total}")
    return answer(run.to_json(), 201 if created else 200)


async def list_runs(call: Call) -> web.StreamResponse:
    """A page of runs, the newest first; an admin sees everyone's."""
    who, values = call.who, call.values
    found = await call.server.engine.list_runs(
        None if who.admin else who.name, values["status"], values["before"], values["limit"] or DEFAULT_PAGE
    )
    return answer(found.to_json())


async def get_run(call: Call) -> web.StreamResponse:
    """One run."""
    return answer((await own_run(call.server, call.who, call.values["run_id"])).to_json())


async def stop_run(call: Call) -> web.StreamResponse:
    """Begin to stop a run; one that has ended stays as it is."""
    who, run_id = call.who, call.values["run_id"]
    await own_run(call.server, who, run_id)
    run = await call.server.engine.stop_run(run_id, who.name)
    await call.server.audit(who.name, "run stop", run_id, call.address)
    return answer(run.to_json(), 202)


async def list_units(call: Call) -> web.StreamResponse:
    """A page of a run's units by number."""
    run = await own_run(call.server, call.who, call.values["run_id"])
    limit = call.values["limit"] or DEFAULT_UNITS
    return answer((await call.server.engine.units(run.id, call.values["after"], limit)).to_json())


async def read_log(call: Call) -> web.StreamResponse:
    """A piece of a run's log as bytes."""
    run = await own_run(call.server, call.who, call.values["run_id"])
    start, limit = call.values["from"] or 0, call.values["limit"] or DEFAULT_LOG
    data, after, size = await call.server.engine.read_log(run.id, start, limit)
    headers = {"X-Log-From": str(after - len(data)), "X-Log-Next": str(after), "X-Log-Size": str(size)}
    return web.Response(body=data, content_type=BINARY, headers={**headers, "Cache-Control": "no-store"})


async def download_log(call: Call) -> web.StreamResponse:
    """The whole log as a file."""
    run = await own_run(call.server, call.who, call.values["run_id"])
    response = web.StreamResponse(headers={
        "Content-Type": BINARY,
        "Content-Disposition": f'attachment; filename="{run.id}.log"',
        "Cache-Control": "no-store",
    })  # fmt: skip
    await response.prepare(call.request)
    async for piece in call.server.engine.download_log(run.id):
        await response.write(piece)
    await response.write_eof()
    return response


_RUN_ID = Parameter("run_id", "path", shapes.RUN_ID, "A run's id", thing="run")
LIMIT = Parameter("limit", "query", shapes.LIMIT, "Most items of the page")
BEFORE = Parameter("before", "query", shapes.CURSOR, "The last page's `next`")
_RUN = shapes.ref("Run")

ROUTES = (
    Route("POST", "/api/run", "operator", "Start a run", start_run,
          {200: Answer("The run that this Idempotency-Key started before", _RUN), 201: Answer("The new run", _RUN)},
          parameters=(Parameter("Idempotency-Key", "header",
                                {"type": "string", "minLength": 1, "maxLength": KEY_LENGTH, "pattern": "^[!-~]+$"},
                                "Repeat it with the same body and no second run starts"),),
          body=shapes.RUN_BODY, problems=(402, 404, 409)),
    Route("GET", "/api/runs", "viewer", "My runs, the newest first", list_runs,
          {200: Answer("A page", shapes.page("Run"))},
          parameters=(Parameter("status", "query", {"type": "string", "enum": list(RUN_STATUSES)}, "Only these"),
                      BEFORE, LIMIT)),
    Route("GET", "/api/runs/{run_id}", "viewer", "One run", get_run, {200: Answer("The run", _RUN)},
          parameters=(_RUN_ID,)),
    Route("POST", "/api/runs/{run_id}/stop", "operator", "Stop a run", stop_run,
          {202: Answer("It is stopping, or had ended", _RUN)}, parameters=(_RUN_ID,), problems=(409,)),
    Route("GET", "/api/runs/{run_id}/units", "viewer", "A run's units", list_units,
          {200: Answer("A page", shapes.page("Unit"))},
          parameters=(_RUN_ID, Parameter("after", "query", shapes.CURSOR, "The last page's `next`"), LIMIT)),
    Route("GET", "/api/runs/{run_id}/log", "viewer", "A piece of a run's log", read_log,
          {200: Answer("Bytes", content_type=BINARY, headers={
              "X-Log-From": "Offset of the first byte; later than asked for where old log has been removed",
              "X-Log-Next": "Where to go on", "X-Log-Size": "The log's size now"})},
          parameters=(_RUN_ID,
                      Parameter("from", "query", {"type": "integer", "minimum": 0}, "Offset of the first byte"),
                      Parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": MAX_LOG},
                                "Most bytes"))),
    Route("GET", "/api/runs/{run_id}/log/download", "viewer", "A run's whole log as a file", download_log,
          {200: Answer("Bytes", content_type=BINARY)}, parameters=(_RUN_ID,)),
)  # fmt: skip

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON shapes of the API: they validate what comes in and document what goes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from job_launcher.config import MAX_CREDIT, NAME_PATTERN, PASSWORD_LENGTH, ROLES
from job_launcher.model import LEDGER_KINDS, NUMBER_STATUSES, RUN_STATUSES, UNIT_STATUSES

Shape = dict[str, Any]

COUNT: Shape = {"type": "integer", "minimum": 0}
CREDITS: Shape = {"type": "integer"}
TEXT: Shape = {"type": "string"}
MAYBE_TEXT: Shape = {"type": ["string", "null"]}
MAYBE_NUMBER: Shape = {"type": ["integer", "null"]}
TIME: Shape = {"type": "string", "format": "date-time"}
MAYBE_TIME: Shape = {"type": ["string", "null"], "format": "date-time"}
NAME: Shape = {"type": "string", "pattern": NAME_PATTERN}
ROLE: Shape = {"type": "string", "enum": list(ROLES)}
RUN_ID: Shape = {"type": "string", "pattern": "^r_[a-z2-7]{20}$"}
NUMBER_ID: Shape = {"type": "string", "pattern": "^n_[a-z2-7]{20}$"}
TOKEN_ID: Shape = {"type": "string", "pattern": "^t_[a-z2-7]{20}$"}
CURSOR: Shape = {"type": "string", "pattern": "^[0-9]{1,18}$"}
LIMIT: Shape = {"type": "integer", "minimum": 1, "maximum": 500}
SHORT_TEXT: Shape = {"type": "string", "minLength": 1, "maxLength": 200}


def exactly(properties: Mapping[str, Shape], optional: tuple[str, ...] = ()) -> Shape:
    """An object with these members and no others; those in `optional` may be missing."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name in properties if name not in optional],
        "properties": dict(properties),
    }


def ref(name: str) -> Shape:
    """A pointer to one of COMPONENTS."""
    return {"$ref": f"#/components/schemas/{name}"}


def page(name: str) -> Shape:
    """A page of one of COMPONENTS."""
    return exactly({"items": {"type": "array", "items": ref(name)}, "next": MAYBE_TEXT})


def _one_of(values: tuple[str, ...]) -> Shape:
    return {"type": "string", "enum": list(values)}


NUMBER_COUNTS = exactly({"held": COUNT, "releasing": COUNT, "dead": COUNT})
USER = exactly({"name": TEXT, "role": ROLE})
LOGIN = exactly({"user": USER, "csrf_token": TEXT})
ME = exactly({"user": USER, "csrf_token": MAYBE_TEXT, "balance": ref("Balance")})
TUNABLE = exactly({"unit": TEXT, "default": {"type": "number"}, "minimum": {"type": "number"},
                   "maximum": {"type": "number"}, "help": TEXT})  # fmt: skip
TEMPLATE = exactly({"name": TEXT, "title": TEXT, "description": TEXT, "price": CREDITS, "parameters": {
    "type": "object", "additionalProperties": {"type": "object", "required": ["type"]}}})  # fmt: skip
CONFIG = exactly({
    "version": TEXT,
    "tunables": {"type": "object", "additionalProperties": {"type": "number"}},
    "tunables_info": {"type": "object", "additionalProperties": TUNABLE},
    "effective_max_parallel_limit": {"type": "integer", "minimum": 1},
    "limited_by": _one_of(("max_parallel_limit", "cpu", "memory")),
    "templates": {"type": "array", "items": TEMPLATE},
})  # fmt: skip
STATUS = exactly({
    "banner": {"anyOf": [ref("Banner"), {"type": "null"}]},
    "running_units": COUNT,
    "queued_units": COUNT,
    "numbers": NUMBER_COUNTS,
    "draining": {"type": "boolean"},
    "server_time": TIME,
})  # fmt: skip
TOKEN = {"id": TOKEN_ID, "name": TEXT, "created_at": TIME, "expires_at": TIME, "used_at": MAYBE_TIME}

COMPONENTS: Mapping[str, Shape] = {
    "Run": exactly({
        "id": RUN_ID, "owner": TEXT, "template": TEXT, "title": TEXT, "status": _one_of(RUN_STATUSES),
        "total": COUNT, "max_parallel": COUNT, "parameters": {"type": "object"},
        "counts": exactly({
            "waiting": COUNT, "running": COUNT, "succeeded": COUNT, "failed": COUNT, "stopped": COUNT, "retried": COUNT,
        }),
        "price": CREDITS, "held": CREDITS, "captured": CREDITS,
        "created_at": TIME, "started_at": MAYBE_TIME, "ended_at": MAYBE_TIME,
        "log_size": COUNT, "message": MAYBE_TEXT,
    }),
    "Unit": exactly({
        "id": TEXT, "run_id": RUN_ID, "number": COUNT, "attempt": COUNT, "worker": MAYBE_NUMBER,
        "status": _one_of(UNIT_STATUSES), "exit_code": MAYBE_NUMBER, "signal": MAYBE_NUMBER, "reason": MAYBE_TEXT,
        "lease": MAYBE_TEXT, "started_at": MAYBE_TIME, "ended_at": MAYBE_TIME, "report": {"type": ["object", "null"]},
    }),
    "Balance": exactly({"total": CREDITS, "held": CREDITS, "available": CREDITS}),
    "LedgerEntry": exactly({
        "id": {"type": "integer"}, "at": TIME, "kind": _one_of(LEDGER_KINDS), "amount": CREDITS, "run_id": MAYBE_TEXT,
        "unit_id": MAYBE_TEXT, "by": TEXT, "reason": MAYBE_TEXT, "total_after": CREDITS, "held_after": CREDITS,
    }),
    "Number": exactly({
        "id": NUMBER_ID, "value": TEXT, "run_id": RUN_ID, "unit_id": TEXT, "status": _one_of(NUMBER_STATUSES),
        "acquired_at": TIME, "release_after": TIME, "attempts": COUNT, "next_try_at": MAYBE_TIME,
        "last_error": MAYBE_TEXT,
    }),
    "Banner": exactly({"kind": _one_of(("no_numbers", "draining", "degraded")), "message": TEXT, "since": TIME}),
    "User": exactly({"name": TEXT, "role": ROLE, "created_at": TIME, "balance": ref("Balance")}),
    "Token": exactly(TOKEN),
    "NewToken": exactly({**TOKEN, "token": TEXT}),
    "AuditEntry": exactly({
        "id": {"type": "integer"}, "at": TIME, "actor": MAYBE_TEXT, "action": TEXT, "object": MAYBE_TEXT,
        "address": MAYBE_TEXT, "detail": MAYBE_TEXT,
    }),
    "Problem": exactly({
        "type": TEXT, "title": TEXT, "status": {"type": "integer"}, "detail": TEXT,
        "errors": {"type": "array", "items": exactly({"field": TEXT, "message": TEXT})}, "request_id": TEXT,
    }),
}  # fmt: skip

# Names and passwords that can't be right are wrong logins, not wrong fields: any text goes.
LOGIN_BODY = exactly({
    "name": {"type": "string", "maxLength": 200}, "password": {"type": "string", "maxLength": 1000},
})  # fmt: skip
USER_BODY = exactly({
    "name": NAME, "role": ROLE,
    "password": {"type": "string", "minLength": PASSWORD_LENGTH[0], "maxLength": PASSWORD_LENGTH[1]},
})  # fmt: skip
TOKEN_BODY = exactly({
    "name": SHORT_TEXT, "expires_in_days": {"type": "integer", "minimum": 1, "maximum": 366},
})  # fmt: skip
CREDIT_BODY = exactly({"amount": {"type": "integer", "minimum": 1, "maximum": MAX_CREDIT}, "reason": SHORT_TEXT})
RUN_BODY = exactly(
    {
        "template": {"type": "string", "minLength": 1, "maxLength": 100},
        "total": {"type": "integer", "minimum": 1},
        "max_parallel": {"type": "integer", "minimum": 1},
        "parameters": {"type": "object", "maxProperties": 100},
    },
    optional=("max_parallel", "parameters"),
)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Acceptance 13: what the OpenAPI document says is what the running server does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from job_launcher import demo
from job_launcher.web.routes import Route
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode
from tests.web import described as answers
from tests.web.described import ROUTES
from tests.web.harness import Site, Who, launched

EXAMPLES = 12
HELLO = {"template": "hello", "total": 1}
# What a schema can't say: which template there is, what it takes, what the balance covers, which names are free.
UNSAYABLE = {"positive_data_acceptance"}


def takes(route: Route, mode: GenerationMode) -> bool:
    """Whether there is anything to get wrong."""
    return mode is GenerationMode.POSITIVE or bool(route.parameters or route.body)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with launched(tmp_path_factory.mktemp("described")) as site:
        yield site


@pytest.fixture(scope="module")
def caller(served: Site) -> Who:
    who = served.token("ada")
    who.post("/api/run", HELLO)
    return who


@pytest.fixture(scope="module")
def described(served: Site) -> Any:
    return schemathesis.openapi.from_url(f"{served.url}/api/openapi.json")


CASES = [(route, mode) for route in ROUTES for mode in GenerationMode if takes(route, mode)]


@pytest.mark.parametrize(("route", "mode"), CASES, ids=lambda each: getattr(each, "path", None) or each.name)
def test_the_server_does_what_it_says(described: Any, caller: Who, route: Route, mode: GenerationMode) -> None:
    checks = [check for check in CHECKS.get_all() if check.__name__ not in UNSAYABLE]

    @hypothesis.given(case=described[route.path][route.method].as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def check(case: Any) -> None:
        case.call_and_validate(headers=caller.headers, checks=checks)

    check()


def test_every_success_that_is_declared_is_seen_in_its_shape(tmp_path: Path) -> None:
    """Each answer is held against the document by the harness; here each success comes once."""
    templates = {**demo.templates(), "hello": {"argv": ["/bin/echo", "hello"]}}
    answers.seen.clear()
    with launched(tmp_path, templates=templates) as site:
        ada = site.login("ada")
        made = ada.post("/api/tokens", {"name": "x", "expires_in_days": 1}).json["id"]
        ada.post("/api/users", {"name": "nora", "role": "viewer", "password": "a long enough one"})
        ada.post("/api/users/nora/credit", {"amount": 1, "reason": "welcome"})
        for _ in range(2):
            run = ada.post("/api/run", HELLO, {"Idempotency-Key": "k"}).json["id"]
        leased = {"template": "demo-numbers", "total": 2, "parameters": {"lines": 1, "pause": 0}}
        lease = ada.post("/api/run", leased).json["id"]
        while not ada.get(f"/api/runs/{lease}").json["ended_at"]:
            time.sleep(0.1)
        for path in ("units", "log", "log/download"):
            assert ada.get(f"/api/runs/{lease}/{path}").body
        one, two = [number["id"] for number in ada.get("/api/numbers").json["items"]]
        ada.post(f"/api/numbers/{one}/retry", None)
        ada.post(f"/api/numbers/{two}/drop", {"reason": "by hand"})
        ada.post(f"/api/runs/{run}/stop", None)
        for path in ("me", "tokens", "runs", "balance", "ledger", "users", "audit", "config", "status", "openapi.json"):
            ada.get(f"/api/{path}")
        for path in ("healthz", "readyz", "metrics"):
            ada.get(f"/{path}")
        ada.ask("DELETE", f"/api/tokens/{made}")
        ada.post("/api/logout", None)
    declared = {(route.method, route.path, status) for route in ROUTES for status in route.answers}
    assert declared - answers.seen == set()


def test_every_route_is_described_with_all_its_answers(described: Any) -> None:
    paths = described.raw_schema["paths"]
    assert {(path, method.upper()) for path, methods in paths.items() for method in methods} == {
        (route.path, route.method) for route in ROUTES
    }
    for route in ROUTES:
        answers = paths[route.path][route.method.lower()]["responses"]
        assert {str(status) for status in (*route.answers, *route.problem_statuses)} == set(answers)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_launcher.validation import faults
from job_launcher.web import shapes
from job_launcher.web.problems import Problem
from job_launcher.web.routes import parsed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats(-5, 300) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["template", "total", "max_parallel", "parameters", "x"]), inner, max_size=5),
    max_leaves=8,
)  # fmt: skip
SCHEMAS = (
    shapes.RUN_BODY,
    shapes.LIMIT,
    shapes.NAME,
    {"type": ["integer", "null"], "minimum": 3},
    {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
)


@given(st.sampled_from(SCHEMAS), VALUES)
def test_the_verdict_is_that_of_json_schema(schema: dict[str, Any], value: object) -> None:
    assert (not faults(schema, value)) is jsonschema_rs.is_valid(schema, value)


def test_faults_name_the_place() -> None:
    schema = shapes.exactly({"a": {"type": "array", "items": shapes.exactly({"b": {"type": "integer", "maximum": 3}})}})
    assert [fault.field for fault in faults(schema, {"a": [{"b": 4}, {}, {"b": 1, "c": 1}]})] == [
        "a[0].b", "a[1].b", "a[2].c",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "raw", [b"{", b"\xff", b"NaN", b'{"a": Infinity}', b'"\\ud800"', b"[" * 100_000, b"9" * 5000, b""]
)
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(Problem) as problem:
        parsed(raw)
    assert problem.value.status == 400

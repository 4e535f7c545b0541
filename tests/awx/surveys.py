# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an AWX controller demands of a survey, and of answers to one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: The type of a default, by the type of its question. A float's must be a float: 2.0, not 2.
DEFAULT_TYPES: dict[str, type] = {
    "text": str,
    "textarea": str,
    "password": str,
    "multiplechoice": str,
    "multiselect": str,
    "integer": int,
    "float": float,
}


def spec_error(spec: Any) -> str | None:
    """Return the first thing a controller would refuse in a survey, or None."""
    if not isinstance(spec, dict):
        return "A survey is an object."
    for field, kind in (("name", str), ("description", str), ("spec", list)):
        if not isinstance(spec.get(field), kind):
            return f"Field '{field}' is missing from survey spec or has the wrong type."
    if not spec["spec"]:
        return "'spec' doesn't contain any items."
    variables = [question.get("variable") for question in spec["spec"]]
    if len(set(variables)) < len(variables):
        return "a variable is asked for twice"
    return next((error for question in spec["spec"] for error in _question_errors(question)), None)


def _question_errors(question: Mapping[str, Any]) -> Iterator[str]:
    name = question.get("variable")
    for field, kind in (("type", str), ("question_name", str), ("variable", str), ("required", bool)):
        if not isinstance(question.get(field), kind):
            yield f"'{field}' is missing from survey question {name} or has the wrong type."
            return
    wanted = DEFAULT_TYPES.get(question["type"])
    if wanted is None:
        yield f"'{question['type']}' in survey question {name} is no allowed question type."
        return
    default = question.get("default", "")
    if default != "" and (not isinstance(default, wanted) or isinstance(default, bool)):
        yield f"Default value {default!r} in survey question {name} expected to be {wanted.__name__}."
    for bound in ("min", "max"):
        if question.get(bound) is not None and type(question[bound]) is not int:
            yield f"The {bound} limit in survey question {name} expected to be integer."
    if question["type"].startswith("multi"):
        if not question.get("choices"):
            yield f"Survey question {name} must specify choices."
        elif default != "" and default not in question["choices"]:
            yield f"Default choice of {name} must be answered from the choices listed."


def answer_errors(spec: Mapping[str, Any], answers: Mapping[str, Any]) -> list[str]:
    """Return what a controller would refuse in a launch with these extra variables, defaults not filled in yet."""
    questions = {question["variable"]: question for question in spec.get("spec", [])}
    errors = [f"Variables {name} are not allowed on launch." for name in answers if name not in questions]
    for name, question in questions.items():
        if name in answers:
            errors += _answer_errors(question, answers[name])
        elif question["required"]:
            errors.append(f"'{name}' value missing")
    return errors


def _answer_errors(question: Mapping[str, Any], answer: Any) -> list[str]:
    name, kind = question["variable"], question["type"]
    if kind == "multiplechoice":
        fine = answer in question["choices"]
        return [] if fine else [f"Value {answer} for '{name}' expected to be one of {question['choices']}."]
    types: tuple[type, ...] = {"integer": (int,), "float": (float, int)}.get(kind, (str,))
    if type(answer) not in types:
        return [f"Value {answer} for '{name}' expected to be {kind}."]
    size = len(answer) if isinstance(answer, str) else answer
    return [f"'{name}' value {answer} is out of bounds."] if not question["min"] <= size <= question["max"] else []

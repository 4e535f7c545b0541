# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Job templates: what may be started, with which parameters, limits and price. Nothing else ever runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from job_launcher.refused import Refused

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
PLACE = re.compile(r"\{([a-z][a-z0-9_]{0,62})\}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
CONTRACT = "LAUNCHER_"
#: What a string parameter may hold if its template says nothing: no option (leading dash), no control character.
PLAIN_TEXT = r"(?!-)[^\x00-\x1f\x7f]*"
LIMITS = ("open_files", "address_space", "cpu_time", "file_size", "rss_kill")
EXECUTORS = ("local", "swarm")
MOST_PRICE = 10**9

Json = dict[str, Any]


@dataclass(frozen=True)
class Parameter:
    """A parameter's type (integer, number, string, boolean, choice) and bounds; `default` None: must be given."""

    type: str
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    max_length: int = 256
    pattern: str = PLAIN_TEXT
    choices: tuple[str, ...] = ()
    help: str = ""

    def to_json(self) -> Json:
        """Return what the form needs."""
        shown: Json = {"type": self.type, "default": self.default, "help": self.help}
        if self.type in {"integer", "number"}:
            shown |= {"minimum": self.minimum, "maximum": self.maximum}
        if self.type == "string":
            shown |= {"max_length": self.max_length, "pattern": self.pattern}
        if self.type == "choice":
            shown |= {"choices": list(self.choices)}
        return shown

    def checked(self, where: str, value: Any) -> Any:
        """Return the value if it is right; raises Refused that names the field."""
        wrong = _CHECKS[self.type](self, value)
        if wrong:
            raise Refused(where, wrong)
        return value


@dataclass(frozen=True)
class Release:
    """How a number is released: a command (`{number}` stands for it) or an HTTP URL that gets a POST."""

    argv: tuple[str, ...] = ()
    url: str = ""


@dataclass(frozen=True)
class Template:
    """One job template. None for a time or limit: the tunable of that name holds."""

    name: str
    title: str
    argv: tuple[str, ...]
    description: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    price: int = 1
    timeout: float | None = None
    idle_timeout: float | None = None
    term_grace: float | None = None
    retries: int | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    needs_numbers: bool = False
    release: Release | None = None
    executor: str = "local"
    image: str = ""
    constraints: tuple[str, ...] = ()
    cpus: float | None = None
    memory: int | None = None

    def to_json(self) -> Json:
        """Return what /api/config serves: nothing of how it is run."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "price": self.price,
            "parameters": {name: each.to_json() for name, each in self.parameters.items()},
        }

    def checked(self, parameters: Any) -> Json:
        """Return all parameters, defaults filled in; raises Refused that names the field."""
        if not isinstance(parameters, Mapping):
            raise Refused("parameters", "must be an object of names and values")
        for name in parameters:
            if name not in self.parameters:
                known = ", ".join(sorted(self.parameters)) or "none"
                raise Refused(f"parameters.{name}", f"is no parameter of {self.name}; there are: {known}")
        values = {}
        for name, parameter in self.parameters.items():
            value = parameters.get(name, parameter.default)
            if value is None:
                raise Refused(f"parameters.{name}", "must be given")
            values[name] = parameter.checked(f"parameters.{name}", value)
        return values

    def command(self, parameters: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
        """Return (argv, environment) for checked parameters: each is a whole element or a whole value."""
        argv = [filled(element, parameters) for element in self.argv]
        return argv, {name: filled(value, parameters) for name, value in self.env.items()}


def filled(element: str, values: Mapping[str, Any]) -> str:
    """Return the element, or the value that `{name}` as a whole element stands for."""
    place = PLACE.fullmatch(element)
    if not place:
        return element
    value = values[place[1]]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _integer(parameter: Parameter, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return f"must be a whole number from {parameter.minimum:g} to {parameter.maximum:g}"
    return _number(parameter, value)


def _number(parameter: Parameter, value: Any) -> str:
    low, high = parameter.minimum, parameter.maximum
    right = isinstance(value, (int, float)) and not isinstance(value, bool)
    if right and low is not None and high is not None and low <= value <= high:
        return ""
    return f"must be a number from {low:g} to {high:g}"


def _string(parameter: Parameter, value: Any) -> str:
    if not isinstance(value, str) or len(value) > parameter.max_length:
        return f"must be a text of at most {parameter.max_length} characters"
    if "\0" in value or not value.isprintable() or not re.fullmatch(parameter.pattern, value):
        return f"must be text that matches {parameter.pattern}"
    return ""


def _boolean(_: Parameter, value: Any) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _choice(parameter: Parameter, value: Any) -> str:
    right = isinstance(value, str) and value in parameter.choices
    return "" if right else f"must be one of {', '.join(parameter.choices)}"


_CHECKS: Mapping[str, Callable[[Parameter, Any], str]] = {
    "integer": _integer,
    "number": _number,
    "string": _string,
    "boolean": _boolean,
    "choice": _choice,
}


class _Reader:
    """Reads one mapping field by field; what is left over at the end is unknown and refused."""

    def __init__(self, where: str, mapping: Any) -> None:
        if not isinstance(mapping, Mapping):
            raise Refused(where, "must be a mapping")
        self.where = where
        self._left = dict(mapping)

    def at(self, name: str) -> str:
        return f"{self.where}.{name}"

    def has(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, kind: type | tuple[type, ...], right: str, default: Any = ...) -> Any:
        if name not in self._left:
            if default is ...:
                raise Refused(self.at(name), f"must be given: {right}")
            return default
        value = self._left.pop(name)
        if (isinstance(value, bool) and kind is not bool) or not isinstance(value, kind):
            raise Refused(self.at(name), f"must be {right}, not {value!r}")
        return value

    def text(self, name: str, default: Any = ...) -> str:
        return str(self.take(name, str, "a text", default))

    def number(self, name: str, low: float, high: float, default: Any = None) -> Any:
        right = f"a number from {low:g} to {high:g}"
        value = self.take(name, (int, float), right, default)
        if value is not None and not low <= value <= high:
            raise Refused(self.at(name), f"must be {right}, not {value:g}")
        return value

    def whole(self, name: str, low: int, high: int, default: Any = None) -> Any:
        value = self.number(name, low, high, default)
        if isinstance(value, float):
            raise Refused(self.at(name), f"must be a whole number from {low} to {high}, not {value:g}")
        return value

    def texts(self, name: str, default: Any = ...) -> tuple[str, ...]:
        value = self.take(name, (list, tuple), "a list of texts", default)
        if not all(isinstance(each, str) and "\0" not in each for each in value):
            raise Refused(self.at(name), "must be a list of texts; quote what YAML would read as something else")
        return tuple(value)

    def done(self) -> None:
        for name in self._left:
            raise Refused(self.at(str(name)), "is not known here")


def load(mapping: Any) -> dict[str, Template]:
    """Return the templates by name; raises Refused that names the field."""
    if not isinstance(mapping, Mapping) or not mapping:
        raise Refused("templates", "must be a mapping of at least one template by its name")
    return {name: _template(name, each) for name, each in mapping.items()}


def _template(name: Any, mapping: Any) -> Template:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Refused(f"templates.{name}", "a template's name must be lower-case letters, digits, - and _")
    reader = _Reader(f"templates.{name}", mapping)
    parameters = _parameters(reader)
    template = Template(
        name=name,
        title=reader.text("title", name),
        argv=reader.texts("argv"),
        description=reader.text("description", ""),
        env=_environment(reader),
        parameters=parameters,
        price=reader.whole("price", 0, MOST_PRICE, 1),
        timeout=reader.number("timeout", 0.1, 2592000),
        idle_timeout=reader.number("idle_timeout", 0, 2592000),
        term_grace=reader.number("term_grace", 0, 300),
        retries=reader.whole("retries", 0, 100),
        limits=_limits(reader),
        needs_numbers=reader.take("needs_numbers", bool, "true or false", False),
        release=_release(reader),
        executor=reader.text("executor", "local"),
        image=reader.text("image", ""),
        constraints=reader.texts("constraints", ()),
        cpus=reader.number("cpus", 0.01, 1024),
        memory=reader.whole("memory", 4, 1048576),
    )
    reader.done()
    _fits_together(reader, template)
    return template


def _fits_together(reader: _Reader, template: Template) -> None:
    if not template.argv or PLACE.fullmatch(template.argv[0]):
        raise Refused(reader.at("argv"), "must begin with the program, which is never a parameter")
    for element in (*template.argv, *template.env.values()):
        place = PLACE.fullmatch(element)
        if place and place[1] not in template.parameters:
            raise Refused(reader.at("argv"), f"{element} names no parameter of the template")
        if not place and any(found in template.parameters for found in PLACE.findall(element)):
            raise Refused(reader.at("argv"), f"{element!r}: a parameter must be the whole element, not a part of it")
    if template.needs_numbers != (template.release is not None):
        raise Refused(reader.at("release"), "must be given if, and only if, needs_numbers is true")
    if template.executor not in EXECUTORS:
        raise Refused(reader.at("executor"), f"must be one of {', '.join(EXECUTORS)}")
    if (template.executor == "swarm") != bool(template.image):
        raise Refused(reader.at("image"), "must be given if, and only if, the executor is swarm")


def _environment(reader: _Reader) -> dict[str, str]:
    env = reader.take("env", Mapping, "a mapping of names and texts", {})
    for name, value in env.items():
        if not isinstance(name, str) or not VARIABLE.fullmatch(name) or name.startswith(CONTRACT):
            raise Refused(reader.at(f"env.{name}"), f"must be named like a variable, and not {CONTRACT}...")
        if not isinstance(value, str) or "\0" in value:
            raise Refused(reader.at(f"env.{name}"), "must be a text; quote numbers")
    return dict(env)


def _limits(reader: _Reader) -> dict[str, int]:
    inner = _Reader(reader.at("limits"), reader.take("limits", Mapping, "a mapping of limits", {}))
    limits = {name: inner.whole(name, 0, 2592000) for name in LIMITS if inner.has(name)}
    inner.done()
    return limits


def _release(reader: _Reader) -> Release | None:
    mapping = reader.take("release", Mapping, "a mapping with argv or url", None)
    if mapping is None:
        return None
    inner = _Reader(reader.at("release"), mapping)
    release = Release(inner.texts("argv", ()), inner.text("url", ""))
    inner.done()
    if bool(release.argv) == bool(release.url):
        raise Refused(inner.where, "must have either argv or url")
    if release.url and not re.fullmatch(r"https?://[^\s/]+\S*", release.url):
        raise Refused(inner.at("url"), "must be an http:// or https:// address")
    for element in release.argv:
        if PLACE.search(element) and element != "{number}":
            raise Refused(inner.at("argv"), "may hold {number} as a whole element, and no other place")
    return release


def _parameters(reader: _Reader) -> dict[str, Parameter]:
    mapping = reader.take("parameters", Mapping, "a mapping of parameters", {})
    parameters = {}
    for name, each in mapping.items():
        if not isinstance(name, str) or not PLACE.fullmatch("{" + name + "}"):
            raise Refused(reader.at(f"parameters.{name}"), "must be named by lower-case letters, digits and _")
        parameters[name] = _parameter(_Reader(reader.at(f"parameters.{name}"), each))
    return parameters


def _parameter(reader: _Reader) -> Parameter:
    kind = reader.text("type")
    if kind not in _CHECKS:
        raise Refused(reader.at("type"), f"must be one of {', '.join(_CHECKS)}")
    numeric = kind in {"integer", "number"}
    parameter = Parameter(
        type=kind,
        default=reader.take("default", (str, int, float, bool), "a plain value", None)
        if kind != "boolean"
        else reader.take("default", bool, "true or false", None),
        minimum=reader.number("minimum", -(2**53), 2**53, ...) if numeric else None,
        maximum=reader.number("maximum", -(2**53), 2**53, ...) if numeric else None,
        max_length=reader.whole("max_length", 1, 4096, 256) if kind == "string" else 256,
        pattern=reader.text("pattern", PLAIN_TEXT) if kind == "string" else PLAIN_TEXT,
        choices=reader.texts("choices") if kind == "choice" else (),
        help=reader.text("help", ""),
    )
    reader.done()
    try:
        re.compile(parameter.pattern)
    except re.error as error:
        raise Refused(reader.at("pattern"), f"is no regular expression: {error}") from error
    if parameter.default is not None:
        parameter.checked(reader.at("default"), parameter.default)
    return parameter

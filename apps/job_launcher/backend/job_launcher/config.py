# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration: one YAML file, checked whole before anything starts. Secrets come from files only."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from job_launcher.refused import Refused
from job_launcher.templates import Template
from job_launcher.templates import load as load_templates
from job_launcher.tunables import Tunables
from job_launcher.tunables import load as load_tunables
from job_launcher.validation import faults

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NAME_PATTERN = r"^[a-z][a-z0-9._-]{0,31}$"
ROLES = ("viewer", "operator", "admin")
PASSWORD_LENGTH = (10, 256)  # characters
MAX_CREDIT = 1_000_000_000

_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["data_dir"],
    "properties": {
        "data_dir": {"type": "string", "minLength": 1},
        "listen": {"type": "string", "pattern": r"^(\[[0-9a-fA-F:]+\]|[0-9a-zA-Z.-]+):[0-9]{1,5}$"},
        "public_url": {"type": "string", "pattern": r"^https?://[^/?#\s]+/?$"},
        "secrets_dir": {"type": "string", "minLength": 1},
        "static_dir": {"type": "string", "minLength": 1},
        "engine_socket": {"type": "string", "minLength": 1},
        "trusted_proxies": {"type": "array", "items": {"type": "string"}, "maxItems": 64},
        "tunables": {"type": "object"},
        "templates": {},
        "users": {
            "type": "array",
            "maxItems": 1000,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "role", "password_file"],
                "properties": {
                    "name": {"type": "string", "pattern": NAME_PATTERN},
                    "role": {"type": "string", "enum": list(ROLES)},
                    "balance": {"type": "integer", "minimum": 0, "maximum": MAX_CREDIT},
                    "password_file": {"type": "string", "minLength": 1},
                },
            },
        },
    },
}


@dataclass(frozen=True)
class ConfiguredUser:
    """A user whom the start makes if there is none of that name; `balance` is given once, with the making."""

    name: str
    role: str
    balance: int
    password_file: Path


@dataclass(frozen=True)
class Config:
    """What the file says, with defaults filled in and every part checked."""

    data_dir: Path
    tunables: Tunables
    templates: Mapping[str, Template]
    host: str = "127.0.0.1"
    port: int = 8080
    public_url: str | None = None
    static_dir: Path = Path(__file__).parent / "static"
    engine_socket: Path = Path("/run/job-launcher/engine.sock")
    trusted_proxies: tuple[Network, ...] = ()
    users: tuple[ConfiguredUser, ...] = ()

    @property
    def secure_cookies(self) -> bool:
        """Whether cookies may travel over TLS only: always, but where the public address is plain HTTP."""
        return not (self.public_url or "").startswith("http://")


def read(path: Path) -> Config:
    """The configuration in the file `path`. Refused if it can't be read or a field is wrong."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Refused("", f"can't read the configuration {path}: {error}") from error
    except yaml.YAMLError as error:
        raise Refused("", f"{path} is not YAML: {error}") from error
    return parse(document, base=path.parent)


def parse(document: object, base: Path) -> Config:
    """The configuration in a parsed document; relative paths are taken from `base`."""
    for fault in faults(_SCHEMA, document):
        raise Refused(fault.field, fault.message)
    assert isinstance(document, dict)  # noqa: S101 - the schema says so; this tells mypy
    secrets = base / document.get("secrets_dir", "/run/secrets")
    host, port = _address(document.get("listen", "127.0.0.1:8080"))
    return Config(
        data_dir=base / document["data_dir"],
        tunables=load_tunables(document.get("tunables", {})),
        templates=load_templates(document.get("templates", {})),
        host=host,
        port=port,
        public_url=_origin(document.get("public_url")),
        static_dir=base / document["static_dir"] if "static_dir" in document else Config.static_dir,
        engine_socket=base / document.get("engine_socket", Config.engine_socket),
        trusted_proxies=_networks(document.get("trusted_proxies", [])),
        users=_users(document.get("users", []), secrets),
    )


def read_password(path: Path, field: str = "password_file") -> str:
    """The password in a file, without its last newline. Refused names `field`, never the content."""
    low, high = PASSWORD_LENGTH
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(field, f"can't read {path}: {type(error).__name__}") from error
    password = text.removesuffix("\n").removesuffix("\r")
    if not low <= len(password) <= high:
        raise Refused(field, f"{path} must hold a password of {low} to {high} characters")
    return password


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if int(port) > 65535:
        raise Refused("listen", "the port must be at most 65535")
    return host.strip("[]"), int(port)


def _origin(url: str | None) -> str | None:
    """`url` as browsers write an origin: small letters, no path, no default port."""
    if url is None:
        return None
    try:
        parts = urlsplit(url.lower())
        port = parts.port
    except ValueError as error:
        raise Refused("public_url", f"is not an address: {error}") from error
    if parts.username is not None or not parts.hostname:
        raise Refused("public_url", "must be scheme, host and port only, as https://launcher.example.com")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + ("" if port in (None, default) else f":{port}")


def _networks(texts: list[str]) -> tuple[Network, ...]:
    networks = []
    for number, text in enumerate(texts):
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise Refused(f"trusted_proxies[{number}]", f"must be an address or network: {error}") from error
    return tuple(networks)


def _users(entries: list[Mapping[str, Any]], secrets: Path) -> tuple[ConfiguredUser, ...]:
    """The users of the file; two of one name are refused."""
    seen: set[str] = set()
    users = []
    for number, entry in enumerate(entries):
        if entry["name"] in seen:
            raise Refused(f"users[{number}].name", f"{entry['name']} is there twice")
        seen.add(entry["name"])
        path = secrets / entry["password_file"]
        read_password(path, f"users[{number}].password_file")
        users.append(ConfiguredUser(entry["name"], entry["role"], int(entry.get("balance", 0)), path))
    return tuple(users)

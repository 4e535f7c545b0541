# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from job_launcher import config
from job_launcher.refused import Refused

TEMPLATES = {"sleep": {"argv": ["/bin/sleep", "0"]}}
LONG_ENOUGH = "a long enough one"


def document(**changes: Any) -> dict[str, Any]:
    return {"data_dir": "data", "templates": TEMPLATES, **changes}


def user(**changes: Any) -> dict[str, Any]:
    return {"name": "ada", "role": "admin", "password_file": "ada", **changes}


def test_defaults_and_relative_paths(tmp_path: Path) -> None:
    found = config.parse(document(), tmp_path)
    assert found.data_dir == tmp_path / "data"
    assert (found.host, found.port) == ("127.0.0.1", 8080)
    assert found.secure_cookies
    assert set(found.templates) == {"sleep"}


@pytest.mark.parametrize(
    ("url", "origin", "secure"),
    [
        ("https://Launcher.Example.com/", "https://launcher.example.com", True),
        ("https://launcher.example.com:443", "https://launcher.example.com", True),
        ("https://launcher.example.com:8443", "https://launcher.example.com:8443", True),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080", False),
    ],
)
def test_the_public_url_is_an_origin(tmp_path: Path, url: str, origin: str, secure: bool) -> None:
    found = config.parse(document(public_url=url), tmp_path)
    assert (found.public_url, found.secure_cookies) == (origin, secure)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"data_dir": None}, "data_dir"),
        ({"colour": "red"}, "colour"),
        ({"listen": "8080"}, "listen"),
        ({"listen": "127.0.0.1:70000"}, "listen"),
        ({"public_url": "launcher.example.com"}, "public_url"),
        ({"public_url": "https://a/b"}, "public_url"),
        ({"public_url": "https://me:secret@a"}, "public_url"),
        ({"trusted_proxies": ["10.0.0.0/8", "10.0.0.1/8"]}, "trusted_proxies[1]"),
        ({"tunables": {"max_parallel": 0}}, "tunables.max_parallel"),
        ({"tunables": {"max_paralel": 1}}, "tunables.max_paralel"),
        ({"templates": {}}, "templates"),
        ({"users": [user(**{"password": "here"})]}, "users[0].password"),
        ({"users": [user(role="root")]}, "users[0].role"),
        ({"users": [user(balance=-1)]}, "users[0].balance"),
        ({"users": [user(balance=True)]}, "users[0].balance"),
        ({"users": [user(name="Ada")]}, "users[0].name"),
        ({"users": [user(**{"password_file": "missing"})]}, "users[0].password_file"),
        ({"users": [user(**{"password_file": "short"})]}, "users[0].password_file"),
        ({"users": [user(), user()]}, "users[1].name"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    (tmp_path / "ada").write_text(LONG_ENOUGH + "\n")
    (tmp_path / "short").write_text("short")
    with pytest.raises(Refused) as refused:
        config.parse(document(secrets_dir=".", **changes), tmp_path)
    assert refused.value.field == field
    assert LONG_ENOUGH not in str(refused.value)


def test_a_file_that_is_no_yaml_or_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    for text in ("{", "- a", "", "\x00"):
        path.write_text(text)
        with pytest.raises(Refused):
            config.read(path)
    with pytest.raises(Refused):
        config.read(tmp_path / "none.yml")

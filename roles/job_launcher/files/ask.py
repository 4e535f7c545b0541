# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Log in to the launcher from inside its container, print its tunables and whether it serves its page, as JSON.

Arguments: a user's name, whose password is a secret of the container, and the port. Standard library only.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

TIMEOUT = 15


def ask(address: str, name: str) -> dict[str, Any]:
    """Return the tunables that the launcher serves, and whether it serves a page."""
    password = Path(f"/run/secrets/password-{name}").read_text(encoding="utf-8").rstrip("\r\n")
    login = _request(f"{address}/api/login", {"name": name, "password": password})
    with urllib.request.urlopen(login, timeout=TIMEOUT) as answer:  # noqa: S310 - the address is this container's
        cookie = str(answer.headers["Set-Cookie"]).partition(";")[0]
        token = json.load(answer)["csrf_token"]
    with urllib.request.urlopen(_request(f"{address}/api/config", None, cookie), timeout=TIMEOUT) as answer:  # noqa: S310
        config = json.load(answer)
    with urllib.request.urlopen(f"{address}/", timeout=TIMEOUT) as answer:  # noqa: S310
        page = answer.headers.get_content_type() == "text/html" and b"<script" in answer.read()
    out = _request(f"{address}/api/logout", {}, cookie)
    out.add_header("X-CSRF-Token", token)
    urllib.request.urlopen(out, timeout=TIMEOUT).close()  # noqa: S310
    return {"tunables": config["tunables"], "effective": config["effective_max_parallel_limit"], "page": page}


def _request(url: str, body: dict[str, str] | None, cookie: str = "") -> urllib.request.Request:
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.Request(url, data, {"Content-Type": "application/json", "Cookie": cookie})  # noqa: S310


def main() -> str | None:
    """Print the answer; return what is wrong, if anything."""
    name, port = sys.argv[1:]
    try:
        print(json.dumps(ask(f"http://127.0.0.1:{port}", name)))
    except urllib.error.HTTPError as error:
        hint = f": the password of {name} is not the inventory's any more" if error.code == 401 else ""
        return f"{error.url} answered {error.code}{hint}"
    return None


if __name__ == "__main__":
    sys.exit(main())

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The API for the command line: a token, no cookies, no dependencies."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from job_launcher.refused import Refused

TIMEOUT = 30.0  # seconds


@dataclass(frozen=True)
class Client:
    """Speaks to one server for the holder of one token."""

    url: str
    token: str

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """The JSON at `path`; Refused with what the server says against it."""
        return json.loads(self._open("GET", path, query)[0])

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Any:
        """Send JSON; the JSON of the answer, None where it is empty."""
        data, _ = self._open("POST", path, None, json.dumps(body).encode(), headers)
        return json.loads(data) if data else None

    def log(self, run_id: str, start: int, limit: int) -> tuple[bytes, int, int]:
        """A piece of a log: (bytes, the next offset, the size)."""
        data, headers = self._open("GET", f"/api/runs/{run_id}/log", {"from": start, "limit": limit})
        return data, int(headers["X-Log-Next"]), int(headers["X-Log-Size"])

    def pages(self, path: str) -> Iterator[Any]:
        """Every item of a list, page by page."""
        query: dict[str, Any] = {"limit": 500}
        while True:
            page = self.get(path, query)
            yield from page["items"]
            if page["next"] is None:
                return
            query["before"] = page["next"]

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[bytes, Mapping[str, str]]:
        url = self.url.rstrip("/") + path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        if not url.startswith(("http://", "https://")):
            raise Refused("--url", "must begin with http:// or https://")
        sent = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(url, body, sent, method=method)  # noqa: S310 - the scheme is checked above
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310 - as above
                return answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except urllib.error.URLError as error:
            raise Refused("--url", f"{self.url} does not answer: {error.reason}") from error


def _refusal(error: urllib.error.HTTPError) -> Refused:
    """What the server's problem says."""
    try:
        problem = json.loads(error.read())
        return Refused("", f"{problem['title']}: {problem['detail']}", error.code)
    except (ValueError, KeyError, TypeError):
        return Refused("", f"{error.code} {error.reason}", error.code)

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The built bundle. Files are found in a table made at start: no path of a request ever reaches the disk."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from job_launcher.web.problems import Problem

INDEX = "index.html"
ONE_YEAR = "public, max-age=31536000, immutable"
_TYPES = {".js": "text/javascript", ".map": "application/json", ".woff2": "font/woff2", ".webmanifest":
          "application/manifest+json", ".svg": "image/svg+xml"}  # fmt: skip


@dataclass(frozen=True)
class File:
    """One file of the bundle; `packed` is its gzip beside it."""

    path: Path
    content_type: str
    etag: str
    packed: Path | None
    cache: str


def table(root: Path) -> Mapping[str, File]:
    """All files below `root` by their path in the address, without the leading slash; none if there is no bundle."""
    files: dict[str, File] = {}
    for path in sorted(root.rglob("*")):
        if not path.is_file() or path.is_symlink() or path.suffix == ".gz":
            continue
        name = path.relative_to(root).as_posix()
        packed = path.with_name(path.name + ".gz")
        kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        etag = f'"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"'
        # The bundler puts a hash into the names of what lies in assets/.
        cache = ONE_YEAR if name.startswith("assets/") else "no-cache"
        files[name] = File(path, kind, etag, packed if packed.is_file() else None, cache)
    return files


def serve(files: Mapping[str, File], request: web.Request) -> web.StreamResponse:
    """The file of this address; the page itself for addresses that only the page knows."""
    name = request.path.lstrip("/") or INDEX
    found = files.get(name)
    if found is None and "." not in name.rpartition("/")[2]:
        found = files.get(INDEX)
    if found is None:
        raise Problem(404, "There is no such page." if files else "The web pages are not installed.")
    headers = {"ETag": found.etag, "Cache-Control": found.cache, "Vary": "Accept-Encoding"}
    if found.etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    packed = found.packed if "gzip" in request.headers.get("Accept-Encoding", "") else None
    if packed:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=(packed or found.path).read_bytes(), content_type=found.content_type, headers=headers)

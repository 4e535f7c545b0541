# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image's health check. It runs every few seconds for ever, so it loads next to nothing: no asyncio, no TLS."""

from __future__ import annotations

import os
import socket
from argparse import Namespace
from pathlib import Path

from job_launcher import config
from job_launcher.refused import Refused

CONFIG = "/etc/job-launcher/config.yml"
TIMEOUT = 5.0  # seconds


def config_path(arguments: Namespace) -> str | None:
    """The configuration that is named, by option or environment."""
    return arguments.config or os.environ.get("JOB_LAUNCHER_CONFIG")


def healthcheck(arguments: Namespace) -> bool:
    """Ask the server on this machine how it is."""
    chosen = config.read(Path(config_path(arguments) or CONFIG))
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(chosen.host, chosen.host)  # noqa: S104 - what is asked for
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((host, chosen.port), TIMEOUT) as connection:
            connection.sendall(request)
            status = connection.recv(64).split()[1:2]
    except OSError as error:
        raise Refused("", f"{host}:{chosen.port} does not answer: {error}", 503) from error
    if status != [b"200"]:
        raise Refused("", f"/healthz answers {b' '.join(status).decode(errors='replace') or 'nothing'}", 503)
    return True

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a request carries from one part of the web layer to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from job_launcher.web.channel import Channel
    from job_launcher.web.routes import Principal

REQUEST_ID = web.RequestKey("request_id", str)
ADDRESS = web.RequestKey("address", str)
PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal")
CHANNEL: web.RequestKey[Channel] = web.RequestKey("channel")
# Headers are out: an error can no longer become a problem.
PREPARED = web.RequestKey("prepared", bool)

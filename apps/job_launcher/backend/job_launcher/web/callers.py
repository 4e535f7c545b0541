# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a request comes from: the caller's address behind trusted proxies, and the origin of the page that sent it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from job_launcher.config import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def caller_address(peer: str, forwarded: str | None, trusted: Sequence[Network]) -> str:
    """The caller's address: the peer's, or, as long as that is a trusted proxy, the one it says it speaks for.

    `forwarded` is X-Forwarded-For; it is read from the right, and nothing to the left of the first address
    that isn't trusted counts: anyone can write it.
    """
    current = peer
    for hop in reversed((forwarded or "").split(",")):
        address = _parsed(current)
        if address is None or not any(address in network for network in trusted):
            break
        if _parsed(hop.strip()) is None:
            break
        current = hop.strip()
    return current


def limit_key(address: str) -> str:
    """What brute force is counted by: an IPv4 address, or the /64 that one IPv6 customer has."""
    parsed = _parsed(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed or address)


def origin_allowed(origin: str | None, fetch_site: str | None, host: str | None, public_url: str | None) -> bool:
    """Whether a page of `origin` may speak for its user. Programs send no Origin; browsers can't leave it out.

    With a public address over TLS only that origin counts; otherwise (a machine of one's own, known under
    several names) that of the host that was asked for.
    """
    if fetch_site == "cross-site":
        return False
    if origin is None:
        return True
    if public_url is not None and public_url.startswith("https://"):
        return origin.lower() == public_url
    return host is not None and origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address

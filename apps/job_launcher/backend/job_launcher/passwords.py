# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passwords and secrets: scrypt with a salt for each user, random secrets kept as hashes only."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

# 16 MiB and five rounds: as hard to guess as 2^17 with one, at an eighth of the memory.
_N, _R, _P = 2**14, 8, 5
_MEMORY = 64 * 1024 * 1024


def hashed(password: str) -> str:
    """`password` as `scrypt$n$r$p$salt$key` with a new salt. About 0.2 s of CPU: call it in a thread."""
    salt = secrets.token_bytes(16)
    return f"scrypt${_N}${_R}${_P}${_text(salt)}${_text(_key(password, salt, _N, _R, _P))}"


def matches(password: str, stored: str) -> bool:
    """Whether `password` is the one `stored` was made of, in constant time. As slow as `hashed`."""
    _, n, r, p, salt, key = stored.split("$")
    found = _key(password, base64.b64decode(salt), int(n), int(r), int(p))
    return hmac.compare_digest(found, base64.b64decode(key))


def nobody() -> str:
    """A hash that no password matches, for names that nobody has: the time of the answer doesn't tell them apart."""
    return f"scrypt${_N}${_R}${_P}${_text(secrets.token_bytes(16))}${_text(secrets.token_bytes(64))}"


def new_secret() -> str:
    """256 random bits as text for cookies and addresses."""
    return secrets.token_urlsafe(32)


def fingerprint(secret: str) -> str:
    """What the database keeps of a random secret: nobody finds the secret from it."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def csrf_token(session_secret: str) -> str:
    """The token that only pages of the session's owner can know, derived so that none need be kept."""
    return _text(hmac.digest(session_secret.encode("utf-8", "surrogateescape"), b"csrf", "sha256"))


def _key(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, n=n, r=r, p=p, maxmem=_MEMORY)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")

# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A SCRAM-SHA-256 verifier (RFC 5803) as PostgreSQL stores it, so that no password ever stands in SQL."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

#: What PostgreSQL itself uses.
ITERATIONS = 4096
_SALT_BYTES = 16


def verifier(password: str, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """Return what stands in pg_authid.rolpassword for a password of ASCII letters and digits."""
    salted_with = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salted_with, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${iterations}:{_text(salted_with)}${_text(stored_key)}:{_text(server_key)}"


def fingerprint(of_verifier: str) -> str:
    """Return eight characters that tell one verifier from another, fit for a name and of no use to anybody else."""
    return hashlib.sha256(of_verifier.encode()).hexdigest()[:8]


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()

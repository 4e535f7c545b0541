# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error that a caller can do something about."""

from __future__ import annotations


class Refused(Exception):  # noqa: N818 # it is an answer, not a fault
    """Something a caller got wrong: the field, what would be right, and the HTTP status that says so.

    Statuses: 400 a bad value, 402 the balance doesn't cover it, 404 not there (or another owner's), 409 against what
    is there already, 503 not now.
    """

    def __init__(self, field: str, message: str, status: int = 400) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message
        self.status = status

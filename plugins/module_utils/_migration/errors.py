# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a move says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

#: Codes of a host to which there is no way: before the first prepare, or because it is down.
UNREACHABLE = ("no_link", "host_unreachable")


def if_reachable(ask: Callable[[], T]) -> T | None:
    """Return what a look at a host came to, None if there is no way to that host (yet)."""
    try:
        return ask()
    except MoveError as error:
        if error.code not in UNREACHABLE:
            raise
        return None


class MoveError(Exception):
    """A failure with a code to act on, one sentence for people (what is wrong, what would be right), and details.

    `field`: the inventory's field that is wrong, where one is.
    """

    def __init__(self, code: str, message: str, *, field: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.details = details

    def as_dict(self) -> dict[str, Any]:
        """Return the shape that the module returns."""
        named = {} if self.field is None else {"field": self.field}
        return {"code": self.code, "message": self.message, **named, "details": self.details}

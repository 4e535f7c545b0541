# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of text for a terminal, and the sentences below them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# For running text only: tables are as wide as what is in them.
_TEXT_WIDTH = 120


class Column(NamedTuple):
    """A column: its title, and whether its cells go to the right."""

    title: str
    right: bool = True


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Write rows of cells under their titles, each column as wide as its widest cell; no trailing blanks."""
    lines = [[column.title for column in columns], *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )


def running_text(remarks: Iterable[str], indent: str = "") -> list[str]:
    """Break each remark into lines, those after its first one indented."""
    return [
        line
        for remark in remarks
        for line in textwrap.wrap(remark, _TEXT_WIDTH, subsequent_indent=indent, break_on_hyphens=False)
    ]

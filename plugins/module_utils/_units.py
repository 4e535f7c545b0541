# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Units as people write them, and as Docker keeps them: nano-CPUs and bytes, both integers."""

from __future__ import annotations

import re
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal
from typing import Any

NANO = 10**9
MIB = 2**20
UNLIMITED = "unlimited"
# Docker's JSON has no null for a resource: absent and 0 both mean "no limit".
NO_LIMIT = 0

# The engine (20.10 and 26.1 alike) rejects tasks outside these; Swarm's own bounds (4 MiB, 0.001 CPU) are laxer
# and the only ones that hold for reservations, which never reach the engine.
MIN_LIMIT_NANO_CPUS = 10_000_000
MIN_LIMIT_MEMORY = 6 * MIB
MIN_RESERVATION_NANO_CPUS = 1_000_000
MIN_RESERVATION_MEMORY = 4 * MIB

_INT64_MAX = 2**63 - 1
_DECIMAL = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)", re.ASCII)
_SIZE = re.compile(rf"({_DECIMAL.pattern})\s*(?:([kmgtp])(?:i?b)?|b)?", re.ASCII | re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_REMOVE_HINT = f"write `{UNLIMITED}` to remove the limit, or leave the key out to leave it alone"


class UnitError(ValueError):
    """A value that is no quantity of its kind; the message says what would be right."""


def _text(value: Any) -> str:
    """Return a scalar as plain text, floats without an exponent; raise UnitError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        kind = "null" if value is None else type(value).__name__
        raise UnitError(f"{value!r} is a {kind}, not a quantity")
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    return str(value).strip()


def _is_unlimited(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() == UNLIMITED


def _bounded(number: Decimal, text: str, rounding: str = ROUND_HALF_EVEN) -> int:
    """Round to an integer that fits Docker's int64."""
    if number > _INT64_MAX:
        raise UnitError(f"{shorten(text)} is more than Docker can hold")
    return int(number.to_integral_value(rounding))


def shorten(text: str) -> str:
    """Keep a quoted value readable in an error message."""
    return f"'{text}'" if len(text) <= 40 else f"'{text[:37]}...'"


def parse_cpus(value: Any, minimum: int = MIN_LIMIT_NANO_CPUS) -> int:
    """Read a number of cores (`0.5`, `"0.5"`, `2`) or `unlimited`.

    Returns nano-CPUs, rounded to the nearest; NO_LIMIT for `unlimited`.
    Raises UnitError for anything else, zero and values under `minimum` (nano-CPUs) included.
    """
    if _is_unlimited(value):
        return NO_LIMIT
    text = _text(value)
    if not _DECIMAL.fullmatch(text):
        raise UnitError(f"{shorten(text)} is not a number of CPUs: write a plain decimal such as 0.5 or 2")
    cores = Decimal(text)
    if cores == 0:
        raise UnitError(f"0 CPUs is not a limit: {_REMOVE_HINT}")
    nano = _bounded(cores * NANO, text)
    if nano < minimum:
        raise UnitError(f"{shorten(text)} is below Docker's minimum of {format_cpus(minimum)} CPUs")
    return nano


def parse_memory(value: Any, minimum: int = MIN_LIMIT_MEMORY) -> int:
    """Read an amount of memory (`512M`, `1.5GiB`, `"536870912"` bytes) or `unlimited`.

    Units are binary (M = MB = MiB = 2**20), and a fraction of a byte is dropped, both as in Docker's own CLI.
    Returns bytes; NO_LIMIT for `unlimited`.
    Raises UnitError for anything else, zero and values under `minimum` (bytes) included.
    """
    if _is_unlimited(value):
        return NO_LIMIT
    text = _text(value)
    match = _SIZE.fullmatch(text)
    if not match:
        raise UnitError(f"{shorten(text)} is not an amount of memory: write a number with K, M or G, such as 512M")
    number, unit = Decimal(match.group(1)), (match.group(2) or "").lower()
    if number == 0:
        raise UnitError(f"0 is not an amount of memory: {_REMOVE_HINT}")
    size = _bounded(number * 1024 ** _POWERS[unit], text, ROUND_DOWN)
    if size < minimum:
        hint = f"; did you mean {text}M?" if not unit and _DECIMAL.fullmatch(text) else ""
        raise UnitError(f"{shorten(text)} is below Docker's minimum of {format_memory(minimum)}{hint}")
    return size


def parse_count(value: Any, what: str, minimum: int) -> int:
    """Read a whole number >= `minimum`; `what` names it in the UnitError."""
    text = _text(value)
    if not re.fullmatch(r"[0-9]+", text, re.ASCII):
        raise UnitError(f"{shorten(text)} is not a number of {what}: write a whole number, {minimum} or more")
    # Checked as a decimal first: int() refuses very long digit strings with an error of its own.
    count = _bounded(Decimal(text), text)
    if count < minimum:
        raise UnitError(f"{count} {what} is too few: write {minimum} or more")
    return count


def parse_pids(value: Any) -> int:
    """Read a limit of processes and threads, or `unlimited` (NO_LIMIT)."""
    if _is_unlimited(value):
        return NO_LIMIT
    if _text(value) == "0":
        raise UnitError(f"0 pids is not a limit: {_REMOVE_HINT}")
    return parse_count(value, "pids", 1)


def parse_replicas(value: Any) -> int:
    """Read a number of replicas; zero stops the service."""
    return parse_count(value, "replicas", 0)


def format_cpus(nano_cpus: int) -> str:
    """Write nano-CPUs as the shortest decimal number of cores that reads back the same."""
    return f"{Decimal(nano_cpus) / NANO:f}"


def format_memory(size: int) -> str:
    """Write bytes with the largest binary unit that divides them, so that it reads back the same."""
    for unit in "PTGMK":
        factor = int(1024 ** _POWERS[unit.lower()])
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)

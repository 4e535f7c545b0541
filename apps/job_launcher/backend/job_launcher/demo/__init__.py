# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The harmless demo templates: they sleep and print, and lease numbers that nobody else knows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

WORK = Path(__file__).with_name("work.py")


def templates() -> dict[str, Any]:
    """Return the demo templates as the configuration file would hold them."""
    command = [sys.executable, "-I", "-S", str(WORK)]
    parameters = {
        "lines": {"type": "integer", "minimum": 0, "maximum": 1000000, "default": 40, "help": "Lines to print."},
        "pause": {"type": "integer", "minimum": 0, "maximum": 60000, "default": 250, "help": "Between lines, ms."},
        "ending": {
            "type": "choice",
            "choices": ["succeed", "fail", "mixed", "crash"],
            "default": "succeed",
            "help": "How a unit ends; mixed: every third fails.",
        },
    }
    arguments = ["{lines}", "{pause}", "{ending}"]
    return {
        "demo": {
            "title": "Demo: sleep and print",
            "description": "Prints coloured lines with pauses between them. Harmless.",
            "argv": [*command, "print", *arguments],
            "parameters": parameters,
            "price": 1,
        },
        "demo-numbers": {
            "title": "Demo: with a leased number",
            "description": "As the demo, with a made-up number that is released after its hold.",
            "argv": [*command, "lease", *arguments],
            "parameters": parameters,
            "price": 2,
            "needs_numbers": True,
            "release": {"argv": [*command, "release", "{number}"]},
        },
    }

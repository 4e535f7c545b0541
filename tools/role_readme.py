#!/usr/bin/env python3
# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write each role's table of variables into its README, from meta/argument_specs.yml. A test runs it as a check."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

START, END = "<!-- variables: written by tools/role_readme.py -->", "<!-- end of variables -->"
_MARKUP = re.compile(r"\b[CVO]\(([^)]*)\)")


def updated(readme: str, specs: Mapping[str, Any]) -> str:
    """Return a README with the part between the markers renewed; raise ValueError where a marker is missing."""
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"a README needs the lines {START} and {END}")
    rows = "\n".join(_rows(specs["argument_specs"]["main"]["options"], ""))
    table = f"| Variable | Type | Default | What it is |\n| --- | --- | --- | --- |\n{rows}"
    return f"{before}{START}\n{table}\n{END}{after}"


def _rows(options: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, option in options.items():
        description = option["description"]
        text = description if isinstance(description, str) else " ".join(description)
        if "choices" in option:
            text += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
        kind = option["type"] + (f" of {option['elements']}" if "elements" in option else "")
        text = _MARKUP.sub(r"`\1`", text)
        yield f"| `{prefix}{name}` | {kind} | {_default(option)} | {text} |"
        yield from _rows(option.get("options", {}), f"{prefix}{name}.")


def _default(option: Mapping[str, Any]) -> str:
    if "default" not in option:
        return ""
    value = option["default"]
    shown = value if isinstance(value, str) and value else json.dumps(value)
    return "`" + shown.replace("|", "\\|") + "`"


def main() -> None:
    """Renew every role's README."""
    for specs in sorted((Path(__file__).resolve().parents[1] / "roles").glob("*/meta/argument_specs.yml")):
        readme = specs.parents[1] / "README.md"
        readme.write_text(updated(readme.read_text(), yaml.safe_load(specs.read_text())))


if __name__ == "__main__":
    main()

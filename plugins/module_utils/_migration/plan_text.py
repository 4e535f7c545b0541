# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan for people, in the order in which they ask: may it, what moves, does it fit, what would hurt, what happens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._text_table import Column, running_text, table
from ansible_collections.evenkeel.swarm.plugins.module_utils._words import MISSING, NOT_MEASURED, plain, size

Plan = Mapping[str, Any]


def plan_text(plan: Plan) -> list[str]:
    """Return the lines of a plan as build_plan made it."""
    if plan["empty"]:
        return [
            f"{plan['unit']}: nothing to do, the move from {plan['source']} to {plan['target']} is {plan['phase']}."
        ]
    refusing = [trap for trap in plan["traps"] if trap["refuses"]]
    lines = [f"{plan['unit']}: {plan['source']} -> {plan['target']}, {plan['phase']}, plan {plan['hash']}"]
    if refusing:
        lines += ["", f"REFUSED until {'this is' if len(refusing) == 1 else 'these are'} mended:"]
        lines += _bullets(refusing)
    for title, block in (
        ("What moves", _parts(plan)),
        (f"Room on {plan['target']}", _room(plan)),
        ("Time", _time(plan)),
        ("Networks and clients", _neighbours(plan)),
        ("Seen, and what is done about it", _bullets([trap for trap in plan["traps"] if not trap["refuses"]])),
        ("Steps", _steps(plan)),
        ("For Dokploy, so that a deploy keeps the pin", _dokploy(plan)),
    ):
        if block:
            lines += ["", title, *(f"  {line}" for line in block)]
    return lines


def _bullets(traps: Sequence[Mapping[str, Any]]) -> list[str]:
    return running_text(
        [f"- {trap['text']}. {trap['remedy'][:1].upper()}{trap['remedy'][1:]}." for trap in traps], "  "
    )


def _parts(plan: Plan) -> list[str]:
    columns = [Column("service", right=False), Column("kind", right=False), Column("size")]
    columns += [Column("volumes", right=False), Column("image there", right=False), Column("ready", right=False)]
    rows = []
    for part in plan["parts"]:
        name = part["service"] if part["kind"] != "files" else f"files of {', '.join(part['users'])}"
        volumes = ", ".join(f"{volume} at {path}" for volume, path in part["volumes"].items()) or MISSING
        ready = part["ready"]["text"] if part["ready"] is not None else MISSING
        rows.append([name, _kind(part), size(part["bytes"]), volumes, _image(part), ready])
    return table(columns, rows).splitlines()


def _kind(part: Mapping[str, Any]) -> str:
    return f"{part['kind']} ({part['mover']})" if part["mover"] else str(part["kind"])


def _image(part: Mapping[str, Any]) -> str:
    if part["image"] is None or part["image"]["on_target"] is None:
        return MISSING
    return "yes" if part["image"]["on_target"] else "will be brought"


def _room(plan: Plan) -> list[str]:
    before, after, disk = plan["target_before"], plan["target_after"], plan["disk"]
    columns = [Column("", right=False), Column("has"), Column("now"), Column("after")]
    rows = [
        ["CPU limits, cores", plain(before["cpus"]), plain(before["limits_cpus"]), plain(after["limits_cpus"])],
        [
            "CPU reserved, cores",
            plain(before["cpus"]),
            plain(before["reservations_cpus"]),
            plain(after["reservations_cpus"]),
        ],
        ["memory limits", size(before["memory"]), size(before["limits_memory"]), size(after["limits_memory"])],
        [
            "memory reserved",
            size(before["memory"]),
            size(before["reservations_memory"]),
            size(after["reservations_memory"]),
        ],
    ]
    lines = table(columns, rows).splitlines()
    for what, word in (("without_cpu_limit", "CPU"), ("without_memory_limit", "memory")):
        if after[what]:
            lines.append(
                f"{after[what]} of {after['tasks']} tasks after the move have no {word} limit: not in the sums."
            )
    lines.append(f"Memory available now: {_measured(size, before['memory_available'])}.")
    lines.append(
        f"Disk: {_measured(size, disk['needed'])} to copy, {size(disk['free'])} of {size(disk['total'])} free."
    )
    if after["limits_cpus"] > after["cpus"]:
        times = after["limits_cpus"] / after["cpus"]
        lines.append(f"CPU limits will be {times:.2f}x its cores: under full load services there slow each other down.")
    return lines


def _measured(write: Any, value: Any) -> str:
    return NOT_MEASURED if value is None else str(write(value))


def _time(plan: Plan) -> list[str]:
    lines = []
    for title, what in (("Outage of writes", plan["outage"]), ("Copying", plan["duration"])):
        seconds = NOT_MEASURED if what["seconds"] is None else f"about {what['seconds']:.1f} s"
        lines += running_text([f"{title}: {seconds} ({what['how']})."], "  ")
    return lines


def _neighbours(plan: Plan) -> list[str]:
    lines = [f"network {each['name']} ({each['driver']}): {', '.join(each['services'])}" for each in plan["networks"]]
    for service, clients in plan["clients"].items():
        if clients:
            lines += running_text([f"connected to {service} now: {', '.join(clients)}"], "  ")
    return lines


def _steps(plan: Plan) -> list[str]:
    lines = []
    for verb, steps in plan["steps"].items():
        lines.append(f"{verb}:")
        lines += [f"  {number:2d}. {step['title']} [{step['host']}]" for number, step in enumerate(steps, 1)]
    return lines


def _dokploy(plan: Plan) -> list[str]:
    lines = []
    for service, record in plan["dokploy"].items():
        lines.append(f"{service}:")
        lines += [
            f"  {key} = {value if isinstance(value, str) else json.dumps(value)}" for key, value in record.items()
        ]
    return lines

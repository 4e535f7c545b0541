# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same image on the target as on the source: by its digest from a registry, else carried over; never by tag alone.

A tag is no name for an image: it means other bytes on another node, or later. Swarm asks a registry for a tag at every
start, inside the outage. So after a move a service names its image by digest, or, where no registry knows the image, by
its id, for which the engine asks nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Host
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import containers
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.pour import pour
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Step, Tell

_PULL_SECONDS = 900
Inspected = Mapping[str, Any]


# --- pure --------------------------------------------------------------------------------------------------------


def has_digest(reference: str) -> bool:
    """Tell whether a reference says which bytes it means: name@sha256:… or an image's id."""
    return "@sha256:" in reference or is_id(reference)


def is_id(reference: str) -> bool:
    """Tell whether a reference is an image's id."""
    return reference.startswith("sha256:")


def repository(reference: str) -> str:
    """Return a reference without tag and digest; a registry's port is part of the name."""
    name = reference.partition("@")[0]
    return name[: -len(name.rpartition(":")[2]) - 1] if ":" in name.rpartition("/")[2] else name


def by_digest(reference: str, found: Inspected) -> str | None:
    """Return the reference with the digest that a registry gave the image, None if the image is from no registry."""
    names = (_short(repository(each)) for each in found.get("RepoDigests") or [])
    for name, each in zip(names, found.get("RepoDigests") or [], strict=True):
        if name == _short(repository(reference)):
            return f"{reference.partition('@')[0]}@{each.partition('@')[2]}"
    return None


def _short(name: str) -> str:
    return name.removeprefix("docker.io/").removeprefix("library/")


# --- with I/O ----------------------------------------------------------------------------------------------------


def inspect(host: Host, reference: str) -> Inspected | None:
    """Return what a host's engine knows of an image, None if it has none of that name."""
    found: Inspected | None = host.call(containers, "image", reference=reference)
    return found


def meant(move: Move, reference: str, service: str | None = None) -> Inspected:
    """Return the image that a reference means: what the service runs on the source, else what the source has."""
    image_id = None if service is None or has_digest(reference) else _running_id(move, reference, service)
    found = inspect(move.source.host, image_id or reference)
    if found is None:
        message = f"{move.source.name} has no image {reference}, so nobody can say which one would have to run"
        raise MoveError("image_missing", f"{message}: pull or build it there first")
    return found


def remember_running(move: Move, reference: str, service: str) -> None:
    """Write down which image a service runs: once it is stopped, a bare tag may mean another."""
    if not has_digest(reference):
        image_id = _running_id(move, reference, service)
        if image_id is not None:
            move.journal.write("image", service=service, reference=reference, image=image_id)


def _running_id(move: Move, reference: str, service: str) -> str | None:
    # Asked of the engine: of a service without the lease Swarm says that nothing runs, while it still stops.
    found = move.source.host.call(containers, "image_ids", service=service)
    if found:
        return str(found[0])
    stopped = move.journal.last("image", service=service, reference=reference)
    return None if stopped is None else str(stopped["image"])


def image_present(move: Move, place: Place, image: str, service: str | None = None) -> Step:
    """Bring the image of a reference to a place. `service`: whose running container says what a bare tag means."""
    return Step(
        id=f"{move.journal.verb}.{service or repository(image).replace('/', '-')}.image-{place.name}",
        title=f"have the image {image.partition('@')[0]} on {place.name}",
        host=place.name,
        probe=lambda: is_present(move, place, image, service),
        do=lambda tell: bring(move, place, image, service, tell),
        deadline=_PULL_SECONDS,
    )


def is_present(move: Move, place: Place, image: str, service: str | None = None) -> bool:
    """Tell whether a place has the very image that a reference means."""
    if has_digest(image) and inspect(place.host, image) is not None:
        return True
    return inspect(place.host, meant(move, image, service)["Id"]) is not None


def runnable(move: Move, place: Place, image: str, service: str) -> str:
    """Return the reference by which a place runs the image without asking a registry. Raises MoveError."""
    if has_digest(image) and inspect(place.host, image) is not None:
        return image
    wanted = meant(move, image, service)
    found = inspect(place.host, wanted["Id"])
    if found is None:
        raise MoveError("image_missing", f"{place.name} does not have the image of {service}: run prepare again")
    return by_digest(image, found) or str(found["Id"])


def bring(move: Move, place: Place, image: str, service: str | None, tell: Tell) -> None:
    """Have a place pull the image of a reference, or carry it there from the source."""
    wanted = meant(move, image, service)
    reference = image if "@" in image else by_digest(image, wanted)
    if reference is not None:
        tell(text=f"pull {reference} on {place.name}")
        pulled = place.host.run(["docker", "pull", "--quiet", reference], timeout=_PULL_SECONDS, check=False)
        if pulled.status == 0:
            return
    _carry(move.source.host, place.host, str(wanted["Id"]), int(wanted["Size"]), tell)


def _carry(source: Host, target: Host, image_id: str, size: int, tell: Tell) -> None:
    """Save an image on one host and load it on another, through this one, without a file in between."""
    tell(text=f"no registry gave it to {target.name}: carry it over from {source.name}", total=size)
    pour(
        source,
        ["docker", "save", image_id],
        target,
        ["docker", "load", "--quiet"],
        told=lambda moved: tell(bytes=moved, total=max(size, moved)),
    )

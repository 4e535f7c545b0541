# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services without state of their own: the image by digest, the files that they mount, and whether they are healthy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.bind_mounts import (
    copy_files,
    describe,
    file_traps,
    stale_files,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError, if_reachable
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.health import healthy
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.image import (
    image_present,
    inspect,
    is_present,
    meant,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Health
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import (
    Facts,
    Mover,
    Readiness,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.pin import bind_sources, image_of
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage


class AppMover(Mover):
    """Moves a stateless service: nothing of it is on a disk but its image and single files that it mounts."""

    def facts(self) -> Facts:
        """Look at the image on both nodes and at what the service mounts of the node's disk."""
        spec = self._spec()
        reference = image_of(spec)
        source = self._image_on_source(reference)
        on_target = None if source is None else if_reachable(lambda: self._on_target(str(source["Id"])))
        files = describe(self.move.source, bind_sources(spec))
        detail = {
            "image": reference,
            "image_id": None if source is None else source["Id"],
            "image_on_target": on_target,
            "files": {path: found.get("bytes") for path, found in files.items()},
        }
        return Facts(
            bytes=None if source is None else int(source["Size"]),
            outage=None,
            detail=detail,
            traps=file_traps(self.move, self.part.service),
        )

    def _on_target(self, image_id: str) -> bool:
        return inspect(self.move.target.host, image_id) is not None

    def prepare(self) -> Sequence[Stage]:
        """Bring the image and the mounted files to the target."""
        spec = self._spec()
        image = image_present(self.move, self.move.target, image_of(spec), self.part.service)
        return [image, *copy_files(self.move, self.part.service)]

    def precopy(self) -> Sequence[Stage]:
        """Bring what a redeploy has changed since: the same steps as in prepare."""
        return self.prepare()

    def readiness(self) -> Readiness:
        """Say whether the target has what the service needs to start there."""
        spec = self._spec()
        if not is_present(self.move, self.move.target, image_of(spec), self.part.service):
            return Readiness(False, f"the image of {self.part.service} is not on {self.move.target.name}")
        stale = stale_files(self.move, self.part.service)
        if stale:
            return Readiness(
                False, f"{', '.join(stale)} of {self.part.service} is not the same on {self.move.target.name}"
            )
        return Readiness(True, f"{self.part.service} can start on {self.move.target.name}")

    def verify(self) -> Sequence[Stage]:
        """Wait until it is healthy on the target."""
        health = self.part.member.health or Health()
        return [healthy(self.move, self.move.target, self.part.service, health)]

    def _spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.move.cluster.service(self.part.service)["Spec"]
        return spec

    def _image_on_source(self, reference: str) -> Mapping[str, Any] | None:
        try:
            return meant(self.move, reference, self.part.service)
        except MoveError as error:
            if error.code != "image_missing":
                raise
            return None

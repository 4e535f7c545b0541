# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of the engine is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Options, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.tools import Tools


@dataclass(frozen=True)
class Setting:
    """What a run is made of. `state`: directory of journals and lock on the manager."""

    unit: Unit
    cluster: Cluster
    places: Mapping[str, Place]
    options: Options
    state: Path
    docker_host: str
    tools: Tools = field(default_factory=Tools)

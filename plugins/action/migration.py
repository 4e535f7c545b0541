# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the module migration; with `progress: true` say what each step does while it is at it."""

from __future__ import annotations

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.text import MigrationProgress
from ansible_collections.evenkeel.swarm.plugins.plugin_utils._watched import WatchedAction


class ActionModule(WatchedAction):
    """Runs on the controller."""

    module = "evenkeel.swarm.migration"
    progress = MigrationProgress

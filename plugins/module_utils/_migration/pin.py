# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a pin to the lease is in a service's spec: edits from before to after, no I/O."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import Node, satisfies
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Unit

Spec = dict[str, Any]
_NANO = 10**9
# Swarm's, for a service that doesn't say.
_DEFAULT_STOP_GRACE = 10.0
#: While a unit moves: never two copies at once, and no old copy revived by Swarm itself.
SAFE_UPDATE = {"Order": "stop-first", "FailureAction": "pause"}


def constraint(unit: Unit) -> str:
    """Return the placement constraint that ties a service to the unit's lease."""
    return f"node.labels.{unit.lease}==1"


def is_pinned(spec: Mapping[str, Any], unit: Unit) -> bool:
    """Tell whether a service's spec has the unit's constraint; a redeploy takes it away."""
    return any(_is(each, unit) for each in _constraints(spec))


def excluding(spec: Mapping[str, Any], unit: Unit, nodes: Sequence[Node]) -> list[str]:
    """Return the constraints, other than the lease's, that one of the nodes does not satisfy."""
    others = [each for each in _constraints(spec) if not _is(each, unit)]
    return [each for each in others if not all(satisfies(node, each) for node in nodes)]


def pinned(spec: Spec, unit: Unit, nodes: Sequence[Node], replicas: int) -> Spec:
    """Return a spec tied to the lease, with constraints that exclude any of the nodes left out.

    Nothing else that Swarm compares between a task and its service changes, so a task on the lease's node goes on.
    """
    edited = copy.deepcopy(spec)
    out = excluding(spec, unit, nodes)
    constraints = [each for each in _constraints(spec) if each not in out]
    if not is_pinned(spec, unit):
        constraints.append(constraint(unit))
    placement = edited["TaskTemplate"].get("Placement") or {}
    most = {"Constraints": constraints, "MaxReplicas": max(1, replicas)}
    edited["TaskTemplate"]["Placement"] = {**placement, **most}
    # Without an UpdateConfig Swarm's own defaults hold, and these are the safe ones.
    if edited.get("UpdateConfig") is not None:
        edited["UpdateConfig"] |= SAFE_UPDATE
    return edited


def unpinned(spec: Spec, unit: Unit, before: Mapping[str, Any]) -> Spec:
    """Return a spec with placement and update settings of before; as it is where a redeploy took the pin away.

    `before`: {"placement": Placement or None, "update": UpdateConfig or None}.
    """
    if not is_pinned(spec, unit):
        return spec
    edited = copy.deepcopy(spec)
    if before["placement"] is None:
        edited["TaskTemplate"].pop("Placement", None)
    else:
        edited["TaskTemplate"]["Placement"] = copy.deepcopy(before["placement"])
    _put_update_back(edited, before, SAFE_UPDATE)
    return edited


def released(spec: Spec, unit: Unit, before: Mapping[str, Any]) -> Spec:
    """Return a spec that keeps the lease, with the update settings of before as far as that is safe.

    A service with data keeps stop-first and one replica: two copies at once would share its volume. Of one without, the
    bound of replicas goes back together with start-first, which could never place its new task under it.
    """
    if not is_pinned(spec, unit):
        return spec
    edited = copy.deepcopy(spec)
    if holds_data(spec):
        _put_update_back(edited, before, ("FailureAction",))
        return edited
    _put_update_back(edited, before, SAFE_UPDATE)
    placement = edited["TaskTemplate"]["Placement"]
    most = (before["placement"] or {}).get("MaxReplicas")
    placement.pop("MaxReplicas", None)
    if most:
        placement["MaxReplicas"] = most
    return edited


def woken(now: Spec, after: Spec) -> Spec:
    """Return `after` so that Swarm makes new tasks whatever tasks it knows of.

    Else only waiting ones might stay (moby#31014), or an ended one be taken for one that is wanted: from none to some,
    with the restart condition `none`, before Swarm has cleared it away.
    """
    edited = copy.deepcopy(after)
    edited["TaskTemplate"]["ForceUpdate"] = now["TaskTemplate"].get("ForceUpdate")
    restarted(edited)
    return edited


def restarted(spec: Spec) -> None:
    """Change a spec in place so that Swarm replaces its tasks."""
    spec["TaskTemplate"]["ForceUpdate"] = int(spec["TaskTemplate"].get("ForceUpdate") or 0) + 1


def holds_data(spec: Mapping[str, Any]) -> bool:
    """Tell whether a service writes to something that outlives its container."""
    return any(not mount.get("ReadOnly") for mount in mounts(spec) if mount.get("Type") in ("volume", "bind"))


def mounts(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a service's mounts as the API has them."""
    return list((spec["TaskTemplate"].get("ContainerSpec") or {}).get("Mounts") or [])


def named_volumes(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return named volume -> path in the container."""
    return {
        str(mount["Source"]): str(mount["Target"])
        for mount in mounts(spec)
        if mount.get("Type") == "volume" and mount.get("Source")
    }


def bind_sources(spec: Mapping[str, Any]) -> list[str]:
    """Return the paths of the node's disk that a service mounts."""
    return [str(mount.get("Source", "")) for mount in mounts(spec) if mount.get("Type") == "bind"]


def image_of(spec: Mapping[str, Any]) -> str:
    """Return the reference of a service's image."""
    return str(spec["TaskTemplate"]["ContainerSpec"]["Image"])


def stop_grace(spec: Mapping[str, Any]) -> float:
    """Return how many seconds a container of the service has to stop before it is killed."""
    nanoseconds = (spec["TaskTemplate"].get("ContainerSpec") or {}).get("StopGracePeriod")
    return _DEFAULT_STOP_GRACE if nanoseconds is None else nanoseconds / _NANO


def _constraints(spec: Mapping[str, Any]) -> list[str]:
    return list((spec["TaskTemplate"].get("Placement") or {}).get("Constraints") or [])


def _is(candidate: str, unit: Unit) -> bool:
    return candidate.replace(" ", "") == constraint(unit)


def _put_update_back(edited: Spec, before: Mapping[str, Any], keys: Sequence[str] | Mapping[str, str]) -> None:
    update, earlier = edited.get("UpdateConfig"), before["update"]
    if update is None or earlier is None:
        return
    for key in keys:
        if key in earlier:
            update[key] = earlier[key]
        else:
            update.pop(key, None)

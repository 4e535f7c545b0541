# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease: a unit runs on the one node that has its label, or nowhere; and the steps that stop and start by it.

Seen on Docker 20.10 and 26.1, and the reason for what is done here:

- Label first, then the constraint: no task restarts. Swarm leaves a task whose node fits the new placement.
- The label taken off a node with a running task: Swarm calls the task rejected at once, while its container still
  runs, for as long as its stop grace. So whether a service has stopped is asked of the engines, not of Swarm.
- Replicas raised again, or the label given back, while a container is still stopping: Swarm starts a second one on the
  same volume beside it. So whatever starts a service with volumes waits first until its old containers are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._convergence import FAILURES_TO_GIVE_UP, Watch, last_error
from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import (
    REPLICAS,
    Edit,
    apply_edit,
    read_settings,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import OURS, Spec
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.image import bring, remember_running, runnable
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.limits import limits_edit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.patience import as_before, wait_longer
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.pin import (
    holds_data,
    image_of,
    is_pinned,
    named_volumes,
    pinned,
    released,
    stop_grace,
    unpinned,
    woken,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.stopping import (
    containers_of,
    end_orphans,
    orphans,
    stop_containers,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.walk import Stage, Step, Tell, wait_until
from ansible_collections.evenkeel.swarm.plugins.module_utils._swarm import CONFLICT_TRIES
from ansible_collections.evenkeel.swarm.plugins.module_utils._tasks import is_over, occupies_node

# Beyond the stop grace: what Swarm and the engine take to notice, kill and remove.
STOP_MARGIN = 30.0
START_SECONDS = 120.0
_FORGOTTEN_SECONDS = 60.0


# --- pin, unpin, release -----------------------------------------------------------------------------------------


def pin(move: Move, services: Sequence[str]) -> Sequence[Stage]:
    """Tie services to the node that they run on, by the lease; no task restarts. Undone by cancel (see unpin)."""
    return [wait_longer(move), _label_source(move, services), *(_pin_service(move, service) for service in services)]


def unpin(move: Move, services: Sequence[str]) -> Sequence[Stage]:
    """Put placement and update settings back as before the move, then take the label off. No task restarts."""
    return [*(_unpin_service(move, service) for service in services), _drop_label(move), as_before(move)]


def release(move: Move, services: Sequence[str]) -> Sequence[Stage]:
    """Put the update settings back as before the move, where that is safe; the lease stays where it is."""
    return [*(_release_service(move, service) for service in services), as_before(move)]


def remember(move: Move, service: str) -> Mapping[str, Any]:
    """Return what the move touches of a service as it was before: placement, update, resources, replicas."""

    def capture() -> Mapping[str, Any]:
        spec = move.cluster.service(service)["Spec"]
        task = spec["TaskTemplate"]
        return {
            "placement": task.get("Placement"),
            "update": spec.get("UpdateConfig"),
            "resources": task.get("Resources"),
        }

    value: Mapping[str, Any] = move.journal.before(f"pin:{service}", capture)
    return value


def replicas_before(move: Move, service: str) -> int:
    """Return how many replicas a service had before the move."""
    return int(
        move.journal.before(
            f"replicas:{service}", lambda: read_settings(move.cluster.service(service)["Spec"]).replicas or 0
        )
    )


def _label_source(move: Move, services: Sequence[str]) -> Step:
    def do(_tell: Tell) -> None:
        for service in services:
            elsewhere = sorted({task.node for task in move.cluster.running(service)} - {move.source.name})
            if elsewhere:
                message = f"{service} runs on {', '.join(elsewhere)}, not on {move.source.name}: pinning would move it"
                raise MoveError("runs_elsewhere", f"{message}; set the unit's home to where it runs", field="home")
        for holder in _holders(move):
            if holder != move.source.name:
                move.cluster.label_node(holder, move.unit.lease, None)
        move.cluster.label_node(move.source.name, move.unit.lease, "1")

    return Step(
        id=_id(move, move.unit.name, "lease"),
        title=f"give {move.source.name} the lease of {move.unit.name}",
        host=move.source.name,
        probe=lambda: _holders(move) == [move.source.name],
        do=do,
        undo=lambda: _give_up_label(move),
    )


def _pin_service(move: Move, service: str) -> Step:
    def want(spec: Spec) -> Spec:
        return _pinned(move, spec)

    def started_since() -> bool:
        """Its owner has started it, or more of it, since the move began."""
        now = read_settings(move.cluster.service(service)["Spec"]).replicas or 0
        return now > replicas_before(move, service)

    def do(_tell: Tell) -> None:
        remember(move, service)
        if started_since():
            now = read_settings(move.cluster.service(service)["Spec"]).replicas
            move.journal.write("before", key=f"replicas:{service}", value=now)
        _edit(move, service, want)

    def probe() -> bool:
        spec: Spec = move.cluster.service(service)["Spec"]
        return want(spec) == spec and not started_since()

    return Step(
        id=_id(move, service, "pin"),
        title=f"pin {service} to the lease: one replica a node, stop-first, no rollback by itself",
        host=move.source.name,
        probe=probe,
        do=do,
        undo=lambda: _unpin(move, service),
    )


def _unpin_service(move: Move, service: str) -> Step:
    def probe() -> bool:
        spec: Spec = move.cluster.service(service)["Spec"]
        return _unpinned(move, spec) == spec

    return Step(
        id=_id(move, service, "unpin"),
        title=f"give {service} its placement of before the move",
        host=move.source.name,
        probe=probe,
        do=lambda _tell: _unpin(move, service),
    )


def _unpin(move: Move, service: str) -> None:
    _edit(move, service, lambda spec: _unpinned(move, spec))


def _unpinned(move: Move, spec: Spec) -> Spec:
    if move.journal.last("before", key=f"pin:{spec['Name']}") is None:
        return spec  # this move has not touched it
    return unpinned(spec, move.unit, remember(move, spec["Name"]))


def _drop_label(move: Move) -> Step:
    return Step(
        id=_id(move, move.unit.name, "unlease"),
        title=f"take the lease label of {move.unit.name} off, if no service is tied to it",
        host=move.source.name,
        probe=lambda: not _holders(move) or bool(_bound(move)),
        do=lambda _tell: _give_up_label(move),
    )


def _give_up_label(move: Move) -> None:
    """Take the label off, but never from under a service: Swarm would stop it.

    Services stay tied where they were before this move: by an earlier one, or because their owner wants it so.
    """
    if not _bound(move):
        for holder in _holders(move):
            move.cluster.label_node(holder, move.unit.lease, None)


def _bound(move: Move) -> list[str]:
    return [each["Spec"]["Name"] for each in move.cluster.services() if is_pinned(each["Spec"], move.unit)]


def _release_service(move: Move, service: str) -> Step:
    def want(spec: Spec) -> Spec:
        return released(spec, move.unit, remember(move, service))

    def probe() -> bool:
        if move.journal.last("before", key=f"pin:{service}") is None:
            return True
        spec: Spec = move.cluster.service(service)["Spec"]
        return want(spec) == spec

    return Step(
        id=_id(move, service, "release"),
        title=f"put the update settings of {service} back",
        host=move.target.name,
        probe=probe,
        do=lambda _tell: _edit(move, service, want),
    )


# --- withdraw, give ----------------------------------------------------------------------------------------------


def withdraw(move: Move) -> Step:
    """Take the lease off every node: no service of the unit can start anywhere by its pin.

    It also stops what still runs, gracefully. Undone by giving it back to the source.
    """

    def do(_tell: Tell) -> None:
        for service, spec in _own_services(move).items():
            remember_running(move, image_of(spec), service)  # without the lease they stop
        for holder in _holders(move):
            move.cluster.label_node(holder, move.unit.lease, None)

    return Step(
        id=_id(move, move.unit.name, "withdraw"),
        title=f"withdraw the lease of {move.unit.name}",
        host=move.source.name,
        probe=lambda: not _holders(move),
        do=do,
        undo=lambda: _give(move, move.source),
    )


def give(move: Move, place: Place) -> Step:
    """Give the lease to one node, once no container that writes is left of an earlier holder."""
    return Step(
        id=_id(move, move.unit.name, f"give-{place.name}"),
        title=f"give {place.name} the lease of {move.unit.name}",
        host=place.name,
        probe=lambda: _holders(move) == [place.name],
        do=lambda _tell: _give(move, place),
        deadline=STOP_MARGIN,
    )


def _give(move: Move, place: Place) -> None:
    if _holders(move) == [place.name]:
        return
    _wait_for_strays(move, {service: spec for service, spec in _own_services(move).items() if holds_data(spec)})
    for holder in _holders(move):
        if holder != place.name:
            move.cluster.label_node(holder, move.unit.lease, None)
    move.cluster.label_node(place.name, move.unit.lease, "1")


def _holders(move: Move) -> list[str]:
    return sorted(name for name, node in move.cluster.nodes().items() if node.labels.get(move.unit.lease) == "1")


def _own_services(move: Move) -> dict[str, Spec]:
    specs = [each["Spec"] for each in move.cluster.services()]
    return {
        spec["Name"]: spec
        for spec in specs
        if OURS not in (spec.get("Labels") or {}) and move.unit.member_of(spec["Name"]) is not None
    }


# --- stop --------------------------------------------------------------------------------------------------------


def stop(move: Move, service: str) -> Step:
    """Scale a service to 0 and stop what is left of it; a redeploy in between is scaled down again."""
    grace = stop_grace(move.cluster.service(service)["Spec"])
    places = (move.source, move.target)
    tried = False

    def none_left() -> bool:
        # A redeploy may come at any moment: the wish is renewed at every look.
        _edit(move, service, _to_zero)
        tasks = _alive_tasks(move, service)
        if any(task["DesiredState"] == "running" for task in tasks):
            return False  # stopped now, it would be replaced
        none = [stop_containers(place.host, service, grace) for place in places]
        return all(none) and not _out_of_sight(move, tasks)

    def do(tell: Tell) -> None:
        replicas_before(move, service)
        remember_running(move, image_of(move.cluster.service(service)["Spec"]), service)
        tell(text=f"{service} has {grace:g} s to stop by itself")
        wait_until(none_left, grace + STOP_MARGIN, f"{service} to stop", every=0.05)
        _end_orphans(move, service, places, tell)
        nonlocal tried
        tried = True

    def probe() -> bool:
        if tried:
            # A redeploy since then does no harm: what holds data can't start on them, and start() writes the spec anew.
            return not containers(move, service)
        stopped = read_settings(move.cluster.service(service)["Spec"]).replicas == 0
        return stopped and not _out_of_sight(move, _alive_tasks(move, service)) and not containers(move, service)

    return Step(
        id=_id(move, service, "stop"),
        title=f"stop {service}",
        host=move.source.name,
        probe=probe,
        do=do,
        deadline=grace + STOP_MARGIN,
        undo=lambda: _let_start(move, service, move.source, {}),
    )


def containers(move: Move, *services: str) -> dict[str, str]:
    """Return container id -> hostname of what the engines of both nodes of the move run of some services."""
    places = (move.source, move.target)
    return {container: place.name for place in places for container in containers_of(place.host, services)}


def _to_zero(spec: Spec) -> Spec:
    return apply_edit(spec, {REPLICAS: 0})


def _alive_tasks(move: Move, service: str) -> list[Mapping[str, Any]]:
    """Tasks that have or may get a container. One that waits for a node has none."""
    tasks = move.cluster.tasks(move.cluster.service(service)["ID"])
    return [task for task in tasks if occupies_node(task)]


def _out_of_sight(move: Move, tasks: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return those of the alive tasks that have a container elsewhere, or may still get one.

    Of one that was running on a node of the move its engine knows better than Swarm, which says so seconds later.
    """
    here = {move.source.node.id, move.target.node.id}
    return [task for task in tasks if task["Status"]["State"] != "running" or task["NodeID"] not in here]


# --- start -------------------------------------------------------------------------------------------------------


def start(move: Move, service: str, place: Place) -> Step:
    """Start a service at a place, with as many replicas as before the move: pinned, with its limits for that node.

    Right however a redeploy left its spec: the whole wish is written in one update.
    """

    # Image -> the reference that the place runs it by: asked once, as every question lengthens the outage.
    known: dict[str, str] = {}

    def probe() -> bool:
        spec = move.cluster.service(service)["Spec"]
        wanted = _unless_missing(lambda: _started(move, spec, place, known))
        alone = wanted == spec and _runs_only_at(move, service, place)
        return alone and not orphans(place.host, place.root, list(named_volumes(spec)))

    def do(tell: Tell) -> None:
        found = move.cluster.service(service)
        earlier = frozenset(task["ID"] for task in move.cluster.tasks(found["ID"]))
        if _unless_missing(lambda: _started(move, found["Spec"], place, known)) is None:
            # A redeploy in the switch has brought a new one; after the intent no verb but this leads on.
            bring(move, place, image_of(found["Spec"]), service, tell)
        _let_start(move, service, place, known)
        tell(text=f"{service} is starting on {place.name}")
        _wait_for_start(move, service, place, earlier)
        _end_orphans(move, service, [place], tell)

    return Step(
        id=_id(move, service, f"start-{place.name}"),
        title=f"start {service} on {place.name}",
        host=place.name,
        probe=probe,
        do=do,
        deadline=START_SECONDS,
    )


def _unless_missing(ask: Callable[[], Spec]) -> Spec | None:
    """Return a spec, None where its image is not on the node."""
    try:
        return ask()
    except MoveError as error:
        if error.code != "image_missing":
            raise
        return None


def _let_start(move: Move, service: str, place: Place, known: dict[str, str]) -> None:
    """Write the spec by which a service runs at a place; wakes tasks that wait.

    Raises MoveError `conflict` if others write it all the time.
    """
    for _ in range(CONFLICT_TRIES):
        found = move.cluster.service(service)
        spec, on_its_way = found["Spec"], _on_its_way(move, service, place)
        after = _started(move, spec, place, known)
        if on_its_way and after == spec:
            return
        if holds_data(spec):
            _wait_for_strays(move, {service: spec})
        # After a redeploy another container may run, or still be stopping, on the data: then all is looked at anew.
        if move.cluster.write_service(found, after if on_its_way else woken(spec, after)):
            return
    raise MoveError("conflict", f"other writers changed {service} all the time")


def _on_its_way(move: Move, service: str, place: Place) -> bool:
    """Tell whether Swarm has given the place a task of the service, and it has not failed.

    Nor been forgotten: seen on Docker 26.1, Swarm did nothing more with one whose start had met a full disk.
    """
    given = [
        task
        for task in _alive_tasks(move, service)
        if task["NodeID"] == place.node.id and task["DesiredState"] == "running"
    ]
    return any(map(_moves_on, given)) or (bool(given) and bool(containers_of(place.host, [service])))


def _moves_on(task: Mapping[str, Any]) -> bool:
    """Tell whether a task has come to another state in the last minute: images and data are there, so it should."""
    since = datetime.fromisoformat(f"{task['Status']['Timestamp'][:19]}+00:00")
    return (datetime.now(UTC) - since).total_seconds() < _FORGOTTEN_SECONDS


def _started(move: Move, spec: Spec, place: Place, known: dict[str, str]) -> Spec:
    """Return the spec of a service as it shall be where it runs after a start."""
    service = spec["Name"]
    replicas = replicas_before(move, service)
    wanted = apply_edit(_pinned(move, spec), {**_limits_at(move, service, place), REPLICAS: replicas})
    if replicas:
        image = image_of(spec)
        if image not in known:
            known[image] = runnable(move, place, image, service)
        wanted["TaskTemplate"]["ContainerSpec"]["Image"] = known[image]
    return wanted


def _pinned(move: Move, spec: Spec) -> Spec:
    nodes = move.cluster.placement_nodes()
    here, there = nodes[move.source.name], nodes[move.target.name]
    return pinned(spec, move.unit, [here, there], replicas_before(move, spec["Name"]))


def _limits_at(move: Move, service: str, place: Place) -> Edit:
    """Return the limits that the move sets: the member's on the unit's target, at home those of before."""
    member = move.unit.member_of(service)
    if member is None or not member.limits:
        return {}
    at_target = limits_edit(service, member.limits)
    if place.name == move.unit.target:
        return at_target
    before = read_settings({"TaskTemplate": {"Resources": remember(move, service)["resources"]}})
    return {field: before.values[field] for field in at_target}


def _runs_only_at(move: Move, service: str, place: Place) -> bool:
    running = move.cluster.running(service)
    if len(running) != replicas_before(move, service) or any(task.node != place.name for task in running):
        return False
    return containers(move, service).keys() == {task.container for task in running}


def _wait_for_start(move: Move, service: str, place: Place, earlier: frozenset[str]) -> None:
    found = move.cluster.service(service)
    names = {node.id: node.hostname for node in move.cluster.nodes().values()}
    watch = Watch(found["ID"], service, {}, 0.0, earlier_tasks=earlier, node_names=names)

    def runs() -> bool:
        if _runs_only_at(move, service, place):
            return True
        tasks = move.cluster.tasks(found["ID"])
        ended = [task for task in tasks if task["ID"] not in earlier and task["Status"]["State"] in _FAILED]
        if len(ended) >= FAILURES_TO_GIVE_UP:
            raise MoveError("start_failed", f"{service} does not stay up: {last_error(watch, tasks)}")
        return False

    try:
        wait_until(runs, START_SECONDS, f"{service} to run on {place.name} and nowhere else", every=0.05)
    except MoveError as error:
        said = last_error(watch, move.cluster.tasks(found["ID"]))
        if error.code != "timeout" or not said:
            raise
        raise MoveError("start_failed", f"{error.message}: {said}") from error


_FAILED = ("failed", "rejected")


def _end_orphans(move: Move, service: str, places: Iterable[Place], tell: Tell) -> None:
    """End what runs on a service's data beside the containers that Docker knows: it was killed when it started them."""
    volumes = list(named_volumes(move.cluster.service(service)["Spec"]))
    for place in places:
        ended = end_orphans(move.journal, place.host, place.root, volumes)
        if ended:
            names = ", ".join(each[:12] for each in ended)
            tell(text=f"ended on {place.name}, as Docker had forgotten that it runs: {names}")


def _wait_for_strays(move: Move, services: Mapping[str, Spec]) -> None:
    """Wait until every container of some services is one that Swarm wants to run: the others are still stopping."""

    def gone() -> bool:
        tasks = [task for name in services for task in move.cluster.tasks(move.cluster.service(name)["ID"])]
        wanted = {
            ((task["Status"].get("ContainerStatus") or {}).get("ContainerID"))
            for task in tasks
            if task["DesiredState"] == "running" and not is_over(task)
        }
        return not containers(move, *services).keys() - wanted

    if services:
        grace = max(map(stop_grace, services.values()))
        wait_until(gone, grace + STOP_MARGIN, f"the old containers of {', '.join(services)} to end")


# --- small things ------------------------------------------------------------------------------------------------


def _edit(move: Move, service: str, want: Callable[[Spec], Spec]) -> None:
    def edit(spec: Spec) -> None:
        after = want(spec)
        if after != spec:
            spec.clear()
            spec.update(after)

    move.cluster.edit_service(service, edit)


def _id(move: Move, what: str, verb: str) -> str:
    return f"{move.journal.verb}.{what}.{verb}"

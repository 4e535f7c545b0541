# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What would hurt in a move, seen in specs and facts, and what is done about each. No I/O."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._limits_plan import (
    Node,
    apply_edit,
    eligible_nodes,
    read_service,
    read_settings,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.image import has_digest, repository
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.limits import limits_edit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import APP, Member, Part, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Trap
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.pin import (
    excluding,
    holds_data,
    image_of,
    mounts,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._units import format_cpus, format_memory

Spec = Mapping[str, Any]
#: Files that a service mounts are copied up to this size; more is data, and belongs in a volume.
MAX_FILE = 1 << 20
_LEASES = "node.labels.evenkeel.lease."


def service_traps(
    spec: Spec, unit: Unit, nodes: Sequence[Node], member: Member | None = None, *, kind: str = APP
) -> list[Trap]:
    """Return what a service's own spec holds against a move between two nodes: its source and its target, in order."""
    target = nodes[-1]
    found = [
        *_mode_traps(spec, kind),
        *_placement_traps(spec, unit, nodes),
        *_update_traps(spec),
        *_volume_traps(spec),
        *_image_traps(spec),
        *_command_traps(spec),
        *_room_traps(spec, member, target),
        *_health_traps(spec, member, kind),
    ]
    return [_named(spec, trap) for trap in found]


def _named(spec: Spec, trap: Trap) -> Trap:
    return replace(trap, text=f"{spec['Name']}: {trap.text}")


def _mode_traps(spec: Spec, kind: str) -> list[Trap]:
    replicas = read_settings(spec).replicas
    if replicas is None:
        mode = next(iter(spec["Mode"]))
        return [Trap("mode", f"its mode is {mode}", "only replicated services can move: make it one", refuses=True)]
    if replicas > 1 and (kind != APP or holds_data(spec)):
        remedy = "one at a time may write to its volume: set replicas to 1"
        return [Trap("replicas", f"it has {replicas} replicas and data", remedy, refuses=True)]
    return []


def _placement_traps(spec: Spec, unit: Unit, nodes: Sequence[Node]) -> list[Trap]:
    placement = spec["TaskTemplate"].get("Placement") or {}
    found = []
    for each in excluding(spec, unit, nodes):
        if each.replace(" ", "").startswith(_LEASES):
            remedy = "a service moves with one unit: take it out of the other, and complete or cancel its move"
            found.append(Trap("two_units", f"{each} is another unit's lease", remedy, refuses=True))
        else:
            remedy = "replaced by the lease; cancel puts it back"
            found.append(Trap("constraint", f"{each} keeps it off one of the two nodes", remedy))
    if placement.get("Preferences"):
        found.append(
            Trap("preference", "it has placement preferences", "kept; with one node to choose they do nothing")
        )
    if placement.get("MaxReplicas", 0) > max(1, read_settings(spec).replicas or 0):
        text = f"it allows {placement['MaxReplicas']} replicas a node"
        found.append(Trap("max_replicas", text, "1 while the unit is leased; cancel puts it back"))
    bare = {**spec, "TaskTemplate": {**spec["TaskTemplate"], "Placement": {**placement, "Constraints": []}}}
    target = nodes[-1]
    if not eligible_nodes(read_service({"ID": "", "Spec": bare}), [target]):
        text = (
            f"{target.hostname} is {target.state}, {target.availability}, {target.architecture}: Swarm gives it no task"
        )
        found.append(
            Trap("target_unfit", text, "make the node ready and active, of the image's platform", refuses=True)
        )
    return found


def _update_traps(spec: Spec) -> list[Trap]:
    update = spec.get("UpdateConfig") or {}
    found = []
    if update.get("Order") == "start-first":
        more = ", both on one volume" if holds_data(spec) else ""
        found.append(Trap("start_first", f"an update runs two copies at once{more}", "stop-first while the unit moves"))
    if update.get("FailureAction") == "rollback":
        text = "Swarm would roll a failed update back by itself, onto the old node"
        found.append(Trap("rollback_action", text, "pause while the unit moves; put back by complete and cancel"))
    return found


def _volume_traps(spec: Spec) -> list[Trap]:
    found = []
    for mount in mounts(spec):
        where = mount.get("Target")
        if mount.get("Type") == "cluster":
            remedy = "a cluster volume goes by its own driver: move it by that"
            found.append(Trap("volume_driver", f"{where} is a cluster volume", remedy, refuses=True))
        if mount.get("Type") != "volume":
            continue
        driver = (mount.get("VolumeOptions") or {}).get("DriverConfig") or {}
        if not mount.get("Source"):
            found.append(anonymous_volume(str(where)))
        elif driver.get("Name") not in (None, "", "local") or driver.get("Options"):
            text = (
                f"volume {mount['Source']} is not a plain directory of the node (driver {driver.get('Name') or 'local'}"
            )
            options = ", ".join(sorted(driver.get("Options") or {}))
            remedy = "only plain local volumes can be copied and fenced"
            found.append(
                Trap("volume_driver", f"{text}{', options ' + options if options else ''})", remedy, refuses=True)
            )
    return found


def anonymous_volume(path: str) -> Trap:
    """Return the trap of a path whose data lies in a volume without a name."""
    text = f"{path} is in an anonymous volume, which Swarm deletes as soon as the service stops"
    remedy = "copy its content into a named volume and mount that there, then plan again"
    return Trap("anonymous_volume", text, remedy, refuses=True)


def image_volume_traps(spec: Spec, declared: Collection[str], kind: str) -> list[Trap]:
    """Return the traps of volumes that an image declares: without a mount at that very path they are anonymous."""
    mounted = {str(mount.get("Target", "")).rstrip("/") for mount in mounts(spec)}
    loose = sorted(path for path in declared if path.rstrip("/") not in mounted)
    if kind != APP:
        return [_named(spec, anonymous_volume(path)) for path in loose]
    remedy = "nothing: whatever is in there is lost at every redeploy already"
    return [
        Trap("image_volume", f"{spec['Name']}: its image keeps {path} in an anonymous volume", remedy) for path in loose
    ]


def _image_traps(spec: Spec) -> list[Trap]:
    reference = image_of(spec)
    if has_digest(reference):
        return []
    text = f"its image {reference} has no digest: the tag may mean another image on the target"
    return [Trap("tag_without_digest", text, "the image that runs now is brought there, and started by digest or id")]


def _command_traps(spec: Spec) -> list[Trap]:
    container = spec["TaskTemplate"]["ContainerSpec"]
    argv = [*(container.get("Command") or []), *(container.get("Args") or [])]
    script = " ".join(argv)
    if len(argv) < 3 or argv[1] != "-c" or not re.search(r"\b(redis|valkey)-server\b", script):
        return []
    if re.search(r"\bexec\s+\S*(redis|valkey)-server\b", script) or container.get("Init"):
        return []
    text = "its shell is process 1 and keeps SIGTERM from Redis: stopped, it loses all since the last save"
    return [Trap("shell_pid_1", text, "everything is on the target's replica before it is stopped")]


def _room_traps(spec: Spec, member: Member | None, target: Node) -> list[Trap]:
    limits = dict(member.limits) if member is not None and member.limits else {}
    after = apply_edit(dict(spec), limits_edit(spec["Name"], limits)) if limits else spec
    values = read_settings(after).values
    found = []
    for section in ("limits", "reservations"):
        cpus, memory = values[section, "cpus"], values[section, "memory"]
        if cpus > target.nano_cpus:
            have = format_cpus(target.nano_cpus)
            text = f"{section}.cpus {format_cpus(cpus)} is more than {target.hostname} has ({have})"
            remedy = f"its engine would refuse the task: give the member `limits: {{cpus: …}}` for {target.hostname}"
            found.append(Trap("cpus_above_target", text, remedy, refuses=True))
        if memory > target.memory:
            have = format_memory(target.memory)
            text = f"{section}.memory {format_memory(memory)} is more than {target.hostname} has ({have})"
            remedy = f"give the member `limits: {{memory: …}}` for {target.hostname}"
            found.append(Trap("memory_above_target", text, remedy, refuses=True))
    return found


def _health_traps(spec: Spec, member: Member | None, kind: str) -> list[Trap]:
    test = (spec["TaskTemplate"]["ContainerSpec"].get("Healthcheck") or {}).get("Test") or []
    declared = member is not None and member.health is not None
    if kind != APP or declared or test[:1] not in ([], ["NONE"]):
        return []
    remedy = "it counts as healthy when it runs: give the member a `health` that asks what its users ask"
    return [Trap("no_health", "nothing says when it is healthy", remedy)]


# --- what needs facts beside the spec ----------------------------------------------------------------------------


def bind_traps(
    service: str,
    files: Mapping[str, Mapping[str, Any]],
    there: Mapping[str, Mapping[str, Any]],
    ours: Collection[str] = (),
    kind: str = APP,
) -> list[Trap]:
    """Return the traps of paths of the node's disk that a service mounts.

    `files`, `there`: path -> {"kind", "bytes", "sha256"} on source and target; what `there` lacks was not looked at.
    `ours`: copies that the move made.
    """
    found = []
    for path, here in files.items():
        text, refusal = f"{service}: {path} is a {here['kind']} of the node's disk", None
        if here["kind"] == "missing":
            text, refusal = f"{service}: it mounts {path}, which is not there", "put it there, or drop the mount"
        elif here["kind"] != "file":
            refusal = "only single files are copied: put the data into a named volume, or drop the mount"
        elif here["bytes"] > MAX_FILE:
            refusal = f"it has {here['bytes']} bytes, files up to {MAX_FILE} are copied: use a named volume"
        elif kind != APP:
            refusal = f"the copy of a {kind} is made without it: make it a Swarm config or secret"
        elif path in there and there[path]["kind"] != "missing" and there[path] != here and path not in ours:
            text = f"{service}: {path} is another {there[path]['kind']} on the target"
            refusal = "nothing is overwritten there: remove it, or make the two equal"
        if refusal is not None:
            found.append(Trap("bind_mount", text, refusal, refuses=True))
        else:
            unseen = "" if path in there else "; whether the target has another there was not looked at"
            found.append(Trap("file_mount", text + unseen, f"its {here['bytes']} bytes are copied to the same path"))
    return found


def port_traps(spec: Spec, used: Collection[tuple[int, str]]) -> list[Trap]:
    """Return the traps of host-mode ports. `used`: (port, tcp or udp) that something on the target listens on."""
    ports = (spec.get("EndpointSpec") or {}).get("Ports") or []
    found = []
    for port in ports:
        number, protocol = port.get("PublishedPort"), port.get("Protocol", "tcp")
        if port.get("PublishMode") != "host":
            continue
        if (number, protocol) in used:
            text = f"{spec['Name']}: host port {number}/{protocol} is taken on the target"
            found.append(Trap("port_taken", text, "free it there, or publish another", refuses=True))
        else:
            text = f"{spec['Name']}: port {number}/{protocol} is published on the node's own address"
            found.append(Trap("host_port", text, "it moves along: whoever uses the old node's address must be told"))
    return found


def network_traps(spec: Spec, networks: Sequence[Mapping[str, Any]]) -> list[Trap]:
    """Return the traps of the networks that a service is in. `networks`: all of the Swarm's, as the API has them."""
    targets = networks_of(spec)
    by_name = {each[key]: each for each in networks for key in ("Id", "Name")}
    found = []
    for target in targets:
        network = by_name.get(target)
        if network is None:
            text = f"{spec['Name']}: its network {target} does not exist"
            found.append(Trap("network_missing", text, "make it, or take it out of the service", refuses=True))
        elif network.get("Driver") != "overlay":
            text = f"{spec['Name']}: its network {network['Name']} is of the driver {network.get('Driver')}"
            remedy = "only overlay networks reach from node to node: use one"
            found.append(Trap("network_not_overlay", text, remedy, refuses=True))
    if len(targets) > 1 and "temporal" in repository(image_of(spec)) and not repository(image_of(spec)).endswith("ui"):
        text = (
            f"{spec['Name']}: Temporal's server is in {len(targets)} overlay networks, and may announce the wrong one"
        )
        found.append(Trap("temporal_networks", text, "nothing: leave it in exactly one, before or after the move"))
    return found


def open_network_traps(
    spec: Spec, networks: Sequence[Mapping[str, Any]], nodes: Sequence[Node], *, kind: str, mover: str | None
) -> list[Trap]:
    """Return the trap of data that crosses the internet in clear: VXLAN neither encrypts nor proves who sent a packet.

    `networks` as for network_traps. Apps hold no state that would be copied over their networks; a dump goes over SSH.
    """
    if kind == APP or mover == "dump" or not any(_is_public(node.address) for node in nodes):
        return []
    wanted = set(networks_of(spec))
    known = [each for each in networks if wanted & {each["Id"], each["Name"]}]
    clear = sorted(str(each["Name"]) for each in known if "encrypted" not in (each.get("Options") or {}))
    if not clear:
        return []
    text = f"{spec['Name']}: its data is copied in clear over {', '.join(clear)}, and the nodes have public addresses"
    remedy = (
        "nothing: put the service into an encrypted overlay network, or the Swarm on a private one (WireGuard), "
        "and open 2377/tcp, 7946 and 4789/udp to the other host only"
    )
    return [Trap("open_network", text, remedy)]


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def networks_of(spec: Spec) -> list[str]:
    """Return the ids or names of the networks that a service is in."""
    attached = spec["TaskTemplate"].get("Networks") or spec.get("Networks") or []
    return [str(each["Target"]) for each in attached]


def whereabouts_traps(service: str, kind: str, replicas: int, nodes: Collection[str], source: str) -> list[Trap]:
    """Return the traps of where a service runs now. `nodes`: hostnames of its running tasks."""
    if not nodes and replicas and kind != APP:
        text = f"{service}: it runs on no node, so its state can't be copied"
        return [Trap("not_running", text, "start it and see that it is well, then plan again", refuses=True)]
    elsewhere = sorted(set(nodes) - {source})
    if elsewhere:
        text = f"{service}: it runs on {', '.join(elsewhere)}, not on {source}"
        return [Trap("runs_elsewhere", text, "a unit moves as one, from one node: gather it there first", refuses=True)]
    if not nodes and replicas:
        return [Trap("not_running", f"{service}: it does not run now", "it is started on the target like the others")]
    return []


def shared_volume_traps(
    parts: Sequence[Part], services: Sequence[Mapping[str, Any]], containers: Mapping[str, Sequence[str]]
) -> list[Trap]:
    """Return the traps of volumes that somebody outside of the unit mounts.

    `services`: all of the Swarm's. `containers`: volume -> names of containers on the source that are no tasks.
    """
    own = {name for part in parts for name in (part.service, *part.users)}
    found = []
    for volume in sorted({volume for part in parts for volume in part.volumes}):
        others = sorted(
            each["Spec"]["Name"]
            for each in services
            if each["Spec"]["Name"] not in own
            and any(mount.get("Source") == volume for mount in mounts(each["Spec"]) if mount.get("Type") == "volume")
        )
        others += [f"container {name}" for name in containers.get(volume, ())]
        if others:
            text = f"volume {volume} is mounted by {', '.join(others)}, outside of the unit"
            remedy = "make it a member of the unit, or give it a volume of its own"
            found.append(Trap("volume_shared", text, remedy, refuses=True))
    return found

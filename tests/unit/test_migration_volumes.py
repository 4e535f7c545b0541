"""Removing a volume that ended containers still name."""

from __future__ import annotations

from typing import Any, cast

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import Done, Host
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.volumes import remove_volume


class Engine:
    """A host whose engine has one volume, and ended containers on it; as Docker does, it keeps a volume in use."""

    def __init__(self, *containers: str) -> None:
        self.containers = set(containers)
        self.volumes = {"data"}

    def run(self, argv: list[str], **_more: Any) -> Done:
        match argv[1:]:
            case ["volume", "inspect", name]:
                return Done(0 if name in self.volumes else 1, "", "")
            case ["ps", *_rest]:
                return Done(0, "\n".join(sorted(self.containers)), "")
            case ["rm", container]:
                self.containers.discard(container)
            case ["volume", "rm", name]:
                assert not self.containers, "volume is in use"
                self.volumes.discard(name)
        return Done(0, "", "")


def test_ended_containers_of_a_volume_go_with_it() -> None:
    """Swarm keeps a few of each service: a cancel after a switch there and back met them."""
    engine = Engine("c1", "c2")
    remove_volume(cast("Host", engine), "data")
    assert engine.volumes == set()


def test_without_the_volume_nothing_is_touched() -> None:
    engine = Engine("c1")
    engine.volumes.clear()
    remove_volume(cast("Host", engine), "data")
    assert engine.containers == {"c1"}

"""The companion of a Redis where a run was killed, or comes too early."""

from __future__ import annotations

from types import ModuleType
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers import redis_companion
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.redis_companion import Companion
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.redis_servers import Servers
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import containers


class Host:
    """A node's engine: the companion's containers that it finds at each look, the last answer for ever."""

    def __init__(self, *found: list[str]) -> None:
        self.found = list(found)

    def call(self, module: ModuleType, function: str, **_more: Any) -> dict[str, list[str]]:
        assert (module, function) == (containers, "stop")
        return {"ended": [], "left": self.found.pop(0) if len(self.found) > 1 else self.found[0]}


class Everything:
    """What a companion asks of its move. `answer`: INFO of the replica."""

    name, root = "kvm2", "/docker"

    def __init__(self, host: Host, answer: dict[str, str] | MoveError) -> None:
        self.host, self.answer = host, answer
        self.move = self.journal = self.cluster = self.unit = self.volume = self.target = self
        self.source = type("Place", (), {"name": "kvm4"})
        self.left: list[str] = []

    def companion(self, place: Any) -> str:
        return f"evenkeel-shop-redis-{place.name}"

    def companion_container(self, _place: Any) -> str:
        return "c1"

    def info(self, _place: Any, _container: str) -> dict[str, str]:
        if isinstance(self.answer, MoveError):
            raise self.answer
        return self.answer

    def path(self, _place: Any) -> str:
        return "/parked"

    def remove_service(self, _name: str) -> None:
        """There is none: a killed run has removed it."""

    def secrets(self, _unit: str) -> list[str]:
        return list(self.left)

    def remove_secret(self, name: str) -> None:
        self.left.remove(name)


def companion(host: Host, answer: dict[str, str] | MoveError) -> Companion:
    everything = Everything(host, answer)
    place = cast("Place", everything)
    return Companion(cast("Servers", everything), place, place)


@pytest.mark.parametrize(
    ("answer", "following"),
    [
        ({"master_link_status": "up", "loading": "0"}, True),
        ({"master_link_status": "up", "loading": "1"}, False),
        ({"master_link_status": "down", "loading": "0"}, False),
        (MoveError("call_failed", "Connection refused"), False),
    ],
)
def test_a_replica_that_does_not_listen_yet_does_not_follow_yet(
    answer: dict[str, str] | MoveError, following: bool
) -> None:
    assert companion(Host([]), answer).following() is following


def test_a_host_that_is_gone_is_said_to_be() -> None:
    with pytest.raises(MoveError, match="gone"):
        companion(Host([]), MoveError("host_unreachable", "gone")).following()


def test_the_end_of_its_container_is_waited_for_where_the_service_is_gone_already() -> None:
    """Two servers on one copy would destroy it."""
    host = Host(["c1"], ["c1"], [])
    companion(host, {}).forget()
    assert host.found == [[]]


def test_a_cancel_after_a_move_there_and_back_leaves_no_configuration_on_either_node() -> None:
    mine = companion(Host([]), {})
    world = cast("Everything", mine.servers)
    world.left = ["evenkeel-shop-redis-kvm4-11", "evenkeel-shop-redis-kvm2-22", "evenkeel-shop-queue-kvm4-33"]
    mine.forget()
    assert world.left == ["evenkeel-shop-queue-kvm4-33"]


def test_companions_of_long_names_are_of_one_part_and_one_node_each() -> None:
    """Swarm takes 63 characters of a service, 64 of a secret."""
    move = type("Move", (), {"unit": type("Unit", (), {"name": "shop"}), "cluster": None})
    keys = ["infrastructureservices-queue-and-cache-of-the-shop-" + end for end in ("vzd3v2", "h63k7w")]
    all_servers = [Servers(cast("Any", move), cast("Any", type("Part", (), {"key": key}))) for key in keys]
    places = [cast("Place", type("Place", (), {"name": name})) for name in ("kvm4", "kvm2")]
    names = {servers.companion(place) for servers in all_servers for place in places}
    assert len(names) == 4
    assert max(map(len, names)) <= 63
    found = [Companion(servers, places[0], place) for servers in all_servers for place in places]
    secrets = [each._secret_name("0123456789ab") for each in found]
    assert max(map(len, secrets)) <= 64
    for each in found:
        assert sum(name.startswith(each._secret_name("")) for name in secrets) == 1


def test_a_replica_that_tries_an_address_of_before_is_not_stuck_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives that one up after a minute, and comes through with the next."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now > 65:
            replica.servers.answer = {"master_link_status": "up", "loading": "0"}  # type: ignore[attr-defined]

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr(redis_companion, "end_orphans", lambda *_arguments: [])
    replica = companion(Host([]), {"master_link_status": "down", "loading": "0"})
    replica.wait_for_link(lambda **_numbers: None)
    assert 65 < now < 66

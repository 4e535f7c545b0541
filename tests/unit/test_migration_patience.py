# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long Swarm waits for a silent host during a move, and after it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import patience
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import ENDED, Journal
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Move
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.patience import impatient, patient, traps
from ansible_collections.evenkeel.swarm.plugins.module_utils._swarm import Swarm, SwarmError

SECOND = 10**9


def spec(seconds: int | None, **labels: str) -> dict[str, Any]:
    """A Swarm's spec, as its API has it."""
    dispatcher = {} if seconds is None else {"HeartbeatPeriod": seconds * SECOND}
    return {"Name": "default", "Labels": labels, "Raft": {"ElectionTick": 10}, "Dispatcher": dispatcher}


@pytest.mark.parametrize("before", [spec(5), spec(20, owner="ops")])
def test_a_short_heartbeat_is_raised_and_put_back(before: dict[str, Any]) -> None:
    kept = copy.deepcopy(before)
    raised = patient(before)
    assert raised["Dispatcher"]["HeartbeatPeriod"] == 60 * SECOND
    assert patient(raised) == raised
    assert impatient(raised) == before == kept


def test_where_none_is_set_swarms_own_is_put_back() -> None:
    assert impatient(patient(spec(None))) == spec(5)


def test_a_long_heartbeat_is_nobodys_business() -> None:
    assert patient(spec(90)) == impatient(spec(90)) == spec(90)


def test_what_was_set_by_hand_during_the_move_stays() -> None:
    assert impatient({**patient(spec(5)), "Dispatcher": {"HeartbeatPeriod": 90 * SECOND}}) == spec(90)
    lowered = {**patient(spec(5)), "Dispatcher": {"HeartbeatPeriod": 10 * SECOND}}
    assert patient(lowered)["Dispatcher"]["HeartbeatPeriod"] == 60 * SECOND
    assert impatient(patient(lowered)) == spec(10)


def test_the_trap_is_the_same_before_and_during_the_move() -> None:
    assert [trap.code for trap in traps(spec(5))] == ["short_heartbeat"]
    assert "15 s" in traps(spec(5))[0].text
    assert traps(patient(spec(5))) == traps(spec(5))
    assert traps(spec(60)) == []


class Api:
    """A Swarm's own object, which somebody else writes first a few times."""

    def __init__(self, seconds: int, faster: int = 0) -> None:
        self.spec, self.version, self.faster = spec(seconds), 3, faster

    def request(self, method: str, path: str, body: Any = None) -> Any:
        if (method, path) == ("GET", "/swarm"):
            return {"ID": "s", "Version": {"Index": self.version}, "Spec": copy.deepcopy(self.spec)}
        if self.faster:
            self.faster, self.version = self.faster - 1, self.version + 1
            self.spec["Labels"]["other"] = str(self.version)
        if (method, path) != ("POST", f"/swarm/update?version={self.version}"):
            raise SwarmError("conflict", f"{method} {path}: update out of sequence")
        self.spec, self.version = body, self.version + 1
        return None


def moving(api: Api, state: Path, unit: str, verb: str) -> Move:
    """A move as far as these steps look at it."""
    source = type("Place", (), {"name": "kvm4"})
    named = type("Unit", (), {"name": unit})
    cluster = Cluster(cast("Swarm", api))
    found = {"cluster": cluster, "journal": Journal(unit, verb, state), "source": source, "unit": named}
    return cast("Move", type("M", (), found))


def walk(step: Any) -> bool:
    """Do a step as a walk does; returns whether there was anything to do."""
    if step.probe():
        return False
    step.do(lambda **_numbers: None)
    assert step.probe()
    return True


def test_other_writers_of_the_swarm_lose_nothing(tmp_path: Path) -> None:
    api = Api(5, faster=3)
    assert walk(patience.wait_longer(moving(api, tmp_path, "shop", "prepare")))
    assert api.spec["Labels"] == {"other": "6", patience.BEFORE: str(5 * SECOND)}


def test_a_swarm_that_never_takes_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MoveError, match="the Swarm all the time"):
        patience.wait_longer(moving(Api(5, faster=10**6), tmp_path, "shop", "prepare")).do(lambda **_numbers: None)


def test_the_last_open_move_puts_it_back(tmp_path: Path) -> None:
    api = Api(5)
    shop, wiki = (moving(api, tmp_path, unit, "prepare") for unit in ("shop", "wiki"))
    for move in (shop, wiki):
        walk(patience.wait_longer(move))
        move.journal.write("prepared")
    assert not walk(patience.as_before(shop)), "the wiki's move is open"
    shop.journal.write(ENDED, how="cancel")
    assert api.spec["Dispatcher"]["HeartbeatPeriod"] == 60 * SECOND
    assert walk(patience.as_before(wiki))
    assert api.spec == spec(5)

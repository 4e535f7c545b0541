"""What the engine says of itself, without a Swarm."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.cluster import Cluster
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.engine import Engine, Setting
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Options
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.phase import Phase

THERE, BACK = ("kvm4", "kvm2"), ("kvm2", "kvm4")


@pytest.mark.parametrize(
    ("verb", "phase", "following"),
    [
        # Everything is started there; that the old copy follows is still to be done.
        ("switch", Phase("switched", *BACK, since="2026-01-01T00:00:00+00:00"), "switch"),
        ("reverse", Phase("copied", *THERE, since="2026-01-01T00:00:00+00:00"), "reverse"),
        ("precopy", Phase("copied", *THERE), "precopy"),
        ("cancel", Phase("prepared", *THERE), "cancel"),
        ("switch", Phase("promoting", *THERE), "switch"),
        # It may not run now, so another verb leads on.
        ("switch", Phase("prepared", *THERE), "precopy"),
        ("cancel", Phase("promoting", *THERE), "switch"),
        # Looking again changes nothing.
        ("verify", Phase("prepared", *THERE), "precopy"),
    ],
)
def test_after_an_error_the_verb_is_named_that_goes_on(
    verb: str, phase: Phase, following: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(Unit("shop", "kvm4", "kvm2", ()), cast("Cluster", None), {}, Options(), tmp_path, "")
    engine = Engine(setting, verb, lambda _event, _data: None)
    monkeypatch.setattr(engine, "phase", lambda: phase)
    assert engine.after(MoveError("failed", "no"))["next"] == following

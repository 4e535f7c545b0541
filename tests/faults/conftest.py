"""Fixtures for moves on a lab of their own: `LAB_NAME=faults LAB_DISK=4g python -m lab up --no-estate`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab import units
from lab.engine import connect
from lab.settings import Settings, from_environment
from tests.faults.__main__ import rig_on
from tests.faults.rig import Rig, heal


@pytest.fixture(scope="session")
def lab() -> Settings:
    settings = from_environment({**os.environ, "LAB_NAME": os.environ.get("LAB_NAME") or "faults"})
    if not settings.ssh_config.exists():
        pytest.exit(f"the lab {settings.name!r} is not up: LAB_NAME={settings.name} make lab-up", returncode=2)
    return settings


@pytest.fixture(scope="session")
def rig(lab: Settings) -> Iterator[Rig]:
    """The unit as Dokploy deploys it, with a snapshot of its beginning; no unit is left."""
    engine = connect(lab, start=False)
    assert engine is not None
    rig = rig_on(engine, lab, os.environ.get("UNIT_WAY") or units.WAYS[-1])
    yield rig
    heal(lab)
    units.down(lab, rig.unit)

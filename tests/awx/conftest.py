# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.awx.controller import Controller, running
from tests.awx.harness import PLAYBOOKS, Run, Setup


@pytest.fixture(scope="session")
def made() -> Iterator[tuple[Setup, Run]]:
    """A controller that one run has set up, and that run."""
    with running(PLAYBOOKS) as controller:
        setup = Setup(controller)
        yield setup, setup.run()


@pytest.fixture(scope="session")
def controller(made: tuple[Setup, Run]) -> Controller:
    """What the controller holds after that run. Tests that change it put it back."""
    setup, run = made
    assert run.status == 0, run.text[-3000:]
    return setup.controller


@pytest.fixture
def fresh() -> Iterator[Setup]:
    """A controller that nobody has set up."""
    with running(PLAYBOOKS) as controller:
        yield Setup(controller)

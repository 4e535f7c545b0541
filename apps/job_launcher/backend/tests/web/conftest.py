# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Iterator

import pytest
from job_launcher import passwords
from tests.web.harness import Site, launched


@pytest.fixture(scope="session", autouse=True)
def _quick_passwords() -> Iterator[None]:
    """Hash at a hundredth of the price; tests/unit has the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_N", 2**9)
        patch.setattr(passwords, "_P", 1)
        yield


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with launched(tmp_path_factory.mktemp("site")) as found:
        yield found

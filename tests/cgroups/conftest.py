"""Fixtures that make real cgroups on the machine the tests run on; they need root and no lab."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from lab.limited import LimitedGroup, limited_group


@pytest.fixture
def make_group() -> Iterator[Callable[[], LimitedGroup]]:
    """Make cgroups on this machine, named like containers'; they are taken away after the test."""
    if os.geteuid() != 0:
        pytest.skip("making cgroups needs root")
    with contextlib.ExitStack() as stack:

        def make() -> LimitedGroup:
            try:
                return stack.enter_context(limited_group())
            except OSError as error:
                pytest.skip(f"cgroups can't be made here: {error}")

        yield make


@pytest.fixture
def group(make_group: Callable[[], LimitedGroup]) -> LimitedGroup:
    return make_group()

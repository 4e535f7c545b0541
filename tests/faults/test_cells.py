"""A few cells of the matrix, where most can go wrong; `make test-faults` runs all of them."""

from __future__ import annotations

import pytest

from tests.faults.__main__ import planned
from tests.faults.cell_run import run_cell
from tests.faults.cells import Cell, fast
from tests.faults.rig import Rig

FAST_CELLS = 6


@pytest.fixture(scope="module")
def fast_cells(rig: Rig) -> list[Cell]:
    return fast(planned(rig))


@pytest.mark.fast
@pytest.mark.parametrize("number", range(FAST_CELLS))
def test_a_broken_move_loses_nothing(rig: Rig, fast_cells: list[Cell], number: int) -> None:
    assert len(fast_cells) == FAST_CELLS
    outcome = run_cell(rig, fast_cells[number])
    assert outcome.passed, f"{outcome.cell}: {outcome.problems}"
    assert outcome.hit, f"{outcome.cell}: the fault never came about"

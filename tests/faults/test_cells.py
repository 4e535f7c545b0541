"""A few cells of the matrix, where most can go wrong; `make test-faults` runs all of them."""

from __future__ import annotations

import pytest

from tests.faults.cell_run import run_cell
from tests.faults.cells import Cell, fast
from tests.faults.rig import Rig


@pytest.mark.fast
@pytest.mark.parametrize("cell", fast(), ids=lambda cell: cell.id)
def test_a_broken_move_loses_nothing(rig: Rig, cell: Cell) -> None:
    outcome = run_cell(rig, cell)
    assert outcome.passed, f"{outcome.cell}: {outcome.problems}"
    assert outcome.hit, f"{outcome.cell}: the fault never came about"

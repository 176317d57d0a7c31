"""RFLO: what a weight does to its own unit, carried on by the unit's leak alone."""

from dataclasses import dataclass

import numpy as np

from sparsegrad.cells.cell import Cell
from sparsegrad.methods.traces import TraceEngine


@dataclass(frozen=True)
class RFLO:
    """Random feedback local online learning (Murray 2019), with the exact learning signal.

    Each weight's influence on its own unit is carried through the unit's own leak alone: D without
    any recurrent weight. For a cell without a leak (the vanilla one) nothing is carried.
    Murray's leak is a constant of the cell, 1 - α; a gated cell's is what its gates make it at each
    step: z of a GRU, f of an LSTM's c.
    """

    def engine(self, cell: Cell, batch: int, threads: int | None) -> "TraceEngine":
        """Prepare the method for a cell, a batch and at most so many threads."""
        n_maps = len(cell.kind.maps)
        return TraceEngine(cell, batch, np.full(cell.units * n_maps, -1, np.int32), threads)

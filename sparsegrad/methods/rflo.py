"""RFLO: what a weight does to its own unit, carried on by the unit's leak alone."""

from dataclasses import dataclass

import numpy as np

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.stack import Stack, one_cell
from sparsegrad.methods.engine import Engine
from sparsegrad.methods.traces import TraceEngine
from sparsegrad.methods.window import check_window, goes_back, windowed


@dataclass(frozen=True)
class RFLO:
    """Random feedback local online learning (Murray 2019), with the exact learning signal.

    Each weight's influence on its own unit is carried through the unit's own leak alone: D without
    any recurrent weight. For a cell without a leak (the vanilla one) nothing is carried.
    Murray's leak is a constant of the cell, 1 - α; a gated cell's is what its gates make it at each
    step: z of a GRU, f of an LSTM's c.

    Parameters
    ----------
    window : int, optional
        Steps of a window: exact inside by BPTT, with one update at its end; what came before it
        enters through the influence. Default: none, an update at every step.

    Raises
    ------
    TypeError
        If `window` is not an integer.
    ValueError
        If `window` is below 1.
    """

    window: int | None = None

    def __post_init__(self) -> None:
        check_window(self)

    def engine(self, cell: Cell | Stack, batch: int, threads: int | None) -> Engine:
        """Prepare the method for a cell, a batch and at most so many threads."""
        cell = one_cell(cell, "RFLO")
        none = np.full(cell.units * len(cell.kind.maps), -1, np.int32)
        traces = TraceEngine(cell, batch, none, threads, keeps_h=goes_back(self.window))
        return windowed(traces, self.window)

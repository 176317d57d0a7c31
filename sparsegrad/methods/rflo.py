"""RFLO, and the engine that it shares with SnAp-1."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.kernels.simd import SLACK
from sparsegrad.kernels.steps import Chunk, Learner, Streams
from sparsegrad.kernels.traces import run_traces
from sparsegrad.methods.engine import Outcome


@dataclass(frozen=True)
class RFLO:
    """Random feedback local online learning (Murray 2019), with the exact learning signal.

    Each weight's influence on its own unit is carried through the unit's own leak alone: D without
    any recurrent weight. For a cell without a leak (the vanilla one) nothing is carried.
    """

    def engine(self, cell: Cell, batch: int, threads: int | None) -> "TraceEngine":
        """Prepare the method for a cell, a batch and at most so many threads."""
        n_maps = len(cell.kind.maps)
        return TraceEngine(cell, batch, np.full(cell.units * n_maps, -1, np.int32))


class TraceEngine:
    """One trace per non-zero of I.

    Parameters
    ----------
    cell : Cell
        The cell.
    batch : int
        Streams.
    own_weight : int32 array, (units * maps,)
        The weight of each unit on itself through each map, if the traces follow it; else -1.
    """

    def __init__(self, cell: Cell, batch: int, own_weight: NDArray[np.int32]) -> None:
        count, n_maps = cell.kind.components, len(cell.kind.maps)
        carried = np.diff(cell.kind.partials.map_indptr)
        fan_in = np.diff(cell.maps.indptr[::n_maps])
        if count == 1 and (carried == 1).all():
            entries = _padded(fan_in)
        else:
            entries = _padded(np.diff(cell.maps.indptr)) * np.tile(carried, cell.units)
        longest = int(_padded(fan_in).max())
        self.cell = cell
        self.own_weight = own_weight
        self.traces = np.zeros((batch, entries.sum()), cell.dtype)
        self._blocks = np.zeros((count, count, cell.units), cell.dtype)
        self._drive = np.zeros(longest, cell.dtype)
        self._old = np.zeros(count * longest, cell.dtype)

    def run(self, learner: Learner, chunk: Chunk, streams: Streams) -> Outcome:
        """Run a chunk through the compiled loop."""
        kind = self.cell.kind
        update = kind.compiled(self.cell.dtype)
        return Outcome(
            *run_traces(
                update,
                learner,
                kind.partials,
                self.own_weight,
                chunk,
                streams,
                self.traces,
                self._blocks,
                self._drive,
                self._old,
            )
        )

    def flush(self, learner: Learner) -> None:
        """Nothing is held back."""

    def fresh(self) -> "TraceEngine":
        """Return an engine for the same cell at the start of its sequences."""
        return TraceEngine(self.cell, self.traces.shape[0], self.own_weight)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is carried from step to step."""
        return {"traces": self.traces}


def own_weights(cell: Cell) -> NDArray[np.int32]:
    """Return the weight of each unit on itself, (units * maps,), or -1 where there is none."""
    row = np.repeat(np.arange(cell.maps.indptr.size - 1), np.diff(cell.maps.indptr))
    own = np.flatnonzero(cell.maps.indices == row // len(cell.kind.maps))
    weights = np.full(cell.maps.indptr.size - 1, -1, np.int32)
    weights[row[own]] = own
    return weights


def _padded(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Round lengths up to whole vectors."""
    return -(-lengths // SLACK) * SLACK

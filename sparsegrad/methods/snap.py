"""SnAp-n, and exact real-time recurrent learning as its saturated case."""

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern
from sparsegrad.kernels.snap import Program, run_snap
from sparsegrad.kernels.steps import Chunk, Learner, Streams
from sparsegrad.methods.engine import Outcome
from sparsegrad.methods.rflo import TraceEngine, own_weights
from sparsegrad.pattern import ReachPattern, reach


@dataclass(frozen=True)
class SnAp:
    """Sparse n-step approximation of RTRL (Menick et al. 2021, arXiv 2006.07232).

    Parameters
    ----------
    n : int
        Steps of reach, at least 1: a weight's influence is kept on the units that it reaches
        within n steps.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is below 1.
    """

    n: int

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not hasattr(self.n, "__index__"):
            raise TypeError(f"n must be an integer of at least 1, got {self.n!r}")
        if operator.index(self.n) < 1:
            raise ValueError(f"n must be at least 1, got {self.n}; RTRL() takes all steps")

    def engine(self, cell: Cell, batch: int) -> "TraceEngine | InfluenceEngine":
        """Prepare the method for a cell and a batch."""
        if self.n == 1:
            return TraceEngine(cell, batch, own_weights(cell))
        return InfluenceEngine(cell, batch, self.n)


@dataclass(frozen=True)
class RTRL:
    """Exact real-time recurrent learning: SnAp-n on the saturated pattern."""

    def engine(self, cell: Cell, batch: int) -> "InfluenceEngine":
        """Prepare the method for a cell and a batch."""
        return InfluenceEngine(cell, batch, None)


class InfluenceEngine:
    """The influence matrix on its reach pattern.

    Parameters
    ----------
    cell : Cell
        The cell.
    batch : int
        Streams.
    n : int or None
        Steps of reach; None to saturate.
    pattern : ReachPattern, optional
        The pattern, if it is known already.
    """

    def __init__(
        self, cell: Cell, batch: int, n: int | None, pattern: ReachPattern | None = None
    ) -> None:
        self.cell = cell
        self.n = n
        dynamics, self._dynamics = dynamics_pattern(cell)
        self.pattern = pattern or reach(dynamics, immediate_pattern(cell), n)
        p, dtype = self.pattern, cell.dtype
        self.program = Program(
            dynamics_indptr=p.dynamics_indptr,
            dynamics_indices=p.dynamics_indices,
            immediate_indptr=p.immediate_indptr,
            immediate_indices=p.immediate_indices,
            reach_indptr=p.indptr,
            reach_indices=p.indices,
            dynamics_data=np.zeros((batch, p.dynamics_indices.size), dtype),
            immediate_data=np.zeros((batch, p.immediate_indices.size), dtype),
            influence=np.zeros((batch, p.nnz), dtype),
            step_grad=np.zeros(cell.weights.size, dtype),
            work=np.zeros(cell.states, dtype),
        )

    def run(self, learner: Learner, chunk: Chunk, streams: Streams) -> Outcome:
        """Run a chunk through the compiled loop."""
        kind = self.cell.kind
        update = kind.compiled(self.cell.dtype)
        return Outcome(
            *run_snap(update, learner, kind.partials, self._dynamics, chunk, streams, self.program)
        )

    def flush(self, learner: Learner) -> None:
        """Nothing is held back."""

    def fresh(self) -> "InfluenceEngine":
        """Return an engine for the same cell at the start of its sequences."""
        batch = self.program.influence.shape[0]
        return InfluenceEngine(self.cell, batch, self.n, self.pattern)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is carried from step to step."""
        return {"influence": self.program.influence}

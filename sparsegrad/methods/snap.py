"""SnAp-n, and exact real-time recurrent learning as its saturated case."""

import operator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern
from sparsegrad.influence.influence import Influence
from sparsegrad.kernels.learning.steps import Chunk, Learner, Streams
from sparsegrad.kernels.methods.snap import Numbers, run_snap
from sparsegrad.methods.engine import Layout, Outcome
from sparsegrad.methods.rflo import TraceEngine, own_weights
from sparsegrad.symbolic.pattern import ReachPattern, reach


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

    def engine(
        self, cell: Cell, batch: int, threads: int | None
    ) -> "TraceEngine | InfluenceEngine":
        """Prepare the method for a cell, a batch and at most so many threads."""
        if self.n == 1:
            return TraceEngine(cell, batch, own_weights(cell), threads)
        return _prepare(cell, self.n, batch, threads)


@dataclass(frozen=True)
class RTRL:
    """Exact real-time recurrent learning: SnAp-n on the saturated pattern."""

    def engine(self, cell: Cell, batch: int, threads: int | None) -> "InfluenceEngine":
        """Prepare the method for a cell, a batch and at most so many threads."""
        return _prepare(cell, None, batch, threads)


class InfluenceEngine:
    """The influence matrix on its reach pattern.

    Parameters
    ----------
    cell : Cell
        The cell.
    pattern : ReachPattern
        Its reach.
    batch : int
        Streams.
    threads : int, optional
        At most so many threads; default Numba's number.
    """

    def __init__(self, cell: Cell, pattern: ReachPattern, batch: int, threads: int | None) -> None:
        self.cell = cell
        self.pattern = pattern
        self.layout = Layout(cell, batch, False, True, threads)
        self.steps = self.layout.steps(cell, batch, 1)
        # The compiled loop holds the parallel kernel. Numba starts its threads when it compiles or
        # loads that kernel itself, not when it loads a loop around it: without this a loop out of
        # the cache crashes, on one thread too.
        numba.get_num_threads()
        self.influence = Influence(pattern, batch, cell.dtype, threads)
        self._dynamics = dynamics_pattern(cell)[1]
        self._threads = threads
        self._kernels = self.influence.kernels()
        self._numbers = Numbers(
            cuts=self.influence.cuts,
            dynamics_data=np.zeros((batch, pattern.dynamics_indices.size), cell.dtype),
            immediate_data=np.zeros((batch, pattern.immediate_indices.size), cell.dtype),
            influence=self.influence.panels,
            step_grad=np.zeros(cell.weights.size, cell.dtype),
            scratch=self.influence.scratch,
        )

    def run(self, learner: Learner, chunk: Chunk, streams: Streams) -> Outcome:
        """Run a chunk through the compiled loop."""
        kind = self.cell.kind
        return Outcome(
            *run_snap(
                kind.compiled(self.cell.dtype),
                learner,
                kind.partials,
                self._dynamics,
                chunk,
                streams,
                self.steps,
                *self._kernels,
                self.influence.program,
                self._numbers,
            )
        )

    def flush(self, learner: Learner) -> None:
        """Nothing is held back."""

    def fresh(self) -> "InfluenceEngine":
        """Return an engine for the same cell at the start of its sequences."""
        return InfluenceEngine(self.cell, self.pattern, self.influence.batch, self._threads)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is carried from step to step."""
        return {"influence": self.influence.panels}


def _prepare(cell: Cell, n: int | None, batch: int, threads: int | None) -> InfluenceEngine:
    pattern = reach(dynamics_pattern(cell)[0], immediate_pattern(cell), n)
    return InfluenceEngine(cell, pattern, batch, threads)

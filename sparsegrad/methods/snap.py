"""SnAp-n, and exact real-time recurrent learning as its saturated case."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern
from sparsegrad.influence.influence import Influence
from sparsegrad.kernels.learning.steps import Chunk, Learner, Streams
from sparsegrad.kernels.methods.snap import Jacobians, run_snap
from sparsegrad.methods.engine import Layout, Outcome
from sparsegrad.methods.traces import TraceEngine, own_weights
from sparsegrad.symbolic.pattern import ReachPattern, reach
from sparsegrad.system.checks import integer
from sparsegrad.system.threads import start_threads

if TYPE_CHECKING:
    from scipy.sparse import csr_array


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
        object.__setattr__(
            self, "n", integer("n", self.n, least=1, hint="; RTRL() takes all steps")
        )

    def engine(
        self, cell: Cell, batch: int, threads: int | None
    ) -> "TraceEngine | InfluenceEngine":
        """Prepare the method for a cell, a batch and at most so many threads."""
        if self.n == 1:
            return TraceEngine(cell, batch, own_weights(cell), threads)
        return influence_engine(cell, self.n, batch, threads)


@dataclass(frozen=True)
class RTRL:
    """Exact real-time recurrent learning: SnAp-n on the saturated pattern."""

    def engine(self, cell: Cell, batch: int, threads: int | None) -> "InfluenceEngine":
        """Prepare the method for a cell, a batch and at most so many threads."""
        return influence_engine(cell, None, batch, threads)


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
        start_threads()
        self.influence = Influence(pattern, batch, cell.dtype, threads)
        self._threads = threads
        self._jacobians = Jacobians(
            dynamics=dynamics_pattern(cell)[1],
            dynamics_data=np.zeros((batch, pattern.dynamics_indices.size), cell.dtype),
            immediate_data=np.zeros((batch, pattern.immediate_indices.size), cell.dtype),
        )
        self._shared, self._store = self.influence.kernels()[1], self.influence.store()

    def run(self, learner: Learner, chunk: Chunk, streams: Streams) -> Outcome:
        """Run a chunk through the compiled loop."""
        kind = self.cell.kind
        return Outcome(
            *run_snap(
                kind.compiled(self.cell.dtype),
                learner,
                kind.partials,
                self._jacobians,
                chunk,
                streams,
                self.steps,
                self._shared,
                self._store,
            )
        )

    def flush(self, learner: Learner) -> None:
        """Nothing is held back."""

    def fresh(self) -> "InfluenceEngine":
        """Return an engine for the same cell at the start of its sequences."""
        return InfluenceEngine(self.cell, self.pattern, self.influence.batch, self._threads)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return J of each stream, weight by weight on the pattern."""
        influence = self.influence
        return {f"influence.{b}": influence.to_scipy(b).data for b in range(influence.batch)}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what :meth:`state` returned."""
        from scipy.sparse import csc_array  # 0.1 s to import, which a learner need not wait for

        pattern = self.pattern
        for b in range(self.influence.batch):
            kept = (state[f"influence.{b}"], pattern.indices, pattern.indptr)
            self.influence.from_scipy(csc_array(kept, pattern.shape[::-1]), b)

    def dynamics(self, b: int = 0) -> "csr_array":
        """Return D of the last step of stream `b`, (states, states)."""
        from scipy.sparse import csr_array

        pattern = self.pattern
        states = pattern.shape[1]
        values = self._jacobians.dynamics_data[b]
        kept = (values, pattern.dynamics_indices, pattern.dynamics_indptr)
        return csr_array(kept, (states, states))


def influence_engine(cell: Cell, n: int | None, batch: int, threads: int | None) -> InfluenceEngine:
    """Find the reach of a cell's weights in `n` steps, None for all, and prepare for it."""
    pattern = reach(dynamics_pattern(cell)[0], immediate_pattern(cell), n)
    return InfluenceEngine(cell, pattern, batch, threads)

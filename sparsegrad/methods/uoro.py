"""Unbiased online recurrent optimisation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.stack import Stack, one_cell
from sparsegrad.kernels.learning.steps import Chunk, Learner, Streams
from sparsegrad.kernels.methods.uoro import RankOne, run_uoro
from sparsegrad.kernels.methods.window import close_rank_one
from sparsegrad.methods.engine import Engine, Layout, Outcome, copy_into
from sparsegrad.methods.window import Carried, check_window, windowed
from sparsegrad.system.checks import integer


@dataclass(frozen=True)
class UORO:
    """Unbiased estimate of the influence by one outer product (Tallec and Ollivier 2017).

    Parameters
    ----------
    seed : int
        Seed of the random signs, at least 0; every batch element has its own sequence of them.
    window : int, optional
        Steps of a window: exact inside by BPTT, with one update at its end; what came before it
        enters through the estimate, which stays unbiased. Default: none, an update at every step.

    Raises
    ------
    TypeError
        If `seed` or `window` is not an integer.
    ValueError
        If `seed` is below 0, or `window` below 1.
    """

    seed: int = 0
    window: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", integer("seed", self.seed, least=0))
        check_window(self)

    def engine(self, cell: Cell | Stack, batch: int, threads: int | None) -> Engine:
        """Prepare the method for a cell, a batch and at most so many threads."""
        cell = one_cell(cell, "UORO")
        return windowed(RankOneEngine(cell, batch, self.seed, threads), self.window)


class RankOneEngine:
    """The two factors of the estimate, per batch element.

    Parameters
    ----------
    cell, batch, threads
        As in :class:`Layout`.
    seed : int
        Seed of the signs.
    """

    def __init__(self, cell: Cell, batch: int, seed: int, threads: int | None) -> None:
        self.cell, self.batch = cell, batch
        self.layout = Layout(cell, batch, False, True, threads)
        self.steps = self.layout.steps(cell, batch, 1)
        self.seed = seed
        shape, weights, dtype = (cell.kind.components, cell.units), cell.weights.size, cell.dtype
        # an odd number is never 0, the one state in which the generator would stay
        random = np.random.SeedSequence(seed).generate_state(batch, np.uint64) | np.uint64(1)
        self.estimate = RankOne(
            left=np.zeros((batch, *shape), dtype),
            right=np.zeros((batch, weights), dtype),
            random=random,
            pushed=np.zeros((batch, *shape), dtype),
            squares=np.zeros((batch, 2)),
            signs=np.zeros((self.layout.threads, *shape), dtype),
            drawn=np.zeros((self.layout.threads, weights), dtype),
            along=np.zeros(batch, dtype),
        )

    def run(self, learner: Learner, chunk: Chunk, streams: Streams) -> Outcome:
        """Run a chunk through the compiled loop."""
        kind = self.cell.kind
        update = kind.compiled(self.cell.dtype)
        return Outcome(
            *run_uoro(update, learner, kind.partials, chunk, streams, self.steps, self.estimate)
        )

    def window_values(self, window: int) -> int:
        """Return 0: a window needs no more than its steps."""
        return 0

    def carried(self, window: int) -> Carried:
        """Return how a window is closed, and the estimate that it takes along."""
        return Carried(close_rank_one, self.estimate, self.estimate.right, self.cell.kind.partials)

    def flush(self, learner: Learner) -> None:
        """Nothing is held back."""

    def fresh(self) -> "RankOneEngine":
        """Return an engine for the same cell at the start of its sequences, with the same seed."""
        return RankOneEngine(self.cell, self.batch, self.seed, self.layout.threads)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the two factors and where the random signs are."""
        return {name: getattr(self.estimate, name) for name in ("left", "right", "random")}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what :meth:`state` returned.

        Raises
        ------
        ValueError
            If a generator's state is 0, which it would keep for ever.
        """
        if not state["random"].all():
            raise ValueError("random must not be 0")
        copy_into(self.state(), state)

    def carry(self, before: "RankOneEngine", origin: NDArray[np.int64]) -> None:
        """Take over the factor of the states, that of the weights which were there, the signs."""
        kept = origin >= 0
        right = np.zeros_like(self.estimate.right)
        right[:, kept] = before.estimate.right[:, origin[kept]]
        copy_into(self.state(), before.state() | {"right": right})

"""Backpropagation through time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.kernels.learning.steps import FINE, Chunk, Learner, Streams
from sparsegrad.kernels.methods.bptt import History, run_bptt, unroll
from sparsegrad.methods.engine import Layout, Outcome, copy_into
from sparsegrad.system.checks import integer
from sparsegrad.system.memory import aligned_zeros


@dataclass(frozen=True)
class BPTT:
    """Backpropagation through time, on the sparse maps.

    Parameters
    ----------
    window : int, optional
        Steps to go back: after every `window` steps, a backward pass and an update; the state goes
        on. Default: all the steps that one call gets.

    Raises
    ------
    ValueError
        If `window` is below 1.
    """

    window: int | None = None

    def __post_init__(self) -> None:
        if self.window is not None:
            window = integer("window", self.window, least=1, hint="; None takes all steps")
            object.__setattr__(self, "window", window)

    def engine(self, cell: Cell, batch: int, threads: int | None) -> "HistoryEngine":
        """Prepare the method for a cell, a batch and at most so many threads."""
        return HistoryEngine(cell, batch, self.window, threads)


class HistoryEngine:
    """The steps since the last backward pass.

    Parameters
    ----------
    cell : Cell
        The cell.
    batch : int
        Streams.
    window : int or None
        Steps to hold; None for as many as each call brings.
    threads : int, optional
        At most so many threads; default Numba's number.
    """

    def __init__(self, cell: Cell, batch: int, window: int | None, threads: int | None) -> None:
        self.cell = cell
        self.layout = Layout(cell, batch, True, False, threads)
        self.batch = batch
        self.window = window
        self.history = self._allocate()
        self.steps = self.layout.steps(cell, batch, window or 1)

    def run(self, learner: Learner, chunk: Chunk, streams: Streams) -> Outcome:
        """Run a chunk through the compiled loop."""
        steps = chunk.xs.shape[0]
        if self.window is None:
            if chunk.first == 0:
                if self.steps.sources.shape[0] != steps:
                    self.steps = self.layout.steps(self.cell, self.batch, steps)
                # a call that was stopped half way may have left its part behind
                self.history.filled[0] = 0
                streams.since[0] = 0
                learner.grad[:] = 0
                learner.readout_grad_flat[:] = 0
            if learner.update_every:
                learner = learner._replace(update_every=steps)
        kind = self.cell.kind
        update = kind.compiled(self.cell.dtype)
        outcome = Outcome(
            *run_bptt(update, learner, kind.partials, chunk, streams, self.steps, self.history)
        )
        if outcome.fault != FINE:
            self._forget_unfilled()
        return outcome

    def flush(self, learner: Learner) -> None:
        """Add the gradient of the steps that are still held back."""
        partials = self.cell.kind.partials
        unroll(learner, partials, self.layout.abreast, self.steps, self.history)

    def fresh(self) -> "HistoryEngine":
        """Return an engine for the same cell at the start of its sequences."""
        return HistoryEngine(self.cell, self.batch, self.window, self.layout.threads)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the steps that are held; none without a window, as every call ends with them."""
        if self.window is None:
            return {}
        steps = self.steps._asdict()
        del steps["gathered"]  # empty: the backward pass gathers for itself
        return {"filled": self.history.filled, **steps}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what :meth:`state` returned.

        Raises
        ------
        ValueError
            If it holds as many steps as the window or more: the next one would have no place.
        """
        held = int(state["filled"][0]) if state else 0
        if not 0 <= held < (self.window or 1):
            raise ValueError(f"filled must lie in [0, {self.window}), got {held}")
        copy_into(self.state(), state)

    def _forget_unfilled(self) -> None:
        """Clear the place of the next step: a bad one has left there what no file may hold."""
        filled = int(self.history.filled[0])
        for array in self.steps:
            array[filled:] = 0
        self.steps.sources[filled:, :, -self.layout.abreast :] = 1

    def _allocate(self) -> History:
        cell, layout = self.cell, self.layout
        shape = layout.groups, cell.kind.components, cell.units * layout.abreast
        return History(
            filled=np.zeros(1, np.int64),
            adjoint=aligned_zeros((2, *shape), cell.dtype),
            h_before=aligned_zeros((layout.parts.size - 1, shape[0], shape[2]), cell.dtype),
        )

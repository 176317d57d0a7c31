"""Backpropagation through time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.stack import Stack, one_cell
from sparsegrad.kernels.learning.steps import FINE, Chunk, Learner, Streams
from sparsegrad.kernels.methods.bptt import run_bptt, unroll
from sparsegrad.kernels.methods.rolling import Replay, run_rolling
from sparsegrad.methods.engine import Engine, Layout, Outcome, copy_into
from sparsegrad.methods.window import (
    check_held,
    check_window,
    forget_unfilled,
    new_history,
    require_history,
)
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
    update_every : int, optional
        1 for rolling BPTT (BPTT(h) of Williams and Peng 1990): at each step the last `window` steps
        are run again from the state before them, under the weights of today, and the gradient of
        the newest loss through all of them makes an update. A step then costs `window` forward
        passes and as many backward ones. Default: the window, which is run once.

    Raises
    ------
    TypeError
        If `window` is not an integer.
    ValueError
        If `window` is below 1, or `update_every` is not 1 or has no window beside it.
    """

    window: int | None = None
    update_every: int | None = None

    def __post_init__(self) -> None:
        check_window(self)
        if self.update_every is None:
            return
        integer("update_every", self.update_every, 1, 1, "; 1 is rolling BPTT, else leave it out")
        if self.window is None:
            raise ValueError("update_every=1 must have a window beside it, got None; say how long")

    def engine(self, cell: Cell | Stack, batch: int, threads: int | None) -> Engine:
        """Prepare the method for a cell, a batch and at most so many threads."""
        if self.update_every is not None and self.window is not None:
            return RollingEngine(one_cell(cell, "rolling BPTT"), batch, self.window, threads)
        return HistoryEngine(cell, batch, self.window, threads)


class HistoryEngine:
    """The steps since the last backward pass.

    Parameters
    ----------
    cell, batch, threads
        As in :class:`Layout`.
    window : int or None
        Steps to hold; None for as many as each call brings.
    """

    def __init__(
        self, cell: Cell | Stack, batch: int, window: int | None, threads: int | None
    ) -> None:
        self.cell = cell
        self.layout = Layout(cell, batch, True, False, threads)
        self.batch = batch
        self.window = window
        require_history(window or 1, cell, batch, self.layout)
        self.history = new_history(cell, self.layout)
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
        update, partials = self.cell.running()
        outcome = Outcome(
            *run_bptt(update, learner, partials, chunk, streams, self.steps, self.history)
        )
        if outcome.fault != FINE:
            forget_unfilled(self.cell, self.steps, self.history, self.layout)
        return outcome

    def flush(self, learner: Learner) -> None:
        """Add the gradient of the steps that are still held back."""
        partials = self.cell.running()[1]
        unroll(learner, partials, self.layout.abreast, self.steps, self.history)

    def signals(self, held: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return ∂L_t/∂a_t of each row of the maps, and what they read, of the last steps.

        Parameters
        ----------
        held : int
            How many steps: as many as the last call brought.

        Returns
        -------
        float64 array, (held * batch, units * maps)
        float64 array, (held * batch, units + inputs + 1)
        """
        cell = one_cell(self.cell, "probe")
        steps, abreast = self.steps, self.layout.abreast
        groups, units = self.layout.groups, cell.units
        by_lane = held, groups, -1, units, abreast
        slopes = steps.d_pre[:held, :, 0].reshape(by_lane).astype(np.float64)  # h alone is scored
        of_h = steps.state_grad[:held, :, : units * abreast].reshape(by_lane)
        signals = (slopes * of_h).transpose(0, 1, 4, 3, 2)
        sources = steps.sources[:held].reshape(held, groups, -1, abreast).transpose(0, 1, 3, 2)
        lanes = held, groups * abreast, -1
        parts = signals.reshape(*lanes)[:, : self.batch], sources.reshape(*lanes)[:, : self.batch]
        one, other = (part.reshape(held * self.batch, -1).astype(np.float64) for part in parts)
        return one, other

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
        if state:
            check_held("filled", state, self.window or 1)
        copy_into(self.state(), state)

    def carry(self, before: "HistoryEngine", origin: NDArray[np.int64]) -> None:
        """Nothing is left of steps whose gradient is added."""


class RollingEngine:
    """The last steps and the state before them, run again at every step.

    Parameters
    ----------
    cell, batch, threads
        As in :class:`Layout`.
    window : int
        Steps to go back.
    """

    def __init__(self, cell: Cell, batch: int, window: int, threads: int | None) -> None:
        self.cell, self.batch, self.window = cell, batch, window
        self.layout = layout = Layout(cell, batch, True, False, threads)
        require_history(window, cell, batch, layout)
        self.history = new_history(cell, layout)
        self.steps = layout.steps(cell, batch, window)
        shape = layout.groups, cell.kind.components, cell.units * layout.abreast
        self._replay = Replay(
            held=np.zeros(1, np.int64),
            xs=np.zeros((window, batch, cell.inputs), cell.dtype),
            start=aligned_zeros(shape, cell.dtype),
            after=aligned_zeros(shape, cell.dtype),
            state=aligned_zeros(shape, cell.dtype),
        )

    def run(self, learner: Learner, chunk: Chunk, streams: Streams) -> Outcome:
        """Run a chunk through the compiled loop."""
        kind = self.cell.kind
        return Outcome(
            *run_rolling(
                kind.compiled(self.cell.dtype), learner, kind.partials, chunk, streams, self.steps,
                self.history, self._replay,
            )
        )  # fmt: skip

    def flush(self, learner: Learner) -> None:
        """Nothing is held back."""

    def replayed(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
        """Return the state before the steps that are held, their inputs and their resets."""
        replay, held = self._replay, int(self._replay.held[0])
        return replay.start, replay.xs[:held], self.steps.resets[:held]

    def fresh(self) -> "RollingEngine":
        """Return an engine for the same cell at the start of its sequences."""
        return RollingEngine(self.cell, self.batch, self.window, self.layout.threads)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the inputs of the steps that are held, and the state before them."""
        replay = self._replay
        return {
            "held": replay.held,
            "xs": replay.xs,
            "resets": self.steps.resets,
            "start": replay.start,
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what :meth:`state` returned.

        Raises
        ------
        ValueError
            If it holds as many steps as the window or more: the next one would have no place.
        """
        check_held("held", state, self.window)
        copy_into(self.state(), state)

    def carry(self, before: "RollingEngine", origin: NDArray[np.int64]) -> None:
        """Take the steps over: they are run again, on the weights of today."""
        copy_into(self.state(), before.state())

"""A cell of ours in a host's loop: its step, and the window of steps behind it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import NAMES, Cell
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern
from sparsegrad.interop.window import Ticket, Window
from sparsegrad.kernels.embed import (
    FINE,
    KINDS,
    Work,
    embedded_step,
    gather_weights,
    input_gradient,
    order_gradient,
)
from sparsegrad.pattern import reach


class CellWindow(Window):
    """A cell, its J, and the steps that J has yet to pass.

    Parameters
    ----------
    cell : GRU, LSTM or RNN
        Structure; its weights are overwritten with those that `forward` is given.
    n : int or None
        Steps of reach; None saturates (exact RTRL).
    threads : int
        At most so many threads.
    """

    def __init__(self, cell: Cell, n: int | None, threads: int) -> None:
        self.cell, self.n = cell, n
        dynamics, self._dynamics = dynamics_pattern(cell)
        super().__init__(reach(dynamics, immediate_pattern(cell), n), cell.dtype, threads)
        self.order = np.concatenate([parameter_order(cell, name) for name in present(cell)])
        self.order = self.order.astype(np.int32)
        components, n_maps, units = cell.kind.components, len(cell.kind.maps), cell.units
        self._work = Work(
            sources=np.ones(units + cell.inputs + 1, cell.dtype),
            pre=np.zeros((n_maps, units), cell.dtype),
            new_state=np.zeros((components, units), cell.dtype),
            d_state=np.zeros((components, components, units), cell.dtype),
        )
        self._kind = KINDS.index(cell.kind.update)
        self._spare_d_pre = np.zeros((1, components, n_maps, units), cell.dtype)
        self._none = np.zeros((1, 0), cell.dtype)

    def forward(
        self, parts: tuple[NDArray[Any], ...], x: NDArray[Any], state: NDArray[Any], wants: int
    ) -> tuple[NDArray[Any], Ticket | None]:
        """Run a step.

        Parameters
        ----------
        parts : tuple of float array
            The weights, one array per name.
        x, state : float array, (batch, inputs) and (batch, components, units)
        wants : int
            0: the state alone; 1: the gradient of x too; 2: the gradient of the weights too.

        Returns
        -------
        float array, (components, batch, units)
            The new state.
        Ticket or None
            To ask for gradients with, if any are wanted.

        Raises
        ------
        ValueError, FloatingPointError
            If x or the new state is not finite; no step was made then.
        """
        cell, batch = self.cell, x.shape[0]
        if gather_weights(parts, self.order, cell.weights):
            self.version += 1
        step, d_pre = None, self._spare_d_pre
        if wants:
            d_pre = np.empty((batch, *d_pre.shape[1:]), cell.dtype)
        if wants > 1:
            step = self.open(batch)
        new_state = np.empty((cell.kind.components, batch, cell.units), cell.dtype)
        outcome = embedded_step(
            self._kind, cell.maps, cell.kind.partials, self._dynamics, x, state, wants,
            new_state, d_pre, step.dynamics_data if step else self._none,
            step.immediate_data if step else self._none, self._work,
        )  # fmt: skip
        if outcome != FINE:
            if step:
                self.discard(step)
            _raise_fault(outcome, batch)
        if not wants:
            return new_state, None
        ticket = self.enter(step, d_pre) if step else Ticket(self.count, self.version, d_pre)
        return new_state, ticket

    def input_gradient(self, ticket: Ticket, state_grad: NDArray[Any]) -> NDArray[Any]:
        """Return ∂L_t/∂x of a step, (batch, inputs), from δ, (batch, states).

        Raises
        ------
        RuntimeError
            If the weights are no longer those that the step ran with.
        """
        if ticket.version != self.version:
            raise RuntimeError(
                "the weights must stay as they are between a step and its backward pass, "
                "got a step with other weights in between: update after backward"
            )
        x_grad = np.empty((state_grad.shape[0], self.cell.inputs), self.cell.dtype)
        input_gradient(self.cell.maps, self.cell.kind.partials, ticket.d_pre, state_grad, x_grad)
        return x_grad

    def gradient(self, signals: int) -> NDArray[Any]:
        """Return the gradient as `Window` does, in the order of the parts."""
        grad = super().gradient(signals)
        flat = np.empty_like(grad)
        order_gradient(grad, self.order, flat)
        return flat


def present(cell: Cell) -> tuple[str, ...]:
    """Names of the arrays that the cell has weights in; a name without any is absent."""
    return tuple(name for name in NAMES if name in cell._places)


def parameter_order(cell: Cell, name: str) -> NDArray[np.int64]:
    """Weight of each element of ``dense[name][mask]``, row by row."""
    weight, place = cell._places[name]
    return weight[np.argsort(place)]


def _raise_fault(outcome: int, batch: int) -> None:
    if outcome < batch:
        raise ValueError(f"x must be finite, got NaN or infinity in batch element {outcome}")
    raise FloatingPointError(
        f"the state must stay finite, it became NaN or infinite in batch element {outcome - batch}"
        "; lower the rate or clip"
    )

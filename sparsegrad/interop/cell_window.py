"""A cell of ours in a host's loop: its step, and the window of steps behind it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern
from sparsegrad.interop.addresses import (
    cell_arrays,
    cell_sizes,
    parameter_order,
    present,
    with_addresses,
)
from sparsegrad.interop.window import Ticket, Window
from sparsegrad.kernels.interop.embed import FINE, host_input_gradient, host_step
from sparsegrad.symbolic.pattern import reach


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

    Attributes
    ----------
    part_sizes : list of int
        Weights of each name that has any.
    """

    def __init__(self, cell: Cell, n: int | None, threads: int) -> None:
        self.cell, self.n = cell, n
        self.inputs, self.units, self.components = cell.inputs, cell.units, cell.kind.components
        self.part_sizes = [parameter_order(cell, name).size for name in present(cell)]
        pattern, dynamics = dynamics_pattern(cell)
        components, n_maps, units = cell.kind.components, len(cell.kind.maps), cell.units
        work = [
            cell.weights,
            np.ones(units + cell.inputs + 1, cell.dtype),
            *[np.zeros(shape, cell.dtype) for shape in (
                (components, units), (n_maps, units), (components, units),
                (components, components, units),
            )],
        ]  # fmt: skip
        self._arrays = [*cell_arrays(cell, dynamics), *work]  # the words' addresses
        self._words_of_cell = with_addresses(cell_sizes(cell, dynamics), self._arrays)
        order = self._arrays[-len(work) - 1]
        super().__init__(reach(pattern, immediate_pattern(cell), n), cell.dtype, threads, order)
        self._d_pre_shape = components, n_maps, units
        self._spare_d_pre = np.zeros((1, *self._d_pre_shape), cell.dtype)
        self._none = np.zeros((1, 0), cell.dtype)

    def forward(
        self,
        parts: NDArray[np.int64],
        batch: int,
        x: int,
        h: int,
        c: int,
        wants: int,
    ) -> tuple[NDArray[Any], Ticket | None]:
        """Run a step.

        Parameters
        ----------
        parts : int64 array, (names, 2)
            Address and size of the weights of each name.
        batch : int
            Sequences.
        x, h, c : int
            Addresses of the input, (batch, inputs), and of the state's components, (batch, units);
            without a second one, any c.
        wants : int
            1: the gradient of the input may be asked for; 2: that of the weights; 3: both; or 0.

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
        components, _, units = shape = self._d_pre_shape
        d_pre = np.empty((batch, *shape), self.dtype) if wants & 1 else self._spare_d_pre
        step = self.open(batch) if wants & 2 else None
        new_state = np.empty((components, batch, units), self.dtype)
        changed, outcome = host_step(
            self._words_of_cell, parts, x, h, c, wants, new_state, d_pre,
            step.dynamics_data if step else self._none,
            step.immediate_data if step else self._none,
        )  # fmt: skip
        self.version += changed
        if outcome != FINE:
            if step:
                self.discard(step)
            _raise_fault(outcome, batch)
        if step:
            return new_state, self.enter(step, d_pre)
        return new_state, Ticket(self.count, self.version, d_pre) if wants else None

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
        x_grad = np.empty((state_grad.shape[0], self.cell.inputs), self.dtype)
        host_input_gradient(self._words_of_cell, ticket.d_pre, state_grad, x_grad)
        return x_grad


def _raise_fault(outcome: int, batch: int) -> None:
    if outcome < batch:
        raise ValueError(f"x must be finite, got NaN or infinity in batch element {outcome}")
    raise FloatingPointError(
        f"the state must stay finite, it became NaN or infinite in batch element {outcome - batch}"
        "; lower the rate or clip"
    )

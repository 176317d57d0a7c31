"""A cell of ours in a host's loop: its time step, on the weights that the host holds."""

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern, own_pattern
from sparsegrad.interop.addresses import (
    cell_arrays,
    cell_sizes,
    parameter_order,
    present,
    require_cell,
    with_addresses,
)
from sparsegrad.interop.faults import raise_fault
from sparsegrad.interop.waiting import Ticket
from sparsegrad.interop.window import Window
from sparsegrad.kernels.interop.embed import FINE, host_input_gradient, host_step
from sparsegrad.symbolic.pattern import ReachPattern, reach


class HostCell:
    """A cell, and what its steps work in: one step at a time, whichever thread asks for it.

    Parameters
    ----------
    cell : Cell
        The structure. Its weights are overwritten with those that `forward` is given.
    n : int or None
        Steps of reach; None saturates (exact RTRL).
    threads : int
        At most so many threads.
    pattern : ReachPattern, optional
        That of these masks and this n, if it is known; by default found.

    Attributes
    ----------
    order : int32 array, (weights,)
        Weight of each element of the host's parameters.
    part_sizes : list of int
        Weights of each name that has any.
    version : int
        Of the weights: counts how often others came.

    Raises
    ------
    TypeError
        If it is no cell.
    RuntimeError
        If compilation is switched off.
    """

    def __init__(
        self, cell: Cell, n: int | None, threads: int, pattern: ReachPattern | None = None
    ) -> None:
        require_cell(cell)
        self.cell, self.n, self.threads, self.dtype = cell, n, threads, cell.dtype
        self.inputs, self.units, self.components = cell.inputs, cell.units, cell.kind.components
        self.part_sizes = [parameter_order(cell, name).size for name in present(cell)]
        self.version = 0
        structure, dynamics = dynamics_pattern(cell)
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
        self.words = with_addresses(cell_sizes(cell, dynamics), self._arrays)
        self.order = self._arrays[-len(work) - 1]
        if pattern is None:
            pattern = reach(structure, immediate_pattern(cell), n, own=own_pattern(cell))
        self.pattern = pattern
        self._d_pre_shape = components, n_maps, units
        self.spare_d_pre = np.zeros((1, *self._d_pre_shape), cell.dtype)
        self._untold = 0, np.zeros(0, np.bool_), np.zeros((components, 0, units), cell.dtype)
        self._no_data = (np.zeros((1, 0), cell.dtype),) * 2  # where D and I are not wanted
        self._turn = threading.Lock()

    def window(self, unrolls: bool = False) -> Window:
        """Return a J for sequences that have yet to begin; see `Window` for `unrolls`."""
        made = Window(self.pattern, self.dtype, self.threads, self.order, self.components, unrolls)
        made.owner = self
        return made

    def forward(
        self,
        window: Window,
        parts: NDArray[np.int64],
        batch: int,
        places: tuple[int, int, int],
        wants: int,
        sure: bool = False,
        learnable: bool = False,
    ) -> tuple[NDArray[Any], Ticket | None]:
        """Run a step.

        Parameters
        ----------
        window : Window
            Where D and I wait for their signal.
        parts : int64 array, (names, 2)
            Address and size of the weights of each name.
        batch : int
            Sequences.
        places : tuple of int
            Addresses of x, (batch, inputs), h, (batch, units), and the components beyond h, or any.
        wants : int
            1: the gradient of the input may be asked for; 2: that of the weights; 3: both; or 0.
        sure : bool
            Whether the state is certainly the one that the last step returned, if it equals that.
        learnable : bool
            Whether the state wants a gradient.

        Returns
        -------
        float array, (components, batch, units)
            The new state.
        Ticket or None
            To ask for gradients with, if any are wanted.

        Raises
        ------
        ValueError, FloatingPointError
            If x or the new state is not finite, or J is not that of the state; no step was made.
        """
        components, _, units = shape = self._d_pre_shape
        d_pre = np.empty((batch, *shape), self.dtype) if wants & 1 else self.spare_d_pre
        new_state = np.empty((components, batch, units), self.dtype)
        with self._turn:
            if not wants & 2:
                self._run(
                    batch, parts, places, wants, *self._untold, new_state, d_pre, *self._no_data
                )
                return new_state, Ticket(window, 0, self.version, d_pre) if wants else None
            step, told, starts = window.open(batch, sure, learnable)
            try:
                self._run(
                    batch, parts, places, wants, told, starts, window.last, new_state, d_pre,
                    step.dynamics_data, step.immediate_data,
                )  # fmt: skip
            except (FloatingPointError, ValueError):
                window.discard(step)
                raise
            return new_state, window.enter(step, starts, self.version, d_pre)

    def _run(self, batch: int, *given: Any) -> None:
        """Run the kernel on what it is given, and raise what it has found."""
        changed, outcome = host_step(self.words, *given)
        self.version += changed
        if outcome != FINE:
            raise_fault(outcome, batch)

    def input_gradient(self, ticket: Ticket, state_grad: NDArray[Any]) -> NDArray[Any]:
        """Return ∂L_t/∂x of a step, (batch, inputs), from δ, (batch, states).

        Raises
        ------
        RuntimeError
            If the weights are no longer those that the step ran with.
        """
        x_grad = np.empty((state_grad.shape[0], self.inputs), self.dtype)
        with self._turn:
            if ticket.version != self.version:
                raise RuntimeError(
                    "the weights must stay as they are between a step and its backward pass, "
                    "got a step with other weights in between: update after backward"
                )
            host_input_gradient(self.words, ticket.d_pre, state_grad, x_grad)
        return x_grad

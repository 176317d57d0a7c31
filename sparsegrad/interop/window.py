"""The steps of a cell that wait for their learning signal, and J behind them. NumPy alone.

A host framework runs a step forward now and says later, perhaps never, what δ_t = ∂L_t/∂s_t was.
So J stays where it is, behind, and each step leaves its D_t and I_t (a few numbers per weight,
against the hundreds of J's entries). When the signals arrive, J is led through the waiting steps
once, each updated and contracted in a single pass; a step whose graph is gone can no longer get a
signal, and J passes it without. Memory does not depend on the number of steps, only on how many
the host keeps alive.
"""

import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import NAMES, Cell
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern
from sparsegrad.influence import Influence
from sparsegrad.kernels.embed import (
    FINE,
    Work,
    embedded_step,
    gather_weights,
    input_gradient,
    order_gradient,
)
from sparsegrad.kernels.snap import Numbers, influence_step
from sparsegrad.pattern import ReachPattern, reach


class Ticket:
    """What the host's graph holds of a step; when the graph lets go, the step can be passed.

    Attributes
    ----------
    number : int
        The step's place in the window's count.
    version : int
        The weights that it ran with.
    d_pre : float array, (batch, components, maps, units)
        ∂s'/∂a, for the gradient of the input.
    """

    __slots__ = ("__weakref__", "d_pre", "number", "version")

    def __init__(self, number: int, version: int, d_pre: NDArray[Any]) -> None:
        self.number, self.version, self.d_pre = number, version, d_pre


class Waiting:
    """A step that J has not passed yet: its D and I, (batch, nnz), and where J begins anew."""

    __slots__ = ("dynamics_data", "immediate_data", "number", "resets", "ticket")

    def __init__(self, dynamics_data: NDArray[Any], immediate_data: NDArray[Any]) -> None:
        self.dynamics_data, self.immediate_data = dynamics_data, immediate_data
        self.number = 0
        self.resets: NDArray[np.bool_] | None = None
        self.ticket: weakref.ref[Ticket] | None = None

    def is_alive(self) -> bool:
        """Whether a signal may still come."""
        return self.ticket is not None and self.ticket() is not None


class Window:
    """A cell, its J on a reach pattern, and the steps that J has yet to pass.

    Parameters
    ----------
    cell : Cell
        Structure; its weights are overwritten with those that `forward` is given.
    n : int or None
        Steps of reach; None saturates (exact RTRL).
    threads : int
        At most so many threads.
    """

    def __init__(self, cell: Cell, n: int | None, threads: int) -> None:
        self.cell, self.n, self.threads = cell, n, threads
        dynamics, self._dynamics = dynamics_pattern(cell)
        self.pattern: ReachPattern = reach(dynamics, immediate_pattern(cell), n)
        self.order = np.concatenate([parameter_order(cell, name) for name in present(cell)])
        self.order = self.order.astype(np.int32)
        components, n_maps, units = cell.kind.components, len(cell.kind.maps), cell.units
        self._work = Work(
            sources=np.ones(units + cell.inputs + 1, cell.dtype),
            pre=np.zeros((n_maps, units), cell.dtype),
            new_state=np.zeros((components, units), cell.dtype),
            d_state=np.zeros((components, components, units), cell.dtype),
        )
        self._update = cell.kind.compiled(cell.dtype)
        self._spare_d_pre = np.zeros((1, components, n_maps, units), cell.dtype)
        self._none = np.zeros((1, 0), cell.dtype)
        self.version = 0
        self.count = 0
        self.passed = 0
        self.batch = 0
        self._waiting: deque[Waiting] = deque()
        self._signals: list[tuple[int, NDArray[Any]]] = []
        self.restart()

    @property
    def began(self) -> bool:
        """Whether J holds sequences, so that the batch size is fixed."""
        return not self._fresh

    def restart(self) -> None:
        """Begin new sequences, of any batch size, at the next step; J stays until then."""
        self._resets: NDArray[np.bool_] | None = None
        self._fresh = True

    def reset(self, which: NDArray[np.bool_]) -> None:
        """Begin a new sequence in some batch elements, bool (batch,), at the next step."""
        self._resets = which.copy() if self._resets is None else self._resets | which

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
            self._prepare(batch)
            step = self._free.pop() if self._free else self._new_step()
        new_state = np.empty((cell.kind.components, batch, cell.units), cell.dtype)
        outcome = embedded_step(
            self._update, cell.maps, cell.kind.partials, self._dynamics, x, state, wants,
            new_state, d_pre, step.dynamics_data if step else self._none,
            step.immediate_data if step else self._none, self._work,
        )  # fmt: skip
        if outcome != FINE:
            if step:
                self._free.append(step)
            _raise_fault(outcome, batch)
        if not wants:
            return new_state, None
        if step:
            self.count += 1
        ticket = Ticket(self.count, self.version, d_pre)
        if step:
            step.number, step.ticket = self.count, weakref.ref(ticket)
            step.resets, self._resets = self._resets, None
            self._waiting.append(step)
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

    def signal(self, ticket: Ticket, state_grad: NDArray[Any]) -> None:
        """Hand in the learning signal of a step, (batch, states), for the next `gradient`.

        Raises
        ------
        RuntimeError
            If J is past this step.
        """
        if ticket.number < self.passed:
            raise RuntimeError(
                f"backward must run in the order of the steps, got step {ticket.number} after J "
                f"went on to {self.passed}: sum the losses, and call backward before a new sequence"
            )
        self._signals.append((ticket.number, state_grad))

    def gradient(self, signals: int) -> NDArray[Any]:
        """Return Σ_t J_tᵀ δ_t over the last signals handed in, in the order of the parts.

        Older ones, of backward passes that did not ask for the weights, are dropped.
        """
        wanted = dict(self._signals[len(self._signals) - signals :])
        self._signals.clear()
        grad = np.zeros(self.cell.weights.size, self.cell.dtype)
        if self.passed in wanted:  # asked once more, with the graph retained
            grad += self.influence.contract(wanted[self.passed])
        while self._waiting and self._waiting[0].number <= max(wanted, default=0):
            step = self._waiting.popleft()
            self._pass(step, wanted.get(step.number), grad)
        flat = np.empty_like(grad)
        order_gradient(grad, self.order, flat)
        return flat

    def catch_up(self) -> None:
        """Lead J through the steps whose graph is gone."""
        while self._waiting and not self._waiting[0].is_alive():
            self._pass(self._waiting.popleft(), None, self._no_grad)

    def entries(self) -> NDArray[Any]:
        """Return a copy of J's kept entries after the last step, (batch, nnz)."""
        if self._fresh:
            return np.zeros((0, self.pattern.nnz), self.cell.dtype)
        self.catch_up()
        behind = self.influence.panels.copy() if self._waiting else None
        for step in self._waiting:  # of these the signals may still come, so J goes back
            self._advance(step, None, self._no_grad)
        if self._resets is not None:
            behind = self.influence.panels.copy() if behind is None else behind
            self.influence.panels[self._resets] = 0
        found = np.stack([self.influence.to_scipy(b).data for b in range(self.batch)])
        if behind is not None:
            self.influence.panels[:] = behind
        return found

    def set_entries(self, entries: NDArray[Any]) -> None:
        """Set J from `entries`, (batch, nnz), as after the last of some steps."""
        from scipy.sparse import csc_array

        self.restart()
        if not entries.shape[0]:
            return
        self._prepare(entries.shape[0])
        pattern = self.pattern
        for b in range(self.batch):
            matrix = csc_array(
                (entries[b], pattern.indices, pattern.indptr), shape=pattern.shape[::-1]
            )
            self.influence.from_scipy(matrix, b)

    def _prepare(self, batch: int) -> None:
        """Have J for this batch, zero if the sequences begin here."""
        if not self._fresh:
            self.catch_up()
            return
        self._waiting.clear()
        self._signals.clear()
        self.count += 1  # signals of what came before are refused
        self.passed = self.count
        if batch != self.batch:
            cell, pattern = self.cell, self.pattern
            self.influence = Influence(pattern, batch, cell.dtype, self.threads)
            self.batch = batch
            self._free: list[Waiting] = []
            self._no_grad = np.zeros(cell.weights.size, cell.dtype)
            self._numbers = Numbers(
                cuts=self.influence._cuts,
                dynamics_data=self._none,
                immediate_data=self._none,
                influence=self.influence.panels,
                step_grad=np.zeros(cell.weights.size, cell.dtype),
                dense=self.influence._dense,
                scratch=self.influence._scratch,
            )
            self._no_signal = np.zeros((batch, cell.states), cell.dtype)
        self.influence.reset()
        self._fresh = False

    def _new_step(self) -> Waiting:
        pattern, dtype = self.pattern, self.cell.dtype
        return Waiting(
            np.zeros((self.batch, pattern.dynamics_indices.size), dtype),
            np.zeros((self.batch, pattern.immediate_indices.size), dtype),
        )

    def _pass(self, step: Waiting, state_grad: NDArray[Any] | None, grad: NDArray[Any]) -> None:
        self._advance(step, state_grad, grad)
        self.passed = step.number
        self._free.append(step)

    def _advance(self, step: Waiting, state_grad: NDArray[Any] | None, grad: NDArray[Any]) -> None:
        """Update J by a step, and add the step's gradient where it has a signal."""
        if step.resets is not None:
            self.influence.panels[step.resets] = 0
        numbers = self._numbers._replace(
            dynamics_data=step.dynamics_data, immediate_data=step.immediate_data
        )
        scored = state_grad is not None
        delta = state_grad if scored else self._no_signal
        influence_step(self.influence.program, numbers, scored, delta, grad)


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

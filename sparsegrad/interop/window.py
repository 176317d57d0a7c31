"""Steps that wait for their learning signal, and J behind them. NumPy alone.

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

from sparsegrad.influence.influence import Influence
from sparsegrad.interop.addresses import program_arrays, program_sizes, with_addresses
from sparsegrad.kernels.influence.panels import CONTRACT, UPDATE, panels_threads
from sparsegrad.kernels.interop.embed import add_in_order, host_influence_step
from sparsegrad.symbolic.pattern import ReachPattern


class Ticket:
    """What the host's graph holds of a step; when the graph lets go, the step can be passed.

    Attributes
    ----------
    number : int
        The step's place in the window's count.
    version : int
        The weights that it ran with.
    d_pre : float array, (batch, components, maps, units), or None
        ∂s'/∂a, where the gradient of the input may be asked for.
    first : bool
        Whether no step waited for its signal when this one was made.
    """

    __slots__ = ("__weakref__", "d_pre", "first", "number", "version")

    def __init__(self, number: int, version: int, d_pre: Any, first: bool = False) -> None:
        self.number, self.version, self.d_pre, self.first = number, version, d_pre, first


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
    """J on a reach pattern, and the steps that it has yet to pass.

    Parameters
    ----------
    pattern : ReachPattern
        Which entries of J are kept.
    dtype : float32 or float64
    threads : int
        At most so many threads.
    order : int32 array, (size,)
        The gradient as the host has its parameters: the weight of each element, -1 where none
        exists.

    Attributes
    ----------
    batch : int
        Sequences side by side; 0 before the first step.
    passed : int
        The step that J has come to; steps are counted by `count`.
    version : int
        Of the weights, counted by whoever sets them.
    """

    def __init__(
        self,
        pattern: ReachPattern,
        dtype: np.dtype[Any],
        threads: int,
        order: NDArray[np.int32],
    ) -> None:
        self.pattern, self.dtype, self.threads, self.order = pattern, dtype, threads, order
        self.version = self.count = self.passed = self.batch = 0
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

    def open(self, batch: int) -> Waiting:
        """Return a step to fill with D and I; J is allocated, or begins anew, if it has to."""
        if self._fresh:
            self._begin(batch)
        elif self._waiting:
            self.catch_up()
        return self._free.pop() if self._free else self._new_step()

    def enter(self, step: Waiting, d_pre: NDArray[Any] | None) -> Ticket:
        """Let a filled step wait for its signal; return what to ask for it with."""
        self.count += 1
        ticket = Ticket(self.count, self.version, d_pre, not self._waiting)
        step.number, step.ticket = self.count, weakref.ref(ticket)
        step.resets, self._resets = self._resets, None
        self._waiting.append(step)
        return ticket

    def discard(self, step: Waiting) -> None:
        """Take an opened step back: it was not made."""
        self._free.append(step)

    def signal(self, ticket: Ticket, state_grad: NDArray[Any]) -> None:
        """Hand in the learning signal of a step, (batch, states), for the next `gradient`.

        Raises
        ------
        RuntimeError
            If J is past this step.
        """
        self._require_order(ticket)
        self._signals.append((ticket.number, state_grad))

    def gradient(self, signals: int) -> NDArray[Any]:
        """Return Σ_t J_tᵀ δ_t over the last signals handed in, in the host's order, (size,).

        Older ones, of backward passes that did not ask for the weights, are dropped.
        """
        wanted = dict(self._signals[len(self._signals) - signals :])
        self._signals.clear()
        return self._lead(wanted, max(wanted, default=0))

    def gradient_of(self, ticket: Ticket, state_grad: NDArray[Any]) -> NDArray[Any]:
        """Return J_tᵀ δ_t of a step at once, (size,); signals handed in for later steps stay.

        Raises
        ------
        RuntimeError
            If J is past this step.
        """
        self._require_order(ticket)
        grad = np.zeros(self.order.size, self.dtype)
        if ticket.number == self.passed:  # asked once more, with the graph retained
            add_in_order(self.order, self.influence.contract(state_grad), grad)
        else:
            step = self._waiting.popleft()
            self._advance(step, state_grad, grad)
            self.passed = step.number
            self._free.append(step)
        return grad

    def catch_up(self) -> None:
        """Lead J through the steps whose graph is gone."""
        while self._waiting and not self._waiting[0].is_alive():
            self._pass(self._waiting.popleft(), None, self._no_grad)

    def entries(self) -> NDArray[Any]:
        """Return a copy of J's kept entries after the last step, (batch, nnz)."""
        if self._fresh:
            return np.zeros((0, self.pattern.nnz), self.dtype)
        self.catch_up()
        behind = self.influence._panels.copy() if self._waiting else None
        for step in self._waiting:  # of these the signals may still come, so J goes back
            self._advance(step, None, self._no_grad)
        if self._resets is not None:
            behind = self.influence._panels.copy() if behind is None else behind
            self.influence._panels[self._resets] = 0
        found = np.stack([self.influence.to_scipy(b).data for b in range(self.batch)])
        if behind is not None:
            self.influence._panels[:] = behind
        return found

    def set_entries(self, entries: NDArray[Any]) -> None:
        """Set J from `entries`, (batch, nnz), as after the last of some steps."""
        from scipy.sparse import csc_array

        self.restart()
        if not entries.shape[0]:
            return
        self._begin(entries.shape[0])
        pattern = self.pattern
        for b in range(self.batch):
            matrix = csc_array(
                (entries[b], pattern.indices, pattern.indptr), shape=pattern.shape[::-1]
            )
            self.influence.from_scipy(matrix, b)

    def _begin(self, batch: int) -> None:
        """Have a J of zeros for this batch."""
        self._waiting.clear()
        self._signals.clear()
        self.count += 1  # signals of what came before are refused
        self.passed = self.count
        if batch != self.batch:
            pattern = self.pattern
            self.influence = influence = Influence(pattern, batch, self.dtype, self.threads)
            self.batch = batch
            self._words = with_addresses(program_sizes(influence), program_arrays(influence))
            self._free: list[Waiting] = []
            self._step_grad = np.zeros(pattern.shape[0], self.dtype)
            self._no_signal = np.zeros((batch, pattern.shape[1]), self.dtype)
            self._no_grad = np.zeros(0, self.dtype)
        self.influence.reset()
        self._fresh = False

    def _require_order(self, ticket: Ticket) -> None:
        if ticket.number < self.passed:
            raise RuntimeError(
                f"backward must run in the order of the steps, got step {ticket.number} after J "
                f"went on to {self.passed}: sum the losses, and call backward before a new sequence"
            )

    def _lead(self, wanted: dict[int, NDArray[Any]], last: int) -> NDArray[Any]:
        """Lead J up to step `last`; return the gradient of those steps that have a signal."""
        grad = np.zeros(self.order.size, self.dtype)
        if self.passed in wanted:  # asked once more, with the graph retained
            add_in_order(self.order, self.influence.contract(wanted[self.passed]), grad)
        waiting = self._waiting
        while waiting and waiting[0].number <= last:
            step = waiting.popleft()
            self._pass(step, wanted.get(step.number), grad)
        return grad

    def _new_step(self) -> Waiting:
        pattern, dtype = self.pattern, self.dtype
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
            self.influence._panels[step.resets] = 0
        scored, delta = True, state_grad
        if delta is None:
            scored, delta = False, self._no_signal
        influence, order, step_grad = self.influence, self.order, self._step_grad
        if influence.threads == 1:
            host_influence_step(
                self._words, step.dynamics_data, step.immediate_data, scored, delta,
                influence._panels, order, grad, step_grad, influence._scratch,
            )  # fmt: skip
            return
        alone, _ = influence.kernels()
        panels_threads(
            alone, influence._cuts, UPDATE | CONTRACT if scored else UPDATE, *influence._program,
            step.dynamics_data, step.immediate_data, delta, influence._panels, step_grad,
            influence._scratch,
        )  # fmt: skip
        if scored:
            add_in_order(order, step_grad, grad)

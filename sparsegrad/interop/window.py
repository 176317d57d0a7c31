"""Steps that wait for their learning signal, and J behind them. NumPy alone.

A host framework runs a step forward now and says later, perhaps never, what δ_t = ∂L_t/∂s_t was.
So J stays where it is, behind, and each step leaves its D_t and I_t (a few numbers per weight,
against the hundreds of J's entries). When the signals arrive, J is led through the waiting steps
once, each updated and contracted in a single pass; a step whose graph is gone can no longer get a
signal, and J passes it without. Memory does not depend on the number of steps, only on how many
the host keeps alive.

J belongs to the state that its last step returned. A state that is given back as it was goes on, a
row of zeros begins a sequence, and any other is refused, for its J is not here: so no step can take
the J of another. `Saved` keeps the J of one state; it is copied only where both it and the steps
after it are still wanted when J changes.

A window that unrolls has a real graph through time: λ_t goes from step to step in the host's own
backward pass. Wherever that graph ends, at a state that a backward pass has used up, that was
detached or saved, J of that state takes over:

    gradient = Σ_t I_tᵀ λ_t + J_0ᵀ (D_1ᵀ λ_1)
"""

import os
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.influence.influence import Influence
from sparsegrad.interop.addresses import program_arrays, program_sizes, with_addresses
from sparsegrad.interop.saved import Saved, Store
from sparsegrad.interop.waiting import Ticket, Waiting
from sparsegrad.kernels.influence.convert import csr_to_panels, panels_to_csr
from sparsegrad.kernels.influence.panels import CONTRACT, UPDATE, panels_range, panels_threads
from sparsegrad.kernels.interop.embed import (
    COMPARED,
    LEARNABLE,
    SURE,
    add_in_order,
    host_influence_step,
)
from sparsegrad.kernels.interop.unrolled import pull_state, pull_weights
from sparsegrad.kernels.vectors.finite import all_finite
from sparsegrad.symbolic.pattern import ReachPattern


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
    components : int
        State numbers per unit.
    unrolls : bool
        Whether the host's graph goes from step to step: signals are λ_t, and J takes over where
        it ends.

    Attributes
    ----------
    batch : int
        Sequences side by side; 0 before the first step.
    last : float array, (components, batch, units)
        The state that J belongs to, once it has passed all steps.
    passed : int
        The step that J has come to; steps are counted by `count`.
    per_stream : list or None
        Where the gradients of each sequence go, (batch, size) for each backward pass, if wanted.
    held, returned, address, owner : Any
        What the host keeps beside it: what its steps share, the last state as it was returned and
        where that lies, and the cell that it is of.
    """

    last: NDArray[Any]

    def __init__(
        self,
        pattern: ReachPattern,
        dtype: np.dtype[Any],
        threads: int,
        order: NDArray[np.int32],
        components: int = 1,
        unrolls: bool = False,
    ) -> None:
        self.pattern, self.dtype, self.threads, self.order = pattern, dtype, threads, order
        self.components, self.unrolls = components, unrolls
        self.count = self.passed = self.batch = 0
        self.per_stream: list[NDArray[Any]] | None = None
        self.held: Any = None
        self.owner: Any = None
        self.returned: Any = None
        self.address = 0
        self._waiting: deque[Waiting] = deque()
        self._signals: list[tuple[int, NDArray[Any], NDArray[Any] | None]] = []
        self._saved: dict[int, weakref.WeakSet[Saved]] = {}
        self._store: Store | None = None
        self._fresh, self._trusts, self._new = True, False, False
        self._resets: NDArray[np.bool_] | None = None

    @property
    def began(self) -> bool:
        """Whether J holds sequences, so that the batch size is fixed."""
        return not self._fresh

    def like(self, saved: Saved | None = None) -> "Window":
        """Return another window on the same pattern, from its beginning or from `saved`."""
        made = Window(
            self.pattern, self.dtype, self.threads, self.order, self.components, self.unrolls
        )
        made.owner = self.owner
        if saved is not None and not saved._fresh:
            store = saved.store()
            made._take_store(store)
            assert saved._last is not None
            made.last = saved._last.copy()
            made._resets = None if saved._resets is None else saved._resets.copy()
            made._fresh = False
        return made

    def carry(self, before: "Window", origin: NDArray[np.int64]) -> None:
        """Go on with the sequences of a window on other weights, and with what J keeps of them.

        Steps and signals of that one are refused afterwards.

        Parameters
        ----------
        before : Window
            Of the same units, dtype and components; none of its steps waits for a signal.
        origin : int64 array, (weights,)
            Which weight each of this one's was there, or -1.

        Raises
        ------
        MemoryError
            If both J do not fit.
        """
        before.catch_up()
        if before._store is not None and not before._fresh:
            influence = Influence(self.pattern, before.batch, self.dtype, self.threads)
            influence.carry(before._influence, origin)
            self._take_store(Store(influence))
            self.last = before.last.copy()
            self.returned, self.address = before.returned, before.address
            self._fresh, self._new, self._trusts = False, before._new, before._trusts
            self._resets = None if before._resets is None else before._resets.copy()
        before.count += 1
        before.passed = before.count

    def restart(self) -> "Window":
        """Return the window in which new sequences, of any batch size, begin at the next step.

        It is this one, whose J stays until then, if nobody has saved it.
        """
        if any(self._saved.values()) or (self._store and len(self._store.users) > 1):
            return self.like()
        self._resets, self._fresh, self._trusts = None, True, False
        return self

    def reset(self, which: NDArray[np.bool_]) -> None:
        """Begin a new sequence in some batch elements, bool (batch,), at the next step."""
        self._resets = which.copy() if self._resets is None else self._resets | which

    def save(self) -> Saved:
        """Return what the next step would go on from."""
        saved = Saved(self, self.count)
        self._saved.setdefault(self.count, weakref.WeakSet()).add(saved)
        return saved

    def settle(self, saved: Saved) -> None:
        """Give `saved` its J: this one if it is there, or else a copy that is led there."""
        assert self._store is not None
        if saved._number == self.passed:
            saved.settle(self._store)
            return
        influence = self._copy(self._influence)
        for step in self._waiting:
            if step.number <= saved._number:
                self._advance(influence, step, None, self._no_grad)
        saved.settle(Store(influence))

    def open(
        self, batch: int, sure: bool, learnable: bool
    ) -> tuple[Waiting, int, NDArray[np.bool_]]:
        """Return a step to fill with D and I, and what `find_starts` takes: `told` and `starts`.

        J is allocated, or begins anew, if it has to.
        """
        if self._fresh:
            self.begin(batch)
        elif self._waiting:
            self.catch_up()
        told = LEARNABLE if learnable else 0
        if self._new:
            starts = np.ones(batch, np.bool_)
        else:
            if not self._trusts:
                told |= COMPARED
            if sure or self._resets is not None:
                told |= SURE
            starts = np.zeros(batch, np.bool_) if self._resets is None else self._resets.copy()
        return self._free.pop() if self._free else self._new_step(), told, starts

    def enter(
        self, step: Waiting, starts: NDArray[np.bool_], version: int, d_pre: NDArray[Any] | None
    ) -> Ticket:
        """Let a filled step wait for its signal; return what to ask for it with."""
        self.count += 1
        ticket = Ticket(self, self.count, version, d_pre, not self._waiting)
        step.number, step.ticket = self.count, weakref.ref(ticket)
        step.resets = starts if not self._new and starts.any() else None
        self._resets, self._new, self._trusts = None, False, False
        self._waiting.append(step)
        return ticket

    def discard(self, step: Waiting) -> None:
        """Take an opened step back: it was not made."""
        self._free.append(step)

    def signal(
        self, ticket: Ticket, state_grad: NDArray[Any], before: NDArray[Any] | None = None
    ) -> None:
        """Hand in the learning signal of a step, (batch, states), for the next `gradient`.

        With `before`, ∂L/∂s of the state that the step started from, where the graph ends there.

        Raises
        ------
        RuntimeError
            If J is past this step.
        """
        self._require_order(ticket)
        self._signals.append((ticket.number, state_grad, before))

    def pull(self, ticket: Ticket, state_grad: NDArray[Any]) -> tuple[NDArray[Any], bool]:
        """Return Dᵀ λ of a step, (batch, states), and whether J is already at the state before it.

        Raises
        ------
        RuntimeError
            If J is past this step.
        """
        self._require_order(ticket)
        step, before = self._waiting[ticket.number - self._waiting[0].number], state_grad.copy()
        pattern = self.pattern
        pull_state(
            pattern.dynamics_indptr, pattern.dynamics_indices, step.dynamics_data, state_grad,
            before,
        )  # fmt: skip
        if step.resets is not None:
            before[step.resets] = 0
        return before, self.passed == ticket.number - 1

    def gradient(self, signals: int) -> NDArray[Any]:
        """Return Σ_t J_tᵀ δ_t over the last signals handed in, in the host's order, (size,).

        Of a window that unrolls, Σ_t I_tᵀ λ_t and J_0ᵀ ∂L/∂s_0 where its graph ends. Older ones, of
        backward passes that did not ask for the weights, are dropped.

        Raises
        ------
        FloatingPointError
            If it is not finite.
        """
        some = self._signals[len(self._signals) - signals :]
        wanted = {number: (delta, before) for number, delta, before in some}
        self._signals.clear()
        grad, last, finite = self._no_gradient(), max(wanted, default=0), True
        if self.unrolls and not all(np.isfinite(delta).all() for delta, _ in wanted.values()):
            self._raise_broken(delta for delta, _ in wanted.values())  # J is as it was
        if self.passed in wanted:
            finite = self._again(wanted[self.passed][0], grad)
        while self._waiting and self._waiting[0].number <= last:
            step = self._waiting.popleft()
            delta, before = wanted.get(step.number, (None, None))
            if self.unrolls and delta is not None:
                finite &= self._unroll(step, delta, before, grad)
                delta = None
            finite &= self._pass(step, delta, grad)
        return self._summed(grad, finite, [delta for delta, _ in wanted.values()])

    def gradient_of(self, ticket: Ticket, state_grad: NDArray[Any]) -> NDArray[Any]:
        """Return J_tᵀ δ_t of a step at once, (size,); signals handed in for later steps stay.

        Raises
        ------
        RuntimeError
            If J is past this step.
        FloatingPointError
            If it is not finite.
        """
        self._require_order(ticket)
        grad = self._no_gradient()
        if ticket.number == self.passed:  # asked once more, with the graph retained
            finite = self._again(state_grad, grad)
        else:
            finite = self._pass(self._waiting.popleft(), state_grad, grad)
        return self._summed(grad, finite, (state_grad,))

    def catch_up(self) -> None:
        """Lead J through the steps whose graph is gone."""
        while self._waiting and not self._waiting[0].is_alive():
            self._pass(self._waiting.popleft(), None, self._no_grad)

    def entries(self) -> NDArray[Any]:
        """Return a copy of J's kept entries after the last step, (batch, nnz)."""
        if self._fresh:
            return np.zeros((0, self.pattern.nnz), self.dtype)
        self.catch_up()
        influence = self._influence
        if self._waiting or self._resets is not None:
            influence = self._copy(influence)
            for step in self._waiting:  # their signals may still come
                self._advance(influence, step, None, self._no_grad)
            if self._resets is not None:
                influence._panels[self._resets] = 0
        found = np.empty((self.batch, self.pattern.nnz), self.dtype)
        for b in range(self.batch):
            panels_to_csr(*influence._layout, influence._panels[b], found[b])
        return found

    def set_entries(self, entries: NDArray[Any], last: NDArray[Any] | None) -> None:
        """Set J from `entries`, (batch, nnz), as after the step that returned `last`.

        Without it, the state of the next step is trusted to be the one that J belongs to.
        """
        self._fresh = True
        if not entries.shape[0]:
            return
        self.begin(entries.shape[0])
        self._new, self._trusts = False, last is None
        if last is not None:
            self.last[:] = last
        for b in range(self.batch):
            csr_to_panels(*self._influence._layout, entries[b], self._influence._panels[b])

    def begin(self, batch: int) -> None:
        """Have a J of zeros for this batch."""
        self._waiting.clear()
        self._signals.clear()
        self.count += 1  # signals of what came before are refused
        self.passed = self.count
        if self._store is None or batch != self.batch:
            self._take_store(Store(Influence(self.pattern, batch, self.dtype, self.threads)))
            self.last = np.zeros((self.components, batch, self.units), self.dtype)
        self._influence.reset()
        self._fresh, self._new = False, True

    @property
    def units(self) -> int:
        """Units of the cell: states over components."""
        return self.pattern.shape[1] // self.components

    def waits(self) -> bool:
        """Whether a step waits whose signal may still come."""
        return any(step.is_alive() for step in self._waiting)

    def known_state(self) -> NDArray[Any] | None:
        """Return the state that J belongs to, if sequences have begun and it is known."""
        return None if self._fresh or self._new or self._trusts else self.last

    def _take_store(self, store: Store) -> None:
        if self._store is not None:
            self._store.users.discard(self)
        self._store, self._influence = store, store.influence
        store.users.add(self)
        pattern, self.batch = self.pattern, store.influence.batch
        self._words = with_addresses(
            program_sizes(self._influence), program_arrays(self._influence)
        )
        self._free: list[Waiting] = []
        self._new = False
        self._step_grad = np.zeros(pattern.shape[0], self.dtype)
        self._no_signal = np.zeros((self.batch, pattern.shape[1]), self.dtype)
        self._no_grad = np.zeros(0, self.dtype)

    def _copy(self, influence: Influence) -> Influence:
        made = Influence(self.pattern, influence.batch, self.dtype, self.threads)
        made._panels[:] = influence._panels
        return made

    def _require_order(self, ticket: Ticket) -> None:
        if self.unrolls and ticket.number <= self.passed:
            raise RuntimeError(
                f"a window must have one backward pass, got another through step {ticket.number} "
                f"after J went on to {self.passed}: sum the losses, and call backward once"
            )
        if ticket.number < self.passed:
            raise RuntimeError(
                f"backward must run in the order of the steps, got step {ticket.number} after J "
                f"went on to {self.passed}: sum the losses, and call backward before a new sequence"
            )

    def _new_step(self) -> Waiting:
        pattern, dtype = self.pattern, self.dtype
        return Waiting(
            np.zeros((self.batch, pattern.dynamics_indices.size), dtype),
            np.zeros((self.batch, pattern.immediate_indices.size), dtype),
        )

    def _no_gradient(self) -> NDArray[Any]:
        size = self.order.size
        return np.zeros(size if self.per_stream is None else (self.batch, size), self.dtype)

    def _summed(self, grad: NDArray[Any], finite: bool, signals: Any) -> NDArray[Any]:
        """Return a gradient, summed over the sequences, or say what made it break."""
        if not finite:
            self._raise_broken(signals)
        if self.per_stream is None:
            return grad
        self.per_stream.append(grad)
        return grad.sum(axis=0)

    def _raise_broken(self, signals: Any) -> None:
        for state_grad in signals:
            bad = np.flatnonzero(~np.isfinite(state_grad).all(axis=1))
            if bad.size:
                raise FloatingPointError(
                    f"the learning signal must be finite, got NaN or infinity in batch element "
                    f"{bad[0]}: look at the loss"
                )
        sound = [all_finite(panels) for panels in self._influence._panels]
        where = f" in batch element {sound.index(False)}" if False in sound else ""
        raise FloatingPointError(
            f"the influence must stay finite, it became NaN or infinite{where} after {self.passed} "
            "steps: reset() it there, or take a smaller n or smaller recurrent weights"
        )

    def _pass(self, step: Waiting, state_grad: NDArray[Any] | None, grad: NDArray[Any]) -> bool:
        assert self._store is not None
        if self._saved:
            for saved in self._saved.pop(self.passed, ()):
                saved.settle(self._store)
        if len(self._store.users) > 1:
            self._store.users.discard(self)
            self._store = Store(self._copy(self._influence))
            self._store.users.add(self)
            self._influence = self._store.influence
        finite = self._advance(self._influence, step, state_grad, grad)
        self.passed = step.number
        self._free.append(step)
        return finite

    def _again(self, state_grad: NDArray[Any], grad: NDArray[Any]) -> bool:
        """Add the gradient of the step that J has come to."""
        if grad.ndim == 1:
            return add_in_order(self.order, self._influence.contract(state_grad), grad)
        influence, finite = self._influence, True
        for b in range(self.batch):
            panels_range(
                0, len(influence._program.panels) - 1, CONTRACT, *influence._program,
                self._nothing, self._nothing, state_grad[b : b + 1], influence._panels[b : b + 1],
                self._step_grad, influence._scratch[0],
            )  # fmt: skip
            finite &= add_in_order(self.order, self._step_grad, grad[b])
        return finite

    def _unroll(
        self,
        step: Waiting,
        state_grad: NDArray[Any],
        before: NDArray[Any] | None,
        grad: NDArray[Any],
    ) -> bool:
        """Add Iᵀ λ of a step, and Jᵀ Dᵀ λ where its graph ends; say if it is finite."""
        finite = True if before is None else self._again(before, grad)
        pattern, batch = self.pattern, self.batch
        streams = [slice(b, b + 1) for b in range(batch)] if grad.ndim == 2 else [slice(batch)]
        for some in streams:
            pull_weights(
                pattern.immediate_indptr, pattern.immediate_indices, step.immediate_data[some],
                state_grad[some], self._step_grad,
            )  # fmt: skip
            to = grad if grad.ndim == 1 else grad[some.start]
            finite &= add_in_order(self.order, self._step_grad, to)
        return finite

    @property
    def _nothing(self) -> NDArray[Any]:
        return np.empty((1, 0), self.dtype)

    def _advance(
        self,
        influence: Influence,
        step: Waiting,
        state_grad: NDArray[Any] | None,
        grad: NDArray[Any],
    ) -> bool:
        """Update J by a step; add its gradient where it has a signal, and say if it is finite."""
        if step.resets is not None:
            influence._panels[step.resets] = 0
        scored, delta = True, state_grad
        if delta is None:
            scored, delta = False, self._no_signal
        D, immediate, panels = step.dynamics_data, step.immediate_data, influence._panels
        if grad.ndim == 2 and scored:
            return all([
                host_influence_step(
                    self._words, D[b : b + 1], immediate[b : b + 1], True, delta[b : b + 1],
                    panels[b : b + 1], self.order, grad[b], self._step_grad, influence._scratch[:1],
                )
                for b in range(self.batch)
            ])  # fmt: skip
        if influence.threads == 1:
            return host_influence_step(
                self._words, D, immediate, scored, delta, panels, self.order, grad.reshape(-1),
                self._step_grad, influence._scratch,
            )  # fmt: skip
        _require_own_threads()
        alone, _ = influence.kernels()
        panels_threads(
            alone, influence._cuts, UPDATE | CONTRACT if scored else UPDATE, *influence._program,
            D, immediate, delta, panels, self._step_grad, influence._scratch,
        )  # fmt: skip
        return add_in_order(self.order, self._step_grad, grad) if scored else True


_threads_of: list[int] = []  # the process that started Numba's threads


def _require_own_threads() -> None:
    if not _threads_of:
        _threads_of.append(os.getpid())
    if _threads_of[0] != os.getpid():
        raise RuntimeError(
            "a forked process must not use its parent's threads, got a cell of threads > 1 after a "
            "fork: start processes with spawn, or make the cell with threads=1"
        )

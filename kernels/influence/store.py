"""An influence as compiled loops have it: update, contract and reset are the door to its panels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compiler.decorators import into_caller
from .exchange import Exchange, gather_gradient
from .panels import CONTRACT, UPDATE


class Store(NamedTuple):
    """J of every stream on its pattern, and what its kernels work with.

    The kernels come as pointers: linked into a loop, they would be compiled once more with it.
    `panels_threads` stands beside a store, never in it: Numba drops the branch on a None only where
    that is an argument of the loop itself.
    """

    alone: Callable[..., None]  # `panels_range`
    program: Any  # the named arrays of sparsegrad.influence.program.Program
    cuts: NDArray[np.int64]  # (threads + 1,)             panels of each thread
    panels: NDArray[Any]  # (B, size)                     J: numbers, or words that stand for them
    influence: Any  # `panels`, or the Rounded of these words
    steps: NDArray[np.int64]  # (1,)                      updates so far
    step_grad: NDArray[np.floating]  # (weights,)         scratch
    scratch: NDArray[np.floating]  # (threads, scratch size)  scratch
    exchange: Exchange  # with the ranks that hold the other panels


@into_caller
def update_store(
    shared: Callable[..., None] | None,  # `panels_threads`, or None for one thread
    store: Store,  # in/out
    dynamics_data: NDArray[np.floating],  # (B, nnz of D)   in
    immediate_data: NDArray[np.floating],  # (B, nnz of I)  in
    scored: bool,
    state_grad: NDArray[np.floating],  # (B, states)  in
    grad: NDArray[np.floating],  # (weights,) or more  in/out
) -> None:
    """Update J of every stream and, if the step is scored, contract it: add its gradient."""
    s, p = store, store.program
    mode = UPDATE | CONTRACT if scored else UPDATE
    if shared is None:
        s.alone(
            0, p.panels.shape[0] - 1, mode, p.panels, p.segments, p.entries, p.members, p.reached,
            p.columns, p.runs, dynamics_data, immediate_data, state_grad, s.influence, s.step_grad,
            s.scratch[0],
        )  # fmt: skip
    else:
        shared(
            s.alone, s.cuts, mode, p.panels, p.segments, p.entries, p.members, p.reached,
            p.columns, p.runs, dynamics_data, immediate_data, state_grad, s.influence, s.step_grad,
            s.scratch,
        )  # fmt: skip
    s.steps[0] += 1
    if scored:
        gather_gradient(s.exchange, s.step_grad)
        for w in range(s.step_grad.size):
            grad[w] += s.step_grad[w]


@into_caller
def reset_stream(store: Store, b: int) -> None:
    """Set J of stream b to zero."""
    store.panels[b, :] = 0

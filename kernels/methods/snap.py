"""SnAp-n and exact RTRL: forward, D, I, and the masked influence recurrence, step after step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..cells.maps import Dynamics, Partials, dynamics_values, immediate_gathered
from ..compiler.borrow import borrow
from ..compiler.decorators import into_caller
from ..influence.panels import CONTRACT, UPDATE
from ..learning.steps import (
    FINE,
    GROWN,
    Chunk,
    Learner,
    Steps,
    Streams,
    any_scored,
    finish,
    grown_stream,
    lost,
    observe,
    signal,
)


class Numbers(NamedTuple):
    """The values that a step of the influence reads and writes; its structure is the program."""

    cuts: NDArray[np.int64]  # (threads + 1,)                  panels of each thread
    dynamics_data: NDArray[np.floating]  # (B, nnz of D)        scratch
    immediate_data: NDArray[np.floating]  # (B, nnz of I)       scratch
    influence: NDArray[np.floating]  # (B, size)                in/out, J in panels
    step_grad: NDArray[np.floating]  # (weights,)               scratch
    scratch: NDArray[np.floating]  # (threads, scratch size)    scratch


@into_caller
def influence_step(
    alone: Callable[..., None],  # `panels_range`
    shared: Callable[..., None] | None,  # `panels_threads`, or None: Numba drops its branch
    program: Any,  # in, the named arrays of sparsegrad.influence.program.Program
    numbers: Numbers,  # in/out
    scored: bool,
    state_grad: NDArray[np.floating],  # (B, states)  in
    grad: NDArray[np.floating],  # (weights,) or more   in/out
) -> None:
    """Update J of every stream and, if the step is scored, add its gradient.

    The kernels come as pointers: linked into a loop, they would be compiled once more with it.
    """
    p, n = program, numbers
    mode = UPDATE | CONTRACT if scored else UPDATE
    if shared is None:
        alone(
            0, p.panels.shape[0] - 1, mode, p.panels, p.segments, p.entries, p.members, p.reached,
            p.columns, p.runs, n.dynamics_data, n.immediate_data, state_grad, n.influence,
            n.step_grad, n.scratch[0],
        )  # fmt: skip
    else:
        shared(
            alone, n.cuts, mode, p.panels, p.segments, p.entries, p.members, p.reached, p.columns,
            p.runs, n.dynamics_data, n.immediate_data, state_grad, n.influence, n.step_grad,
            n.scratch,
        )  # fmt: skip
    if scored:
        for w in range(n.step_grad.size):
            grad[w] += n.step_grad[w]


@njit(cache=True, nogil=True)
def run_snap(
    update: Callable[..., None],
    learner: Learner,
    partials: Partials,
    dynamics: Dynamics,
    chunk: Chunk,
    streams: Streams,
    steps: Steps,
    alone: Callable[..., None],  # see `influence_step`
    shared: Callable[..., None] | None,
    program: Any,
    numbers: Numbers,
) -> tuple[int, int, int]:
    """Run a chunk; return the steps done, what stopped it, and at which stream."""
    learner, partials, dynamics, chunk, streams, steps, program, numbers = borrow(
        (learner, partials, dynamics, chunk, streams, steps, program, numbers)
    )
    maps = learner.maps
    for t in range(chunk.first, chunk.xs.shape[0]):
        if t == chunk.pause:
            return t, FINE, 0
        b = grown_stream(streams, chunk.resets[t], numbers.influence)
        if b >= 0:
            return t, GROWN, b
        fault, b = observe(update, learner, chunk, t, streams, steps, np.int64(0))
        if fault != FINE:
            return t, fault, b
        signal(learner, chunk, t, streams, steps.state_grad[0])
        for b in range(numbers.influence.shape[0]):
            d_state, d_pre = steps.d_state[0, b], steps.d_pre[0, b]
            if steps.resets[0, b]:
                numbers.influence[b, :] = 0
            dynamics_values(dynamics, maps.weights, d_state, d_pre, numbers.dynamics_data[b])
            immediate_gathered(
                maps, partials, steps.gathered[0, b], d_pre, numbers.immediate_data[b]
            )
        scored = any_scored(chunk.scales[t])
        influence_step(alone, shared, program, numbers, scored, steps.state_grad[0], learner.grad)
        if not finish(learner, streams):
            return lost(streams, t)
    return chunk.xs.shape[0], FINE, 0

"""Windows: exact inside by BPTT, and what came before them by the influence at their start.

    λ_T = δ_T,   λ_t = δ_t + D_{t+1}ᵀ λ_{t+1}          the backward pass inside the window
    grad += Σ_t I_tᵀ λ_t  +  J_0ᵀ (D_1ᵀ λ_1)           J_0 contracted with ∂L/∂s_0
    J_T from J_0 by T steps of the method's own recursion

Williams and Zipser's hybrid (1995), carried over to every approximation of J. One loop serves all:
what a method does when a window is full comes as a pointer. J is advanced by the weights that the
window ran under, and only once its gradient is known to be finite.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..cells.maps import Dynamics, Partials, dynamics_values
from ..compiler.borrow import borrow
from ..compiler.decorators import into_caller
from ..influence.advance import WindowData, contract
from ..influence.block import Block
from ..influence.store import Store
from ..learning.optimizers import squared_norm
from ..learning.steps import (
    BAD_GRADIENT,
    FINE,
    GROWN,
    Chunk,
    Learner,
    Steps,
    Streams,
    copy,
    finish,
    grown_stream,
    observe,
    signal,
)  # fmt: skip
from .bptt import History, unroll
from .snap import form_immediate
from .uoro import RankOne, add_rank_one, follow_stream, push_stream


class WindowPanels(NamedTuple):
    """The influence on a pattern, and what leads to it from the steps held."""

    advance: Callable[..., None]  # `advance`, as a pointer: 10 s to compile, not with each readout
    dynamics: Dynamics
    shared: Callable[..., None] | None  # `panels_threads`, or None
    block: Block | None  # for dense products
    store: Store
    data: WindowData


@into_caller
def is_sound(learner: Learner) -> bool:
    """Whether the gradients can be spent (`apply_gradient`), so that J may go on."""
    return np.isfinite(squared_norm(learner.grad) + squared_norm(learner.readout_grad_flat))


@njit(cache=True, nogil=True)
def last_resets(
    held: int | np.int64,  # steps
    resets: NDArray[np.bool_],  # (T, B)   in
    begins: NDArray[np.int64],  # (B,)     out
) -> None:
    """Find the last step at which each stream begins a sequence, or -1."""
    begins[:] = -1
    for t in range(held):
        for b in range(begins.size):
            if resets[t, b]:
                begins[b] = t


@njit(cache=True, nogil=True)
def close_panels(
    learner: Learner,  # in; grad in/out
    partials: Partials,  # in, of one cell
    abreast: int,  # 1
    steps: Steps,  # in
    history: History,  # in, empty on return
    carried: WindowPanels,  # in/out
) -> None:
    """Close a window of SnAp-n or RTRL."""
    learner, partials, steps, history, carried = borrow(
        (learner, partials, steps, history, carried)
    )
    held, data = history.filled[0], carried.data
    unroll(learner, partials, abreast, steps, history)
    batch = data.begins.size
    state_grad = history.adjoint[0].reshape(batch, history.adjoint[0].size // batch)
    contract(carried.shared, carried.store, state_grad, learner.grad)
    if not is_sound(learner):
        return
    last_resets(held, steps.resets, data.begins)
    weights = learner.maps.weights
    for b in range(batch):
        for t in range(max(data.begins[b], 0), held):
            d_state, d_pre = steps.d_state[t, b], steps.d_pre[t, b]
            dynamics_values(carried.dynamics, weights, d_state, d_pre, data.dynamics_data[b, t])
            form_immediate(
                learner.layers, learner.maps, partials, steps.gathered[t, b], d_pre,
                data.immediate_data[b, t],
            )  # fmt: skip
    carried.advance(held, carried.shared, carried.block, carried.store, data)


@njit(cache=True, nogil=True)
def close_rank_one(
    learner: Learner,  # in; grad in/out
    partials: Partials,  # in
    abreast: int,  # 1
    steps: Steps,  # in
    history: History,  # in, empty on return
    carried: RankOne,  # in/out
) -> None:
    """Close a window of UORO."""
    learner, partials, steps, history, carried = borrow(
        (learner, partials, steps, history, carried)
    )
    held = history.filled[0]
    unroll(learner, partials, abreast, steps, history)
    adjoint = history.adjoint[0]
    for b in range(carried.left.shape[0]):
        along = carried.along.dtype.type(0)
        for c in range(adjoint.shape[1]):
            for u in range(adjoint.shape[2]):
                along += adjoint[b, c, u] * carried.left[b, c, u]
        carried.along[b] = along
    add_rank_one(0, carried.right.shape[1], carried.right, carried.along, learner.grad)
    if not is_sound(learner):
        return
    for b in range(carried.left.shape[0]):
        for t in range(held):
            one = _one_step(steps, t)
            push_stream(b, learner.maps, partials, one, carried)
            follow_stream(b, 0, learner.maps, partials, one, carried)


@into_caller
def _one_step(steps: Steps, t: int) -> Steps:
    """View one of the steps held as the only one."""
    s = steps
    return Steps(
        s.sources[t : t + 1], s.gathered[t : t + 1], s.d_state[t : t + 1], s.d_pre[t : t + 1],
        s.state_grad[t : t + 1], s.resets[t : t + 1],
    )  # fmt: skip


@njit(cache=True, nogil=True)
def run_window(
    update: Callable[..., None],  # of one cell
    close: Callable[..., None],  # what the method does with a full window
    learner: Learner,
    partials: Partials,  # of one cell
    chunk: Chunk,
    streams: Streams,
    steps: Steps,
    history: History,
    influence: NDArray[np.floating],  # (groups, size)  in
    carried: Any,
) -> tuple[int, int, int]:
    """Run a chunk; return the steps done, what stopped it, and at which stream."""
    learner, partials, chunk, streams, steps, history, influence, carried = borrow(
        (learner, partials, chunk, streams, steps, history, influence, carried)
    )
    for t in range(chunk.first, chunk.xs.shape[0]):
        if t == chunk.pause:
            return t, FINE, 0
        b = grown_stream(streams, chunk.resets[t], influence)
        if b >= 0:
            return t, GROWN, b
        k = history.filled[0]
        fault, b = observe(update, learner, chunk, t, streams, steps, k)
        if fault != FINE:
            return t, fault, b
        last = k + 1 == steps.sources.shape[0]
        if last:
            copy(learner.readout_grad_flat, learner.readout_kept)
        signal(learner, chunk, t, streams, steps.state_grad[k])
        history.filled[0] = k + 1
        if last:
            close(learner, partials, streams.abreast, steps, history, carried)
        if not finish(learner, streams):
            copy(learner.readout_kept, learner.readout_grad_flat)
            history.filled[0] = k
            return t, BAD_GRADIENT, 0
    return chunk.xs.shape[0], FINE, 0

"""SnAp-n and exact RTRL: forward, D, I, and the masked influence recurrence, step after step."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..cells.layers import Layers, immediate_of_layers, pull_down
from ..cells.maps import Dynamics, Maps, Partials, dynamics_values, immediate_gathered
from ..compiler.borrow import borrow
from ..influence.exchange import seen_by_any
from ..influence.store import Store, reset_stream, update_store
from ..learning.steps import (
    FINE,
    GROWN,
    WATCH,
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


class Jacobians(NamedTuple):
    """D and I of a step of every stream: where D's values come from, and the values."""

    dynamics: Dynamics
    dynamics_data: NDArray[np.floating]  # (B, nnz of D)   scratch
    immediate_data: NDArray[np.floating]  # (B, nnz of I)  scratch


@njit(cache=True, nogil=True)
def form_immediate(
    layers: Layers | None,
    maps: Maps,  # in
    partials: Partials,  # in, of one cell
    gathered: NDArray[np.floating],  # (weights,) + SLACK    in
    d_pre: NDArray[np.floating],  # (C, maps, units)         in
    immediate_data: NDArray[np.floating],  # (nnz of I,)     out
) -> None:
    """Fill I's data of one stream."""
    if layers is None:
        immediate_gathered(maps, partials, gathered, d_pre, immediate_data)
    else:
        immediate_of_layers(layers, maps, gathered, d_pre.ravel(), immediate_data)


@njit(cache=True, nogil=True)
def hand_down(
    layers: Layers | None,
    maps: Maps,  # in
    d_pre: NDArray[np.floating],  # (C, maps, units)         in
    state_grad: NDArray[np.floating],  # (states,)           in/out
) -> None:
    """Hand the signal of one stream down to layers whose J does not cross to those above."""
    if layers is not None:
        if layers.apart:
            pull_down(layers, 1, maps, d_pre.ravel(), state_grad)


@njit(cache=True, nogil=True)
def run_snap(
    update: Callable[..., None],  # of one cell
    learner: Learner,
    partials: Partials,  # of one cell
    jacobians: Jacobians,
    chunk: Chunk,
    streams: Streams,
    steps: Steps,
    shared: Callable[..., None] | None,  # see `update_store`
    store: Store,
) -> tuple[int, int, int]:
    """Run a chunk; return the steps done, what stopped it, and at which stream."""
    learner, partials, jacobians, chunk, streams, steps, store = borrow(
        (learner, partials, jacobians, chunk, streams, steps, store)
    )
    maps, D, immediate = learner.maps, jacobians.dynamics_data, jacobians.immediate_data
    for t in range(chunk.first, chunk.xs.shape[0]):
        if t == chunk.pause:
            return t, FINE, 0
        b = grown_stream(streams, chunk.resets[t], store.panels)
        if streams.steps[0] % WATCH == 0:
            b = seen_by_any(store.exchange, b)
        if b >= 0:
            return t, GROWN, b
        fault, b = observe(update, learner, chunk, t, streams, steps, np.int64(0))
        if fault != FINE:
            return t, fault, b
        signal(learner, chunk, t, streams, steps.state_grad[0])
        for b in range(D.shape[0]):
            d_state, d_pre = steps.d_state[0, b], steps.d_pre[0, b]
            if steps.resets[0, b]:
                reset_stream(store, b)
            dynamics_values(jacobians.dynamics, maps.weights, d_state, d_pre, D[b])
            form_immediate(
                learner.layers, maps, partials, steps.gathered[0, b], d_pre, immediate[b]
            )  # fmt: skip
            hand_down(learner.layers, maps, d_pre, steps.state_grad[0, b])
        scored = any_scored(chunk.scales[t])
        update_store(shared, store, D, immediate, scored, steps.state_grad[0], learner.grad)
        if not finish(learner, streams):
            return lost(streams, t)
    return chunk.xs.shape[0], FINE, 0

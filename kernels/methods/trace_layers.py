"""SnAp-1 of layers apart: the traces of each layer by itself, as `traces` has those of one cell.

The signal of a step goes down through that step to all layers; what a layer's traces need of it is
copied to arrays of its own, in the layout of a cell that stands alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..cells.layers import (
    COMPONENTS,
    FIRST_D_PRE,
    FIRST_D_STATE,
    FIRST_STATE,
    MAPS,
    UNITS,
    pull_down,
    rows_of,
)
from ..cells.maps import Partials
from ..compiler.borrow import borrow
from ..learning.steps import (
    FINE,
    GROWN,
    Chunk,
    Learner,
    Steps,
    Streams,
    copy,
    finish,
    grown_stream,
    lost,
    observe,
    signal,
    update_due,
)
from .trace_forms import HELD
from .traces import trace_parts


@njit(cache=True, nogil=True)
def take_layer(
    layer: NDArray[np.int64],  # in
    abreast: int,
    k: int | np.int64,  # place of the step
    steps: Steps,  # in, of the stack
    own: Steps,  # out, of the layer
) -> None:
    """Copy what the traces of a layer need of a step."""
    columns, states, n_maps = layer[UNITS] * abreast, layer[COMPONENTS], layer[MAPS]
    state, d_state, d_pre = (
        layer[FIRST_STATE] * abreast, layer[FIRST_D_STATE] * abreast, layer[FIRST_D_PRE] * abreast,
    )  # fmt: skip
    for g in range(steps.d_pre.shape[1]):
        copy(
            steps.d_state[k, g].ravel()[d_state : d_state + states * states * columns],
            own.d_state[k, g].ravel(),
        )
        copy(
            steps.d_pre[k, g].ravel()[d_pre : d_pre + states * n_maps * columns],
            own.d_pre[k, g].ravel(),
        )
        copy(steps.state_grad[k, g, state : state + states * columns], own.state_grad[k, g])
    copy(steps.resets[k], own.resets[k])


@njit(cache=True, nogil=True)
def run_layer_traces(
    update: Callable[..., None],  # of the first layer, for its type
    learner: Learner,
    kept: tuple[Partials, ...],  # of each layer
    chunk: Chunk,
    streams: Streams,
    steps: Steps,  # HELD of them
    own: tuple[Steps, ...],  # of each layer, their sources those of `steps`
    traces: Any,  # Traces of each layer
    parts: tuple[NDArray[np.int64], ...],  # of the units of each layer
) -> tuple[int, int, int]:
    """Run a chunk; return the steps done, what stopped it, and at which stream."""
    learner, kept, chunk, streams, steps, own, traces, parts = borrow(
        (learner, kept, chunk, streams, steps, own, traces, parts)
    )
    layers: Any = learner.layers
    abreast, maps = streams.abreast, learner.maps
    held = np.int64(0)
    for t in range(chunk.first, chunk.xs.shape[0]):
        if held == 0 and t >= chunk.pause:
            return t, FINE, 0
        fault, b = FINE, 0
        for k in range(len(own)):
            grown = grown_stream(streams, chunk.resets[t], traces[k].traces)
            if grown >= 0:
                fault, b = GROWN, grown
        if fault == FINE:
            fault, b = observe(update, learner, chunk, t, streams, steps, held)
        if fault == FINE:
            signal(learner, chunk, t, streams, steps.state_grad[held])
            for g in range(steps.d_pre.shape[1]):
                d_pre = steps.d_pre[held, g].ravel()
                pull_down(layers, abreast, maps, d_pre, steps.state_grad[held, g])
            for k in range(len(own)):
                take_layer(layers.table[k], abreast, held, steps, own[k])
            held += 1
        due = update_due(learner, streams)
        if held == HELD or due or t + 1 == chunk.xs.shape[0] or fault != FINE:
            for k in range(len(own)):
                trace_parts(
                    None, parts[k], abreast, held, rows_of(layers.table[k], maps), kept[k], own[k],
                    traces[k], learner.grad,
                )  # fmt: skip
                traces[k].sweeps[0] += 1
            held = np.int64(0)
        if fault != FINE:
            return t, fault, b
        if not finish(learner, streams):
            return lost(streams, t)
    return chunk.xs.shape[0], FINE, 0

"""Backpropagation through time on the sparse maps, the whole chunk or windows of it.

λ_t = δ_t + D_{t+1}ᵀ λ_{t+1},     grad += Σ_t I_tᵀ λ_t
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .borrow import borrow
from .cells import Maps, Partials, pull_rows, pull_states
from .steps import (
    BAD_GRADIENT,
    FINE,
    Chunk,
    Learner,
    Steps,
    Streams,
    clear_stream,
    finish,
    hold,
    observe,
    signal,
)  # fmt: skip
from .wide import pull_rows_wide


class History(NamedTuple):
    """What the backward pass needs of each step of a window, in the groups of `Streams`."""

    filled: NDArray[np.int64]  # (1,) steps held
    steps: Steps
    adjoint: NDArray[np.floating]  # (2, groups, C, units)        scratch, λ
    h_before: NDArray[np.floating]  # (parts, groups, units)      scratch, Dᵀ λ by part of the units


@njit(cache=True, nogil=True)
def pull_part(
    part: int,
    parts: NDArray[np.int64],  # (parts + 1,)                  in
    abreast: int,
    maps: Maps,  # in
    partials: Partials,  # in
    sources: NDArray[np.floating],  # (groups, sources)        in
    d_pre: NDArray[np.floating],  # (groups, C, maps, units)   in
    adjoint: NDArray[np.floating],  # (groups, C, units)       in
    h_before: NDArray[np.floating],  # (groups, units)         out
    grad: NDArray[np.floating],  # (weights,)                  in/out
) -> None:
    """Go one step back through the maps of a part of the units, for all streams."""
    first, last = parts[part], parts[part + 1]
    h_before[:] = 0
    for g in range(sources.shape[0]):
        if abreast == 1:
            pull_rows(
                first, last, maps, partials, sources[g], d_pre[g], adjoint[g], h_before[g], grad
            )
        else:
            pull_rows_wide(
                first, last, maps, partials, sources[g], d_pre[g], adjoint[g], h_before[g], grad
            )


@njit(cache=True, nogil=True, forceinline=True)
def unroll(
    abreast: int,
    parts: NDArray[np.int64],  # (parts + 1,)  in
    maps: Maps,  # in
    partials: Partials,  # in
    history: History,  # in, empty on return
    grad: NDArray[np.floating],  # (weights,)  in/out
) -> None:
    """Go back through the steps held and add their gradient."""
    steps, adjoint, before = history.steps, history.adjoint[0], history.adjoint[1]
    batch = steps.resets.shape[1]
    adjoint[:] = 0
    for t in range(history.filled[0] - 1, -1, -1):
        add_to(steps.state_grad[t].ravel(), adjoint.ravel())
        for part in range(parts.size - 1):
            pull_part(
                part, parts, abreast, maps, partials, steps.sources[t], steps.d_pre[t], adjoint,
                history.h_before[part], grad,
            )  # fmt: skip
        for g in range(adjoint.shape[0]):
            pull_states(partials, steps.d_state[t, g], adjoint[g], before[g])
            for part in range(parts.size - 1):
                add_to(history.h_before[part, g], before[g, 0])
        adjoint, before = before, adjoint
        for place in range(adjoint.shape[0] * abreast):
            if steps.resets[t, min(place, batch - 1)]:
                clear_stream(adjoint[place // abreast].ravel(), abreast, place % abreast)
    history.filled[0] = 0


@njit(cache=True, nogil=True)
def add_to(
    values: NDArray[np.floating],  # (n,)  in
    sums: NDArray[np.floating],  # (n,)    in/out
) -> None:
    """Add values to sums."""
    for i in range(values.size):
        sums[i] += values[i]


@njit(cache=True, nogil=True)
def run_bptt(
    update: Callable[..., None],
    learner: Learner,
    partials: Partials,
    chunk: Chunk,
    streams: Streams,
    history: History,
) -> tuple[int, int, int]:
    """Run a chunk; return the steps done, what stopped it, and at which stream."""
    learner = borrow(learner)
    chunk = borrow(chunk)
    streams = borrow(streams)
    partials = borrow(partials)
    history = borrow(history)
    for t in range(chunk.xs.shape[0]):
        now = hold(chunk, t, streams, history.steps, history.filled[0])
        fault, b = observe(update, learner, chunk, t, now)
        if fault != FINE:
            return t, fault, b
        signal(learner, chunk, t, now)
        history.filled[0] += 1
        if history.filled[0] == history.steps.sources.shape[0]:
            unroll(streams.abreast, learner.parts, learner.maps, partials, history, learner.grad)
        if not finish(learner, now):
            return t, BAD_GRADIENT, 0
    return chunk.xs.shape[0], FINE, 0

"""Backpropagation through time on the sparse maps, the whole chunk or windows of it.

λ_t = δ_t + D_{t+1}ᵀ λ_{t+1},     grad += Σ_t I_tᵀ λ_t
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .borrow import borrow
from .cells import Maps, Partials, pull_back
from .steps import BAD_GRADIENT, FINE, Chunk, Learner, Streams, copy, finish, observe, signal


class History(NamedTuple):
    """What the backward pass needs of each step of a window."""

    filled: NDArray[np.int64]  # (1,) steps held
    sources: NDArray[np.floating]  # (window, B, sources)
    d_state: NDArray[np.floating]  # (window, B, C, C, units)
    d_pre: NDArray[np.floating]  # (window, B, C, maps, units)
    state_grad: NDArray[np.floating]  # (window, B, C * units)
    resets: NDArray[np.bool_]  # (window, B)
    adjoint: NDArray[np.floating]  # (2, C, units)   scratch


@njit(cache=True, nogil=True, forceinline=True)
def unroll(
    maps: Maps,  # in
    partials: Partials,  # in
    history: History,  # in, empty on return
    grad: NDArray[np.floating],  # (weights,)  in/out
) -> None:
    """Go back through the steps held and add their gradient."""
    components, units = history.adjoint.shape[1:]
    for b in range(history.sources.shape[1]):
        adjoint, before = history.adjoint[0], history.adjoint[1]
        adjoint[:] = 0
        for t in range(history.filled[0] - 1, -1, -1):
            for c in range(components):
                for u in range(units):
                    adjoint[c, u] += history.state_grad[t, b, c * units + u]
            pull_back(
                maps,
                partials,
                history.sources[t, b],
                history.d_state[t, b],
                history.d_pre[t, b],
                adjoint,
                before,
                grad,
            )
            adjoint, before = before, adjoint
            if history.resets[t, b]:
                adjoint[:] = 0
    history.filled[0] = 0


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
        fault, b = observe(update, learner, chunk, t, streams)
        if fault != FINE:
            return t, fault, b
        signal(learner, chunk, t, streams)
        now = history.filled[0]
        copy(streams.sources.ravel(), history.sources[now].ravel())
        copy(streams.d_state.ravel(), history.d_state[now].ravel())
        copy(streams.d_pre.ravel(), history.d_pre[now].ravel())
        copy(streams.state_grad.ravel(), history.state_grad[now].ravel())
        copy(chunk.resets[t], history.resets[now])
        history.filled[0] = now + 1
        if history.filled[0] == history.sources.shape[0]:
            unroll(learner.maps, partials, history, learner.grad)
        if not finish(learner, streams):
            return t, BAD_GRADIENT, 0
    return chunk.xs.shape[0], FINE, 0

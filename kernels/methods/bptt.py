"""Backpropagation through time on the sparse maps, the whole chunk or windows of it.

λ_t = δ_t + D_{t+1}ᵀ λ_{t+1},     grad += Σ_t I_tᵀ λ_t
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..cells.layers import Layers, pull_layers
from ..cells.maps import Maps, Partials, pull_rows, pull_states
from ..cells.maps_abreast import pull_rows_abreast
from ..compiler.borrow import borrow
from ..learning.steps import (
    BAD_GRADIENT,
    FINE,
    Chunk,
    Learner,
    Steps,
    Streams,
    clear_stream,
    copy,
    finish,
    observe,
    signal,
)  # fmt: skip


class History(NamedTuple):
    """What the backward pass needs of each step of a window, in the groups of `Streams`."""

    filled: NDArray[np.int64]  # (1,) steps held
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
            pull_rows_abreast(
                first, last, maps, partials, sources[g], d_pre[g], adjoint[g], h_before[g], grad
            )


@njit(cache=True, nogil=True, parallel=True)
def pull_shared(
    threads: int,
    parts: NDArray[np.int64],
    abreast: int,
    maps: Maps,
    partials: Partials,
    sources: NDArray[np.floating],
    d_pre: NDArray[np.floating],
    adjoint: NDArray[np.floating],
    h_before: NDArray[np.floating],  # (parts, groups, units)     out
    grad: NDArray[np.floating],
) -> None:
    """Run `pull_part` on all parts, a thread on some of them each; otherwise its arguments."""
    count = parts.size - 1
    for i in prange(threads):
        for part in range(count * i // threads, count * (i + 1) // threads):
            pull_part(
                part, parts, abreast, maps, partials, sources, d_pre, adjoint, h_before[part], grad
            )


@njit(cache=True, nogil=True)
def pull_parts(
    threads: int | None,
    parts: NDArray[np.int64],
    abreast: int,
    maps: Maps,
    partials: Partials,
    sources: NDArray[np.floating],
    d_pre: NDArray[np.floating],
    adjoint: NDArray[np.floating],
    h_before: NDArray[np.floating],  # (parts, groups, units)     out
    grad: NDArray[np.floating],
) -> None:
    """Run `pull_part` on all parts; see `steps.apply_parts`."""
    if threads is None:
        for part in range(parts.size - 1):
            pull_part(
                part, parts, abreast, maps, partials, sources, d_pre, adjoint, h_before[part], grad
            )
    else:
        pull_shared(
            threads, parts, abreast, maps, partials, sources, d_pre, adjoint, h_before, grad
        )


@njit(cache=True, nogil=True)
def pull_step(
    layers: Layers | None,
    learner: Learner,  # in; grad in/out
    abreast: int,
    partials: Partials,  # of one cell
    sources: NDArray[np.floating],  # (groups, sources)           in
    d_state: NDArray[np.floating],  # (groups, C, C, units)       in
    d_pre: NDArray[np.floating],  # (groups, C, maps, units)      in
    adjoint: NDArray[np.floating],  # (groups, C, units)          in   λ; of layers in/out
    h_before: NDArray[np.floating],  # (parts, groups, units)     scratch; of layers (1, groups, z)
    before: NDArray[np.floating],  # (groups, C, units)           out  Dᵀ λ
) -> None:
    """Go one step back, for all streams: grad += Iᵀ λ."""
    parts, maps, grad = learner.parts, learner.maps, learner.grad
    if layers is None:
        pull_parts(
            learner.threads, parts, abreast, maps, partials, sources, d_pre, adjoint, h_before,
            grad,
        )  # fmt: skip
        for g in range(adjoint.shape[0]):
            pull_states(partials, d_state[g], adjoint[g], before[g])
            for part in range(parts.size - 1):
                add_to(h_before[part, g], before[g, 0])
    else:
        for g in range(adjoint.shape[0]):
            pull_layers(
                layers, abreast, maps, sources[g], d_state[g].ravel(), d_pre[g].ravel(),
                adjoint[g].ravel(), h_before[0, g], before[g].ravel(), grad,
            )  # fmt: skip


@njit(cache=True, nogil=True)
def unroll(
    learner: Learner,  # in; grad in/out
    partials: Partials,  # in
    abreast: int,
    steps: Steps,  # in
    history: History,  # in, empty on return
) -> None:
    """Go back through the steps held and add their gradient."""
    learner, partials, steps, history = borrow((learner, partials, steps, history))
    # they take turns, so that ∂L/∂s of the state at the start ends in the first
    last = history.filled[0] % 2
    adjoint, before = history.adjoint[last], history.adjoint[1 - last]
    batch = steps.resets.shape[1]
    adjoint[:] = 0
    for t in range(history.filled[0] - 1, -1, -1):
        add_to(steps.state_grad[t].ravel(), adjoint.ravel())
        pull_step(
            learner.layers, learner, abreast, partials, steps.sources[t], steps.d_state[t],
            steps.d_pre[t], adjoint, history.h_before, before,
        )  # fmt: skip
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
    update: Callable[..., None],  # of one cell
    learner: Learner,
    partials: Partials,  # of one cell
    chunk: Chunk,
    streams: Streams,
    steps: Steps,
    history: History,
) -> tuple[int, int, int]:
    """Run a chunk; return the steps done, what stopped it, and at which stream."""
    learner, partials, chunk, streams, steps, history = borrow(
        (learner, partials, chunk, streams, steps, history)
    )
    for t in range(chunk.first, chunk.xs.shape[0]):
        if t == chunk.pause:
            return t, FINE, 0
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
            unroll(learner, partials, streams.abreast, steps, history)
        if not finish(learner, streams):
            copy(learner.readout_kept, learner.readout_grad_flat)
            history.filled[0] = k
            return t, BAD_GRADIENT, 0
    return chunk.xs.shape[0], FINE, 0

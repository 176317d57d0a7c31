"""SnAp-1 and RFLO: each weight's influence on its own unit, and nothing else.

J is as large as I and lies in its order, row by row of the maps and component by component within
a row, so no pattern is needed. With B_u the (C × C) block of D that belongs to unit u,

    J_(c,w) <- Σ_b B_u[c, b] J_(b,w) + ∂s'_c/∂a_g · z_src(w)
    grad_w  += Σ_c δ_(c,u) J_(c,w)                                          (w in row u G + g)

SnAp-1 takes B_u as it is; RFLO leaves the unit's own recurrent weights out of it (Murray 2019).
"""

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .cells import Maps, Partials
from .steps import BAD_GRADIENT, FINE, Chunk, Learner, Streams, finish, observe, signal


@njit(cache=True, nogil=True)
def own_block(
    maps: Maps,  # in
    partials: Partials,  # in
    own_weight: NDArray[np.int32],  # (units * maps,)   in   weight of u on itself, or -1: not kept
    d_state: NDArray[np.floating],  # (C, C, units)     in
    d_pre: NDArray[np.floating],  # (C, maps, units)    in
    u: int,
    block: NDArray[np.floating],  # (C, C)              out  B_u
) -> None:
    """Form the block of D that leads from unit u to itself."""
    block[:] = 0
    for q in range(partials.state_rows.size):
        c, b = partials.state_rows[q], partials.state_columns[q]
        block[c, b] = d_state[c, b, u]
    n_maps = d_pre.shape[1]
    for g in range(n_maps):
        w = own_weight[u * n_maps + g]
        if w >= 0:
            for q in range(partials.map_indptr[g], partials.map_indptr[g + 1]):
                c = partials.map_components[q]
                block[c, 0] += d_pre[c, g, u] * maps.weights[w]


@njit(cache=True, nogil=True)
def trace_one(
    indices: NDArray[np.int32],  # (length,)            in   the row's sources
    sources: NDArray[np.floating],  # (all sources,)    in   z
    keep: float,  # B_u
    drive: float,  # ∂s'/∂a_g
    delta: float,
    trace: NDArray[np.floating],  # (length,)           in/out
    grad: NDArray[np.floating],  # (length,)            in/out
) -> None:
    """Update and contract the traces of one row that has one component."""
    for e in range(indices.size):
        trace[e] = keep * trace[e] + drive * sources[np.uint32(indices[e])]
        grad[e] += delta * trace[e]


@njit(cache=True, nogil=True)
def trace_many(
    indices: NDArray[np.int32],  # (length,)            in   the row's sources
    sources: NDArray[np.floating],  # (all sources,)    in   z
    components: NDArray[np.int32],  # (count,)          in
    block: NDArray[np.floating],  # (C, C)              in   B_u
    drive: NDArray[np.floating],  # (C,)                in   ∂s'_c/∂a_g
    delta: NDArray[np.floating],  # (C,)                in
    trace: NDArray[np.floating],  # (count * length,)   in/out
    grad: NDArray[np.floating],  # (length,)            in/out
    work: NDArray[np.floating],  # (C,)                 scratch
) -> None:
    """Update and contract the traces of one row that has several components."""
    length = indices.size
    for e in range(length):
        source = sources[np.uint32(indices[e])]
        for q in range(components.size):
            work[q] = drive[components[q]] * source
            for r in range(components.size):
                work[q] += block[components[q], components[r]] * trace[r * length + e]
        for q in range(components.size):
            trace[q * length + e] = work[q]
            grad[e] += delta[components[q]] * work[q]


@njit(cache=True, nogil=True)
def trace_step(
    maps: Maps,  # in
    partials: Partials,  # in
    own_weight: NDArray[np.int32],  # (units * maps,)            in
    sources: NDArray[np.floating],  # (B, sources)               in
    d_state: NDArray[np.floating],  # (B, C, C, units)           in
    d_pre: NDArray[np.floating],  # (B, C, maps, units)          in
    state_grad: NDArray[np.floating],  # (B, C * units)          in
    traces: NDArray[np.floating],  # (B, nnz of I)               in/out
    grad: NDArray[np.floating],  # (weights,)                    in/out
    work: NDArray[np.floating],  # (C + 3, C)                    scratch
) -> None:
    """Update the traces of all streams and add their gradient."""
    batch, components, n_maps, units = d_pre.shape
    block, drive, delta, spare = work[:components], work[-1], work[-2], work[-3]
    for b in range(batch):
        to = 0
        for u in range(units):
            own_block(maps, partials, own_weight, d_state[b], d_pre[b], u, block)
            for c in range(components):
                delta[c] = state_grad[b, c * units + u]
            for g in range(n_maps):
                row = u * n_maps + g
                start, end = maps.indptr[row], maps.indptr[row + 1]
                which = partials.map_components[partials.map_indptr[g] : partials.map_indptr[g + 1]]
                trace = traces[b, to : to + which.size * (end - start)]
                to += trace.size
                if which.size == 1:
                    c = which[0]
                    trace_one(
                        maps.indices[start:end],
                        sources[b],
                        block[c, c],
                        d_pre[b, c, g, u],
                        delta[c],
                        trace,
                        grad[start:end],
                    )
                else:
                    for c in range(components):
                        drive[c] = d_pre[b, c, g, u]
                    trace_many(
                        maps.indices[start:end],
                        sources[b],
                        which,
                        block,
                        drive,
                        delta,
                        trace,
                        grad[start:end],
                        spare,
                    )


@njit(cache=True, nogil=True)
def run_traces(
    update: Callable[..., None],
    learner: Learner,
    partials: Partials,
    own_weight: NDArray[np.int32],  # (units * maps,)  in
    chunk: Chunk,
    streams: Streams,
    traces: NDArray[np.floating],  # (B, nnz of I)     in/out
    work: NDArray[np.floating],  # (C + 3, C)          scratch
) -> tuple[int, int, int]:
    """Run a chunk; return the steps done, what stopped it, and at which stream."""
    for t in range(chunk.xs.shape[0]):
        fault, b = observe(update, learner, chunk, t, streams)
        if fault != FINE:
            return t, fault, b
        signal(learner, chunk, t, streams)
        for b in range(traces.shape[0]):
            if chunk.resets[t, b]:
                traces[b, :] = 0
        trace_step(
            learner.maps,
            partials,
            own_weight,
            streams.sources,
            streams.d_state,
            streams.d_pre,
            streams.state_grad,
            traces,
            learner.grad,
            work,
        )
        if not finish(learner, streams):
            return t, BAD_GRADIENT, 0
    return chunk.xs.shape[0], FINE, 0

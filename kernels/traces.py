"""SnAp-1 and RFLO: each weight's influence on its own unit, and nothing else.

J is as large as I, so no pattern is needed. It lies unit by unit (if the state has one component)
or row by row of the maps and component by component within a row, each piece padded with zeros to
whole vectors. With B_u the (C × C) block of D that belongs to unit u,

    J_(c,w) <- Σ_b B_u[c, b] J_(b,w) + ∂s'_c/∂a_g · z_src(w)
    grad_w  += Σ_c δ_(c,u) J_(c,w)                                          (w in row u G + g)

SnAp-1 takes B_u as it is; RFLO leaves the unit's own recurrent weights out of it (Murray 2019).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .borrow import borrow
from .cells import Maps, Partials
from .simd import fma, index, lanes, load, pointer, put, splat, store, value, zero
from .steps import BAD_GRADIENT, FINE, Chunk, Learner, Streams, finish, observe, signal


@njit(cache=True, nogil=True)
def own_blocks(
    maps: Maps,  # in
    partials: Partials,  # in
    own_weight: NDArray[np.int32],  # (units * maps,)   in   weight of u on itself, or -1: not kept
    d_state: NDArray[np.floating],  # (C, C, units)     in
    d_pre: NDArray[np.floating],  # (C, maps, units)    in
    blocks: NDArray[np.floating],  # (C, C, units)      out  B_u
) -> None:
    """Form the block of D that leads from each unit to itself."""
    n_maps, units = d_pre.shape[1:]
    blocks[:] = 0
    for q in range(partials.state_rows.size):
        c, b = partials.state_rows[q], partials.state_columns[q]
        for u in range(units):
            blocks[c, b, u] = d_state[c, b, u]
    for u in range(units):
        for g in range(n_maps):
            w = own_weight[u * n_maps + g]
            if w >= 0:
                for q in range(partials.map_indptr[g], partials.map_indptr[g + 1]):
                    c = partials.map_components[q]
                    blocks[c, 0, u] += d_pre[c, g, u] * maps.weights[w]


# One unit of a cell with one component: all its rows at once, with I in `drive`.
@njit(cache=True, nogil=True)
def _unit(
    pitch: int,
    keep: Any,  # pointer  in      B_u
    delta: Any,  # pointer  in
    drive: Any,  # pointer  in     I
    trace: Any,  # pointer  in/out
    grad: Any,  # pointer  in/out
) -> None:
    k, d = splat(keep, 0), splat(delta, 0)
    for e in range(0, pitch, lanes(trace)):
        new = fma(k, load(trace, e), load(drive, e))
        store(trace, e, new)
        store(grad, e, fma(d, new, load(grad, e)))


# One row of the maps of unit u, component after component, each `pitch` long.
@njit(cache=True, nogil=True)
def _row(
    pitch: int,
    which: Any,  # pointer  in      the components that the row's map touches
    count: int,
    components: int,
    n_maps: int,
    units: int,
    u: int,
    g: int,
    blocks: Any,  # pointer  in     B, (C, C, units)
    slopes: Any,  # pointer  in     ∂s'/∂a, (C, maps, units)
    delta: Any,  # pointer  in      (C, units)
    z: Any,  # pointer  in          the row's sources
    trace: Any,  # pointer  in/out
    grad: Any,  # pointer  in/out
    old: Any,  # pointer  scratch
) -> None:
    n = lanes(trace)
    for e in range(0, count * pitch, n):
        store(old, e, load(trace, e))
    for q in range(count):
        c = index(which, q)
        slope, d = splat(slopes, (c * n_maps + g) * units + u), splat(delta, c * units + u)
        for e in range(0, pitch, n):
            new = fma(slope, load(z, e), zero(trace))
            for r in range(count):
                own = splat(blocks, (c * components + index(which, r)) * units + u)
                new = fma(own, load(old, r * pitch + e), new)
            store(trace, q * pitch + e, new)
            store(grad, e, fma(d, new, load(grad, e)))


@njit(cache=True, nogil=True, forceinline=True)
def trace_step(
    maps: Maps,  # in
    partials: Partials,  # in
    own_weight: NDArray[np.int32],  # (units * maps,)            in
    sources: NDArray[np.floating],  # (B, sources)               in
    d_state: NDArray[np.floating],  # (B, C, C, units)           in
    d_pre: NDArray[np.floating],  # (B, C, maps, units)          in
    state_grad: NDArray[np.floating],  # (B, C * units)          in
    traces: NDArray[np.floating],  # (B, padded entries of I)    in/out
    grad: NDArray[np.floating],  # (weights,) + SLACK            in/out
    blocks: NDArray[np.floating],  # (C, C, units)               scratch
    drive: NDArray[np.floating],  # (padded fan-in,)             scratch
    old: NDArray[np.floating],  # (C * padded fan-in,)           scratch
) -> None:
    """Update the traces of all streams and add their gradient."""
    batch, components, n_maps, units = d_pre.shape
    whole = components == 1 and partials.map_components.size == n_maps
    indptr, indices, z = maps.indptr, pointer(maps.indices, 0), pointer(drive, 0)
    one, nought = traces.dtype.type(1), traces.dtype.type(0)
    n = lanes(z)
    for b in range(batch):
        own_blocks(maps, partials, own_weight, d_state[b], d_pre[b], blocks)
        source = pointer(sources, b * sources.shape[1])
        slopes = pointer(d_pre, b * components * n_maps * units)
        delta = pointer(state_grad, b * components * units)
        to = b * traces.shape[1]
        for u in range(units):
            first = length = 0
            for g in range(n_maps):
                row = u * n_maps + g
                if g == 0 or not whole:
                    first, length = indptr[row], 0
                d = value(slopes, g * units + u) if whole else one
                for w in range(indptr[row], indptr[row + 1]):
                    put(z, w - first, d * value(source, index(indices, w)))
                length += indptr[row + 1] - indptr[row]
                if whole and g + 1 < n_maps:
                    continue
                pitch = (length + n - 1) // n * n
                for e in range(length, pitch):
                    put(z, e, nought)  # so that padding stays 0, in traces and on grad
                if whole:
                    _unit(
                        pitch, pointer(blocks, u), pointer(state_grad, b * units + u), z,
                        pointer(traces, to), pointer(grad, first),
                    )  # fmt: skip
                    to += pitch
                    continue
                begin = partials.map_indptr[g]
                count = partials.map_indptr[g + 1] - begin
                _row(
                    pitch, pointer(partials.map_components, begin), count, components, n_maps,
                    units, u, g, pointer(blocks, 0), slopes, delta, z, pointer(traces, to),
                    pointer(grad, first), pointer(old, 0),
                )  # fmt: skip
                to += count * pitch


@njit(cache=True, nogil=True)
def run_traces(
    update: Callable[..., None],
    learner: Learner,
    partials: Partials,
    own_weight: NDArray[np.int32],  # (units * maps,)  in
    chunk: Chunk,
    streams: Streams,
    traces: NDArray[np.floating],  # (B, padded entries of I)  in/out
    blocks: NDArray[np.floating],  # (C, C, units)             scratch
    drive: NDArray[np.floating],  # (padded fan-in,)           scratch
    old: NDArray[np.floating],  # (C * padded fan-in,)         scratch
) -> tuple[int, int, int]:
    """Run a chunk; return the steps done, what stopped it, and at which stream."""
    learner = borrow(learner)
    chunk = borrow(chunk)
    streams = borrow(streams)
    partials = borrow(partials)
    own_weight = borrow(own_weight)
    traces = borrow(traces)
    blocks = borrow(blocks)
    drive = borrow(drive)
    old = borrow(old)
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
            blocks,
            drive,
            old,
        )
        if not finish(learner, streams):
            return t, BAD_GRADIENT, 0
    return chunk.xs.shape[0], FINE, 0

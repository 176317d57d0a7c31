"""SnAp-1 and RFLO: each weight's influence on its own unit, and nothing else.

J is as large as I, so no pattern is needed. With streams side by side it lies weight by weight, a
vector for each component that the weight's map touches. For a single stream it lies unit by unit
(if the state has one component) or row by row of the maps and component by component within a row,
each piece padded with zeros to whole vectors. With B_u the (C × C) block of D that belongs to unit
u,

    J_(c,w) <- Σ_b B_u[c, b] J_(b,w) + ∂s'_c/∂a_g · z_src(w)
    grad_w  += Σ_c δ_(c,u) J_(c,w)                                          (w in row u G + g)

SnAp-1 takes B_u as it is; RFLO leaves the unit's own recurrent weights out of it (Murray 2019).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .borrow import borrow
from .cells import Maps, Partials
from .simd import (
    fill,
    fma,
    index,
    lanes,
    load,
    pointer,
    put,
    splat,
    store,
    value,
    zero,
)  # fmt: skip
from .steps import (
    BAD_GRADIENT,
    FINE,
    Chunk,
    Learner,
    Streams,
    clear_stream,
    finish,
    observe,
    signal,
)  # fmt: skip
from .wide import trace_block_wide, trace_row_of_two_wide, trace_row_wide


class Traces(NamedTuple):
    """The traces of all streams, and what their update needs beside the maps."""

    own_weight: NDArray[np.int32]  # (units * maps,)  weight of a unit on itself, or -1: not kept
    starts: NDArray[np.int64]  # (units + 1,)         where the traces of each unit begin
    traces: NDArray[np.floating]  # (groups, size)
    blocks: NDArray[np.floating]  # (C, C, units * abreast)   scratch, B_u
    drive: NDArray[np.floating]  # (parts, padded fan-in)   scratch, I of a unit
    old: NDArray[np.floating]  # (parts, C * padded fan-in)  scratch
    own_grad: NDArray[np.floating]  # (parts, padded fan-in)  scratch, gradient of a unit


@njit(cache=True, nogil=True)
def own_blocks(
    first: int,
    last: int,  # units
    abreast: int,
    maps: Maps,  # in
    partials: Partials,  # in
    own_weight: NDArray[np.int32],  # (units * maps,)           in
    d_state: NDArray[np.floating],  # (C, C, units * abreast)     in
    d_pre: NDArray[np.floating],  # (C, maps, units * abreast)    in
    blocks: NDArray[np.floating],  # (C, C, units * abreast)      out  B_u
) -> None:
    """Form the block of D that leads from each unit to itself."""
    n_maps = d_pre.shape[1]
    begin, end = first * abreast, last * abreast
    blocks[:, :, begin:end] = 0
    for q in range(partials.state_rows.size):
        c, b = partials.state_rows[q], partials.state_columns[q]
        for i in range(begin, end):
            blocks[c, b, i] = d_state[c, b, i]
    for u in range(first, last):
        for g in range(n_maps):
            w = own_weight[u * n_maps + g]
            if w >= 0:
                for q in range(partials.map_indptr[g], partials.map_indptr[g + 1]):
                    c = partials.map_components[q]
                    for i in range(u * abreast, u * abreast + abreast):
                        blocks[c, 0, i] += d_pre[c, g, i] * maps.weights[w]


# One unit of a cell with one component: all its rows at once.
@njit(cache=True, nogil=True)
def _unit(
    pitch: int,
    to: int,  # where its traces begin
    keep: Any,  # vector  in       B_u
    delta: Any,  # vector  in      δ
    drive: Any,  # pointer  in     I
    traces: Any,  # pointer  in/out
    grad: Any,  # pointer  out     of its own weights
) -> None:
    for e in range(0, pitch, lanes(traces)):
        new = fma(keep, load(traces, to + e), load(drive, e))
        store(traces, to + e, new)
        store(grad, e, delta * new)


# One row of the maps under both components of a cell, h and c.
@njit(cache=True, nogil=True)
def _row_of_two(
    pitch: int,
    to: int,  # where its traces begin
    keep_hh: Any,  # vector  in     B_u …
    keep_hc: Any,
    keep_ch: Any,
    keep_cc: Any,  # … to here
    slope_h: Any,  # vector  in     ∂s'/∂a_g …
    slope_c: Any,  # … to here
    delta: Any,  # vector  in       δ
    source: Any,  # pointer  in     sources of its weights, then zeros
    traces: Any,  # pointer  in/out
    grad: Any,  # pointer  out      of its own weights
) -> None:
    for e in range(0, pitch, lanes(traces)):
        z, h, c = load(source, e), load(traces, to + e), load(traces, to + pitch + e)
        new_h = fma(keep_hh, h, fma(keep_hc, c, slope_h * z))
        store(traces, to + e, new_h)
        store(traces, to + pitch + e, fma(keep_ch, h, fma(keep_cc, c, slope_c * z)))
        store(grad, e, delta * new_h)


# One row of the maps, component after component, each `pitch` long. Of δ only component 0 has any.
@njit(cache=True, nogil=True)
def _row(
    pitch: int,
    to: int,  # where its traces begin
    which: Any,  # pointer  in      the components that the row's map touches
    count: int,
    keep: Any,  # pointer  in       B_u, `units` from entry to entry
    units: int,
    components: int,
    slopes: Any,  # pointer  in     ∂s'/∂a_g, `across` from component to component
    across: int,
    delta: Any,  # vector  in       δ
    source: Any,  # pointer  in     sources of its weights, then zeros
    traces: Any,  # pointer  in/out
    grad: Any,  # pointer  out      of its own weights
    old: Any,  # pointer  scratch
) -> None:
    n = lanes(traces)
    if count == 2 and components == 2:  # most rows of an LSTM
        _row_of_two(
            pitch, to, splat(keep, 0), splat(keep, units), splat(keep, 2 * units),
            splat(keep, 3 * units), splat(slopes, 0), splat(slopes, across), delta, source,
            traces, grad,
        )  # fmt: skip
        return
    for e in range(0, count * pitch, n):
        store(old, e, load(traces, to + e))
    for q in range(count):
        c = index(which, q)
        slope = splat(slopes, c * across)
        for e in range(0, pitch, n):
            new = slope * load(source, e)
            for r in range(count):
                own = splat(keep, (c * components + index(which, r)) * units)
                new = fma(own, load(old, r * pitch + e), new)
            store(traces, to + q * pitch + e, new)
            if c == 0:
                store(grad, e, delta * new)


@njit(cache=True, nogil=True)
def _trace_units(
    first: int,
    last: int,  # units
    maps: Maps,  # in
    partials: Partials,  # in
    gathered: NDArray[np.floating],  # (weights,) + SLACK    in   source of each weight
    d_pre: NDArray[np.floating],  # (C, maps, units)         in
    state_grad: NDArray[np.floating],  # (C * units,)        in
    starts: NDArray[np.int64],  # (units + 1,)               in
    traces: NDArray[np.floating],  # (size,)                 in/out
    grad: NDArray[np.floating],  # (weights,)                in/out
    blocks: NDArray[np.floating],  # (C, C, units)           in
    drive: NDArray[np.floating],  # (padded fan-in,)         scratch
    old: NDArray[np.floating],  # (C * padded fan-in,)       scratch
    own_grad: NDArray[np.floating],  # (padded fan-in,)      scratch
) -> None:
    components, n_maps, units = d_pre.shape
    whole = components == 1 and partials.map_components.size == n_maps
    one, indptr = drive.dtype.type(1), pointer(maps.indptr, 0)
    z, source, own = pointer(gathered, 0), pointer(drive, 0), pointer(own_grad, 0)
    out, trace, slopes = pointer(grad, 0), pointer(traces, 0), pointer(d_pre, 0)
    n = lanes(z)
    for u in range(first, last):
        begin, length = index(indptr, u * n_maps), index(indptr, u * n_maps + n_maps)
        length -= begin
        delta = splat(pointer(state_grad, 0), u)
        to = starts[u]
        for g in range(n_maps):
            row = u * n_maps + g
            start, stop = index(indptr, row), index(indptr, row + 1)
            at = start - begin if whole else 0
            slope = fill(z, value(slopes, g * units + u) if whole else one)
            for w in range(start, stop, n):  # ascending: what spills over is overwritten
                store(source, at + w - start, slope * load(z, w))
            if whole:
                continue
            store(source, stop - start, zero(z))  # so that padding stays 0
            pitch = (stop - start + n - 1) // n * n
            which = partials.map_indptr[g]
            count = partials.map_indptr[g + 1] - which
            for e in range(0, pitch, n):  # for a map that does not touch component 0
                store(own, start - begin + e, zero(z))
            _row(
                pitch, to, pointer(partials.map_components, which), count, pointer(blocks, u),
                units, components, pointer(d_pre, g * units + u), n_maps * units, delta, source,
                trace, pointer(own_grad, start - begin), pointer(old, 0),
            )  # fmt: skip
            to += count * pitch
        if whole:
            store(source, length, zero(z))
            pitch = (length + n - 1) // n * n
            _unit(pitch, to, splat(pointer(blocks, 0), u), delta, source, trace, own)
        e = 0
        while e + n <= length:
            store(out, begin + e, load(out, begin + e) + load(own, e))
            e += n
        while e < length:  # another thread may own what lies beyond
            put(out, begin + e, value(out, begin + e) + value(own, e))
            e += 1


@njit(cache=True, nogil=True)
def _trace_units_wide(
    first: int,
    last: int,  # units
    maps: Maps,  # in
    partials: Partials,  # in
    sources: NDArray[np.floating],  # (sources * lanes,)          in
    d_pre: NDArray[np.floating],  # (C, maps, units * lanes)      in
    state_grad: NDArray[np.floating],  # (C * units * lanes,)     in
    starts: NDArray[np.int64],  # (units + 1,)                    in
    traces: NDArray[np.floating],  # (size,)                      in/out
    grad: NDArray[np.floating],  # (weights,)                     in/out
    blocks: NDArray[np.floating],  # (C, C, units * lanes)        in
    old: NDArray[np.floating],  # (C * lanes,) or more            scratch
) -> None:
    components, n_maps, columns = d_pre.shape
    indptr, indices = pointer(maps.indptr, 0), pointer(maps.indices, 0)
    z, out, trace = pointer(sources, 0), pointer(grad, 0), pointer(traces, 0)
    n = lanes(z)
    for u in range(first, last):
        to = starts[u]
        for g in range(n_maps):
            w, end = index(indptr, u * n_maps + g), index(indptr, u * n_maps + g + 1)
            which = partials.map_indptr[g]
            count = partials.map_indptr[g + 1] - which
            delta = load(pointer(state_grad, 0), u * n)
            slopes = pointer(d_pre, g * columns + u * n)
            keep = pointer(blocks, u * n)
            if count == 1:
                c = partials.map_components[which]
                trace_row_wide(
                    w, end, to, load(keep, c * (components + 1) * columns),
                    load(slopes, c * n_maps * columns), delta if c == 0 else zero(z), indices, z,
                    trace, out,
                )  # fmt: skip
            elif count == 2 and components == 2:
                both, across = components * columns, n_maps * columns
                trace_row_of_two_wide(
                    w, end, to,
                    (load(keep, 0), load(keep, columns), load(keep, both),
                     load(keep, both + columns)),
                    (load(slopes, 0), load(slopes, across)), delta, indices, z, trace, out,
                )  # fmt: skip
            else:
                trace_block_wide(
                    w, end, to, pointer(partials.map_components, which), count, keep, columns,
                    components, slopes, n_maps * columns, delta, indices, z, trace, out,
                    pointer(old, 0),
                )  # fmt: skip
            to += count * n * (end - w)


@njit(cache=True, nogil=True)
def trace_part(
    part: int,
    parts: NDArray[np.int64],  # (parts + 1,)                  in
    maps: Maps,  # in
    partials: Partials,  # in
    streams: Streams,  # in
    traces: Traces,  # in/out
    grad: NDArray[np.floating],  # (weights,)                  in/out
) -> None:
    """Update the traces of a part of the units, for all streams, and add their gradient."""
    first, last = parts[part], parts[part + 1]
    t, s = traces, streams
    for g in range(s.d_pre.shape[0]):
        own_blocks(
            first, last, s.abreast, maps, partials, t.own_weight, s.d_state[g], s.d_pre[g], t.blocks
        )
        if s.abreast == 1:
            _trace_units(
                first, last, maps, partials, s.gathered[g], s.d_pre[g], s.state_grad[g], t.starts,
                t.traces[g], grad, t.blocks, t.drive[part], t.old[part], t.own_grad[part],
            )  # fmt: skip
        else:
            _trace_units_wide(
                first, last, maps, partials, s.sources[g], s.d_pre[g], s.state_grad[g], t.starts,
                t.traces[g], grad, t.blocks, t.old[part],
            )  # fmt: skip


@njit(cache=True, nogil=True)
def run_traces(
    update: Callable[..., None],
    learner: Learner,
    partials: Partials,
    chunk: Chunk,
    streams: Streams,
    traces: Traces,
) -> tuple[int, int, int]:
    """Run a chunk; return the steps done, what stopped it, and at which stream."""
    learner = borrow(learner)
    partials = borrow(partials)
    chunk = borrow(chunk)
    streams = borrow(streams)
    traces = borrow(traces)
    for t in range(chunk.xs.shape[0]):
        fault, b = observe(update, learner, chunk, t, streams)
        if fault != FINE:
            return t, fault, b
        signal(learner, chunk, t, streams)
        for place in range(traces.traces.shape[0] * streams.abreast):
            if chunk.resets[t, min(place, chunk.xs.shape[1] - 1)]:
                group, lane = place // streams.abreast, place % streams.abreast
                clear_stream(traces.traces[group], streams.abreast, lane)
        for part in range(learner.parts.size - 1):
            trace_part(part, learner.parts, learner.maps, partials, streams, traces, learner.grad)
        if not finish(learner, streams):
            return t, BAD_GRADIENT, 0
    return chunk.xs.shape[0], FINE, 0

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
from numba import njit, prange
from numpy.typing import NDArray

from .arithmetic import fill
from .borrow import borrow
from .cells import Maps, Partials
from .simd import fma, index, lanes, load, pointer, put, splat, store, value, zero
from .steps import BAD_GRADIENT, FINE, Chunk, Learner, Steps, Streams, finish, observe, signal
from .traces_wide import HELD, trace_units_wide


class Traces(NamedTuple):
    """The traces of all streams, and what their update needs beside the maps."""

    own_weight: NDArray[np.int32]  # (units * maps,)  weight of a unit on itself, or -1: not kept
    starts: NDArray[np.int64]  # (units + 1,)         where the traces of each unit begin
    traces: NDArray[np.floating]  # (groups, size)
    blocks: NDArray[np.floating]  # (HELD, C, C, units * abreast)    scratch, B_u
    drive: NDArray[np.floating]  # (parts, HELD * padded fan-in)     scratch, I of a unit
    old: NDArray[np.floating]  # (parts, C * padded fan-in)          scratch
    own_grad: NDArray[np.floating]  # (parts, padded fan-in)         scratch, gradient of a unit


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
    resets: NDArray[np.bool_],  # (B,)                            in
    first_stream: int,  # of the group
    blocks: NDArray[np.floating],  # (C, C, units * abreast)      out  B_u
) -> None:
    """Form the block of D that leads from each unit to itself, 0 where a sequence begins."""
    n_maps = d_pre.shape[1]
    begin, end = first * abreast, last * abreast
    for c in range(blocks.shape[0]):
        for b in range(blocks.shape[1]):
            for i in range(begin, end):  # a slice assignment would take a second to compile
                blocks[c, b, i] = 0
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
    for lane in range(abreast):
        if resets[min(first_stream + lane, resets.size - 1)]:
            for c in range(blocks.shape[0]):
                for b in range(blocks.shape[1]):
                    for i in range(begin + lane, end, abreast):
                        blocks[c, b, i] = 0


# One unit of a cell with one component: all its rows at once.
@njit(cache=True, nogil=True)
def _unit(
    pitch: int,
    to: int,  # where its traces begin
    keep: Any,  # vector  in       B_u
    delta: Any,  # vector  in      δ
    drive: Any,  # pointer  in     I
    traces: Any,  # pointer  in/out
    grad: Any,  # pointer  in/out  of its own weights
) -> None:
    for e in range(0, pitch, lanes(traces)):
        new = fma(keep, load(traces, to + e), load(drive, e))
        store(traces, to + e, new)
        store(grad, e, fma(delta, new, load(grad, e)))


# The same for the held steps at once.
@njit(cache=True, nogil=True)
def _unit_steps(
    pitch: int,
    to: int,  # where its traces begin
    keep: Any,  # vectors  in      B_u, step by step
    delta: Any,  # vectors  in     δ
    drive: Any,  # pointer  in     I, `stride` from step to step
    stride: int,
    traces: Any,  # pointer  in/out
    grad: Any,  # pointer  out     of its own weights
) -> None:
    for e in range(0, pitch, lanes(traces)):
        j0 = fma(keep[0], load(traces, to + e), load(drive, e))
        j1 = fma(keep[1], j0, load(drive, e + stride))
        j2 = fma(keep[2], j1, load(drive, e + 2 * stride))
        j3 = fma(keep[3], j2, load(drive, e + 3 * stride))
        store(traces, to + e, j3)
        store(grad, e, fma(delta[3], j3, fma(delta[2], j2, fma(delta[1], j1, delta[0] * j0))))


@njit(cache=True, nogil=True)
def _splats(a: Any, first: int, stride: int) -> Any:
    return (
        splat(a, first), splat(a, first + stride), splat(a, first + 2 * stride),
        splat(a, first + 3 * stride),
    )  # fmt: skip


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
    grad: Any,  # pointer  in/out   of its own weights
) -> None:
    for e in range(0, pitch, lanes(traces)):
        z, h, c = load(source, e), load(traces, to + e), load(traces, to + pitch + e)
        new_h = fma(keep_hh, h, fma(keep_hc, c, slope_h * z))
        store(traces, to + e, new_h)
        store(traces, to + pitch + e, fma(keep_ch, h, fma(keep_cc, c, slope_c * z)))
        store(grad, e, fma(delta, new_h, load(grad, e)))


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
    grad: Any,  # pointer  in/out   of its own weights
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
                store(grad, e, fma(delta, new, load(grad, e)))


@njit(cache=True, nogil=True)
def trace_units(
    first: int,
    last: int,  # units
    group: int,
    held: int | np.int64,  # steps
    maps: Maps,  # in
    partials: Partials,  # in
    steps: Steps,  # in
    blocks: NDArray[np.floating],  # (HELD, C, C, units)     in   B_u
    starts: NDArray[np.int64],  # (units + 1,)               in
    traces: NDArray[np.floating],  # (size,)                 in/out
    grad: NDArray[np.floating],  # (weights,)                in/out
    drive: NDArray[np.floating],  # (HELD * padded fan-in,)  scratch
    old: NDArray[np.floating],  # (C * padded fan-in,)       scratch
    own_grad: NDArray[np.floating],  # (padded fan-in,)      scratch
) -> None:
    """Take the traces of some units through the steps held, and add their gradient."""
    groups, components, n_maps, units = steps.d_pre.shape[1:]
    whole = components == 1 and partials.map_components.size == n_maps
    one, indptr = drive.dtype.type(1), pointer(maps.indptr, 0)
    source, own = pointer(drive, 0), pointer(own_grad, 0)
    out, trace = pointer(grad, 0), pointer(traces, 0)
    block, d_block = components * components * units, groups * components * n_maps * units
    d_width, stride = groups * components * units, drive.size // HELD
    n = lanes(out)
    for u in range(first, last):
        begin = index(indptr, u * n_maps)
        length = index(indptr, u * n_maps + n_maps) - begin
        delta = pointer(steps.state_grad, group * components * units + u)
        for e in range(0, length, n):
            store(own, e, zero(own))
        to = starts[u]
        for g in range(n_maps):
            start, stop = index(indptr, u * n_maps + g), index(indptr, u * n_maps + g + 1)
            pitch = (stop - start + n - 1) // n * n
            which = partials.map_indptr[g]
            count = partials.map_indptr[g + 1] - which
            slopes = (group * components * n_maps + g) * units + u
            for k in range(held):
                z = pointer(steps.gathered, (k * groups + group) * steps.gathered.shape[2])
                d = value(pointer(steps.d_pre, 0), slopes + k * d_block) if whole else one
                at = k * stride + start - begin if whole else 0
                slope = fill(z, d)
                for w in range(start, stop, n):  # ascending: what spills over is overwritten
                    store(source, at + w - start, slope * load(z, w))
                if not whole:
                    store(source, stop - start, zero(z))  # so that padding stays 0
                    _row(
                        pitch, to, pointer(partials.map_components, which), count,
                        pointer(blocks, k * block + u), units, components,
                        pointer(steps.d_pre, slopes + k * d_block), n_maps * units,
                        splat(delta, k * d_width), source, trace,
                        pointer(own_grad, start - begin), pointer(old, 0),
                    )  # fmt: skip
            to += count * pitch
        if whole:
            to, pitch, keep = starts[u], (length + n - 1) // n * n, pointer(blocks, u)
            for k in range(held):
                store(source, k * stride + length, zero(own))
            if held == HELD:
                _unit_steps(
                    pitch, to, _splats(keep, 0, block), _splats(delta, 0, d_width), source, stride,
                    trace, own,
                )  # fmt: skip
            else:
                for k in range(held):
                    _unit(
                        pitch, to, splat(keep, k * block), splat(delta, k * d_width),
                        pointer(drive, k * stride), trace, own,
                    )  # fmt: skip
        e = 0
        while e + n <= length:
            store(out, begin + e, load(out, begin + e) + load(own, e))
            e += n
        while e < length:  # another thread may own what lies beyond
            put(out, begin + e, value(out, begin + e) + value(own, e))
            e += 1


@njit(cache=True, nogil=True)
def trace_part(
    part: int,
    parts: NDArray[np.int64],  # (parts + 1,)                  in
    abreast: int,
    held: int | np.int64,  # steps
    maps: Maps,  # in
    partials: Partials,  # in
    steps: Steps,  # in
    traces: Traces,  # in/out
    grad: NDArray[np.floating],  # (weights,)                  in/out
) -> None:
    """Take a part of the units through the steps held, for all streams."""
    first, last = parts[part], parts[part + 1]
    t, s = traces, steps
    for g in range(t.traces.shape[0]):
        for k in range(held):
            own_blocks(
                first, last, abreast, maps, partials, t.own_weight, s.d_state[k, g], s.d_pre[k, g],
                s.resets[k], g * abreast, t.blocks[k],
            )  # fmt: skip
        if abreast == 1:
            trace_units(
                first, last, g, held, maps, partials, s, t.blocks, t.starts, t.traces[g], grad,
                t.drive[part], t.old[part], t.own_grad[part],
            )  # fmt: skip
        else:
            trace_units_wide(
                first, last, g, held, maps, partials, s, t.blocks, t.starts, t.traces[g], grad,
                t.old[part],
            )  # fmt: skip


@njit(cache=True, nogil=True, parallel=True)
def trace_shared(
    threads: int,
    parts: NDArray[np.int64],  # (parts + 1,)                   in
    abreast: int,
    held: int | np.int64,
    indptr: NDArray[np.int64],  # maps …                        in
    recurrent_end: NDArray[np.int64],
    indices: NDArray[np.int32],
    weights: NDArray[np.floating],
    map_indptr: NDArray[np.int64],  # partials …
    map_components: NDArray[np.int32],
    state_rows: NDArray[np.int32],
    state_columns: NDArray[np.int32],
    sources: NDArray[np.floating],  # steps …
    gathered: NDArray[np.floating],
    d_state: NDArray[np.floating],
    d_pre: NDArray[np.floating],
    state_grad: NDArray[np.floating],
    resets: NDArray[np.bool_],
    own_weight: NDArray[np.int32],  # traces …
    starts: NDArray[np.int64],
    all_traces: NDArray[np.floating],  #                        in/out
    blocks: NDArray[np.floating],
    drive: NDArray[np.floating],
    old: NDArray[np.floating],
    own_grad: NDArray[np.floating],  # … to here
    grad: NDArray[np.floating],  # (weights,)                   in/out
) -> None:
    """Run `trace_part` on all parts, a thread on some of them each; otherwise its arguments."""
    count = parts.size - 1
    for i in prange(threads):
        maps = Maps(indptr, recurrent_end, indices, weights)
        partials = Partials(map_indptr, map_components, state_rows, state_columns)
        steps = Steps(sources, gathered, d_state, d_pre, state_grad, resets)
        traces = Traces(own_weight, starts, all_traces, blocks, drive, old, own_grad)
        for part in range(count * i // threads, count * (i + 1) // threads):
            trace_part(part, parts, abreast, held, maps, partials, steps, traces, grad)


@njit(cache=True, nogil=True)
def trace_parts(
    threads: int | None,
    parts: NDArray[np.int64],
    abreast: int,
    held: int | np.int64,
    maps: Maps,
    partials: Partials,
    steps: Steps,
    traces: Traces,
    grad: NDArray[np.floating],
) -> None:
    """Run `trace_part` on all parts; see `steps.apply_parts`."""
    if threads is None:
        for part in range(parts.size - 1):
            trace_part(part, parts, abreast, held, maps, partials, steps, traces, grad)
    else:
        m, p, s, t = maps, partials, steps, traces
        trace_shared(
            threads, parts, abreast, held, m.indptr, m.recurrent_end, m.indices, m.weights,
            p.map_indptr, p.map_components, p.state_rows, p.state_columns, s.sources, s.gathered,
            s.d_state, s.d_pre, s.state_grad, s.resets, t.own_weight, t.starts, t.traces, t.blocks,
            t.drive, t.old, t.own_grad, grad,
        )  # fmt: skip


@njit(cache=True, nogil=True)
def run_traces(
    update: Callable[..., None],
    learner: Learner,
    partials: Partials,
    chunk: Chunk,
    streams: Streams,
    steps: Steps,  # HELD of them
    traces: Traces,
) -> tuple[int, int, int]:
    """Run a chunk; return the steps done, what stopped it, and at which stream."""
    learner = borrow(learner)
    partials = borrow(partials)
    chunk = borrow(chunk)
    streams = borrow(streams)
    steps = borrow(steps)
    traces = borrow(traces)
    held = np.int64(0)  # a plain 0 has a type of its own, for which all would be compiled again
    for t in range(chunk.xs.shape[0]):
        fault, b = observe(
            update,
            learner.maps,
            learner.parts,
            learner.threads,
            learner.readout,
            learner.loss,
            chunk,
            t,
            streams,
            steps,
            held,
        )
        if fault == FINE:
            signal(learner.readout, learner.readout_grad, chunk, t, streams, steps.state_grad[held])
            held += 1
        updates = streams.since[0] + 1 == learner.update_every
        if held == HELD or updates or t + 1 == chunk.xs.shape[0] or fault != FINE:
            trace_parts(
                learner.threads, learner.parts, streams.abreast, held, learner.maps, partials,
                steps, traces, learner.grad,
            )  # fmt: skip
            held = np.int64(0)
        if fault != FINE:
            return t, fault, b
        if not finish(learner, streams):
            return t, BAD_GRADIENT, 0
    return chunk.xs.shape[0], FINE, 0

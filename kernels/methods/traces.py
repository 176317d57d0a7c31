"""SnAp-1 and RFLO: each weight's influence on its own unit, and nothing else.

J is as large as I, so no pattern is needed. With streams side by side it lies weight by weight, a
vector for each component that the weight's map touches. For a single stream it lies row by row of
the maps and component by component within a row, each piece padded with zeros to whole vectors.
With B_u the (C × C) block of D that belongs to unit u,

    J_(c,w) <- Σ_b B_u[c, b] J_(b,w) + ∂s'_c/∂a_g · z_src(w)
    grad_w  += Σ_c δ_(c,u) J_(c,w)                                          (w in row u G + g)

SnAp-1 takes B_u as it is; RFLO leaves the unit's own recurrent weights out of it (Murray 2019).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..cells.maps import Maps, Partials
from ..compiler.borrow import borrow
from ..learning.steps import (
    FINE,
    GROWN,
    Chunk,
    Learner,
    Steps,
    Streams,
    finish,
    grown_stream,
    lost,
    observe,
    signal,
    update_due,
)
from ..vectors.simd import fma, index, lanes, load, pointer, put, splat, store, value
from .trace_forms import HELD, Row
from .trace_rows import trace_row, traces_of


class Traces(NamedTuple):
    """The traces of all streams, and what their update needs beside the maps."""

    own_weight: NDArray[np.int32]  # (units * maps,)  weight of a unit on itself, or -1: not kept
    drops_h: NDArray[np.bool_]  # (units,)    h does not enter its own unit again: no trace of it
    starts: NDArray[np.int64]  # (units + 1,)         where the traces of each unit begin
    traces: NDArray[np.floating]  # (groups, size)
    blocks: NDArray[np.floating]  # (HELD, C, C, units * abreast)    scratch, B_u
    old: NDArray[np.floating]  # (parts, C * lanes)                  scratch
    sweeps: NDArray[np.int64]  # (1,)  made so far; every other one goes through the units backwards


@njit(cache=True, nogil=True)
def own_blocks(
    first: int,
    last: int,  # units
    abreast: int,
    maps: Maps,  # in
    partials: Partials,  # in
    own_weight: NDArray[np.int32],  # (units * maps,)           in
    drops_h: NDArray[np.bool_],  # (units,)                     in
    d_state: NDArray[np.floating],  # (C, C, units * abreast)     in
    d_pre: NDArray[np.floating],  # (C, maps, units * abreast)    in
    resets: NDArray[np.bool_],  # (B,)                            in
    first_stream: int,  # of the group
    blocks: NDArray[np.floating],  # (C, C, units * abreast)      out  B_u
) -> None:
    """Form the block of D that leads from each unit to itself, 0 where a sequence begins.

    An entry that no partial and no weight can reach is 0 from the start and never written.
    """
    components, n_maps, columns = d_pre.shape
    block, inner, outer = pointer(blocks, 0), pointer(d_state, 0), pointer(d_pre, 0)
    weights = pointer(maps.weights, 0)
    begin, end = first * abreast, last * abreast
    for c in range(components):
        for i in range(c * components * columns + begin, c * components * columns + end):
            put(block, i, blocks.dtype.type(0))
    for q in range(partials.state_rows.size):
        entry = (partials.state_rows[q] * components + partials.state_columns[q]) * columns
        for i in range(entry + begin, entry + end):
            put(block, i, value(inner, i))
    for u in range(first, last):
        if drops_h[u]:
            continue
        for g in range(n_maps):
            w = own_weight[u * n_maps + g]
            if w < 0:
                continue
            for q in range(partials.map_indptr[g], partials.map_indptr[g + 1]):
                c = partials.map_components[q]
                to = c * components * columns + u * abreast
                slope = (c * n_maps + g) * columns + u * abreast
                if abreast == 1:
                    put(block, to, value(block, to) + value(outer, slope) * value(weights, w))
                else:
                    own = splat(weights, w)
                    store(block, to, fma(load(outer, slope), own, load(block, to)))
    for lane in range(abreast):
        if resets[min(first_stream + lane, resets.size - 1)]:
            for entry in range(components * components):
                for i in range(entry * columns + begin + lane, entry * columns + end, abreast):
                    put(block, i, blocks.dtype.type(0))


@njit(cache=True, nogil=True)
def trace_units(
    first: int,
    last: int,  # units
    abreast: int,
    group: int,
    backwards: bool,
    held: int | np.int64,  # steps
    maps: Maps,  # in
    partials: Partials,  # in
    steps: Steps,  # in
    traces: Traces,  # in/out
    grad: NDArray[np.floating],  # (weights,)                in/out
    old: NDArray[np.floating],  # (C * lanes,) or more       scratch
) -> None:
    """Take the traces of some units of a group through the steps held, and add their gradient."""
    groups, components, n_maps, columns = steps.d_pre.shape[1:]
    indptr, indices = pointer(maps.indptr, 0), pointer(maps.indices, 0)
    out, trace, scratch = pointer(grad, 0), pointer(traces.traces[group], 0), pointer(old, 0)
    starts, drops_h = traces.starts, traces.drops_h
    sources = steps.gathered if abreast == 1 else steps.sources
    size = sources.shape[2]
    z = pointer(sources, group * size)
    for i in range(last - first):
        u = last - 1 - i if backwards else first + i
        to, column = starts[u], u * abreast
        for g in range(n_maps):
            w, end = index(indptr, u * n_maps + g), index(indptr, u * n_maps + g + 1)
            which = partials.map_indptr[g]
            touched = partials.map_indptr[g + 1] - which
            drops = drops_h[u] and partials.map_components[which] == 0
            row = Row(
                abreast=abreast,
                which=pointer(partials.map_components, which),
                touched=touched,
                carried=touched - 1 if drops else touched,
                components=components,
                keep=pointer(traces.blocks, column),
                columns=columns,
                block=components * components * columns,
                slopes=pointer(steps.d_pre, (group * components * n_maps + g) * columns + column),
                across=n_maps * columns,
                d_block=groups * components * n_maps * columns,
                delta=pointer(steps.state_grad, group * components * columns + column),
                width=groups * components * columns,
            )
            trace_row(row, held, w, end, to, indices, z, groups * size, trace, out, scratch)
            to += traces_of(row, end - w, lanes(out))


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
    # there and back: what one sweep touches last the next one still finds in the cache
    backwards = t.sweeps[0] % 2 == 1
    for g in range(t.traces.shape[0]):
        for k in range(held):
            own_blocks(
                first, last, abreast, maps, partials, t.own_weight, t.drops_h, s.d_state[k, g],
                s.d_pre[k, g], s.resets[k], g * abreast, t.blocks[k],
            )  # fmt: skip
        trace_units(
            first, last, abreast, g, backwards, held, maps, partials, s, t, grad, t.old[part],
        )  # fmt: skip


@njit(cache=True, nogil=True, parallel=True)
def trace_shared(
    threads: int,
    parts: NDArray[np.int64],
    abreast: int,
    held: int | np.int64,
    maps: Maps,
    partials: Partials,
    steps: Steps,
    traces: Traces,
    grad: NDArray[np.floating],
) -> None:
    """Run `trace_part` on all parts, a thread on some of them each; otherwise its arguments."""
    count = parts.size - 1
    for i in prange(threads):
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
        trace_shared(threads, parts, abreast, held, maps, partials, steps, traces, grad)


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
    learner, partials, chunk, streams, steps, traces = borrow(
        (learner, partials, chunk, streams, steps, traces)
    )
    held = np.int64(0)  # a plain 0 has a type of its own, for which all would be compiled again
    for t in range(chunk.first, chunk.xs.shape[0]):
        if held == 0 and t >= chunk.pause:
            return t, FINE, 0
        b = grown_stream(streams, chunk.resets[t], traces.traces)
        fault = GROWN if b >= 0 else FINE
        if fault == FINE:
            fault, b = observe(update, learner, chunk, t, streams, steps, held)
        if fault == FINE:
            signal(learner, chunk, t, streams, steps.state_grad[held])
            held += 1
        due = update_due(learner, streams)
        if held == HELD or due or t + 1 == chunk.xs.shape[0] or fault != FINE:
            trace_parts(
                learner.threads, learner.parts, streams.abreast, held, learner.maps, partials,
                steps, traces, learner.grad,
            )  # fmt: skip
            traces.sweeps[0] += 1
            held = np.int64(0)
        if fault != FINE:
            return t, fault, b
        if not finish(learner, streams):
            return lost(streams, t)
    return chunk.xs.shape[0], FINE, 0

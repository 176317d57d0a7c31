"""SnAp-1 and RFLO over a window: the traces go through all of its steps in one sweep.

What the steps do to the traces of a row is the same for all of its weights. With B_t the (C × C)
block of D that belongs to the row's unit, on the components that the row's map touches, and s_t
its slopes ∂s'/∂a_g,

    Φ_t = B_T … B_(t+1),    J_T = Φ_0 J_0 + Σ_t (Φ_t s_t) z_t

A weight costs one multiply-add a step, as in the backward pass of BPTT. Φ_t s_t takes the place
of s_t in `Steps.d_pre`, which nothing reads once the backward pass is done.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..cells.maps import Maps, Partials
from ..compiler.borrow import borrow
from ..compiler.decorators import into_caller
from ..learning.steps import Learner, Steps
from ..vectors.arithmetic import total
from ..vectors.simd import (
    fma,
    index,
    lanes,
    load,
    load_part,
    pointer,
    put,
    splat,
    store,
    store_part,
    value,
    zero,
)  # fmt: skip
from .bptt import History, unroll
from .traces import Traces, own_blocks
from .window import is_sound


class WindowTraces(NamedTuple):
    """The traces, which keep those of h here, and what takes them through a window."""

    traces: Traces
    chain: NDArray[np.floating]  # (Σ touched², units * abreast)  scratch, Φ of every map
    fresh: NDArray[np.floating]  # (C, units * abreast)           scratch


@njit(cache=True, nogil=True)
def add_columns(x, y, sums, begin, end):
    """Add x · y to sums, three rows of numbers, from column begin to end."""
    for i in range(begin, end):
        put(sums, i, value(sums, i) + value(x, i) * value(y, i))


@njit(cache=True, nogil=True)
def fold_steps(
    first: int,
    last: int,  # units
    abreast: int,
    g: int,  # group
    held: int | np.int64,  # steps
    maps: Maps,  # in
    partials: Partials,  # in
    steps: Steps,  # in; d_pre in/out: s_t -> Φ_t s_t
    traces: Traces,  # in
    chain: NDArray[np.floating],  # (Σ touched², units * abreast)  out  Φ_0
    fresh: NDArray[np.floating],  # (C, units * abreast)           scratch
) -> None:
    """Work out what the steps held do to the traces of some units."""
    blocks = traces.blocks[0]
    begin, end = first * abreast, last * abreast
    n_maps = steps.d_pre.shape[3]
    for i in range(held + 1):
        t = held - i  # its blocks lead to the step before it; the first round has none
        if i > 0:
            own_blocks(
                first, last, abreast, maps, partials, traces.own_weight,
                traces.drops_h, steps.d_state[t, g], steps.d_pre[t, g], steps.resets[t],
                g * abreast, blocks,
            )  # fmt: skip
        row = 0
        for m in range(n_maps):
            which = partials.map_components[partials.map_indptr[m] : partials.map_indptr[m + 1]]
            n = which.size
            for q in range(n if i == 0 else 0):
                for r in range(n):
                    chain[row + q * n + r, begin:end] = 1 if q == r else 0
            if i > 0:
                fresh[:n, begin:end] = 0
                for q in range(n):
                    for r in range(n):
                        slopes = pointer(steps.d_pre[t, g, which[r], m], 0)
                        phi = pointer(chain[row + q * n + r], 0)
                        add_columns(phi, slopes, pointer(fresh[q], 0), begin, end)
                for q in range(n):
                    steps.d_pre[t, g, which[q], m, begin:end] = fresh[q, begin:end]
                for q in range(n):
                    fresh[:n, begin:end] = 0
                    for r in range(n):
                        for v in range(n):
                            phi = pointer(chain[row + q * n + v], 0)
                            block = pointer(blocks[which[v], which[r]], 0)
                            add_columns(phi, block, pointer(fresh[r], 0), begin, end)
                    for r in range(n):
                        chain[row + q * n + r, begin:end] = fresh[r, begin:end]
            row += n * n


@njit(cache=True, nogil=True)
def contract_units(
    first: int,
    last: int,  # units
    abreast: int,
    maps: Maps,  # in
    partials: Partials,  # in
    starts: NDArray[np.int64],  # (units + 1,)           in
    traces: NDArray[np.floating],  # (size,)             in
    adjoint: NDArray[np.floating],  # (C, units * abreast)  in   ∂L/∂s_0
    grad: NDArray[np.floating],  # (weights,)            in/out
) -> None:
    """Add J_0ᵀ ∂L/∂s_0 for the weights of some units of a group of streams."""
    indptr, columns = pointer(maps.indptr, 0), adjoint.shape[1]
    out, trace, later = pointer(grad, 0), pointer(traces, 0), pointer(adjoint, 0)
    n, n_maps = lanes(out), partials.map_indptr.size - 1
    for u in range(first, last):
        to = starts[u]
        for m in range(n_maps):
            w, end = index(indptr, u * n_maps + m), index(indptr, u * n_maps + m + 1)
            which = pointer(partials.map_components, partials.map_indptr[m])
            touched = partials.map_indptr[m + 1] - partials.map_indptr[m]
            across = (end - w + n - 1) // n * n if abreast == 1 else n
            while w < end:
                sums = zero(out)
                for q in range(touched):
                    at = index(which, q) * columns + u * abreast
                    held = load(trace, to + q * across)
                    sums = fma(splat(later, at) if abreast == 1 else load(later, at), held, sums)
                if abreast == 1:
                    store_part(out, w, end - w, load_part(out, w, end - w) + sums)
                    w, to = w + n, to + n
                else:
                    put(out, w, value(out, w) + total(sums))
                    w, to = w + 1, to + touched * n
            if abreast == 1:
                to += (touched - 1) * across


class Sweep(NamedTuple):
    """Where the numbers of a sweep lie, as bare pointers, and how far apart."""

    held: Any  # steps
    abreast: int
    n: int  # lanes
    indices: Any
    z: Any
    stride: Any  # from step to step of z
    slopes: Any  # Φ_t s_t
    d_step: Any  # from step to step of them
    pitch: Any  # from component to component
    phi: Any  # Φ_0
    columns: Any  # from number to number of it
    trace: Any


# Several weights at once: each multiply-add waits for the one before it in its sum. A weight has
# one trace for the first of these, two side by side for the second.
@into_caller
def _four_traces(s, w, at, keep, to):
    n, z, trace = s.n, s.z, s.trace
    i, j = index(s.indices, w) * n, index(s.indices, w + 1) * n
    k, m = index(s.indices, w + 2) * n, index(s.indices, w + 3) * n
    kept, none = load(s.phi, keep), zero(trace)
    a, b = fma(kept, load(trace, to), none), fma(kept, load(trace, to + n), none)
    c, d = fma(kept, load(trace, to + 2 * n), none), fma(kept, load(trace, to + 3 * n), none)
    for t in range(s.held):
        slope, step = load(s.slopes, at + t * s.d_step), t * s.stride
        a, b = fma(slope, load(z, i + step), a), fma(slope, load(z, j + step), b)
        c, d = fma(slope, load(z, k + step), c), fma(slope, load(z, m + step), d)
    store(trace, to, a)
    store(trace, to + n, b)
    store(trace, to + 2 * n, c)
    store(trace, to + 3 * n, d)


@into_caller
def _two_pairs(s, w, at, other, keep, to):
    n, z, trace, columns = s.n, s.z, s.trace, s.columns
    i, j, none = index(s.indices, w) * n, index(s.indices, w + 1) * n, zero(trace)
    a, b = load(trace, to), load(trace, to + n)
    c, d = load(trace, to + 2 * n), load(trace, to + 3 * n)
    here, across = load(s.phi, keep), load(s.phi, keep + columns)
    back, there = load(s.phi, keep + 2 * columns), load(s.phi, keep + 3 * columns)
    a, b = fma(across, b, fma(here, a, none)), fma(there, b, fma(back, a, none))
    c, d = fma(across, d, fma(here, c, none)), fma(there, d, fma(back, c, none))
    for t in range(s.held):
        one, two = load(s.slopes, at + t * s.d_step), load(s.slopes, other + t * s.d_step)
        x, y = load(z, i + t * s.stride), load(z, j + t * s.stride)
        a, b = fma(one, x, a), fma(two, x, b)
        c, d = fma(one, y, c), fma(two, y, d)
    store(trace, to, a)
    store(trace, to + n, b)
    store(trace, to + 2 * n, c)
    store(trace, to + 3 * n, d)


# One weight of streams abreast, or a vector of weights of one stream, with any number of traces.
@into_caller
def _any_traces(s, source, part, which, touched, base, across, keep, to, old):
    for q in range(touched):
        store(old, q * s.n, load(s.trace, to + q * across))
    for q in range(touched):
        new = zero(s.trace)
        for r in range(touched):
            place = keep + (q * touched + r) * s.columns
            kept = splat(s.phi, place) if s.abreast == 1 else load(s.phi, place)
            new = fma(kept, load(old, r * s.n), new)
        at = index(which, q) * s.pitch + base
        for t in range(s.held):
            slope = splat(s.slopes, at) if s.abreast == 1 else load(s.slopes, at)
            new = fma(slope, load_part(s.z, source + t * s.stride, part), new)
            at += s.d_step
        store(s.trace, to + q * across, new)


@njit(cache=True, nogil=True)
def advance_units(
    first: int,
    last: int,  # units
    abreast: int,
    g: int,  # group
    held: int | np.int64,  # steps
    maps: Maps,  # in
    partials: Partials,  # in
    steps: Steps,  # in, by `fold_steps`
    chain: NDArray[np.floating],  # (Σ touched², units * abreast)  in
    starts: NDArray[np.int64],  # (units + 1,)           in
    traces: NDArray[np.floating],  # (size,)             in/out
    scratch: NDArray[np.floating],  # (C * lanes,)       scratch
) -> None:
    """Take the traces of some units of a group of streams through the steps held."""
    indptr, indices, old = pointer(maps.indptr, 0), pointer(maps.indices, 0), pointer(scratch, 0)
    groups, components, n_maps, columns = steps.d_pre.shape[1:]
    sources = steps.gathered if abreast == 1 else steps.sources
    size, n, pitch = components * n_maps * columns, lanes(old), n_maps * columns
    s = Sweep(
        held, abreast, n, indices, pointer(sources, g * sources.shape[2]),
        groups * sources.shape[2], pointer(steps.d_pre, g * size), groups * size, pitch,
        pointer(chain, 0), columns, pointer(traces, 0),
    )  # fmt: skip
    for u in range(first, last):
        to, row = starts[u], 0
        for m in range(n_maps):
            w, end = index(indptr, u * n_maps + m), index(indptr, u * n_maps + m + 1)
            which = pointer(partials.map_components, partials.map_indptr[m])
            touched = partials.map_indptr[m + 1] - partials.map_indptr[m]
            across = (end - w + n - 1) // n * n if abreast == 1 else n
            keep, base = row * columns + u * abreast, m * columns + u * abreast
            if abreast > 1 and touched == 1:
                while w + 4 <= end:
                    _four_traces(s, w, index(which, 0) * pitch + base, keep, to)
                    w, to = w + 4, to + 4 * n
            elif abreast > 1 and touched == 2:
                one, two = index(which, 0) * pitch + base, index(which, 1) * pitch + base
                while w + 2 <= end:
                    _two_pairs(s, w, one, two, keep, to)
                    w, to = w + 2, to + 4 * n
            while w < end:
                part = min(n, end - w) if abreast == 1 else n
                source = w if abreast == 1 else index(indices, w) * n
                _any_traces(s, source, part, which, touched, base, across, keep, to, old)
                if abreast == 1:
                    w, to = w + n, to + n
                else:
                    w, to = w + 1, to + touched * n
            if abreast == 1:
                to += (touched - 1) * across
            row += touched * touched


@njit(cache=True, nogil=True)
def contract_part(
    part: int,
    parts: NDArray[np.int64],  # (parts + 1,)  in
    abreast: int,
    maps: Maps,
    partials: Partials,
    traces: Traces,
    adjoint: NDArray[np.floating],  # (groups, C, units * abreast)  in
    grad: NDArray[np.floating],
) -> None:
    """Run `contract_units` on a part of the units, for all streams."""
    for g in range(adjoint.shape[0]):
        contract_units(
            parts[part], parts[part + 1], abreast, maps, partials, traces.starts,
            traces.traces[g], adjoint[g], grad,
        )  # fmt: skip


@njit(cache=True, nogil=True)
def advance_part(
    part: int,
    parts: NDArray[np.int64],  # (parts + 1,)  in
    abreast: int,
    held: int | np.int64,
    maps: Maps,
    partials: Partials,
    steps: Steps,
    traces: Traces,
    chain: NDArray[np.floating],
    fresh: NDArray[np.floating],
) -> None:
    """Take a part of the units through the steps held, for all streams."""
    first, last = parts[part], parts[part + 1]
    for g in range(traces.traces.shape[0]):
        fold_steps(first, last, abreast, g, held, maps, partials, steps, traces, chain, fresh)
        advance_units(
            first, last, abreast, g, held, maps, partials, steps, chain, traces.starts,
            traces.traces[g], traces.old[part],
        )  # fmt: skip
        # a slope that is 0 by its structure is never written: what was folded into it must go
        steps.d_pre[:held, g, :, :, first * abreast : last * abreast] = 0


@njit(cache=True, nogil=True, parallel=True)
def contract_shared(
    threads: int,
    parts: NDArray[np.int64],
    abreast: int,
    maps: Maps,
    partials: Partials,
    traces: Traces,
    adjoint: NDArray[np.floating],
    grad: NDArray[np.floating],
) -> None:
    """Run `contract_part` on all parts, a thread on some of them each; otherwise its arguments."""
    count = parts.size - 1
    for i in prange(threads):
        for part in range(count * i // threads, count * (i + 1) // threads):
            contract_part(part, parts, abreast, maps, partials, traces, adjoint, grad)


@njit(cache=True, nogil=True, parallel=True)
def advance_shared(
    threads: int,
    parts: NDArray[np.int64],
    abreast: int,
    held: int | np.int64,
    maps: Maps,
    partials: Partials,
    steps: Steps,
    traces: Traces,
    chain: NDArray[np.floating],
    fresh: NDArray[np.floating],
) -> None:
    """Run `advance_part` on all parts, a thread on some of them each; otherwise its arguments."""
    count = parts.size - 1
    for i in prange(threads):
        for part in range(count * i // threads, count * (i + 1) // threads):
            advance_part(part, parts, abreast, held, maps, partials, steps, traces, chain, fresh)


@njit(cache=True, nogil=True)
def contract_parts(
    threads: int | None,
    parts: NDArray[np.int64],
    abreast: int,
    maps: Maps,
    partials: Partials,
    traces: Traces,
    adjoint: NDArray[np.floating],
    grad: NDArray[np.floating],
) -> None:
    """Run `contract_part` on all parts; see `steps.apply_parts`."""
    if threads is None:
        for part in range(parts.size - 1):
            contract_part(part, parts, abreast, maps, partials, traces, adjoint, grad)
    else:
        contract_shared(threads, parts, abreast, maps, partials, traces, adjoint, grad)


@njit(cache=True, nogil=True)
def advance_parts(
    threads: int | None,
    parts: NDArray[np.int64],
    abreast: int,
    held: int | np.int64,
    maps: Maps,
    partials: Partials,
    steps: Steps,
    traces: Traces,
    chain: NDArray[np.floating],
    fresh: NDArray[np.floating],
) -> None:
    """Run `advance_part` on all parts; see `steps.apply_parts`."""
    if threads is None:
        for part in range(parts.size - 1):
            advance_part(part, parts, abreast, held, maps, partials, steps, traces, chain, fresh)
    else:
        advance_shared(threads, parts, abreast, held, maps, partials, steps, traces, chain, fresh)


@njit(cache=True, nogil=True)
def close_traces(
    learner: Learner,  # in; grad in/out
    partials: Partials,  # in
    abreast: int,
    steps: Steps,  # in, d_pre is used up
    history: History,  # in, empty on return
    carried: WindowTraces,  # in/out
) -> None:
    """Close a window of SnAp-1 or RFLO."""
    learner, partials, steps, history, carried = borrow(
        (learner, partials, steps, history, carried)
    )
    held = history.filled[0]
    unroll(learner, partials, abreast, steps, history)
    contract_parts(
        learner.threads, learner.parts, abreast, learner.maps, partials, carried.traces,
        history.adjoint[0], learner.grad,
    )  # fmt: skip
    if not is_sound(learner):
        return
    advance_parts(
        learner.threads, learner.parts, abreast, held, learner.maps, partials, steps,
        carried.traces, carried.chain, carried.fresh,
    )  # fmt: skip

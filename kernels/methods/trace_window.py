"""SnAp-1 and RFLO over a window: the traces go through all of its steps in one sweep.

What the steps do to the traces of a row is the same for all of its weights. With B_t the (C × C)
block of D that belongs to the row's unit, on the components that the row's map touches, and s_t
its slopes ∂s'/∂a_g,

    Φ_t = B_T … B_(t+1),    J_T = Φ_0 J_0 + Σ_t (Φ_t s_t) z_t

A weight costs one multiply-add a step, as in the backward pass of BPTT. Φ_t s_t takes the place
of s_t in `Steps.d_pre`, which nothing reads once the backward pass is done.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..cells.maps import Maps, Partials
from ..compiler.borrow import borrow
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
def add_columns(x, y, sums, begin, end):  # type: ignore[no-untyped-def]
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
    carried: WindowTraces,  # in; chain out: Φ_0
) -> None:
    """Work out what the steps held do to the traces of some units."""
    chain, fresh, blocks = carried.chain, carried.fresh, carried.traces.blocks[0]
    begin, end = first * abreast, last * abreast
    n_maps = steps.d_pre.shape[3]
    for i in range(held + 1):
        t = held - i  # its blocks lead to the step before it; the first round has none
        if i > 0:
            own_blocks(
                first, last, abreast, maps, partials, carried.traces.own_weight,
                carried.traces.drops_h, steps.d_state[t, g], steps.d_pre[t, g], steps.resets[t],
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
    indptr, indices = pointer(maps.indptr, 0), pointer(maps.indices, 0)
    trace, old, phi = pointer(traces, 0), pointer(scratch, 0), pointer(chain, 0)
    groups, components, n_maps, columns = steps.d_pre.shape[1:]
    sources = steps.gathered if abreast == 1 else steps.sources
    stride, d_step = groups * sources.shape[2], groups * components * n_maps * columns
    z, slopes = pointer(sources, g * sources.shape[2]), pointer(steps.d_pre, g * d_step // groups)
    n = lanes(trace)
    for u in range(first, last):
        to, row = starts[u], 0
        for m in range(n_maps):
            w, end = index(indptr, u * n_maps + m), index(indptr, u * n_maps + m + 1)
            which = pointer(partials.map_components, partials.map_indptr[m])
            touched = partials.map_indptr[m + 1] - partials.map_indptr[m]
            across = (end - w + n - 1) // n * n if abreast == 1 else n
            while w < end:
                part = min(n, end - w) if abreast == 1 else n
                source = w if abreast == 1 else index(indices, w) * n
                for q in range(touched):
                    store(old, q * n, load(trace, to + q * across))
                for q in range(touched):
                    new = zero(trace)
                    for r in range(touched):
                        at = (row + q * touched + r) * columns + u * abreast
                        keep = splat(phi, at) if abreast == 1 else load(phi, at)
                        new = fma(keep, load(old, r * n), new)
                    at = (index(which, q) * n_maps + m) * columns + u * abreast
                    for t in range(held):
                        slope = splat(slopes, at) if abreast == 1 else load(slopes, at)
                        new = fma(slope, load_part(z, source + t * stride, part), new)
                        at += d_step
                    store(trace, to + q * across, new)
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
    carried: WindowTraces,
) -> None:
    """Take a part of the units through the steps held, for all streams."""
    first, last, traces = parts[part], parts[part + 1], carried.traces
    for g in range(traces.traces.shape[0]):
        fold_steps(first, last, abreast, g, held, maps, partials, steps, carried)
        advance_units(
            first, last, abreast, g, held, maps, partials, steps, carried.chain, traces.starts,
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
    carried: WindowTraces,
) -> None:
    """Run `advance_part` on all parts, a thread on some of them each; otherwise its arguments."""
    count = parts.size - 1
    for i in prange(threads):
        for part in range(count * i // threads, count * (i + 1) // threads):
            advance_part(part, parts, abreast, held, maps, partials, steps, carried)


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
    carried: WindowTraces,
) -> None:
    """Run `advance_part` on all parts; see `steps.apply_parts`."""
    if threads is None:
        for part in range(parts.size - 1):
            advance_part(part, parts, abreast, held, maps, partials, steps, carried)
    else:
        advance_shared(threads, parts, abreast, held, maps, partials, steps, carried)


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
        learner.threads, learner.parts, abreast, held, learner.maps, partials, steps, carried
    )

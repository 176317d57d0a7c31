"""SnAp-1 for streams side by side: the sweep over the traces of a group, one step or several.

The traces lie weight by weight, a vector for each component that the weight's map touches. Between
two updates of the weights, HELD steps are taken in one sweep: the traces are then read and written
once for all of them, and the sum over the streams is made once. The equations stand in `traces`.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .arithmetic import add_products, fill
from .cells import Maps, Partials
from .simd import fma, index, lanes, load, pointer, store, zero
from .steps import Steps
from .wide import add_product

HELD = 4


@njit(cache=True, nogil=True)
def at_steps(a: Any, first: int, stride: int) -> Any:
    """Return the vector of each held step, `stride` apart."""
    return (
        load(a, first), load(a, first + stride), load(a, first + 2 * stride),
        load(a, first + 3 * stride),
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _follow(w: int, to: int, keep: Any, slope: Any, indices: Any, z: Any, traces: Any) -> Any:
    """Update the trace of weight w, at `to`, and return it."""
    drive = slope * load(z, index(indices, w) * lanes(z))
    new = fma(keep, load(traces, to), drive)
    store(traces, to, new)
    return new


@njit(cache=True, nogil=True)
def trace_row_wide(
    w: int,
    end: int,  # weights
    to: int,  # where the traces of weight w begin
    keep: Any,  # vector    in    the component's entry of B_u
    slope: Any,  # vector    in    ∂s'_c/∂a_g
    delta: Any,  # vector    in    δ
    indices: Any,  # pointer  in
    z: Any,  # pointer  in
    traces: Any,  # pointer  in/out
    grad: Any,  # pointer  in/out
) -> None:
    """Update the traces of a row whose map touches one component, and add their gradient."""
    n = lanes(z)
    while w + 4 <= end:
        add_products(
            grad, w, delta,
            _follow(w, to, keep, slope, indices, z, traces),
            _follow(w + 1, to + n, keep, slope, indices, z, traces),
            _follow(w + 2, to + 2 * n, keep, slope, indices, z, traces),
            _follow(w + 3, to + 3 * n, keep, slope, indices, z, traces),
        )  # fmt: skip
        w, to = w + 4, to + 4 * n
    while w < end:
        add_product(grad, w, delta, _follow(w, to, keep, slope, indices, z, traces))
        w, to = w + 1, to + n


@njit(cache=True, nogil=True)
def _follow_steps(
    w: int, to: int, keep: Any, slope: Any, delta: Any, indices: Any, z: Any, stride: int,
    traces: Any,
) -> Any:  # fmt: skip
    """Take the trace of weight w through the held steps; return Σ δ J, stream by stream."""
    source = index(indices, w) * lanes(z)
    j0 = fma(keep[0], load(traces, to), slope[0] * load(z, source))
    j1 = fma(keep[1], j0, slope[1] * load(z, source + stride))
    j2 = fma(keep[2], j1, slope[2] * load(z, source + 2 * stride))
    j3 = fma(keep[3], j2, slope[3] * load(z, source + 3 * stride))
    store(traces, to, j3)
    return fma(delta[3], j3, fma(delta[2], j2, fma(delta[1], j1, delta[0] * j0)))


@njit(cache=True, nogil=True)
def trace_row_steps(
    w: int,
    end: int,  # weights
    to: int,  # where the traces of weight w begin
    keep: Any,  # vectors   in    the component's entry of B_u, step by step
    slope: Any,  # vectors   in    ∂s'_c/∂a_g
    delta: Any,  # vectors   in    δ
    one: Any,  # vector    in    1
    indices: Any,  # pointer  in
    z: Any,  # pointer  in    sources, `stride` from step to step
    stride: int,
    traces: Any,  # pointer  in/out
    grad: Any,  # pointer  in/out
) -> None:
    """Do the same for the held steps at once."""
    n = lanes(z)
    while w + 4 <= end:
        add_products(
            grad, w, one,
            _follow_steps(w, to, keep, slope, delta, indices, z, stride, traces),
            _follow_steps(w + 1, to + n, keep, slope, delta, indices, z, stride, traces),
            _follow_steps(w + 2, to + 2 * n, keep, slope, delta, indices, z, stride, traces),
            _follow_steps(w + 3, to + 3 * n, keep, slope, delta, indices, z, stride, traces),
        )  # fmt: skip
        w, to = w + 4, to + 4 * n
    while w < end:
        products = _follow_steps(w, to, keep, slope, delta, indices, z, stride, traces)
        add_product(grad, w, one, products)
        w, to = w + 1, to + n


@njit(cache=True, nogil=True)
def _follow_two(w: int, to: int, keep: Any, slopes: Any, indices: Any, z: Any, traces: Any) -> Any:
    """Update both traces of weight w, at `to`, and return the first."""
    n = lanes(z)
    source, h, c = load(z, index(indices, w) * n), load(traces, to), load(traces, to + n)
    new_h = fma(keep[0], h, fma(keep[1], c, slopes[0] * source))
    new_c = fma(keep[2], h, fma(keep[3], c, slopes[1] * source))
    store(traces, to, new_h)
    store(traces, to + n, new_c)
    return new_h


@njit(cache=True, nogil=True)
def trace_row_of_two_wide(
    w: int,
    end: int,  # weights
    to: int,  # where the traces of weight w begin
    keep: Any,  # vectors   in    B_u, row by row
    slopes: Any,  # vectors   in    ∂s'/∂a_g
    delta: Any,  # vector    in    δ of component 0, the only one that has any
    indices: Any,  # pointer  in
    z: Any,  # pointer  in
    traces: Any,  # pointer  in/out
    grad: Any,  # pointer  in/out
) -> None:
    """Do the same for a row whose map touches both components of a cell, as most of an LSTM."""
    n = lanes(z)
    while w + 4 <= end:
        add_products(
            grad, w, delta,
            _follow_two(w, to, keep, slopes, indices, z, traces),
            _follow_two(w + 1, to + 2 * n, keep, slopes, indices, z, traces),
            _follow_two(w + 2, to + 4 * n, keep, slopes, indices, z, traces),
            _follow_two(w + 3, to + 6 * n, keep, slopes, indices, z, traces),
        )  # fmt: skip
        w, to = w + 4, to + 8 * n
    while w < end:
        add_product(grad, w, delta, _follow_two(w, to, keep, slopes, indices, z, traces))
        w, to = w + 1, to + 2 * n


@njit(cache=True, nogil=True)
def trace_row_of_many_wide(
    w: int,
    end: int,  # weights
    to: int,  # where the traces of weight w begin, component after component
    which: Any,  # pointer  in    the components that the row's map touches
    count: int,
    keep: Any,  # pointer  in    B_u, `block` from entry to entry
    block: int,
    components: int,
    slopes: Any,  # pointer  in    ∂s'/∂a_g, `across` from component to component
    across: int,
    delta: Any,  # vector   in    δ of component 0, the only one that has any
    indices: Any,  # pointer  in
    z: Any,  # pointer  in
    traces: Any,  # pointer  in/out
    grad: Any,  # pointer  in/out
    old: Any,  # pointer  scratch
) -> None:
    """Do the same for a row whose map touches any number of components."""
    n = lanes(z)
    while w < end:
        source = load(z, index(indices, w) * n)
        for q in range(count):
            store(old, q * n, load(traces, to + q * n))
        for q in range(count):
            c = index(which, q)
            new = load(slopes, c * across) * source
            for r in range(count):
                own = load(keep, (c * components + index(which, r)) * block)
                new = fma(own, load(old, r * n), new)
            store(traces, to + q * n, new)
            if c == 0:
                add_product(grad, w, delta, new)
        w, to = w + 1, to + count * n


@njit(cache=True, nogil=True)
def trace_units_wide(
    first: int,
    last: int,  # units
    group: int,
    held: int | np.int64,  # steps
    maps: Maps,  # in
    partials: Partials,  # in
    steps: Steps,  # in
    blocks: NDArray[np.floating],  # (HELD, C, C, units * lanes)  in  B_u
    starts: NDArray[np.int64],  # (units + 1,)                    in
    traces: NDArray[np.floating],  # (size,)                      in/out
    grad: NDArray[np.floating],  # (weights,)                     in/out
    old: NDArray[np.floating],  # (C * lanes,) or more            scratch
) -> None:
    """Take the traces of some units through the steps held, and add their gradient."""
    groups, components, n_maps, columns = steps.d_pre.shape[1:]
    indptr, indices = pointer(maps.indptr, 0), pointer(maps.indices, 0)
    out, trace = pointer(grad, 0), pointer(traces, 0)
    block, d_block = components * components * columns, groups * components * n_maps * columns
    width, d_width = groups * steps.sources.shape[2], groups * components * columns
    n = lanes(out)
    one = fill(out, grad.dtype.type(1))
    for u in range(first, last):
        to, own = starts[u], u * n
        keep = pointer(blocks, own)
        delta = pointer(steps.state_grad, group * components * columns + own)
        for g in range(n_maps):
            w, end = index(indptr, u * n_maps + g), index(indptr, u * n_maps + g + 1)
            which = partials.map_indptr[g]
            count = partials.map_indptr[g + 1] - which
            slopes = pointer(steps.d_pre, (group * components * n_maps + g) * columns + own)
            z = pointer(steps.sources, group * steps.sources.shape[2])
            c = partials.map_components[which] if count == 1 else 0
            at, across = c * (components + 1) * columns, c * n_maps * columns
            if count == 1 and c == 0 and held == HELD:
                trace_row_steps(
                    w, end, to, at_steps(keep, at, block), at_steps(slopes, across, d_block),
                    at_steps(delta, 0, d_width), one, indices, z, width, trace, out,
                )  # fmt: skip
                to += n * (end - w)
                continue
            for k in range(held):
                z = pointer(steps.sources, k * width + group * steps.sources.shape[2])
                now, d_now = k * block, k * d_block
                direct = load(delta, k * d_width)
                if count == 1:
                    trace_row_wide(
                        w, end, to, load(keep, now + at), load(slopes, d_now + across),
                        direct if c == 0 else zero(z), indices, z, trace, out,
                    )  # fmt: skip
                elif count == 2 and components == 2:
                    own_block = (
                        load(keep, now), load(keep, now + columns), load(keep, now + 2 * columns),
                        load(keep, now + 3 * columns),
                    )  # fmt: skip
                    both = load(slopes, d_now), load(slopes, d_now + n_maps * columns)
                    trace_row_of_two_wide(
                        w, end, to, own_block, both, direct, indices, z, trace, out
                    )
                else:
                    trace_row_of_many_wide(
                        w, end, to, pointer(partials.map_components, which), count,
                        pointer(blocks, now + own), columns, components,
                        pointer(steps.d_pre, d_now + (group * components * n_maps + g) * columns
                                + own),
                        n_maps * columns, direct, indices, z, trace, out, pointer(old, 0),
                    )  # fmt: skip
            to += count * n * (end - w)

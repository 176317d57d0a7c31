"""SnAp-1: the traces of one row of the maps, through one step or through HELD steps in one sweep.

Between two updates of the weights several steps are taken at once: the traces are then read and
written once for all of them, and a sum over streams is made once. The equations stand in `traces`.

What a step does to all weights of a row is a tuple of vectors (keep, slopes, delta):

    keep     the entries of B_u, row by row
    slopes   ∂s'_c/∂a_g of each component that the row's map touches
    delta    δ of component 0, the only one that has any, or 0

With streams side by side a lane is a stream; for a single stream a lane is a weight. How many
steps and how many components there are is part of the type, so that one text serves all.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from .arithmetic import add_totals, total
from .simd import fma, index, lanes, load, load_part, put, splat, store, store_part, value, zero

HELD = 4


class Row(NamedTuple):
    """A row of the maps, and where the numbers of its unit lie in the steps held."""

    abreast: int  # streams side by side
    which: Any  # pointer, the components that its map touches
    touched: int  # how many they are
    components: int  # of the cell
    keep: Any  # pointer, B_u
    columns: int  # from entry to entry of B_u
    block: int  # from step to step of B_u
    slopes: Any  # pointer, ∂s'/∂a_g
    across: int  # from component to component of ∂s'/∂a_g
    d_block: int  # from step to step of ∂s'/∂a_g
    delta: Any  # pointer, δ
    width: int  # from step to step of δ


@njit(cache=True, nogil=True, forceinline=True)
def _number(row: Row, a: Any, i: int) -> Any:
    """Return a number of a unit for each stream of a group."""
    if row.abreast == 1:
        return splat(a, i)
    return load(a, i)


@njit(cache=True, nogil=True, forceinline=True)
def _keep(row: Row, k: int, c: int, b: int) -> Any:
    """Return B_u[c, b] at held step k."""
    return _number(row, row.keep, k * row.block + (c * row.components + b) * row.columns)


@njit(cache=True, nogil=True, forceinline=True)
def _slope(row: Row, k: int, c: int) -> Any:
    """Return ∂s'_c/∂a_g at held step k."""
    return _number(row, row.slopes, k * row.d_block + c * row.across)


@njit(cache=True, nogil=True, forceinline=True)
def _delta(row: Row, k: int, c: int) -> Any:
    """Return δ_c at held step k."""
    if c == 0:
        return _number(row, row.delta, k * row.width)
    return zero(row.delta)


@njit(cache=True, nogil=True, forceinline=True)
def _of_one(row: Row, k: int) -> Any:
    """Return (keep, slopes, delta) at held step k, where the map touches one component."""
    c = index(row.which, 0)
    return (_keep(row, k, c, c),), (_slope(row, k, c),), _delta(row, k, c)


@njit(cache=True, nogil=True, forceinline=True)
def _of_two(row: Row, k: int) -> Any:
    """Do the same where it touches two."""
    b, c = index(row.which, 0), index(row.which, 1)
    keep = _keep(row, k, b, b), _keep(row, k, b, c), _keep(row, k, c, b), _keep(row, k, c, c)
    return keep, (_slope(row, k, b), _slope(row, k, c)), _delta(row, k, b)


@njit(cache=True, nogil=True, forceinline=True)
def _load_traces(traces: Any, to: int, across: int, like: Any) -> Any:
    if len(like) == 1:
        return (load(traces, to),)
    return load(traces, to), load(traces, to + across)


@njit(cache=True, nogil=True, forceinline=True)
def _store_traces(traces: Any, to: int, across: int, j: Any) -> None:
    store(traces, to, j[0])
    if len(j) == 2:
        store(traces, to + across, j[1])


@njit(cache=True, nogil=True, forceinline=True)
def _advance(keep: Any, slopes: Any, z: Any, j: Any) -> Any:
    """Return the traces after a step, J <- B_u J + ∂s'/∂a_g z."""
    if len(j) == 1:
        return (fma(keep[0], j[0], slopes[0] * z),)
    return (
        fma(keep[0], j[0], fma(keep[1], j[1], slopes[0] * z)),
        fma(keep[2], j[0], fma(keep[3], j[1], slopes[1] * z)),
    )


@njit(cache=True, nogil=True, forceinline=True)
def _follow(
    steps: Any,  # (keep, slopes, delta) of each
    count: int,  # lanes that have a source; the others get 0
    z: Any,  # pointer  in
    source: int,  # place in z
    stride: int,  # from step to step of z
    traces: Any,  # pointer  in/out
    to: int,  # place in traces
    across: int,  # from component to component
) -> Any:
    """Take a vector of traces through the steps; return Σ δ J."""
    j = _load_traces(traces, to, across, steps[0][1])
    j = _advance(steps[0][0], steps[0][1], load_part(z, source, count), j)
    products = steps[0][2] * j[0]
    if len(steps) == 4:
        j = _advance(steps[1][0], steps[1][1], load_part(z, source + stride, count), j)
        products = fma(steps[1][2], j[0], products)
        j = _advance(steps[2][0], steps[2][1], load_part(z, source + 2 * stride, count), j)
        products = fma(steps[2][2], j[0], products)
        j = _advance(steps[3][0], steps[3][1], load_part(z, source + 3 * stride, count), j)
        products = fma(steps[3][2], j[0], products)
    _store_traces(traces, to, across, j)
    return products


@njit(cache=True, nogil=True, forceinline=True)
def _pitch(weights: int, n: int) -> int:
    """Round up to whole vectors."""
    return (weights + n - 1) // n * n


@njit(cache=True, nogil=True)
def _trace_gathered(
    w: int,
    end: int,  # weights
    to: int,  # where the traces begin, component after component
    steps: Any,  # (keep, slopes, delta) of each
    z: Any,  # pointer  in     sources, gathered weight by weight, from z[at] on
    at: int,
    stride: int,  # from step to step of z
    traces: Any,  # pointer  in/out
    grad: Any,  # pointer  in/out
) -> None:
    """Update the traces of a row of a single stream, and add their gradient."""
    n = lanes(traces)
    pitch = _pitch(end - w, n)
    while w + n <= end:
        products = _follow(steps, n, z, at + w, stride, traces, to, pitch)
        store(grad, w, load(grad, w) + products)
        w, to = w + n, to + n
    if w < end:  # another thread may own what lies beyond
        products = _follow(steps, end - w, z, at + w, stride, traces, to, pitch)
        store_part(grad, w, end - w, load_part(grad, w, end - w) + products)


@njit(cache=True, nogil=True)
def _trace_wide(
    w: int,
    end: int,  # weights
    to: int,  # where the traces begin, weight after weight
    steps: Any,  # (keep, slopes, delta) of each
    indices: Any,  # pointer  in
    z: Any,  # pointer  in     sources, from z[at] on
    at: int,
    stride: int,  # from step to step of z
    traces: Any,  # pointer  in/out
    grad: Any,  # pointer  in/out
) -> None:
    """Do the same for streams side by side."""
    n = lanes(traces)
    size = n * len(steps[0][1])  # of the traces of a weight
    while w + 4 <= end:
        z0, z1 = at + index(indices, w) * n, at + index(indices, w + 1) * n
        z2, z3 = at + index(indices, w + 2) * n, at + index(indices, w + 3) * n
        p0 = _follow(steps, n, z, z0, stride, traces, to, n)
        p1 = _follow(steps, n, z, z1, stride, traces, to + size, n)
        p2 = _follow(steps, n, z, z2, stride, traces, to + 2 * size, n)
        p3 = _follow(steps, n, z, z3, stride, traces, to + 3 * size, n)
        add_totals(grad, w, p0, p1, p2, p3)
        w, to = w + 4, to + 4 * size
    while w < end:
        products = _follow(steps, n, z, at + index(indices, w) * n, stride, traces, to, n)
        put(grad, w, value(grad, w) + total(products))
        w, to = w + 1, to + size


@njit(cache=True, nogil=True)
def _trace(
    row: Row, steps: Any, w: int, end: int, to: int, indices: Any, z: Any, at: int,
    stride: int, traces: Any, grad: Any,
) -> None:  # fmt: skip
    """Do the same for either; the sources begin at z[at]."""
    if row.abreast == 1:
        _trace_gathered(w, end, to, steps, z, at, stride, traces, grad)
    else:
        _trace_wide(w, end, to, steps, indices, z, at, stride, traces, grad)


@njit(cache=True, nogil=True)
def _trace_many(
    row: Row, k: int, w: int, end: int, to: int, indices: Any, z: Any,
    at: int, traces: Any, grad: Any, old: Any,
) -> None:  # fmt: skip
    """Do the same for a map that touches any number of components, through one step."""
    n = lanes(traces)
    across = _pitch(end - w, n) if row.abreast == 1 else n
    while w < end:
        part = min(n, end - w) if row.abreast == 1 else n
        source = at + (w if row.abreast == 1 else index(indices, w) * n)
        products, sources = zero(traces), load_part(z, source, part)
        for q in range(row.touched):
            store(old, q * n, load(traces, to + q * across))
        for q in range(row.touched):
            c = index(row.which, q)
            new = _slope(row, k, c) * sources
            for r in range(row.touched):
                new = fma(_keep(row, k, c, index(row.which, r)), load(old, r * n), new)
            store(traces, to + q * across, new)
            if c == 0:
                products = _delta(row, k, c) * new
        if row.abreast == 1:
            store_part(grad, w, part, load_part(grad, w, part) + products)
            w, to = w + n, to + n
        else:
            put(grad, w, value(grad, w) + total(products))
            w, to = w + 1, to + row.touched * n


@njit(cache=True, nogil=True)
def trace_row(
    row: Row,  # in
    held: int | np.int64,  # steps
    w: int,
    end: int,  # weights
    to: int,  # where the traces begin
    indices: Any,  # pointer  in
    z: Any,  # pointer  in     sources, gathered weight by weight for a single stream
    stride: int,  # from step to step of z
    traces: Any,  # pointer  in/out
    grad: Any,  # pointer  in/out
    old: Any,  # pointer  scratch
) -> None:
    """Take the traces of a row through the steps held, and add their gradient."""
    if held == HELD and row.touched == 1:
        steps = _of_one(row, 0), _of_one(row, 1), _of_one(row, 2), _of_one(row, 3)
        _trace(row, steps, w, end, to, indices, z, 0, stride, traces, grad)
        return
    if held == HELD and row.touched == 2:
        both = _of_two(row, 0), _of_two(row, 1), _of_two(row, 2), _of_two(row, 3)
        _trace(row, both, w, end, to, indices, z, 0, stride, traces, grad)
        return
    for k in range(held):
        at = k * stride
        if row.touched == 1:
            _trace(row, (_of_one(row, k),), w, end, to, indices, z, at, stride, traces, grad)
        elif row.touched == 2:
            _trace(row, (_of_two(row, k),), w, end, to, indices, z, at, stride, traces, grad)
        else:
            _trace_many(row, k, w, end, to, indices, z, at, traces, grad, old)


@njit(cache=True, nogil=True, forceinline=True)
def traces_of(row: Row, weights: int, n: int) -> int:
    """Return how many numbers the traces of a row take."""
    return row.touched * (_pitch(weights, n) if row.abreast == 1 else n * weights)

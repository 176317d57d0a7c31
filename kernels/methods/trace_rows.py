"""SnAp-1: the traces of one row of the maps, through one step or through HELD steps in one sweep.

Between two updates of the weights several steps are taken at once: the traces are then read and
written once for all of them, and a sum over streams is made once. The equations stand in `traces`,
and what the steps do to a row, in `trace_forms`. With streams side by side a lane is a stream; for
a single stream a lane is a weight.
"""

from typing import Any

import numpy as np
from numba import njit

from ..vectors.arithmetic import add_totals, total
from ..vectors.simd import fma, index, lanes, load, load_part, put, store, store_part, value, zero
from .trace_forms import (
    HELD,
    Forms,
    Row,
    delta_of,
    evaluate,
    fold_four_steps,
    fold_one_step,
    keep_of,
    of_one,
    of_two,
    slope_of,
)


@njit(cache=True, nogil=True, forceinline=True)
def _load_sources(z: Any, source: int, count: int, stride: int, steps: Any) -> Any:
    if len(steps) < HELD:
        return (load_part(z, source, count),)
    return (
        load_part(z, source, count), load_part(z, source + stride, count),
        load_part(z, source + 2 * stride, count), load_part(z, source + 3 * stride, count),
    )  # fmt: skip


@njit(cache=True, nogil=True, forceinline=True)
def _load_traces(traces: Any, to: int, across: int, forms: Any) -> Any:
    if len(forms) == 0:
        return ()
    if len(forms) == 1:
        return (load(traces, to),)
    return load(traces, to), load(traces, to + across)


@njit(cache=True, nogil=True, forceinline=True)
def _store_traces(traces: Any, to: int, across: int, forms: Any, numbers: Any) -> None:
    if len(forms) > 0:
        store(traces, to, evaluate(forms[0], numbers))
    if len(forms) > 1:
        store(traces, to + across, evaluate(forms[1], numbers))


@njit(cache=True, nogil=True, forceinline=True)
def _follow(
    forms: Forms,
    count: int,  # lanes that have a source; the others get 0
    z: Any,  # pointer  in
    source: int,  # place in z
    stride: int,  # from step to step of z
    traces: Any,  # pointer  in/out
    to: int,  # place in traces
    across: int,  # from component to component
) -> Any:
    """Take a vector of traces through the steps; return Σ δ J."""
    old = _load_traces(traces, to, across, forms.traces)
    numbers = _load_sources(z, source, count, stride, forms.gradient) + old
    _store_traces(traces, to, across, forms.traces, numbers)
    return evaluate(forms.gradient, numbers)


@njit(cache=True, nogil=True, forceinline=True)
def _pitch(weights: int, n: int) -> int:
    """Round up to whole vectors."""
    return (weights + n - 1) // n * n


@njit(cache=True, nogil=True, forceinline=True)
def _trace_gathered(
    w: int,
    end: int,  # weights
    to: int,  # where the traces begin, component after component
    forms: Forms,
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
        products = _follow(forms, n, z, at + w, stride, traces, to, pitch)
        store(grad, w, load(grad, w) + products)
        w, to = w + n, to + n
    if w < end:  # another thread may own what lies beyond
        products = _follow(forms, end - w, z, at + w, stride, traces, to, pitch)
        store_part(grad, w, end - w, load_part(grad, w, end - w) + products)


@njit(cache=True, nogil=True, forceinline=True)
def _trace_abreast(
    w: int,
    end: int,  # weights
    to: int,  # where the traces begin, weight after weight
    forms: Forms,
    indices: Any,  # pointer  in
    z: Any,  # pointer  in     sources, from z[at] on
    at: int,
    stride: int,  # from step to step of z
    traces: Any,  # pointer  in/out
    grad: Any,  # pointer  in/out
) -> None:
    """Update the traces of a row of streams abreast, and add their gradient."""
    n = lanes(traces)
    size = n * len(forms.traces)  # of the traces of a weight
    while w + 4 <= end:
        z0, z1 = at + index(indices, w) * n, at + index(indices, w + 1) * n
        z2, z3 = at + index(indices, w + 2) * n, at + index(indices, w + 3) * n
        p0 = _follow(forms, n, z, z0, stride, traces, to, n)
        p1 = _follow(forms, n, z, z1, stride, traces, to + size, n)
        p2 = _follow(forms, n, z, z2, stride, traces, to + 2 * size, n)
        p3 = _follow(forms, n, z, z3, stride, traces, to + 3 * size, n)
        add_totals(grad, w, p0, p1, p2, p3)
        w, to = w + 4, to + 4 * size
    while w < end:
        products = _follow(forms, n, z, at + index(indices, w) * n, stride, traces, to, n)
        put(grad, w, value(grad, w) + total(products))
        w, to = w + 1, to + size


@njit(cache=True, nogil=True, forceinline=True)
def _trace(
    row: Row, forms: Forms, w: int, end: int, to: int, indices: Any, z: Any, at: int,
    stride: int, traces: Any, grad: Any,
) -> None:  # fmt: skip
    """Update the traces of a row, and add their gradient; the sources begin at z[at]."""
    if row.abreast == 1:
        _trace_gathered(w, end, to, forms, z, at, stride, traces, grad)
    else:
        _trace_abreast(w, end, to, forms, indices, z, at, stride, traces, grad)


@njit(cache=True, nogil=True, forceinline=True)
def _four_steps(
    row: Row, s: Any, w: int, end: int, to: int, indices: Any, z: Any, stride: int, traces: Any,
    grad: Any,
) -> None:  # fmt: skip
    """Take the traces of a row through four steps, and add their gradient."""
    if row.carried == row.touched:
        forms = fold_four_steps(s[0], s[1], s[2], s[3], ())
        _trace(row, forms, w, end, to, indices, z, 0, stride, traces, grad)
    else:
        fewer = fold_four_steps(s[0], s[1], s[2], s[3], (0,))
        _trace(row, fewer, w, end, to, indices, z, 0, stride, traces, grad)


@njit(cache=True, nogil=True, forceinline=True)
def _one_step(
    row: Row, step: Any, w: int, end: int, to: int, indices: Any, z: Any, at: int, traces: Any,
    grad: Any,
) -> None:  # fmt: skip
    """Take the traces of a row through one step, and add their gradient."""
    if row.carried == row.touched:
        _trace(row, fold_one_step(step, ()), w, end, to, indices, z, at, 0, traces, grad)
    else:
        _trace(row, fold_one_step(step, (0,)), w, end, to, indices, z, at, 0, traces, grad)


@njit(cache=True, nogil=True)
def _trace_many(
    row: Row, k: int, w: int, end: int, to: int, indices: Any, z: Any,
    at: int, traces: Any, grad: Any, old: Any,
) -> None:  # fmt: skip
    """Take the traces of a row whose map touches any number of components through one step."""
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
            new = slope_of(row, k, c) * sources
            for r in range(row.touched):
                new = fma(keep_of(row, k, c, index(row.which, r)), load(old, r * n), new)
            store(traces, to + q * across, new)
            if c == 0:
                products = delta_of(row, k, c) * new
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
        one = of_one(row, 0), of_one(row, 1), of_one(row, 2), of_one(row, 3)
        _four_steps(row, one, w, end, to, indices, z, stride, traces, grad)
        return
    if held == HELD and row.touched == 2:
        two = of_two(row, 0), of_two(row, 1), of_two(row, 2), of_two(row, 3)
        _four_steps(row, two, w, end, to, indices, z, stride, traces, grad)
        return
    for k in range(held):
        at = k * stride
        if row.touched == 1:
            _one_step(row, of_one(row, k), w, end, to, indices, z, at, traces, grad)
        elif row.touched == 2:
            _one_step(row, of_two(row, k), w, end, to, indices, z, at, traces, grad)
        else:
            _trace_many(row, k, w, end, to, indices, z, at, traces, grad, old)


@njit(cache=True, nogil=True, forceinline=True)
def traces_of(row: Row, weights: int, n: int) -> int:
    """Return how many numbers the traces of a row take."""
    return row.carried * (_pitch(weights, n) if row.abreast == 1 else n * weights)

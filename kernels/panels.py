"""Numeric phase, fast family: the masked influence recurrence over dense panels.

    J ← P ∘ (I + D J)      grad = Jᵀ δ            (Menick et al. 2021, arXiv 2006.07232, eq. 2 to 4)

J is one small dense panel per supernode (weights with equal reach R), cut into blocks of at most
128 columns, rows × weights, row-major. One index (row, source row, position in D's data) serves a
whole row of weights, so a step is, panel by panel,

1. copy the old panel to a scratch that stays in L1,
2. write each new row in place, Σ over its sources of D's value times the source's old row, with
   the accumulators in registers,
3. add I, in runs,
4. (optionally) contract the panel with δ while it is still in L1.

J is read once and written once per step. A panel's rows follow each other in memory in the order
of step 2 and a vector store may spill over the end of its row: what it spills on is written
after it, or is the slack at the panel's end. Structure comes from `Influence.program`,
which kernels/lower.py writes. Columns of `panels`, one row per panel and one more at the end:

    0 supernode        1 offset in J      2 width        3 stride
    4 scratch pitch    5 first column     6 first run    7 whether rows go in blocks
"""

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from .lower import BLOCK
from .simd import fma, index, lanes, load, pointer, prefetch, put, splat, store, value, zero

UPDATE = 1
CONTRACT = 2
LOW = 0xFFFFFFFF


@njit(cache=True, nogil=True)
def _zero4(a):
    return zero(a), zero(a), zero(a), zero(a)


@njit(cache=True, nogil=True)
def _load4(a, i):
    n = lanes(a)
    return load(a, i), load(a, i + n), load(a, i + 2 * n), load(a, i + 3 * n)


@njit(cache=True, nogil=True)
def _fma4(d, x, y):
    return fma(d, x[0], y[0]), fma(d, x[1], y[1]), fma(d, x[2], y[2]), fma(d, x[3], y[3])


@njit(cache=True, nogil=True)
def _store4(a, i, v):
    n = lanes(a)
    store(a, i, v[0])
    store(a, i + n, v[1])
    store(a, i + 2 * n, v[2])
    store(a, i + 3 * n, v[3])


@njit(cache=True, nogil=True)
def _prefetch4(a, i):
    n = lanes(a)
    prefetch(a, i)
    prefetch(a, i + n)
    prefetch(a, i + 2 * n)
    prefetch(a, i + 3 * n)


# new[r] ← Σ_m D[r, m] old[m] for rows first … last, eight, four, three, two or one vectors of each.
# More vectors share one index: 2 loads beside the 8, 4, 3, 2 or 1 that feed the multiply-adds.
@njit(cache=True, nogil=True)
def _sparse_rows8(first, last, at, ahead, stride, column, source_indptr, sources, dynamics, old, J):
    half = 4 * lanes(J)
    begin = index(source_indptr, first)
    for r in range(first, last):
        end = index(source_indptr, r + 1)
        a = _zero4(J)
        b = _zero4(J)
        for e in range(begin, end):
            source = index(sources, e)
            d = splat(dynamics, source >> 32)
            x = (source & LOW) + column
            a = _fma4(d, _load4(old, x), a)
            b = _fma4(d, _load4(old, x + half), b)
        _store4(J, at, a)
        _store4(J, at + half, b)
        _prefetch4(J, at + ahead)
        _prefetch4(J, at + ahead + half)
        at += stride
        begin = end


@njit(cache=True, nogil=True)
def _sparse_rows4(first, last, at, ahead, stride, column, source_indptr, sources, dynamics, old, J):
    begin = index(source_indptr, first)
    for r in range(first, last):
        end = index(source_indptr, r + 1)
        a = _zero4(J)
        for e in range(begin, end):
            source = index(sources, e)
            d = splat(dynamics, source >> 32)
            a = _fma4(d, _load4(old, (source & LOW) + column), a)
        _store4(J, at, a)
        _prefetch4(J, at + ahead)
        at += stride
        begin = end


@njit(cache=True, nogil=True)
def _sparse_rows3(first, last, at, ahead, stride, column, source_indptr, sources, dynamics, old, J):
    n = lanes(J)
    begin = index(source_indptr, first)
    for r in range(first, last):
        end = index(source_indptr, r + 1)
        a = zero(J)
        b = zero(J)
        c = zero(J)
        for e in range(begin, end):
            source = index(sources, e)
            d = splat(dynamics, source >> 32)
            x = (source & LOW) + column
            a = fma(d, load(old, x), a)
            b = fma(d, load(old, x + n), b)
            c = fma(d, load(old, x + 2 * n), c)
        store(J, at, a)
        store(J, at + n, b)
        store(J, at + 2 * n, c)
        prefetch(J, at + ahead)
        prefetch(J, at + ahead + n)
        prefetch(J, at + ahead + 2 * n)
        at += stride
        begin = end


@njit(cache=True, nogil=True)
def _sparse_rows2(first, last, at, ahead, stride, column, source_indptr, sources, dynamics, old, J):
    n = lanes(J)
    begin = index(source_indptr, first)
    for r in range(first, last):
        end = index(source_indptr, r + 1)
        a = zero(J)
        b = zero(J)
        for e in range(begin, end):
            source = index(sources, e)
            d = splat(dynamics, source >> 32)
            x = (source & LOW) + column
            a = fma(d, load(old, x), a)
            b = fma(d, load(old, x + n), b)
        store(J, at, a)
        store(J, at + n, b)
        prefetch(J, at + ahead)
        prefetch(J, at + ahead + n)
        at += stride
        begin = end


@njit(cache=True, nogil=True)
def _sparse_rows1(first, last, at, ahead, stride, column, source_indptr, sources, dynamics, old, J):
    begin = index(source_indptr, first)
    for r in range(first, last):
        end = index(source_indptr, r + 1)
        a = zero(J)
        for e in range(begin, end):
            source = index(sources, e)
            a = fma(splat(dynamics, source >> 32), load(old, (source & LOW) + column), a)
        store(J, at, a)
        prefetch(J, at + ahead)
        at += stride
        begin = end


# The same for blocks of three rows with one list: a source that is loaded once serves three rows,
# 12 loads 24 multiply-adds, where `_sparse_rows8` has 10 for 8. Where the CPU loads about one
# vector per multiply-add, that is the limit: 0.92 of its FMA peak here against 0.47 there.
@njit(cache=True, nogil=True)
def _block_rows8(
    first, last, at, ahead, stride, column, rows, source_indptr, sources, dense, units, old, J
):
    half = 4 * lanes(J)
    for r in range(first, last, BLOCK):
        # Past the last row the last one is repeated, and stored again: no harm.
        r1, r2 = min(r + 1, last - 1), min(r + 2, last - 1)
        d0, d1, d2 = index(rows, r) * units, index(rows, r1) * units, index(rows, r2) * units
        a0 = _zero4(J)
        a1 = _zero4(J)
        a2 = _zero4(J)
        b0 = _zero4(J)
        b1 = _zero4(J)
        b2 = _zero4(J)
        for e in range(index(source_indptr, r), index(source_indptr, r + 1)):
            source = index(sources, e)
            m = source >> 32
            place = (source & LOW) + column
            k0, k1, k2 = splat(dense, d0 + m), splat(dense, d1 + m), splat(dense, d2 + m)
            x = _load4(old, place)
            a0 = _fma4(k0, x, a0)
            a1 = _fma4(k1, x, a1)
            a2 = _fma4(k2, x, a2)
            y = _load4(old, place + half)
            b0 = _fma4(k0, y, b0)
            b1 = _fma4(k1, y, b1)
            b2 = _fma4(k2, y, b2)
        for q in range(BLOCK):
            _prefetch4(J, at + (r - first + q) * stride + ahead)
            _prefetch4(J, at + (r - first + q) * stride + ahead + half)
        _store4(J, at + (r - first) * stride, a0)
        _store4(J, at + (r - first) * stride + half, b0)
        _store4(J, at + (r1 - first) * stride, a1)
        _store4(J, at + (r1 - first) * stride + half, b1)
        _store4(J, at + (r2 - first) * stride, a2)
        _store4(J, at + (r2 - first) * stride + half, b2)


@njit(cache=True, nogil=True)
def _block_rows4(
    first, last, at, ahead, stride, column, rows, source_indptr, sources, dense, units, old, J
):
    for r in range(first, last, BLOCK):
        r1, r2 = min(r + 1, last - 1), min(r + 2, last - 1)
        d0, d1, d2 = index(rows, r) * units, index(rows, r1) * units, index(rows, r2) * units
        a0 = _zero4(J)
        a1 = _zero4(J)
        a2 = _zero4(J)
        for e in range(index(source_indptr, r), index(source_indptr, r + 1)):
            source = index(sources, e)
            m = source >> 32
            x = _load4(old, (source & LOW) + column)
            a0 = _fma4(splat(dense, d0 + m), x, a0)
            a1 = _fma4(splat(dense, d1 + m), x, a1)
            a2 = _fma4(splat(dense, d2 + m), x, a2)
        for q in range(BLOCK):
            _prefetch4(J, at + (r - first + q) * stride + ahead)
        _store4(J, at + (r - first) * stride, a0)
        _store4(J, at + (r1 - first) * stride, a1)
        _store4(J, at + (r2 - first) * stride, a2)


@njit(cache=True, nogil=True)
def _block_rows1(
    first, last, at, ahead, stride, column, rows, source_indptr, sources, dense, units, old, J
):
    for r in range(first, last, BLOCK):
        r1, r2 = min(r + 1, last - 1), min(r + 2, last - 1)
        d0, d1, d2 = index(rows, r) * units, index(rows, r1) * units, index(rows, r2) * units
        a0 = zero(J)
        a1 = zero(J)
        a2 = zero(J)
        for e in range(index(source_indptr, r), index(source_indptr, r + 1)):
            source = index(sources, e)
            m = source >> 32
            x = load(old, (source & LOW) + column)
            a0 = fma(splat(dense, d0 + m), x, a0)
            a1 = fma(splat(dense, d1 + m), x, a1)
            a2 = fma(splat(dense, d2 + m), x, a2)
        prefetch(J, at + (r - first) * stride + ahead)
        store(J, at + (r - first) * stride, a0)
        store(J, at + (r1 - first) * stride, a1)
        store(J, at + (r2 - first) * stride, a2)


# grad[w] ← Σ_r δ[r] J[r, w] for the weights of one panel; they go to `sums`.
@njit(cache=True, nogil=True)
def _contract_rows(first, last, at, stride, vectors, rows, state_grad, J, sums):
    n = lanes(J)
    v = 0
    while v < vectors:
        place = at + v * n
        if vectors - v >= 4:
            a = _zero4(J)
            for r in range(first, last):
                a = _fma4(splat(state_grad, index(rows, r)), _load4(J, place), a)
                place += stride
            _store4(sums, v * n, a)
            v += 4
        else:
            b = zero(J)
            for r in range(first, last):
                b = fma(splat(state_grad, index(rows, r)), load(J, place), b)
                place += stride
            store(sums, v * n, b)
            v += 1


# Steps 1 and 2: copy the old panel, then write D[R, R] times it in its place.
@njit(cache=True, nogil=True)
def _multiply(
    first, last, at, ahead, stride, width, pitch, blocked, rows, source_indptr, sources,
    dynamics, dense, units, J, old,
):  # fmt: skip
    n = lanes(J)
    vectors = (width + n - 1) // n
    place = at
    for r in range(last - first):
        for v in range(vectors):
            store(old, r * pitch + v * n, load(J, place + v * n))
        place += stride
    # From right to left, so that what a row's last vector spills over is written after it.
    c = vectors * n
    while c > 0:
        left = c // n
        if blocked:
            c -= (8 if left % 8 == 0 else 4 if left % 4 == 0 else 1) * n
            block = (
                first, last, at + c, ahead, stride, c, rows, source_indptr, sources, dense, units,
                old, J,
            )  # fmt: skip
            if left % 8 == 0:
                _block_rows8(*block)
            elif left % 4 == 0:
                _block_rows4(*block)
            else:
                _block_rows1(*block)
        else:
            c -= (8 if left % 8 == 0 else left & 3 or 4) * n
            row = first, last, at + c, ahead, stride, c, source_indptr, sources, dynamics, old, J
            if left % 8 == 0:
                _sparse_rows8(*row)
            elif left & 3 == 0:
                _sparse_rows4(*row)
            elif left & 3 == 3:
                _sparse_rows3(*row)
            elif left & 3 == 2:
                _sparse_rows2(*row)
            else:
                _sparse_rows1(*row)


# One panel of one sequence, steps 1 to 4.
@njit(cache=True, nogil=True)
def _panel(
    p, mode, b, ahead, panels, row_indptr, rows, source_indptr, sources, columns, runs,
    dynamics, immediate, state_grad, J, grad, dense, units, scratch,
):  # fmt: skip
    here = 8 * p
    s, at = index(panels, here), index(panels, here + 1)
    width, stride, pitch = index(panels, here + 2), index(panels, here + 3), index(panels, here + 4)
    first, last = index(row_indptr, s), index(row_indptr, s + 1)
    if mode & UPDATE:
        _multiply(
            first, last, at, ahead, stride, width, pitch, index(panels, here + 7), rows,
            source_indptr, sources, dynamics, dense, units, J, scratch,
        )  # fmt: skip
        for run in range(index(panels, here + 6), index(panels, here + 14)):
            v, step = index(runs, 4 * run), index(runs, 4 * run + 1)
            target, length = index(runs, 4 * run + 2), index(runs, 4 * run + 3)
            for c in range(length):
                put(J, target + c, value(J, target + c) + value(immediate, v + c * step))
    if mode & CONTRACT:
        n = lanes(J)
        _contract_rows(first, last, at, stride, (width + n - 1) // n, rows, state_grad, J, scratch)
        column = index(panels, here + 5)
        for c in range(width):
            w = index(columns, column + c)
            put(grad, w, value(scratch, c) + (value(grad, w) if b > 0 else 0))


@njit(cache=True, nogil=True)
def panels_range(
    begin: int,  # first panel                                               in
    end: int,  # one past the last                                           in
    mode: int,  # UPDATE, CONTRACT or both                                   in
    dynamics_indptr: NDArray[np.int64],  # (units + 1,)                      in
    dynamics_indices: NDArray[np.int32],  # (nnz of D,)                      in
    panels: NDArray[np.int64],  # (panels + 1, 8)                            in
    row_indptr: NDArray[np.int64],  # (supernodes + 1,)                      in
    rows: NDArray[np.int32],  # (rows,)                                      in
    source_indptr: NDArray[np.int64],  # (rows + 1,)                         in
    sources: NDArray[np.int64],  # (sources,)                                in
    columns: NDArray[np.int32],  # (weights,)                                in
    runs: NDArray[np.int64],  # (runs, 4)                                    in
    dynamics_data: NDArray[np.floating],  # (batch, nnz of D)                in
    immediate_data: NDArray[np.floating],  # (batch, nnz of I)               in
    state_grad: NDArray[np.floating],  # (batch, units)                      in
    influence: NDArray[np.floating],  # (batch, size)                        in/out
    grad: NDArray[np.floating],  # (weights,)                                out
    dense: NDArray[np.floating],  # (batch, units²) or (batch, 0)            in, by spread_dynamics
    scratch: NDArray[np.floating],  # (scratch_size,)                        scratch
) -> None:
    """Run the panels begin … end: the part of a step that one thread owns.

    Each panel serves the whole batch before the next one is begun, so that its program is read
    once, and the gradient's sum over the batch has one order whoever owns the panel.
    """
    units = len(dynamics_indptr) - 1
    a_panels, a_row_indptr, a_rows = pointer(panels, 0), pointer(row_indptr, 0), pointer(rows, 0)
    a_source_indptr, a_sources = pointer(source_indptr, 0), pointer(sources, 0)
    a_columns, a_runs = pointer(columns, 0), pointer(runs, 0)
    a_grad, a_scratch = pointer(grad, 0), pointer(scratch, 0)
    batch, size = influence.shape
    for p in range(begin, end):
        for b in range(batch):
            # From this panel to the next one to be touched.
            ahead = size
            if b == batch - 1:
                ahead = panels[p + 1, 1] - panels[p, 1] - b * size
            _panel(
                p, mode, b, ahead, a_panels, a_row_indptr, a_rows, a_source_indptr, a_sources,
                a_columns, a_runs,
                pointer(dynamics_data, b * dynamics_data.shape[1]),
                pointer(immediate_data, b * immediate_data.shape[1]),
                pointer(state_grad, b * state_grad.shape[1]),
                pointer(influence, b * size),
                a_grad, pointer(dense, b * dense.shape[1]), units, a_scratch,
            )  # fmt: skip


@njit(cache=True, nogil=True)
def spread_dynamics(
    dynamics_indptr: NDArray[np.int64],  # (units + 1,)              in
    dynamics_indices: NDArray[np.int32],  # (nnz of D,)              in
    dynamics_data: NDArray[np.floating],  # (batch, nnz of D)        in
    dense: NDArray[np.floating],  # (batch, units²) or (batch, 0)    in/out, zero off D's pattern
) -> None:
    """Write D out in full, once per step, for the panels whose rows go in blocks."""
    units = len(dynamics_indptr) - 1
    if dense.shape[1] > 0:
        for b in range(dense.shape[0]):
            for i in range(units):
                for e in range(dynamics_indptr[i], dynamics_indptr[i + 1]):
                    dense[b, i * units + dynamics_indices[e]] = dynamics_data[b, e]


@njit(cache=True, nogil=True, parallel=True)
def panels_threads(
    cuts: NDArray[np.int64],  # (threads + 1,)  in, the panels of thread t are cuts[t] … cuts[t + 1]
    mode: int,
    dynamics_indptr: NDArray[np.int64],
    dynamics_indices: NDArray[np.int32],
    panels: NDArray[np.int64],
    row_indptr: NDArray[np.int64],
    rows: NDArray[np.int32],
    source_indptr: NDArray[np.int64],
    sources: NDArray[np.int64],
    columns: NDArray[np.int32],
    runs: NDArray[np.int64],
    dynamics_data: NDArray[np.floating],
    immediate_data: NDArray[np.floating],
    state_grad: NDArray[np.floating],
    influence: NDArray[np.floating],
    grad: NDArray[np.floating],
    dense: NDArray[np.floating],
    scratch: NDArray[np.floating],  # (threads, scratch_size)
) -> None:
    """Run `panels_range` on one range of panels per thread; otherwise its arguments.

    One thread owns a panel for the whole batch, so results do not depend on the cuts.
    """
    for t in prange(len(cuts) - 1):
        panels_range(
            cuts[t], cuts[t + 1], mode, dynamics_indptr, dynamics_indices, panels, row_indptr,
            rows, source_indptr, sources, columns, runs, dynamics_data, immediate_data,
            state_grad, influence, grad, dense, scratch[t],
        )  # fmt: skip


# J ← P ∘ (I + D J)
@njit(cache=True, nogil=True)
def panels_update(
    dynamics_indptr: NDArray[np.int64],  # (units + 1,)            in, `Influence.program` …
    dynamics_indices: NDArray[np.int32],  # (nnz of D,)            in
    panels: NDArray[np.int64],  # (panels + 1, 8)                  in
    row_indptr: NDArray[np.int64],  # (supernodes + 1,)            in
    rows: NDArray[np.int32],  # (rows,)                            in
    source_indptr: NDArray[np.int64],  # (rows + 1,)               in
    sources: NDArray[np.int64],  # (sources,)                      in
    columns: NDArray[np.int32],  # (weights,)                      in
    runs: NDArray[np.int64],  # (runs, 4)                          in, … to here
    dynamics_data: NDArray[np.floating],  # (batch, nnz of D)      in, D in CSR order
    immediate_data: NDArray[np.floating],  # (batch, nnz of I)     in, I in CSC order
    influence: NDArray[np.floating],  # (batch, size)              in/out, J_{t-1} → J_t
    dense: NDArray[np.floating],  # (batch, units²) or (batch, 0)  scratch, zero at first
    scratch: NDArray[np.floating],  # (scratch_size,)              scratch
) -> None:
    """Update J over its panels, one thread: J ← P ∘ (I + D J) (arXiv 2006.07232, section 3).

    Multiply-adds: ``pattern.cost(batch).multiply_adds``. All floating arrays have one dtype.
    """
    spread_dynamics(dynamics_indptr, dynamics_indices, dynamics_data, dense)
    panels_range(
        0, panels.shape[0] - 1, UPDATE, dynamics_indptr, dynamics_indices, panels, row_indptr,
        rows, source_indptr, sources, columns, runs, dynamics_data, immediate_data,
        dynamics_data, influence, scratch, dense, scratch,
    )  # fmt: skip


# grad ← Σ_b J_bᵀ δ_b
@njit(cache=True, nogil=True)
def panels_contract(
    dynamics_indptr: NDArray[np.int64],  # (units + 1,)      in, `Influence.program` …
    dynamics_indices: NDArray[np.int32],  # (nnz of D,)      in
    panels: NDArray[np.int64],  # (panels + 1, 8)            in
    row_indptr: NDArray[np.int64],  # (supernodes + 1,)      in
    rows: NDArray[np.int32],  # (rows,)                      in
    source_indptr: NDArray[np.int64],  # (rows + 1,)         in
    sources: NDArray[np.int64],  # (sources,)                in
    columns: NDArray[np.int32],  # (weights,)                in
    runs: NDArray[np.int64],  # (runs, 4)                    in, … to here
    state_grad: NDArray[np.floating],  # (batch, units)      in, δ = ∂L_t/∂s_t
    influence: NDArray[np.floating],  # (batch, size)        in
    grad: NDArray[np.floating],  # (weights,)                out, summed over the batch
    scratch: NDArray[np.floating],  # (scratch_size,)        scratch
) -> None:
    """Contract J with the gradient of the step's loss: grad = Σ_b J_bᵀ δ_b."""
    panels_range(
        0, panels.shape[0] - 1, CONTRACT, dynamics_indptr, dynamics_indices, panels, row_indptr,
        rows, source_indptr, sources, columns, runs, state_grad, state_grad, state_grad,
        influence, grad, state_grad, scratch,
    )  # fmt: skip


# both, in one pass over J
@njit(cache=True, nogil=True)
def panels_update_and_contract(
    dynamics_indptr: NDArray[np.int64],  # (units + 1,)            in, `Influence.program` …
    dynamics_indices: NDArray[np.int32],  # (nnz of D,)            in
    panels: NDArray[np.int64],  # (panels + 1, 8)                  in
    row_indptr: NDArray[np.int64],  # (supernodes + 1,)            in
    rows: NDArray[np.int32],  # (rows,)                            in
    source_indptr: NDArray[np.int64],  # (rows + 1,)               in
    sources: NDArray[np.int64],  # (sources,)                      in
    columns: NDArray[np.int32],  # (weights,)                      in
    runs: NDArray[np.int64],  # (runs, 4)                          in, … to here
    dynamics_data: NDArray[np.floating],  # (batch, nnz of D)      in, D in CSR order
    immediate_data: NDArray[np.floating],  # (batch, nnz of I)     in, I in CSC order
    state_grad: NDArray[np.floating],  # (batch, units)            in, δ = ∂L_t/∂s_t
    influence: NDArray[np.floating],  # (batch, size)              in/out, J_{t-1} → J_t
    grad: NDArray[np.floating],  # (weights,)                      out, summed over the batch
    dense: NDArray[np.floating],  # (batch, units²) or (batch, 0)  scratch, zero at first
    scratch: NDArray[np.floating],  # (scratch_size,)              scratch
) -> None:
    """Update J and contract it in one pass: J ← P ∘ (I + D J), grad = Σ_b J_bᵀ δ_b."""
    spread_dynamics(dynamics_indptr, dynamics_indices, dynamics_data, dense)
    panels_range(
        0, panels.shape[0] - 1, UPDATE | CONTRACT, dynamics_indptr, dynamics_indices, panels,
        row_indptr, rows, source_indptr, sources, columns, runs, dynamics_data, immediate_data,
        state_grad, influence, grad, dense, scratch,
    )  # fmt: skip

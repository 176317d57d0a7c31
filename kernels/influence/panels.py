"""Numeric phase, fast family: the masked influence recurrence over dense panels.

    J ← P ∘ (I + D J)      grad = Jᵀ δ            (Menick et al. 2021, arXiv 2006.07232, eq. 2 to 4)

J is one small dense panel per supernode (weights with equal reach R), rows × weights, row-major, of
at most 160 columns; the two of an LSTM unit lie side by side in one. One index serves a whole row
of weights, so a step is, panel by panel,

1. copy the old panel to a scratch that stays in L1, and a row of zeros behind it,
2. write its new rows in place, two at a time: Σ over their sources of D's value times the
   source's old row, with the accumulators in registers,
3. add I, in runs,
4. (optionally) contract the panel with δ while it is still in L1.

J is read once and written once per step. Narrow panels of several supernodes go through together,
as one with more rows. Rows follow each other in memory in the order of step 2 and a vector store
may spill over the end of its row: what it spills on is written after it, or is the slack at the
panel's end. Structure comes from `Influence.program`, which kernels/lower.py writes.
"""

from collections.abc import Callable

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..compiler.decorators import from_kernels, into_caller
from ..vectors import arithmetic  # noqa: F401 - so that vectors can be added
from ..vectors.bundles import (
    add_bundles,
    bundle,
    fma_bundle,
    load_bundle,
    prefetch_bundle,
    store_bundle,
)
from ..vectors.simd import (
    SLACK,
    WIDE,
    index,
    lanes,
    load_part,
    pointer,
    put,
    splat,
    store_part,
    value,
    zero,
)

UPDATE = 1
CONTRACT = 2
COPY = 1
MULTIPLY = 2
LOW = 0xFFFFFFFF
MOST_VECTORS = 10
"""Columns of a panel, in vectors of 16 float32."""
ONE_PASS = 10 if WIDE else 3
"""Vectors of a row that are computed at once: two rows of them must stay in the registers."""


# Steps 1 and 2 for as many columns as `nothing` is wide.
#
# new[a] ← Σ_m D[a, m] old[m], new[b] likewise, for pairs of rows a, b (kernels/pairs.py has the
# entries). V vectors need V + 3 loads where the rows share a source, 2 V + 3 for two of their own.
@from_kernels
def _columns(
    nothing, do, rows, first, last, entry, at, ahead, stride, pitch, column, segments, entries,
    dynamics, old, J,
):  # fmt: skip
    at += column
    if do & COPY:
        for r in range(rows):
            store_bundle(old, r * pitch + column, load_bundle(J, at + r * stride, nothing))
        store_bundle(old, rows * pitch + column, nothing)
    if do & MULTIPLY:
        for s in range(first, last):
            pairs, shared, own = (
                index(segments, 3 * s), index(segments, 3 * s + 1), index(segments, 3 * s + 2),
            )  # fmt: skip
            if shared + own == 1:
                # The commonest rows of a very sparse net, without loops over their one source.
                for e in range(2 * entry, 2 * (entry + pairs), 2):
                    i, j = index(entries, e), index(entries, e + 1)
                    x = load_bundle(old, (i & LOW) * pitch + column, nothing)
                    store_bundle(J, at, fma_bundle(splat(dynamics, i >> 32), x, nothing))
                    y = load_bundle(old, (j & LOW) * pitch + column, nothing)
                    store_bundle(J, at + stride, fma_bundle(splat(dynamics, j >> 32), y, nothing))
                    prefetch_bundle(J, at + ahead, nothing)
                    prefetch_bundle(J, at + stride + ahead, nothing)
                    at += 2 * stride
                entry += pairs
                pairs = 0
            for _ in range(pairs):
                a = nothing
                b = nothing
                for e in range(2 * entry, 2 * (entry + shared), 2):
                    i, j = index(entries, e), index(entries, e + 1)
                    x = load_bundle(old, (i & LOW) * pitch + column, nothing)
                    a = fma_bundle(splat(dynamics, i >> 32), x, a)
                    b = fma_bundle(splat(dynamics, j >> 32), x, b)
                entry += shared
                for e in range(2 * entry, 2 * (entry + own), 2):
                    i, j = index(entries, e), index(entries, e + 1)
                    x = load_bundle(old, (i & LOW) * pitch + column, nothing)
                    a = fma_bundle(splat(dynamics, i >> 32), x, a)
                    y = load_bundle(old, (j & LOW) * pitch + column, nothing)
                    b = fma_bundle(splat(dynamics, j >> 32), y, b)
                entry += own
                store_bundle(J, at, a)
                store_bundle(J, at + stride, b)
                prefetch_bundle(J, at + ahead, nothing)
                prefetch_bundle(J, at + stride + ahead, nothing)
                at += 2 * stride


# Steps 1 and 2 of a panel, in one pass over its columns where they fit in the registers: one text,
# compiled for every width.
@into_caller
def _multiply(
    rows, width, first, last, entry, at, ahead, stride, segments, entries, dynamics, J, old
):
    n = lanes(J)
    vectors = width // n
    passes = (vectors + ONE_PASS - 1) // ONE_PASS
    for stage in range(1 if passes == 1 else 2):  # all columns are copied before any is written
        do = COPY | MULTIPLY if passes == 1 else COPY if stage == 0 else MULTIPLY
        right = vectors
        for left in range(passes, 0, -1):
            # From right to left, so that what a row's last vector spills over is written after it.
            take = (right + left - 1) // left
            right -= take
            work = (
                do, rows, first, last, entry, at, ahead, stride, width, right * n, segments,
                entries, dynamics, old, J,
            )  # fmt: skip
            if take == 1:
                _columns(bundle(J, 1), *work)
            elif take == 2:
                _columns(bundle(J, 2), *work)
            elif take == 3:
                _columns(bundle(J, 3), *work)
            elif take == 4:
                _columns(bundle(J, 4), *work)
            elif take == 5:
                _columns(bundle(J, 5), *work)
            elif take == 6:
                _columns(bundle(J, 6), *work)
            elif take == 8:
                _columns(bundle(J, 8), *work)
            elif take == 9:
                _columns(bundle(J, 9), *work)
            else:
                _columns(bundle(J, 10), *work)


# I[i, w] is added where its runs say. Values that lie one after the other are added by vectors.
@into_caller
def _add_immediate(first, last, runs, immediate, J):
    n = lanes(J)
    for run in range(4 * first, 4 * last, 4):
        v, step = index(runs, run), index(runs, run + 1)
        target, length = index(runs, run + 2), index(runs, run + 3)
        if v < 0:  # not in the reach of these weights: the product does not count
            for c in range(0, length, n):
                store_part(J, target + c, length - c, zero(J))
        elif step == 1:
            for c in range(0, length, n):
                x = load_part(J, target + c, length - c)
                x = x + load_part(immediate, v + c, length - c)
                store_part(J, target + c, length - c, x)
        else:
            for c in range(length):
                put(J, target + c, value(J, target + c) + value(immediate, v + c * step))


# sums[w] ← Σ_r δ[r] J[r, w] for the weights of one supernode, as many as `nothing` is wide. Even
# and odd rows have sums of their own: each multiply-add waits for the one before it in its sum.
@from_kernels
def _weighted_rows(nothing, first, count, at, stride, reached, state_grad, J, sums, column):
    at += column
    a = nothing
    b = nothing
    for r in range(2 * first, 2 * (first + count - 1), 4):
        x = load_bundle(J, at + index(reached, r + 1) * stride, nothing)
        a = fma_bundle(splat(state_grad, index(reached, r)), x, a)
        y = load_bundle(J, at + index(reached, r + 3) * stride, nothing)
        b = fma_bundle(splat(state_grad, index(reached, r + 2)), y, b)
    if count % 2:
        r = 2 * (first + count - 1)
        x = load_bundle(J, at + index(reached, r + 1) * stride, nothing)
        a = fma_bundle(splat(state_grad, index(reached, r)), x, a)
    store_bundle(sums, column, add_bundles(a, b))


# Step 4: the gradient of the panel's weights.
@into_caller
def _contract(first, last, b, at, stride, members, reached, columns, state_grad, J, grad, sums):
    n = lanes(J)
    for k in range(5 * first, 5 * last, 5):
        column, width = index(members, k), index(members, k + 1)
        rows = (
            index(members, k + 2), index(members, k + 3), at + index(members, k + 4), stride,
            reached, state_grad, J, sums,
        )  # fmt: skip
        c = 0
        while c < width:
            if width - c > 3 * n:
                _weighted_rows(bundle(J, 4), *rows, c)
                c += 4 * n
            elif width - c > 2 * n:
                _weighted_rows(bundle(J, 3), *rows, c)
                c += 3 * n
            elif width - c > n:
                _weighted_rows(bundle(J, 2), *rows, c)
                c += 2 * n
            else:
                _weighted_rows(bundle(J, 1), *rows, c)
                c += n
        w = index(columns, column)
        if index(columns, column + width - 1) == w + width - 1:  # one after the other, as they rise
            for c in range(0, width, n):
                x = load_part(sums, c, width - c)
                if b > 0:
                    x = x + load_part(grad, w + c, width - c)
                store_part(grad, w + c, width - c, x)
        else:
            for c in range(width):
                w = index(columns, column + c)
                put(grad, w, value(sums, c) + (value(grad, w) if b > 0 else 0))


@njit(cache=True, nogil=True)
def panels_range(
    begin: int,  # first panel                                               in
    end: int,  # one past the last                                           in
    mode: int,  # UPDATE, CONTRACT or both                                   in
    panels: NDArray[np.int64],  # (panels + 1, 9)                            in
    segments: NDArray[np.int64],  # (segments, 3)                            in
    entries: NDArray[np.int64],  # (entries, 2)                              in
    members: NDArray[np.int64],  # (members + 1, 5)                          in
    reached: NDArray[np.int32],  # (rows, 2)                                 in
    columns: NDArray[np.int32],  # (weights,)                                in
    runs: NDArray[np.int64],  # (runs, 4)                                    in
    dynamics_data: NDArray[np.floating],  # (batch, nnz of D)                in, D in CSR order
    immediate_data: NDArray[np.floating],  # (batch, nnz of I)               in, I in CSC order
    state_grad: NDArray[np.floating],  # (batch, units)                      in
    influence: NDArray[np.floating],  # (batch, size)                        in/out
    grad: NDArray[np.floating],  # (weights,)                                out
    scratch: NDArray[np.floating],  # (scratch_size,)                        scratch
) -> None:
    """Run the panels begin … end: the part of a step that one thread owns.

    Each panel serves the whole batch before the next one is begun, so that its program is read
    once, and the gradient's sum over the batch has one order whoever owns the panel.
    """
    a_panels, a_segments, a_entries = pointer(panels, 0), pointer(segments, 0), pointer(entries, 0)
    a_members, a_reached = pointer(members, 0), pointer(reached, 0)
    a_columns, a_runs = pointer(columns, 0), pointer(runs, 0)
    a_grad, a_scratch = pointer(grad, 0), pointer(scratch, 0)
    batch, size = influence.shape
    D_size, I_size = dynamics_data.shape[1], immediate_data.shape[1]
    for p in range(begin, end):
        for b in range(batch):
            # From this panel to the next one to be touched.
            ahead = size
            if b == batch - 1:
                ahead = panels[p + 1, 0] - panels[p, 0] - b * size
            J, here = pointer(influence, b * size), 9 * p
            at, rows = index(a_panels, here), index(a_panels, here + 1)
            width, stride = SLACK * index(a_panels, here + 2), index(a_panels, here + 3)
            if mode & UPDATE:
                first, last = index(a_panels, here + 4), index(a_panels, here + 5)
                entry, dynamics = index(a_panels, here + 6), pointer(dynamics_data, b * D_size)
                _multiply(
                    rows, width, first, last, entry, at, ahead, stride, a_segments, a_entries,
                    dynamics, J, a_scratch,
                )  # fmt: skip
                first, last = index(a_panels, here + 8), index(a_panels, here + 17)
                immediate = pointer(immediate_data, b * I_size)
                _add_immediate(first, last, a_runs, immediate, J)
            if mode & CONTRACT:
                first, last = index(a_panels, here + 7), index(a_panels, here + 16)
                delta = pointer(state_grad, b * state_grad.shape[1])
                _contract(
                    first, last, b, at, stride, a_members, a_reached, a_columns, delta, J, a_grad,
                    a_scratch,
                )  # fmt: skip


@njit(cache=True, nogil=True, parallel=True)
def panels_threads(
    alone: Callable[..., None],  # `panels_range`, as a pointer
    cuts: NDArray[np.int64],  # (threads + 1,)  in, the panels of thread t are cuts[t] … cuts[t + 1]
    mode: int,
    panels: NDArray[np.int64],
    segments: NDArray[np.int64],
    entries: NDArray[np.int64],
    members: NDArray[np.int64],
    reached: NDArray[np.int32],
    columns: NDArray[np.int32],
    runs: NDArray[np.int64],
    dynamics_data: NDArray[np.floating],
    immediate_data: NDArray[np.floating],
    state_grad: NDArray[np.floating],
    influence: NDArray[np.floating],
    grad: NDArray[np.floating],
    scratch: NDArray[np.floating],  # (threads, scratch_size)
) -> None:
    """Run `panels_range` on one range of panels per thread; otherwise its arguments.

    One thread owns a panel for the whole batch, so results do not depend on the cuts. `alone` comes
    as a pointer since it would be compiled once more with the loop: 2.8 of 3.4 s.
    """
    for t in prange(len(cuts) - 1):
        alone(
            cuts[t], cuts[t + 1], mode, panels, segments, entries, members, reached, columns, runs,
            dynamics_data, immediate_data, state_grad, influence, grad, scratch[t],
        )  # fmt: skip


# J ← P ∘ (I + D J)
@njit(cache=True, nogil=True)
def panels_update(
    panels: NDArray[np.int64],  # (panels + 1, 9)              in, `Influence.program` …
    segments: NDArray[np.int64],  # (segments, 3)                            in
    entries: NDArray[np.int64],  # (entries, 2)                              in
    members: NDArray[np.int64],  # (members + 1, 5)                          in
    reached: NDArray[np.int32],  # (rows, 2)                                 in
    columns: NDArray[np.int32],  # (weights,)                                in
    runs: NDArray[np.int64],  # (runs, 4)                                    in, … to here
    dynamics_data: NDArray[np.floating],  # (batch, nnz of D)                in, D in CSR order
    immediate_data: NDArray[np.floating],  # (batch, nnz of I)               in, I in CSC order
    influence: NDArray[np.floating],  # (batch, size)                        in/out, J_{t-1} → J_t
    scratch: NDArray[np.floating],  # (scratch_size,)                        scratch
) -> None:
    """Update J over its panels, one thread: J ← P ∘ (I + D J) (arXiv 2006.07232, section 3).

    Multiply-adds: ``pattern.cost(batch).multiply_adds``. All floating arrays have one dtype.
    """
    panels_range(
        0, panels.shape[0] - 1, UPDATE, panels, segments, entries, members, reached, columns, runs,
        dynamics_data, immediate_data, dynamics_data, influence, scratch, scratch,
    )  # fmt: skip


# grad ← Σ_b J_bᵀ δ_b
@njit(cache=True, nogil=True)
def panels_contract(
    panels: NDArray[np.int64],  # (panels + 1, 9)              in, `Influence.program` …
    segments: NDArray[np.int64],  # (segments, 3)                            in
    entries: NDArray[np.int64],  # (entries, 2)                              in
    members: NDArray[np.int64],  # (members + 1, 5)                          in
    reached: NDArray[np.int32],  # (rows, 2)                                 in
    columns: NDArray[np.int32],  # (weights,)                                in
    runs: NDArray[np.int64],  # (runs, 4)                                    in, … to here
    state_grad: NDArray[np.floating],  # (batch, units)                      in, δ = ∂L_t/∂s_t
    influence: NDArray[np.floating],  # (batch, size)                        in
    grad: NDArray[np.floating],  # (weights,)                                out, summed over b
    scratch: NDArray[np.floating],  # (scratch_size,)                        scratch
) -> None:
    """Contract J with the gradient of the step's loss: grad = Σ_b J_bᵀ δ_b."""
    panels_range(
        0, panels.shape[0] - 1, CONTRACT, panels, segments, entries, members, reached, columns,
        runs, state_grad, state_grad, state_grad, influence, grad, scratch,
    )  # fmt: skip


# both, in one pass over J
@njit(cache=True, nogil=True)
def panels_update_and_contract(
    panels: NDArray[np.int64],  # (panels + 1, 9)              in, `Influence.program` …
    segments: NDArray[np.int64],  # (segments, 3)                            in
    entries: NDArray[np.int64],  # (entries, 2)                              in
    members: NDArray[np.int64],  # (members + 1, 5)                          in
    reached: NDArray[np.int32],  # (rows, 2)                                 in
    columns: NDArray[np.int32],  # (weights,)                                in
    runs: NDArray[np.int64],  # (runs, 4)                                    in, … to here
    dynamics_data: NDArray[np.floating],  # (batch, nnz of D)                in, D in CSR order
    immediate_data: NDArray[np.floating],  # (batch, nnz of I)               in, I in CSC order
    state_grad: NDArray[np.floating],  # (batch, units)                      in, δ = ∂L_t/∂s_t
    influence: NDArray[np.floating],  # (batch, size)                        in/out, J_{t-1} → J_t
    grad: NDArray[np.floating],  # (weights,)                                out, summed over b
    scratch: NDArray[np.floating],  # (scratch_size,)                        scratch
) -> None:
    """Update J and contract it in one pass: J ← P ∘ (I + D J), grad = Σ_b J_bᵀ δ_b."""
    panels_range(
        0, panels.shape[0] - 1, UPDATE | CONTRACT, panels, segments, entries, members, reached,
        columns, runs, dynamics_data, immediate_data, state_grad, influence, grad, scratch,
    )  # fmt: skip

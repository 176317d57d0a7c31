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
as one with more rows. Where rows read rows of this very step (a layer reads the one below it), the
panel goes in *stages*, steps 2 and 3 for one level after the other: what a stage has written is
copied to scratch behind the row of zeros, where the entries of the next ones find it. Rows follow
each other in memory in the order of step 2 and a vector store may spill over the end of its row:
what it spills on is written after it, or is the slack at the panel's end. Structure comes from
`Influence.program`, which `lower` writes.
"""

from collections.abc import Callable
from typing import NamedTuple

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
from .rounded import copy_in, rounded_anew, shape_of, stream_of
from .tables import (
    COUNT_REACHED,
    END_SEGMENT,
    ENTRY_FIELDS,
    FIRST_COLUMN,
    FIRST_ENTRY,
    FIRST_MEMBER,
    FIRST_REACHED,
    FIRST_ROW,
    FIRST_RUN,
    FIRST_SEGMENT,
    FIRST_VALUE,
    INSET,
    LENGTH,
    MEMBER_FIELDS,
    OFFSET,
    OWN,
    PAIRS,
    PANEL_FIELDS,
    PANEL_ROW,
    PLACE,
    POSITION,
    REACHED_FIELDS,
    ROWS,
    RUN_FIELDS,
    SEGMENT_FIELDS,
    SHARED,
    STEP,
    STRIDE,
    TARGET,
    UNIT,
    VECTORS,
    WIDTH,
)

UPDATE = 1
CONTRACT = 2
COPY = 1
MULTIPLY = 2
MOST_VECTORS = 10
"""Columns of a panel, in vectors of 16 float32."""
ONE_PASS = 10 if WIDE else 3
"""Vectors of a row that are computed at once: two rows of them must stay in the registers."""


class Panel(NamedTuple):
    """Where a panel and its lists lie."""

    rows: int
    width: int  # of a row in scratch
    first: int
    last: int  # segments
    entry: int  # the first of them
    at: int  # place in J
    ahead: int  # from there to the panel that is touched next
    stride: int  # from row to row of J


# Steps 1 and 2 for as many columns as `nothing` is wide.
#
# new[a] ← Σ_m D[a, m] old[m], new[b] likewise, for pairs of rows a, b (`pairs` has the entries).
# V vectors need V + 3 loads where the rows share a source, 2 V + 3 for two of their own.
@from_kernels
def _columns(nothing, do, panel, column, segments, entries, dynamics, old, J):
    rows, pitch, stride, ahead = panel.rows, panel.width, panel.stride, panel.ahead
    at, entry = panel.at + column, panel.entry
    if do & COPY:
        for r in range(rows):
            store_bundle(old, r * pitch + column, load_bundle(J, at + r * stride, nothing))
        store_bundle(old, rows * pitch + column, nothing)
    if do & MULTIPLY:
        for s in range(SEGMENT_FIELDS * panel.first, SEGMENT_FIELDS * panel.last, SEGMENT_FIELDS):
            pairs, shared, own = (
                index(segments, s + PAIRS), index(segments, s + SHARED), index(segments, s + OWN),
            )  # fmt: skip
            if shared + own == 1:
                # The commonest rows of a very sparse net, without loops over their one source.
                for e in range(ENTRY_FIELDS * entry, ENTRY_FIELDS * (entry + pairs), ENTRY_FIELDS):
                    i, j = index(entries, e), index(entries, e + 1)
                    x = load_bundle(old, (i & PLACE) * pitch + column, nothing)
                    store_bundle(J, at, fma_bundle(splat(dynamics, i >> POSITION), x, nothing))
                    y = load_bundle(old, (j & PLACE) * pitch + column, nothing)
                    store_bundle(
                        J, at + stride, fma_bundle(splat(dynamics, j >> POSITION), y, nothing)
                    )
                    prefetch_bundle(J, at + ahead, nothing)
                    prefetch_bundle(J, at + stride + ahead, nothing)
                    at += 2 * stride
                entry += pairs
                pairs = 0
            for _ in range(pairs):
                a = nothing
                b = nothing
                for e in range(ENTRY_FIELDS * entry, ENTRY_FIELDS * (entry + shared), ENTRY_FIELDS):
                    i, j = index(entries, e), index(entries, e + 1)
                    x = load_bundle(old, (i & PLACE) * pitch + column, nothing)
                    a = fma_bundle(splat(dynamics, i >> POSITION), x, a)
                    b = fma_bundle(splat(dynamics, j >> POSITION), x, b)
                entry += shared
                for e in range(ENTRY_FIELDS * entry, ENTRY_FIELDS * (entry + own), ENTRY_FIELDS):
                    i, j = index(entries, e), index(entries, e + 1)
                    x = load_bundle(old, (i & PLACE) * pitch + column, nothing)
                    a = fma_bundle(splat(dynamics, i >> POSITION), x, a)
                    y = load_bundle(old, (j & PLACE) * pitch + column, nothing)
                    b = fma_bundle(splat(dynamics, j >> POSITION), y, b)
                entry += own
                store_bundle(J, at, a)
                store_bundle(J, at + stride, b)
                prefetch_bundle(J, at + ahead, nothing)
                prefetch_bundle(J, at + stride + ahead, nothing)
                at += 2 * stride


# One text, compiled for every width.
@into_caller
def multiply_panel(copies, panel, segments, entries, dynamics, J, old):
    """Do steps 1 and 2, in one pass over the columns where they fit in the registers.

    Where it copies nothing, `old` holds the panel, in rows of whole vectors, and the row of zeros.
    """
    n = lanes(J)
    vectors = panel.width // n
    passes = (vectors + ONE_PASS - 1) // ONE_PASS
    both = copies and passes > 1  # all columns are copied before any is written
    for stage in range(2 if both else 1):
        do = MULTIPLY
        if copies:
            do = COPY | MULTIPLY if passes == 1 else COPY if stage == 0 else MULTIPLY
        right = vectors
        for left in range(passes, 0, -1):
            # From right to left, so that what a row's last vector spills over is written after it.
            take = (right + left - 1) // left
            right -= take
            work = do, panel, right * n, segments, entries, dynamics, old, J
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


@from_kernels
def keep_new(rows, J, at, stride, width, old, to):
    """Copy the rows that a stage has written for the stages behind it."""
    n = lanes(J)
    nothing = bundle(J, 1)
    for r in range(rows):
        for c in range(0, width, n):
            store_bundle(old, to + r * width + c, load_bundle(J, at + r * stride + c, nothing))


# Values that lie one after the other are added by vectors.
@into_caller
def add_immediate(first, last, runs, immediate, J):
    """Do step 3: add I[i, w] where its runs say."""
    n = lanes(J)
    for run in range(RUN_FIELDS * first, RUN_FIELDS * last, RUN_FIELDS):
        v, step = index(runs, run + FIRST_VALUE), index(runs, run + STEP)
        target, length = index(runs, run + TARGET), index(runs, run + LENGTH)
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
    last = REACHED_FIELDS * (first + count - 1)
    for r in range(REACHED_FIELDS * first, last, 2 * REACHED_FIELDS):
        x = load_bundle(J, at + index(reached, r + PANEL_ROW) * stride, nothing)
        a = fma_bundle(splat(state_grad, index(reached, r + UNIT)), x, a)
        s = r + REACHED_FIELDS
        y = load_bundle(J, at + index(reached, s + PANEL_ROW) * stride, nothing)
        b = fma_bundle(splat(state_grad, index(reached, s + UNIT)), y, b)
    if count % 2:
        x = load_bundle(J, at + index(reached, last + PANEL_ROW) * stride, nothing)
        a = fma_bundle(splat(state_grad, index(reached, last + UNIT)), x, a)
    store_bundle(sums, column, add_bundles(a, b))


# Step 4: the gradient of the panel's weights.
@into_caller
def _contract(first, last, b, at, stride, members, reached, columns, state_grad, J, grad, sums):
    n = lanes(J)
    for k in range(MEMBER_FIELDS * first, MEMBER_FIELDS * last, MEMBER_FIELDS):
        column, width = index(members, k + FIRST_COLUMN), index(members, k + WIDTH)
        rows = (
            index(members, k + FIRST_REACHED), index(members, k + COUNT_REACHED),
            at + index(members, k + INSET), stride, reached, state_grad, J, sums,
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


# Step 2 of a later stage: by itself, since one text for both took plain panels 1.1 times as long.
@from_kernels
def _multiply_later(panel, segments, entries, dynamics, J, old):
    multiply_panel(False, panel, segments, entries, dynamics, J, old)


# Steps 1 to 3 of a panel, stage after stage; `place` is where it lies in J: at, stride, ahead.
@into_caller
def _update_stages(first, behind, place, tables, dynamics, immediate, J, scratch):
    a_panels, a_segments, a_entries, a_runs = tables
    at, stride, ahead = place
    here = PANEL_FIELDS * first
    rows, width = index(a_panels, here + ROWS), SLACK * index(a_panels, here + VECTORS)
    old, before = copy_in(scratch, J), 0
    for stage in range(here, PANEL_FIELDS * behind, PANEL_FIELDS):
        row = index(a_panels, stage + FIRST_ROW)
        if row > 0:
            keep_new(
                row - before, J, at + before * stride, stride, width, old,
                (rows + 1 + before) * width,
            )  # fmt: skip
        panel = Panel(
            rows, width, index(a_panels, stage + FIRST_SEGMENT),
            index(a_panels, stage + END_SEGMENT), index(a_panels, stage + FIRST_ENTRY),
            at + row * stride, ahead, stride,
        )  # fmt: skip
        if row == 0:
            multiply_panel(True, panel, a_segments, a_entries, dynamics, J, old)
        else:
            _multiply_later(panel, a_segments, a_entries, dynamics, J, old)
        run = index(a_panels, stage + FIRST_RUN)
        last = index(a_panels, stage + PANEL_FIELDS + FIRST_RUN)
        add_immediate(run, last, a_runs, immediate, rounded_anew(J))
        before = row


@njit(cache=True, nogil=True)
def panels_range(
    begin: int,  # first panel                                               in
    end: int,  # one past the last                                           in
    mode: int,  # UPDATE, CONTRACT or both                                   in
    panels: NDArray[np.int64],  # (panels + 1, 10)                            in
    segments: NDArray[np.int64],  # (segments, 3)                            in
    entries: NDArray[np.int64],  # (entries, 2)                              in
    members: NDArray[np.int64],  # (members + 1, 5)                          in
    reached: NDArray[np.int32],  # (rows, 2)                                 in
    columns: NDArray[np.int32],  # (weights,)                                in
    runs: NDArray[np.int64],  # (runs, 4)                                    in
    dynamics_data: NDArray[np.floating],  # (batch, nnz of D)                in, D in CSR order
    immediate_data: NDArray[np.floating],  # (batch, nnz of I)               in, I in CSC order
    state_grad: NDArray[np.floating],  # (batch, units)                      in
    influence: NDArray[np.floating],  # (batch, size), or Rounded            in/out
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
    batch, size = shape_of(influence)
    D_size, I_size = dynamics_data.shape[1], immediate_data.shape[1]
    p = begin
    while p < end:
        behind = p + 1  # of all stages of this panel
        while behind < end and index(a_panels, PANEL_FIELDS * behind + FIRST_ROW) > 0:
            behind += 1
        for b in range(batch):
            # From this panel to the next one to be touched.
            ahead = size
            if b == batch - 1:
                ahead = panels[behind, OFFSET] - panels[p, OFFSET] - b * size
            J, here = stream_of(influence, b), PANEL_FIELDS * (behind - 1)
            at, stride = index(a_panels, here + OFFSET), index(a_panels, here + STRIDE)
            if mode & UPDATE:
                _update_stages(
                    p, behind, (at, stride, ahead), (a_panels, a_segments, a_entries, a_runs),
                    pointer(dynamics_data, b * D_size), pointer(immediate_data, b * I_size), J,
                    a_scratch,
                )  # fmt: skip
            if mode & CONTRACT:
                first = index(a_panels, here + FIRST_MEMBER)
                last = index(a_panels, here + PANEL_FIELDS + FIRST_MEMBER)
                delta = pointer(state_grad, b * state_grad.shape[1])
                _contract(
                    first, last, b, at, stride, a_members, a_reached, a_columns, delta, J, a_grad,
                    a_scratch,
                )  # fmt: skip
        p = behind


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
    panels: NDArray[np.int64],  # (panels + 1, 10)              in, `Influence.program` …
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
    panels: NDArray[np.int64],  # (panels + 1, 10)              in, `Influence.program` …
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
    panels: NDArray[np.int64],  # (panels + 1, 10)              in, `Influence.program` …
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

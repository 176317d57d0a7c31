"""Symbolic phase: lower each panel of J to a small program that the numeric phase only replays.

All weights with equal reach R (a supernode) share one product, panel ← D[R, R] · panel + I[R, :].
Its sparsity depends on patterns alone, so it is written down once: for each row of the panel the
list of its sources, each one packed into an int64,

    source = (position of the value in D's data) << 32 | (row of the source in the panel) · pitch

Rows are ordered by their number of sources, which spares the numeric loop its branch misses (15 to
30% on sparse rows). Where D[R, R] is so full that three rows have most of their sources in common,
rows go in blocks of three with one list: the union of their sources, D's value looked up under
(row, unit) in D written out in full,

    source = (unit of the source) << 32 | (row of the source in the panel) · pitch
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

BLOCK = 3
"""Rows of a block: three rows of eight vectors are what 32 registers hold."""


# sources of row i of a panel with reach R:  {m : D[i, m] ≠ 0 and m ∈ R}
@njit(cache=True, nogil=True)
def count_sources(
    dynamics_indptr: NDArray[np.int64],  # (units + 1,)       in
    dynamics_indices: NDArray[np.int32],  # (nnz of D,)       in
    reach_indptr: NDArray[np.int64],  # (supernodes + 1,)     in
    reach_indices: NDArray[np.int32],  # (rows,)              in, sorted within a supernode
    counts: NDArray[np.int32],  # (rows,)                     out, sources of each row
    local: NDArray[np.int32],  # (units,)                     scratch, -1 on entry and exit
) -> None:
    """Count, for every row of every supernode, the sources that lie in its own reach."""
    for s in range(len(reach_indptr) - 1):
        first, last = reach_indptr[s], reach_indptr[s + 1]
        for r in range(first, last):
            local[reach_indices[r]] = r - first
        for r in range(first, last):
            i = reach_indices[r]
            count = 0
            for e in range(dynamics_indptr[i], dynamics_indptr[i + 1]):
                if local[dynamics_indices[e]] >= 0:
                    count += 1
            counts[r] = count
        for r in range(first, last):
            local[reach_indices[r]] = -1


@njit(cache=True, nogil=True)
def order_rows(
    reach_indptr: NDArray[np.int64],  # (supernodes + 1,)  in
    reach_indices: NDArray[np.int32],  # (rows,)           in
    counts: NDArray[np.int32],  # (rows,)                  in
    rows: NDArray[np.int32],  # (rows,)                    out, the unit of each panel row
    ordered: NDArray[np.int32],  # (rows,)                 out, the counts in the new order
    starts: NDArray[np.int64],  # (largest count + 2,)     scratch, zero on entry and exit
) -> None:
    """Order the rows of each supernode by their number of sources: a stable counting sort."""
    for s in range(len(reach_indptr) - 1):
        first, last = reach_indptr[s], reach_indptr[s + 1]
        most = 0
        for r in range(first, last):
            starts[counts[r] + 1] += 1
            most = max(most, counts[r])
        for c in range(most):
            starts[c + 1] += starts[c]
        for r in range(first, last):
            place = first + starts[counts[r]]
            starts[counts[r]] += 1
            rows[place] = reach_indices[r]
            ordered[place] = counts[r]
        for c in range(most + 2):
            starts[c] = 0


# sources of a block of rows:  ∪ over its rows i of {m : D[i, m] ≠ 0 and m ∈ R}
@njit(cache=True, nogil=True)
def count_unions(
    dynamics_indptr: NDArray[np.int64],  # (units + 1,)   in
    dynamics_indices: NDArray[np.int32],  # (nnz of D,)   in
    reach_indptr: NDArray[np.int64],  # (supernodes + 1,) in
    rows: NDArray[np.int32],  # (rows,)                   in
    candidates: NDArray[np.bool_],  # (supernodes,)       in, the others are not looked at
    counts: NDArray[np.int32],  # (rows,)                 out, at a block's first row; 0 at others
    local: NDArray[np.int32],  # (units,)                 scratch, -1 on entry and exit
) -> None:
    """Count the sources of every block of BLOCK rows."""
    for s in range(len(reach_indptr) - 1):
        first, last = reach_indptr[s], reach_indptr[s + 1]
        if not candidates[s]:
            continue
        for r in range(first, last):
            local[rows[r]] = last  # in the reach, in no block so far
        for block in range(first, last, BLOCK):
            count = 0
            for r in range(block, min(block + BLOCK, last)):
                counts[r] = 0
                for e in range(dynamics_indptr[rows[r]], dynamics_indptr[rows[r] + 1]):
                    m = dynamics_indices[e]
                    if local[m] >= 0 and local[m] != block:
                        local[m] = block
                        count += 1
            counts[block] = count
        for r in range(first, last):
            local[rows[r]] = -1


@njit(cache=True, nogil=True)
def fill_sources(
    dynamics_indptr: NDArray[np.int64],  # (units + 1,)   in
    dynamics_indices: NDArray[np.int32],  # (nnz of D,)   in
    reach_indptr: NDArray[np.int64],  # (supernodes + 1,) in
    rows: NDArray[np.int32],  # (rows,)                   in
    source_indptr: NDArray[np.int64],  # (rows + 1,)      in
    blocked: NDArray[np.bool_],  # (supernodes,)          in, which go in blocks
    pitches: NDArray[np.int32],  # (supernodes,)          in, elements between scratch rows
    sources: NDArray[np.int64],  # (sources,)             out
    local: NDArray[np.int32],  # (units,)                 scratch, -1 on entry and exit
    block_of: NDArray[np.int64],  # (units,)              scratch
) -> None:
    """Write the program: the packed sources of each row, or of each block of rows."""
    for s in range(len(reach_indptr) - 1):
        first, last = reach_indptr[s], reach_indptr[s + 1]
        for r in range(first, last):
            local[rows[r]] = r - first
            block_of[rows[r]] = -1
        height = BLOCK if blocked[s] else 1
        for block in range(first, last, height):
            place = source_indptr[block]
            for r in range(block, min(block + height, last)):
                for e in range(dynamics_indptr[rows[r]], dynamics_indptr[rows[r] + 1]):
                    m = dynamics_indices[e]
                    if local[m] >= 0 and (height == 1 or block_of[m] != block):
                        block_of[m] = block
                        upper = np.int64(m) if blocked[s] else np.int64(e)
                        sources[place] = (upper << 32) | (np.int64(local[m]) * pitches[s])
                        place += 1
        for r in range(first, last):
            local[rows[r]] = -1


# I[i, w] is added to the panel in runs: entries of one row, one weight after the other, whose
# values lie a fixed step apart in I's data. A GRU unit needs one run, an LSTM unit two.
@njit(cache=True, nogil=True)
def find_runs(
    panels: NDArray[np.int64],  # (panels + 1, 8)           in, but for column 6: out
    reach_indptr: NDArray[np.int64],  # (supernodes + 1,)   in
    rows: NDArray[np.int32],  # (rows,)                     in
    columns: NDArray[np.int32],  # (weights,)               in, the weight of each panel column
    immediate_indptr: NDArray[np.int64],  # (weights + 1,)  in
    immediate_indices: NDArray[np.int32],  # (nnz of I,)    in
    runs: NDArray[np.int64],  # (runs, 4) or (0, 4) to count only   out
    local: NDArray[np.int32],  # (units,)                   scratch, -1 on entry and exit
    current: NDArray[np.int64],  # (units,)                 scratch: the open run of each row
    ends: NDArray[np.int64],  # (units, 3)                  scratch: its last column, value, step
) -> int:
    """Find the runs of every panel; return how many there are."""
    write = runs.shape[0] > 0
    count = 0
    for p in range(panels.shape[0] - 1):
        s, offset, width = panels[p, 0], panels[p, 1], panels[p, 2]
        stride, column = panels[p, 3], panels[p, 5]
        first, last = reach_indptr[s], reach_indptr[s + 1]
        panels[p, 6] = count
        for r in range(first, last):
            local[rows[r]] = r - first
            current[rows[r]] = -1
        for c in range(width):
            w = columns[column + c]
            for e in range(immediate_indptr[w], immediate_indptr[w + 1]):
                i = immediate_indices[e]
                run = current[i]
                step = e - ends[i, 1] if run >= 0 else 0
                if run >= 0 and ends[i, 0] == c - 1 and (ends[i, 2] == 0 or ends[i, 2] == step):
                    ends[i, 2] = step
                    if write:
                        runs[run, 1] = step
                        runs[run, 3] += 1
                else:
                    current[i] = count
                    ends[i, 2] = 0
                    if write:
                        runs[count, 0] = e
                        runs[count, 1] = 1
                        runs[count, 2] = offset + local[i] * stride + c
                        runs[count, 3] = 1
                    count += 1
                ends[i, 0] = c
                ends[i, 1] = e
        for r in range(first, last):
            local[rows[r]] = -1
    panels[panels.shape[0] - 1, 6] = count
    return count

"""Symbolic phase: lower a pattern to the program that the panel kernels replay.

All weights with equal reach R (a supernode) share one product, panel ← D[R, R] · panel + I[R, :].
Its sparsity depends on patterns alone, so it is written down once: the sources of every row here,
their entries in `pairs`.

Supernodes whose reaches are nearly equal go side by side in one *block*, on the union of their
rows: an LSTM's output gate reaches one row less than its other gates. What lies outside a
supernode's own reach is set to zero after each step, so that the pattern is kept to the letter.
Narrow blocks go together, row after row: a *group* has one program.
"""

import numpy as np
from numpy.typing import NDArray

from ..compiler.decorators import from_kernels, from_python
from .tables import (
    COUNT_REACHED,
    FIRST_COLUMN,
    FIRST_MEMBER,
    FIRST_REACHED,
    FIRST_RUN,
    FIRST_VALUE,
    INSET,
    LENGTH,
    OFFSET,
    OUTSIDE,
    PANEL_ROW,
    STEP,
    STRIDE,
    TARGET,
    UNIT,
    WIDTH,
)

SOURCE_FIELDS = 2
SOURCE_ROW, DYNAMICS_PLACE = range(SOURCE_FIELDS)
"""A row of `sources`: row in the block, position in D's data."""
OPEN_FIELDS = 5
OPEN_ROW, OPEN_RUN, LAST_COLUMN, LAST_VALUE, OPEN_STEP = range(OPEN_FIELDS)
"""A row of `open_runs`: a unit's row in the panel, its run, and where that has got to."""


@from_python
def merge_reaches(
    order: NDArray[np.int64],  # (supernodes,)            in, likely mates next to each other
    reach_indptr: NDArray[np.int64],  # (supernodes + 1,) in
    reach_indices: NDArray[np.int32],  # (rows,)          in, sorted within a supernode
    widths: NDArray[np.int64],  # (supernodes,)           in, weights of each
    most: int,  # weights of a block                      in
    tallest: int,  # its rows                             in
    block_of: NDArray[np.int64],  # (supernodes,)         out
    block_indptr: NDArray[np.int64],  # (supernodes + 1,) out, what follows the last block is free
    block_indices: NDArray[np.int32],  # (rows,)          out, sorted within a block
    union: NDArray[np.int32],  # (most rows of two supernodes,)   scratch
) -> int:
    """Put supernodes of which none has a sixteenth of the rows to itself into one block each."""
    blocks = 0
    width = 0
    block_indptr[0] = 0
    for s in order:
        first, last = reach_indptr[s], reach_indptr[s + 1]
        begin = block_indptr[blocks - 1 if blocks > 0 else 0]
        size = block_indptr[blocks] - begin
        n = 0
        if blocks > 0 and width + widths[s] <= most:
            i, j = begin, first
            while i < begin + size or j < last:
                left = block_indices[i] if i < begin + size else np.int32(0x7FFFFFFF)
                right = reach_indices[j] if j < last else np.int32(0x7FFFFFFF)
                union[n] = left if left < right else right
                n += 1
                i += left <= right
                j += right <= left
        if 0 < n <= tallest and 16 * n <= 17 * size and 16 * n <= 17 * (last - first):
            width += widths[s]
        else:
            n = last - first
            for r in range(n):
                union[r] = reach_indices[first + r]
            begin += size
            blocks += 1
            width = widths[s]
        for r in range(n):
            block_indices[begin + r] = union[r]
        block_indptr[blocks] = begin + n
        block_of[s] = blocks - 1
    return blocks


# sources of row i of a block with reach R:  {m : D[i, m] ≠ 0 and m ∈ R}
@from_python
def list_sources(
    dynamics_indptr: NDArray[np.int64],  # (units + 1,)       in
    dynamics_indices: NDArray[np.int32],  # (nnz of D,)       in
    block_indptr: NDArray[np.int64],  # (blocks + 1,)         in
    block_indices: NDArray[np.int32],  # (rows,)              in, sorted within a block
    source_indptr: NDArray[np.int64],  # (rows + 1,)          out if `sources` is empty, else in
    sources: NDArray[np.int32],  # (sources, 2)               out, or (0, 2) to count only
    local: NDArray[np.int32],  # (units,)                     scratch, -1 on entry and exit
) -> None:
    """List, or count, the sources of every row of every block."""
    write = sources.shape[0] > 0
    place = 0
    for s in range(len(block_indptr) - 1):
        first, last = block_indptr[s], block_indptr[s + 1]
        for r in range(first, last):
            local[block_indices[r]] = r - first
        for r in range(first, last):
            i = block_indices[r]
            for e in range(dynamics_indptr[i], dynamics_indptr[i + 1]):
                m = local[dynamics_indices[e]]
                if m >= 0:
                    if write:
                        sources[place, SOURCE_ROW] = m
                        sources[place, DYNAMICS_PLACE] = e
                    place += 1
            if not write:
                source_indptr[r + 1] = place
        for r in range(first, last):
            local[block_indices[r]] = -1


@from_python
def locate_rows(
    reach_indptr: NDArray[np.int64],  # (supernodes + 1,)   in
    reach_indices: NDArray[np.int32],  # (reached,)         in, sorted within a supernode
    block_of: NDArray[np.int64],  # (supernodes,)           in
    block_indptr: NDArray[np.int64],  # (blocks + 1,)       in
    block_indices: NDArray[np.int32],  # (rows,)            in, sorted within a block
    places: NDArray[np.int32],  # (rows,)                   in
    reached: NDArray[np.int32],  # (reached, 2)             out: unit, row in the panel
) -> None:
    """Find the panel row of every unit that a supernode reaches."""
    for s in range(len(reach_indptr) - 1):
        r = block_indptr[block_of[s]]
        for k in range(reach_indptr[s], reach_indptr[s + 1]):
            while block_indices[r] < reach_indices[k]:
                r += 1
            reached[k, UNIT] = reach_indices[k]
            reached[k, PANEL_ROW] = places[r]


# The rows of a block that one of its supernodes does not reach: in its columns they stay zero.
@from_kernels
def _clear_outside(
    offset: int,  # of the supernode's columns in J
    stride: int,
    width: int,
    rows: tuple[int, int],  # of the block: the first, one past the last
    inside: tuple[int, int],  # of `reached`, likewise
    places: NDArray[np.int32],  # (rows,)                   in
    reached: NDArray[np.int32],  # (reached, 2)             in
    count: int,  # runs before
    runs: NDArray[np.int64],  # (runs, 4) or (0, 4)         out
    taken: NDArray[np.bool_],  # (most rows of a panel,)    scratch, False on entry and exit
) -> int:
    """Set what lies outside a supernode's reach to zero, a run a row; return the runs so far."""
    for r in range(inside[0], inside[1]):
        taken[reached[r, PANEL_ROW]] = True
    for r in range(rows[0], rows[1]):
        if not taken[places[r]]:
            if runs.shape[0] > 0:
                runs[count, FIRST_VALUE] = OUTSIDE
                runs[count, STEP] = 0
                runs[count, TARGET] = offset + places[r] * stride
                runs[count, LENGTH] = width
            count += 1
    for r in range(inside[0], inside[1]):
        taken[reached[r, PANEL_ROW]] = False
    return count


# Entries of one row, one weight after the other, whose values lie a fixed step apart in I's data,
# make up one run. A GRU unit needs one, an LSTM unit two.
@from_kernels
def _add_inside(
    offset: int,  # of the supernode's columns in J
    stride: int,
    weights: NDArray[np.int32],  # (width,)                 in, of those columns
    immediate_indptr: NDArray[np.int64],  # (weights + 1,)  in
    immediate_indices: NDArray[np.int32],  # (nnz of I,)    in
    count: int,  # runs before
    runs: NDArray[np.int64],  # (runs, 4) or (0, 4)         out
    open_runs: NDArray[np.int64],  # (units, OPEN_FIELDS)   in/out, the row of each unit reached
) -> int:
    """Add I to a supernode's columns; return the runs so far."""
    write = runs.shape[0] > 0
    for c in range(weights.size):
        w = weights[c]
        for e in range(immediate_indptr[w], immediate_indptr[w + 1]):
            unit = open_runs[immediate_indices[e]]
            run, held = unit[OPEN_RUN], unit[OPEN_STEP]
            step = e - unit[LAST_VALUE] if run >= 0 else 0
            if run >= 0 and unit[LAST_COLUMN] == c - 1 and (held == 0 or held == step):
                unit[OPEN_STEP] = step
                if write:
                    runs[run, STEP] = step
                    runs[run, LENGTH] += 1
            else:
                unit[OPEN_RUN] = count
                unit[OPEN_STEP] = 0
                if write:
                    runs[count, FIRST_VALUE] = e
                    runs[count, STEP] = 1
                    runs[count, TARGET] = offset + unit[OPEN_ROW] * stride + c
                    runs[count, LENGTH] = 1
                count += 1
            unit[LAST_COLUMN] = c
            unit[LAST_VALUE] = e
    return count


@from_python
def find_runs(
    panels: NDArray[np.int64],  # (panels + 1, 10)          in, but for FIRST_RUN: out
    members: NDArray[np.int64],  # (members + 1, 5)         in
    block_of: NDArray[np.int64],  # (members,)              in
    block_indptr: NDArray[np.int64],  # (blocks + 1,)       in
    places: NDArray[np.int32],  # (rows,)                   in
    reached: NDArray[np.int32],  # (reached, 2)             in
    columns: NDArray[np.int32],  # (weights,)               in, the weight of each panel column
    immediate_indptr: NDArray[np.int64],  # (weights + 1,)  in
    immediate_indices: NDArray[np.int32],  # (nnz of I,)    in
    runs: NDArray[np.int64],  # (runs, 4)                   out, or (0, 4) to count only
    open_runs: NDArray[np.int64],  # (units, OPEN_FIELDS)   scratch
    taken: NDArray[np.bool_],  # (most rows of a panel,)    scratch, False on entry and exit
) -> int:
    """Find the runs of every panel; return how many there are."""
    count = 0
    for p in range(panels.shape[0] - 1):
        stride = panels[p, STRIDE]
        panels[p, FIRST_RUN] = count
        for k in range(panels[p, FIRST_MEMBER], panels[p + 1, FIRST_MEMBER]):
            column, width = members[k, FIRST_COLUMN], members[k, WIDTH]
            first = members[k, FIRST_REACHED]
            last = first + members[k, COUNT_REACHED]
            offset = panels[p, OFFSET] + members[k, INSET]
            begin, end = block_indptr[block_of[k]], block_indptr[block_of[k] + 1]
            if end - begin > last - first:
                count = _clear_outside(
                    offset, stride, width, (begin, end), (first, last), places, reached, count,
                    runs, taken,
                )  # fmt: skip
            for r in range(first, last):
                open_runs[reached[r, UNIT], OPEN_ROW] = reached[r, PANEL_ROW]
                open_runs[reached[r, UNIT], OPEN_RUN] = -1
            count = _add_inside(
                offset, stride, columns[column : column + width], immediate_indptr,
                immediate_indices, count, runs, open_runs,
            )  # fmt: skip
    panels[panels.shape[0] - 1, FIRST_RUN] = count
    return count

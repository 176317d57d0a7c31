"""Symbolic phase: lower a pattern to the program that the panel kernels replay.

All weights with equal reach R (a supernode) share one product, panel ← D[R, R] · panel + I[R, :].
Its sparsity depends on patterns alone, so it is written down once: the sources of every row here,
their entries in kernels/pairs.py.

Supernodes whose reaches are nearly equal go side by side in one *block*, on the union of their
rows: an LSTM's output gate reaches one row less than its other gates. What lies outside a
supernode's own reach is set to zero after each step, so that the pattern is kept to the letter.
Narrow blocks go together, row after row: a *group* has one program.
"""

import numpy as np
from numpy.typing import NDArray

from ..compiler.decorators import from_python


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
    sources: NDArray[np.int32],  # (sources, 2) or (0, 2) to count only   out: row in the
    # block, position in D's data
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
                        sources[place, 0] = m
                        sources[place, 1] = e
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
            reached[k, 0] = reach_indices[k]
            reached[k, 1] = places[r]


# I[i, w] is added to the panel in runs: entries of one row, one weight after the other, whose
# values lie a fixed step apart in I's data. A GRU unit needs one run, an LSTM unit two. Runs of no
# values, -1, are set to zero: rows of a block that one of its supernodes does not reach.
@from_python
def find_runs(
    panels: NDArray[np.int64],  # (panels + 1, 9)           in, but for column 8: out
    members: NDArray[np.int64],  # (members + 1, 5)         in
    block_of: NDArray[np.int64],  # (members,)              in
    block_indptr: NDArray[np.int64],  # (blocks + 1,)       in
    places: NDArray[np.int32],  # (rows,)                   in
    reached: NDArray[np.int32],  # (reached, 2)             in
    columns: NDArray[np.int32],  # (weights,)               in, the weight of each panel column
    immediate_indptr: NDArray[np.int64],  # (weights + 1,)  in
    immediate_indices: NDArray[np.int32],  # (nnz of I,)    in
    runs: NDArray[np.int64],  # (runs, 4) or (0, 4) to count only   out
    local: NDArray[np.int32],  # (units,)                   scratch: the row of each unit
    current: NDArray[np.int64],  # (units,)                 scratch: the open run of each row
    ends: NDArray[np.int64],  # (units, 3)                  scratch: its last column, value, step
    taken: NDArray[np.bool_],  # (most rows of a panel,)    scratch, False on entry and exit
) -> int:
    """Find the runs of every panel; return how many there are."""
    write = runs.shape[0] > 0
    count = 0
    for p in range(panels.shape[0] - 1):
        stride = panels[p, 3]
        panels[p, 8] = count
        for k in range(panels[p, 7], panels[p + 1, 7]):
            column, width, first, last = (
                members[k, 0], members[k, 1], members[k, 2], members[k, 2] + members[k, 3],
            )  # fmt: skip
            offset = panels[p, 0] + members[k, 4]
            begin, end = block_indptr[block_of[k]], block_indptr[block_of[k] + 1]
            if end - begin > last - first:
                for r in range(first, last):
                    taken[reached[r, 1]] = True
                for r in range(begin, end):
                    if not taken[places[r]]:
                        if write:
                            runs[count, 0] = -1
                            runs[count, 1] = 0
                            runs[count, 2] = offset + places[r] * stride
                            runs[count, 3] = width
                        count += 1
                for r in range(first, last):
                    taken[reached[r, 1]] = False
            for r in range(first, last):
                local[reached[r, 0]] = reached[r, 1]
                current[reached[r, 0]] = -1
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
    panels[panels.shape[0] - 1, 8] = count
    return count

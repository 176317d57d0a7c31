"""Symbolic phase: which units each weight reaches within n steps, from patterns alone.

    reach_1(w)   = {i : I[i, w] may be non-zero}
    reach_m+1(w) = reach_1(w) ∪ {i : D[i, m] may be non-zero for some m in reach_m(w)}

Influence flows from m to i along D[i, m], so a walk leaves unit m through *column* m of D: D comes
here by columns. The reach only grows, hence one walk level by level finds it, each level looking
only at the units that the level before has added.

Weights with the same column of I walk the same way and share one walk: a group. Groups that end up
with the same reach share one copy, a supernode. They are found by the XOR of one random number per
unit (`unit_hash`), which any order of visits turns out alike, and are then compared unit by unit
(`check_reach`): a collision costs a second try, never a wrong pattern.

Counting goes before filling, so that the caller allocates what is needed and no more. All passes
take a range of groups and their own scratch: ranges may run on several threads at once, and no
result depends on how they were cut.

Indices are int32, pointers int64. Source of the reach: Menick, Elsen, Evci, Osindero, Simonyan,
Graves, "A Practical Sparse Approximation for Real Time Recurrent Learning", arXiv 2006.07232.
"""

import numpy as np
from numpy.typing import NDArray

from ..compiler.decorators import from_kernels, from_python


# (a literal for `multiplicity` would make Numba compile this twice: callers pass np.int64(0))
@from_kernels
def walk(
    n: int,
    column_indptr: NDArray[np.int64],
    column_indices: NDArray[np.int32],
    seeds: NDArray[np.int32],
    mark: int,
    multiplicity: int | np.int64,
    levels: NDArray[np.int64],
    marker: NDArray[np.int32],
    queue: NDArray[np.int32],
) -> tuple[int, int]:
    """Put the reach of `seeds` into queue[:size]; return size and where the last level begins."""
    size = 0
    for unit in seeds:
        marker[unit] = mark
        queue[size] = unit
        size += 1
    levels[0, 0] += size
    levels[0, 1] += size * multiplicity
    begin = 0
    depth = 1
    while depth < n and begin < size:
        end = size
        for place in range(begin, end):
            source = queue[place]
            for slot in range(column_indptr[source], column_indptr[source + 1]):
                unit = column_indices[slot]
                if marker[unit] != mark:
                    marker[unit] = mark
                    queue[size] = unit
                    size += 1
        begin = end
        levels[depth, 0] += size - end
        levels[depth, 1] += (size - end) * multiplicity
        depth += 1
    return size, begin


# size[g] = |reach_n(g)|,  key[g] = XOR of unit_hash over reach_n(g)
@from_python
def count_reach(
    start: int,  #                              in, first group
    stop: int,  #                               in, one past the last
    n: int,  #                                  in, >= 1
    column_indptr: NDArray[np.int64],  # (units + 1,)     in, D by columns
    column_indices: NDArray[np.int32],  # (nnz of D,)      in
    immediate_indptr: NDArray[np.int64],  # (weights + 1,)   in, I by columns
    immediate_indices: NDArray[np.int32],  # (nnz of I,)      in
    first: NDArray[np.int32],  # (groups,)        in, a weight of each group
    multiplicity: NDArray[np.int64],  # (groups,)        in, how many weights it has
    unit_hash: NDArray[np.int64],  # (units,)         in
    size: NDArray[np.int64],  # (groups,)        out, in the range
    key: NDArray[np.int64],  # (groups,)        out, in the range
    levels: NDArray[np.int64],  # (n, 2)           in/out, units that level m + 1 adds to all
    #                              groups together: once per group, once per weight
    marker: NDArray[np.int32],  # (units,)         scratch, -1 on entry
    queue: NDArray[np.int32],  # (units,)         scratch
) -> bool:
    """Count the reach of each group; return whether one more step would change none of them."""
    saturated = True
    for group in range(start, stop):
        weight = first[group]
        seeds = immediate_indices[immediate_indptr[weight] : immediate_indptr[weight + 1]]
        count, begin = walk(
            n, column_indptr, column_indices, seeds, group, multiplicity[group], levels,
            marker, queue,
        )  # fmt: skip
        xor = np.int64(0)
        for place in range(count):
            xor ^= unit_hash[queue[place]]
        size[group] = count
        key[group] = xor
        place = begin
        while saturated and place < count:
            source = queue[place]
            for slot in range(column_indptr[source], column_indptr[source + 1]):
                if marker[column_indices[slot]] != group:
                    saturated = False
            place += 1
    return saturated


@from_kernels
def _sort(units: NDArray[np.int32]) -> None:
    """Sort in place, by Shell's method: NumPy's sort takes Numba 3 s to compile, this 0.1 s."""
    gap = 1
    while 3 * gap < units.size:
        gap = 3 * gap + 1
    while gap > 0:
        for right in range(gap, units.size):
            unit = units[right]
            place = right
            while place >= gap and units[place - gap] > unit:
                units[place] = units[place - gap]
                place -= gap
            units[place] = unit
        gap //= 3


@from_python
def fill_reach(
    start: int,  #                              in, first supernode
    stop: int,  #                               in, one past the last
    n: int,  #                                  in
    column_indptr: NDArray[np.int64],  # (units + 1,)     in, D by columns
    column_indices: NDArray[np.int32],  # (nnz of D,)      in
    immediate_indptr: NDArray[np.int64],  # (weights + 1,)   in, I by columns
    immediate_indices: NDArray[np.int32],  # (nnz of I,)      in
    weight_of: NDArray[np.int32],  # (supernodes,)    in, a weight of each supernode
    reach_indptr: NDArray[np.int64],  # (supernodes + 1,) in, from the counts
    reach_indices: NDArray[np.int32],  # (nnz of reach,)  out, in the range, sorted
    levels: NDArray[np.int64],  # (n, 2)           scratch
    marker: NDArray[np.int32],  # (units,)         scratch, -1 on entry
    queue: NDArray[np.int32],  # (units,)         scratch
) -> None:
    """Write the reach of each supernode."""
    units = marker.size
    for supernode in range(start, stop):
        weight = weight_of[supernode]
        seeds = immediate_indices[immediate_indptr[weight] : immediate_indptr[weight + 1]]
        count, _ = walk(
            n, column_indptr, column_indices, seeds, supernode, np.int64(0), levels, marker, queue
        )
        slot = reach_indptr[supernode]
        if count > units // 64:  # dense enough that one sweep over the marks beats a sort
            for unit in range(units):
                if marker[unit] == supernode:
                    reach_indices[slot] = unit
                    slot += 1
        else:
            for place in range(count):
                reach_indices[slot + place] = queue[place]
            _sort(reach_indices[slot : slot + count])


@from_python
def check_reach(
    start: int,  #                              in, first group
    stop: int,  #                               in, one past the last
    n: int,  #                                  in
    column_indptr: NDArray[np.int64],  # (units + 1,)     in, D by columns
    column_indices: NDArray[np.int32],  # (nnz of D,)      in
    immediate_indptr: NDArray[np.int64],  # (weights + 1,)   in, I by columns
    immediate_indices: NDArray[np.int32],  # (nnz of I,)      in
    first: NDArray[np.int32],  # (groups,)        in, a weight of each group
    supernode: NDArray[np.int32],  # (groups,)        in, the one it is said to belong to
    weight_of: NDArray[np.int32],  # (supernodes,)    in, the weight whose reach was filled in
    reach_indptr: NDArray[np.int64],  # (supernodes + 1,) in
    reach_indices: NDArray[np.int32],  # (nnz of reach,)  in
    levels: NDArray[np.int64],  # (n, 2)           scratch
    marker: NDArray[np.int32],  # (units,)         scratch, -1 on entry
    queue: NDArray[np.int32],  # (units,)         scratch
) -> bool:
    """Return whether each group's reach is, unit by unit, that of its supernode."""
    for group in range(start, stop):
        node = supernode[group]
        weight = first[group]
        if weight == weight_of[node]:
            continue
        seeds = immediate_indices[immediate_indptr[weight] : immediate_indptr[weight + 1]]
        count, _ = walk(
            n, column_indptr, column_indices, seeds, group, np.int64(0), levels, marker, queue
        )
        if count != reach_indptr[node + 1] - reach_indptr[node]:
            return False
        for slot in range(reach_indptr[node], reach_indptr[node + 1]):
            if marker[reach_indices[slot]] != group:
                return False
    return True

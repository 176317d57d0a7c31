"""Symbolic phase: which units each weight reaches within n steps, from patterns alone.

    reach_1(w)   = {i : I[i, w] may be non-zero}
    reach_m+1(w) = reach_1(w) ∪ {i : D[i, m] may be non-zero for some m in reach_m(w)}

Influence flows from m to i along D[i, m], so a walk leaves unit m through *column* m of D: D comes
here by columns. The reach only grows, hence one walk level by level finds it, each level looking
only at the units that the level before has added.

Weights with the same column of I walk the same way: `group_rows` finds them, one walk serves all.
Groups that end up with the same reach share one copy. They are found by an XOR of one random
number per unit (`unit_hash`), which any order of visits turns out alike, and then compared unit by
unit (`check_reach`): a collision costs a second try, never a wrong pattern.

Counting goes before filling, so that the caller allocates what is needed and no more. All passes
take a range of groups, with their own scratch: ranges may run on several threads at once (no
kernel here holds the GIL), and no result depends on how they were cut.

Indices are int32, pointers int64. Source of the reach: Menick, Elsen, Evci, Osindero, Simonyan,
Graves, "A Practical Sparse Approximation for Real Time Recurrent Learning", arXiv 2006.07232.
"""

import numba
import numpy as np
from numpy.typing import NDArray


# (i, j) -> (j, i); the rows of the result are sorted and free of duplicates, whatever came in
@numba.njit(cache=True, nogil=True)
def transpose_pattern(
    indptr: NDArray[np.int64],  # (rows + 1,)      in
    indices: NDArray[np.int32],  # (nnz,)          in, any order, duplicates allowed
    out_indptr: NDArray[np.int64],  # (columns + 1,)   out
    out_indices: NDArray[np.int32],  # (nnz,)          out, the first out_indptr[-1] are used
    last: NDArray[np.int32],  # (columns,)      scratch
) -> None:
    """Transpose a pattern by counting, in time linear in its size."""
    rows = indptr.size - 1
    columns = out_indptr.size - 1
    out_indptr[:] = 0
    last[:] = -1
    for row in range(rows):
        for slot in range(indptr[row], indptr[row + 1]):
            column = indices[slot]
            if last[column] != row:
                last[column] = row
                out_indptr[column + 1] += 1
    for column in range(columns):
        out_indptr[column + 1] += out_indptr[column]
    last[:] = -1
    for row in range(rows):
        for slot in range(indptr[row], indptr[row + 1]):
            column = indices[slot]
            if last[column] != row:
                last[column] = row
                out_indices[out_indptr[column]] = row
                out_indptr[column] += 1
    # each start has moved to its end, which is the next one's start: move all up by one place
    for column in range(columns, 0, -1):
        out_indptr[column] = out_indptr[column - 1]
    out_indptr[0] = 0


@numba.njit(cache=True, nogil=True)
def find_unsorted_row(
    indptr: NDArray[np.int64],  # (rows + 1,)      in
    indices: NDArray[np.int32],  # (nnz,)          in
    columns: int,  #                              in
) -> int:
    """Return the first row that is not sorted, unique and within [0, columns), or -1."""
    for row in range(indptr.size - 1):
        before = -1
        for slot in range(indptr[row], indptr[row + 1]):
            column = indices[slot]
            if column <= before or column >= columns:
                return row
            before = column
    return -1


@numba.njit(cache=True, nogil=True)
def _same_row(indptr: NDArray[np.int64], indices: NDArray[np.int32], one: int, other: int) -> bool:
    length = indptr[one + 1] - indptr[one]
    if indptr[other + 1] - indptr[other] != length:
        return False
    for offset in range(length):
        if indices[indptr[one] + offset] != indices[indptr[other] + offset]:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def group_rows(
    indptr: NDArray[np.int64],  # (rows + 1,)      in
    indices: NDArray[np.int32],  # (nnz,)          in, sorted within each row
    unit_hash: NDArray[np.int64],  # (columns,)      in, random
    group: NDArray[np.int32],  # (rows,)         out, each row's group
    first: NDArray[np.int32],  # (rows,)         out, the lowest row of each group
    table: NDArray[np.int32],  # (2**b > rows,)  scratch
) -> int:
    """Group equal rows, numbered by first appearance; return the number of groups."""
    mask = table.size - 1
    table[:] = -1
    groups = 0
    for row in range(indptr.size - 1):
        key = np.int64(0)
        for slot in range(indptr[row], indptr[row + 1]):
            key ^= unit_hash[indices[slot]]
        place = key & mask
        while table[place] >= 0 and not _same_row(indptr, indices, first[table[place]], row):
            place = (place + 1) & mask
        if table[place] < 0:
            table[place] = groups
            first[groups] = row
            groups += 1
        group[row] = table[place]
    return groups


@numba.njit(cache=True, nogil=True)
def _walk(
    n: int,
    column_indptr: NDArray[np.int64],
    column_indices: NDArray[np.int32],
    seeds: NDArray[np.int32],
    mark: int,
    multiplicity: int,
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
@numba.njit(cache=True, nogil=True)
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
        count, begin = _walk(
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


@numba.njit(cache=True, nogil=True)
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
        count, _ = _walk(
            n, column_indptr, column_indices, seeds, supernode, 0, levels, marker, queue
        )
        slot = reach_indptr[supernode]
        if count > units // 64:  # dense enough that one sweep over the marks beats a sort
            for unit in range(units):
                if marker[unit] == supernode:
                    reach_indices[slot] = unit
                    slot += 1
        else:
            found = queue[:count]
            found.sort()
            for place in range(count):
                reach_indices[slot + place] = found[place]


@numba.njit(cache=True, nogil=True)
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
        count, _ = _walk(n, column_indptr, column_indices, seeds, group, 0, levels, marker, queue)
        if count != reach_indptr[node + 1] - reach_indptr[node]:
            return False
        for slot in range(reach_indptr[node], reach_indptr[node + 1]):
            if marker[reach_indices[slot]] != group:
                return False
    return True


# edges[s] = |{(i, m) : D[i, m] may be non-zero, i and m in the reach of s}|
@numba.njit(cache=True, nogil=True)
def count_edges(
    dynamics_indptr: NDArray[np.int64],  # (units + 1,)     in
    dynamics_indices: NDArray[np.int32],  # (nnz of D,)      in
    reach_indptr: NDArray[np.int64],  # (supernodes + 1,) in
    reach_indices: NDArray[np.int32],  # (nnz of reach,)  in
    edges: NDArray[np.int64],  # (supernodes,)    out
    marker: NDArray[np.int32],  # (units,)         scratch
) -> None:
    """Count the entries of D[R, R]: the multiply-adds per weight of each supernode's update."""
    marker[:] = -1
    for supernode in range(edges.size):
        for slot in range(reach_indptr[supernode], reach_indptr[supernode + 1]):
            marker[reach_indices[slot]] = supernode
        total = 0
        for slot in range(reach_indptr[supernode], reach_indptr[supernode + 1]):
            unit = reach_indices[slot]
            for inner in range(dynamics_indptr[unit], dynamics_indptr[unit + 1]):
                if marker[dynamics_indices[inner]] == supernode:
                    total += 1
        edges[supernode] = total


@numba.njit(cache=True, nogil=True)
def find_stray_weight(
    immediate_indptr: NDArray[np.int64],  # (weights + 1,)   in, I by columns
    immediate_indices: NDArray[np.int32],  # (nnz of I,)      in, sorted within each weight
    supernode: NDArray[np.int32],  # (weights,)       in
    reach_indptr: NDArray[np.int64],  # (supernodes + 1,) in
    reach_indices: NDArray[np.int32],  # (nnz of reach,)  in, sorted within each supernode
) -> int:
    """Return the first weight with a row of I outside its reach, or -1."""
    for weight in range(supernode.size):
        slot = reach_indptr[supernode[weight]]
        end = reach_indptr[supernode[weight] + 1]
        for inner in range(immediate_indptr[weight], immediate_indptr[weight + 1]):
            while slot < end and reach_indices[slot] < immediate_indices[inner]:
                slot += 1
            if slot == end or reach_indices[slot] != immediate_indices[inner]:
                return weight
    return -1


@numba.njit(cache=True, nogil=True)
def expand_reach(
    supernode: NDArray[np.int32],  # (weights,)       in
    reach_indptr: NDArray[np.int64],  # (supernodes + 1,) in
    reach_indices: NDArray[np.int32],  # (nnz of reach,)  in
    indptr: NDArray[np.int64],  # (weights + 1,)   in, from the counts
    indices: NDArray[np.int32],  # (entries,)       out
) -> None:
    """Write one row of units per weight: the plain CSR of the pattern."""
    for weight in range(supernode.size):
        slot = indptr[weight]
        for source in range(reach_indptr[supernode[weight]], reach_indptr[supernode[weight] + 1]):
            indices[slot] = reach_indices[source]
            slot += 1

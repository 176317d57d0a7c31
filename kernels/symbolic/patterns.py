"""Symbolic phase: what is done to any pattern, in time linear in its size.

A pattern is a list of rows: `indices[indptr[row] : indptr[row + 1]]`, int32 with int64 pointers.
It is canonical when each row is sorted and free of duplicates. Every kernel but the transpose,
which makes it so, wants canonical patterns. Nothing is allocated or raised here.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compiler.decorators import from_kernels, from_python


class Rows(NamedTuple):
    """A pattern in compressed rows (or columns); sorted and unique once canonical."""

    indptr: NDArray[np.int64]  # (rows + 1,)
    indices: NDArray[np.int32]  # (nnz,)
    columns: int


@from_kernels
def row_of(pattern: Rows, row: int) -> NDArray[np.int32]:
    """Return one row of a pattern."""
    return pattern.indices[pattern.indptr[row] : pattern.indptr[row + 1]]


# (i, j) -> (j, i); the rows of the result are sorted and free of duplicates, whatever came in
@from_python
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


@from_python
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


@from_kernels
def _same_row(indptr: NDArray[np.int64], indices: NDArray[np.int32], one: int, other: int) -> bool:
    length = indptr[one + 1] - indptr[one]
    if indptr[other + 1] - indptr[other] != length:
        return False
    for offset in range(length):
        if indices[indptr[one] + offset] != indices[indptr[other] + offset]:
            return False
    return True


@from_python
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


@from_python
def find_stray_weight(
    immediate_indptr: NDArray[np.int64],  # (weights + 1,)   in, I by columns
    immediate_indices: NDArray[np.int32],  # (nnz of I,)      in, sorted within each weight
    supernode: NDArray[np.int32],  # (weights,)       in
    reach_indptr: NDArray[np.int64],  # (supernodes + 1,) in
    reach_indices: NDArray[np.int32],  # (nnz of reach,)  in, sorted within each supernode
) -> int:
    """Return the first weight with a row of I outside its reach, or -1."""
    for weight in range(supernode.size):
        end = reach_indptr[supernode[weight] + 1]
        for inner in range(immediate_indptr[weight], immediate_indptr[weight + 1]):
            low, high = reach_indptr[supernode[weight]], end
            while low < high:  # by halves: a saturated reach may hold every unit
                middle = (low + high) // 2
                if reach_indices[middle] < immediate_indices[inner]:
                    low = middle + 1
                else:
                    high = middle
            if low == end or reach_indices[low] != immediate_indices[inner]:
                return weight
    return -1


@from_python
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


# edges[s] = |{(i, m) : D[i, m] may be non-zero, i and m in the reach of s}|
@from_python
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


@from_python
def spread_entries(
    some_indptr: NDArray[np.int64],  # (rows + 1,)   in
    some_indices: NDArray[np.int32],  # (entries,)   in, sorted within a row
    some_data: NDArray[np.floating],  # (entries,)   in
    indptr: NDArray[np.int64],  # (rows + 1,)        in
    indices: NDArray[np.int32],  # (nnz,)            in, sorted within a row
    data: NDArray[np.floating],  # (nnz,)            in/out, zero at first
) -> int:
    """Write the entries of one CSR to their places in a larger one.

    Return the first row with an entry that the larger one lacks, or -1.
    """
    for row in range(len(indptr) - 1):
        place = indptr[row]
        for e in range(some_indptr[row], some_indptr[row + 1]):
            while place < indptr[row + 1] and indices[place] < some_indices[e]:
                place += 1
            if place == indptr[row + 1] or indices[place] != some_indices[e]:
                return row
            data[place] = some_data[e]
    return -1

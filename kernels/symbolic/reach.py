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

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compiler.decorators import from_kernels, from_python
from .patterns import Rows, row_of

LEVEL_FIELDS = 2
PER_GROUP, PER_WEIGHT = range(LEVEL_FIELDS)
"""A row of `levels`: the units that a level adds to all groups together, counted either way."""


class Walker(NamedTuple):
    """The scratch of one thread's walks."""

    levels: NDArray[np.int64]  # (n, 2)     what each level of all its walks adds
    marker: NDArray[np.int32]  # (units,)   the walk that was there last, -1 at first
    queue: NDArray[np.int32]  # (units,)    the units of a walk, level by level


# (a literal for `multiplicity` would make Numba compile this twice: callers pass np.int64(0))
@from_kernels
def walk(
    n: int,
    columns: Rows,
    seeds: NDArray[np.int32],
    mark: int,
    multiplicity: int | np.int64,
    walker: Walker,
) -> tuple[int, int]:
    """Put the reach of `seeds` into queue[:size]; return size and where the last level begins."""
    levels, marker, queue = walker.levels, walker.marker, walker.queue
    indptr, indices = columns.indptr, columns.indices
    size = 0
    for unit in seeds:
        marker[unit] = mark
        queue[size] = unit
        size += 1
    levels[0, PER_GROUP] += size
    levels[0, PER_WEIGHT] += size * multiplicity
    begin = 0
    depth = 1
    while depth < n and begin < size:
        end = size
        for place in range(begin, end):
            source = queue[place]
            for slot in range(indptr[source], indptr[source + 1]):
                unit = indices[slot]
                if marker[unit] != mark:
                    marker[unit] = mark
                    queue[size] = unit
                    size += 1
        begin = end
        levels[depth, PER_GROUP] += size - end
        levels[depth, PER_WEIGHT] += (size - end) * multiplicity
        depth += 1
    return size, begin


# size[g] = |reach_n(g)|,  key[g] = XOR of unit_hash over reach_n(g)
@from_python
def count_reach(
    start: int,  #                              in, first group
    stop: int,  #                               in, one past the last
    n: int,  #                                  in, >= 1
    columns: Rows,  # of D                      in
    immediate: Rows,  # by columns              in
    first: NDArray[np.int32],  # (groups,)        in, a weight of each group
    multiplicity: NDArray[np.int64],  # (groups,)        in, how many weights it has
    unit_hash: NDArray[np.int64],  # (units,)         in
    size: NDArray[np.int64],  # (groups,)        out, in the range
    key: NDArray[np.int64],  # (groups,)        out, in the range
    walker: Walker,  # levels: in/out
) -> bool:
    """Count the reach of each group; return whether one more step would change none of them."""
    saturated = True
    indptr, indices = columns.indptr, columns.indices
    marker, queue = walker.marker, walker.queue
    for group in range(start, stop):
        seeds = row_of(immediate, first[group])
        count, begin = walk(n, columns, seeds, group, multiplicity[group], walker)
        xor = np.int64(0)
        for place in range(count):
            xor ^= unit_hash[queue[place]]
        size[group] = count
        key[group] = xor
        place = begin
        while saturated and place < count:
            source = queue[place]
            for slot in range(indptr[source], indptr[source + 1]):
                if marker[indices[slot]] != group:
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
    columns: Rows,  # of D                      in
    immediate: Rows,  # by columns              in
    weight_of: NDArray[np.int32],  # (supernodes,)    in, a weight of each supernode
    reach: Rows,  # by supernode                in, from the counts; indices: out, in the range
    walker: Walker,  # scratch
) -> None:
    """Write the reach of each supernode."""
    units = walker.marker.size
    for supernode in range(start, stop):
        seeds = row_of(immediate, weight_of[supernode])
        count, _ = walk(n, columns, seeds, supernode, np.int64(0), walker)
        reached = row_of(reach, supernode)
        if count > units // 64:  # dense enough that one sweep over the marks beats a sort
            slot = 0
            for unit in range(units):
                if walker.marker[unit] == supernode:
                    reached[slot] = unit
                    slot += 1
        else:
            for place in range(count):
                reached[place] = walker.queue[place]
            _sort(reached)


@from_python
def check_reach(
    start: int,  #                              in, first group
    stop: int,  #                               in, one past the last
    n: int,  #                                  in
    columns: Rows,  # of D                      in
    immediate: Rows,  # by columns              in
    first: NDArray[np.int32],  # (groups,)        in, a weight of each group
    supernode: NDArray[np.int32],  # (groups,)        in, the one it is said to belong to
    weight_of: NDArray[np.int32],  # (supernodes,)    in, the weight whose reach was filled in
    reach: Rows,  # by supernode                in
    walker: Walker,  # scratch
) -> bool:
    """Return whether each group's reach is, unit by unit, that of its supernode."""
    for group in range(start, stop):
        node = supernode[group]
        weight = first[group]
        if weight == weight_of[node]:
            continue
        count, _ = walk(n, columns, row_of(immediate, weight), group, np.int64(0), walker)
        reached = row_of(reach, node)
        if count != reached.size:
            return False
        for unit in reached:
            if walker.marker[unit] != group:
                return False
    return True

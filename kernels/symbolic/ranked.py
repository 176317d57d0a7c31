"""Symbolic phase under a budget: how many paths lead to each unit that one more level would add.

    paths(i) = Σ_m rank[i, m] paths(m)      over the m of the level before; 1 for the first level

so that with ranks of 1 they are counted, and with |D| each counts by the product along it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compiler.decorators import from_python
from .patterns import Rows, row_of
from .reach import Walker

_MOST = 1e300  # beyond it all are alike


class Level(NamedTuple):
    """The units that a level adds, group by group; counted first, then listed."""

    counts: NDArray[np.int64]  # (groups,)
    offsets: NDArray[np.int64]  # (groups,)               where those of each begin
    units: NDArray[np.int32]  # (all counts,), or (0,):   they are only counted
    paths: NDArray[np.float64]  # as `units`


@from_python
def rank_level(
    start: int,  #                                        in, first group
    stop: int,  #                                         in, one past the last
    n: int,  # level that is looked at                    in, >= 2
    columns: Rows,  # of D                                in
    ranks: NDArray[np.float64],  # (nnz of D,)            in, by columns
    immediate: Rows,  # by columns                        in
    first: NDArray[np.int32],  # (groups,)                in, a weight of each group
    level: Level,  #                                      out, in the range
    walker: Walker,  # scratch
    hops: NDArray[np.int32],  # (units,)                  scratch
    along: NDArray[np.float64],  # (units,)               scratch
) -> None:
    """List the units of the n-th level of each group with their paths."""
    marker, queue = walker.marker, walker.queue
    for group in range(start, stop):
        size = 0
        for unit in row_of(immediate, first[group]):
            marker[unit], hops[unit], along[unit] = group, 0, 1.0
            queue[size] = unit
            size += 1
        begin, depth = 0, 1
        while depth < n and begin < size:
            end = size
            for place in range(begin, end):
                source = queue[place]
                for slot in range(columns.indptr[source], columns.indptr[source + 1]):
                    unit = columns.indices[slot]
                    if marker[unit] != group:
                        marker[unit], hops[unit], along[unit] = group, depth, 0.0
                        queue[size] = unit
                        size += 1
                    if hops[unit] == depth:
                        along[unit] = min(along[unit] + ranks[slot] * along[source], _MOST)
            begin = end
            depth += 1
        level.counts[group] = size - begin
        if level.units.size > 0:
            to = level.offsets[group] - begin
            for place in range(begin, size):
                level.units[to + place] = queue[place]
                level.paths[to + place] = along[queue[place]]

"""Symbolic phase, saturated: what exact RTRL reaches and costs, without holding a reach.

`count_levels` finds how many steps saturation takes and what each adds, which needs the distance of
every unit from every weight: 512 walks at once, a bit each. `measure_closures` counts the entries
and multiply-adds of the saturated pattern alone, component by component. Notation as in `reach`.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from ..compiler.decorators import from_kernels
from .patterns import Rows, row_of
from .reach import PER_GROUP, PER_WEIGHT, Walker, walk

UNITS, EDGES = range(2)
"""What `measure_closures` counts of a closure."""

WORDS = 8
"""Words of 64 walks that `count_levels` takes at once: a cache line per unit."""


@numba.njit(cache=True, nogil=True)
def _bits(word: np.uint64) -> np.int64:
    """Count the bits of a word: of pairs, of fours, of bytes, then of all bytes together."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    pairs = np.uint64(0x3333333333333333)
    word = (word & pairs) + ((word >> np.uint64(2)) & pairs)
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    for shift in (8, 16, 32):
        word += word >> np.uint64(shift)
    return np.int64(word & np.uint64(0x7F))


# The walks of a batch: a bit of seen[i] says that its walk has been at unit i
@from_kernels
def _set_out(
    low: int,
    high: int,  # groups
    immediate: Rows,  # by columns                    in
    first: NDArray[np.int32],  # (groups,)            in
    multiplicity: NDArray[np.int64],  # (groups,)     in
    levels: NDArray[np.int64],  # (units + 1, 2)      in/out
    full: NDArray[np.uint64],  # (WORDS,)             out
    seen: NDArray[np.uint64],  # (units, WORDS)       out
    fresh: NDArray[np.uint64],  # (units, WORDS)      out
) -> None:
    """Put each group's walk on the units that its weights write."""
    seen[:] = 0
    fresh[:] = 0
    full[:] = 0
    for group in range(low, high):
        word, bit = (group - low) // 64, np.uint64(1) << np.uint64((group - low) % 64)
        full[word] |= bit
        for unit in row_of(immediate, first[group]):
            seen[unit, word] |= bit
            fresh[unit, word] |= bit
            levels[0, PER_GROUP] += 1
            levels[0, PER_WEIGHT] += multiplicity[group]


@from_kernels
def _count_bits(
    low: int,
    high: int,  # groups
    w: int,
    word: np.uint64,  # the walks that are new at a unit, those of groups low + 64 w …
    multiplicity: NDArray[np.int64],  # (groups,)   in
    level: NDArray[np.int64],  # (2,)               in/out
) -> None:
    """Count the walks of a word, once each and once for each of their weights."""
    begin = low + 64 * w
    end = min(begin + 64, high) - 1
    groups = _bits(word)
    level[PER_GROUP] += groups
    if multiplicity[begin] == multiplicity[end]:  # they are sorted
        level[PER_WEIGHT] += groups * multiplicity[begin]
        return
    for group in range(begin, end + 1):
        if (word >> np.uint64(group - begin)) & np.uint64(1):
            level[PER_WEIGHT] += multiplicity[group]


@from_kernels
def _advance(
    low: int,
    high: int,  # groups
    dynamics: Rows,  # D by rows                      in
    multiplicity: NDArray[np.int64],  # (groups,)     in
    full: NDArray[np.uint64],  # (WORDS,)             in
    before: NDArray[np.uint64],  # (units, WORDS)     in, what the level before has added
    seen: NDArray[np.uint64],  # (units, WORDS)       in/out
    after: NDArray[np.uint64],  # (units, WORDS)      out, what this one adds
    level: NDArray[np.int64],  # (2,)                 in/out
) -> bool:
    """Take all walks one level further; return whether any has grown."""
    grown = False
    indptr, indices = dynamics.indptr, dynamics.indices
    for unit in range(seen.shape[0]):
        missing = np.uint64(0)
        for w in range(WORDS):
            missing |= full[w] & ~seen[unit, w]
            after[unit, w] = 0
        if missing == 0:
            continue
        for slot in range(indptr[unit], indptr[unit + 1]):
            source = indices[slot]
            for w in range(WORDS):
                after[unit, w] |= before[source, w]
        for w in range(WORDS):
            word = after[unit, w] & ~seen[unit, w]
            after[unit, w] = word
            if word != 0:
                grown = True
                seen[unit, w] |= word
                _count_bits(low, high, w, word, multiplicity, level)
    return grown


@numba.njit(cache=True, nogil=True)
def count_levels(
    start: int,  #                              in, first group
    stop: int,  #                               in, one past the last
    dynamics: Rows,  # D by rows                in
    immediate: Rows,  # I by columns            in
    first: NDArray[np.int32],  # (groups,)        in, a weight of each group
    multiplicity: NDArray[np.int64],  # (groups,)        in, how many weights it has; sorted: the
    #                              walks of one word mostly have the same, and are counted at once
    levels: NDArray[np.int64],  # (units + 1, 2)   in/out, as a `Walker` has them
    full: NDArray[np.uint64],  # (WORDS,)         scratch, the walks there are
    seen: NDArray[np.uint64],  # (units, WORDS)   scratch
    fresh: NDArray[np.uint64],  # (2, units, WORDS) scratch
) -> None:
    """Count what each level adds, up to saturation, without ever holding a reach."""
    for low in range(start, stop, 64 * WORDS):
        high = min(low + 64 * WORDS, stop)
        _set_out(low, high, immediate, first, multiplicity, levels, full, seen, fresh[0])
        depth = 1
        while _advance(
            low, high, dynamics, multiplicity, full, fresh[(depth - 1) % 2], seen,
            fresh[depth % 2], levels[depth],
        ):  # fmt: skip
            depth += 1


# closed[g] = |R|, |{(i, m) : D[i, m] may be non-zero, m in R}|,  R saturated
# A closure that holds the giant component holds all that is below it, which is counted in `whole`.
@numba.njit(cache=True, nogil=True)
def measure_closures(
    start: int,  #                              in, first group
    stop: int,  #                               in, one past the last
    successors: Rows,  # of each component      in, the giant one feeds nothing
    touched: Rows,  # components that each group writes into   in
    units: NDArray[np.int64],  # (components,)      in
    edges: NDArray[np.int64],  # (components,)      in, out of its units
    below: NDArray[np.bool_],  # (components,)      in, in the closure of the giant one
    giant: int,  #                              in
    whole: NDArray[np.int64],  # (2,)               in, units and edges of that closure
    closed: NDArray[np.int64],  # (groups, 2)        out, in the range: units and edges
    walker: Walker,  # scratch
) -> None:
    """Measure what exact RTRL costs per weight: R is closed, so no link of D leaves it."""
    for group in range(start, stop):
        seeds = row_of(touched, group)
        steps = walker.marker.size + 1
        count, _ = walk(steps, successors, seeds, group, np.int64(0), walker)
        from_giant = walker.marker[giant] == group
        closed[group, UNITS] = whole[UNITS] if from_giant else 0
        closed[group, EDGES] = whole[EDGES] if from_giant else 0
        for component in walker.queue[:count]:
            if not (from_giant and below[component]):
                closed[group, UNITS] += units[component]
                closed[group, EDGES] += edges[component]

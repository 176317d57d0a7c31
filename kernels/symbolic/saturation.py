"""Symbolic phase, saturated: what exact RTRL reaches and costs, without holding a reach.

`count_levels` finds how many steps saturation takes and what each adds, which needs the distance of
every unit from every weight: 512 walks at once, a bit each. `measure_closures` counts the entries
and multiply-adds of the saturated pattern alone, component by component. Notation as in `reach`.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from .reach import walk

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


# Many walks at once, one bit each, to a fixed point: a bit of seen[i] says that its walk is at i
@numba.njit(cache=True, nogil=True)
def count_levels(
    start: int,  #                              in, first group
    stop: int,  #                               in, one past the last
    dynamics_indptr: NDArray[np.int64],  # (units + 1,)     in, D by rows
    dynamics_indices: NDArray[np.int32],  # (nnz of D,)      in
    immediate_indptr: NDArray[np.int64],  # (weights + 1,)   in, I by columns
    immediate_indices: NDArray[np.int32],  # (nnz of I,)      in
    first: NDArray[np.int32],  # (groups,)        in, a weight of each group
    multiplicity: NDArray[np.int64],  # (groups,)        in, how many weights it has; sorted: the
    #                              walks of one word mostly have the same, and are counted at once
    levels: NDArray[np.int64],  # (units + 1, 2)   in/out, as in `count_reach`
    full: NDArray[np.uint64],  # (WORDS,)         scratch, the walks there are
    seen: NDArray[np.uint64],  # (units, WORDS)   scratch
    fresh: NDArray[np.uint64],  # (2, units, WORDS) scratch
) -> None:
    """Count what each level adds, up to saturation, without ever holding a reach."""
    units = seen.shape[0]
    one = np.uint64(1)
    for low in range(start, stop, 64 * WORDS):
        high = min(low + 64 * WORDS, stop)
        seen[:] = 0
        fresh[0] = 0
        full[:] = 0
        for group in range(low, high):
            word, bit = (group - low) // 64, one << np.uint64((group - low) % 64)
            full[word] |= bit
            weight = first[group]
            for slot in range(immediate_indptr[weight], immediate_indptr[weight + 1]):
                seen[immediate_indices[slot], word] |= bit
                fresh[0, immediate_indices[slot], word] |= bit
                levels[0, 0] += 1
                levels[0, 1] += multiplicity[group]
        depth = 1
        grown = True
        while grown:
            grown = False
            before = fresh[(depth - 1) % 2]
            after = fresh[depth % 2]
            for unit in range(units):
                missing = np.uint64(0)
                for w in range(WORDS):
                    missing |= full[w] & ~seen[unit, w]
                    after[unit, w] = 0
                if missing == 0:
                    continue
                for slot in range(dynamics_indptr[unit], dynamics_indptr[unit + 1]):
                    source = dynamics_indices[slot]
                    for w in range(WORDS):
                        after[unit, w] |= before[source, w]
                for w in range(WORDS):
                    word = after[unit, w] & ~seen[unit, w]
                    after[unit, w] = word
                    if word != 0:
                        grown = True
                        seen[unit, w] |= word
                        begin = low + 64 * w
                        end = min(begin + 64, high) - 1
                        groups = _bits(word)
                        levels[depth, 0] += groups
                        if multiplicity[begin] == multiplicity[end]:
                            levels[depth, 1] += groups * multiplicity[begin]
                        else:
                            for group in range(begin, end + 1):
                                if (word >> np.uint64(group - begin)) & one:
                                    levels[depth, 1] += multiplicity[group]
            depth += 1


# closed[g] = |R|, |{(i, m) : D[i, m] may be non-zero, m in R}|,  R saturated
# A closure that holds the giant component holds all that is below it, which is counted in `whole`.
@numba.njit(cache=True, nogil=True)
def measure_closures(
    start: int,  #                              in, first group
    stop: int,  #                               in, one past the last
    successor_indptr: NDArray[np.int64],  # (components + 1,)  in, the giant one feeds nothing
    successor_indices: NDArray[np.int32],  #                    in
    touched_indptr: NDArray[np.int64],  # (groups + 1,)      in, what each group writes into
    touched_indices: NDArray[np.int32],  #                    in
    units: NDArray[np.int64],  # (components,)      in
    edges: NDArray[np.int64],  # (components,)      in, out of its units
    below: NDArray[np.bool_],  # (components,)      in, in the closure of the giant one
    giant: int,  #                              in
    whole: NDArray[np.int64],  # (2,)               in, units and edges of that closure
    closed: NDArray[np.int64],  # (groups, 2)        out, in the range: units and edges
    levels: NDArray[np.int64],  # (units + 1, 2)     scratch
    marker: NDArray[np.int32],  # (units,)           scratch, -1 on entry
    queue: NDArray[np.int32],  # (units,)           scratch
) -> None:
    """Measure what exact RTRL costs per weight: R is closed, so no link of D leaves it."""
    for group in range(start, stop):
        seeds = touched_indices[touched_indptr[group] : touched_indptr[group + 1]]
        count, _ = walk(
            marker.size + 1,
            successor_indptr,
            successor_indices,
            seeds,
            group,
            np.int64(0),
            levels,
            marker,
            queue,
        )
        from_giant = marker[giant] == group
        closed[group, 0] = whole[0] if from_giant else 0
        closed[group, 1] = whole[1] if from_giant else 0
        for place in range(count):
            component = queue[place]
            if not (from_giant and below[component]):
                closed[group, 0] += units[component]
                closed[group, 1] += edges[component]

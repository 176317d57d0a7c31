"""Symbolic phase: the rows of a panel in pairs, and the entries that the numeric phase replays.

Rows go two at a time, longest first; a pair a, b has a list of entries, two numbers each, first the
sources that both rows have, then those of each:

    (position of a's value in D's data) << 32 | row of its source in the panel
    (position of b's value in D's data) << 32 | row of its source in the panel

What the two rows share is loaded once. The shorter list of own sources is filled up with the row of
zeros that follows the panel's rows in scratch. Pairs with equally long lists follow each other and
make up a *segment* (pairs, shared, own), so that the numeric loops seldom change their length: a
branch that is guessed wrong costs as much as several sources.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiler.decorators import from_kernels, from_python
from .lower import DYNAMICS_PLACE, SOURCE_ROW
from .tables import OWN, PAIRS, POSITION, SHARED

A, B = range(2)
"""The rows of a pair, and the sources of each in an entry."""
WINDOW = 64
"""Rows that are looked at for one that shares the most sources."""
DETOUR = 30
"""Vector loads that a second list costs: the branch at its end is guessed wrong."""


@from_python
def order_rows(
    group_indptr: NDArray[np.int64],  # (groups + 1,)   in
    members: NDArray[np.int64],  # (blocks,)            in, the blocks of each group
    block_indptr: NDArray[np.int64],  # (blocks + 1,)  in
    keys: NDArray[np.int64],  # (rows,)                 in, from 0
    rows: NDArray[np.int64],  # (rows,)                 out, group by group
    owner: NDArray[np.int32],  # (rows,)                out, block of each row
    starts: NDArray[np.int64],  # (largest key + 2,)    scratch, zero on entry and exit
) -> None:
    """Order the rows of each group by a key: a counting sort."""
    most = starts.size - 2
    begin = 0
    for g in range(len(group_indptr) - 1):
        for k in range(group_indptr[g], group_indptr[g + 1]):
            for r in range(block_indptr[members[k]], block_indptr[members[k] + 1]):
                owner[r] = members[k]
                starts[keys[r] + 1] += 1
        for c in range(most + 1):
            starts[c + 1] += starts[c]
        end = begin + starts[most + 1]
        for k in range(group_indptr[g], group_indptr[g + 1]):
            for r in range(block_indptr[members[k]], block_indptr[members[k] + 1]):
                rows[begin + starts[keys[r]]] = r
                starts[keys[r]] += 1
        begin = end
        for c in range(starts.size):
            starts[c] = 0


# cost of a pair of rows in vector loads: shared · (V + 3) + own · (2 V + 3), V vectors a row
@from_python
def pair_rows(
    group_indptr: NDArray[np.int64],  # (groups + 1,)      in, of `rows`
    vectors: NDArray[np.int64],  # (groups,)               in, of a row
    source_indptr: NDArray[np.int64],  # (rows + 1,)       in
    sources: NDArray[np.int32],  # (sources, 2)            in
    rows: NDArray[np.int64],  # (rows,)                    in, ordered by `order_rows`
    owner: NDArray[np.int32],  # (rows,)                   in
    pair_indptr: NDArray[np.int64],  # (groups + 1,)       in, an odd row makes a pair with itself
    pairs: NDArray[np.int64],  # (pairs, 2)                out, rows of the blocks
    lists: NDArray[np.int64],  # (pairs, 3)                out, a segment of one pair each
    used: NDArray[np.bool_],  # (rows,)                    scratch, False on entry
    marks: NDArray[np.int64],  # (most rows of a block,)  scratch, -1 on entry
) -> None:
    """Choose each row's partner among the next rows: the cheapest pair."""
    for g in range(len(group_indptr) - 1):
        v = vectors[g]
        pair = pair_indptr[g]
        for k in range(group_indptr[g], group_indptr[g + 1]):
            if used[k]:
                continue
            used[k] = True
            a = rows[k]
            count = source_indptr[a + 1] - source_indptr[a]
            may_share = count * v >= 2 * DETOUR
            if may_share:
                for e in range(source_indptr[a], source_indptr[a + 1]):
                    marks[sources[e, SOURCE_ROW]] = a
            best, seen = -1, 0
            least: Any = 0
            most_shared: Any = 0
            j = k + 1
            while j < group_indptr[g + 1] and seen < WINDOW:
                if not used[j]:
                    seen += 1
                    b = rows[j]
                    other = source_indptr[b + 1] - source_indptr[b]
                    shared = 0
                    if may_share and owner[a] == owner[b]:
                        for e in range(source_indptr[b], source_indptr[b + 1]):
                            shared += marks[sources[e, SOURCE_ROW]] == a
                    if shared * v < DETOUR:
                        shared = 0
                    # What is left to do counts too: a short partner leaves a long row behind.
                    cost = 2 * (shared * (v + 3) + (count - shared) * (2 * v + 3))
                    cost -= other * (2 * v + 3)
                    if best < 0 or cost < least:
                        best, least, most_shared = j, cost, shared
                    if not may_share:
                        break  # rows come longest first: the next one is as good as any
                j += 1
            b = a
            if best >= 0:
                used[best] = True
                b = rows[best]
            elif may_share:
                most_shared = count
            pairs[pair, A], pairs[pair, B] = a, b
            lists[pair, PAIRS], lists[pair, SHARED] = 1, most_shared
            lists[pair, OWN] = count - most_shared
            pair += 1


@from_python
def fill_entries(
    pair_indptr: NDArray[np.int64],  # (groups + 1,)      in
    pairs: NDArray[np.int64],  # (pairs, 2)               in
    lists: NDArray[np.int64],  # (pairs, 3)               in
    source_indptr: NDArray[np.int64],  # (rows + 1,)      in
    sources: NDArray[np.int32],  # (sources, 2)           in
    block_indptr: NDArray[np.int64],  # (blocks + 1,) in
    owner: NDArray[np.int32],  # (rows,)                  in
    places: NDArray[np.int32],  # (rows,)                 in
    levels: NDArray[np.int32],  # (rows,)                 in, a row reads this step's lower levels
    entries: NDArray[np.int64],  # (entries, 2)           out
    marks: NDArray[np.int64],  # (most rows of a block,)   scratch, -1 on entry
    positions: NDArray[np.int32],  # likewise             scratch
) -> None:
    """Write the entries of every pair: the shared sources, then those of each row."""
    at = 0
    for g in range(len(pair_indptr) - 1):
        zeros = 2 * (pair_indptr[g + 1] - pair_indptr[g])
        for pair in range(pair_indptr[g], pair_indptr[g + 1]):
            a, b = pairs[pair, A], pairs[pair, B]
            shared, own = lists[pair, SHARED], lists[pair, OWN]
            first_a, first_b = block_indptr[owner[a]], block_indptr[owner[b]]
            end = at + shared + own
            # marks: 2 · pair for a source of a, 2 · pair + 1 once b has it too
            if shared > 0:
                for e in range(source_indptr[a], source_indptr[a + 1]):
                    marks[sources[e, SOURCE_ROW]] = 2 * pair
                    positions[sources[e, SOURCE_ROW]] = sources[e, DYNAMICS_PLACE]
            place = at + shared
            for e in range(source_indptr[b], source_indptr[b + 1]):
                m = sources[e, SOURCE_ROW]
                if shared > 0 and marks[m] == 2 * pair:
                    marks[m] = 2 * pair + 1
                    place_of_m = _source_place(places, levels, first_b + m, b, zeros)
                    entries[at, A] = _packed(positions[m], place_of_m)
                    entries[at, B] = _packed(sources[e, DYNAMICS_PLACE], place_of_m)
                    at += 1
                else:
                    place_of_m = _source_place(places, levels, first_b + m, b, zeros)
                    entries[place, B] = _packed(sources[e, DYNAMICS_PLACE], place_of_m)
                    place += 1
            # A row's own first position beside the row of zeros: nothing foreign can spoil it.
            spare = _packed(_first_position(source_indptr, sources, b), zeros)
            for e in range(place, end):
                entries[e, B] = spare
            place = end - own
            for e in range(source_indptr[a], source_indptr[a + 1]):
                m = sources[e, SOURCE_ROW]
                if shared == 0 or marks[m] == 2 * pair:
                    place_of_m = _source_place(places, levels, first_a + m, a, zeros)
                    entries[place, A] = _packed(sources[e, DYNAMICS_PLACE], place_of_m)
                    place += 1
            spare = _packed(_first_position(source_indptr, sources, a), zeros)
            for e in range(place, end):
                entries[e, A] = spare
            at = end


# In scratch the panel's old rows come first, `zeros` of them, a row of zeros, then the new ones.
@from_kernels
def _source_place(
    places: NDArray[np.int32], levels: NDArray[np.int32], source: int, row: int, zeros: int
) -> Any:
    place = np.int64(places[source])
    return place + zeros + 1 if levels[source] < levels[row] else place


@from_kernels
def _packed(position: int, place: int) -> np.int64:
    return np.int64(position) << POSITION | np.int64(place)


@from_kernels
def _first_position(source_indptr: NDArray[np.int64], sources: NDArray[np.int32], row: int) -> int:
    first = source_indptr[row]
    return sources[first, DYNAMICS_PLACE] if first < source_indptr[row + 1] else 0

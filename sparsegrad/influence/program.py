"""The structure that the panel kernels replay: layout of J in panels and the lists of sources."""

import math
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.influence.lower import find_runs, list_sources, locate_rows, merge_reaches
from sparsegrad.kernels.influence.pairs import fill_entries, order_rows, pair_rows
from sparsegrad.kernels.influence.panels import MOST_VECTORS
from sparsegrad.kernels.vectors.simd import SLACK
from sparsegrad.symbolic.pattern import ReachPattern

_programs: "WeakKeyDictionary[ReachPattern, Program]" = WeakKeyDictionary()
_TALL = 1 << 18  # elements of a panel that should stay in L2: 1 MiB of float32
_SMALL = 1 << 11  # elements up to which panels go together: 8 KiB, so that three stay in L1
_PANEL = 20  # vectors' worth of work that a panel costs beside its rows
_SHARE = 100_000  # vectors of work per thread, some 40 µs: handing over less gains nothing


class Program(NamedTuple):
    """The flat arrays of one lowered pattern, in the order in which the panel kernels take them.

    Attributes
    ----------
    panels : int64 array, (panels + 1, 9)
        Offset in J, rows, vectors of 16 columns, stride, first and last segment, first entry,
        first member, first run; the last row ends J, the members and the runs.
    segments : int64 array, (segments, 3)
        Pairs of rows with equally long lists: pairs, shared entries, own entries of each.
    entries : int64 array, (entries, 2)
        The sources of each pair of rows: position in D's data (upper 32 bits), row in the panel
        (lower ones).
    members : int64 array, (members + 1, 5)
        The supernodes of each panel: first column, width, first of `reached`, how many, place
        of the first column in a row.
    reached : int32 array, (rows, 2)
        The units that each supernode reaches, sorted, and the panel row of each.
    columns : int32 array, (weights,)
        The weight of each panel column.
    runs : int64 array, (runs, 4)
        Where I is added: first value in I's data, step between values, first place in J, length.
        A first value of -1 sets to zero what lies outside the reach.
    """

    panels: NDArray[np.int64]
    segments: NDArray[np.int64]
    entries: NDArray[np.int64]
    members: NDArray[np.int64]
    reached: NDArray[np.int32]
    columns: NDArray[np.int32]
    runs: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Elements of J for one sequence: entries, padding, and the slack at the end."""
        return int(self.panels[-1, 0]) + SLACK

    @property
    def scratch_size(self) -> int:
        """Elements of scratch that one thread needs: the tallest panel and a row of zeros."""
        rows, vectors = self.panels[:-1, 1], self.panels[:-1, 2]
        return int(((rows + 1) * vectors).max(initial=MOST_VECTORS)) * SLACK + SLACK


def lower(pattern: ReachPattern) -> Program:
    """Lower a pattern: cut J into panels and write down every row's sources.

    Parameters
    ----------
    pattern : ReachPattern
        The reach of every weight.

    Returns
    -------
    Program
        Structure alone: it serves every Influence on this pattern, of any dtype and batch. It is
        lowered once and kept for as long as the pattern lives.
    """
    program = _programs.get(pattern)
    if program is None:
        program = _programs[pattern] = _lower(pattern)
    return program


class _Blocks(NamedTuple):
    """Supernodes with nearly equal reaches side by side, on the union of their rows."""

    of: NDArray[np.int64]  # (supernodes,), the block of each
    indptr: NDArray[np.int64]  # (blocks + 1,)
    indices: NDArray[np.int32]  # (rows,), sorted within a block


def _lower(pattern: ReachPattern) -> Program:
    weights = np.bincount(pattern.supernode, minlength=pattern.reach_indptr.size - 1)
    blocks = _merge(pattern, weights)
    tall = np.diff(blocks.indptr)
    wide = np.bincount(blocks.of, weights, minlength=tall.size).astype(np.int64)
    limit, vectors = _widths(tall, wide)
    order, group_indptr = _group(tall, wide, limit, vectors)
    pair_indptr, lengths, entries, places = _pair(pattern, blocks, order, group_indptr, vectors)

    segments, segment_indptr = _segments(pair_indptr, lengths)
    entry_indptr = np.concatenate(([0], np.cumsum(lengths.sum(axis=1))))[pair_indptr]

    # One panel per group, or several beside each other where one block is too wide.
    pieces = -(-wide // limit)
    group = np.repeat(np.arange(len(group_indptr) - 1), pieces[order[group_indptr[:-1]]])
    each = np.minimum(wide, limit)[order]
    widest = np.maximum.reduceat(each, group_indptr[:-1])[group]
    members, supernode, n_members = _members(pattern, blocks, order, weights, limit, pieces)
    rows = 2 * np.diff(pair_indptr)[group]
    panels = np.zeros((group.size + 1, 9), np.int64)
    panels[:-1, 1] = rows
    panels[:-1, 2] = _vectors(widest)
    # Whole cache lines where they cost at most an eighth, else 16 bytes: a load that straddles
    # two lines costs two, a padded row more traffic.
    line = _round_up(widest, SLACK)
    panels[:-1, 3] = np.where(8 * line <= 9 * widest, line, _round_up(widest, 4))
    panels[:-1, 4] = segment_indptr[group]
    panels[:-1, 5] = segment_indptr[group + 1]
    panels[:-1, 6] = entry_indptr[group]
    in_group = np.add.reduceat(n_members[order], group_indptr[:-1])
    panels[1:, 7] = np.cumsum(np.where(pieces[order[group_indptr[:-1]]] > 1, 1, in_group)[group])
    # The last row's vectors reach as far as whole lines would.
    last = SLACK * panels[:-1, 2] - panels[:-1, 3]
    sizes = np.where(rows > 0, rows * panels[:-1, 3] + last, 0)
    panels[1:, 0] = np.cumsum(_round_up(sizes, SLACK))

    reached = np.empty((pattern.reach_indices.size, 2), np.int32)
    locate_rows(
        pattern.reach_indptr, pattern.reach_indices, blocks.of, blocks.indptr, blocks.indices,
        places, reached,
    )  # fmt: skip
    rank = np.empty(weights.size, np.int64)
    rank[supernode] = np.arange(supernode.size)  # of several pieces any: they are neighbours
    columns = np.argsort(rank[pattern.supernode], kind="stable").astype(np.int32)
    units, tallest = pattern.shape[1], rows.max(initial=0)
    runs = np.empty((0, 4), np.int64)
    for _ in range(2):  # to count them, and to write them down
        count = find_runs(
            panels, members, blocks.of[supernode], blocks.indptr, places, reached, columns,
            pattern.immediate_indptr, pattern.immediate_indices, runs, np.empty(units, np.int32),
            np.empty(units, np.int64), np.empty((units, 3), np.int64), np.zeros(tallest, np.bool_),
        )  # fmt: skip
        if runs.shape[0] == 0:
            runs = np.empty((count, 4), np.int64)
    return Program(panels, segments, entries, members, reached, columns, runs)


def _merge(pattern: ReachPattern, weights: NDArray[np.int64]) -> _Blocks:
    """Put supernodes of nearly equal reach into blocks: as an LSTM unit has two of them."""
    supernodes, reached = weights.size, pattern.reach_indices.size
    # Mates write the same unit, so they are neighbours in the order of the first one written.
    first = np.full(supernodes, pattern.shape[0])
    np.minimum.at(first, pattern.supernode, np.arange(pattern.shape[0]))
    written = np.append(pattern.immediate_indices, 0)[pattern.immediate_indptr[first]]
    blocks = _Blocks(
        np.empty(supernodes, np.int64), np.empty(supernodes + 1, np.int64),
        np.empty(reached, np.int32),
    )  # fmt: skip
    most = MOST_VECTORS * SLACK
    count = merge_reaches(
        np.argsort(written, kind="stable"), pattern.reach_indptr, pattern.reach_indices, weights,
        most, _TALL // most, *blocks,
        np.empty(2 * np.diff(pattern.reach_indptr).max(initial=0), np.int32),
    )  # fmt: skip
    return _Blocks(blocks.of, blocks.indptr[: count + 1], blocks.indices)


def _round_up(n: NDArray[np.int64], multiple: int) -> NDArray[np.int64]:
    return -(-n // multiple) * multiple


def _vectors(width: NDArray[np.int64]) -> NDArray[np.int64]:
    """Vectors that hold so many columns; the kernels have none of seven."""
    vectors = -(-width // SLACK)
    return np.where(vectors == 7, 8, vectors)


def _widths(
    tall: NDArray[np.int64], weights: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the columns that a panel of each block may have, and the vectors they take."""
    fits = _TALL // np.maximum(tall, 1) // SLACK * SLACK
    limit = np.clip(fits, SLACK, MOST_VECTORS * SLACK)
    pieces = np.maximum(-(-weights // limit), 1)
    # Pieces of equal width: a narrow last one would cost as many indices as a wide one.
    limit = np.maximum(_round_up(-(-weights // pieces), SLACK), SLACK)
    return limit, _vectors(np.minimum(weights, limit))


def _group(
    tall: NDArray[np.int64],
    weights: NDArray[np.int64],
    limit: NDArray[np.int64],
    vectors: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put narrow panels of equal width together; return the blocks in order, cut in groups."""
    order = np.argsort(vectors, kind="stable")
    size = (tall * vectors * SLACK)[order]
    # A group ends where the next _SMALL elements begin, where the width changes, and around
    # blocks that are large themselves.
    filled = np.cumsum(size) - size
    alone = (size > _SMALL // 2) | (weights > limit)[order]
    new = np.ones(order.size, bool)
    new[1:] = (np.diff(filled // _SMALL) > 0) | (np.diff(vectors[order]) > 0)
    new[1:] |= alone[1:] | alone[:-1]
    return order, np.append(np.flatnonzero(new), order.size)


def _pair(
    pattern: ReachPattern,
    blocks: _Blocks,
    order: NDArray[np.int64],
    group_indptr: NDArray[np.int64],
    vectors: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Pair the rows of every group; return the pairs' lists and each row's place."""
    n_rows = blocks.indptr[-1]
    D = pattern.dynamics_indptr, pattern.dynamics_indices
    source_indptr = np.zeros(n_rows + 1, np.int64)
    local = np.full(pattern.shape[1], -1, np.int32)
    none = np.empty((0, 2), np.int32)
    list_sources(*D, *blocks[1:], source_indptr, none, local)
    sources = np.empty((source_indptr[-1], 2), np.int32)
    list_sources(*D, *blocks[1:], source_indptr, sources, local)

    rows, owner = np.empty(n_rows, np.int64), np.empty(n_rows, np.int32)
    starts = np.zeros(np.diff(source_indptr).max(initial=0) + 2, np.int64)
    order_rows(group_indptr, order, blocks.indptr, source_indptr, rows, owner, starts)
    row_indptr = np.concatenate(([0], np.cumsum(np.diff(blocks.indptr)[order])))[group_indptr]
    pair_indptr = np.concatenate(([0], np.cumsum((np.diff(row_indptr) + 1) // 2)))
    pairs = np.empty((pair_indptr[-1], 2), np.int64)
    lengths = np.empty_like(pairs)
    most = np.diff(blocks.indptr).max(initial=0)
    marks = np.full(most, -1, np.int64)
    wide = vectors[order[group_indptr[:-1]]]
    pair_rows(
        row_indptr, wide, source_indptr, sources, rows, owner, pair_indptr, pairs, lengths,
        np.zeros(n_rows, bool), marks,
    )  # fmt: skip
    places = np.empty(n_rows, np.int32)
    place = 2 * (np.arange(len(pairs)) - np.repeat(pair_indptr[:-1], np.diff(pair_indptr)))
    places[pairs[:, 1]] = place + 1
    places[pairs[:, 0]] = place  # an odd row makes a pair with itself
    entries = np.empty((lengths.sum(), 2), np.int64)
    marks[:] = -1
    fill_entries(
        pair_indptr, pairs, lengths, source_indptr, sources, blocks.indptr, owner, places, entries,
        marks, np.empty(most, np.int32),
    )  # fmt: skip
    return pair_indptr, lengths, entries, places


def _segments(
    pair_indptr: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the segments of all pairs, and where those of each group begin."""
    # Equal neighbours make a segment; none reaches from one group into the next.
    new = np.ones(len(lengths), bool)
    new[1:] = (lengths[1:] != lengths[:-1]).any(axis=1)
    new[pair_indptr[:-1][np.diff(pair_indptr) > 0]] = True
    starts = np.flatnonzero(new)
    segments = np.empty((starts.size, 3), np.int64)
    segments[:, 0] = np.diff(starts, append=len(lengths))
    segments[:, 1:] = lengths[starts]
    return segments, np.searchsorted(starts, pair_indptr)


def _members(
    pattern: ReachPattern,
    blocks: _Blocks,
    order: NDArray[np.int64],
    weights: NDArray[np.int64],
    limit: NDArray[np.int64],
    pieces: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut the columns: one row per supernode or piece of one, and one more at the end.

    Return the rows, the supernode of each, and the number of supernodes of each block.
    """
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    by_block = np.argsort(rank[blocks.of], kind="stable")
    first = np.cumsum(weights[by_block]) - weights[by_block]
    n_members = np.bincount(blocks.of, minlength=order.size)
    opens = np.cumsum(n_members[order]) - n_members[order]
    offset = first - np.repeat(first[opens], n_members[order])
    times = pieces[blocks.of[by_block]]
    supernode, piece = np.repeat(by_block, times), np.arange(times.sum())
    skipped = (piece - np.repeat(np.cumsum(times) - times, times)) * limit[blocks.of[supernode]]
    members = np.zeros((supernode.size + 1, 5), np.int64)
    members[:-1, 0] = np.repeat(first, times) + skipped
    members[:-1, 1] = np.minimum(weights[supernode] - skipped, limit[blocks.of[supernode]])
    members[:-1, 2] = pattern.reach_indptr[supernode]
    members[:-1, 3] = np.diff(pattern.reach_indptr)[supernode]
    members[:-1, 4] = np.repeat(offset, times)
    return members, supernode, n_members


def cut_work(program: Program, batch: int, threads: int) -> NDArray[np.int64]:
    """Cut the panels into ranges of equal work, one per thread: int64, (threads + 1,).

    Work is the vectors that a panel loads, about the time it takes. Less than _SHARE of it stays
    on one thread.
    """
    panels = program.panels[:-1]
    each = program.segments[:, 0] * program.segments[:, 1:].T
    shared, own = (np.concatenate(([0], np.cumsum(part))) for part in each)
    first, last, vectors = panels[:, 4], panels[:, 5], panels[:, 2]
    loads = (shared[last] - shared[first]) * (vectors + 3)
    loads += (own[last] - own[first]) * (2 * vectors + 3)
    work = np.cumsum(batch * (loads + 4 * panels[:, 1] * vectors + _PANEL))
    threads = int(min(threads, work.size, max(1, work[-1] // _SHARE)))
    inner = np.searchsorted(work, work[-1] * np.arange(1, threads) // threads)
    return np.concatenate(([0], inner, [work.size])).astype(np.int64)


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> NDArray[np.floating]:
    """Return zeros that begin on a cache line; pages are touched first by whoever writes them."""
    size = math.prod(shape) * dtype.itemsize  # np.prod would wrap
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)

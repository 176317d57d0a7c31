"""The structure that the panel kernels replay: layout of J in panels and the lists of sources."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.lower import (
    fill_entries,
    find_runs,
    list_sources,
    order_rows,
    pair_rows,
    place_rows,
)
from sparsegrad.kernels.panels import MOST_VECTORS
from sparsegrad.kernels.simd import SLACK
from sparsegrad.pattern import ReachPattern

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
        The sources of each pair: position in D's data (upper 32 bits), row in the panel (lower).
    members : int64 array, (members + 1, 4)
        The supernodes of each panel: first column, width, first of `reached`, how many.
    reached : int32 array, (rows, 2)
        The units that each supernode reaches, sorted, and the panel row of each.
    columns : int32 array, (weights,)
        The weight of each panel column.
    runs : int64 array, (runs, 4)
        Where I is added: first value in I's data, step between values, first place in J, length.
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


def _lower(pattern: ReachPattern) -> Program:
    reach_indptr, reach_indices = pattern.reach_indptr, pattern.reach_indices
    tall = np.diff(reach_indptr)
    weights = np.bincount(pattern.supernode, minlength=tall.size)
    limit, vectors = _widths(tall, weights)
    order, group_indptr = _group(tall, weights, limit, vectors)
    pair_indptr, pairs, lengths, entries, places = _pair(pattern, order, group_indptr, vectors)

    # Equal neighbours make a segment; none reaches from one group into the next.
    new = np.ones(len(pairs), bool)
    new[1:] = (lengths[1:] != lengths[:-1]).any(axis=1)
    new[pair_indptr[:-1][np.diff(pair_indptr) > 0]] = True
    starts = np.flatnonzero(new)
    segments = np.empty((starts.size, 3), np.int64)
    segments[:, 0] = np.diff(starts, append=len(pairs))
    segments[:, 1:] = lengths[starts]
    segment_indptr = np.searchsorted(starts, pair_indptr)
    entry_indptr = np.concatenate(([0], np.cumsum(lengths.sum(axis=1))))[pair_indptr]

    # One panel per group, or several beside each other where one supernode is too wide.
    lead = order[group_indptr[:-1]]
    pieces = np.maximum(-(-weights[lead] // limit[lead]), 1)
    group = np.repeat(np.arange(lead.size), pieces)
    size = np.diff(group_indptr)
    members = _members(order, weights, reach_indptr, limit)
    widest = np.maximum.reduceat(members[:-1, 1], np.cumsum(size[group]) - size[group])
    rows = 2 * np.diff(pair_indptr)[group]
    panels = np.zeros((group.size + 1, 9), np.int64)
    panels[:-1, 1] = rows
    line = _round_up(widest, SLACK)
    panels[:-1, 2] = _vectors(widest)
    # Whole cache lines where they cost at most an eighth, else 16 bytes: a load that straddles
    # two lines costs two, a padded row more traffic.
    panels[:-1, 3] = np.where(8 * line <= 9 * widest, line, _round_up(widest, 4))
    panels[:-1, 4] = segment_indptr[group]
    panels[:-1, 5] = segment_indptr[group + 1]
    panels[:-1, 6] = entry_indptr[group]
    panels[1:, 7] = np.cumsum(size[group])
    # The last row's vectors reach as far as whole lines would.
    last = SLACK * panels[:-1, 2] - panels[:-1, 3]
    sizes = np.where(rows > 0, rows * panels[:-1, 3] + last, 0)
    panels[1:, 0] = np.cumsum(_round_up(sizes, SLACK))

    reached = np.stack([reach_indices, places], axis=1)
    columns = np.argsort(np.argsort(order)[pattern.supernode], kind="stable").astype(np.int32)
    I = pattern.immediate_indptr, pattern.immediate_indices  # noqa: E741
    units = pattern.shape[1]
    scratch = np.empty(units, np.int32), np.empty(units, np.int64), np.empty((units, 3), np.int64)
    none = np.empty((0, 4), np.int64)
    runs = np.empty((find_runs(panels, members, reached, columns, *I, none, *scratch), 4), np.int64)
    find_runs(panels, members, reached, columns, *I, runs, *scratch)
    return Program(panels, segments, entries, members, reached, columns, runs)


def _round_up(n: NDArray[np.int64], multiple: int) -> NDArray[np.int64]:
    return -(-n // multiple) * multiple


def _vectors(width: NDArray[np.int64]) -> NDArray[np.int64]:
    """Vectors that hold so many columns; the kernels have none of seven."""
    vectors = -(-width // SLACK)
    return np.where(vectors == 7, 8, vectors)


def _widths(
    tall: NDArray[np.int64], weights: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the columns that a panel of each supernode may have, and the vectors they take."""
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
    """Put narrow panels of equal width together; return the supernodes in order, cut in groups."""
    order = np.argsort(vectors, kind="stable")
    size = (tall * vectors * SLACK)[order]
    # A group ends where the next _SMALL elements begin, where the width changes, and around
    # supernodes that are large themselves.
    filled = np.cumsum(size) - size
    alone = (size > _SMALL // 2) | (weights > limit)[order]
    new = np.ones(order.size, bool)
    new[1:] = (np.diff(filled // _SMALL) > 0) | (np.diff(vectors[order]) > 0)
    new[1:] |= alone[1:] | alone[:-1]
    return order, np.append(np.flatnonzero(new), order.size)


def _pair(
    pattern: ReachPattern,
    order: NDArray[np.int64],
    group_indptr: NDArray[np.int64],
    vectors: NDArray[np.int64],
) -> tuple[NDArray[np.int64], ...]:
    """Pair the rows of every group; return the pairs, their lists, and each row's place."""
    reach_indptr, reach_indices = pattern.reach_indptr, pattern.reach_indices
    n_rows = reach_indices.size
    D = pattern.dynamics_indptr, pattern.dynamics_indices
    source_indptr = np.zeros(n_rows + 1, np.int64)
    local = np.full(pattern.shape[1], -1, np.int32)
    none = np.empty((0, 2), np.int32)
    list_sources(*D, reach_indptr, reach_indices, source_indptr, none, local)
    sources = np.empty((source_indptr[-1], 2), np.int32)
    list_sources(*D, reach_indptr, reach_indices, source_indptr, sources, local)

    rows, owner = np.empty(n_rows, np.int64), np.empty(n_rows, np.int32)
    starts = np.zeros(np.diff(source_indptr).max(initial=0) + 2, np.int64)
    order_rows(group_indptr, order, reach_indptr, source_indptr, rows, owner, starts)
    row_indptr = np.concatenate(([0], np.cumsum(np.diff(reach_indptr)[order])))[group_indptr]
    pair_indptr = np.concatenate(([0], np.cumsum((np.diff(row_indptr) + 1) // 2)))
    pairs = np.empty((pair_indptr[-1], 2), np.int64)
    lengths = np.empty_like(pairs)
    most = np.diff(reach_indptr).max(initial=0)
    marks = np.full(most, -1, np.int64)
    wide = vectors[order[group_indptr[:-1]]]
    pair_rows(
        row_indptr, wide, source_indptr, sources, rows, owner, pair_indptr, pairs, lengths,
        np.zeros(n_rows, bool), marks,
    )  # fmt: skip
    places = np.empty(n_rows, np.int32)
    place_rows(pair_indptr, pairs, places)
    entries = np.empty((lengths.sum(), 2), np.int64)
    marks[:] = -1
    fill_entries(
        pair_indptr, pairs, lengths, source_indptr, sources, reach_indptr, owner, places, entries,
        marks, np.empty(most, np.int32),
    )  # fmt: skip
    return pair_indptr, pairs, lengths, entries, places


def _members(
    order: NDArray[np.int64],
    weights: NDArray[np.int64],
    reach_indptr: NDArray[np.int64],
    limit: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Cut the columns of every supernode; one row per piece, and one more at the end."""
    pieces = np.maximum(-(-weights[order] // limit[order]), 1)
    supernode = np.repeat(order, pieces)
    piece = np.arange(supernode.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = np.repeat(np.cumsum(weights[order]) - weights[order], pieces)
    skipped = piece * limit[supernode]
    members = np.zeros((supernode.size + 1, 4), np.int64)
    members[:-1, 0] = first + skipped
    members[:-1, 1] = np.minimum(weights[supernode] - skipped, limit[supernode])
    members[:-1, 2] = reach_indptr[supernode]
    members[:-1, 3] = reach_indptr[supernode + 1] - reach_indptr[supernode]
    return members


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
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)

"""Lower a pattern to the tables that the panel kernels replay."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sparsegrad.influence.program import Program, join_programs
from sparsegrad.kernels.influence.lower import (
    OPEN_FIELDS,
    SOURCE_FIELDS,
    find_runs,
    list_sources,
    locate_rows,
    merge_reaches,
)
from sparsegrad.kernels.influence.pairs import A, B, fill_entries, order_rows, pair_rows
from sparsegrad.kernels.influence.panels import MOST_VECTORS
from sparsegrad.kernels.influence.tables import (
    COUNT_REACHED,
    END_SEGMENT,
    ENTRY_FIELDS,
    FIRST_COLUMN,
    FIRST_ENTRY,
    FIRST_MEMBER,
    FIRST_REACHED,
    FIRST_ROW,
    FIRST_RUN,
    FIRST_SEGMENT,
    INSET,
    MEMBER_FIELDS,
    OFFSET,
    OWN,
    PAIRS,
    PANEL_FIELDS,
    REACHED_FIELDS,
    ROWS,
    RUN_FIELDS,
    SEGMENT_FIELDS,
    SHARED,
    STRIDE,
    TARGET,
    VECTORS,
    WIDTH,
)
from sparsegrad.kernels.vectors.simd import SLACK
from sparsegrad.symbolic.pattern import ReachPattern

_programs: "WeakKeyDictionary[ReachPattern, Program]" = WeakKeyDictionary()
_TALL = 1 << 18  # elements of a panel that should stay in L2: 1 MiB of float32
_SMALL = 1 << 11  # elements up to which panels go together: 8 KiB, so that three stay in L1


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


def lower_in_parts(pattern: ReachPattern, parts: list[ReachPattern]) -> Program:
    """Lower a pattern part by part, so that the panels of each depend on it alone; as `lower`.

    Parameters
    ----------
    pattern : ReachPattern
        What the parts are when joined.
    parts : list of ReachPattern
        Of its weights, one range after the other.
    """
    programs: list[Program] = []
    weights = values = size = 0
    for part in parts:
        program = _lower(part)
        programs.append(program.moved(weights, values, size))
        weights += part.shape[0]
        values += part.immediate_indices.size
        size += program.size - SLACK
    _programs[pattern] = join_programs(programs)
    return _programs[pattern]


class _Blocks(NamedTuple):
    """Supernodes with nearly equal reaches side by side, on the union of their rows."""

    of: NDArray[np.int64]  # (supernodes,), the block of each
    indptr: NDArray[np.int64]  # (blocks + 1,)
    indices: NDArray[np.int32]  # (rows,), sorted within a block


class _Groups(NamedTuple):
    """Blocks in the order of their panels; those of a group go through together."""

    order: NDArray[np.int64]  # (blocks,)
    indptr: NDArray[np.int64]  # (groups + 1,), into `order`
    weights: NDArray[np.int64]  # (blocks,), of each block
    limit: NDArray[np.int64]  # (blocks,), columns that a panel of each block may have
    pieces: NDArray[np.int64]  # (blocks,), panels that each block takes, side by side
    vectors: NDArray[np.int64]  # (blocks,), of a row of them


class _Pairs(NamedTuple):
    """The rows of every group in pairs."""

    indptr: NDArray[np.int64]  # (groups + 1,)
    stages: NDArray[np.int64]  # (groups * levels + 1,): a group's pairs level by level
    lists: NDArray[np.int64]  # (pairs, 3), a segment of one pair each
    entries: NDArray[np.int64]  # (entries, 2)
    places: NDArray[np.int32]  # (rows,), of the blocks: the row of its panel


class _Members(NamedTuple):
    """The columns of the panels, cut: supernodes, or pieces of those that are too wide."""

    table: NDArray[np.int64]  # (members + 1, 5)
    supernode: NDArray[np.int64]  # (members,)
    of_block: NDArray[np.int64]  # (blocks,), supernodes of each


def _lower(pattern: ReachPattern) -> Program:
    weights = pattern.weights_per_supernode
    blocks = _merge(pattern, weights)
    groups = _group(blocks, weights)
    pairs = _pair(pattern, blocks, groups)
    segments, segment_indptr = _segments(pairs)
    members = _members(pattern, blocks, groups, weights)
    panels = _panels(groups, pairs, members, segment_indptr)
    reached = np.empty((pattern.reach_indices.size, REACHED_FIELDS), np.int32)
    locate_rows(
        pattern.reach_indptr, pattern.reach_indices, *blocks, pairs.places, reached
    )  # fmt: skip
    rank = np.empty(weights.size, np.int64)
    # of the pieces of a supernode any one: they are neighbours
    rank[members.supernode] = np.arange(members.supernode.size)
    columns = np.argsort(rank[pattern.supernode], kind="stable").astype(np.int32)
    runs = _runs(pattern, blocks, pairs, members, panels, reached, columns)
    program = Program(panels, segments, pairs.entries, members.table, reached, columns, runs)
    return program if pattern.levels is None else _in_stages(program, groups, pairs, segment_indptr)


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


def _group(blocks: _Blocks, weights: NDArray[np.int64]) -> _Groups:
    """Cut wide blocks into pieces, and put narrow ones of equal width together."""
    tall = np.diff(blocks.indptr)
    width = np.bincount(blocks.of, weights, minlength=tall.size).astype(np.int64)
    fits = _TALL // np.maximum(tall, 1) // SLACK * SLACK
    limit = np.clip(fits, SLACK, MOST_VECTORS * SLACK)
    pieces = np.maximum(-(-width // limit), 1)
    # Pieces of equal width: a narrow last one would cost as many indices as a wide one.
    limit = np.maximum(_round_up(-(-width // pieces), SLACK), SLACK)
    pieces = -(-width // limit)
    vectors = _vectors(np.minimum(width, limit))

    order = np.argsort(vectors, kind="stable")
    size = (tall * vectors * SLACK)[order]
    # A group ends where the next _SMALL elements begin, where the width changes, and around
    # blocks that are large themselves.
    filled = np.cumsum(size) - size
    alone = (size > _SMALL // 2) | (width > limit)[order]
    new = np.ones(order.size, bool)
    new[1:] = (np.diff(filled // _SMALL) > 0) | (np.diff(vectors[order]) > 0)
    new[1:] |= alone[1:] | alone[:-1]
    indptr = np.append(np.flatnonzero(new), order.size)
    return _Groups(order, indptr, width, limit, pieces, vectors)


def _pair(pattern: ReachPattern, blocks: _Blocks, groups: _Groups) -> _Pairs:
    """Pair the rows of every group, and write down the sources of each pair."""
    n_rows = blocks.indptr[-1]
    source_indptr, sources = _sources(pattern, blocks)
    rows, owner = np.empty(n_rows, np.int64), np.empty(n_rows, np.int32)
    count = np.diff(source_indptr)
    most = int(count.max(initial=0))
    levels, n_levels = _row_levels(pattern, blocks)
    keys = (most + 1) * levels.astype(np.int64) + most - count  # the longest of each level first
    starts = np.zeros((most + 1) * n_levels + 1, np.int64)
    order_rows(groups.indptr, groups.order, blocks.indptr, keys, rows, owner, starts)
    tall = np.diff(blocks.indptr)
    group_of = np.empty(tall.size, np.int64)
    group_of[groups.order] = np.repeat(np.arange(groups.indptr.size - 1), np.diff(groups.indptr))
    in_stage = np.bincount(
        n_levels * np.repeat(group_of, tall) + levels, minlength=n_levels * (groups.indptr.size - 1)
    )
    row_indptr = np.concatenate(([0], np.cumsum(in_stage)))
    stages = np.concatenate(([0], np.cumsum((in_stage + 1) // 2)))
    pair_indptr = stages[::n_levels]
    pairs = np.empty((pair_indptr[-1], 2), np.int64)
    lists = np.empty((pair_indptr[-1], SEGMENT_FIELDS), np.int64)
    most = tall.max(initial=0)
    marks = np.full(most, -1, np.int64)
    vectors = np.repeat(groups.vectors[groups.order[groups.indptr[:-1]]], n_levels)
    pair_rows(
        row_indptr, vectors, source_indptr, sources, rows, owner, stages, pairs, lists,
        np.zeros(n_rows, bool), marks,
    )  # fmt: skip
    places = np.empty(n_rows, np.int32)
    place = 2 * (np.arange(len(pairs)) - np.repeat(pair_indptr[:-1], np.diff(pair_indptr)))
    places[pairs[:, B]] = place + 1
    places[pairs[:, A]] = place  # an odd row makes a pair with itself
    entries = np.empty((lists[:, SHARED].sum() + lists[:, OWN].sum(), ENTRY_FIELDS), np.int64)
    marks[:] = -1
    fill_entries(
        pair_indptr, pairs, lists, source_indptr, sources, blocks.indptr, owner, places, levels,
        entries, marks, np.empty(most, np.int32),
    )  # fmt: skip
    return _Pairs(pair_indptr, stages, lists, entries, places)


def _row_levels(pattern: ReachPattern, blocks: _Blocks) -> tuple[NDArray[np.int32], int]:
    """Return the level of each row of the blocks, and how many levels there are."""
    if pattern.levels is None:
        return np.zeros(blocks.indptr[-1], np.int32), 1
    return pattern.levels[blocks.indices[: blocks.indptr[-1]]], int(pattern.levels.max()) + 1


def _sources(pattern: ReachPattern, blocks: _Blocks) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return where the sources of each row of the blocks begin, and the sources."""
    dynamics = pattern.dynamics_indptr, pattern.dynamics_indices
    indptr = np.zeros(blocks.indptr[-1] + 1, np.int64)
    local = np.full(pattern.shape[1], -1, np.int32)
    sources = np.empty((0, SOURCE_FIELDS), np.int32)
    list_sources(*dynamics, blocks.indptr, blocks.indices, indptr, sources, local)
    sources = np.empty((indptr[-1], SOURCE_FIELDS), np.int32)
    list_sources(*dynamics, blocks.indptr, blocks.indices, indptr, sources, local)
    return indptr, sources


def _segments(pairs: _Pairs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the segments of all pairs, and where those of each stage of a group begin."""
    # Equal neighbours make a segment; none reaches from one stage into the next.
    lists, indptr = pairs.lists, pairs.stages
    new = np.ones(len(lists), bool)
    new[1:] = (lists[1:] != lists[:-1]).any(axis=1)
    new[indptr[:-1][np.diff(indptr) > 0]] = True
    starts = np.flatnonzero(new)
    segments = lists[starts]
    segments[:, PAIRS] = np.diff(starts, append=len(lists))
    return segments, np.searchsorted(starts, indptr)


def _members(
    pattern: ReachPattern, blocks: _Blocks, groups: _Groups, weights: NDArray[np.int64]
) -> _Members:
    """Cut the columns: one row per supernode or piece of one, and one more at the end."""
    order, limit = groups.order, groups.limit
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    by_block = np.argsort(rank[blocks.of], kind="stable")
    first = np.cumsum(weights[by_block]) - weights[by_block]
    of_block = np.bincount(blocks.of, minlength=order.size)
    opens = np.cumsum(of_block[order]) - of_block[order]
    inset = first - np.repeat(first[opens], of_block[order])
    times = groups.pieces[blocks.of[by_block]]
    supernode, piece = np.repeat(by_block, times), np.arange(times.sum())
    skipped = (piece - np.repeat(np.cumsum(times) - times, times)) * limit[blocks.of[supernode]]
    table = np.zeros((supernode.size + 1, MEMBER_FIELDS), np.int64)
    members = table[:-1]
    members[:, FIRST_COLUMN] = np.repeat(first, times) + skipped
    members[:, WIDTH] = np.minimum(weights[supernode] - skipped, limit[blocks.of[supernode]])
    members[:, FIRST_REACHED] = pattern.reach_indptr[supernode]
    members[:, COUNT_REACHED] = np.diff(pattern.reach_indptr)[supernode]
    members[:, INSET] = np.repeat(inset, times)
    return _Members(table, supernode, of_block)


def _panels(
    groups: _Groups, pairs: _Pairs, members: _Members, segment_indptr: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Lay the panels out: one per group, or several beside each other for a block too wide."""
    opens = groups.indptr[:-1]
    pieces = groups.pieces[groups.order[opens]]
    group = np.repeat(np.arange(opens.size), pieces)
    each = np.minimum(groups.weights, groups.limit)[groups.order]
    widest = np.maximum.reduceat(each, opens)[group]
    in_group = np.add.reduceat(members.of_block[groups.order], opens)
    lengths = pairs.lists[:, SHARED] + pairs.lists[:, OWN]
    entry_indptr = np.concatenate(([0], np.cumsum(lengths)))[pairs.indptr]
    table = np.zeros((group.size + 1, PANEL_FIELDS), np.int64)
    panels = table[:-1]
    panels[:, ROWS] = rows = 2 * np.diff(pairs.indptr)[group]
    panels[:, VECTORS] = _vectors(widest)
    # Whole cache lines where they cost at most an eighth, else 16 bytes: a load that straddles
    # two lines costs two, a padded row more traffic.
    line = _round_up(widest, SLACK)
    panels[:, STRIDE] = np.where(8 * line <= 9 * widest, line, _round_up(widest, 4))
    of_group = segment_indptr[:: (pairs.stages.size - 1) // opens.size]
    panels[:, FIRST_SEGMENT] = of_group[group]
    panels[:, END_SEGMENT] = of_group[group + 1]
    panels[:, FIRST_ENTRY] = entry_indptr[group]
    # The last row's vectors reach as far as whole lines would.
    last = SLACK * panels[:, VECTORS] - panels[:, STRIDE]
    sizes = np.where(rows > 0, rows * panels[:, STRIDE] + last, 0)
    table[1:, OFFSET] = np.cumsum(_round_up(sizes, SLACK))
    table[1:, FIRST_MEMBER] = np.cumsum(np.where(pieces > 1, 1, in_group)[group])
    return table


def _in_stages(
    program: Program, groups: _Groups, pairs: _Pairs, segment_indptr: NDArray[np.int64]
) -> Program:
    """Give a row of the table to each level of a panel that has rows of it."""
    opens = groups.indptr[:-1]
    group = np.repeat(np.arange(opens.size), groups.pieces[groups.order[opens]])
    n_levels = (pairs.stages.size - 1) // opens.size
    has = (np.diff(pairs.stages).reshape(-1, n_levels) > 0)[group]
    has[~has.any(axis=1), 0] = True  # a panel of no rows has its weights all the same
    panel, level = np.nonzero(has)
    stage = n_levels * group[panel] + level
    lengths = pairs.lists[:, SHARED] + pairs.lists[:, OWN]
    entry_indptr = np.concatenate(([0], np.cumsum(lengths)))[pairs.stages]
    table = program.panels[np.append(panel, len(program.panels) - 1)]
    stages = table[:-1]
    stages[:, FIRST_ROW] = 2 * (pairs.stages[stage] - pairs.stages[n_levels * group[panel]])
    stages[:, FIRST_SEGMENT] = segment_indptr[stage]
    stages[:, END_SEGMENT] = segment_indptr[stage + 1]
    stages[:, FIRST_ENTRY] = entry_indptr[stage]
    # its runs: those of the rows that it writes
    of_run = np.repeat(np.arange(len(program.panels) - 1), np.diff(program.panels[:, FIRST_RUN]))
    offset, stride = program.panels[of_run][:, [OFFSET, STRIDE]].T
    row = (program.runs[:, TARGET] - offset) // stride
    tallest = int(program.panels[:, ROWS].max()) + 1
    place = tallest * panel + stages[:, FIRST_ROW]
    of_stage = np.searchsorted(place, tallest * of_run + row, side="right") - 1
    table[:, FIRST_RUN] = np.searchsorted(np.sort(of_stage), np.arange(len(table)))
    runs = program.runs[np.argsort(of_stage, kind="stable")]
    return program._replace(panels=table, runs=runs)


def _runs(
    pattern: ReachPattern,
    blocks: _Blocks,
    pairs: _Pairs,
    members: _Members,
    panels: NDArray[np.int64],
    reached: NDArray[np.int32],
    columns: NDArray[np.int32],
) -> NDArray[np.int64]:
    """Write down where I is added to the panels, and note in them where their runs begin."""
    taken = np.zeros(panels[:, ROWS].max(), np.bool_)
    open_runs = np.empty((pattern.shape[1], OPEN_FIELDS), np.int64)
    runs = np.empty((0, RUN_FIELDS), np.int64)
    for _ in range(2):  # to count them, and to write them down
        count = find_runs(
            panels, members.table, blocks.of[members.supernode], blocks.indptr, pairs.places,
            reached, columns, pattern.immediate_indptr, pattern.immediate_indices, runs, open_runs,
            taken,
        )  # fmt: skip
        if runs.shape[0] == 0:
            runs = np.empty((count, RUN_FIELDS), np.int64)
    return runs

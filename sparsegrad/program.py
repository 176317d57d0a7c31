"""The structure that the panel kernels replay: layout of J in panels and the lists of sources."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.lower import (
    BLOCK,
    count_sources,
    count_unions,
    fill_sources,
    find_runs,
    order_rows,
)
from sparsegrad.kernels.simd import SLACK, WIDE
from sparsegrad.pattern import ReachPattern

_programs: "WeakKeyDictionary[ReachPattern, Program]" = WeakKeyDictionary()
_MAX_WIDTH = 160  # columns of a panel: ten float32 vectors, of which eight share one index
_SCRATCH = 1 << 18  # elements of a panel that should stay in L2: 1 MiB of float32
_BLOCKED_BELOW = 0.56 if WIDE else 0.0  # sources of blocks over those of rows: see CONTRIBUTING
_BLOCKED_ROWS = 16  # smaller products are not worth their own path
_PANEL = 20  # vectors' worth of work that a panel costs beside its rows
_SHARE = 100_000  # vectors of work per thread, some 40 µs: handing over less gains nothing


class Program(NamedTuple):
    """The flat arrays of one lowered pattern, in the order in which the panel kernels take them.

    Attributes
    ----------
    dynamics_indptr, dynamics_indices : int64 array, (units + 1,); int32 array, (nnz of D,)
        D's own pattern, in CSR.
    panels : int64 array, (panels + 1, 8)
        Supernode, offset in J, width, stride, scratch pitch, first column, first run, whether
        rows go in blocks; the last row ends J and the runs.
    row_indptr : int64 array, (supernodes + 1,)
        The rows of each supernode.
    rows : int32 array, (rows,)
        The unit of each panel row.
    source_indptr : int64 array, (rows + 1,)
        The sources of each row; of a block of rows, at its first.
    sources : int64 array
        Position in D's data, or unit where rows go in blocks (upper 32 bits); place of the
        source row (lower 32 bits).
    columns : int32 array, (weights,)
        The weight of each panel column.
    runs : int64 array, (runs, 4)
        Where I is added: first value in I's data, step between values, first place in J, length.
    """

    dynamics_indptr: NDArray[np.int64]
    dynamics_indices: NDArray[np.int32]
    panels: NDArray[np.int64]
    row_indptr: NDArray[np.int64]
    rows: NDArray[np.int32]
    source_indptr: NDArray[np.int64]
    sources: NDArray[np.int64]
    columns: NDArray[np.int32]
    runs: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Elements of J for one sequence: entries, padding, and the slack at the end."""
        return int(self.panels[-1, 1]) + SLACK

    @property
    def scratch_size(self) -> int:
        """Elements of scratch that one thread needs."""
        tall = np.diff(self.row_indptr)[self.panels[:-1, 0]]
        return int(max((tall * self.panels[:-1, 4]).max(initial=0), _MAX_WIDTH)) + SLACK

    @property
    def any_blocked(self) -> bool:
        """Whether any panel goes in blocks of rows, which need D written out in full."""
        return bool(self.panels[:-1, 7].any())


def _sum_by_supernode(
    counts: NDArray[np.int32], reach_indptr: NDArray[np.int64]
) -> NDArray[np.int64]:
    total = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
    return np.diff(total[reach_indptr])


def _round_up(n: NDArray[np.int64], multiple: int) -> NDArray[np.int64]:
    return -(-n // multiple) * multiple


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
    units = pattern.shape[1]
    tall = np.diff(reach_indptr)
    counts = np.empty(reach_indices.size, np.int32)
    local = np.full(units, -1, np.int32)
    D = pattern.dynamics_indptr, pattern.dynamics_indices
    count_sources(*D, reach_indptr, reach_indices, counts, local)

    rows, ordered = np.empty_like(counts), np.empty_like(counts)
    starts = np.zeros(counts.max(initial=0) + 2, np.int64)
    order_rows(reach_indptr, reach_indices, counts, rows, ordered, starts)
    counts = ordered

    # A union of three is at least a third of the sum, which rules most supernodes out at once.
    each = _sum_by_supernode(counts, reach_indptr)
    blocked = (tall >= _BLOCKED_ROWS) & (each >= tall * tall / 4)
    unions = counts.copy()
    count_unions(*D, reach_indptr, rows, blocked, unions, local)
    blocked &= _sum_by_supernode(unions, reach_indptr) < _BLOCKED_BELOW * each
    counts = np.where(np.repeat(blocked, tall), unions, counts)
    source_indptr = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))

    columns = np.argsort(pattern.supernode, kind="stable").astype(np.int32)
    weights = np.bincount(pattern.supernode, minlength=tall.size)
    panels, pitch = _cut_panels(tall, weights, blocked)
    sources = np.empty(source_indptr[-1], np.int64)
    block_of = np.empty(units, np.int64)
    fill_sources(*D, reach_indptr, rows, source_indptr, blocked, pitch, sources, local, block_of)

    I = pattern.immediate_indptr, pattern.immediate_indices  # noqa: E741
    scratch = np.empty(units, np.int64), np.empty((units, 3), np.int64)
    none = np.empty((0, 4), np.int64)
    n_runs = find_runs(panels, reach_indptr, rows, columns, *I, none, local, *scratch)
    runs = np.empty((n_runs, 4), np.int64)
    find_runs(panels, reach_indptr, rows, columns, *I, runs, local, *scratch)
    return Program(*D, panels, reach_indptr, rows, source_indptr, sources, columns, runs)


def _cut_panels(
    tall: NDArray[np.int64], weights: NDArray[np.int64], blocked: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Cut each supernode's columns into panels; return them and the scratch pitch of each."""
    fits = _SCRATCH // np.maximum(tall, 1) // SLACK * SLACK
    limit = np.clip(fits, SLACK, _MAX_WIDTH)
    pieces = np.maximum(-(-weights // limit), 1)
    # Pieces of equal width: a narrow last one would cost as many indices as a wide one.
    limit = np.maximum(_round_up(-(-weights // pieces), SLACK), 1)
    supernode = np.repeat(np.arange(tall.size), pieces)
    piece = np.arange(supernode.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = np.cumsum(weights) - weights
    width = np.minimum(weights[supernode] - piece * limit[supernode], limit[supernode])
    # Whole cache lines where they cost at most an eighth, else 16 bytes: a load that straddles
    # two lines costs two, a padded row more traffic.
    line = _round_up(width, SLACK)
    stride = np.where(8 * line <= 9 * width, line, _round_up(width, 4))
    # The last row's vectors reach as far as whole lines would.
    size = np.where(tall[supernode] > 0, (tall[supernode] - 1) * stride + line, 0)
    size = _round_up(size, SLACK)

    pitch = _round_up(np.minimum(weights, limit), SLACK).astype(np.int32)
    panels = np.zeros((supernode.size + 1, 8), np.int64)
    panels[:-1, 0] = supernode
    panels[1:, 1] = np.cumsum(size)
    panels[:-1, 2] = width
    panels[:-1, 3] = stride
    panels[:-1, 4] = pitch[supernode]
    panels[:-1, 5] = first[supernode] + piece * limit[supernode]
    panels[:-1, 7] = blocked[supernode]
    return panels, pitch


def cut_work(program: Program, batch: int, threads: int) -> NDArray[np.int64]:
    """Cut the panels into ranges of equal work, one per thread: int64, (threads + 1,).

    Work is the vectors of multiply-adds and twice the vectors of J that a panel holds, about the
    time of each. Less than _SHARE of it stays on one thread.
    """
    panels, indptr = program.panels, program.row_indptr
    supernode, width = panels[:-1, 0], panels[:-1, 2]
    tall = np.diff(indptr)
    sources = np.diff(program.source_indptr[indptr])
    per_vector = sources[supernode] * np.where(panels[:-1, 7], BLOCK // 2, 1)
    vectors = -(-width // SLACK)
    work = np.cumsum(batch * (vectors * (per_vector + 2 * tall[supernode]) + _PANEL))
    threads = int(min(threads, work.size, max(1, work[-1] // _SHARE)))
    inner = np.searchsorted(work, work[-1] * np.arange(1, threads) // threads)
    return np.concatenate(([0], inner, [work.size])).astype(np.int64)


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> NDArray[np.floating]:
    """Return zeros that begin on a cache line; pages are touched first by whoever writes them."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)

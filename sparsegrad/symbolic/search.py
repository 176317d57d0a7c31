"""How the symbolic phase is run: the gate for patterns, and the search for the reach."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.influence.convert import spread_entries
from sparsegrad.kernels.symbolic.patterns import (
    expand_reach,
    find_unsorted_row,
    group_rows,
    transpose_pattern,
)
from sparsegrad.kernels.symbolic.reach import check_reach, count_reach, fill_reach
from sparsegrad.kernels.symbolic.saturation import WORDS, count_levels
from sparsegrad.system.checks import sealed
from sparsegrad.system.memory import require_memory

_GROUPS_PER_TASK = 1024  # a multiple of these: fewer walks are not worth a thread
_MOST_TASKS = 32


class Rows(NamedTuple):
    """A pattern in compressed rows (or columns); sorted and unique once canonical."""

    indptr: NDArray[np.int64]  # (rows + 1,)
    indices: NDArray[np.int32]  # (nnz,)
    columns: int


def check_shapes(dynamics: Any, immediate: Any) -> None:
    """Refuse patterns whose shapes do not fit together."""
    shapes = _shape("dynamics", dynamics), _shape("immediate", immediate)
    if len(shapes[0]) != 2 or shapes[0][0] != shapes[0][1]:
        raise ValueError(f"dynamics must be square, (units, units), got shape {shapes[0]}")
    units = shapes[0][0]
    if len(shapes[1]) != 2 or shapes[1][0] != units:
        raise ValueError(
            f"immediate must be (units, weights) with {units} units as dynamics has, "
            f"got shape {shapes[1]}"
        )
    if units < 1 or shapes[1][1] < 1:
        raise ValueError(f"there must be units and weights, got {units} and {shapes[1][1]}")
    if max(units, shapes[1][1]) >= 2**31 - 1:
        raise ValueError(
            f"units and weights must number below 2**31 - 1, got {units} and {shapes[1][1]}"
        )


def _shape(name: str, matrix: Any) -> tuple[int, ...]:
    """Shape of a sparse matrix of scipy, or of what is a dense array of numbers."""
    if _is_sparse(matrix):
        return tuple(matrix.shape)
    try:
        dense = np.asarray(matrix)
    except Exception:  # whatever a foreign class raises when it cannot be an array
        dense = np.empty((), object)
    if dense.dtype.kind not in "biufc":
        raise TypeError(
            f"{name} must be a scipy.sparse array or a dense array of numbers or bool, got "
            f"{type(matrix).__name__}; convert it to scipy.sparse.csr_array first"
        )
    return dense.shape


def _is_sparse(matrix: Any) -> bool:
    """Whether it is a matrix of scipy.sparse, without importing it."""
    return hasattr(matrix, "tocsr") and type(matrix).__module__.startswith("scipy.sparse")


def values_on(
    name: str,
    matrix: Any,
    shape: tuple[int, int],
    by_columns: bool,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
) -> NDArray[Any]:
    """Return the values of a sparse matrix at the places of a canonical pattern, in its order."""
    if not _is_sparse(matrix):
        raise TypeError(f"{name} must be a scipy.sparse matrix, got {type(matrix).__name__}")
    if tuple(matrix.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(matrix.shape)}")
    _compressed(name, matrix)  # looks at its indices, which scipy does not
    own = matrix.asformat("csc" if by_columns else "csr", copy=True)
    own.sum_duplicates()
    data = np.zeros(indices.size, own.dtype)
    row = spread_entries(
        own.indptr.astype(np.int64), own.indices.astype(np.int32), own.data, indptr, indices, data
    )
    if row >= 0:
        raise ValueError(
            f"{name} must have entries on its pattern only, got one outside it in "
            f"{'column' if by_columns else 'row'} {row}; drop it, or call reach() with it"
        )
    return data


def check_indptr(name: str, indptr: NDArray[Any], indices: NDArray[Any]) -> None:
    """Refuse pointers that do not rise from 0 to the number of indices."""
    if indptr.size < 2:
        raise ValueError(f"{name} must have an entry per row and one more, got {indptr.size}")
    if indptr[0] != 0 or indptr[-1] != indices.size or (indptr[1:] < indptr[:-1]).any():
        raise ValueError(
            f"{name} must rise from 0 to the number of indices, {indices.size}, "
            f"got {indptr[0]} to {indptr[-1]}"
        )


def canonical(name: str, matrix: Any, by_columns: bool, valued: bool = False) -> Rows:
    """Rows (or columns) of a pattern, sorted and unique, in arrays of their own.

    What a sparse format stores is structure, zero or not. Warns of an order that is put right if
    the matrix's values may come in it later (`valued`).
    """
    stored_by_columns, stored = _compressed(name, matrix)
    if stored_by_columns == by_columns:
        row = find_unsorted_row(*stored)
        if row < 0:
            return Rows(stored.indptr.copy(), stored.indices.copy(), stored.columns)
        if valued:
            warnings.warn(
                f"{name} has {'column' if by_columns else 'row'} {row} with indices that are not "
                "sorted and unique; the pattern has them sorted, so hand its values over as a "
                "matrix (J.update takes them) or after sum_duplicates()",
                stacklevel=3,
            )
        stored = _transpose(stored)
    return _transpose(stored)


def _compressed(name: str, matrix: Any) -> tuple[bool, Rows]:
    """Return whether a pattern is stored by columns, and its pointers and indices as they are."""
    if _is_sparse(matrix):
        if matrix.format == "dia":  # its conversions drop explicit zeros: convert ones instead
            ones = np.ones(matrix.data.shape, bool)
            matrix = type(matrix)((ones, matrix.offsets), shape=matrix.shape)
        if matrix.format not in ("csr", "csc"):
            matrix = matrix.tocsr()
        by_columns = matrix.format == "csc"
        bound = matrix.shape[0 if by_columns else 1]
        indptr, indices = matrix.indptr, matrix.indices
        if indptr.size != matrix.shape[1 if by_columns else 0] + 1:
            raise ValueError(f"{name}.indptr must fit shape {matrix.shape}, got {indptr.size}")
        check_indptr(f"{name}.indptr", indptr, indices[: indptr[-1]])
        indices = indices[: indptr[-1]]
        if indices.size and (indices.min() < 0 or indices.max() >= bound):
            raise ValueError(
                f"{name}.indices must lie in [0, {bound}), got {indices.min()} to {indices.max()}"
            )
    else:
        dense = np.asarray(matrix)
        by_columns, bound = False, dense.shape[1]
        indices = np.nonzero(dense)[1]
        indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(dense, axis=1))])
    return by_columns, Rows(
        np.ascontiguousarray(indptr, np.int64), np.ascontiguousarray(indices, np.int32), bound
    )


def _transpose(pattern: Rows) -> Rows:
    """Columns of a pattern, sorted and unique whatever the order of what came in."""
    indptr = np.empty(pattern.columns + 1, np.int64)
    indices = np.empty(pattern.indices.size, np.int32)
    transpose_pattern(*pattern[:2], indptr, indices, np.empty(pattern.columns, np.int32))
    if indptr[-1] < indices.size:  # there were duplicates
        indices = indices[: indptr[-1]].copy()
    return Rows(indptr, indices, pattern.indptr.size - 1)


def find_reach(
    dynamics: Rows, weights: Rows, n: int | None, progress: Callable[[float], object] | None = None
) -> tuple[Any, ...]:
    """Find the reach from D by rows and I by columns, both canonical.

    Returns the fields of a ReachPattern, in order, the arrays read-only.
    """
    search = Search(dynamics, weights, n, progress)
    if n is None:
        levels = search.count_levels()
        search.share_components()
        size, key, _, saturated = search.count()
    else:
        size, key, levels, saturated = search.count()
    stored, entries = np.cumsum(levels, axis=0).T.tolist()
    last = int(np.flatnonzero(levels[:, 0])[-1]) + 1 if levels.any() else 1
    while True:
        supernode, lead = _merge(key)
        reach_indptr = np.zeros(lead.size + 1, np.int64)
        np.cumsum(size[lead], out=reach_indptr[1:])
        require_memory(
            4 * int(reach_indptr[-1]), "the reach of a pattern",
            tuple(4 * count for count in stored),
        )  # fmt: skip
        reach_indices = search.fill(lead, reach_indptr)
        if search.check(supernode, lead, reach_indptr, reach_indices):
            break
        search.seed += 1  # two reaches had one key: take other keys
        _, key, _, _ = search.count()
    arrays = (*search.rows[:2], *weights[:2], supernode[search.group], reach_indptr, reach_indices)
    arrays = tuple(sealed(array) for array in arrays)
    return *arrays, last if n is None else n, saturated, tuple(entries[:last])


class Search:
    """Walks from groups of weights with equal columns of I."""

    def __init__(
        self,
        dynamics: Rows,
        weights: Rows,
        n: int | None,
        progress: Callable[[float], object] | None = None,
    ) -> None:
        self.rows, self.columns, self.weights = dynamics, _transpose(dynamics), weights
        self.units = dynamics.columns
        # every level but the last adds a unit: after so many steps nothing can be added
        self.steps = self.units + 1 if n is None else min(n, self.units + 1)
        self.seed = 0
        self._progress = progress
        self._walks_done = 0
        self._walks = 3 if n is None else 2  # over all groups: count_levels, count, fill
        self.group, self.first = _group_rows(weights, self._unit_hash())

    def _unit_hash(self) -> NDArray[np.int64]:
        generator = np.random.default_rng(self.seed)
        return generator.integers(0, 2**63 - 1, size=self.units, dtype=np.int64)

    def _walk_all(self, task: Callable[[int, int], Any], count: int) -> list[Any]:
        """Run a task over all groups, and tell how far it is."""

        def tell(part: float) -> None:
            if self._progress is not None:  # a second try stays at the end
                self._progress(min((self._walks_done + part) / self._walks, 1.0))

        results = in_threads(task, count, tell)
        self._walks_done += 1
        return results

    def multiplicity(self) -> NDArray[np.int64]:
        """How many weights each group has: int64, (groups,)."""
        return np.bincount(self.group, minlength=self.first.size).astype(np.int64)

    def count_levels(self) -> NDArray[np.int64]:
        """Places that each level adds until all groups are saturated, as `count` has them."""
        multiplicity = self.multiplicity()
        order = np.argsort(multiplicity, kind="stable")
        first, multiplicity = self.first[order], multiplicity[order]

        def task(start: int, stop: int) -> NDArray[np.int64]:
            levels = np.zeros((self.steps, 2), np.int64)
            count_levels(
                start, stop, *self.rows[:2], *self.weights[:2], first, multiplicity, levels,
                np.empty(WORDS, np.uint64), np.empty((self.units, WORDS), np.uint64),
                np.empty((2, self.units, WORDS), np.uint64),
            )  # fmt: skip
            return levels

        return np.sum(self._walk_all(task, self.first.size), axis=0)

    def share_components(self) -> tuple[NDArray[np.int32], Rows]:
        """Merge groups that write into the same strongly connected components of D.

        They saturate at the same reach, so one walk serves them all: a net that is one component
        takes one walk, not one per unit.

        Returns
        -------
        label : int32 array, (units,)
            Each unit's component.
        touched : Rows
            The components that each group writes into.
        """
        # scipy.sparse takes 0.2 s to import, much of what `import sparsegrad` may take
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import connected_components

        ones = np.ones(self.rows.indices.size, np.int8)
        graph = csr_array((ones, self.rows.indices, self.rows.indptr), shape=[self.units] * 2)
        count, label = connected_components(graph, connection="strong")
        indptr = np.zeros(self.first.size + 1, np.int64)
        np.cumsum(np.diff(self.weights.indptr)[self.first], out=indptr[1:])
        indices = np.empty(int(indptr[-1]), np.int32)
        expand_reach(self.first, *self.weights[:2], indptr, indices)
        label = label.astype(np.int32)
        touched = _transpose(_transpose(Rows(indptr, label[indices], count)))
        component_set, lead = _group_rows(touched, self._unit_hash())
        self.group, self.first = component_set[self.group], self.first[lead]
        np.cumsum(np.diff(touched.indptr)[lead], out=indptr[1 : lead.size + 1])
        indptr = indptr[: lead.size + 1]
        indices = np.empty(int(indptr[-1]), np.int32)
        expand_reach(lead, *touched[:2], indptr, indices)
        return label, Rows(indptr, indices, count)

    def count(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], bool]:
        """Size and key of each group's reach, places that each level adds, and if saturated."""
        groups = self.first.size
        multiplicity = self.multiplicity()
        unit_hash = self._unit_hash()
        size = np.empty(groups, np.int64)
        key = np.empty(groups, np.int64)

        def task(start: int, stop: int) -> tuple[NDArray[np.int64], bool]:
            levels, marker, queue = self.scratch()
            saturated = count_reach(
                start, stop, self.steps, *self.columns[:2], *self.weights[:2], self.first,
                multiplicity, unit_hash, size, key, levels, marker, queue,
            )  # fmt: skip
            return levels, saturated

        results = self._walk_all(task, groups)
        levels = np.sum([levels for levels, _ in results], axis=0)
        return size, key, levels, all(saturated for _, saturated in results)

    def fill(self, lead: NDArray[np.int64], reach_indptr: NDArray[np.int64]) -> NDArray[np.int32]:
        """Units of the reach of each leading group, one after another."""
        weight_of = self.first[lead]
        reach_indices = np.empty(int(reach_indptr[-1]), np.int32)

        def task(start: int, stop: int) -> None:
            levels, marker, queue = self.scratch()
            fill_reach(
                start, stop, self.steps, *self.columns[:2], *self.weights[:2], weight_of,
                reach_indptr, reach_indices, levels, marker, queue,
            )  # fmt: skip

        self._walk_all(task, lead.size)
        return reach_indices

    def check(
        self,
        supernode: NDArray[np.int32],
        lead: NDArray[np.int64],
        reach_indptr: NDArray[np.int64],
        reach_indices: NDArray[np.int32],
    ) -> bool:
        """Whether each group's reach is that of the group that leads its supernode."""
        if lead.size == self.first.size:
            return True  # nothing was merged
        weight_of = self.first[lead]

        def task(start: int, stop: int) -> bool:
            levels, marker, queue = self.scratch()
            return check_reach(
                start, stop, self.steps, *self.columns[:2], *self.weights[:2], self.first,
                supernode, weight_of, reach_indptr, reach_indices, levels, marker, queue,
            )  # fmt: skip

        return all(in_threads(task, self.first.size))

    def scratch(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
        """Levels, marker and queue of one walker."""
        return (
            np.zeros((self.steps, 2), np.int64),
            np.full(self.units, -1, np.int32),
            np.empty(self.units, np.int32),
        )


def _group_rows(
    pattern: Rows, unit_hash: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return each row's group of equal rows, by first appearance, and the lowest row of each."""
    rows = pattern.indptr.size - 1
    group = np.empty(rows, np.int32)
    first = np.empty(rows, np.int32)
    table = np.empty(1 << (rows * 4 // 3).bit_length(), np.int32)
    groups = group_rows(pattern.indptr, pattern.indices, unit_hash, group, first, table)
    return group, first[:groups].copy()


def _merge(key: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return each key's number, by first appearance, and the first place of each number."""
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(order.size, np.int32)
    rank[order] = np.arange(order.size, dtype=np.int32)
    return rank[inverse], first[order]


def in_threads(
    task: Callable[[int, int], Any],
    count: int,
    tell: Callable[[float], object] = lambda part: None,
) -> list[Any]:
    """Run task(start, stop) over ranges of `count`, on as many threads as Numba may use.

    `tell` is told the part that is done, in this thread, after each range.
    """
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    step = _GROUPS_PER_TASK * -(-count // (_GROUPS_PER_TASK * _MOST_TASKS))
    starts = range(0, count, step)
    stops = [*starts[1:], count]
    results = []
    with ThreadPoolExecutor(max(1, min(most, len(starts)))) as pool:
        for result in pool.map(task, starts, stops):
            results.append(result)
            tell(len(results) / len(starts))
    return results

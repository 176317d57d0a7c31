"""The search for the reach: the symbolic kernels on threads, counting before filling."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.symbolic.patterns import Rows, expand_reach, group_rows
from sparsegrad.kernels.symbolic.reach import (
    LEVEL_FIELDS,
    Walker,
    check_reach,
    count_reach,
    fill_reach,
)
from sparsegrad.kernels.symbolic.saturation import WORDS, count_levels
from sparsegrad.symbolic.rows import transpose
from sparsegrad.system.checks import sealed
from sparsegrad.system.memory import require_memory

_GROUPS_PER_TASK = 1024  # a multiple of these: fewer walks are not worth a thread
_MOST_TASKS = 32


def find_reach(
    dynamics: Rows, weights: Rows, n: int | None, progress: Callable[[float], object] | None = None
) -> dict[str, Any]:
    """Find the reach from D by rows and I by columns, both canonical.

    Returns the fields of a ReachPattern by their names, the arrays read-only.
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
    arrays: dict[str, NDArray[Any]] = {
        "dynamics_indptr": dynamics.indptr,
        "dynamics_indices": dynamics.indices,
        "immediate_indptr": weights.indptr,
        "immediate_indices": weights.indices,
        "supernode": supernode[search.group],
        "reach_indptr": reach_indptr,
        "reach_indices": reach_indices,
    }
    return {
        **{name: sealed(array) for name, array in arrays.items()},
        "n": last if n is None else n,
        "saturated": saturated,
        "entries_by_n": tuple(entries[:last]),
    }


class Search:
    """Walks from groups of weights with equal columns of I."""

    def __init__(
        self,
        dynamics: Rows,
        weights: Rows,
        n: int | None,
        progress: Callable[[float], object] | None = None,
    ) -> None:
        self.rows, self.columns, self.weights = dynamics, transpose(dynamics), weights
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
            levels = np.zeros((self.steps, LEVEL_FIELDS), np.int64)
            count_levels(
                start, stop, self.rows, self.weights, first, multiplicity, levels,
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
        touched = transpose(transpose(Rows(indptr, label[indices], count)))
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
            walker = self.walker()
            saturated = count_reach(
                start, stop, self.steps, self.columns, self.weights, self.first,
                multiplicity, unit_hash, size, key, walker,
            )  # fmt: skip
            return walker.levels, saturated

        results = self._walk_all(task, groups)
        levels = np.sum([levels for levels, _ in results], axis=0)
        return size, key, levels, all(saturated for _, saturated in results)

    def fill(self, lead: NDArray[np.int64], reach_indptr: NDArray[np.int64]) -> NDArray[np.int32]:
        """Units of the reach of each leading group, one after another."""
        weight_of = self.first[lead]
        reach_indices = np.empty(int(reach_indptr[-1]), np.int32)

        reach = Rows(reach_indptr, reach_indices, self.units)

        def task(start: int, stop: int) -> None:
            fill_reach(
                start, stop, self.steps, self.columns, self.weights, weight_of,
                reach, self.walker(),
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

        reach = Rows(reach_indptr, reach_indices, self.units)

        def task(start: int, stop: int) -> bool:
            return check_reach(
                start, stop, self.steps, self.columns, self.weights, self.first,
                supernode, weight_of, reach, self.walker(),
            )  # fmt: skip

        return all(in_threads(task, self.first.size))

    def walker(self) -> Walker:
        """Allocate the scratch of one thread's walks."""
        return Walker(
            levels=np.zeros((self.steps, LEVEL_FIELDS), np.int64),
            marker=np.full(self.units, -1, np.int32),
            queue=np.empty(self.units, np.int32),
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


def merge_rows(reach: Rows) -> tuple[NDArray[np.int32], Rows]:
    """Return the supernode of each row of a reach, by first appearance, and each one's reach."""
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**63 - 1, size=reach.columns, dtype=np.int64)
    supernode, first = _group_rows(reach, hashes)
    indptr = np.zeros(first.size + 1, np.int64)
    np.cumsum(np.diff(reach.indptr)[first], out=indptr[1:])
    indices = np.empty(int(indptr[-1]), np.int32)
    expand_reach(first, *reach[:2], indptr, indices)
    return supernode, Rows(indptr, indices, reach.columns)


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
    if len(starts) == 1:  # a pool takes longer to start than a small net to search
        results = [task(0, count)]
        tell(1.0)
        return results
    results = []
    with ThreadPoolExecutor(max(1, min(most, len(starts)))) as pool:
        for result in pool.map(task, starts, stops):
            results.append(result)
            tell(len(results) / len(starts))
    return results

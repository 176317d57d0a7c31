"""The symbolic phase: the pattern of J, found once from the patterns of D and I.

J = ds/dθ is units × weights in the mathematics. Its pattern is stored by weight, as the transpose:
one row per weight with the units that the weight reaches. Weights with the same reach form a
supernode, and each reach is stored once.
"""

import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from sparsegrad.cost import Cost, price, require_memory
from sparsegrad.kernels.reach import (
    check_reach,
    count_edges,
    count_reach,
    expand_reach,
    fill_reach,
    find_stray_weight,
    find_unsorted_row,
    group_rows,
    transpose_pattern,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_GROUPS_PER_TASK = 1024  # fewer walks are not worth a thread


@dataclass(frozen=True, eq=False, repr=False)
class ReachPattern:
    """The pattern of an influence matrix, immutable; `reach` makes one.

    Parameters
    ----------
    dynamics_indptr, dynamics_indices : int64 array, (units + 1,); int32 array, (nnz of D,)
        D = ∂s_t/∂s_{t-1} in CSR, columns sorted and unique. `dynamics_data` follows this order.
    immediate_indptr, immediate_indices : int64 array, (weights + 1,); int32 array, (nnz of I,)
        I = ∂s_t/∂θ in CSC, weight by weight, units sorted and unique. `immediate_data` follows
        this order.
    supernode : int32 array, (weights,)
        Each weight's supernode, numbered by first appearance.
    reach_indptr, reach_indices : int64 array, (supernodes + 1,); int32 array
        The sorted units of each supernode's reach.
    n : int
        Steps of reach; if the pattern was asked to saturate, the smallest n that does.
    saturated : bool
        Whether the reach is closed under D: SnAp-n is then exact RTRL.
    entries_by_n : tuple of int
        Entries of J for n' = 1, 2, ..., up to n or to saturation, whichever comes first.

    Raises
    ------
    TypeError, ValueError
        If the arrays do not fit together as told above.
    """

    dynamics_indptr: NDArray[np.int64]
    dynamics_indices: NDArray[np.int32]
    immediate_indptr: NDArray[np.int64]
    immediate_indices: NDArray[np.int32]
    supernode: NDArray[np.int32]
    reach_indptr: NDArray[np.int64]
    reach_indices: NDArray[np.int32]
    n: int
    saturated: bool
    entries_by_n: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("dynamics", "immediate", "reach"):
            self._freeze(name + "_indptr", np.int64)
            self._freeze(name + "_indices", np.int32)
        self._freeze("supernode", np.int32)
        self._validate()

    def _freeze(self, name: str, dtype: type) -> None:
        """Own the array and make it read-only; copy it if anybody else could write to it."""
        array = getattr(self, name)
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
            came = f"{array.dtype} array of {array.ndim} dimensions" if hasattr(
                array, "dtype") else type(array).__name__  # fmt: skip
            raise TypeError(f"{name} must be a 1-D array of {dtype.__name__}, got {came}")
        if array.flags.writeable or array.base is not None or not array.flags.c_contiguous:
            array = array.copy()
            array.setflags(write=False)
        object.__setattr__(self, name, array)

    def _validate(self) -> None:
        weights, units = self.shape
        if weights < 1 or units < 1:
            raise ValueError(f"a pattern must have units and weights, got {units} and {weights}")
        for name in ("dynamics", "immediate", "reach"):
            indptr, indices = getattr(self, name + "_indptr"), getattr(self, name + "_indices")
            _check_indptr(name + "_indptr", indptr, indices)
            row = find_unsorted_row(indptr, indices, units)
            if row >= 0:
                raise ValueError(
                    f"{name}_indices must be sorted, unique and in [0, {units}) within each row, "
                    f"got row {row} that is not; call reach() to build a pattern"
                )
        supernodes = self.reach_indptr.size - 1
        if self.supernode.size != weights:
            raise ValueError(f"supernode must have {weights} entries, got {self.supernode.size}")
        if self.supernode.min() < 0 or self.supernode.max() >= supernodes:
            raise ValueError(
                f"supernode must lie in [0, {supernodes}), "
                f"got {self.supernode.min()} to {self.supernode.max()}"
            )
        weight = find_stray_weight(
            self.immediate_indptr, self.immediate_indices, self.supernode,
            self.reach_indptr, self.reach_indices,
        )  # fmt: skip
        if weight >= 0:
            raise ValueError(
                f"each weight must reach the units it writes, got weight {weight} that does not; "
                "call reach() to build a pattern"
            )
        if not self.entries_by_n or self.entries_by_n[-1] != self.nnz or self.n < 1:
            raise ValueError(
                f"entries_by_n must end with the {self.nnz} entries of the pattern and n be at "
                f"least 1, got {self.entries_by_n[-1:]} and {self.n}"
            )

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def __repr__(self) -> str:
        weights, units = self.shape
        return (
            f"ReachPattern(weights={weights}, units={units}, n={self.n}, "
            f"saturated={self.saturated}, entries={self.nnz}, "
            f"density={self.nnz / (weights * units):.3g}, supernodes={self.reach_indptr.size - 1})"
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(weights, units): the pattern is stored by weight."""
        return self.immediate_indptr.size - 1, self.dynamics_indptr.size - 1

    @cached_property
    def nnz(self) -> int:
        """Entries of J: the sum over the weights of the size of their reach."""
        sizes = np.diff(self.reach_indptr)
        return int(np.dot(self._weights_per_supernode, sizes))

    @cached_property
    def _weights_per_supernode(self) -> NDArray[np.int64]:
        return np.bincount(self.supernode, minlength=self.reach_indptr.size - 1).astype(np.int64)

    @cached_property
    def _multiply_adds(self) -> int:
        edges = np.empty(self.reach_indptr.size - 1, np.int64)
        count_edges(
            self.dynamics_indptr, self.dynamics_indices, self.reach_indptr, self.reach_indices,
            edges, np.empty(self.shape[1], np.int32),
        )  # fmt: skip
        return int(np.dot(self._weights_per_supernode, edges))

    @cached_property
    def indptr(self) -> NDArray[np.int64]:
        """Pointers of the plain CSR, one row per weight: int64, (weights + 1,)."""
        indptr = np.zeros(self.shape[0] + 1, np.int64)
        np.cumsum(np.diff(self.reach_indptr)[self.supernode], out=indptr[1:])
        indptr.setflags(write=False)
        return indptr

    @cached_property
    def indices(self) -> NDArray[np.int32]:
        """Sorted units of each weight's reach, one row per weight: int32, (nnz,)."""
        require_memory(4 * self.nnz, "the CSR of the pattern by weight")
        indices = np.empty(self.nnz, np.int32)
        expand_reach(self.supernode, self.reach_indptr, self.reach_indices, self.indptr, indices)
        indices.setflags(write=False)
        return indices

    def to_scipy(self) -> "csr_array":
        """Return the pattern as a boolean csr_array, (weights, units), of all True."""
        # scipy.sparse takes 0.1 s to import, a fifth of what `import sparsegrad` may take
        from scipy.sparse import csr_array

        require_memory(self.nnz, "the values of the pattern by weight")
        return csr_array((np.ones(self.nnz, bool), self.indices, self.indptr), shape=self.shape)

    def cost(self, batch: int = 1, dtype: DTypeLike = "float32") -> Cost:
        """Exact cost of a step on this pattern.

        Parameters
        ----------
        batch : int
            Number of sequences, each with its own J.
        dtype : float32 or float64
            Type of the entries.

        Returns
        -------
        Cost
            entries, multiply_adds (per step) and bytes, for the whole batch.

        Raises
        ------
        TypeError, ValueError
            If the batch is not an integer of at least 1, or the dtype another.
        """
        return price(self.nnz, self._multiply_adds, batch, dtype)


def reach(dynamics: ArrayLike, immediate: ArrayLike, n: int | None = 2) -> ReachPattern:
    """Find the units that each weight reaches within n steps.

    Parameters
    ----------
    dynamics : scipy.sparse array or matrix of any format, or dense array, (units, units)
        Pattern of D = ∂s_t/∂s_{t-1}. What a sparse format stores is structure, explicit zeros
        too; of a dense array, what is not zero.
    immediate : the same, (units, weights)
        Pattern of I = ∂s_t/∂θ with s_{t-1} fixed.
    n : int or None
        Steps, at least 1; None for as many as it takes to saturate (exact RTRL).

    Returns
    -------
    ReachPattern
        The pattern of J, by weight.

    Raises
    ------
    TypeError
        If n is not an integer, or a pattern is neither sparse nor numeric.
    ValueError
        If a shape does not fit, n < 1, or there are no units or no weights.
    MemoryError
        If the pattern would not fit in memory; found before it is allocated.

    Notes
    -----
    reach_1(w) = rows of column w of I; reach_{m+1}(w) = reach_1(w) ∪ D·reach_m(w).
    Menick et al. 2021, arXiv 2006.07232, section 3.

    Examples
    --------
    A ring of four units, 0 → 1 → 2 → 3 → 0, with one weight into each:

    >>> import numpy as np
    >>> ring = np.roll(np.eye(4), 1, axis=0)
    >>> pattern = reach(ring, np.eye(4), n=2)
    >>> pattern.indices.reshape(4, 2).tolist()
    [[0, 1], [1, 2], [2, 3], [0, 3]]
    """
    if n is not None:
        if isinstance(n, bool) or not hasattr(n, "__index__"):
            raise TypeError(f"n must be an integer >= 1 or None to saturate, got {n!r}")
        n = operator.index(n)
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}; pass None to saturate")
    _check_shapes(dynamics, immediate)
    columns = _canonical("dynamics", dynamics, by_columns=True)
    rows = _transpose(columns)
    weights = _canonical("immediate", immediate, by_columns=True)
    return _Search(rows, columns, weights, n).run()


class _Rows(NamedTuple):
    """A pattern in compressed rows (or columns); sorted and unique once canonical."""

    indptr: NDArray[np.int64]  # (rows + 1,)
    indices: NDArray[np.int32]  # (nnz,)
    columns: int


class _Search:
    """One search for the reach: groups of weights with equal columns of I, and their walks."""

    def __init__(self, rows: _Rows, columns: _Rows, weights: _Rows, n: int | None) -> None:
        self.rows, self.columns, self.weights, self.n = rows, columns, weights, n
        self.units = columns.columns
        # every level but the last adds a unit: after so many steps nothing can be added
        self.steps = self.units + 1 if n is None else min(n, self.units + 1)
        self.seed = 0
        count = weights.indptr.size - 1
        self.group = np.empty(count, np.int32)
        first = np.empty(count, np.int32)
        table = np.empty(1 << int(count * 4 // 3).bit_length(), np.int32)
        groups = group_rows(
            weights.indptr, weights.indices, self._unit_hash(), self.group, first, table
        )
        self.first = first[:groups].copy()

    def _unit_hash(self) -> NDArray[np.int64]:
        generator = np.random.default_rng(self.seed)
        return generator.integers(0, 2**63 - 1, size=self.units, dtype=np.int64)

    def run(self) -> ReachPattern:
        size, key, levels, saturated = self._count()
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
            reach_indices = self._fill(lead, reach_indptr)
            if self._check(supernode, lead, reach_indptr, reach_indices):
                break
            self.seed += 1  # two reaches with one key: take other keys
            _, key, _, _ = self._count()
        arrays = (
            self.rows.indptr, self.rows.indices, self.weights.indptr, self.weights.indices,
            supernode[self.group], reach_indptr, reach_indices,
        )  # fmt: skip
        for array in arrays:
            array.setflags(write=False)
        n = last if self.n is None else self.n
        return ReachPattern(*arrays, n, saturated, tuple(entries[: min(n, last)]))

    def _count(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], bool]:
        groups = self.first.size
        multiplicity = np.bincount(self.group, minlength=groups).astype(np.int64)
        unit_hash = self._unit_hash()
        size = np.empty(groups, np.int64)
        key = np.empty(groups, np.int64)

        def task(start: int, stop: int) -> tuple[NDArray[np.int64], bool]:
            levels, marker, queue = self._scratch()
            saturated = count_reach(
                start, stop, self.steps, *self.columns[:2], *self.weights[:2], self.first,
                multiplicity, unit_hash, size, key, levels, marker, queue,
            )  # fmt: skip
            return levels, saturated

        results = _in_threads(task, groups)
        levels = np.sum([levels for levels, _ in results], axis=0)
        return size, key, levels, all(saturated for _, saturated in results)

    def _fill(self, lead: NDArray[np.int64], reach_indptr: NDArray[np.int64]) -> NDArray[np.int32]:
        weight_of = self.first[lead]
        reach_indices = np.empty(int(reach_indptr[-1]), np.int32)

        def task(start: int, stop: int) -> None:
            fill_reach(
                start, stop, self.steps, *self.columns[:2], *self.weights[:2], weight_of,
                reach_indptr, reach_indices, *self._scratch(),
            )  # fmt: skip

        _in_threads(task, lead.size)
        return reach_indices

    def _check(
        self,
        supernode: NDArray[np.int32],
        lead: NDArray[np.int64],
        reach_indptr: NDArray[np.int64],
        reach_indices: NDArray[np.int32],
    ) -> bool:
        if lead.size == self.first.size:
            return True  # nothing was merged
        weight_of = self.first[lead]

        def task(start: int, stop: int) -> bool:
            return check_reach(
                start, stop, self.steps, *self.columns[:2], *self.weights[:2], self.first,
                supernode, weight_of, reach_indptr, reach_indices, *self._scratch(),
            )  # fmt: skip

        return all(_in_threads(task, self.first.size))

    def _scratch(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
        """Levels, marker and queue of one walker."""
        return (
            np.zeros((self.steps, 2), np.int64),
            np.full(self.units, -1, np.int32),
            np.empty(self.units, np.int32),
        )


def _merge(key: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return each key's number, by first appearance, and the first place of each number."""
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(order.size, np.int32)
    rank[order] = np.arange(order.size, dtype=np.int32)
    return rank[inverse], first[order]


def _in_threads(task: Callable[[int, int], Any], count: int) -> list[Any]:
    """Run task(start, stop) over ranges of `count`, on as many threads as Numba may use."""
    threads = min(numba.config.NUMBA_NUM_THREADS, -(-count // _GROUPS_PER_TASK))
    if threads == 1:
        return [task(0, count)]
    cuts = np.linspace(0, count, 4 * threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(task, cuts[:-1], cuts[1:]))


def _check_shapes(dynamics: Any, immediate: Any) -> None:
    shapes = np.shape(dynamics), np.shape(immediate)
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


def _check_indptr(name: str, indptr: NDArray[Any], indices: NDArray[Any]) -> None:
    if indptr[0] != 0 or indptr[-1] != indices.size or (indptr[1:] < indptr[:-1]).any():
        raise ValueError(
            f"{name} must rise from 0 to the number of indices, {indices.size}, "
            f"got {indptr[0]} to {indptr[-1]}"
        )


def _canonical(name: str, matrix: Any, by_columns: bool) -> _Rows:
    """Columns (or rows) of a pattern: sorted, unique, explicit zeros kept."""
    stored_by_columns, raw = _compressed(name, matrix)
    once = _transpose(raw)
    return once if stored_by_columns != by_columns else _transpose(once)


def _compressed(name: str, matrix: Any) -> tuple[bool, _Rows]:
    """Return whether a pattern is stored by columns, and its pointers and indices as they are."""
    if hasattr(matrix, "tocsr"):  # any format of scipy.sparse, without importing it
        if matrix.format == "dia":  # its conversions drop explicit zeros: convert ones instead
            ones = np.ones(matrix.data.shape, bool)
            matrix = type(matrix)((ones, matrix.offsets), shape=matrix.shape)
        if matrix.format not in ("csr", "csc"):
            matrix = matrix.tocsr()
        by_columns = matrix.format == "csc"
        bound = matrix.shape[0 if by_columns else 1]
        indptr, indices = matrix.indptr, matrix.indices
        _check_indptr(f"{name}.indptr", indptr, indices[: indptr[-1]])
        indices = indices[: indptr[-1]]
        if indices.size and (indices.min() < 0 or indices.max() >= bound):
            raise ValueError(
                f"{name}.indices must lie in [0, {bound}), got {indices.min()} to {indices.max()}"
            )
    else:
        dense = np.asarray(matrix)
        if dense.dtype.kind not in "biufc":
            raise TypeError(
                f"{name} must be a scipy.sparse array or a dense array of numbers or bool, "
                f"got {type(matrix).__name__} of {dense.dtype}"
            )
        by_columns, bound = False, dense.shape[1]
        indices = np.nonzero(dense)[1]
        indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(dense, axis=1))])
    return by_columns, _Rows(
        np.ascontiguousarray(indptr, np.int64), np.ascontiguousarray(indices, np.int32), bound
    )


def _transpose(pattern: _Rows) -> _Rows:
    indptr = np.empty(pattern.columns + 1, np.int64)
    indices = np.empty(pattern.indices.size, np.int32)
    transpose_pattern(*pattern[:2], indptr, indices, np.empty(pattern.columns, np.int32))
    if indptr[-1] < indices.size:  # there were duplicates
        indices = indices[: indptr[-1]].copy()
    return _Rows(indptr, indices, pattern.indptr.size - 1)

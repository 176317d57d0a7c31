"""The symbolic phase: the pattern of J, found once from the patterns of D and I.

J = ds/dθ is units × weights in the mathematics. Its pattern is stored by weight, as the transpose:
one row per weight with the units that the weight reaches. Weights with the same reach form a
supernode, and each reach is stored once.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from sparsegrad.kernels.symbolic.patterns import (
    count_edges,
    expand_reach,
    find_stray_weight,
    find_unsorted_row,
)
from sparsegrad.symbolic.budget import find_within, ranks_of
from sparsegrad.symbolic.cost import Cost, price
from sparsegrad.symbolic.own import followed
from sparsegrad.symbolic.rows import Rows, canonical, check_indptr, check_shapes, values_on
from sparsegrad.symbolic.search import find_reach
from sparsegrad.system.checks import integer, sealed
from sparsegrad.system.memory import require_memory
from sparsegrad.system.schema import flag, listed, record, refuse, whole
from sparsegrad.system.tensorfile import read_tensors, write_tensors

if TYPE_CHECKING:
    from scipy.sparse import csr_array


_ARRAYS = ("_indptr", "_indices", "supernode", "levels")
_MOST_SOURCES = 2**31 - 1  # entries of D
_ABOUT = record({"n": whole(1), "saturated": flag, "entries_by_n": listed(whole())})
"""What a file of a pattern says beside its arrays."""


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
    levels : int32 array, (units,), optional
        In which order a step forms its units, from 0: an entry of D in a row of a higher level than
        its column is a derivative by this step's state, ∂s_t/∂s_t. An Influence knows of them, the
        csr kernels do not. Default: there are none.

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
    levels: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        for name in ("dynamics", "immediate", "reach"):
            self._freeze(name + "_indptr", np.int64)
            self._freeze(name + "_indices", np.int32)
        self._freeze("supernode", np.int32)
        if self.levels is not None:
            self._freeze("levels", np.int32)
        self._validate()

    def _freeze(self, name: str, dtype: type) -> None:
        """Own the array and seal it; copy it if anybody else could write to it."""
        array = getattr(self, name)
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
            came = f"{array.dtype} array of {array.ndim} dimensions" if hasattr(
                array, "dtype") else type(array).__name__  # fmt: skip
            raise TypeError(f"{name} must be a 1-D array of {dtype.__name__}, got {came}")
        if not isinstance(array.base, memoryview):
            array = sealed(array.copy(order="C"))
        object.__setattr__(self, name, array)

    def _validate(self) -> None:
        weights, units = self.shape
        if weights < 1 or units < 1:
            raise ValueError(f"a pattern must have units and weights, got {units} and {weights}")
        for name in ("dynamics", "immediate", "reach"):
            indptr, indices = getattr(self, name + "_indptr"), getattr(self, name + "_indices")
            check_indptr(name + "_indptr", indptr, indices)
            row = find_unsorted_row(indptr, indices, units)
            if row >= 0:
                raise ValueError(
                    f"{name}_indices must be sorted, unique and in [0, {units}) within each row, "
                    f"got row {row} that is not; call reach() to build a pattern"
                )
        levels = self.levels
        if levels is not None and not (levels.size == units and 0 <= levels.min()):
            raise ValueError(
                f"levels must be a number of at least 0 for each of {units} units, got "
                f"{levels.size}, the least {levels.min(initial=0)}"
            )
        if self.dynamics_indices.size > _MOST_SOURCES:
            raise ValueError(
                f"dynamics must have at most {_MOST_SOURCES} entries, got "
                f"{self.dynamics_indices.size}: kernels keep their places in 32 bits"
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
        if type(self.n) is not int or type(self.saturated) is not bool:
            raise TypeError(
                f"n must be an integer and saturated must be True or False, got {self.n!r} and "
                f"{self.saturated!r}"
            )
        if not self.entries_by_n or self.entries_by_n[-1] != self.nnz or self.n < 1:
            raise ValueError(
                f"entries_by_n must end with the {self.nnz} entries of the pattern and n be at "
                f"least 1, got {self.entries_by_n[-1:]} and {self.n}"
            )

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> "ReachPattern":
        return self  # nobody can change it

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
        return int(np.dot(self.weights_per_supernode, np.diff(self.reach_indptr)))

    @cached_property
    def weights_per_supernode(self) -> NDArray[np.int64]:
        """How many weights each supernode has: int64, (supernodes,)."""
        return np.bincount(self.supernode, minlength=self.reach_indptr.size - 1).astype(np.int64)

    @cached_property
    def edges_per_supernode(self) -> NDArray[np.int64]:
        """Entries of D among the units of each supernode's reach: int64, (supernodes,)."""
        edges = np.empty(self.reach_indptr.size - 1, np.int64)
        count_edges(
            self.dynamics_indptr, self.dynamics_indices, self.reach_indptr, self.reach_indices,
            edges, np.empty(self.shape[1], np.int32),
        )  # fmt: skip
        return edges

    @cached_property
    def indptr(self) -> NDArray[np.int64]:
        """Pointers of the plain CSR, one row per weight: int64, (weights + 1,)."""
        indptr = np.zeros(self.shape[0] + 1, np.int64)
        np.cumsum(np.diff(self.reach_indptr)[self.supernode], out=indptr[1:])
        return sealed(indptr)

    @cached_property
    def indices(self) -> NDArray[np.int32]:
        """Sorted units of each weight's reach, one row per weight: int32, (nnz,)."""
        require_memory(4 * self.nnz, "the CSR of the pattern by weight")
        indices = np.empty(self.nnz, np.int32)
        expand_reach(self.supernode, self.reach_indptr, self.reach_indices, self.indptr, indices)
        return sealed(indices)

    def csr(self, itemsize: int) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Return copies of `indices` and `indptr` for a matrix of scipy: int32 where that fits.

        Raises
        ------
        MemoryError
            If they do not fit, with `nnz` values of so many bytes beside them.
        """
        place = np.dtype(np.int32 if self.nnz < 2**31 else np.int64)
        need = self.nnz * (itemsize + 4) + self.indptr.size * place.itemsize
        require_memory(need, "a matrix on the pattern")
        return self.indices.copy(), self.indptr.astype(place)

    def dynamics_data_of(self, dynamics: Any) -> NDArray[Any]:
        """Return a matrix's values as `Influence.update` takes them: those of D in CSR order.

        Parameters
        ----------
        dynamics : scipy.sparse array or matrix of any format, (units, units)
            Values of D on the pattern that `reach` got, in any order; what is not stored is 0.

        Returns
        -------
        array, (nnz of D,)
            Of the matrix's dtype.

        Raises
        ------
        TypeError, ValueError
            If it is not sparse, of another shape, or has an entry outside the pattern.
        """
        units = self.shape[1]
        pattern = self.dynamics_indptr, self.dynamics_indices
        return values_on("dynamics", dynamics, (units, units), False, *pattern)

    def immediate_data_of(self, immediate: Any) -> NDArray[Any]:
        """Return the values of I, (units, weights), in CSC order; as :meth:`dynamics_data_of`."""
        pattern = self.immediate_indptr, self.immediate_indices
        return values_on("immediate", immediate, self.shape[::-1], True, *pattern)

    def to_scipy(self) -> "csr_array":
        """Return the pattern as a boolean csr_array, (weights, units), of all True: a copy."""
        # scipy.sparse takes 0.1 s to import, a fifth of what `import sparsegrad` may take
        from scipy.sparse import csr_array

        kept = self.csr(1)
        return csr_array((np.ones(self.nnz, bool), *kept), shape=self.shape)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the pattern to a safetensors file, whole or not at all.

        Parameters
        ----------
        path : path
            A file that is there is replaced once the new one is complete.

        Raises
        ------
        OSError
            If the file cannot be written.
        ModuleNotFoundError
            If safetensors is not installed.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["entries_by_n"] = list(map(int, self.entries_by_n))
        if self.levels is None:
            del values["levels"]
        arrays = {name: values.pop(name) for name in list(values) if name.endswith(_ARRAYS)}
        write_tensors(Path(path), arrays, values, kind="reach pattern")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "ReachPattern":
        """Read a pattern that `save` wrote, and check all of it.

        Parameters
        ----------
        path : path

        Returns
        -------
        ReachPattern
            The same arrays, without another symbolic phase.

        Raises
        ------
        ValueError
            If the file is foreign, damaged, or holds no pattern.
        OSError
            If the file cannot be read.
        ModuleNotFoundError
            If safetensors is not installed.
        """
        arrays, about = read_tensors(Path(path), kind="reach pattern")
        about = _ABOUT(f"{path}:", about)
        names = {field.name for field in fields(cls)} - about.keys()
        names -= {"levels"} - arrays.keys()  # of most patterns there are none
        if names != arrays.keys():
            refuse(f"{path}: the arrays", f"{', '.join(sorted(names))}", sorted(arrays))
        arrays = {name: sealed(np.ascontiguousarray(array)) for name, array in arrays.items()}
        values: dict[str, Any] = {**arrays, **about}
        values["entries_by_n"] = tuple(about["entries_by_n"])
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no valid pattern: {error}") from None

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
        multiply_adds = int(np.dot(self.weights_per_supernode, self.edges_per_supernode))
        return price(self.nnz, multiply_adds, batch, dtype)


def part_of(pattern: ReachPattern, first: int, last: int) -> ReachPattern:
    """Return the pattern of weights `first` to `last` - 1 alone.

    It is the same whatever else the pattern has: supernodes are numbered as they first appear.
    """
    _, at, inverse = np.unique(
        pattern.supernode[first:last], return_index=True, return_inverse=True
    )
    order = np.argsort(at)
    rank = np.empty(order.size, np.int32)
    rank[order] = np.arange(order.size, dtype=np.int32)
    lead = pattern.supernode[first + at[order]]
    begin, size = pattern.reach_indptr[lead], np.diff(pattern.reach_indptr)[lead]
    indptr = np.concatenate([[0], np.cumsum(size)])
    place = np.arange(indptr[-1]) + np.repeat(begin - indptr[:-1], size)
    written = pattern.immediate_indptr[first : last + 1]
    supernode = rank[inverse]
    return ReachPattern(
        dynamics_indptr=pattern.dynamics_indptr,
        dynamics_indices=pattern.dynamics_indices,
        immediate_indptr=sealed(written - written[0]),
        immediate_indices=sealed(pattern.immediate_indices[written[0] : written[-1]].copy()),
        supernode=sealed(supernode),
        reach_indptr=sealed(indptr),
        reach_indices=sealed(pattern.reach_indices[place]),
        n=pattern.n,
        saturated=pattern.saturated,
        entries_by_n=(int(np.dot(np.bincount(supernode, minlength=size.size), size)),),
        levels=pattern.levels,
    )


def joined(parts: list[ReachPattern]) -> ReachPattern:
    """Return the pattern of the weights of several, one after the other, on the same D.

    Supernodes of two parts stay two, also where their reaches are equal.
    """

    def indptr(name: str) -> NDArray[np.int64]:
        sizes = [np.diff(getattr(part, name)) for part in parts]
        return sealed(np.concatenate([[0], np.cumsum(np.concatenate(sizes))]))

    before = np.cumsum([0, *(part.reach_indptr.size - 1 for part in parts)])
    supernodes = [part.supernode + shift for part, shift in zip(parts, before, strict=False)]
    return ReachPattern(
        dynamics_indptr=parts[0].dynamics_indptr,
        dynamics_indices=parts[0].dynamics_indices,
        immediate_indptr=indptr("immediate_indptr"),
        immediate_indices=sealed(np.concatenate([part.immediate_indices for part in parts])),
        supernode=sealed(np.concatenate(supernodes).astype(np.int32)),
        reach_indptr=indptr("reach_indptr"),
        reach_indices=sealed(np.concatenate([part.reach_indices for part in parts])),
        n=max(part.n for part in parts),
        saturated=all(part.saturated for part in parts),
        entries_by_n=(sum(part.nnz for part in parts),),
        levels=parts[0].levels,
    )


def reach(
    dynamics: ArrayLike,
    immediate: ArrayLike,
    n: int | None = 2,
    progress: Callable[[float], object] | None = None,
    own: ArrayLike | None = None,
    budget: int | None = None,
    rank: Any = None,
    levels: NDArray[np.integer] | None = None,
) -> ReachPattern:
    """Find the units that each weight reaches within n steps.

    Parameters
    ----------
    dynamics : scipy.sparse array or matrix of any format, or dense array, (units, units)
        Pattern of D = ∂s_t/∂s_{t-1}: what a sparse format stores, zeros too; else what is not 0.
    immediate : the same, (units, weights)
        Pattern of I = ∂s_t/∂θ with s_{t-1} fixed.
    n : int or None
        Steps; None for as many as it takes to saturate (exact RTRL).
    progress : callable, optional
        Told the part that is done, rising to 1.
    own : the same as dynamics, optional
        Entries of D that cost no step, such as those within a unit: `n` then counts maps crossed.
    budget : int, optional
        Entries of J at most: the nearest are kept, by hops, then by the number of paths.
    rank : scipy.sparse matrix or array, (units, units) or (nnz of D,), optional
        With a budget: magnitudes of D's entries, whose product a path counts.
    levels : int array, (units,), optional
        As of ReachPattern: in which order a step forms its units. Every entry of D is a hop.

    Returns
    -------
    ReachPattern

    Warns
    -----
    UserWarning
        If indices come unsorted: the pattern is put right, values in their own order are not.

    Raises
    ------
    TypeError, ValueError
        If n or the budget is no integer or too small (SnAp-1 is the least), or shapes do not fit.
    MemoryError
        If it would not fit; found before it is allocated.

    Notes
    -----
    reach_1(w) = rows of column w of I, reach_{m+1}(w) = reach_1(w) ∪ D·reach_m(w); each holds
    what `own` leads to from it. Menick et al. 2021, arXiv 2006.07232, section 3.

    Examples
    --------
    >>> import numpy as np  # a ring of four units, one weight into each
    >>> reach(np.roll(np.eye(4), 1, axis=0), np.eye(4), n=2).indices.reshape(4, 2).tolist()
    [[0, 1], [1, 2], [2, 3], [0, 3]]
    """
    found = _find(dynamics, immediate, n, progress, own, budget, rank)
    return ReachPattern(**found, levels=_levels(levels))


def _levels(levels: Any) -> NDArray[np.int32] | None:
    if levels is None:
        return None
    array = np.asarray(levels)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise TypeError(f"levels must be a 1-D array of integers, got {array.dtype} {array.shape}")
    return array.astype(np.int32)


def _find(
    dynamics: ArrayLike,
    immediate: ArrayLike,
    n: int | None,
    progress: Callable[[float], object] | None,
    own: ArrayLike | None,
    budget: int | None,
    rank: Any,
) -> dict[str, Any]:
    """Return the fields of a pattern that a search finds; the arguments of `reach`."""
    check_shapes(dynamics, immediate)
    rows = canonical("dynamics", dynamics, by_columns=False, valued=True)
    weights = canonical("immediate", immediate, by_columns=True, valued=True)
    n = None if n is None else integer("n", n, least=1, hint="; pass None to saturate")
    links = (rows, weights) if own is None else followed(own, rows, weights)
    if rank is not None and (budget is None or own is not None):
        raise ValueError("rank must come with a budget and without own, whose paths are not D's")
    if budget is None:
        found = find_reach(*links, n, progress)
    else:
        budget = integer("budget", budget, least=1, hint="; it counts entries of J")
        found = find_within(*links, n, budget, ranks_of(rank, links[0]))
    return found | _kept(rows, weights)


def _kept(rows: Rows, weights: Rows) -> dict[str, NDArray[Any]]:
    """Return the patterns of D and I themselves, as a ReachPattern's fields."""
    return {
        "dynamics_indptr": sealed(rows.indptr),
        "dynamics_indices": sealed(rows.indices),
        "immediate_indptr": sealed(weights.indptr),
        "immediate_indices": sealed(weights.indices),
    }

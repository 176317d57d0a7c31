"""A pattern within a budget of entries: what is nearest to each weight, by the most paths.

All places (supernode, unit) have one order: by hops from the weight, then by the paths of that
length that lead there, most first, then by weight and unit. A budget takes what comes first in that
order, until the next one does not fit. So a larger budget keeps all that a smaller one does,
SnAp-1 is the smallest, and a budget that holds the whole reach cuts nothing.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.symbolic.patterns import Rows
from sparsegrad.kernels.symbolic.ranked import Level, rank_level
from sparsegrad.symbolic.rows import values_on
from sparsegrad.symbolic.search import Search, find_reach, in_threads, merge_rows
from sparsegrad.system.checks import plain, sealed
from sparsegrad.system.memory import require_memory


def find_within(
    dynamics: Rows, weights: Rows, n: int | None, budget: int, ranks: NDArray[np.float64]
) -> dict[str, Any]:
    """Find the reach that a budget of entries allows, from D by rows and I by columns.

    Parameters
    ----------
    dynamics, weights : Rows
        Canonical.
    n : int or None
    budget : int
        Entries of J at most.
    ranks : float64 array, (nnz of D,)
        What each entry of D counts for a path, by rows.

    Returns
    -------
    dict
        The fields of a ReachPattern by their names, the arrays read-only.

    Raises
    ------
    ValueError
        If the budget is below the entries of SnAp-1.
    """
    search = Search(dynamics, weights, n)
    levels = search.count_levels() if n is None else search.count()[2]
    entries = np.cumsum(levels[:, 1])
    if budget < entries[0]:
        raise ValueError(
            f"budget must be at least {entries[0]} entries, those of SnAp-1, got {budget}"
        )
    if budget >= entries[-1]:
        return find_reach(dynamics, weights, n)
    whole = int(np.searchsorted(entries, budget, side="right"))
    by_level = entries[:whole].tolist()
    inner = Search(dynamics, weights, whole)
    reach, kept = _nearest(inner, whole + 1, budget - by_level[-1], _by_columns(dynamics, ranks))
    supernode, reach = merge_rows(reach)
    arrays: dict[str, NDArray[Any]] = {
        "supernode": supernode[inner.group],
        "reach_indptr": reach.indptr,
        "reach_indices": reach.indices,
    }
    return {
        **{name: sealed(array) for name, array in arrays.items()},
        "n": whole + 1 if n is None else n,
        "saturated": False,
        "entries_by_n": (*by_level, by_level[-1] + kept) if kept else tuple(by_level),
    }


def _nearest(
    search: Search, level: int, budget: int, ranks: NDArray[np.float64]
) -> tuple[Rows, int]:
    """Return the reach of each group with what a budget allows of the next level, and its entries.

    `search` goes as far as the level before; `ranks` are by columns.
    """
    groups, size = search.first.size, search.count()[0]
    indptr = np.zeros(groups + 1, np.int64)
    np.cumsum(size, out=indptr[1:])
    require_memory(12 * int(indptr[-1]), "the reach of a pattern")
    indices = search.fill(np.arange(groups), indptr)
    group, unit, paths = _next_level(search, level, ranks)
    order = np.lexsort((unit, search.first[group], -paths))
    group, unit = group[order], unit[order]
    spent = np.cumsum(search.multiplicity()[group])
    kept = int(np.searchsorted(spent, budget, side="right"))
    of = np.concatenate([np.repeat(np.arange(groups), size), group[:kept]])
    indices = np.concatenate([indices, unit[:kept]])
    np.cumsum(np.bincount(of, minlength=groups), out=indptr[1:])
    reach = Rows(indptr, indices[np.lexsort((indices, of))], search.units)
    return reach, int(spent[kept - 1]) if kept else 0


def ranks_of(rank: Any, dynamics: Rows) -> NDArray[np.float64]:
    """Return what each entry of D counts for a path, by rows: 1, or the magnitude of `rank`.

    Raises
    ------
    TypeError, ValueError
        If `rank` has no numbers, another shape, an entry outside D or one that is not finite.
    """
    size, units = dynamics.indices.size, dynamics.columns
    if rank is None:
        return np.ones(size)
    if hasattr(rank, "tocsr"):
        rank = values_on("rank", rank, (units, units), False, *dynamics[:2])
    values = plain("rank", rank)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"rank must be numbers, got {values.dtype}")
    if values.shape != (size,):
        raise ValueError(f"rank must have shape ({size},), a number per entry of D, got "
                         f"{values.shape}")  # fmt: skip
    values = np.abs(values.astype(np.float64))
    if not np.isfinite(values).all():
        raise ValueError("rank must be finite, got NaN or infinity")
    return values


def _by_columns(dynamics: Rows, ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values of D's entries by columns, given by rows."""
    return ranks[np.argsort(dynamics.indices, kind="stable")]


def _next_level(
    search: Search, level: int, ranks: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    """Return group, unit and paths of all places that a level adds."""
    groups = search.first.size
    counts, offsets = np.zeros(groups, np.int64), np.zeros(groups, np.int64)
    found = Level(counts, offsets, np.empty(0, np.int32), np.empty(0))

    def task(start: int, stop: int) -> None:
        rank_level(
            start, stop, level, search.columns, ranks, search.weights, search.first, found,
            search.walker(), np.empty(search.units, np.int32), np.empty(search.units),
        )  # fmt: skip

    in_threads(task, groups)
    np.cumsum(found.counts[:-1], out=found.offsets[1:])
    total = int(found.counts.sum())
    require_memory(44 * total, "the ranks of a level of the reach")
    found = found._replace(units=np.empty(total, np.int32), paths=np.empty(total))
    in_threads(task, groups)
    return np.repeat(np.arange(groups), found.counts), found.units, found.paths

"""What exact RTRL costs on a net, counted without building its reach pattern.

A saturated reach R is closed under D: whatever a unit of R feeds is in R. So the multiply-adds of
a weight are |{(i, m) : D[i, m] ≠ 0, m ∈ R}|, the out-edges of R's units, and both counts are sums
over the strongly connected components that R is made of. In a random net nearly all units are in
one component, whose closure is found once; walks over the few others stop there. That makes
100,000 units countable whose pattern would have 10¹⁰ places.
"""

import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.symbolic.patterns import Rows
from sparsegrad.kernels.symbolic.saturation import measure_closures
from sparsegrad.symbolic.search import Search, in_threads


def measure_saturation(dynamics: Rows, weights: Rows) -> tuple[int, int]:
    """Count the entries and the multiply-adds per step of exact RTRL.

    Parameters
    ----------
    dynamics : Rows
        D by rows, canonical.
    weights : Rows
        I by columns, canonical.

    Returns
    -------
    entries, multiply_adds : int
        The same as `reach(dynamics, immediate, n=None).cost()` counts.
    """
    search = Search(dynamics, weights, None)
    label, touched = search.share_components()
    fed_by = search.columns  # D[i, m] is the edge m → i
    units = np.bincount(label, minlength=touched.columns)
    edges = np.zeros(touched.columns, np.int64)
    np.add.at(edges, label, np.diff(fed_by.indptr))
    giant = int(np.argmax(units))
    below = _closure(fed_by, label, giant, touched.columns)
    successors = _successors(fed_by, label, giant, touched.columns)
    whole = np.array([units[below].sum(), edges[below].sum()])
    multiplicity = search.multiplicity()
    closed = np.empty((multiplicity.size, 2), np.int64)

    def task(start: int, stop: int) -> None:
        measure_closures(
            start, stop, successors, touched, units, edges, below, giant, whole,
            closed, search.walker(),
        )  # fmt: skip

    in_threads(task, multiplicity.size)
    entries, multiply_adds = (multiplicity @ closed).tolist()
    return entries, multiply_adds


def _closure(fed_by: Rows, label: NDArray[np.int32], start: int, count: int) -> NDArray[np.bool_]:
    """Whether each component is reached from `start`: bool, (components,)."""
    from scipy.sparse import csr_array  # 0.2 s to import, as in symbolic
    from scipy.sparse.csgraph import breadth_first_order

    ones = np.ones(fed_by.indices.size, np.int8)
    graph = csr_array((ones, fed_by.indices, fed_by.indptr), shape=[label.size] * 2)
    unit = int(np.argmax(label == start))
    reached = breadth_first_order(graph, unit, return_predecessors=False)
    closure = np.zeros(count, bool)
    closure[label[reached]] = True
    return closure


def _successors(fed_by: Rows, label: NDArray[np.int32], giant: int, count: int) -> Rows:
    """Return what each component feeds; the giant one nothing, so that walks stop there."""
    source = np.repeat(label, np.diff(fed_by.indptr)).astype(np.int64)
    target = label[fed_by.indices]
    codes = np.unique((source * count + target)[(source != target) & (source != giant)])
    indptr = np.searchsorted(codes // count, np.arange(count + 1))
    return Rows(indptr.astype(np.int64), (codes % count).astype(np.int32), count)

"""Exact cost of RTRL on a sparse structure, without building its reach pattern.

A saturated reach R is closed under D: whatever a unit of R feeds is in R. So the multiply-adds of
a weight are |{(i, m) : D[i, m] ≠ 0, m ∈ R}|, the out-edges of R's units, and both counts are sums
over the strongly connected components that R is made of. In a random net nearly all units are in
one component, whose closure is found once; the few others are walked one by one. That makes
100,000 units countable whose pattern would have 10¹⁰ places.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from sparsegrad.structures import Structure


def saturated_counts(structure: Structure) -> tuple[int, int]:
    """Count the entries and the multiply-adds per step of exact RTRL.

    Parameters
    ----------
    structure : Structure
        Patterns of D and I.

    Returns
    -------
    entries, multiply_adds : int
        The same as `reach(dynamics, immediate, n=None).cost()` counts.
    """
    dynamics = structure.dynamics
    count, label = connected_components(dynamics, directed=True, connection="strong")
    size = np.bincount(label, minlength=count)
    # D[i, m] is the edge m → i, so out-edges are counted in columns
    edges = np.bincount(label[dynamics.indices], minlength=count)
    weights = np.bincount(label, weights=structure.weights_by_start, minlength=count)
    entries = multiply_adds = 0
    for component, (units, out) in _closures(dynamics, label, size, edges, weights > 0):
        entries += int(weights[component]) * units
        multiply_adds += int(weights[component]) * out
    return entries, multiply_adds


def _closures(
    dynamics: sparse.csr_array,
    label: NDArray[np.int32],
    size: NDArray[np.int64],
    edges: NDArray[np.int64],
    wanted: NDArray[np.bool_],
) -> list[tuple[int, tuple[int, int]]]:
    """Return (units, out-edges) of the closure of each wanted component."""
    successors = _successors(dynamics, label, len(size))
    giant = int(np.argmax(size))
    closure = _walk(giant, successors, stop=-1)
    below_units, below_out = int(size[list(closure)].sum()), int(edges[list(closure)].sum())
    found = []
    for component in np.flatnonzero(wanted).tolist():
        members = _walk(component, successors, stop=giant)
        units = out = 0
        if giant in members:
            members, units, out = members - closure, below_units, below_out
        own = list(members)
        found.append((component, (units + int(size[own].sum()), out + int(edges[own].sum()))))
    return found


def _successors(
    dynamics: sparse.csr_array, label: NDArray[np.int32], count: int
) -> dict[int, list[int]]:
    target = np.repeat(label, np.diff(dynamics.indptr)).astype(np.int64)
    source = label[dynamics.indices].astype(np.int64)
    codes = np.unique((source * count + target)[source != target])
    successors: dict[int, list[int]] = {}
    for code in codes.tolist():
        successors.setdefault(code // count, []).append(code % count)
    return successors


def _walk(start: int, successors: dict[int, list[int]], stop: int) -> set[int]:
    """Return the components reached from `start`; what follows `stop` alone is left out."""
    members, waiting = {start}, [start]
    while waiting:
        component = waiting.pop()
        if component == stop:
            continue
        fresh = [c for c in successors.get(component, ()) if c not in members]
        members.update(fresh)
        waiting.extend(fresh)
    return members

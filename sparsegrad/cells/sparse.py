"""Cells from sparse matrices and from lists of edges, without a dense array on the way."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.system.checks import integer


def is_sparse(matrix: Any) -> bool:
    """Whether it is a matrix or array of scipy.sparse."""
    return hasattr(matrix, "tocsr")


def stored(name: str, matrix: Any) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the places that a sparse matrix stores, row by row and ascending, and its values.

    Raises
    ------
    ValueError
        If it stores a place twice.
    """
    rows = matrix.tocsr()
    width = rows.shape[1]
    row = np.repeat(np.arange(rows.shape[0], dtype=np.int64), np.diff(rows.indptr))
    places, values = row * width + rows.indices, np.asarray(rows.data)
    if places.size and not (places[1:] > places[:-1]).all():
        order = np.argsort(places, kind="stable")
        places, values = places[order], values[order]
        twice = np.flatnonzero(places[1:] == places[:-1])
        if twice.size:
            at = divmod(int(places[twice[0]]), width)
            raise ValueError(
                f"{name} must store each weight once, got {at} twice: call sum_duplicates()"
            )
    return places, values


def edges_to_matrix(sources: Any, targets: Any, weights: Any, units: int, gates: int) -> Any:
    """Return the sparse ``weight_hh`` of a list of edges, (gates * units, units).

    Raises
    ------
    TypeError, ValueError
        If the lists do not fit together, a unit does not exist, or an edge comes twice.
    """
    from scipy.sparse import csr_array  # 0.2 s to import, which building a cell need not wait for

    units = integer("units", units, least=1)
    ends = {"sources": np.asarray(sources), "targets": np.asarray(targets)}
    for name, end in ends.items():
        if end.ndim != 1 or end.dtype.kind not in "iu":
            raise TypeError(
                f"{name} must be a list of integers, got {end.dtype} of shape {end.shape}"
            )
        if end.size and (end.min() < 0 or end.max() >= units):
            raise ValueError(f"{name} must lie in [0, {units}), got {end.min()} to {end.max()}")
    source, target = (end.astype(np.int64) for end in ends.values())
    values = np.asarray(weights)
    if values.ndim == 1 and gates == 1:
        values = values[None]
    if source.shape != target.shape or values.shape != (gates, source.size):
        raise ValueError(
            f"targets must be as many as sources, {source.size}, and weights "
            f"({gates}, {source.size}), a row for each gate, got {target.size} and {values.shape}"
        )
    place = target * units + source
    order = np.argsort(place, kind="stable")
    twice = np.flatnonzero(np.diff(place[order]) == 0)
    if twice.size:
        edge = order[twice[0]]
        raise ValueError(
            f"an edge must come once, got {source[edge]} to {target[edge]} twice: add them up"
        )
    counts = np.bincount(target, minlength=units)
    indptr = np.concatenate([[0], np.cumsum(np.tile(counts, gates))])
    indices = np.tile(source[order], gates)
    data = np.ascontiguousarray(values[:, order]).reshape(-1)
    return csr_array((data, indices, indptr), shape=(gates * units, units))

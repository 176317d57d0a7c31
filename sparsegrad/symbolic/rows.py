"""The gate for patterns: what a caller gives, as sorted and unique rows of our own."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.symbolic.patterns import (
    Rows,
    find_unsorted_row,
    spread_entries,
    transpose_pattern,
)


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
        # a graph counts as a list of its nodes to NumPy
        listed = isinstance(matrix, list | tuple) or hasattr(matrix, "__array__")
        dense = np.asarray(matrix if listed else None)
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
    own.eliminate_zeros()  # a 0 outside the pattern is what stands there; blocks store many
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
        stored = transpose(stored)
    return transpose(stored)


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


def transpose(pattern: Rows) -> Rows:
    """Columns of a pattern, sorted and unique whatever the order of what came in."""
    indptr = np.empty(pattern.columns + 1, np.int64)
    indices = np.empty(pattern.indices.size, np.int32)
    transpose_pattern(*pattern[:2], indptr, indices, np.empty(pattern.columns, np.int32))
    if indptr[-1] < indices.size:  # there were duplicates
        indices = indices[: indptr[-1]].copy()
    return Rows(indptr, indices, pattern.indptr.size - 1)

"""Which rows of a Jacobian of known pattern one vector-Jacobian product can hold."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def colour_rows(*patterns: sparse.csr_array) -> NDArray[np.int32]:
    """Colour rows so that rows of one colour share no column in any of the patterns.

    The sum of such rows, one vector-Jacobian product, holds each of their entries by itself
    (Curtis, Powell and Reid 1974; greedily, the fullest rows first).

    Parameters
    ----------
    patterns : csr_array, (rows, columns) each
        What is stored is structure.

    Returns
    -------
    int32 array, (rows,)
        Colours from 0, without gaps.
    """
    rows = patterns[0].shape[0]
    conflicts = sparse.csr_array((rows, rows), dtype=np.int64)
    for pattern in patterns:
        ones = sparse.csr_array(
            (np.ones(pattern.indices.size, np.int64), pattern.indices, pattern.indptr),
            shape=pattern.shape,
        )
        conflicts = conflicts + ones @ ones.T
    colours = np.full(rows, -1, np.int32)
    for row in np.argsort(-np.diff(conflicts.indptr), kind="stable"):
        near = conflicts.indices[conflicts.indptr[row] : conflicts.indptr[row + 1]]
        taken = set(colours[near].tolist())
        colours[row] = next(c for c in range(rows) if c not in taken)
    return colours


def as_pattern(name: str, pattern: Any, shape: tuple[int, int]) -> sparse.csr_array:
    """Return a pattern, sparse or dense, as a csr_array of bool with sorted, unique columns.

    Raises
    ------
    ValueError
        If its shape is another.
    """
    found = sparse.csr_array(pattern)
    if found.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {found.shape}")
    found = sparse.csr_array(
        (np.ones(found.indices.size, bool), found.indices, found.indptr), shape=shape
    )
    found.sum_duplicates()
    return found

"""At the boundary: J between its panels and a plain CSR by weight."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .tables import (
    COUNT_REACHED,
    FIRST_COLUMN,
    FIRST_MEMBER,
    FIRST_REACHED,
    INSET,
    OFFSET,
    PANEL_ROW,
    STRIDE,
    WIDTH,
)


@njit(cache=True, nogil=True)
def panels_to_csr(
    panels: NDArray[np.int64],  # (panels + 1, 9)         in
    members: NDArray[np.int64],  # (members + 1, 5)       in
    reached: NDArray[np.int32],  # (rows, 2)              in, sorted by unit within a supernode
    columns: NDArray[np.int32],  # (weights,)             in
    reach_indptr: NDArray[np.int64],  # (weights + 1,)    in, by weight
    influence: NDArray[np.floating],  # (size,)           in
    data: NDArray[np.floating],  # (nnz,)                 out, by weight, units sorted
) -> None:
    """Gather the entries of J, weight by weight."""
    for p in range(panels.shape[0] - 1):
        stride = panels[p, STRIDE]
        for k in range(panels[p, FIRST_MEMBER], panels[p + 1, FIRST_MEMBER]):
            column, width = members[k, FIRST_COLUMN], members[k, WIDTH]
            first = members[k, FIRST_REACHED]
            offset = panels[p, OFFSET] + members[k, INSET]
            for r in range(members[k, COUNT_REACHED]):
                row = offset + reached[first + r, PANEL_ROW] * stride
                for c in range(width):
                    data[reach_indptr[columns[column + c]] + r] = influence[row + c]


@njit(cache=True, nogil=True)
def csr_to_panels(
    panels: NDArray[np.int64],  # (panels + 1, 9)         in
    members: NDArray[np.int64],  # (members + 1, 5)       in
    reached: NDArray[np.int32],  # (rows, 2)              in, sorted by unit within a supernode
    columns: NDArray[np.int32],  # (weights,)             in
    reach_indptr: NDArray[np.int64],  # (weights + 1,)    in, by weight
    data: NDArray[np.floating],  # (nnz,)                 in, by weight, units sorted
    influence: NDArray[np.floating],  # (size,)           out
) -> None:
    """Scatter the entries of J into its panels."""
    for p in range(panels.shape[0] - 1):
        stride = panels[p, STRIDE]
        for k in range(panels[p, FIRST_MEMBER], panels[p + 1, FIRST_MEMBER]):
            column, width = members[k, FIRST_COLUMN], members[k, WIDTH]
            first = members[k, FIRST_REACHED]
            offset = panels[p, OFFSET] + members[k, INSET]
            for r in range(members[k, COUNT_REACHED]):
                row = offset + reached[first + r, PANEL_ROW] * stride
                for c in range(width):
                    influence[row + c] = data[reach_indptr[columns[column + c]] + r]


@njit(cache=True, nogil=True)
def spread_entries(
    some_indptr: NDArray[np.int64],  # (rows + 1,)   in
    some_indices: NDArray[np.int32],  # (entries,)   in, sorted within a row
    some_data: NDArray[np.floating],  # (entries,)   in
    indptr: NDArray[np.int64],  # (rows + 1,)        in
    indices: NDArray[np.int32],  # (nnz,)            in, sorted within a row
    data: NDArray[np.floating],  # (nnz,)            in/out, zero at first
) -> int:
    """Write the entries of one CSR to their places in a larger one.

    Return the first row with an entry that the larger one lacks, or -1.
    """
    for row in range(len(indptr) - 1):
        place = indptr[row]
        for e in range(some_indptr[row], some_indptr[row + 1]):
            while place < indptr[row + 1] and indices[place] < some_indices[e]:
                place += 1
            if place == indptr[row + 1] or indices[place] != some_indices[e]:
                return row
            data[place] = some_data[e]
    return -1

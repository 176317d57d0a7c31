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
    panels: NDArray[np.int64],  # (panels + 1, 10)        in
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
    panels: NDArray[np.int64],  # (panels + 1, 10)        in
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

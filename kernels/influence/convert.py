"""At the boundary: J between its panels and a plain CSR by weight; a look at the caller's data."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


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
        stride = panels[p, 3]
        for k in range(panels[p, 7], panels[p + 1, 7]):
            column, width, first = members[k, 0], members[k, 1], members[k, 2]
            offset = panels[p, 0] + members[k, 4]
            for r in range(members[k, 3]):
                row = offset + reached[first + r, 1] * stride
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
        stride = panels[p, 3]
        for k in range(panels[p, 7], panels[p + 1, 7]):
            column, width, first = members[k, 0], members[k, 1], members[k, 2]
            offset = panels[p, 0] + members[k, 4]
            for r in range(members[k, 3]):
                row = offset + reached[first + r, 1] * stride
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


@njit(cache=True, nogil=True)
def all_finite(
    data: NDArray[np.floating],  # (n,)  in
) -> bool:
    """Return whether no element is NaN or infinite."""
    bad = 0
    for i in range(data.size):  # no early exit: a loop that always ends the same is vectorised
        bad += not np.isfinite(data[i])
    return bad == 0


@njit(cache=True, nogil=True)
def outgrown(
    data: NDArray[np.floating],  # (n,)  in
) -> bool:
    """Return whether a number is beyond the square root of the largest, 1e18 or 1e150, or NaN.

    The product of two numbers below does not overflow.
    """
    limit = data.dtype.type(1e18 if data.itemsize == 4 else 1e150)
    grown = 0
    for i in range(data.size):  # no early exit, as above
        grown += not abs(data[i]) <= limit
    return grown > 0

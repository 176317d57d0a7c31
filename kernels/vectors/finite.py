"""Whether numbers are finite: asked of the caller's data and of every state."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


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

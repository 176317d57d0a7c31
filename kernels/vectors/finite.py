"""Whether numbers are finite: asked of the caller's data and of every state."""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

_WORDS = {"uint16": 0x5D5E, "int16": 0x7400}  # 1e18 in bfloat16, 16384 in float16


@njit(cache=True, nogil=True)
def all_finite(
    data: NDArray[np.floating],  # (n,)  in
) -> bool:
    """Return whether no element is NaN or infinite."""
    bad = 0
    for i in range(data.size):  # no early exit: a loop that always ends the same is vectorised
        bad += not np.isfinite(data[i])
    return bad == 0


def is_outgrown(x: Any) -> bool:
    """Return whether a number is beyond 1e18, or 1e150 of float64, or NaN.

    A word of 16 bits stands for a number: uint16 for bfloat16, whose end is float32's, int16 for
    float16, where it is beyond 16384.
    """
    if x.dtype.kind != "f":
        return (int(x) & 0x7FFF) > _WORDS[x.dtype.name]
    return bool(not abs(x) <= (1e18 if x.itemsize == 4 else 1e150))


@overload(is_outgrown, inline="always")
def _is_outgrown(x):
    if isinstance(x, types.Integer):
        word = _WORDS[str(x)]
        return lambda x: (np.int32(x) & np.int32(0x7FFF)) > np.int32(word)
    limit = np.float32(1e18) if x == types.float32 else np.float64(1e150)
    return lambda x: not abs(x) <= limit


@njit(cache=True, nogil=True)
def outgrown(
    data: NDArray[np.floating],  # (n,)  in
) -> bool:
    """Return whether a number is beyond the square root of the largest, or NaN (`is_outgrown`).

    The product of two numbers below does not overflow.
    """
    grown = 0
    for i in range(data.size):  # no early exit, as above
        grown += is_outgrown(data[i])
    return grown > 0

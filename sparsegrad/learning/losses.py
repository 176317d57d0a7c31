"""Losses of a readout: by name, or a compiled function of one's own."""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from inspect import isfunction
from typing import Any

import numba
import numpy as np
from numba.core.dispatcher import Dispatcher
from numba.core.errors import TypingError
from numpy.typing import NDArray

from sparsegrad.kernels.compiler.pointers import INTERPRETED, pointer_to
from sparsegrad.kernels.learning import readouts as kernels

LOSSES = {
    "squared_error": kernels.SQUARED_ERROR,
    "cross_entropy": kernels.CROSS_ENTROPY,
    "binary_cross_entropy": kernels.BINARY_CROSS_ENTROPY,
    "huber": kernels.HUBER,
    "poisson": kernels.POISSON,
}
Loss = str | Callable[[NDArray[np.floating], NDArray[np.floating]], float]


def require_loss(loss: object) -> None:
    """Refuse what is neither a name nor a compiled function.

    Raises
    ------
    ValueError, TypeError
        In one line.
    """
    if isinstance(loss, str) and loss in LOSSES:
        return
    if not isinstance(loss, Dispatcher) and not (INTERPRETED and isfunction(loss)):
        came = f"{_name(loss)}, which is not" if callable(loss) else repr(loss)
        kind = ValueError if isinstance(loss, str) else TypeError
        raise kind(
            f"loss must be one of {sorted(LOSSES)} or a function compiled by numba.njit, got {came}"
        )


def loss_word(loss: Loss, dtype: np.dtype[Any]) -> int:
    """Return what kernels know a loss by: its number, or its address.

    A function at an address stays where it is as long as the process.

    Raises
    ------
    TypeError
        If a function cannot be compiled for vectors of `dtype`, returns no float64, or leaves no
        derivative.
    RuntimeError
        If it is a function and compilation is switched off.
    """
    if isinstance(loss, str):
        return LOSSES[loss]
    if INTERPRETED:
        raise RuntimeError("a loss of your own must be compiled, got NUMBA_DISABLE_JIT=1: unset it")
    y = np.linspace(0.25, 0.75, 3).astype(dtype)
    address = int(_pointer(loss, np.dtype(dtype)).address)
    before = y.copy()
    loss(y, np.ones_like(y))
    if np.array_equal(y, before):
        raise TypeError(
            f"{_name(loss)} must leave its derivative ∂L/∂y in y, got y as it was given"
        )
    return address


def check_loss(
    loss: Loss, y: NDArray[np.float64], target: NDArray[np.float64], tolerance: float = 1e-6
) -> None:
    """Compare the derivative of a loss of one's own with finite differences.

    Parameters
    ----------
    loss : function compiled by ``numba.njit``
        As for :class:`Linear`.
    y, target : float64 array, (outputs,)
        Where; not at a kink.
    tolerance : float
        Largest difference, relative to the largest derivative or 1.

    Raises
    ------
    ValueError
        If they disagree: at which output, and both numbers.
    """
    if isinstance(loss, str):
        raise TypeError(f"loss must be a function, got {loss!r}: it has been checked")
    slope = np.array(y, np.float64)
    loss(slope, target)
    scale = max(1.0, float(np.abs(slope).max()))
    for o in range(slope.size):
        sides = []
        for step in (1e-5, -1e-5):
            moved = np.array(y, np.float64)
            moved[o] += step
            sides.append(loss(moved, target))
        expected = (sides[0] - sides[1]) / 2e-5
        if not abs(slope[o] - expected) <= tolerance * scale:
            raise ValueError(
                f"{_name(loss)} must leave its derivative in y, got {slope[o]:.6g} for output "
                f"{o}, finite differences give {expected:.6g}"
            )


def loss_text(loss: Loss) -> str:
    """Return what tells a loss from others, the same in every process: a function's by its code."""
    if isinstance(loss, str):
        return loss
    function: Any = getattr(loss, "py_func", loss)
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    code = function.__code__
    key = repr((code.co_code, code.co_consts, code.co_names, held)).encode()
    return f"{_name(loss)} {sha256(key).hexdigest()[:16]}"


def _name(loss: Any) -> str:
    return str(getattr(loss, "__name__", loss))


@cache
def _pointer(loss: Any, dtype: np.dtype[Any]) -> Any:
    vector = numba.from_dtype(dtype)[::1]
    try:
        loss.compile(numba.float64(vector, vector))  # whatever float its sum is of
        return pointer_to(loss, vector, vector, returns=numba.float64)
    except (TypeError, TypingError):
        raise TypeError(
            f"{_name(loss)} must be loss(y, target) of two vectors of {dtype}, leave ∂L/∂y in y "
            "and return L as a float64: Numba cannot compile it so"
        ) from None

"""The gate for arguments: each check returns what the kernels may have, or raises in one line."""

import math
import operator
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray


def integer(
    name: str, value: Any, least: int | None = None, most: int | None = None, hint: str = ""
) -> int:
    """Return an integer in [least, most]; True, 2.0 and "2" are none.

    `hint` ends the message: what to do instead.

    Raises
    ------
    TypeError, ValueError
        If it is no integer, or out of range.
    """
    if isinstance(value, bool | np.bool_ | np.ndarray) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer{_least(least)}, got {value!r}{hint}")
    number = operator.index(value)
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}{hint}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}, got {number}{hint}")
    return number


def flag(name: str, value: Any) -> bool:
    """Return True or False; 1 and "yes" are neither.

    Raises
    ------
    TypeError
        If it is another value.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def real(
    name: str,
    value: Any,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """Return a finite number with least <= value, above < value and value < below.

    Raises
    ------
    TypeError, ValueError
        If it is no number, not finite, or out of range.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if least is not None and below is not None:
        if not least <= number < below:
            raise ValueError(f"{name} must lie in [{least:g}, {below:g}), got {value}")
    elif not math.isfinite(number) or (least is not None and number < least):
        wanted = "" if least is None else f" and at least {least:g}"
        raise ValueError(f"{name} must be finite{wanted}, got {value}")
    elif above is not None and not number > above:
        raise ValueError(f"{name} must be above {above:g}, got {value}")
    return number


def float_type(dtype: Any) -> np.dtype[Any]:
    """Return float32 or float64 as a dtype.

    Raises
    ------
    TypeError
        If it is another; None, which NumPy takes for float64, too.
    """
    try:
        found = np.dtype(object if dtype is None else dtype)
    except (TypeError, ValueError):
        found = np.dtype(object)
    if found not in (np.dtype(np.float32), np.dtype(np.float64)):
        came = repr(dtype) if found.kind == "O" else found
        raise TypeError(f"dtype must be float32 or float64, got {came}")
    return found


def plain(name: str, value: Any) -> NDArray[Any]:
    """Return an array as it is, or what can be one; a matrix or a masked array is none.

    Raises
    ------
    TypeError
        If its rules of shape or of what counts differ from an array's.
    """
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.matrix | np.ma.MaskedArray):
        raise TypeError(
            f"{name} must be a plain array, got {type(value).__name__}; pass np.asarray of it, "
            "or .filled() of a masked one"
        )
    return np.asarray(value)


def numbers(name: str, value: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array of floats of a dtype: as it is, or converted where that changes no number.

    What Python holds itself, numbers and lists of them, is rounded; an array of another dtype has
    been given one on purpose, and must fit.

    Raises
    ------
    TypeError
        If it holds no real numbers, or such as the dtype does not have.
    """
    array = plain(name, value)
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "fiu":
        words = {
            "O": "rows of unequal length, or what are no numbers",
            "U": "text",
            "b": "booleans",
        }
        raise TypeError(
            f"{name} must be {dtype} as the cell is, got {words.get(array.dtype.kind, array.dtype)}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        found = array.astype(dtype)
        fits = np.array_equal(found.astype(array.dtype), array, equal_nan=array.dtype.kind == "f")
    if isinstance(value, np.ndarray | np.generic) and not fits:
        raise TypeError(
            f"{name} must be {dtype} as the cell is, got {array.dtype} with numbers that {dtype} "
            f"does not have: round them by .astype({str(dtype)!r})"
        )
    return found


def behaved(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array as kernels take it: C-contiguous, aligned, writable; a copy if it is not.

    Not a read-only array: Numba would compile every kernel again for those.
    """
    return array if array.flags.carray else array.copy(order="C")


def threads_wanted(threads: Any) -> int | None:
    """Return a number of threads, or None for Numba's own.

    Raises
    ------
    TypeError, ValueError
        If it is no integer of at least 1.
    """
    return None if threads is None else integer("threads", threads, least=1)


def sealed(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only view of an array that no `setflags` makes writable; nothing is copied."""
    return np.asarray(array.data.toreadonly())


def _least(least: int | None) -> str:
    return "" if least is None else f" of at least {least}"

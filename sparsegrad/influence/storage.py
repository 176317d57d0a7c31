"""How J lies in memory: in its own numbers, or rounded to 16 bits, as bfloat16 or float16."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.vectors.half import HAS_FLOAT16, widened

WORDS = {"bfloat16": np.dtype(np.uint16), "float16": np.dtype(np.int16)}
"""What the words are that kernels keep: NumPy itself has no bfloat16."""
MOST = {"bfloat16": 3.3895313892515355e38, "float16": 65504.0}


def check_storage(storage: Any) -> str | None:
    """Return a storage's name, or None for J in its own numbers.

    Parameters
    ----------
    storage : str or dtype, optional
        ``"bfloat16"`` or ``"float16"``; a dtype of that name, such as ``ml_dtypes.bfloat16``, too.

    Raises
    ------
    TypeError, ValueError
        If it is another, or the CPU does not convert float16.
    """
    if storage is None:
        return None
    name = storage
    if not isinstance(storage, str):
        try:
            name = np.dtype(storage).name
        except TypeError:
            raise TypeError(f"storage must be a word or a dtype, got {storage!r}") from None
    if name not in WORDS:
        raise ValueError(
            f"storage must be 'bfloat16' or 'float16', or None for J in its dtype, got {storage!r}"
        )
    if name == "float16" and not HAS_FLOAT16:
        raise ValueError("storage must be 'bfloat16' on a CPU without F16C, got 'float16'")
    return str(name)


def words_type(storage: str | None, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of what memory holds of a J of `dtype`.

    Raises
    ------
    ValueError
        If the storage does not go with it.
    """
    if storage is None:
        return dtype
    if dtype != np.float32:
        raise ValueError(
            f"storage {storage} must come with float32, in which it is computed, got {dtype}; "
            f"use dtype='float32', or storage=None"
        )
    return WORDS[storage]


def as_numbers(panels: NDArray[Any]) -> NDArray[Any]:
    """Return what memory holds as the numbers of J: words as float32, numbers as they are."""
    return panels if panels.dtype.kind == "f" else widened(panels)


def as_words(numbers: NDArray[Any], words: np.dtype[Any]) -> NDArray[Any]:
    """Return numbers of J as memory holds them, each the nearest there is.

    Raises
    ------
    ValueError
        If a number is beyond the largest of float16 or bfloat16.
    """
    if words.kind == "f":
        return numbers
    name = next(name for name, kind in WORDS.items() if kind == words)
    largest = float(abs(numbers).max(initial=0))
    if largest > MOST[name]:
        raise ValueError(
            f"matrix must stay within {name}, ±{MOST[name]:g}, got {largest:g}; use float32"
        )
    if name == "float16":
        return numbers.astype(np.float16).view(words)
    bits = numbers.view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)  # a tie goes to the even one
    return ((bits + np.uint32(0x7FFF) + even) >> np.uint32(16)).astype(words)


def as_view(panels: NDArray[Any], storage: str | None) -> NDArray[Any]:
    """Return a view of what memory holds under its own dtype, bfloat16 as ml_dtypes has it.

    Raises
    ------
    ImportError
        If that is not installed.
    """
    if storage != "bfloat16":
        return panels.view(np.float16) if storage else panels[:]
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise ImportError(
            "J in bfloat16 is seen by ml_dtypes: pip install 'sparsegrad-rtrl[bfloat16]'; "
            "to_scipy() gives it as float32"
        ) from None
    return panels.view(bfloat16)

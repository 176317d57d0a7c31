"""Arrays with a page before or behind them that nobody may touch: one step beyond kills."""

import ctypes
import mmap
from typing import Any

import numpy as np

PAGE = mmap.PAGESIZE


def guarded(array: np.ndarray, behind: bool) -> np.ndarray:
    """Copy an array to where its last byte (or its first) lies beside a forbidden page."""
    pages = -(-max(array.nbytes, 1) // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (0, pages + 1):
        address = ctypes.c_void_p(start + page * PAGE)
        if libc.mprotect(address, ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = PAGE + pages * PAGE - array.nbytes if behind else PAGE
    found = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    found[...] = array
    found.flags.writeable = array.flags.writeable  # Numba has another type for read-only arrays
    return found


def arrays_of(value: Any) -> list[np.ndarray]:
    """List the arrays of a tuple, at any depth."""
    if isinstance(value, np.ndarray):
        return [value]
    return (
        [array for part in value for array in arrays_of(part)] if isinstance(value, tuple) else []
    )


def span(array: np.ndarray) -> tuple[int, int]:
    return array.ctypes.data, array.ctypes.data + array.nbytes


class Guard:
    """Guards arrays once each; one that lies within another becomes the same part of its copy."""

    def __init__(self, arrays: list[np.ndarray], behind: bool) -> None:
        self.behind = behind
        self.copies: list[tuple[np.ndarray, np.ndarray]] = []
        for array in sorted(arrays, key=lambda a: -a.nbytes):
            self(array)

    def __call__(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, tuple):
            parts = [self(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return value

    def _array(self, array: np.ndarray) -> np.ndarray:
        low, high = span(array)
        for old, new in self.copies:
            first, last = span(old)
            if old is array or (first <= low and high <= last and low < high):
                flat = new.reshape(-1).view(np.uint8)[low - first : high - first]
                part = flat.view(array.dtype).reshape(array.shape)
                part.flags.writeable = array.flags.writeable
                return part
        found = guarded(np.ascontiguousarray(array), self.behind)
        self.copies.append((array, found))
        return found

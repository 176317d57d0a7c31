"""Decorators of kernels that few callers reach, which spare what nobody calls through.

With every function Numba compiles one wrapper for Python and one for C pointers, 0.01 to 0.05 s
each. Its type stubs do not name the options that leave them out.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

_njit: Any = njit
_common = {"cache": True, "nogil": True, "no_cfunc_wrapper": True}
from_python: Callable[[Kernel], Kernel] = _njit(**_common)
"""`njit` for a kernel that no pointer leads to."""
from_kernels: Callable[[Kernel], Kernel] = _njit(**_common, no_cpython_wrapper=True)
"""`njit` for a kernel that only other kernels call."""
into_caller: Callable[[Kernel], Kernel] = _njit(cache=True, nogil=True, inline="always")
"""`njit` for a part of a larger kernel, compiled within that one alone.

What a learner's first call compiles takes 0.76 of the time so (CONTRIBUTING), and a call with forty
arrays costs nothing (1.1 against 0.3 µs). Not for loops that are compiled for several types (those
of panels.py: 11 s, not 4.6). A branch on an argument that is None is dropped only where the caller
passes an argument of its own: what it reads from a tuple, Numba does not follow.
"""

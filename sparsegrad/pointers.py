"""Compiled functions as pointers.

A compiled loop that takes a pointer is cached across processes; one that takes the function itself
would be compiled again in each, and one that calls it by name holds a copy of its machine code.
"""

from typing import Any

import numba
from numba.core.dispatcher import Dispatcher
from numba.core.types.function_type import CompileResultWAP

from sparsegrad.kernels.cells import apply_maps

INTERPRETED = not isinstance(apply_maps, Dispatcher)  # NUMBA_DISABLE_JIT


def pointer_to(function: Any, *kinds: Any) -> Any:
    """Compile a function that returns nothing for arguments of these Numba types, and point at it.

    Interpreted, the function stands for itself.
    """
    if INTERPRETED:
        return function
    return CompileResultWAP(function.get_compile_result(numba.void(*kinds)))

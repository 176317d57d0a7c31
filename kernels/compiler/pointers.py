"""Compiled functions as pointers.

A compiled loop that takes a pointer is cached across processes; one that takes the function itself
would be compiled again in each, and one that calls it by name holds a copy of its machine code.
"""

from typing import Any

import numba
from numba.core.types.function_type import CompileResultWAP

INTERPRETED = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]


class _Pointer(CompileResultWAP):
    """A compiled function as an argument; Numba asks it for its type, 13 µs a call, only once."""

    def __init__(self, compiled: Any) -> None:
        super().__init__(compiled)
        self._numba_type_ = numba.types.FunctionType(compiled.signature)


def pointer_to(function: Any, *kinds: Any) -> Any:
    """Compile a function that returns nothing for arguments of these Numba types, and point at it.

    A pointer among them stands for its type. Interpreted, the function stands for itself.
    """
    if INTERPRETED:
        return function
    types = (kind if isinstance(kind, numba.types.Type) else numba.typeof(kind) for kind in kinds)
    return _Pointer(function.get_compile_result(numba.void(*types)))

"""Compiled functions as pointers.

A compiled loop that takes a pointer is cached across processes; one that takes the function itself
would be compiled again in each, and one that calls it by name holds a copy of its machine code.
"""

from typing import Any

import numba
from llvmlite import ir
from numba.core.types.function_type import CompileResultWAP
from numba.extending import intrinsic

INTERPRETED = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]


class _Pointer(CompileResultWAP):
    """A compiled function as an argument; Numba asks it for its type, 13 µs a call, only once."""

    def __init__(self, compiled: Any) -> None:
        super().__init__(compiled)
        self._numba_type_ = numba.types.FunctionType(compiled.signature)


def _caller(result: Any) -> Any:
    """Return an intrinsic that calls a compiled function at an address, as Numba calls pointers.

    It takes the address and a tuple of arrays, contiguous, of the very types that the function
    was compiled for. An address is a number: no type of a kernel depends on what lies there.
    """

    @intrinsic
    def call(typingctx: Any, address: Any, arrays: Any) -> Any:
        if any(array.layout != "C" for array in arrays.types):
            return None

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = [context.get_value_type(kind) for kind in arrays.types]
            function = ir.FunctionType(context.get_value_type(result), kinds)
            given = [builder.extract_value(args[1], i) for i in range(len(kinds))]
            found = builder.call(builder.inttoptr(args[0], function.as_pointer()), given)
            return context.get_dummy_value() if result == numba.void else found

        return result(numba.int64, arrays), codegen

    return call


call_at = _caller(numba.void)
float64_at = _caller(numba.float64)


def pointer_to(function: Any, *kinds: Any, returns: Any = numba.void) -> Any:
    """Compile a function for arguments of these Numba types, and point at it.

    A pointer among them stands for its type. Interpreted, the function stands for itself.
    """
    if INTERPRETED:
        return function
    types = (kind if isinstance(kind, numba.types.Type) else numba.typeof(kind) for kind in kinds)
    return _Pointer(function.get_compile_result(returns(*types)))

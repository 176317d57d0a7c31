"""Functions of C at bare addresses: those of a library that is known when a program runs."""

import ctypes
from typing import Any

from llvmlite import ir
from numba import types

from .operation import compiled


def call_c(address: Any, arguments: Any) -> Any:
    """Call a C function that takes integers and pointers and returns an int; return that.

    Every argument is an int64, in a register or a place of the stack of its own: a function that
    takes an `int` there reads its lower half.
    """
    kinds = [ctypes.c_int64] * len(arguments)
    return ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(int(address))(*(int(a) for a in arguments))


@compiled(call_c, lambda address: isinstance(address, types.Integer))
def _call_c(typingctx: Any, address: Any, arguments: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        given = [builder.extract_value(args[1], k) for k in range(len(signature.args[1]))]
        kind = ir.FunctionType(ir.IntType(32), [word] * len(given))
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), given)

    if not isinstance(arguments, types.UniTuple) or arguments.dtype != types.int64:
        return None
    return types.int32(types.int64, arguments), codegen

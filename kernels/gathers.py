"""A gather of part of a vector: the last weights of a row.

====================================  ====================================================
``gather_part(a, indices, i, n)``     the first ``n`` lanes of a gather, 0 beyond, where neither
                                      indices nor numbers are read
====================================  ====================================================

As in simd.py, it has a plain Python twin.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from .operation import compiled
from .simd import (
    VectorType,
    address_of,
    holds_numbers,
    in_every_lane,
    lanes,
    llvm_vector,
)

# No annotations on what kernels call: Numba compares the signatures of twins.


def gather_part(a, indices, i, n):
    """Return the vector of ``a[indices[i]], …, a[indices[i + n - 1]]``, and 0 beyond."""
    v = np.zeros(lanes(a), a.dtype)
    v[:n] = a[indices[i : i + n]]
    return v


@compiled(gather_part, holds_numbers)
def _gather_part(typingctx: Any, a: Any, indices: Any, i: Any, n: Any) -> Any:
    vector = VectorType(a.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        count, number, wide = vector.lanes, ir.IntType(32), ir.IntType(64)
        llvm, wides = llvm_vector(vector), ir.VectorType(wide, count)
        lane = ir.Constant(wides, list(range(count)))
        wanted = builder.icmp_signed("<", lane, in_every_lane(builder, args[3], wides))

        def call(name: str, returns: Any, *arguments: Any) -> Any:
            kind = ir.FunctionType(returns, [argument.type for argument in arguments])
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(function, arguments)

        places = ir.VectorType(number, count)
        at = address_of(context, builder, sig.args[1], args[1], args[2])
        at, four = builder.bitcast(at, places.as_pointer()), ir.Constant(number, 4)
        first = ir.Constant(places, [0] * count)
        places = call(f"llvm.masked.load.v{count}i32.p0", places, at, four, wanted, first)
        # addresses by arithmetic, as in `arithmetic.gather`
        base = address_of(context, builder, sig.args[0], args[0], ir.Constant(wide, 0))
        size = vector.dtype.bitwidth // 8
        addresses = builder.add(
            in_every_lane(builder, builder.ptrtoint(base, wide), wides),
            builder.mul(builder.sext(places, wides), ir.Constant(wides, [size] * count)),
        )
        addresses = builder.inttoptr(addresses, ir.VectorType(llvm.element.as_pointer(), count))
        zeros, align = ir.Constant(llvm, [0.0] * count), ir.Constant(number, size)
        name = f"llvm.masked.gather.v{count}f{vector.dtype.bitwidth}.v{count}p0"
        return call(name, llvm, addresses, align, wanted, zeros)

    return vector(a, indices, types.intp, types.int64), codegen

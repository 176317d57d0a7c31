"""A 64-byte vector for Numba: 16 float32 or 8 float64 lanes, in registers.

Plain Numba loops over short rows do not vectorise well: accumulators kept in a small array stay
in memory, and signed indices loaded from memory bring wrap-around selects. These few operations,
and those of bundles.py and arithmetic.py, are all that the kernels need, and LLVM lowers them to
what the CPU has: AVX-512, two AVX registers, four of SSE or NEON. Each has a plain Python twin, so
the kernels also run interpreted (``NUMBA_DISABLE_JIT=1``), lane for lane the same up to the
rounding of a fused multiply-add.

======================  ============================================================
``zero(a)``             a vector of zeros, of ``a``'s dtype
``load(a, i)``          lanes ``a[i], a[i+1], …`` (64 bytes, any alignment)
``store(a, i, v)``      the other way
``splat(a, i)``         every lane ``a[i]``
``fma(x, y, z)``        ``x * y + z``
``index(a, i)``         the integer ``a[i]`` as an int64
``value(a, i)``         the number ``a[i]``
``put(a, i, x)``        ``a[i] = x``
``load_part(a, i, n)``  the first ``n`` lanes, 0 beyond, where nothing is read
``store_part(…, v)``    the first ``n`` lanes of ``v`` to ``a[i], …``; nothing beyond is touched
``pointer(a, i)``       the bare address of element ``i`` of an array of any dimension
======================  ============================================================

``a`` is a 1-D C-contiguous array or a `pointer`. A pointer counts no references: a function that
takes a dozen arrays per panel spends more time on counting them than on a small panel (measured:
232 against 40 ns a panel). Nothing is bounds-checked and no index wraps around. A vector may reach
up to 63 bytes beyond the last wanted element, so arrays carry that much slack (`SLACK`).
"""

from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model

from ..compiler.operation import compiled

BYTES = 64
WIDE = bool(get_host_cpu_features().get("avx512f", False))
"""Whether the CPU holds a vector in one of 32 registers; fewer cannot hold a block of rows."""
SLACK = 16
"""Elements that an array needs beyond its last useful one (16 float32 fill one vector)."""


class VectorType(types.Type):
    """Numba's type of a 64-byte vector of float32 or float64 lanes."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.lanes = BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"vector({dtype}, {self.lanes})")


def llvm_vector(vector: VectorType) -> ir.VectorType:
    """Return the type that LLVM knows it as."""
    scalar = ir.FloatType() if vector.dtype.bitwidth == 32 else ir.DoubleType()
    return ir.VectorType(scalar, vector.lanes)


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: VectorType) -> None:
        super().__init__(dmm, fe_type, llvm_vector(fe_type))


def holds_numbers(a: Any) -> bool:
    """Whether Numba's type `a` is one that these operations take."""
    is_array = isinstance(a, types.Array) and a.ndim == 1 and a.layout == "C"
    return is_array or isinstance(a, types.CPointer)


def is_vector(x: Any) -> bool:
    """Whether Numba's type `x` is a vector."""
    return isinstance(x, VectorType)


def _is_contiguous(a: Any) -> bool:
    return isinstance(a, types.Array) and a.layout == "C"  # strides would be ignored


def address_of(context: Any, builder: Any, kind: Any, value: Any, i: Any) -> Any:
    """Return the address of element i; plain pointer arithmetic, no wrap-around, no check."""
    if isinstance(kind, types.CPointer):
        return builder.gep(value, [i])
    return builder.gep(context.make_array(kind)(context, builder, value).data, [i])


def in_every_lane(builder: Any, scalar: Any, kind: ir.VectorType) -> Any:
    """Return LLVM's vector of type `kind` that holds a scalar in every lane."""
    none, number = ir.Constant(kind, ir.Undefined), ir.IntType(32)
    first = builder.insert_element(none, scalar, ir.Constant(number, 0))
    order = ir.Constant(ir.VectorType(number, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, none, order)


def fmuladd(builder: Any, vector: VectorType) -> Any:
    """Return LLVM's fused multiply-add of three such vectors."""
    # llvm.fmuladd, not llvm.fma: on a CPU without FMA the latter is a libm call per lane.
    llvm = llvm_vector(vector)
    name = f"llvm.fmuladd.v{vector.lanes}f{vector.dtype.bitwidth}"
    kind = ir.FunctionType(llvm, [llvm, llvm, llvm])
    return cgutils.get_or_insert_function(builder.module, kind, name)


def first_lanes(builder: Any, vector: VectorType, n: Any) -> Any:
    """Return the mask of a vector's first n lanes."""
    wide = ir.VectorType(ir.IntType(64), vector.lanes)
    places = ir.Constant(wide, list(range(vector.lanes)))
    return builder.icmp_signed("<", places, in_every_lane(builder, n, wide))


def call(builder: Any, name: str, returns: Any, *arguments: Any) -> Any:
    """Call one of LLVM's own functions."""
    kind = ir.FunctionType(returns, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _masked(builder: Any, name: str, vector: VectorType, returns: Any, *arguments: Any) -> Any:
    name = f"llvm.masked.{name}.v{vector.lanes}f{vector.dtype.bitwidth}.p0"
    return call(builder, name, returns, *arguments)


# The operations: each plain twin, and what it is in compiled code.


def lanes(a):
    """Return the lanes of a vector of `a`'s dtype: 16 for float32, 8 for float64."""
    return BYTES // a.itemsize


@compiled(lanes, lambda a: isinstance(a, types.Array | types.CPointer))
def _lanes(typingctx: Any, a: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), VectorType(a.dtype).lanes)

    return types.int64(a), codegen


def load(a, i):
    """Return the vector of the 64 bytes of `a` that begin at element `i`."""
    return a[i : i + lanes(a)].copy()


@compiled(load, holds_numbers)
def _load(typingctx: Any, a: Any, i: Any) -> Any:
    vector = VectorType(a.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = address_of(context, builder, sig.args[0], args[0], args[1])
        llvm = llvm_vector(vector)
        align = sig.args[0].dtype.bitwidth // 8
        return builder.load(builder.bitcast(pointer, llvm.as_pointer()), align=align)

    return vector(a, types.intp), codegen


def store(a, i, v):
    """Write vector `v` to the 64 bytes of `a` that begin at element `i`."""
    a[i : i + lanes(a)] = v


@compiled(store, holds_numbers)
def _store(typingctx: Any, a: Any, i: Any, v: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = address_of(context, builder, sig.args[0], args[0], args[1])
        llvm = llvm_vector(sig.args[2])
        align = sig.args[0].dtype.bitwidth // 8
        builder.store(args[2], builder.bitcast(pointer, llvm.as_pointer()), align=align)
        return context.get_dummy_value()

    return types.void(a, types.intp, v), codegen


def splat(a, i):
    """Return the vector that has ``a[i]`` in every lane."""
    return np.full(lanes(a), a[i], a.dtype)


@compiled(splat, holds_numbers)
def _splat(typingctx: Any, a: Any, i: Any) -> Any:
    vector = VectorType(a.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        scalar = builder.load(address_of(context, builder, sig.args[0], args[0], args[1]))
        return in_every_lane(builder, scalar, llvm_vector(vector))

    return vector(a, types.intp), codegen


def zero(a):
    """Return the vector of zeros of `a`'s dtype."""
    return np.zeros(lanes(a), a.dtype)


@compiled(zero, holds_numbers)
def _zero(typingctx: Any, a: Any) -> Any:
    vector = VectorType(a.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(llvm_vector(vector), [0.0] * vector.lanes)

    return vector(a), codegen


def fma(x, y, z):
    """Return ``x * y + z``, fused where the CPU can."""
    return x * y + z


@compiled(fma, is_vector)
def _fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.call(fmuladd(builder, sig.return_type), args)

    return x(x, x, x), codegen


def index(a, i):
    """Return the integer ``a[i]``; a negative `i` is the caller's fault and is not wrapped."""
    return int(a[i])


@compiled(index, holds_numbers)
def _index(typingctx: Any, a: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = builder.load(address_of(context, builder, sig.args[0], args[0], args[1]))
        return builder.sext(value, ir.IntType(64)) if value.type.width < 64 else value

    return types.int64(a, types.intp), codegen


def pointer(a, i):
    """Return the bare address of element `i` (in C order) of `a`; the caller keeps `a` alive."""
    if not a.flags.c_contiguous:
        raise TypeError("pointer() takes a C-contiguous array")
    return a.reshape(-1)[i:]


@compiled(pointer, _is_contiguous)
def _pointer(typingctx: Any, a: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.gep(data, [args[1]])

    return types.CPointer(a.dtype)(a, types.intp), codegen


def load_part(a, i, n):
    """Return the vector of the first `n` elements of `a` from element `i` on, and 0 beyond."""
    v = np.zeros(lanes(a), a.dtype)
    v[:n] = a[i : i + min(n, v.size)]
    return v


@compiled(load_part, holds_numbers)
def _load_part(typingctx: Any, a: Any, i: Any, n: Any) -> Any:
    vector = VectorType(a.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        llvm, align = llvm_vector(vector), ir.Constant(ir.IntType(32), vector.dtype.bitwidth // 8)
        place = address_of(context, builder, sig.args[0], args[0], args[1])
        place = builder.bitcast(place, llvm.as_pointer())
        beyond = ir.Constant(llvm, [0.0] * vector.lanes)
        wanted = first_lanes(builder, vector, args[2])
        return _masked(builder, "load", vector, llvm, place, align, wanted, beyond)

    return vector(a, types.intp, types.int64), codegen


def store_part(a, i, n, v):
    """Write the first `n` lanes of vector `v` to `a`, from element `i` on."""
    n = min(n, v.size)
    a[i : i + n] = v[:n]


@compiled(store_part, holds_numbers)
def _store_part(typingctx: Any, a: Any, i: Any, n: Any, v: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        llvm, align = llvm_vector(v), ir.Constant(ir.IntType(32), v.dtype.bitwidth // 8)
        place = address_of(context, builder, sig.args[0], args[0], args[1])
        place = builder.bitcast(place, llvm.as_pointer())
        wanted = first_lanes(builder, v, args[2])
        _masked(builder, "store", v, ir.VoidType(), args[3], place, align, wanted)
        return context.get_dummy_value()

    return types.void(a, types.intp, types.int64, v), codegen


def value(a, i):
    """Return the number ``a[i]``."""
    return a[i]


@compiled(value, holds_numbers)
def _value(typingctx: Any, a: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(address_of(context, builder, sig.args[0], args[0], args[1]))

    return a.dtype(a, types.intp), codegen


def put(a, i, x):
    """Set ``a[i]`` to `x`."""
    a[i] = x


@compiled(put, holds_numbers)
def _put(typingctx: Any, a: Any, i: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], address_of(context, builder, sig.args[0], args[0], args[1]))
        return context.get_dummy_value()

    return types.void(a, types.intp, a.dtype), codegen

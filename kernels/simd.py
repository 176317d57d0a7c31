"""A 64-byte vector for Numba: 16 float32 or 8 float64 lanes, in registers.

Plain Numba loops over short rows do not vectorise well: accumulators kept in a small array stay
in memory, and signed indices loaded from memory bring wrap-around selects. These few operations
are all that the panel kernels need, and LLVM lowers them to what the CPU has: AVX-512, two AVX
registers, four of SSE or NEON. Each has a plain Python twin, so the kernels also run interpreted
(``NUMBA_DISABLE_JIT=1``), lane for lane the same up to the rounding of a fused multiply-add.

======================  ============================================================
``zero(a)``             a vector of zeros, of ``a``'s dtype
``load(a, i)``          lanes ``a[i], a[i+1], …`` (64 bytes, any alignment)
``store(a, i, v)``      the other way
``splat(a, i)``         every lane ``a[i]``
``fma(x, y, z)``        ``x * y + z``
``index(a, i)``         the integer ``a[i]`` as an int64
``value(a, i)``         the number ``a[i]``
``put(a, i, x)``        ``a[i] = x``
``add(x, y)``           ``x + y``
``load_part(a, i, n)``  the first ``n`` lanes, 0 beyond, where nothing is read
``store_part(…, v)``    the first ``n`` lanes of ``v`` to ``a[i], …``; nothing beyond is touched
``pointer(a, i)``       the bare address of element ``i`` of an array of any dimension
======================  ============================================================

A *bundle* is a few vectors side by side that one index serves: the row of a panel, in registers.
How many is part of its type, so that one text of a kernel is compiled for every width.

==============================  ====================================================
``bundle(a, count)``            that many vectors of zeros; `count` is a literal
``load_bundle(a, i, like)``     the vectors from ``a[i]`` on, as many as `like` has
``store_bundle(a, i, x)``       the other way
``fma_bundle(v, x, y)``         ``v * x + y``, v a vector
``prefetch_bundle(a, i, like)`` ask for those cache lines; any address will do
==============================  ====================================================

``a`` is a 1-D C-contiguous array or a `pointer`. A pointer counts no references: a function that
takes a dozen arrays per panel spends more time on counting them than on a small panel (measured:
232 against 40 ns a panel). Nothing is bounds-checked and no index wraps around. A vector may reach
up to 63 bytes beyond the last wanted element, so arrays carry that much slack (`SLACK`).
"""

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

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


def _llvm_vector(vector: VectorType) -> ir.VectorType:
    scalar = ir.FloatType() if vector.dtype.bitwidth == 32 else ir.DoubleType()
    return ir.VectorType(scalar, vector.lanes)


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: VectorType) -> None:
        super().__init__(dmm, fe_type, _llvm_vector(fe_type))


def _holds_numbers(a: Any) -> bool:
    is_array = isinstance(a, types.Array) and a.ndim == 1 and a.layout == "C"
    return is_array or isinstance(a, types.CPointer)


def _address(context: Any, builder: Any, kind: Any, value: Any, i: Any) -> Any:
    """Return the address of element i; plain pointer arithmetic, no wrap-around, no check."""
    if isinstance(kind, types.CPointer):
        return builder.gep(value, [i])
    return builder.gep(context.make_array(kind)(context, builder, value).data, [i])


@intrinsic
def _load(typingctx: Any, a: Any, i: Any) -> Any:
    vector = VectorType(a.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig.args[0], args[0], args[1])
        llvm = _llvm_vector(vector)
        align = sig.args[0].dtype.bitwidth // 8
        return builder.load(builder.bitcast(pointer, llvm.as_pointer()), align=align)

    return vector(a, types.intp), codegen


@intrinsic
def _store(typingctx: Any, a: Any, i: Any, v: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig.args[0], args[0], args[1])
        llvm = _llvm_vector(sig.args[2])
        align = sig.args[0].dtype.bitwidth // 8
        builder.store(args[2], builder.bitcast(pointer, llvm.as_pointer()), align=align)
        return context.get_dummy_value()

    return types.void(a, types.intp, v), codegen


@intrinsic
def _splat(typingctx: Any, a: Any, i: Any) -> Any:
    vector = VectorType(a.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        scalar = builder.load(_address(context, builder, sig.args[0], args[0], args[1]))
        llvm = _llvm_vector(vector)
        first = builder.insert_element(
            ir.Constant(llvm, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
        )
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), [0] * vector.lanes)
        return builder.shuffle_vector(first, ir.Constant(llvm, ir.Undefined), lanes)

    return vector(a, types.intp), codegen


@intrinsic
def _zero(typingctx: Any, a: Any) -> Any:
    vector = VectorType(a.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(_llvm_vector(vector), [0.0] * vector.lanes)

    return vector(a), codegen


def _fmuladd(builder: Any, vector: VectorType) -> Any:
    # llvm.fmuladd, not llvm.fma: on a CPU without FMA the latter is a libm call per lane.
    llvm = _llvm_vector(vector)
    name = f"llvm.fmuladd.v{vector.lanes}f{vector.dtype.bitwidth}"
    kind = ir.FunctionType(llvm, [llvm, llvm, llvm])
    return cgutils.get_or_insert_function(builder.module, kind, name)


@intrinsic
def _fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.call(_fmuladd(builder, sig.return_type), args)

    return x(x, x, x), codegen


@intrinsic
def _index(typingctx: Any, a: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = builder.load(_address(context, builder, sig.args[0], args[0], args[1]))
        return builder.sext(value, ir.IntType(64)) if value.type.width < 64 else value

    return types.int64(a, types.intp), codegen


def _wanted(builder: Any, vector: VectorType, n: Any) -> Any:
    """Return the mask of a vector's first n lanes."""
    wide = ir.VectorType(ir.IntType(64), vector.lanes)
    none, first = ir.Constant(wide, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), [0] * vector.lanes)
    count = builder.shuffle_vector(builder.insert_element(none, n, first), none, zeros)
    return builder.icmp_signed("<", ir.Constant(wide, list(range(vector.lanes))), count)


def _masked(builder: Any, name: str, vector: VectorType, returns: Any, arguments: list[Any]) -> Any:
    name = f"llvm.masked.{name}.v{vector.lanes}f{vector.dtype.bitwidth}.p0"
    kind = ir.FunctionType(returns, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@intrinsic
def _load_part(typingctx: Any, a: Any, i: Any, n: Any) -> Any:
    vector = VectorType(a.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        llvm, align = _llvm_vector(vector), ir.Constant(ir.IntType(32), vector.dtype.bitwidth // 8)
        place = _address(context, builder, sig.args[0], args[0], args[1])
        place = builder.bitcast(place, llvm.as_pointer())
        beyond = ir.Constant(llvm, [0.0] * vector.lanes)
        arguments = [place, align, _wanted(builder, vector, args[2]), beyond]
        return _masked(builder, "load", vector, llvm, arguments)

    return vector(a, types.intp, types.int64), codegen


@intrinsic
def _store_part(typingctx: Any, a: Any, i: Any, n: Any, v: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        llvm, align = _llvm_vector(v), ir.Constant(ir.IntType(32), v.dtype.bitwidth // 8)
        place = _address(context, builder, sig.args[0], args[0], args[1])
        place = builder.bitcast(place, llvm.as_pointer())
        arguments = [args[3], place, align, _wanted(builder, v, args[2])]
        _masked(builder, "store", v, ir.VoidType(), arguments)
        return context.get_dummy_value()

    return types.void(a, types.intp, types.int64, v), codegen


@intrinsic
def _add(typingctx: Any, x: Any, y: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fadd(*args)

    return x(x, y), codegen


def _places(context: Any, builder: Any, sig: Any, args: Any, bundle: Any) -> list[Any]:
    """Return the address of each vector of a bundle that begins at element i."""
    llvm = _llvm_vector(bundle.dtype).as_pointer()
    first = builder.bitcast(_address(context, builder, sig.args[0], args[0], args[1]), llvm)
    return [builder.gep(first, [ir.Constant(ir.IntType(64), k)]) for k in range(bundle.count)]


@intrinsic(prefer_literal=True)
def _bundle(typingctx: Any, a: Any, count: Any) -> Any:
    kind = types.UniTuple(VectorType(a.dtype), count.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        none = ir.Constant(_llvm_vector(kind.dtype), [0.0] * kind.dtype.lanes)
        return context.make_tuple(builder, kind, [none] * kind.count)

    return kind(a, count), codegen


@intrinsic
def _load_bundle(typingctx: Any, a: Any, i: Any, like: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        align = sig.args[0].dtype.bitwidth // 8
        places = _places(context, builder, sig, args, like)
        return context.make_tuple(builder, like, [builder.load(p, align=align) for p in places])

    return like(a, types.intp, like), codegen


@intrinsic
def _store_bundle(typingctx: Any, a: Any, i: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        align = sig.args[0].dtype.bitwidth // 8
        vectors = cgutils.unpack_tuple(builder, args[2])
        for vector, place in zip(vectors, _places(context, builder, sig, args, x), strict=True):
            builder.store(vector, place, align=align)
        return context.get_dummy_value()

    return types.void(a, types.intp, x), codegen


@intrinsic
def _fma_bundle(typingctx: Any, v: Any, x: Any, y: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        function = _fmuladd(builder, v)
        pairs = zip(*[cgutils.unpack_tuple(builder, bundle) for bundle in args[1:]], strict=True)
        return context.make_tuple(
            builder, y, [builder.call(function, [args[0], *pair]) for pair in pairs]
        )

    return y(v, x, y), codegen


@intrinsic
def _prefetch_bundle(typingctx: Any, a: Any, i: Any, like: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        number, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # Three panels of a narrow net fit into L1, those of wide rows would push each other out.
        cache = 3 if like.count < 4 else 2
        reading, near, data = (ir.Constant(number, flag) for flag in (0, cache, 1))
        for place in _places(context, builder, sig, args, like):
            builder.call(function, [builder.bitcast(place, byte), reading, near, data])
        return context.get_dummy_value()

    return types.void(a, types.intp, like), codegen


@intrinsic
def _pointer(typingctx: Any, a: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.gep(data, [args[1]])

    return types.CPointer(a.dtype)(a, types.intp), codegen


@intrinsic
def _value(typingctx: Any, a: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, sig.args[0], args[0], args[1]))

    return a.dtype(a, types.intp), codegen


@intrinsic
def _put(typingctx: Any, a: Any, i: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, sig.args[0], args[0], args[1]))
        return context.get_dummy_value()

    return types.void(a, types.intp, a.dtype), codegen


# No annotations from here on: Numba wants an overload's signature equal to its implementation's.


def lanes(a):
    """Return the lanes of a vector of `a`'s dtype: 16 for float32, 8 for float64."""
    return BYTES // a.itemsize


def load(a, i):
    """Return the vector of the 64 bytes of `a` that begin at element `i`."""
    return a[i : i + lanes(a)].copy()


def store(a, i, v):
    """Write vector `v` to the 64 bytes of `a` that begin at element `i`."""
    a[i : i + lanes(a)] = v


def splat(a, i):
    """Return the vector that has ``a[i]`` in every lane."""
    return np.full(lanes(a), a[i], a.dtype)


def zero(a):
    """Return the vector of zeros of `a`'s dtype."""
    return np.zeros(lanes(a), a.dtype)


def fma(x, y, z):
    """Return ``x * y + z``, fused where the CPU can."""
    return x * y + z


def index(a, i):
    """Return the integer ``a[i]``; a negative `i` is the caller's fault and is not wrapped."""
    return int(a[i])


def pointer(a, i):
    """Return the bare address of element `i` (in C order) of `a`; the caller keeps `a` alive."""
    if not a.flags.c_contiguous:
        raise TypeError("pointer() takes a C-contiguous array")
    return a.reshape(-1)[i:]


def add(x, y):
    """Return ``x + y``."""
    return x + y


def load_part(a, i, n):
    """Return the vector of the first `n` elements of `a` from element `i` on, and 0 beyond."""
    v = np.zeros(lanes(a), a.dtype)
    v[:n] = a[i : i + min(n, v.size)]
    return v


def store_part(a, i, n, v):
    """Write the first `n` lanes of vector `v` to `a`, from element `i` on."""
    n = min(n, v.size)
    a[i : i + n] = v[:n]


def bundle(a, count):
    """Return `count` vectors of zeros of `a`'s dtype."""
    return np.zeros(count * lanes(a), a.dtype)


def load_bundle(a, i, like):
    """Return as many vectors of `a`, from element `i` on, as `like` has."""
    return a[i : i + like.size].copy()


def store_bundle(a, i, x):
    """Write a bundle to `a`, from element `i` on."""
    a[i : i + x.size] = x


def fma_bundle(v, x, y):
    """Return ``v * x + y``, vector by vector, fused where the CPU can."""
    return np.resize(v, x.size) * x + y


def prefetch_bundle(a, i, like):
    """Ask for the cache lines of a bundle that begins at element `i`, which need not exist."""


def value(a, i):
    """Return the number ``a[i]``."""
    return a[i]


def put(a, i, x):
    """Set ``a[i]`` to `x`."""
    a[i] = x


@overload(lanes)
def _lanes_overload(a):
    if isinstance(a, types.Array | types.CPointer):
        count = BYTES * 8 // a.dtype.bitwidth
        return lambda a: count
    return None


@overload(load)
def _load_overload(a, i):
    return (lambda a, i: _load(a, i)) if _holds_numbers(a) else None


@overload(store)
def _store_overload(a, i, v):
    return (lambda a, i, v: _store(a, i, v)) if _holds_numbers(a) else None


@overload(splat)
def _splat_overload(a, i):
    return (lambda a, i: _splat(a, i)) if _holds_numbers(a) else None


@overload(zero)
def _zero_overload(a):
    return (lambda a: _zero(a)) if _holds_numbers(a) else None


@overload(fma)
def _fma_overload(x, y, z):
    return (lambda x, y, z: _fma(x, y, z)) if isinstance(x, VectorType) else None


@overload(index)
def _index_overload(a, i):
    return (lambda a, i: _index(a, i)) if _holds_numbers(a) else None


@overload(pointer)
def _pointer_overload(a, i):
    contiguous = isinstance(a, types.Array) and a.layout == "C"
    return (lambda a, i: _pointer(a, i)) if contiguous else None  # strides would be ignored


@overload(add)
def _add_overload(x, y):
    return (lambda x, y: _add(x, y)) if isinstance(x, VectorType) else None


@overload(load_part)
def _load_part_overload(a, i, n):
    return (lambda a, i, n: _load_part(a, i, n)) if _holds_numbers(a) else None


@overload(store_part)
def _store_part_overload(a, i, n, v):
    return (lambda a, i, n, v: _store_part(a, i, n, v)) if _holds_numbers(a) else None


@overload(bundle, prefer_literal=True)
def _bundle_overload(a, count):
    return (lambda a, count: _bundle(a, count)) if _holds_numbers(a) else None


@overload(load_bundle)
def _load_bundle_overload(a, i, like):
    return (lambda a, i, like: _load_bundle(a, i, like)) if _holds_numbers(a) else None


@overload(store_bundle)
def _store_bundle_overload(a, i, x):
    return (lambda a, i, x: _store_bundle(a, i, x)) if _holds_numbers(a) else None


@overload(fma_bundle)
def _fma_bundle_overload(v, x, y):
    return (lambda v, x, y: _fma_bundle(v, x, y)) if isinstance(v, VectorType) else None


@overload(prefetch_bundle)
def _prefetch_bundle_overload(a, i, like):
    return (lambda a, i, like: _prefetch_bundle(a, i, like)) if _holds_numbers(a) else None


@overload(value)
def _value_overload(a, i):
    return (lambda a, i: _value(a, i)) if _holds_numbers(a) else None


@overload(put)
def _put_overload(a, i, x):
    return (lambda a, i, x: _put(a, i, x)) if _holds_numbers(a) else None


# Across the lanes of a vector, and lanes from all over an array.


def _shuffle(builder, x, y, lanes):
    places = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(x, y, places)


def _add_halves(builder, x, count):
    return builder.fadd(
        _shuffle(builder, x, x, range(count)), _shuffle(builder, x, x, range(count, 2 * count))
    )


@intrinsic
def _gather(typingctx, a, indices, i):
    vector = VectorType(a.dtype)

    def codegen(context, builder, sig, args):
        count, number, wide = vector.lanes, ir.IntType(32), ir.IntType(64)
        places = ir.VectorType(number, count)
        at = _address(context, builder, sig.args[1], args[1], args[2])
        places = builder.load(builder.bitcast(at, places.as_pointer()), align=4)
        # Addresses by arithmetic, since llvmlite has no vector of pointers to index into; LLVM
        # sees through it and makes one gather with 32-bit indices of it.
        wides = ir.VectorType(wide, count)
        base = _address(context, builder, sig.args[0], args[0], ir.Constant(wide, 0))
        base = builder.insert_element(
            ir.Constant(wides, ir.Undefined), builder.ptrtoint(base, wide), ir.Constant(number, 0)
        )
        size = ir.Constant(wides, [vector.dtype.bitwidth // 8] * count)
        addresses = builder.add(
            _shuffle(builder, base, base, [0] * count),
            builder.mul(builder.sext(places, wides), size),
        )
        llvm = _llvm_vector(vector)
        pointers = ir.VectorType(llvm.element.as_pointer(), count)
        mask = ir.VectorType(ir.IntType(1), count)
        kind = ir.FunctionType(llvm, [pointers, number, mask, llvm])
        name = f"llvm.masked.gather.v{count}f{vector.dtype.bitwidth}.v{count}p0"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        align = ir.Constant(number, vector.dtype.bitwidth // 8)
        everywhere, nothing = ir.Constant(mask, [1] * count), ir.Constant(llvm, ir.Undefined)
        addresses = builder.inttoptr(addresses, pointers)
        return builder.call(function, [addresses, align, everywhere, nothing])

    return vector(a, indices, types.intp), codegen


@intrinsic
def _total(typingctx, x):
    def codegen(context, builder, sig, args):
        total, count = args[0], sig.args[0].lanes
        while count > 1:  # by halves: the same order on every CPU
            count //= 2
            total = _add_halves(builder, total, count)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return x.dtype(x), codegen


@intrinsic
def _add_products(typingctx, a, i, x, p, q, r, s):
    def codegen(context, builder, sig, args):
        count = sig.args[2].lanes
        llvm = _llvm_vector(sig.args[2])
        name = f"llvm.fmuladd.v{count}f{sig.args[2].dtype.bitwidth}"
        kind = ir.FunctionType(llvm, [llvm, llvm, llvm])
        fmuladd = cgutils.get_or_insert_function(builder.module, kind, name)

        def mixed(one, two, four):  # the same shuffle in every block of four lanes
            places = [
                block + lane % 4 + (count if lane >= 4 else 0)
                for block in range(0, count, 4)
                for lane in four
            ]
            return _shuffle(builder, one, two, places)

        def pair(one, two):  # one0 + one2, two0 + two2, one1 + one3, two1 + two3, times x
            low, high = (0, 4, 1, 5), (2, 6, 3, 7)
            product = builder.fmul(mixed(one, two, high), mixed(args[2], args[2], high))
            return builder.call(
                fmuladd, [mixed(one, two, low), mixed(args[2], args[2], low), product]
            )

        first, second = pair(args[3], args[4]), pair(args[5], args[6])
        sums = builder.fadd(mixed(first, second, (0, 1, 4, 5)), mixed(first, second, (2, 3, 6, 7)))
        while count > 4:
            count //= 2
            sums = _add_halves(builder, sums, count)
        at = _address(context, builder, sig.args[0], args[0], args[1])
        at = builder.bitcast(at, sums.type.as_pointer())
        align = sig.args[2].dtype.bitwidth // 8
        builder.store(builder.fadd(builder.load(at, align=align), sums), at, align=align)
        return context.get_dummy_value()

    return types.void(a, types.intp, x, p, q, r, s), codegen


@intrinsic
def _fill(typingctx, a, x):
    vector = VectorType(a.dtype)

    def codegen(context, builder, sig, args):
        llvm = _llvm_vector(vector)
        first = builder.insert_element(
            ir.Constant(llvm, ir.Undefined), args[1], ir.Constant(ir.IntType(32), 0)
        )
        return _shuffle(builder, first, first, [0] * vector.lanes)

    return vector(a, a.dtype), codegen


def fill(a, x):
    """Return the vector that has the number `x` in every lane."""
    return np.full(lanes(a), x, a.dtype)


def gather(a, indices, i):
    """Return the vector of ``a[indices[i]], a[indices[i + 1]], …``; `indices` are int32."""
    return a[indices[i : i + lanes(a)]]


def total(x):
    """Return the sum of the lanes of `x`."""
    return x.sum()


def add_products(a, i, x, p, q, r, s):
    """Add ``x · p``, ``x · q``, ``x · r`` and ``x · s`` to ``a[i]`` … ``a[i + 3]``."""
    for k, y in enumerate((p, q, r, s)):
        a[i + k] += (x * y).sum()


@overload(fill)
def _fill_overload(a, x):
    return (lambda a, x: _fill(a, x)) if _holds_numbers(a) else None


@overload(gather)
def _gather_overload(a, indices, i):
    return (lambda a, indices, i: _gather(a, indices, i)) if _holds_numbers(a) else None


@overload(total)
def _total_overload(x):
    return (lambda x: _total(x)) if isinstance(x, VectorType) else None


@overload(add_products)
def _add_products_overload(a, i, x, p, q, r, s):
    if not _holds_numbers(a):
        return None
    return lambda a, i, x, p, q, r, s: _add_products(a, i, x, p, q, r, s)


# Arithmetic for formulas that vectors and numbers share; a number stands in every lane.


def _both(x, y):
    """Whether one operand is a vector and the other one too, or a number of its dtype."""
    vector = x if isinstance(x, VectorType) else y
    return isinstance(vector, VectorType) and all(k in (vector, vector.dtype) for k in (x, y))


def _spread(builder, vector, kind, arg):
    if isinstance(kind, VectorType):
        return arg
    first = builder.insert_element(
        ir.Constant(_llvm_vector(vector), ir.Undefined), arg, ir.Constant(ir.IntType(32), 0)
    )
    return _shuffle(builder, first, first, [0] * vector.lanes)


def _arithmetic(operation, method):
    @intrinsic
    def apply(typingctx, x, y):
        def codegen(context, builder, sig, args):
            vector = sig.return_type
            operands = (
                _spread(builder, vector, *pair) for pair in zip(sig.args, args, strict=True)
            )
            return getattr(builder, method)(*operands)

        return (x if isinstance(x, VectorType) else y)(x, y), codegen

    @overload(operation)
    def _operation_overload(x, y):
        return (lambda x, y: apply(x, y)) if _both(x, y) else None


for _operation, _method in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):  # fmt: skip
    _arithmetic(_operation, _method)


@intrinsic
def _clip(typingctx, x, end):
    def codegen(context, builder, sig, args):
        vector = sig.return_type
        x, high = args[0], _spread(builder, vector, sig.args[1], args[1])
        x = builder.select(builder.fcmp_ordered(">", x, high), high, x)  # NaN passes both
        low = builder.fsub(ir.Constant(_llvm_vector(vector), [0.0] * vector.lanes), high)
        return builder.select(builder.fcmp_ordered("<", x, low), low, x)

    return x(x, end), codegen


@intrinsic
def _map_tanh(typingctx, x):
    def codegen(context, builder, sig, args):
        result, double = args[0], ir.DoubleType()
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(double, [double]), "tanh"
        )
        for lane in range(sig.return_type.lanes):
            at = ir.Constant(ir.IntType(32), lane)
            number = builder.call(function, [builder.extract_element(args[0], at)])
            result = builder.insert_element(result, number, at)
        return result

    return x(x), codegen


def clip(x, end):
    """Return `x` cut off at ±`end`, a positive number; NaN stays."""
    return np.where(x > end, end, np.where(x < -end, -end, x))


def map_tanh(x):
    """Return tanh of the lanes of a vector of float64, one after the other."""
    return np.tanh(x)


@overload(clip)
def _clip_overload(x, end):
    if isinstance(x, VectorType):
        return lambda x, end: _clip(x, end)

    def number(x, end):
        x = end if x > end else x  # NaN passes both
        return -end if x < -end else x

    return number


@overload(map_tanh)
def _map_tanh_overload(x):
    return (lambda x: _map_tanh(x)) if isinstance(x, VectorType) else None

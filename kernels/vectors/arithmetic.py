"""Vectors as numbers: arithmetic that both share, sums over lanes, lanes from all over an array.

==============================  ==========================================================
``x + y``, ``-``, ``*``, ``/``  of two vectors, or of a vector and a number of its dtype
``fill(a, x)``                  a vector of the number ``x`` in every lane
``gather(a, indices, i)``       lanes ``a[indices[i]], a[indices[i + 1]], …``
``gather_part(a, indices, i, n)``
                                its first ``n`` lanes, 0 beyond, where neither is read
``total(x)``                    the sum of the lanes
``add_product(a, i, x, p)``     the total of ``x * p``, added to ``a[i]``
``add_products(a, i, x, …)``    the totals of ``x`` times four vectors, added to ``a[i]`` …
``add_totals(a, i, …)``         the totals of four vectors, added to ``a[i]`` …
``clip(x, end)``                ``x`` cut off at ±``end``
``map_tanh(x)``                 tanh of every lane, float64
==============================  ==========================================================

As in simd.py, each has a plain Python twin.
"""

import operator

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils

from ..compiler.operation import compiled
from .simd import (
    VectorType,
    address_of,
    call,
    first_lanes,
    fmuladd,
    holds_numbers,
    in_every_lane,
    is_vector,
    lanes,
    llvm_vector,
    put,
    value,
)


def _shuffle(builder, x, y, lanes):
    places = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(x, y, places)


def _add_halves(builder, x, count):
    return builder.fadd(
        _shuffle(builder, x, x, range(count)), _shuffle(builder, x, x, range(count, 2 * count))
    )


def _add_four(context, builder, a, args, vectors, join):
    """Add the totals of four vectors to four elements of an array; `join` adds two vectors up."""
    count = vectors[0].type.count

    def mixed(one, two, four):  # the same shuffle in every block of four lanes
        places = [
            block + lane % 4 + (count if lane >= 4 else 0)
            for block in range(0, count, 4)
            for lane in four
        ]
        return _shuffle(builder, one, two, places)

    def pair(one, two):  # one0 + one2, two0 + two2, one1 + one3, two1 + two3
        return join(
            *((mixed(one, two, four), four) for four in ((0, 4, 1, 5), (2, 6, 3, 7))), mixed
        )

    first, second = pair(*vectors[:2]), pair(*vectors[2:])
    sums = builder.fadd(mixed(first, second, (0, 1, 4, 5)), mixed(first, second, (2, 3, 6, 7)))
    while count > 4:
        count //= 2
        sums = _add_halves(builder, sums, count)
    at = address_of(context, builder, a, args[0], args[1])
    at = builder.bitcast(at, sums.type.as_pointer())
    align = a.dtype.bitwidth // 8
    builder.store(builder.fadd(builder.load(at, align=align), sums), at, align=align)
    return context.get_dummy_value()


def _lanes_at(context, builder, sig, args, places, wanted, beyond):
    """Gather the wanted lanes of the first argument from `places`; the others come from beyond."""
    vector, wide = sig.return_type, ir.IntType(64)
    count, size, llvm = vector.lanes, vector.dtype.bitwidth // 8, llvm_vector(vector)
    # Addresses by arithmetic, since llvmlite has no vector of pointers to index into; LLVM
    # sees through it and makes one gather with 32-bit indices of it.
    wides = ir.VectorType(wide, count)
    base = address_of(context, builder, sig.args[0], args[0], ir.Constant(wide, 0))
    addresses = builder.add(
        in_every_lane(builder, builder.ptrtoint(base, wide), wides),
        builder.mul(builder.sext(places, wides), ir.Constant(wides, [size] * count)),
    )
    addresses = builder.inttoptr(addresses, ir.VectorType(llvm.element.as_pointer(), count))
    name = f"llvm.masked.gather.v{count}f{vector.dtype.bitwidth}.v{count}p0"
    align = ir.Constant(ir.IntType(32), size)
    return call(builder, name, llvm, addresses, align, wanted, beyond)


def fill(a, x):
    """Return the vector that has the number `x` in every lane."""
    return np.full(lanes(a), x, a.dtype)


@compiled(fill, holds_numbers)
def _fill(typingctx, a, x):
    vector = VectorType(a.dtype)

    def codegen(context, builder, sig, args):
        return in_every_lane(builder, args[1], llvm_vector(vector))

    return vector(a, a.dtype), codegen


def gather(a, indices, i):
    """Return the vector of ``a[indices[i]], a[indices[i + 1]], …``; `indices` are int32."""
    return a[indices[i : i + lanes(a)]]


@compiled(gather, holds_numbers)
def _gather(typingctx, a, indices, i):
    def codegen(context, builder, sig, args):
        count = sig.return_type.lanes
        places = ir.VectorType(ir.IntType(32), count)
        at = address_of(context, builder, sig.args[1], args[1], args[2])
        places = builder.load(builder.bitcast(at, places.as_pointer()), align=4)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(1), count), [1] * count)
        nothing = ir.Constant(llvm_vector(sig.return_type), ir.Undefined)
        return _lanes_at(context, builder, sig, args, places, everywhere, nothing)

    return VectorType(a.dtype)(a, indices, types.intp), codegen


def gather_part(a, indices, i, n):
    """Return the vector of ``a[indices[i]], …, a[indices[i + n - 1]]``, and 0 beyond."""
    v = np.zeros(lanes(a), a.dtype)
    v[:n] = a[indices[i : i + n]]
    return v


@compiled(gather_part, holds_numbers)
def _gather_part(typingctx, a, indices, i, n):
    def codegen(context, builder, sig, args):
        count, number = sig.return_type.lanes, ir.IntType(32)
        places = ir.VectorType(number, count)
        at = address_of(context, builder, sig.args[1], args[1], args[2])
        at = builder.bitcast(at, places.as_pointer())
        wanted = first_lanes(builder, sig.return_type, args[3])
        places = call(
            builder, f"llvm.masked.load.v{count}i32.p0", places, at, ir.Constant(number, 4), wanted,
            ir.Constant(places, [0] * count),
        )  # fmt: skip
        zeros = ir.Constant(llvm_vector(sig.return_type), [0.0] * count)
        return _lanes_at(context, builder, sig, args, places, wanted, zeros)

    return VectorType(a.dtype)(a, indices, types.intp, types.int64), codegen


def total(x):
    """Return the sum of the lanes of `x`."""
    return x.sum()


@compiled(total, is_vector)
def _total(typingctx, x):
    def codegen(context, builder, sig, args):
        total, count = args[0], sig.args[0].lanes
        while count > 1:  # by halves: the same order on every CPU
            count //= 2
            total = _add_halves(builder, total, count)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return x.dtype(x), codegen


@njit(cache=True, nogil=True)
def add_product(a, i, x, p):
    """Add ``x · p`` to ``a[i]``."""
    put(a, i, value(a, i) + total(x * p))


def add_products(a, i, x, p, q, r, s):
    """Add ``x · p``, ``x · q``, ``x · r`` and ``x · s`` to ``a[i]`` … ``a[i + 3]``."""
    for k, y in enumerate((p, q, r, s)):
        a[i + k] += (x * y).sum()


@compiled(add_products, holds_numbers)
def _add_products(typingctx, a, i, x, p, q, r, s):
    def codegen(context, builder, sig, args):
        function = fmuladd(builder, sig.args[2])

        def join(low, high, mixed):  # low · x + high · x
            factors = [mixed(args[2], args[2], four) for _, four in (low, high)]
            return builder.call(function, [low[0], factors[0], builder.fmul(high[0], factors[1])])

        return _add_four(context, builder, sig.args[0], args, args[3:], join)

    return types.void(a, types.intp, x, p, q, r, s), codegen


def add_totals(a, i, p, q, r, s):
    """Add the sums of the lanes of `p`, `q`, `r` and `s` to ``a[i]`` … ``a[i + 3]``."""
    for k, y in enumerate((p, q, r, s)):
        a[i + k] += y.sum()


@compiled(add_totals, holds_numbers)
def _add_totals(typingctx, a, i, p, q, r, s):
    def codegen(context, builder, sig, args):
        def join(low, high, mixed):
            return builder.fadd(low[0], high[0])

        return _add_four(context, builder, sig.args[0], args, args[2:], join)

    return types.void(a, types.intp, p, q, r, s), codegen


# Arithmetic for formulas that vectors and numbers share; a number stands in every lane.


def _both(x, y):
    """Whether one operand is a vector and the other one too, or a number of its dtype."""
    vector = x if isinstance(x, VectorType) else y
    return isinstance(vector, VectorType) and all(k in (vector, vector.dtype) for k in (x, y))


def _spread(builder, vector, kind, arg):
    if isinstance(kind, VectorType):
        return arg
    return in_every_lane(builder, arg, llvm_vector(vector))


def _arithmetic(operation, method):
    @compiled(operation, lambda x: isinstance(x, VectorType | types.Float))
    def apply(typingctx, x, y):
        def codegen(context, builder, sig, args):
            vector = sig.return_type
            operands = (
                _spread(builder, vector, *pair) for pair in zip(sig.args, args, strict=True)
            )
            return getattr(builder, method)(*operands)

        return ((x if isinstance(x, VectorType) else y)(x, y), codegen) if _both(x, y) else None


for _operation, _method in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):  # fmt: skip
    _arithmetic(_operation, _method)


def clip(x, end):
    """Return `x` cut off at ±`end`, a positive number; NaN stays."""
    return np.where(x > end, end, np.where(x < -end, -end, x))


@compiled(clip, lambda x: isinstance(x, VectorType | types.Float))
def _clip(typingctx, x, end):
    def codegen(context, builder, sig, args):
        x, end = args
        if isinstance(sig.return_type, VectorType):
            end = _spread(builder, sig.return_type, sig.args[1], end)
        x = builder.select(builder.fcmp_ordered(">", x, end), end, x)  # NaN passes both
        low = builder.fneg(end)
        return builder.select(builder.fcmp_ordered("<", x, low), low, x)

    return x(x, end if isinstance(x, VectorType) else x), codegen


def map_tanh(x):
    """Return tanh of the lanes of a vector of float64, one after the other."""
    return np.tanh(x)


@compiled(map_tanh, is_vector)
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

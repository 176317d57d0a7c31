"""Bundles: a few vectors side by side that one index serves, such as the row of a panel.

How many is part of a bundle's type, so that one text of a kernel is compiled for every width.

==============================  ====================================================
``bundle(a, count)``            that many vectors of zeros; `count` is a literal
``load_bundle(a, i, like)``     the vectors from ``a[i]`` on, as many as `like` has
``store_bundle(a, i, x)``       the other way
``fma_bundle(v, x, y)``         ``v * x + y``, v a vector
``add_bundles(x, y)``           ``x + y``
``prefetch_bundle(a, i, like)`` ask for those cache lines; any address will do
==============================  ====================================================

As in simd.py, ``a`` is a 1-D C-contiguous array or a `pointer`, and each has a plain Python twin.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..compiler.operation import compiled
from .simd import VectorType, address_of, fmuladd, holds_numbers, is_vector, lanes, llvm_vector


def _places(context: Any, builder: Any, sig: Any, args: Any, bundle: Any) -> list[Any]:
    """Return the address of each vector of a bundle that begins at element i."""
    llvm = llvm_vector(bundle.dtype).as_pointer()
    first = builder.bitcast(address_of(context, builder, sig.args[0], args[0], args[1]), llvm)
    return [builder.gep(first, [ir.Constant(ir.IntType(64), k)]) for k in range(bundle.count)]


def is_bundle(x: Any) -> bool:
    """Whether Numba's type `x` is a bundle."""
    return isinstance(x, types.UniTuple) and is_vector(x.dtype)


def bundle(a, count):
    """Return `count` vectors of zeros of `a`'s dtype."""
    return np.zeros(count * lanes(a), a.dtype)


@compiled(bundle, holds_numbers, prefer_literal=True)
def _bundle(typingctx: Any, a: Any, count: Any) -> Any:
    kind = types.UniTuple(VectorType(a.dtype), count.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        none = ir.Constant(llvm_vector(kind.dtype), [0.0] * kind.dtype.lanes)
        return context.make_tuple(builder, kind, [none] * kind.count)

    return kind(a, count), codegen


def load_bundle(a, i, like):
    """Return as many vectors of `a`, from element `i` on, as `like` has."""
    return a[i : i + like.size].copy()


@compiled(load_bundle, holds_numbers)
def _load_bundle(typingctx: Any, a: Any, i: Any, like: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        align = sig.args[0].dtype.bitwidth // 8
        places = _places(context, builder, sig, args, like)
        return context.make_tuple(builder, like, [builder.load(p, align=align) for p in places])

    return like(a, types.intp, like), codegen


def store_bundle(a, i, x):
    """Write a bundle to `a`, from element `i` on."""
    a[i : i + x.size] = x


@compiled(store_bundle, holds_numbers)
def _store_bundle(typingctx: Any, a: Any, i: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        align = sig.args[0].dtype.bitwidth // 8
        vectors = cgutils.unpack_tuple(builder, args[2])
        for vector, place in zip(vectors, _places(context, builder, sig, args, x), strict=True):
            builder.store(vector, place, align=align)
        return context.get_dummy_value()

    return types.void(a, types.intp, x), codegen


def fma_bundle(v, x, y):
    """Return ``v * x + y``, vector by vector, fused where the CPU can."""
    return np.resize(v, x.size) * x + y


@compiled(fma_bundle, is_vector)
def _fma_bundle(typingctx: Any, v: Any, x: Any, y: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        function = fmuladd(builder, v)
        pairs = zip(*[cgutils.unpack_tuple(builder, bundle) for bundle in args[1:]], strict=True)
        return context.make_tuple(
            builder, y, [builder.call(function, [args[0], *pair]) for pair in pairs]
        )

    return y(v, x, y), codegen


def add_bundles(x, y):
    """Return ``x + y``, vector by vector."""
    return x + y


@compiled(add_bundles, is_bundle)
def _add_bundles(typingctx: Any, x: Any, y: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pairs = zip(*[cgutils.unpack_tuple(builder, bundle) for bundle in args], strict=True)
        return context.make_tuple(builder, x, [builder.fadd(*pair) for pair in pairs])

    return x(x, y), codegen


def prefetch_bundle(a, i, like):
    """Ask for the cache lines of a bundle that begins at element `i`, which need not exist."""


@compiled(prefetch_bundle, holds_numbers)
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

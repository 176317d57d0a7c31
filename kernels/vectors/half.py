"""Numbers of 16 bits in memory, of 32 in registers: bfloat16 and float16, rounded stochastically.

`Halves` stand where the operations of simd.py and bundles.py take an array of float32: what is
loaded is widened, what is stored is rounded. A number between two of 16 bits goes to the upper one
with the probability of its distance from the lower one, so that a sum over many steps keeps in the
mean what each of them adds; one that has 16 bits stays. The random bits are a hash of a key and of
the place, so they need no state and no order. `Copies` are the same without the rounding, for what
comes from halves unchanged.

Words are uint16 for bfloat16 and int16 for float16: a kernel is compiled for each. float16 ends at
65504, and what is beyond becomes infinite; it takes a CPU that converts it (`HAS_FLOAT16`).
"""

import platform
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numpy.typing import NDArray

from ..compiler.operation import compiled
from .bundles import bundle, load_bundle, prefetch_bundle, store_bundle
from .simd import (
    VectorType,
    address_of,
    call,
    first_lanes,
    in_every_lane,
    lanes,
    load_part,
    put,
    store_part,
    value,
    zero,
)

LANES = 16
HAS_FLOAT16 = platform.machine().lower() not in ("x86_64", "amd64") or bool(
    get_host_cpu_features().get("f16c", False)
)
"""Whether the CPU converts float16; without it LLVM would call a function that is not there."""
_BIAS = 112  # what the exponents of float32 have more than those of float16
_INFINITE = 0x7C00  # float16's infinity
_WEYL, _FOLD = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd numbers of SplitMix64 and of rrmxmx
_MASK = (1 << 64) - 1
_drawn = np.random.RandomState(19)
_SHIFT = _drawn.randint(0, 1 << 16, LANES, np.uint16)
_ODD = _drawn.randint(0, 1 << 15, LANES, np.uint16) * np.uint16(2) + np.uint16(1)


class Halves(NamedTuple):
    """Words as numbers of float32: rounded where they are stored, by the bits of a key."""

    words: NDArray[np.integer]
    key: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of what is loaded."""
        return np.dtype(np.float32)

    @property
    def itemsize(self) -> int:
        """Its bytes."""
        return 4

    def __getitem__(self, places: Any) -> Any:
        return widened(self.words[places])

    def __setitem__(self, places: Any, x: Any) -> None:
        first = places.start if isinstance(places, slice) else places
        random = _random(self.key, first, np.size(x)).reshape(np.shape(x))
        self.words[places] = rounded(x, random, self.words.dtype)


class Copies(NamedTuple):
    """Words as numbers of float32, to store what words can hold."""

    words: NDArray[np.integer]

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of what is loaded."""
        return np.dtype(np.float32)

    @property
    def itemsize(self) -> int:
        """Its bytes."""
        return 4

    def __getitem__(self, places: Any) -> Any:
        return widened(self.words[places])

    def __setitem__(self, places: Any, x: Any) -> None:
        self.words[places] = rounded(x, np.uint32(0), self.words.dtype)


def widened(words: Any) -> Any:
    """Return words as float32."""
    if words.dtype == np.int16:
        return words.view(np.float16).astype(np.float32)
    return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)


def rounded(x: Any, random: Any, dtype: Any) -> Any:
    """Return words for float32 numbers: with 16 random bits for each, or 0 to cut them off."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    if dtype == np.uint16:
        return ((bits + random) >> np.uint32(16)).astype(np.uint16)
    random = random & np.uint32(0x1FFF)
    size = bits & np.uint32(0x7FFFFFFF)
    least = np.uint32((_BIAS + 1) << 23)
    normal = ((np.maximum(size, least) + random) >> np.uint32(13)) - np.uint32(_BIAS << 10)
    is_small = size < least
    small = np.where(is_small, size, np.uint32(0)).view(np.float32) * np.float32(2**24)
    small = (small + random * np.float32(2**-13)).astype(np.uint32)
    w = np.minimum(np.where(is_small, small, normal), np.uint32(_INFINITE))
    return (w | bits >> np.uint32(16) & np.uint32(0x8000)).astype(np.uint16).view(np.int16)


def _random(key: Any, first: Any, count: int) -> Any:
    """Return 16 random bits for each place from `first` on, vector by vector."""
    found = []
    for place in range(int(first), int(first) + count, LANES):
        state = (int(key) + _WEYL * place) & _MASK
        state = ((state ^ (state >> 32)) * _FOLD) & _MASK
        state ^= state >> 29
        x = np.tile(np.array([state], "<u8").view("<u2"), LANES // 4)
        x = (x + _SHIFT) * _ODD
        found.append(x ^ (x >> np.uint16(8)))
    return np.concatenate(found)[:count].astype(np.uint32)


def _is_halves(a: Any) -> bool:
    return isinstance(a, types.BaseNamedTuple) and getattr(a, "instance_class", None) in (
        Halves,
        Copies,
    )


_vector = VectorType(types.float32)


class _Halves:
    """Makes the instructions of one operation on halves."""

    def __init__(self, context: Any, builder: Any, kind: Any, halves: Any) -> None:
        self.context, self.builder = context, builder
        self.kind, self.brain = kind, kind.types[0].dtype == types.uint16
        self.words = builder.extract_value(halves, 0)
        self.key = builder.extract_value(halves, 1) if kind.instance_class is Halves else None

    def at(self, i: Any, k: int = 0, count: int = LANES) -> Any:
        """Return the address of the k-th vector from element i on."""
        b = self.builder
        i = b.add(i, ir.Constant(ir.IntType(64), k * LANES))
        place = address_of(self.context, b, self.kind.types[0], self.words, i)
        return b.bitcast(place, ir.VectorType(ir.IntType(16), count).as_pointer())

    def widened(self, words: Any) -> Any:
        """Return a vector of words as float32."""
        b, count = self.builder, words.type.count
        floats = ir.VectorType(ir.FloatType(), count)
        if not self.brain:
            return b.fpext(b.bitcast(words, ir.VectorType(ir.HalfType(), count)), floats)
        wide = ir.VectorType(ir.IntType(32), count)
        return b.bitcast(b.shl(b.zext(words, wide), ir.Constant(wide, [16] * count)), floats)

    def rounded(self, x: Any, i: Any, k: int = 0) -> Any:
        """Return words for the k-th vector of float32 from element i on."""
        b, count = self.builder, x.type.count
        wide, floats, narrow = (
            ir.VectorType(kind, count) for kind in (ir.IntType(32), ir.FloatType(), ir.IntType(16))
        )
        if self.key is None and not self.brain:
            return b.bitcast(b.fptrunc(x, ir.VectorType(ir.HalfType(), count)), narrow)
        random = self._random(i, k, count, wide)

        def number(value: int) -> Any:
            return ir.Constant(wide, [value] * count)

        bits = b.bitcast(x, wide)
        if self.brain:
            w = b.lshr(b.add(bits, random), number(16))
            return b.trunc(w, narrow)
        random = b.and_(random, number(0x1FFF))
        size = b.and_(bits, number(0x7FFFFFFF))
        normal = b.lshr(b.add(size, random), number(13))
        normal = b.sub(normal, number(_BIAS << 10))
        is_small = b.icmp_unsigned("<", size, number((_BIAS + 1) << 23))
        small = b.bitcast(b.select(is_small, size, number(0)), floats)
        part = b.fmul(b.sitofp(random, floats), ir.Constant(floats, [2.0**-13] * count))
        small = b.fadd(b.fmul(small, ir.Constant(floats, [2.0**24] * count)), part)
        w = b.select(is_small, b.fptosi(small, wide), normal)
        w = b.select(b.icmp_unsigned(">", w, number(_INFINITE)), number(_INFINITE), w)
        w = b.or_(w, b.and_(b.lshr(bits, number(16)), number(0x8000)))
        return b.trunc(w, narrow)

    def _random(self, i: Any, k: int, count: int, wide: Any) -> Any:
        """Return 16 random bits in each lane of the k-th vector from element i on, or 0."""
        b, whole = self.builder, ir.IntType(64)
        if self.key is None:
            return ir.Constant(wide, [0] * count)

        def number(x: int) -> Any:
            return ir.Constant(whole, x)

        place = b.add(i, number(k * LANES))
        state = b.add(self.key, b.mul(place, number(_WEYL)))
        state = b.mul(b.xor(state, b.lshr(state, number(32))), number(_FOLD))
        state = b.xor(state, b.lshr(state, number(29)))
        narrow = ir.VectorType(ir.IntType(16), LANES)
        x = b.bitcast(in_every_lane(b, state, ir.VectorType(whole, LANES // 4)), narrow)
        x = b.mul(
            b.add(x, ir.Constant(narrow, _SHIFT.tolist())), ir.Constant(narrow, _ODD.tolist())
        )
        x = b.xor(x, b.lshr(x, ir.Constant(narrow, [8] * LANES)))
        if count < LANES:
            order = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(count)))
            x = b.shuffle_vector(x, x, order)
        return b.zext(x, wide)


# What the operations are on halves.


@compiled(lanes, _is_halves)
def _lanes(typingctx: Any, a: Any) -> Any:
    return types.int64(a), lambda *_: ir.Constant(ir.IntType(64), LANES)


@compiled(zero, _is_halves)
def _zero(typingctx: Any, a: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir.VectorType(ir.FloatType(), LANES), [0.0] * LANES)

    return _vector(a), codegen


@compiled(bundle, _is_halves, prefer_literal=True)
def _bundle(typingctx: Any, a: Any, count: Any) -> Any:
    kind = types.UniTuple(_vector, count.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        none = ir.Constant(ir.VectorType(ir.FloatType(), LANES), [0.0] * LANES)
        return context.make_tuple(builder, kind, [none] * kind.count)

    return kind(a, count), codegen


@compiled(load_bundle, _is_halves)
def _load_bundle(typingctx: Any, a: Any, i: Any, like: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        halves = _Halves(context, builder, a, args[0])
        vectors = [builder.load(halves.at(args[1], k), align=2) for k in range(like.count)]
        return context.make_tuple(builder, like, [halves.widened(words) for words in vectors])

    return like(a, types.intp, like), codegen


@compiled(store_bundle, _is_halves)
def _store_bundle(typingctx: Any, a: Any, i: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        halves = _Halves(context, builder, a, args[0])
        for k, vector in enumerate(cgutils.unpack_tuple(builder, args[2])):
            builder.store(halves.rounded(vector, args[1], k), halves.at(args[1], k), align=2)
        return context.get_dummy_value()

    return types.void(a, types.intp, x), codegen


@compiled(prefetch_bundle, _is_halves)
def _prefetch_bundle(typingctx: Any, a: Any, i: Any, like: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        halves, number = _Halves(context, builder, a, args[0]), ir.IntType(32)
        flags = [ir.Constant(number, flag) for flag in (0, 3 if like.count < 4 else 2, 1)]
        for k in range(0, like.count, 2):  # two vectors fill a line
            place = builder.bitcast(halves.at(args[1], k), ir.IntType(8).as_pointer())
            call(builder, "llvm.prefetch.p0", ir.VoidType(), place, *flags)
        return context.get_dummy_value()

    return types.void(a, types.intp, like), codegen


@compiled(load_part, _is_halves)
def _load_part(typingctx: Any, a: Any, i: Any, n: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        halves = _Halves(context, builder, a, args[0])
        # whole, since few CPUs have masks for words; what is beyond is slack, or another's
        x = halves.widened(builder.load(halves.at(args[1]), align=2))
        wanted = first_lanes(builder, _vector, args[2])
        return builder.select(wanted, x, ir.Constant(x.type, [0.0] * LANES))

    return _vector(a, types.intp, types.int64), codegen


@compiled(store_part, _is_halves)
def _store_part(typingctx: Any, a: Any, i: Any, n: Any, v: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        halves = _Halves(context, builder, a, args[0])
        words, place = halves.rounded(args[3], args[1]), halves.at(args[1])
        whole = builder.icmp_signed(">=", args[2], ir.Constant(ir.IntType(64), LANES))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                builder.store(words, place, align=2)
            with otherwise:
                align = ir.Constant(ir.IntType(32), 2)
                wanted = first_lanes(builder, _vector, args[2])
                call(
                    builder, f"llvm.masked.store.v{LANES}i16.p0", ir.VoidType(), words, place,
                    align, wanted,
                )  # fmt: skip
        return context.get_dummy_value()

    return types.void(a, types.intp, types.int64, v), codegen


@compiled(value, _is_halves)
def _value(typingctx: Any, a: Any, i: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        halves = _Halves(context, builder, a, args[0])
        x = halves.widened(builder.load(halves.at(args[1], count=1), align=2))
        return builder.extract_element(x, ir.Constant(ir.IntType(32), 0))

    return types.float32(a, types.intp), codegen


@compiled(put, _is_halves)
def _put(typingctx: Any, a: Any, i: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        halves, one = _Halves(context, builder, a, args[0]), ir.VectorType(ir.FloatType(), 1)
        first = ir.Constant(ir.IntType(32), 0)
        vector = builder.insert_element(ir.Constant(one, ir.Undefined), args[2], first)
        words = halves.rounded(vector, args[1])
        builder.store(words, halves.at(args[1], count=1), align=2)
        return context.get_dummy_value()

    return types.void(a, types.intp, types.float32), codegen

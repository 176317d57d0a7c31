"""Elementary functions of vectors and numbers.

==============  ==================================  ==========================================
function        largest error, units in last place  beyond its range
==============  ==================================  ==========================================
``exp(x)``      1                                   0, subnormal numbers on the way; infinity
``log(x)``      1                                   -infinity at 0, NaN below; subnormals too
``sin``, ``cos``  float32 0.51, float64 1           exact reduction; NaN at infinity
``sqrt(x)``     0.5, as IEEE 754 has it             NaN below 0
==============  ==================================  ==========================================

NaN stays NaN. A vector gives what its lanes give one by one, to the last bit. The plain twins are
NumPy's. Method: reduction to a short interval, a Taylor series there, the exponent by integer
arithmetic on the bits (Muller, Elementary Functions, 2016; fdlibm for the constants).
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..compiler.operation import compiled
from .llvm import Lanes
from .simd import VectorType, in_every_lane, llvm_vector

_DIGITS = {False: 23, True: 52}  # of the fraction, by whether it is float64
_BIAS = {False: 127, True: 1023}
# Adding this rounds to an integer, which then stands in the lowest bits.
_ROUND = {False: 1.5 * 2.0**23, True: 1.5 * 2.0**52}
_ROUND_BITS = {False: 0x4B400000, True: 0x4338000000000000}
# ln 2 in two parts; an exponent times the first one is exact.
_LN2 = {
    False: (float.fromhex("0x1.62e4p-1"), float.fromhex("0x1.7f7d1cp-20")),
    True: (float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")),
}
# π/2 in parts of 33 digits, and the rest: a quadrant's number below 2^20 times one is exact.
_HALF_PI = (
    float.fromhex("0x1.921fb544p+0"),
    float.fromhex("0x1.0b4611a6p-34"),
    float.fromhex("0x1.3198a2ep-69"),
    float.fromhex("0x1.b839a252049c1p-104"),
)
_FAR = 2.0**20  # beyond this the C library reduces the angle


def _is_number(x):
    return isinstance(x, VectorType | types.Float)


def _function(twin, formula):
    """Let compiled code take `twin` for what `formula` makes of LLVM's lanes."""

    @compiled(twin, _is_number)
    def apply(typingctx, x):
        def codegen(context, builder, sig, args):
            return formula(Lanes(builder, args[0])).value

        return x(x), codegen


def _power_of_two(exponent, double):
    return ((exponent + _BIAS[double]) << _DIGITS[double]).as_floats()


def exp(x):
    """Return e to the power `x`."""
    return np.exp(x)


def _exp(x):
    double = x.double
    low, high, terms = (-746.0, 710.0, 14) if double else (-104.0, 89.0, 8)
    x = x.unless(x.ordered(">", high), high)
    x = x.unless(x.ordered("<", low), low)
    shifted = x.times_plus(1 / math.log(2), _ROUND[double])
    exponent = shifted.bits() - _ROUND_BITS[double]
    n = shifted - _ROUND[double]
    big, small = _LN2[double]
    r = n.times_plus(-small, n.times_plus(-big, x))
    series = r.polynomial([1 / math.factorial(k) for k in range(2, terms)])
    y = (r * r).times_plus(series, r) + 1.0
    half = exponent >> 1  # twice a power that is a normal number, so that the last one rounds once
    return y * _power_of_two(half, double) * _power_of_two(exponent - half, double)


def log(x):
    """Return the natural logarithm of `x`."""
    return np.log(x)


def _log(x):
    double = x.double
    digits, bias = _DIGITS[double], _BIAS[double]
    root_half = 0x3FE6A09E667F3BCD if double else 0x3F3504F3  # bits of √½
    tiny = x.ordered("<", 2.0 ** (1 - bias))  # subnormal: multiply by a power of 2 first
    scale = float(digits + 2)
    bits = x.unless(tiny, x * 2.0**scale).bits() + ((bias << digits) - root_half)
    exponent = ((bits >> digits) - bias + _ROUND_BITS[double]).as_floats() - _ROUND[double]
    exponent = exponent.unless(tiny, exponent - scale)
    # f in [√½, √2) - 1, log(1 + f) = 2 artanh(s)
    f = ((bits & ((1 << digits) - 1)) + root_half).as_floats() - 1.0
    s = f / (f + 2.0)
    z = s * s
    rest = z * z.polynomial([2 / (2 * k + 3) for k in range(11 if double else 5)])
    square = f * f * 0.5
    big, small = _LN2[double]
    y = s.times_plus(square + rest, exponent * small)
    y = exponent.times_plus(big, f - (square - y))
    y = y.unless(x.ordered("==", 0.0), -math.inf)
    y = y.unless(x.ordered("<", 0.0), math.nan)
    y = y.unless(x.ordered("==", math.inf), math.inf)
    return y.unless(x.builder.fcmp_unordered("uno", x.value, x.value), x)


def _by_the_c_library(x, name):
    """Return the C library's function of each lane, float64."""
    builder, double = x.builder, ir.DoubleType()
    kind = ir.FunctionType(double, [double])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    if not isinstance(x.value.type, ir.VectorType):
        return builder.call(function, [x.value])
    result = x.value
    for lane in range(x.value.type.count):
        at = ir.Constant(ir.IntType(32), lane)
        number = builder.call(function, [builder.extract_element(x.value, at)])
        result = builder.insert_element(result, number, at)
    return result


def _any(builder, condition):
    if isinstance(condition.type, ir.VectorType):
        whole = ir.IntType(condition.type.count)
        return builder.icmp_unsigned("!=", builder.bitcast(condition, whole), ir.Constant(whole, 0))
    return condition


def _near(x, quarter):
    """Return sin(x + quarter π/2), float64, for |x| below 2^20; ``sin(-0.0)`` is -0.0."""
    shifted = x.times_plus(2 / math.pi, _ROUND[True])
    quadrant = shifted.bits() - (_ROUND_BITS[True] - quarter)
    n = shifted - _ROUND[True]
    first, second, third, fourth = _HALF_PI
    r = n.times_plus(-first, x)
    head = r - n * second
    rest = n.times_plus(-fourth, n.times_plus(-third, (r - head) - n * second))
    r = head + rest
    rest = (head - r) + rest
    z = r * r
    series = z.polynomial([(-1.0) ** k / math.factorial(2 * k + 1) for k in range(1, 9)])
    half = z * 0.5
    sine = r + (r * z).times_plus(series, rest - half * rest)
    head = half * -1.0 + 1.0
    series = z.polynomial([(-1.0) ** k / math.factorial(2 * k) for k in range(2, 9)])
    cosine = head + (z * z).times_plus(series, ((head * -1.0 + 1.0) - half) - r * rest)
    y = cosine.unless((quadrant & 1).equal(0), sine)
    y = y.unless((quadrant & 2).equal(2), y * -1.0)
    return y if quarter else y.unless(x.ordered("==", 0.0), x)


def _circular(name, quarter):
    def formula(x):
        builder, kind = x.builder, x.value.type
        x = x.widened()
        size = x.intrinsic("fabs")
        far = builder.fcmp_unordered(">", size.value, size._lift(_FAR))  # NaN too
        with builder.if_else(_any(builder, far), likely=False) as (then, otherwise):
            with then:
                library, of_then = _by_the_c_library(x, name), builder.block
            with otherwise:
                ours, of_otherwise = _near(x, quarter).value, builder.block
        result = builder.phi(x.value.type)
        result.add_incoming(library, of_then)
        result.add_incoming(ours, of_otherwise)
        return Lanes(builder, result).narrowed(kind)

    return formula


def sin(x):
    """Return the sine of `x`, in radians."""
    return np.sin(x)


def cos(x):
    """Return the cosine of `x`, in radians."""
    return np.cos(x)


def sqrt(x):
    """Return the square root of `x`."""
    return np.sqrt(x)


def magnitude(x):
    """Return the absolute value of `x`."""
    return np.abs(x)


_function(exp, _exp)
_function(log, _log)
_function(sin, _circular("sin", 0))
_function(cos, _circular("cos", 1))
_function(sqrt, lambda x: x.intrinsic("sqrt"))
_function(magnitude, lambda x: x.intrinsic("fabs"))


# A choice lane by lane; each argument is a vector or a number for every lane.


def where_greater(x, y, a, b):
    """Return `a` where ``x > y``, else `b`; `b` too where one of them is NaN."""
    return np.where(x > y, a, b)[()]


def where_at_least(x, y, a, b):
    """Return `a` where ``x >= y``, else `b`; `b` too where one of them is NaN."""
    return np.where(x >= y, a, b)[()]


def where_equal(x, y, a, b):
    """Return `a` where ``x == y``, else `b`; `b` too where one of them is NaN."""
    return np.where(x == y, a, b)[()]


def _choice(twin, relation):
    @compiled(twin, _is_number)
    def apply(typingctx, x, y, a, b):
        vectors = [kind for kind in (x, y, a, b) if isinstance(kind, VectorType)]
        result = vectors[0] if vectors else x

        def codegen(context, builder, sig, args):
            x, y, a, b = (
                in_every_lane(builder, arg, llvm_vector(result))
                if vectors and not isinstance(kind, VectorType)
                else arg
                for kind, arg in zip(sig.args, args, strict=True)
            )
            return builder.select(builder.fcmp_ordered(relation, x, y), a, b)

        return result(x, y, a, b), codegen


_choice(where_greater, ">")
_choice(where_at_least, ">=")
_choice(where_equal, "==")

"""LLVM's numbers with Python's operators, for the functions that are written out in instructions.

`Lanes` is a vector of float lanes or a single float: the same text makes the instructions of both,
so that a column that is left over gets the very bits that it would have got within a vector.
`Bits` are its lanes as integers.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils


def _kind_of(element: Any, like: Any) -> Any:
    """Return `element`, or the vector of as many as `like` has."""
    return ir.VectorType(element, like.count) if isinstance(like, ir.VectorType) else element


def _constant(kind: Any, x: Any) -> Any:
    return ir.Constant(kind, [x] * kind.count if isinstance(kind, ir.VectorType) else x)


class Bits:
    """Lanes as signed integers of the floats' width."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _apply(self, method: str, other: Any) -> "Bits":
        operand = other.value if isinstance(other, Bits) else _constant(self.value.type, other)
        return Bits(self.builder, getattr(self.builder, method)(self.value, operand))

    def __add__(self, other: Any) -> "Bits":
        return self._apply("add", other)

    def __sub__(self, other: Any) -> "Bits":
        return self._apply("sub", other)

    def __and__(self, other: Any) -> "Bits":
        return self._apply("and_", other)

    def __lshift__(self, other: int) -> "Bits":
        return self._apply("shl", other)

    def __rshift__(self, other: int) -> "Bits":
        return self._apply("ashr", other)

    def equal(self, other: int) -> Any:
        """Return where the lanes are equal to a number."""
        return self.builder.icmp_signed("==", self.value, _constant(self.value.type, other))

    def as_floats(self) -> "Lanes":
        """Return the floats that have these bits."""
        element = self.value.type
        element = element.element if isinstance(element, ir.VectorType) else element
        number = ir.FloatType() if element.width == 32 else ir.DoubleType()
        kind = _kind_of(number, self.value.type)
        return Lanes(self.builder, self.builder.bitcast(self.value, kind))


class Lanes:
    """Float lanes; another operand is lanes of the same kind, or a number for every lane."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    @property
    def double(self) -> bool:
        """Whether they are float64."""
        kind = self.value.type
        kind = kind.element if isinstance(kind, ir.VectorType) else kind
        return isinstance(kind, ir.DoubleType)

    def _lift(self, other: Any) -> Any:
        return other.value if isinstance(other, Lanes) else _constant(self.value.type, other)

    def _apply(self, method: str, other: Any) -> "Lanes":
        return Lanes(self.builder, getattr(self.builder, method)(self.value, self._lift(other)))

    def __add__(self, other: Any) -> "Lanes":
        return self._apply("fadd", other)

    def __sub__(self, other: Any) -> "Lanes":
        return self._apply("fsub", other)

    def __mul__(self, other: Any) -> "Lanes":
        return self._apply("fmul", other)

    def __truediv__(self, other: Any) -> "Lanes":
        return self._apply("fdiv", other)

    def times_plus(self, factor: Any, term: Any) -> "Lanes":
        """Return ``self * factor + term``, fused where the CPU can."""
        return self.intrinsic("fmuladd", factor, term)

    def intrinsic(self, name: str, *others: Any) -> "Lanes":
        """Return what LLVM's own function of that name makes of these lanes and others."""
        kind = self.value.type
        element = f"f{64 if self.double else 32}"
        suffix = f"v{kind.count}{element}" if isinstance(kind, ir.VectorType) else element
        arguments = [self.value, *(self._lift(other) for other in others)]
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(kind, [kind] * len(arguments)),
            f"llvm.{name}.{suffix}",
        )
        return Lanes(self.builder, self.builder.call(function, arguments))

    def ordered(self, relation: str, other: Any) -> Any:
        """Return where the relation holds; nowhere where a lane is NaN."""
        return self.builder.fcmp_ordered(relation, self.value, self._lift(other))

    def unless(self, condition: Any, other: Any) -> "Lanes":
        """Return these lanes, and `other` where the condition holds."""
        return Lanes(self.builder, self.builder.select(condition, self._lift(other), self.value))

    def bits(self) -> Bits:
        """Return the lanes' bits."""
        kind = _kind_of(ir.IntType(64 if self.double else 32), self.value.type)
        return Bits(self.builder, self.builder.bitcast(self.value, kind))

    def polynomial(self, coefficients: Any) -> "Lanes":
        """Return the sum of ``coefficients[k] * self**k``."""
        *others, last = coefficients
        total = self * 0.0 + last if not others else self.times_plus(last, others.pop())
        for coefficient in reversed(others):
            total = total.times_plus(self, coefficient)
        return total

    def widened(self) -> "Lanes":
        """Return them as float64."""
        if self.double:
            return self
        kind = _kind_of(ir.DoubleType(), self.value.type)
        return Lanes(self.builder, self.builder.fpext(self.value, kind))

    def narrowed(self, kind: Any) -> "Lanes":
        """Return them as lanes of type `kind`, float64 or float32."""
        if self.value.type == kind:
            return self
        return Lanes(self.builder, self.builder.fptrunc(self.value, kind))

"""Symbols: what a cell's formula is run on once, so that its steps are known.

A symbol is one step of straight-line code: an operation and its arguments. Equal steps of one
formula are one symbol, and what is 0 by its structure is the number 0, so that shared
subexpressions and structural zeros are found by writing them down.
"""

import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import numpy as np

Argument = Any  # of a formula's operation: a symbol or a number


class Steps:
    """The steps of one formula.

    Parameters
    ----------
    file, name : str
        Where the formula stands and what it is called, for messages.
    """

    def __init__(self, file: str, name: str) -> None:
        self.file, self.name = file, name
        self._known: dict[tuple[Any, ...], Symbol] = {}

    def step(self, operation: str, *arguments: Any) -> "Symbol":
        """Return the symbol of an operation; arguments are symbols, or the name of an input."""
        key = (operation, *(a.number if isinstance(a, Symbol) else a for a in arguments))
        if key not in self._known:
            self._known[key] = Symbol(self, len(self._known), operation, arguments)
        return self._known[key]

    def lift(self, x: Argument) -> "Symbol":
        """Return the symbol of a number; a symbol stays."""
        if isinstance(x, Symbol):
            if x.steps is not self:
                raise ValueError(f"{self.where()} must use its own arguments, got another's symbol")
            return x
        if isinstance(x, Condition):
            raise TypeError(
                f"{self.where()} must not compute with a comparison: write where(condition, 1, 0)"
            )
        if np.ndim(x) > 0:
            raise TypeError(
                f"{self.where()} must use numbers, got an array of shape {np.shape(x)}: a number "
                "of each unit is a map of its own, Map(h=False, x=False)"
            )
        number = float(x)
        if not abs(number) <= float(np.finfo(np.float32).max):
            raise ValueError(f"{self.where()} must use numbers that float32 holds, got {number}")
        return self.step("number", number + 0.0)  # -0.0 is 0

    def where(self) -> str:
        """Return the formula's name and the line of it that runs."""
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame.f_code.co_filename != self.file:
            frame = frame.f_back
        return self.name if frame is None else f"{self.name}, line {frame.f_lineno},"


class Symbol:
    """A number of a unit that is not known yet."""

    __slots__ = ("arguments", "number", "operation", "steps")

    def __init__(self, steps: Steps, number: int, operation: str, arguments: Iterable[Any]) -> None:
        self.steps, self.number = steps, number
        self.operation, self.arguments = operation, tuple(arguments)

    @property
    def value(self) -> float | None:
        """Its value, if it is a number."""
        return self.arguments[0] if self.operation == "number" else None

    def __add__(self, other: Argument) -> "Symbol":
        return add(self, self.steps.lift(other))

    __radd__ = __add__

    def __sub__(self, other: Argument) -> "Symbol":
        return subtract(self, self.steps.lift(other))

    def __rsub__(self, other: Argument) -> "Symbol":
        return subtract(self.steps.lift(other), self)

    def __mul__(self, other: Argument) -> "Symbol":
        return multiply(self, self.steps.lift(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Argument) -> "Symbol":
        return divide(self, self.steps.lift(other))

    def __rtruediv__(self, other: Argument) -> "Symbol":
        return divide(self.steps.lift(other), self)

    def __neg__(self) -> "Symbol":
        return multiply(self.steps.lift(-1), self)

    def __pos__(self) -> "Symbol":
        return self

    def __abs__(self) -> "Symbol":
        return self.steps.step("magnitude", self)

    def __pow__(self, power: Any) -> "Symbol":
        if isinstance(power, Symbol) or power != int(power) or not 0 < power <= 16:
            raise TypeError(
                f"{self.steps.where()} must raise to whole powers from 1 to 16: "
                "write exp(p * log(x)), or sqrt(x)"
            )
        result = self
        for digit in f"{int(power):b}"[1:]:
            result = result * result * (self if digit == "1" else 1)
        return result

    def __gt__(self, other: Argument) -> "Condition":
        return Condition("greater", self, self.steps.lift(other))

    def __lt__(self, other: Argument) -> "Condition":
        return Condition("greater", self.steps.lift(other), self)

    def __ge__(self, other: Argument) -> "Condition":
        return Condition("at_least", self, self.steps.lift(other))

    def __le__(self, other: Argument) -> "Condition":
        return Condition("at_least", self.steps.lift(other), self)

    def __eq__(self, other: object) -> "Condition":  # type: ignore[override]
        return Condition("equal", self, self.steps.lift(other))

    def __ne__(self, other: object) -> "Condition":  # type: ignore[override]
        return ~(self == other)

    __hash__ = None  # type: ignore[assignment]  # == makes a condition

    def __bool__(self) -> bool:
        raise _branching(self.steps)

    def __float__(self) -> float:
        raise TypeError(
            f"{self.steps.where()} must compute with symbols, which have no value yet: take exp, "
            "tanh, … of sparsegrad.cells.functions or of NumPy, not of math"
        )

    __int__ = __index__ = __complex__ = __float__

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if ufunc not in UFUNCS or method != "__call__" or options:
            raise TypeError(
                f"{self.steps.where()} must use functions that have a derivative here, got "
                f"numpy.{ufunc.__name__}: there are {', '.join(sorted(u.__name__ for u in UFUNCS))}"
            )
        return UFUNCS[ufunc](*(self.steps.lift(x) for x in inputs))

    def __array_function__(self, function: Any, kinds: Any, args: Any, options: Any) -> Any:
        raise TypeError(
            f"{self.steps.where()} must use functions of numbers, got numpy.{function.__name__}; "
            "where, maximum, … are in sparsegrad.cells.functions"
        )


class Condition:
    """A comparison of symbols, for ``where``; ``&``, ``|`` and ``~`` work on it."""

    __slots__ = ("relation", "x", "y")

    def __init__(self, relation: str, x: Any, y: Any = None) -> None:
        self.relation, self.x, self.y = relation, x, y

    def __and__(self, other: "Condition") -> "Condition":
        return Condition("and", self, other)

    def __or__(self, other: "Condition") -> "Condition":
        return Condition("or", self, other)

    def __invert__(self) -> "Condition":
        return Condition("not", self)

    @property
    def steps(self) -> Steps:
        """The formula that compares."""
        return self.x.steps

    def __bool__(self) -> bool:
        raise _branching(self.steps)

    def choose(self, a: Symbol, b: Symbol) -> Symbol:
        """Return the symbol of `a` where the condition holds, else `b`."""
        if a is b:
            return a
        if self.relation == "and":
            return self.x.choose(self.y.choose(a, b), b)
        if self.relation == "or":
            return self.x.choose(a, self.y.choose(a, b))
        if self.relation == "not":
            return self.x.choose(b, a)
        if self.x.value is not None and self.y.value is not None:
            holds = {
                "greater": self.x.value > self.y.value,
                "at_least": self.x.value >= self.y.value,
                "equal": self.x.value == self.y.value,
            }[self.relation]
            return a if holds else b
        return self.steps.step(f"where_{self.relation}", self.x, self.y, a, b)


def _branching(steps: Steps) -> TypeError:
    return TypeError(
        f"{steps.where()} must not branch on a value, which differs from unit to unit: "
        "write where(condition, one, other) in the place of if, and, or, min, max"
    )


def add(x: Symbol, y: Symbol) -> Symbol:
    """Return the symbol of ``x + y``."""
    if x.value == 0:
        return y
    if y.value == 0:
        return x
    if x.value is not None and y.value is not None:
        return x.steps.lift(x.value + y.value)
    for one, other in ((x, y), (y, x)):
        if other.operation == "*" and -1 in (factor.value for factor in other.arguments):
            return subtract(one, multiply(other, x.steps.lift(-1)))
    return x.steps.step("+", *sorted((x, y), key=lambda one: one.number))


def subtract(x: Symbol, y: Symbol) -> Symbol:
    """Return the symbol of ``x - y``."""
    if y.value == 0:
        return x
    if x is y:
        return x.steps.lift(0)
    if x.value is not None and y.value is not None:
        return x.steps.lift(x.value - y.value)
    return x.steps.step("-", x, y)


def multiply(x: Symbol, y: Symbol) -> Symbol:
    """Return the symbol of ``x * y``."""
    if x.value == 0 or y.value == 0:
        return x.steps.lift(0)
    if x.value == 1:
        return y
    if y.value == 1:
        return x
    if x.value is not None and y.value is not None:
        return x.steps.lift(x.value * y.value)
    for one, other in ((x, y), (y, x)):
        if one.value == -1 and other.operation == "*" and -1 in (f.value for f in other.arguments):
            return next(factor for factor in other.arguments if factor.value != -1)  # -(-z)
    return x.steps.step("*", *sorted((x, y), key=lambda one: one.number))


def divide(x: Symbol, y: Symbol) -> Symbol:
    """Return the symbol of ``x / y``."""
    if y.value == 0:
        raise ZeroDivisionError(f"{x.steps.where()} must not divide by 0")
    if x.value == 0:
        return x.steps.lift(0)
    if y.value == 1:
        return x
    if x.value is not None and y.value is not None:
        return x.steps.lift(x.value / y.value)
    return x.steps.step("/", x, y)


def function_of(name: str) -> Callable[[Symbol], Symbol]:
    """Return what makes the symbol of a function of one argument."""
    return lambda x: x.steps.step(name, x)


def maximum(x: Symbol, y: Symbol) -> Symbol:
    """Return the symbol of the larger of two; NaN if one of them is."""
    return (x >= y).choose(x, (y > x).choose(y, x + y))


def minimum(x: Symbol, y: Symbol) -> Symbol:
    """Return the symbol of the smaller of two; NaN if one of them is."""
    return (y >= x).choose(x, (x > y).choose(y, x + y))


UFUNCS: dict[Any, Callable[..., Any]] = {
    np.add: add,
    np.subtract: subtract,
    np.multiply: multiply,
    np.divide: divide,
    np.negative: lambda x: -x,
    np.positive: lambda x: x,
    np.absolute: abs,
    np.square: lambda x: x * x,
    np.maximum: maximum,
    np.minimum: minimum,
    np.greater: lambda x, y: x > y,
    np.greater_equal: lambda x, y: x >= y,
    np.less: lambda x, y: x < y,
    np.less_equal: lambda x, y: x <= y,
    np.equal: lambda x, y: x == y,
    np.not_equal: lambda x, y: x != y,
    **{getattr(np, f): function_of(f) for f in ("exp", "log", "sin", "cos", "sqrt", "tanh")},
}

"""Functions for formulas of cells: of symbols, and of numbers and arrays like NumPy's.

:meth:`sparsegrad.CellKind.from_function` takes the derivative of each. NumPy's own ``np.exp``,
``np.tanh``, … serve as well.
"""

from typing import Any

import numpy as np

from sparsegrad.cells.symbols import Condition, Symbol

exp, log, sin, cos, sqrt, tanh = np.exp, np.log, np.sin, np.cos, np.sqrt, np.tanh
maximum, minimum = np.maximum, np.minimum


def sigmoid(x: Any) -> Any:
    """Return σ(x) = 1 / (1 + exp(-x)), as (1 + tanh(x/2)) / 2, which cannot overflow."""
    if isinstance(x, Symbol):
        return x.steps.step("sigmoid", x)
    return 0.5 + 0.5 * np.tanh(0.5 * np.asarray(x))[()]


def relu(x: Any) -> Any:
    """Return max(x, 0), with slope 0 at 0; NaN stays NaN."""
    return where(x <= 0, 0.0, x)


def where(condition: Any, one: Any, other: Any) -> Any:
    """Return `one` where a condition holds, else `other`, for each unit by itself.

    Both are computed. What is not chosen gets the gradient 0, times its own slope: like
    everywhere, a slope that is infinite there makes it NaN.

    Parameters
    ----------
    condition : comparison, or several joined by ``&``, ``|`` and ``~``
        Such as ``v > 1``.
    one, other : symbols or numbers
        What to choose from.
    """
    if isinstance(condition, Condition):
        steps = condition.steps
        return condition.choose(steps.lift(one), steps.lift(other))
    if isinstance(condition, bool | np.bool_):  # a number of the formula's own decides
        return one if condition else other
    return np.where(condition, one, other)[()]


def stop(x: Any) -> Any:
    """Return `x` itself, through which no gradient goes."""
    return x.steps.step("stop", x) if isinstance(x, Symbol) else x


def spike(x: Any, surrogate: Any) -> Any:
    """Return 1 where ``x > 0``, else 0, with a slope that stands in for the true one, 0.

    Parameters
    ----------
    x : symbol
        How far the unit is above its threshold.
    surrogate : symbol
        The slope by `x`, an expression in it (a pseudo-derivative), such as
        ``0.3 * relu(1 - abs(x))`` of Bellec et al. (2020, doi 10.1038/s41467-020-17236-y).
    """
    if isinstance(x, Symbol):
        return x.steps.step("spike", x, x.steps.lift(surrogate))
    return (np.asarray(x) > 0) * 1.0


__all__ = [
    "cos", "exp", "log", "maximum", "minimum", "relu", "sigmoid", "sin", "spike", "sqrt", "stop",
    "tanh", "where",
]  # fmt: skip

"""A formula's steps in NumPy, in float64: what its compiled code is checked against."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.derivatives import in_order, needed
from sparsegrad.cells.symbols import Symbol

Values = dict[int, Any]  # float64, (units,), or one number for all

_OPERATIONS = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "magnitude": np.abs,
    "sigmoid": lambda x: 0.5 + 0.5 * np.tanh(0.5 * x),
    "where_greater": lambda x, y, a, b: np.where(x > y, a, b),
    "where_at_least": lambda x, y, a, b: np.where(x >= y, a, b),
    "where_equal": lambda x, y, a, b: np.where(x == y, a, b),
    **{name: getattr(np, name) for name in ("exp", "log", "sin", "cos", "sqrt", "tanh")},
}
_RELATIONS = {
    "where_greater": np.greater,
    "where_at_least": np.greater_equal,
    "where_equal": np.equal,
}


def evaluate(
    roots: Sequence[Symbol], inputs: Mapping[str, NDArray[np.float64]], base: Values | None = None
) -> Values:
    """Return the value of every step that some symbols are made of, by the step's number.

    Parameters
    ----------
    roots : sequence of Symbol
        What to compute; the surrogate slopes of its spikes are computed too.
    inputs : dict of float64 arrays, (units,)
        The formula's arguments by name.
    base : dict, optional
        Values near which the formula is made smooth: what is stopped keeps its value of there, and
        a spike goes on from it along its surrogate slope. The derivative is then the true one.
    """
    steps = in_order(roots)
    surrogates = [step.arguments[1] for step in steps if step.operation == "spike"]
    values: Values = {}
    with np.errstate(all="ignore"):  # units whose values are not finite are left out later
        for step in in_order([*surrogates, *roots]):
            x = [values[argument.number] for argument in needed(step)]
            at = step.number
            if step.operation == "input":
                values[at] = inputs[step.arguments[0]]
            elif step.value is not None:
                values[at] = np.float64(step.value)
            elif step.operation == "stop":
                values[at] = x[0] if base is None else base[at]
            elif step.operation == "spike" and base is not None:
                of, slope = (argument.number for argument in step.arguments)
                values[at] = base[at] + base[slope] * (x[0] - base[of])
            elif step.operation == "spike":
                values[at] = (x[0] > 0) * 1.0
            else:
                values[at] = _OPERATIONS[step.operation](*x)
    return values


def outcomes(roots: Sequence[Symbol], values: Values, units: int) -> NDArray[np.bool_]:
    """Return which way each step that chooses went, (choices, units)."""
    found = [np.empty((0, units), bool)]
    for step in in_order(roots):
        if step.operation in _RELATIONS:
            x, y = (values[argument.number] for argument in step.arguments[:2])
            went = _RELATIONS[step.operation](x, y)
        elif step.operation == "magnitude":
            went = values[step.arguments[0].number] > 0
        elif step.operation == "spike":
            went = values[step.number] > 0
        else:
            continue
        found.append(np.broadcast_to(went, (1, units)))
    return np.concatenate(found)

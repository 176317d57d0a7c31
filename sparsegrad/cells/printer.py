"""Straight-line code as the text of a kernel: the update of a cell, over vectors of columns."""

from collections.abc import Sequence
from typing import NamedTuple

from sparsegrad.cells.derivatives import in_order, needed
from sparsegrad.cells.symbols import Symbol


class Output(NamedTuple):
    """Where one of the formula's results goes: row `row` of one of the update's arrays."""

    array: str  # "new", "inner" or "outer"
    row: int
    symbol: Symbol


_HEAD = '''"""A cell's update and its partials, written by sparsegrad.cells.printer."""

from numba import njit

from sparsegrad.kernels.cells.elementwise import sigmoid, tanh
from sparsegrad.kernels.compiler.decorators import from_kernels
from sparsegrad.kernels.vectors.arithmetic import fill
from sparsegrad.kernels.vectors.elementary import (
    cos, exp, log, magnitude, sin, sqrt, where_at_least, where_equal, where_greater,
)
from sparsegrad.kernels.vectors.simd import lanes, load, pointer, put, store, value

'''


def update_text(components: int, maps: int, outputs: Sequence[Output]) -> str:
    """Return the text of a module whose ``update`` computes a formula and its partials.

    Parameters
    ----------
    components, maps : int
        Of the cell.
    outputs : sequence of Output
        The new state and every partial that can be non-zero.
    """
    inputs = [f"s{c}" for c in range(components)] + [f"a{g}" for g in range(maps)]
    lines, results, numbers = _steps([output.symbol for output in outputs])
    known = ", ".join(numbers.values())
    arguments = ", ".join(filter(None, [*inputs, known]))
    names = "".join(f"y{j}, " for j in range(len(outputs)))
    formula = [
        "@from_kernels",
        f"def formula({arguments}):",
        *(f"    {line}" for line in lines),
        f"    return {''.join(f'{result}, ' for result in results)}",
    ]
    constants = [f"    {k} = pre.dtype.type({number!r})" for number, k in numbers.items()]
    places = [_places(inputs, read) for read in ("load", "value")]
    bodies = []
    for wide, given in zip((True, False), places, strict=True):
        call = ", ".join(filter(None, [given, known]))
        body = [f"        {names}= formula({call})"]
        body += [f"        {_write(j, output, wide)}" for j, output in enumerate(outputs)]
        bodies.append(body)
    update = [
        "@njit(cache=True, nogil=True)",
        "def update(state, pre, new_state, d_state, d_pre):",
        *constants,
        "    s, a, new = pointer(state, 0), pointer(pre, 0), pointer(new_state, 0)",
        "    inner, outer = pointer(d_state, 0), pointer(d_pre, 0)",
        "    k = state.shape[1]",
        "    i = 0",
        "    while i + lanes(a) <= k:",
        *bodies[0],
        "        i += lanes(a)",
        "    while i < k:",
        *bodies[1],
        "        i += 1",
    ]
    return _HEAD + "\n".join(["", *formula, "", "", *update, ""])


def _steps(roots: Sequence[Symbol]) -> tuple[list[str], list[str], dict[float, str]]:
    """Return a line for each step, the name of each root, and the names of the numbers."""
    lines: list[str] = []
    names: dict[int, str] = {}
    numbers: dict[float, str] = {}

    def number(x: float) -> str:
        return numbers.setdefault(x, f"k{len(numbers)}")

    for symbol in in_order(roots):
        if symbol.operation == "input":
            names[symbol.number] = symbol.arguments[0]
        elif symbol.value is not None:
            names[symbol.number] = number(symbol.value)
        else:
            given = [names[argument.number] for argument in needed(symbol)]
            if symbol.operation == "stop":
                names[symbol.number] = given[0]
                continue
            names[symbol.number] = f"t{len(lines)}"
            if symbol.operation in "+-*/":
                text = f"{given[0]} {symbol.operation} {given[1]}"
            elif symbol.operation == "spike":
                text = f"where_greater({given[0]}, {number(0.0)}, {number(1.0)}, {number(0.0)})"
            elif symbol.operation == "sigmoid":
                text = f"sigmoid({given[0]}, {number(0.5)})"
            else:
                text = f"{symbol.operation}({', '.join(given)})"
            lines.append(f"t{len(lines)} = {text}")
    return lines, [names[root.number] for root in roots], numbers


def _row(row: int) -> str:
    return ("i", "k + i")[row] if row < 2 else f"{row} * k + i"


def _places(inputs: Sequence[str], read: str) -> str:
    return ", ".join(f"{read}({name[0]}, {_row(int(name[1:]))})" for name in inputs)


def _write(j: int, output: Output, wide: bool) -> str:
    at = _row(output.row)
    if not wide:
        return f"put({output.array}, {at}, y{j})"
    # a number is no vector
    result = f"fill(a, y{j})" if output.symbol.value is not None else f"y{j}"
    return f"store({output.array}, {at}, {result})"

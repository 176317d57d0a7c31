"""Whether a cell's update computes the partials that it claims."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.formula import Formula
from sparsegrad.cells.kind import CellKind
from sparsegrad.cells.numeric import Values, evaluate, outcomes

_STEP = 1e-6  # central difference in float64: truncation ~1e-12, rounding ~1e-10
_TOLERANCE = 1e-6
_SCALES = (0.1, 1.0, 10.0)
_DRAWN = 1 << 14  # points among which those are looked for that take another branch

Point = tuple[NDArray[np.float64], NDArray[np.float64]]  # state, (C, units), and pre, (maps, units)


def check_cell(
    kind: CellKind, units: int = 8, seed: int = 0, formula: Callable[..., Any] | None = None
) -> None:
    """Compare the partials of an elementwise update with finite differences, in float64.

    A formula (see :meth:`CellKind.from_function`) is known step by step: then a spike's slope is
    its surrogate's, no gradient goes through ``stop``, and values are sought that take each branch.

    Parameters
    ----------
    kind : CellKind
        The update and the partials it declares.
    units : int
        Units to try at each of three scales, with random states and pre-activations.
    seed : int
        Seed of the random values.
    formula : function, optional
        What an update that is written by hand should compute, if it has spikes or stops. Default:
        the kind's own formula, if it has one, else the update itself.

    Raises
    ------
    TypeError
        If it is no kind.
    ValueError
        Names every partial that is wrong, not written, or not zero though undeclared, a new state
        that is not the formula's, and a unit that reads another.
    """
    if not isinstance(kind, CellKind):
        raise TypeError(f"kind must be a CellKind, such as GRU.kind, got {kind!r}")
    known = kind.update if isinstance(kind.update, Formula) else None
    if formula is not None:
        known = Formula(formula, len(kind.maps))
        if known.components != kind.components:
            raise ValueError(
                f"formula must have {kind.components} state numbers as the kind has, "
                f"got {known.components}"
            )
    point = _points(kind, known, units, np.random.default_rng(seed))
    new, d_state, d_pre = _call(kind, point)
    base = None if known is None else _values(known, point)
    faults = [] if known is None or base is None else _judge_state(new, known, base)
    c = kind.components
    partials = kind.partials
    owner = np.repeat(np.arange(len(kind.maps)), np.diff(partials.map_indptr))
    for at, given, declared, symbol in (
        (0, d_state, set(zip(partials.state_rows, partials.state_columns, strict=True)), "s"),
        (1, d_pre, set(zip(partials.map_components, owner, strict=True)), "a"),
    ):
        for column in range(point[at].shape[0]):
            difference = _difference(kind, known, base, point, at, column)
            for row in range(c):
                name = f"∂s'[{row}]/∂{symbol}[{column}]"
                faults += _judge(
                    name, given[row, column], difference[row], new[row], (row, column) in declared
                )
    faults += _strangers(kind, point)
    if faults:
        raise ValueError("partials must match finite differences: " + "; ".join(faults))


def _points(kind: CellKind, known: Formula | None, units: int, rng: np.random.Generator) -> Point:
    """Draw states and pre-activations; add some that take a branch which the others do not."""
    rows = kind.components + len(kind.maps)
    drawn = np.concatenate([s * rng.standard_normal((rows, units)) for s in _SCALES], axis=1)
    if known is not None and known.conditions():
        more = rng.standard_normal((rows, _DRAWN)) * 10.0 ** rng.uniform(-2, 2, (rows, _DRAWN))
        everything = np.concatenate([drawn, more], axis=1)
        values = _values(known, (everything[: kind.components], everything[kind.components :]))
        ways = outcomes(known.new, values, everything.shape[1])
        ways = ways & np.isfinite(_new(known, values, ways.shape[1])).all(axis=0)
        chosen = {int(way.argmax()) for one in ways for way in (one, ~one) if way.any()}
        drawn = np.concatenate([drawn, everything[:, sorted(chosen)]], axis=1)
    return (
        np.ascontiguousarray(drawn[: kind.components]),
        np.ascontiguousarray(drawn[kind.components :]),
    )


def _values(known: Formula, point: Point, base: Values | None = None) -> Values:
    rows = [*point[0], *point[1]]
    inputs = {x.arguments[0]: row for x, row in zip(known.inputs, rows, strict=True)}
    return evaluate(known.new, inputs, base)


def _new(known: Formula, values: Values, units: int) -> NDArray[np.float64]:
    return np.stack([np.broadcast_to(values[y.number], units) for y in known.new])


def _call(
    kind: CellKind, point: Point
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    state, pre = point
    c, units = state.shape
    new_state = np.full((c, units), np.nan)
    d_state = np.full((c, c, units), np.nan)  # NaN shows what the update leaves unwritten
    d_pre = np.full((c, pre.shape[0], units), np.nan)
    kind.update(state, pre, new_state, d_state, d_pre)
    return new_state, d_state, d_pre


def _difference(
    kind: CellKind,
    known: Formula | None,
    base: Values | None,
    point: Point,
    at: int,
    column: int,
) -> NDArray[np.float64]:
    """Return the central difference, (C, units); NaN where it tells nothing."""
    found = []
    for step in (_STEP, _STEP / 2):
        ends, ways = [], []
        for sign in (1.0, -1.0):
            moved = point[0].copy(), point[1].copy()
            moved[at][column] += sign * step
            if known is None:
                ends.append(_call(kind, moved)[0])
                continue
            ends.append(_new(known, _values(known, moved, base), moved[0].shape[1]))
            ways.append(outcomes(known.new, _values(known, moved), moved[0].shape[1]))
        with np.errstate(all="ignore"):
            found.append((ends[0] - ends[1]) / (2 * step))
        if ways:  # between two branches there is no derivative
            found[-1][:, (ways[0] != ways[1]).any(axis=0)] = np.nan
    # where two steps differ, the function is too steep for either
    with np.errstate(all="ignore"):
        steep = np.abs(found[0] - found[1]) > 0.1 * _allowed(found[1], ends[0])
    return np.where(steep | ~np.isfinite(found[0]), np.nan, found[1])


def _allowed(difference: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what a difference may be off by; one of large numbers loses digits."""
    return _TOLERANCE * (1.0 + np.abs(difference)) + 1e-3 * _TOLERANCE * np.abs(new)


def _judge_state(new: NDArray[np.float64], known: Formula, base: Values) -> list[str]:
    faults = []
    for c, expected in enumerate(_new(known, base, new.shape[1])):
        with np.errstate(all="ignore"):
            error = np.abs(new[c] - expected) / (1.0 + np.abs(expected))
        error[~np.isfinite(expected)] = 0
        unit = int(np.where(np.isnan(error), np.inf, error).argmax())
        if not error[unit] <= _TOLERANCE:
            faults.append(
                f"s'[{c}] gives {new[c, unit]:.6g} where the formula gives {expected[unit]:.6g}"
            )
    return faults


def _judge(
    name: str,
    given: NDArray[np.float64],
    difference: NDArray[np.float64],
    new: NDArray[np.float64],
    declared: bool,
) -> list[str]:
    known = ~np.isnan(difference)
    given, difference, new = given[known], difference[known], new[known]
    if difference.size == 0:
        return [f"{name} has no finite difference at any of the points tried"] if declared else []
    allowed = _allowed(difference, new)
    if not declared:
        excess = np.abs(difference) - allowed
        unit = int(excess.argmax())
        zero = f"{name} is declared zero but is {abs(difference[unit]):.6g}"
        return [zero] if excess[unit] > 0 else []
    if np.isnan(given).any():
        return [f"{name} is not written"]
    excess = np.abs(given - difference) - allowed
    unit = int(excess.argmax())
    if excess[unit] <= 0:
        return []
    return [f"{name} gives {given[unit]:.6g} where the difference is {difference[unit]:.6g}"]


def _strangers(kind: CellKind, point: Point) -> list[str]:
    base = _call(kind, point)[0]
    moved = point[0].copy(), point[1].copy()
    moved[0][:, 0] += 0.5
    moved[1][:, 0] += 0.5
    found = _call(kind, moved)[0]
    if np.array_equal(found[:, 1:], base[:, 1:], equal_nan=True):
        return []
    return ["a unit reads another unit's state or maps: only the maps may connect units"]

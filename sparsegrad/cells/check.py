"""Whether a cell's update computes the partials that it claims."""

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.kind import CellKind

_STEP = 1e-6  # central difference in float64: truncation ~1e-12, rounding ~1e-10
_TOLERANCE = 1e-6


def check_cell(kind: CellKind, units: int = 8, seed: int = 0) -> None:
    """Compare the partials of an elementwise update with finite differences, in float64.

    Parameters
    ----------
    kind : CellKind
        The update and the partials it declares.
    units : int
        Units to try, each at its own random state and pre-activations.
    seed : int
        Seed of the random values.

    Raises
    ------
    ValueError
        Names every partial that is wrong, not written, or not zero though undeclared, and a unit
        that reads another.
    """
    rng = np.random.default_rng(seed)
    c, g = kind.components, len(kind.maps)
    state, pre = rng.standard_normal((c, units)), rng.standard_normal((g, units))
    _, d_state, d_pre = _call(kind, state, pre)
    declared_state = set(zip(kind.partials.state_rows, kind.partials.state_columns, strict=True))
    owner = np.repeat(np.arange(g), np.diff(kind.partials.map_indptr))
    declared_pre = set(zip(kind.partials.map_components, owner, strict=True))
    faults = []
    for arrays, at, given, declared, symbol in (
        ((state, pre), 0, d_state, declared_state, "s"),
        ((state, pre), 1, d_pre, declared_pre, "a"),
    ):
        for column in range(arrays[at].shape[0]):
            difference = _difference(kind, arrays, at, column)
            for row in range(c):
                name = f"∂s'[{row}]/∂{symbol}[{column}]"
                faults += _judge(
                    name, given[row, column], difference[row], (row, column) in declared
                )
    faults += _strangers(kind, state, pre)
    if faults:
        raise ValueError("partials must match finite differences: " + "; ".join(faults))


def _call(
    kind: CellKind, state: NDArray[np.float64], pre: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    c, units = state.shape
    new_state = np.full((c, units), np.nan)
    d_state = np.full((c, c, units), np.nan)  # NaN shows what the update leaves unwritten
    d_pre = np.full((c, pre.shape[0], units), np.nan)
    kind.update(state, pre, new_state, d_state, d_pre)
    return new_state, d_state, d_pre


def _difference(
    kind: CellKind,
    arrays: tuple[NDArray[np.float64], NDArray[np.float64]],
    at: int,
    column: int,
) -> NDArray[np.float64]:
    ends = []
    for sign in (1.0, -1.0):
        moved = [a.copy() for a in arrays]
        moved[at][column] += sign * _STEP
        ends.append(_call(kind, moved[0], moved[1])[0])
    return (ends[0] - ends[1]) / (2 * _STEP)


def _judge(
    name: str, given: NDArray[np.float64], difference: NDArray[np.float64], declared: bool
) -> list[str]:
    if not declared:
        worst = np.abs(difference).max()
        return [f"{name} is declared zero but is {worst:.6g}"] if worst > _TOLERANCE else []
    if np.isnan(given).any():
        return [f"{name} is not written"]
    error = np.abs(given - difference) / (1.0 + np.abs(difference))
    unit = int(error.argmax())
    if error[unit] <= _TOLERANCE:
        return []
    return [f"{name} gives {given[unit]:.6g} where the difference is {difference[unit]:.6g}"]


def _strangers(kind: CellKind, state: NDArray[np.float64], pre: NDArray[np.float64]) -> list[str]:
    base = _call(kind, state, pre)[0]
    moved_state, moved_pre = state.copy(), pre.copy()
    moved_state[:, 0] += 0.5
    moved_pre[:, 0] += 0.5
    moved = _call(kind, moved_state, moved_pre)[0]
    if np.array_equal(moved[:, 1:], base[:, 1:]):
        return []
    return ["a unit reads another unit's state or maps: only the maps may connect units"]

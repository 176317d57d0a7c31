"""A pattern's program and a cell as words of int64: sizes, then where the arrays lie.

`sparsegrad.kernels.interop.addresses` reads them and names their places.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import NAMES, Cell
from sparsegrad.influence.influence import Influence
from sparsegrad.kernels.cells.maps import Dynamics
from sparsegrad.kernels.compiler.pointers import INTERPRETED
from sparsegrad.kernels.interop.addresses import ARRAYS


def require_cell(cell: Any) -> None:
    """Refuse what is no cell, and any without compiled code.

    Raises
    ------
    TypeError, RuntimeError
        In one line.
    """
    if not isinstance(cell, Cell):
        raise TypeError(
            f"cell must be a cell such as sparsegrad.GRU(...), got {type(cell).__name__}: a torch "
            "module of your own goes into SnApModule"
        )
    if INTERPRETED:
        raise RuntimeError("a host's steps must be compiled, got NUMBA_DISABLE_JIT=1: unset it")


def program_sizes(influence: Influence) -> list[int]:
    """Return the values of the SIZES of an Influence."""
    program, pattern = influence._program, influence.pattern
    weights, units = pattern.shape
    return [
        units,
        weights,
        pattern.dynamics_indices.size,
        pattern.immediate_indices.size,
        program.size,
        program.scratch_size,
        program.panels.shape[0] - 1,
        program.segments.shape[0],
        program.entries.shape[0],
        program.members.shape[0] - 1,
        program.reached.shape[0],
        program.runs.shape[0],
    ]


def program_arrays(influence: Influence) -> list[NDArray[Any]]:
    """Return the ARRAYS of an Influence."""
    return [getattr(influence._program, name) for name in ARRAYS]


def cell_sizes(cell: Cell, dynamics: Dynamics) -> list[int]:
    """Return the values of the CELL_SIZES of a cell."""
    partials = cell.kind.partials
    return [
        cell.units,
        cell.inputs,
        cell.kind.components,
        len(cell.kind.maps),
        cell.kind.word(cell.dtype),
        cell.weights.size,
        partials.map_components.size,
        partials.state_rows.size,
        dynamics.own_place.size,
        dynamics.run_source.size,
        dynamics.weight.size,
    ]


def cell_arrays(cell: Cell, dynamics: Dynamics) -> list[NDArray[Any]]:
    """Return the CELL_ARRAYS of a cell."""
    maps = cell.maps
    order = np.concatenate([parameter_order(cell, name) for name in present(cell)])
    arrays = [
        maps.indptr, maps.recurrent_end, maps.indices, *cell.kind.partials, *dynamics,
        order.astype(np.int32),
    ]  # fmt: skip
    return [np.ascontiguousarray(array) for array in arrays]


def with_addresses(sizes: list[int], arrays: list[NDArray[Any]]) -> NDArray[np.int64]:
    """Return words for callers in this process; the arrays must outlive them."""
    return np.array(sizes + [array.ctypes.data for array in arrays], np.int64)


def present(cell: Cell) -> tuple[str, ...]:
    """Names of the arrays that the cell has weights in; a name without any is absent."""
    return tuple(name for name in NAMES if name in cell.places)


def parameter_order(cell: Cell, name: str) -> NDArray[np.int64]:
    """Weight of each element of ``dense[name][mask]``, row by row."""
    weight, place = cell.places[name]
    return weight[np.argsort(place)]

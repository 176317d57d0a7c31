"""A time step of a cell for those who hold its weights, its state and all room to work in."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..cells.maps import Maps, apply_maps, dynamics_values, immediate_values
from ..cells.updates import elementwise
from .addresses import CELL_INPUTS, CELL_UNITS, CELL_UPDATE, cell_at


@njit(cache=True, nogil=True)
def cell_step(
    cell: NDArray[np.int64],  # (CELL_WORDS,)                    in
    base: int,  # of the addresses of its arrays
    weights: NDArray[np.floating],  # (weights,)                 in, in the order of the maps
    x: NDArray[np.floating],  # (B, inputs)                      in
    state: NDArray[np.floating],  # (B, C, units)                in
    new_state: NDArray[np.floating],  # (B, C, units)            out
    d_pre: NDArray[np.floating],  # (B or 1, C, maps, units)     out  ∂s'/∂a, or scratch
    dynamics_data: NDArray[np.floating],  # (B, nnz of D)        out
    immediate_data: NDArray[np.floating],  # (B, nnz of I)       out
    sources: NDArray[np.floating],  # (units + inputs + 1,)      scratch
    pre: NDArray[np.floating],  # (maps, units)                  scratch
    d_state: NDArray[np.floating],  # (C, C, units)              scratch
) -> None:
    """Form s', D and I of every sequence."""
    indptr, recurrent_end, indices, partials, dynamics, _ = cell_at(cell, base)
    units, inputs, update = cell[CELL_UNITS], cell[CELL_INPUTS], cell[CELL_UPDATE]
    maps = Maps(indptr, recurrent_end, indices, weights)
    d_state[:] = 0
    for b in range(x.shape[0]):
        for i in range(units):
            sources[i] = state[b, 0, i]
        for i in range(inputs):
            sources[units + i] = x[b, i]
        sources[units + inputs] = 1
        apply_maps(maps, sources, pre)
        outer = d_pre[min(b, d_pre.shape[0] - 1)]
        elementwise(update, state[b], pre, new_state[b], d_state, outer)
        dynamics_values(dynamics, weights, d_state, outer, dynamics_data[b])
        immediate_values(maps, partials, sources, outer, immediate_data[b])

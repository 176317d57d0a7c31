"""Where the Jacobians of a cell may be non-zero, and where each of their values comes from."""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.kind import CellKind
from sparsegrad.kernels.cells.maps import Dynamics, Maps

if TYPE_CHECKING:
    from scipy.sparse import csc_array, csr_array


class Net(Protocol):
    """What the patterns follow from: a cell, or its structure alone."""

    @property
    def kind(self) -> CellKind:
        """Elementwise update and its partials."""

    @property
    def units(self) -> int:
        """State units."""

    @property
    def maps(self) -> Maps:
        """The sparse maps; their weights are not looked at."""


def immediate_pattern(cell: Net) -> "csc_array":
    """Return the pattern of I, bool, (states, weights), one column per weight."""
    from scipy.sparse import csc_array  # 0.2 s to import, which building a cell need not wait for

    partials, n_maps = cell.kind.partials, len(cell.kind.maps)
    row = _row_of_weight(cell)
    unit, which = row // n_maps, row % n_maps
    counts = np.diff(partials.map_indptr)[which]
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    nth = np.arange(indptr[-1]) - np.repeat(indptr[:-1], counts)
    component = partials.map_components[np.repeat(partials.map_indptr[which], counts) + nth]
    indices = component.astype(np.int64) * cell.units + np.repeat(unit, counts)
    shape = (cell.units * cell.kind.components, cell.maps.indices.size)
    return csc_array((np.ones(indices.size, bool), indices, indptr), shape=shape)


def own_pattern(cell: Net) -> "csr_array | None":
    """Return which entries of D are between the state numbers of one unit, (states, states).

    They cost no step of a weight's reach, which counts the maps crossed. None if following them
    would add nothing: each map's components are all that follow from them, as of RNN, GRU, LSTM.
    """
    from scipy.sparse import csr_array  # 0.2 s to import, as above

    if cell.kind.kept is cell.kind.partials:
        return None
    row, column, _ = own_entries(cell)
    states = cell.units * cell.kind.components
    return csr_array((np.ones(row.size, bool), (row, column)), shape=(states, states))


def dynamics_pattern(cell: Net) -> "tuple[csr_array, Dynamics]":
    """Return the pattern of D and the source of its values.

    Parameters
    ----------
    cell : Cell, or what has its kind, units and maps

    Returns
    -------
    csr_array of bool, (states, states)
        Where D may be non-zero.
    Dynamics
        What each value is the sum of, for `kernels.cells.dynamics_values`.
    """
    states = cell.units * cell.kind.components
    return dynamics_of(own_entries(cell), weight_entries(cell), states)


def dynamics_of(
    own: tuple[NDArray[Any], ...], weights: tuple[NDArray[Any], ...], states: int
) -> "tuple[csr_array, Dynamics]":
    """Return the pattern of D and the source of its values from `own_entries`, `weight_entries`."""
    own_row, own_column, own_source = own
    run_length, run_source, weight, weight_row, weight_column = weights
    keys = np.concatenate([own_row, weight_row]) * states + np.concatenate(
        [own_column, weight_column]
    )
    unique, place = np.unique(keys, return_inverse=True)
    return _of_codes(unique, states), Dynamics(
        own_place=place[: own_row.size].astype(np.int32),
        own_source=own_source.astype(np.int32),
        run_indptr=np.concatenate([[0], np.cumsum(run_length)]).astype(np.int64),
        run_source=run_source.astype(np.int32),
        weight=weight.astype(np.int32),
        place=place[own_row.size :].astype(np.int32),
    )


def dynamics_alone(cell: Net) -> "csr_array":
    """Return the pattern of D that `dynamics_pattern` has, without where its values come from."""
    partials, n_maps, units = cell.kind.partials, len(cell.kind.maps), cell.units
    states = units * cell.kind.components
    own_row, own_column, _ = own_entries(cell)
    codes = [own_row * states + own_column]
    for g in range(n_maps):
        start = cell.maps.indptr[g:-1:n_maps]
        count = cell.maps.recurrent_end[g::n_maps] - start
        weight = np.arange(count.sum()) + np.repeat(start - (np.cumsum(count) - count), count)
        into_h = np.repeat(np.arange(units) * states, count) + cell.maps.indices[weight]
        for c in partials.map_components[partials.map_indptr[g] : partials.map_indptr[g + 1]]:
            codes.append(into_h + int(c) * units * states)
    return _of_codes(sorted_unique(np.concatenate(codes)), states)


def sorted_unique(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each code once, in order."""
    codes = np.sort(codes)  # np.unique hashes since NumPy 2.3: several times slower on millions
    first = np.ones(len(codes), dtype=bool)
    np.not_equal(codes[1:], codes[:-1], out=first[1:])
    return codes[first]


def _of_codes(codes: NDArray[np.int64], states: int) -> "csr_array":
    """Return the square pattern of sorted codes row * states + column."""
    from scipy.sparse import csr_array  # 0.2 s to import, as above

    indptr = np.concatenate([[0], np.cumsum(np.bincount(codes // states, minlength=states))])
    column = (codes % states).astype(np.int32)
    return csr_array((np.ones(codes.size, bool), column, indptr), shape=(states, states))


def _row_of_weight(cell: Net) -> NDArray[np.int64]:
    indptr = cell.maps.indptr
    return np.repeat(np.arange(indptr.size - 1), np.diff(indptr))


def own_entries(cell: Net) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """∂s'_(c,u)/∂s_(b,u) outside the maps: row, column, place in d_state (C, C, units)."""
    units, partials = cell.units, cell.kind.partials
    c = partials.state_rows.astype(np.int64)[:, None]
    b = partials.state_columns.astype(np.int64)[:, None]
    unit = np.arange(units)[None, :]
    source = (c * cell.kind.components + b) * units + unit
    return (c * units + unit).ravel(), (b * units + unit).ravel(), source.ravel()


def weight_entries(cell: Net) -> tuple[NDArray[Any], ...]:
    """∂s'_(c,u)/∂a_g · W_g[u, v]: runs (length, place in d_pre), entries (weight, row, column).

    A run is a row of the maps under one component.
    """
    units, n_maps = cell.units, len(cell.kind.maps)
    partials, indptr = cell.kind.partials, cell.maps.indptr
    row = _row_of_weight(cell)
    recurrent = np.arange(row.size) < cell.maps.recurrent_end[row]
    # one run per (row, component), component after component within a row
    counts = np.diff(partials.map_indptr)
    map_row = np.repeat(np.arange(units * n_maps), np.tile(counts, units))
    component = np.tile(partials.map_components.astype(np.int64), units)
    kept = np.concatenate([[0], np.cumsum(recurrent)])
    length = (kept[indptr[1:]] - kept[indptr[:-1]])[map_row]
    filled = length > 0
    map_row, component, length = map_row[filled], component[filled], length[filled]
    source = (component * n_maps + map_row % n_maps) * units + map_row // n_maps
    first = kept[indptr[:-1]][map_row]
    nth = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    weight = np.flatnonzero(recurrent)[np.repeat(first, length) + nth]
    state_row = np.repeat(component * units + map_row // n_maps, length)
    return length, source, weight, state_row, cell.maps.indices[weight].astype(np.int64)

"""Layers of cells, each of which reads the one before it, in this step or in the last one.

The sources of all maps are z = [s; x; 1; s'], the old state and, layer by layer as the step forms
it, the new one: of either the maps read the h of a layer. What a layer has of an array is a block
of it, in the layout of a cell that stands alone, so that the kernels of `maps` serve it as they do
any cell. With D what a step has of the last one and E what it has of itself,

    ds' = D ds + E ds' + I dθ,       λ' = δ + Eᵀ λ',   λ = Dᵀ λ'

where E leads from each layer to the one above it alone.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .maps import Maps, Partials, apply_rows, immediate_gathered, pull_rows, pull_states
from .maps_abreast import apply_rows_abreast, pull_rows_abreast
from .updates import elementwise

LAYER_FIELDS = 14
(
    UPDATE,  # what `elementwise` knows the update by
    UNITS,
    COMPONENTS,
    MAPS,
    FIRST_STATE,  # of the layer's block among the state numbers …
    FIRST_PRE,  # … the values of the maps
    FIRST_D_STATE,  # … the partials by the state
    FIRST_D_PRE,  # … those by the maps
    FIRST_ROW,  # … the rows of the maps
    FIRST_VALUE,  # … the data of I
    MAP_PARTIALS,  # its first in `map_indptr`,
    MAP_COMPONENTS,  # in `map_components`
    STATE_PARTIALS,  # and in `state_rows` and `state_columns`
    STATE_COUNT,  # of the last
) = range(LAYER_FIELDS)


class Layers(NamedTuple):
    """The layers in the order of a step, and the partials of all of them."""

    table: NDArray[np.int64]  # (layers, LAYER_FIELDS)
    new: int  # first of the new state in z
    apart: bool  # whether J keeps to the layer of its weight: see `pull_down`
    partials: Partials  # layer after layer


@njit(cache=True, nogil=True)
def rows_of(layer: NDArray[np.int64], maps: Maps) -> Maps:
    """Return the maps of a layer: its rows, the weights of all."""
    first = layer[FIRST_ROW]
    last = first + layer[UNITS] * layer[MAPS]
    return Maps(
        maps.indptr[first : last + 1], maps.recurrent_end[first:last], maps.indices, maps.weights
    )


@njit(cache=True, nogil=True)
def partials_of(layer: NDArray[np.int64], partials: Partials) -> Partials:
    """Return the partials of a layer."""
    maps, states = layer[MAP_PARTIALS], layer[STATE_PARTIALS]
    return Partials(
        partials.map_indptr[maps : maps + layer[MAPS] + 1],
        partials.map_components[layer[MAP_COMPONENTS] :],
        partials.state_rows[states : states + layer[STATE_COUNT]],
        partials.state_columns[states : states + layer[STATE_COUNT]],
    )


@njit(cache=True, nogil=True)
def block_of(
    values: NDArray[np.floating],  # (all,)
    first: int,
    rows: int,
    columns: int,
) -> NDArray[np.floating]:
    """View a layer's block of an array, (rows, columns)."""
    return values[first : first + rows * columns].reshape(rows, columns)


@njit(cache=True, nogil=True)
def deep_block_of(
    values: NDArray[np.floating],  # (all,)
    first: int,
    rows: int,
    between: int,
    columns: int,
) -> NDArray[np.floating]:
    """View a layer's block of partials, (rows, between, columns)."""
    return values[first : first + rows * between * columns].reshape(rows, between, columns)


@njit(cache=True, nogil=True)
def step_layers(
    layers: Layers,  # in
    abreast: int,
    maps: Maps,  # in
    sources: NDArray[np.floating],  # (sources,)          in/out  z
    old_state: NDArray[np.floating],  # (states,)         in
    pre: NDArray[np.floating],  # (maps,)                 out
    new_state: NDArray[np.floating],  # (states,)         out
    d_state: NDArray[np.floating],  # (all,)              out
    d_pre: NDArray[np.floating],  # (all,)                out
    gathered: NDArray[np.floating],  # (weights,) or (0,) out  z_src(w), if there is room for it
) -> None:
    """Run a step of a group of streams through the layers, the lowest first."""
    for k in range(layers.table.shape[0]):
        layer = layers.table[k]
        units, columns = layer[UNITS], layer[UNITS] * abreast
        states, n_maps = layer[COMPONENTS], layer[MAPS]
        first = layer[FIRST_STATE] * abreast
        rows = rows_of(layer, maps)
        values = block_of(pre, layer[FIRST_PRE] * abreast, n_maps, columns)
        if abreast == 1:
            apply_rows(0, units, rows, sources, values, gathered)
        else:
            apply_rows_abreast(0, units, rows, sources, values)
        new = block_of(new_state, first, states, columns)
        elementwise(
            layer[UPDATE], block_of(old_state, first, states, columns), values, new,
            deep_block_of(d_state, layer[FIRST_D_STATE] * abreast, states, states, columns),
            deep_block_of(d_pre, layer[FIRST_D_PRE] * abreast, states, n_maps, columns),
        )  # fmt: skip
        to = layers.new * abreast + first
        for i in range(columns):
            sources[to + i] = new[0, i]


@njit(cache=True, nogil=True)
def pull_layers(
    layers: Layers,  # in
    abreast: int,
    maps: Maps,  # in
    sources: NDArray[np.floating],  # (sources,)          in   z
    d_state: NDArray[np.floating],  # (all,)              in
    d_pre: NDArray[np.floating],  # (all,)                in
    adjoint: NDArray[np.floating],  # (states,)           in/out  δ + what the steps after it give
    by_maps: NDArray[np.floating],  # (sources,)          scratch
    before: NDArray[np.floating],  # (states,)            out  Dᵀ λ'
    grad: NDArray[np.floating],  # (weights,)             in/out
) -> None:
    """Go one step back in BPTT, the highest layer first: grad += Iᵀ λ', λ = Dᵀ λ'."""
    by_maps[:] = 0
    for k in range(layers.table.shape[0] - 1, -1, -1):
        layer = layers.table[k]
        units, columns = layer[UNITS], layer[UNITS] * abreast
        states, n_maps = layer[COMPONENTS], layer[MAPS]
        first = layer[FIRST_STATE] * abreast
        rows, partials = rows_of(layer, maps), partials_of(layer, layers.partials)
        of_layer = block_of(adjoint, first, states, columns)
        above = layers.new * abreast + first
        for i in range(columns):
            of_layer[0, i] += by_maps[above + i]
        slopes = deep_block_of(d_pre, layer[FIRST_D_PRE] * abreast, states, n_maps, columns)
        if abreast == 1:
            pull_rows(0, units, rows, partials, sources, slopes, of_layer, by_maps, grad)
        else:
            pull_rows_abreast(0, units, rows, partials, sources, slopes, of_layer, by_maps, grad)
        pull_states(
            partials,
            deep_block_of(d_state, layer[FIRST_D_STATE] * abreast, states, states, columns),
            of_layer,
            block_of(before, first, states, columns),
        )
    for i in range(before.size):
        before[i] += by_maps[i]


@njit(cache=True, nogil=True)
def pull_down(
    layers: Layers,  # in
    abreast: int,
    maps: Maps,  # in
    d_pre: NDArray[np.floating],  # (all,)                in
    state_grad: NDArray[np.floating],  # (states,)        in/out  δ -> δ + Eᵀ λ'
) -> None:
    """Hand the signal of a group of streams down through this step: J keeps to its layer.

    The readout writes to the highest h alone; no layer reads another number of the one below it.
    """
    last = layers.table.shape[0] - 1
    state_grad[layers.table[last, UNITS] * abreast :] = 0
    for k in range(last, 0, -1):
        layer = layers.table[k]
        rows, partials = rows_of(layer, maps), partials_of(layer, layers.partials)
        columns, n_maps = layer[UNITS] * abreast, layer[MAPS]
        first, slopes = layer[FIRST_STATE] * abreast, layer[FIRST_D_PRE] * abreast
        for row in range(layer[UNITS] * n_maps):
            g = row % n_maps
            for lane in range(abreast):
                i = row // n_maps * abreast + lane
                d = state_grad.dtype.type(0)
                for q in range(partials.map_indptr[g], partials.map_indptr[g + 1]):
                    slope = slopes + (partials.map_components[q] * n_maps + g) * columns + i
                    d += d_pre[slope] * state_grad[first + partials.map_components[q] * columns + i]
                w = rows.recurrent_end[row] - 1  # what is of this step comes last
                while w >= rows.indptr[row] and rows.indices[w] >= layers.new:
                    state_grad[(rows.indices[w] - layers.new) * abreast + lane] += (
                        rows.weights[w] * d
                    )
                    w -= 1


@njit(cache=True, nogil=True)
def immediate_of_layers(
    layers: Layers,  # in
    maps: Maps,  # in
    gathered: NDArray[np.floating],  # (weights,) + SLACK    in   z_src(w), by `step_layers`
    d_pre: NDArray[np.floating],  # (all,)                   in
    immediate_data: NDArray[np.floating],  # (nnz of I,)     out
) -> None:
    """Fill I's data, layer by layer."""
    for k in range(layers.table.shape[0]):
        layer = layers.table[k]
        slopes = deep_block_of(
            d_pre, layer[FIRST_D_PRE], layer[COMPONENTS], layer[MAPS], layer[UNITS]
        )
        immediate_gathered(
            rows_of(layer, maps), partials_of(layer, layers.partials), gathered, slopes,
            immediate_data[layer[FIRST_VALUE] :],
        )  # fmt: skip

"""The patterns of D and I of a cell or a stack, in the form that a search and a step take them."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.jacobians import (
    dynamics_of,
    dynamics_pattern,
    immediate_pattern,
    own_entries,
    own_pattern,
    weight_entries,
)
from sparsegrad.cells.kind import CellKind
from sparsegrad.cells.stack import Stack
from sparsegrad.kernels.cells.maps import Dynamics, Maps

if TYPE_CHECKING:
    from scipy.sparse import csc_array, csr_array


class Patterns(NamedTuple):
    """Where D and I may be non-zero.

    Attributes
    ----------
    dynamics : csr_array of bool, (states, states)
        D, and of a stack E too: what its rows read of this step's state.
    values : Dynamics
        What each value of it is the sum of.
    immediate : csc_array of bool, (states, weights)
    own : csr_array of bool, (states, states), or None
        Entries of D that cost no step of reach.
    levels : int64 array, (states,), or None
        Which entries are E's, see `sparsegrad.reach`.
    """

    dynamics: "csr_array"
    values: Dynamics
    immediate: "csc_array"
    own: "csr_array | None"
    levels: NDArray[np.int64] | None


class _Layer(NamedTuple):
    """A layer as far as its patterns go; its maps read the state numbers of the stack."""

    kind: CellKind
    units: int
    maps: Maps


def patterns_of(cell: Cell | Stack) -> Patterns:
    """Return the patterns of a net."""
    if isinstance(cell, Stack):
        return _patterns(cell)
    dynamics, values = dynamics_pattern(cell)
    return Patterns(dynamics, values, immediate_pattern(cell), own_pattern(cell), None)


def _patterns(stack: Stack) -> Patterns:
    from scipy.sparse import csr_array  # 0.2 s to import, which a cell need not wait for

    states = stack.states
    own_parts, weight_parts = [], []
    for k, (layer, start) in enumerate(zip(stack.layers, stack.starts, strict=True)):
        row, column, source = own_entries(layer)
        own_parts.append((row + start.state, column + start.state, source + start.d_state))
        of_layer = weight_entries(_reading(stack, k))
        length, source, weight, row, column = of_layer
        weight_parts.append(
            (length, source + start.d_pre, weight + start.weight, row + start.state, column)
        )
    own, weights = _joined(own_parts), _joined(weight_parts)
    dynamics, values = dynamics_of(own, weights, states)
    ones = np.ones(own[0].size, bool)
    within = stack.across and not stack.delay and len(stack.layers) > 1
    return Patterns(
        dynamics,
        values,
        _immediate(stack),
        csr_array((ones, (own[0], own[1])), shape=(states, states)),
        _levels(stack) if within else None,
    )


def _reading(stack: Stack, k: int) -> _Layer:
    """Return a layer whose maps read what J follows: states, under their numbers in the stack."""
    layer, start = stack.layers[k], stack.starts[k]
    rows = slice(start.row, start.row + layer.maps.recurrent_end.size)
    weights = slice(start.weight, start.weight + layer.weights.size)
    source, new = stack.maps.indices[weights], stack.states + stack.inputs + 1
    end = (
        stack.maps.recurrent_end[rows] - start.weight if stack.across else layer.maps.recurrent_end
    )
    maps = layer.maps._replace(
        recurrent_end=end, indices=np.where(source >= new, source - new, source).astype(np.int32)
    )
    return _Layer(layer.kind, layer.units, maps)


def _joined(parts: list[Any]) -> tuple[NDArray[Any], ...]:
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def _immediate(stack: Stack) -> "csc_array":
    from scipy.sparse import csc_array  # as above

    parts = [immediate_pattern(layer) for layer in stack.layers]
    indices = [
        part.indices.astype(np.int64) + start.state
        for part, start in zip(parts, stack.starts, strict=True)
    ]
    counts = np.concatenate([np.diff(part.indptr) for part in parts])
    indptr = np.concatenate([[0], np.cumsum(counts)])
    rows = np.concatenate(indices)
    shape = stack.states, stack.weights.size
    return csc_array((np.ones(rows.size, bool), rows, indptr), shape=shape)


def _levels(stack: Stack) -> NDArray[np.int64]:
    levels = np.empty(stack.states, np.int64)
    for k, (layer, start) in enumerate(zip(stack.layers, stack.starts, strict=True)):
        levels[start.state : start.state + layer.states] = k
    return levels

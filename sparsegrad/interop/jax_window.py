"""One step back through a window in JAX: Dᵀ λ, Iᵀ λ and ∂L/∂x, as gathers and sums by index."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from sparsegrad.cells import Cell
from sparsegrad.interop.addresses import parameter_order, present
from sparsegrad.symbolic.pattern import ReachPattern


class Pulls:
    """Where the values of D, I and the weights of a cell stand.

    Parameters
    ----------
    cell : Cell
    pattern : ReachPattern
        Whose D and I are those of the cell.
    """

    def __init__(self, cell: Cell, pattern: ReachPattern) -> None:
        self._states, self._weights, self._inputs = *pattern.shape[::-1], cell.inputs
        self._dynamics_rows = np.repeat(np.arange(self._states), np.diff(pattern.dynamics_indptr))
        self._dynamics_columns = pattern.dynamics_indices
        self._immediate_rows = pattern.immediate_indices
        self._weight_of = np.repeat(np.arange(self._weights), np.diff(pattern.immediate_indptr))
        self._order = np.concatenate([parameter_order(cell, name) for name in present(cell)])
        maps, n_maps, partials = cell.maps, len(cell.kind.maps), cell.kind.partials
        # what no map touches is never written: XLA's memory holds anything there
        self._touched = np.zeros((cell.kind.components, n_maps, 1), bool)
        map_of = np.repeat(np.arange(n_maps), np.diff(partials.map_indptr))
        self._touched[partials.map_components, map_of] = True
        row = np.repeat(np.arange(maps.indptr.size - 1), np.diff(maps.indptr))
        source = maps.indices - cell.units
        self._driven = np.flatnonzero((source >= 0) & (source < cell.inputs))  # not the constant 1
        self._source = source[self._driven]
        self._unit, self._map = np.divmod(row[self._driven], n_maps)

    def before(self, dynamics_data: Any, adjoint: Any) -> Any:
        """Return Dᵀ λ, (batch, states), from D, (batch, nnz), and λ."""
        found = dynamics_data * adjoint[:, self._dynamics_rows]
        return jnp.zeros_like(adjoint).at[:, self._dynamics_columns].add(found)

    def weights(self, immediate_data: Any, adjoints: Any) -> Any:
        """Return Σ_t Iᵀ λ, summed over the batch, in the parameters' order."""
        found = (immediate_data * adjoints[..., self._immediate_rows]).sum((0, 1))
        sums = jnp.zeros(self._weights, adjoints.dtype).at[self._weight_of].add(found)
        return sums[self._order]

    def inputs(self, weights: Any, d_pre: Any, adjoints: Any) -> Any:
        """Return ∂L/∂x, (T, batch, inputs), from ∂s'/∂a and λ."""
        by_component = adjoints.reshape(*d_pre.shape[:3], 1, d_pre.shape[4])
        d_map = jnp.where(self._touched, d_pre * by_component, 0).sum(2)
        found = self.ordered(weights)[self._driven] * d_map[..., self._map, self._unit]
        empty = jnp.zeros((*adjoints.shape[:2], self._inputs), adjoints.dtype)
        return empty.at[..., self._source].add(found)

    def ordered(self, weights: Any) -> Any:
        """Return the weights in the order of the maps, from that of the parameters."""
        return jnp.zeros_like(weights).at[self._order].set(weights)

"""What every cell has in common: its sparse maps, and its Jacobians from the elementwise partials.

A cell of k units has G maps a_g = W_g h + U_g x + b_g, held as one CSR whose row u G + g is map g
into unit u and whose columns are the sources z = [h; x; 1]. Its data are the weights.
The state has C components, component-major: state number c k + u; component 0 is h, the one that
the maps read.

    ∂s'_(c,u)/∂w          = ∂s'_c/∂a_g · z_src(w)                           (w in row u G + g)
    ∂s'_(c,u)/∂s_(c',v)   = [u = v] ∂s'_c/∂s_c'  +  [c' = 0] Σ_g ∂s'_c/∂a_g · W_g[u, v]
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .simd import index, pointer, put, value


class Maps(NamedTuple):
    """The sparse maps of a cell, rows unit by unit."""

    indptr: NDArray[np.int64]  # (units * maps + 1,)
    recurrent_end: NDArray[np.int64]  # (units * maps,) end of the part of a row that reads h
    indices: NDArray[np.int32]  # (weights,) source in z = [h; x; 1]
    weights: NDArray[np.floating]  # (weights,)


class Partials(NamedTuple):
    """Which partials of the elementwise update can be non-zero; the same for all units."""

    map_indptr: NDArray[np.int64]  # (maps + 1,)
    map_components: NDArray[np.int32]  # components c with ∂s'_c/∂a_g, ascending, map by map
    state_rows: NDArray[np.int32]  # c  of each ∂s'_c/∂s_c'
    state_columns: NDArray[np.int32]  # c' of each ∂s'_c/∂s_c'


class Dynamics(NamedTuple):
    """Where each value of D comes from: sums over its places in CSR order."""

    own_place: NDArray[np.int32]  # (state partials * units,) place in D's data
    own_source: NDArray[np.int32]  # the same, place in d_state (flat)
    run_indptr: NDArray[np.int64]  # (runs + 1,) a run: the recurrent weights under one ∂s'_c/∂a_g
    run_source: NDArray[np.int32]  # (runs,) place in d_pre (flat)
    weight: NDArray[np.int32]  # the weights of each run
    place: NDArray[np.int32]  # and the place in D's data that each goes to


@njit(cache=True, nogil=True)
def apply_maps(
    maps: Maps,  # in
    sources: NDArray[np.floating],  # (units + inputs + 1,)  in   z
    pre: NDArray[np.floating],  # (maps, units)              out
) -> None:
    """Form a_g <- W_g h + U_g x + b_g."""
    n_maps, units = pre.shape
    indices, weights = pointer(maps.indices, 0), pointer(maps.weights, 0)
    z = pointer(sources, 0)
    zero = pre.dtype.type(0)
    for u in range(units):
        for g in range(n_maps):
            row = u * n_maps + g
            w, end = maps.indptr[row], maps.indptr[row + 1]
            # four partial sums hide the latency of the additions; the order is always the same
            s0 = s1 = s2 = s3 = zero
            while w + 4 <= end:
                s0 += value(weights, w) * value(z, index(indices, w))
                s1 += value(weights, w + 1) * value(z, index(indices, w + 1))
                s2 += value(weights, w + 2) * value(z, index(indices, w + 2))
                s3 += value(weights, w + 3) * value(z, index(indices, w + 3))
                w += 4
            while w < end:
                s0 += value(weights, w) * value(z, index(indices, w))
                w += 1
            pre[g, u] = (s0 + s1) + (s2 + s3)


@njit(cache=True, nogil=True)
def dynamics_values(
    dynamics: Dynamics,  # in
    weights: NDArray[np.floating],  # (weights,)             in
    d_state: NDArray[np.floating],  # (C, C, units)          in
    d_pre: NDArray[np.floating],  # (C, maps, units)         in
    dynamics_data: NDArray[np.floating],  # (nnz of D,)      out
) -> None:
    """Fill D's data by the second equation, on the part of D that `dynamics` describes."""
    data, own, outer = pointer(dynamics_data, 0), pointer(d_state, 0), pointer(d_pre, 0)
    values = pointer(weights, 0)
    weight, place = pointer(dynamics.weight, 0), pointer(dynamics.place, 0)
    dynamics_data[:] = 0
    for e in range(dynamics.own_place.size):
        at = dynamics.own_place[e]
        put(data, at, value(data, at) + value(own, dynamics.own_source[e]))
    for run in range(dynamics.run_source.size):
        d = value(outer, dynamics.run_source[run])
        for e in range(dynamics.run_indptr[run], dynamics.run_indptr[run + 1]):
            at = index(place, e)
            put(data, at, value(data, at) + d * value(values, index(weight, e)))


@njit(cache=True, nogil=True)
def immediate_values(
    maps: Maps,  # in
    partials: Partials,  # in
    sources: NDArray[np.floating],  # (units + inputs + 1,)  in   z
    d_pre: NDArray[np.floating],  # (C, maps, units)         in
    immediate_data: NDArray[np.floating],  # (nnz of I,)     out
) -> None:
    """Fill I's data, weight by weight, by the first equation."""
    n_maps, units = d_pre.shape[1:]
    indices, z, data = pointer(maps.indices, 0), pointer(sources, 0), pointer(immediate_data, 0)
    to = 0
    for u in range(units):
        for g in range(n_maps):
            row = u * n_maps + g
            start, length = maps.indptr[row], maps.indptr[row + 1] - maps.indptr[row]
            first = partials.map_indptr[g]
            count = partials.map_indptr[g + 1] - first
            for q in range(count):
                d = d_pre[partials.map_components[first + q], g, u]
                for e in range(length):
                    put(data, to + e * count + q, d * value(z, index(indices, start + e)))
            to += length * count


@njit(cache=True, nogil=True)
def push_forward(
    maps: Maps,  # in
    partials: Partials,  # in
    d_state: NDArray[np.floating],  # (C, C, units)          in
    d_pre: NDArray[np.floating],  # (C, maps, units)         in
    tangent: NDArray[np.floating],  # (C, units)             in
    new_tangent: NDArray[np.floating],  # (C, units)         out
) -> None:
    """Push a tangent of the state: new <- D · old, without forming D."""
    n_maps, units = d_pre.shape[1:]
    new_tangent[:] = 0
    for q in range(partials.state_rows.size):
        c, old = partials.state_rows[q], partials.state_columns[q]
        for u in range(units):
            new_tangent[c, u] += d_state[c, old, u] * tangent[old, u]
    for u in range(units):
        for g in range(n_maps):
            row = u * n_maps + g
            d_map = maps.weights.dtype.type(0)
            for w in range(maps.indptr[row], maps.recurrent_end[row]):
                d_map += maps.weights[w] * tangent[0, maps.indices[w]]
            for q in range(partials.map_indptr[g], partials.map_indptr[g + 1]):
                c = partials.map_components[q]
                new_tangent[c, u] += d_pre[c, g, u] * d_map


@njit(cache=True, nogil=True)
def pull_back(
    maps: Maps,  # in
    partials: Partials,  # in
    sources: NDArray[np.floating],  # (units + inputs + 1,)  in   z
    d_state: NDArray[np.floating],  # (C, C, units)          in
    d_pre: NDArray[np.floating],  # (C, maps, units)         in
    adjoint: NDArray[np.floating],  # (C, units)             in   λ
    adjoint_before: NDArray[np.floating],  # (C, units)      out  Dᵀ λ
    grad: NDArray[np.floating],  # (weights,)                in/out
) -> None:
    """Go one step back in BPTT: grad += Iᵀ λ and λ_before <- Dᵀ λ."""
    n_maps, units = d_pre.shape[1:]
    adjoint_before[:] = 0
    for q in range(partials.state_rows.size):
        c, old = partials.state_rows[q], partials.state_columns[q]
        for u in range(units):
            adjoint_before[old, u] += d_state[c, old, u] * adjoint[c, u]
    indices, weights = pointer(maps.indices, 0), pointer(maps.weights, 0)
    z, total, h_before = pointer(sources, 0), pointer(grad, 0), pointer(adjoint_before, 0)
    for u in range(units):
        for g in range(n_maps):
            row = u * n_maps + g
            d_map = grad.dtype.type(0)
            for q in range(partials.map_indptr[g], partials.map_indptr[g + 1]):
                c = partials.map_components[q]
                d_map += d_pre[c, g, u] * adjoint[c, u]
            for w in range(maps.indptr[row], maps.recurrent_end[row]):
                source = index(indices, w)
                put(h_before, source, value(h_before, source) + value(weights, w) * d_map)
                put(total, w, value(total, w) + d_map * value(z, source))
            for w in range(maps.recurrent_end[row], maps.indptr[row + 1]):
                put(total, w, value(total, w) + d_map * value(z, index(indices, w)))

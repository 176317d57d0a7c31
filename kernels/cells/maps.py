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

from ..vectors.arithmetic import fill, gather, gather_part, total
from ..vectors.simd import (
    fma,
    index,
    lanes,
    load,
    load_part,
    pointer,
    put,
    store,
    store_part,
    value,
    zero,
)  # fmt: skip


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
    apply_rows(0, pre.shape[1], maps, sources, pre, sources[:0])


@njit(cache=True, nogil=True)
def apply_rows(
    first: int,
    last: int,  # units
    maps: Maps,  # in
    sources: NDArray[np.floating],  # (units + inputs + 1,)  in   z
    pre: NDArray[np.floating],  # (maps, units)              out
    gathered: NDArray[np.floating],  # (weights,) or (0,)    out  z_src(w), if there is room for it
) -> None:
    """Form a_g <- W_g h + U_g x + b_g of some units, and keep the source of each weight."""
    n_maps = pre.shape[0]
    indptr, indices = pointer(maps.indptr, 0), pointer(maps.indices, 0)
    weights, z, kept = pointer(maps.weights, 0), pointer(sources, 0), pointer(gathered, 0)
    keep = gathered.size > 0
    n = lanes(z)
    for u in range(first, last):
        for g in range(n_maps):
            w, end = index(indptr, u * n_maps + g), index(indptr, u * n_maps + g + 1)
            partial = zero(z)
            while w + n <= end:
                source = gather(z, indices, w)
                if keep:
                    store(kept, w, source)
                partial = fma(load(weights, w), source, partial)
                w += n
            if w < end:
                source = gather_part(z, indices, w, end - w)
                if keep:
                    store_part(kept, w, end - w, source)
                partial = fma(load_part(weights, w, end - w), source, partial)
            pre[g, u] = total(partial)


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
def immediate_gathered(
    maps: Maps,  # in
    partials: Partials,  # in
    gathered: NDArray[np.floating],  # (weights,) + SLACK    in   z_src(w), by `apply_rows`
    d_pre: NDArray[np.floating],  # (C, maps, units)         in
    immediate_data: NDArray[np.floating],  # (nnz of I,)     out
) -> None:
    """Fill I's data from sources that the forward pass has gathered, by vectors."""
    n_maps, units = d_pre.shape[1:]
    indptr, z, data = pointer(maps.indptr, 0), pointer(gathered, 0), pointer(immediate_data, 0)
    n = lanes(z)
    to = 0
    for u in range(units):
        for g in range(n_maps):
            w, end = index(indptr, u * n_maps + g), index(indptr, u * n_maps + g + 1)
            first = partials.map_indptr[g]
            count = partials.map_indptr[g + 1] - first
            if count == 1:
                d = d_pre[partials.map_components[first], g, u]
                slope = fill(z, d)
                while w + n <= end:
                    store(data, to, slope * load(z, w))
                    w, to = w + n, to + n
                if w < end:
                    store_part(data, to, end - w, slope * load_part(z, w, end - w))
                    to += end - w
                continue
            for q in range(count):
                d = d_pre[partials.map_components[first + q], g, u]
                for e in range(end - w):
                    put(data, to + e * count + q, d * value(z, w + e))
            to += (end - w) * count


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
    indices, weights, h = pointer(maps.indices, 0), pointer(maps.weights, 0), pointer(tangent, 0)
    n = lanes(h)
    new_tangent[:] = 0
    for q in range(partials.state_rows.size):
        c, old = partials.state_rows[q], partials.state_columns[q]
        for u in range(units):
            new_tangent[c, u] += d_state[c, old, u] * tangent[old, u]
    for u in range(units):
        for g in range(n_maps):
            row = u * n_maps + g
            end = maps.recurrent_end[row]
            partial = zero(h)
            for w in range(maps.indptr[row], end, n):
                source = gather_part(h, indices, w, end - w)
                partial = fma(load_part(weights, w, end - w), source, partial)
            d_map = total(partial)
            for q in range(partials.map_indptr[g], partials.map_indptr[g + 1]):
                c = partials.map_components[q]
                new_tangent[c, u] += d_pre[c, g, u] * d_map


@njit(cache=True, nogil=True)
def pull_states(
    partials: Partials,  # in
    d_state: NDArray[np.floating],  # (C, C, columns)     in
    adjoint: NDArray[np.floating],  # (C, columns)        in   λ
    adjoint_before: NDArray[np.floating],  # (C, columns)  out  the part of Dᵀ λ beside the maps
) -> None:
    """Go one step back in BPTT, past the maps; a column is a unit of a stream."""
    adjoint_before[:] = 0
    for q in range(partials.state_rows.size):
        c, old = partials.state_rows[q], partials.state_columns[q]
        for i in range(adjoint.shape[1]):
            adjoint_before[old, i] += d_state[c, old, i] * adjoint[c, i]


@njit(cache=True, nogil=True)
def pull_rows(
    first: int,
    last: int,  # units
    maps: Maps,  # in
    partials: Partials,  # in
    sources: NDArray[np.floating],  # (units + inputs + 1,)  in   z
    d_pre: NDArray[np.floating],  # (C, maps, units)         in
    adjoint: NDArray[np.floating],  # (C, units)             in   λ
    h_before: NDArray[np.floating],  # (units,)              in/out  the part of Dᵀ λ by the maps
    grad: NDArray[np.floating],  # (weights,)                in/out
) -> None:
    """Go one step back in BPTT, through the rows of some units.

    grad += Iᵀ λ and h_before += Σ_g W_gᵀ ∂s'/∂a_g λ.
    """
    indptr, indices = pointer(maps.indptr, 0), pointer(maps.indices, 0)
    weights, recurrent_end = pointer(maps.weights, 0), pointer(maps.recurrent_end, 0)
    z, total_grad, before = pointer(sources, 0), pointer(grad, 0), pointer(h_before, 0)
    n_maps = d_pre.shape[1]
    n = lanes(z)
    for u in range(first, last):
        for g in range(n_maps):
            d = grad.dtype.type(0)
            for q in range(partials.map_indptr[g], partials.map_indptr[g + 1]):
                c = partials.map_components[q]
                d += d_pre[c, g, u] * adjoint[c, u]
            row = u * n_maps + g
            start, end = index(indptr, row), index(indptr, row + 1)
            for w in range(start, index(recurrent_end, row)):
                source = index(indices, w)
                put(before, source, value(before, source) + value(weights, w) * d)
            w = start
            while w + n <= end:
                held = load(total_grad, w)
                store(total_grad, w, fma(fill(z, d), gather(z, indices, w), held))
                w += n
            if w < end:
                held = load_part(total_grad, w, end - w)
                source = gather_part(z, indices, w, end - w)
                store_part(total_grad, w, end - w, fma(fill(z, d), source, held))

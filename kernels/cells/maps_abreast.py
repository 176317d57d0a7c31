"""The maps of streams abreast, one stream in each lane of a vector; `maps` has those of one stream.

One load of a weight and of its index serves all streams of a vector, and nothing is gathered. An
array holds a number per stream where that of a single stream holds one: unit u of the stream in
lane l is column u lanes + l.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..vectors.arithmetic import add_product, add_products
from ..vectors.simd import fma, index, lanes, load, pointer, splat, store, zero
from .maps import Maps, Partials


@njit(cache=True, nogil=True)
def apply_rows_abreast(
    first: int,
    last: int,  # units
    maps: Maps,  # in
    sources: NDArray[np.floating],  # (sources * lanes,)    in   z
    pre: NDArray[np.floating],  # (maps, units * lanes)     out
) -> None:
    """Form a_g <- W_g h + U_g x + b_g of some units."""
    indptr, indices = pointer(maps.indptr, 0), pointer(maps.indices, 0)
    weights, z, a = pointer(maps.weights, 0), pointer(sources, 0), pointer(pre, 0)
    n_maps, columns = pre.shape
    n = lanes(z)
    for u in range(first, last):
        for g in range(n_maps):
            w, end = index(indptr, u * n_maps + g), index(indptr, u * n_maps + g + 1)
            partial = zero(z)
            while w < end:
                partial = fma(splat(weights, w), load(z, index(indices, w) * n), partial)
                w += 1
            store(a, g * columns + u * n, partial)


@njit(cache=True, nogil=True)
def _pull(w: int, n: int, d: Any, weights: Any, indices: Any, z: Any, before: Any) -> Any:
    """Add weight w's part of Dᵀ λ; return its source."""
    source = index(indices, w) * n
    store(before, source, fma(splat(weights, w), d, load(before, source)))
    return load(z, source)


@njit(cache=True, nogil=True)
def pull_rows_abreast(
    first: int,
    last: int,  # units
    maps: Maps,  # in
    partials: Partials,  # in
    sources: NDArray[np.floating],  # (sources * lanes,)        in   z
    d_pre: NDArray[np.floating],  # (C, maps, units * lanes)    in
    adjoint: NDArray[np.floating],  # (C, units * lanes)        in   λ
    h_before: NDArray[np.floating],  # (units * lanes,)         in/out
    grad: NDArray[np.floating],  # (weights,)                   in/out
) -> None:
    """Add the part of some units: grad += Iᵀ λ and h_before += Σ_g W_gᵀ ∂s'/∂a_g λ."""
    indptr, indices = pointer(maps.indptr, 0), pointer(maps.indices, 0)
    recurrent_end, weights = pointer(maps.recurrent_end, 0), pointer(maps.weights, 0)
    z, slopes, later = pointer(sources, 0), pointer(d_pre, 0), pointer(adjoint, 0)
    before, out = pointer(h_before, 0), pointer(grad, 0)
    n_maps, columns = d_pre.shape[1:]
    n = lanes(z)
    for u in range(first, last):
        for g in range(n_maps):
            d = zero(z)
            for q in range(partials.map_indptr[g], partials.map_indptr[g + 1]):
                c = partials.map_components[q]
                slope = load(slopes, (c * n_maps + g) * columns + u * n)
                d = fma(slope, load(later, c * columns + u * n), d)
            row = u * n_maps + g
            w, end = index(indptr, row), index(recurrent_end, row)
            while w + 4 <= end:
                add_products(
                    out, w, d,
                    _pull(w, n, d, weights, indices, z, before),
                    _pull(w + 1, n, d, weights, indices, z, before),
                    _pull(w + 2, n, d, weights, indices, z, before),
                    _pull(w + 3, n, d, weights, indices, z, before),
                )  # fmt: skip
                w += 4
            while w < end:
                add_product(out, w, d, _pull(w, n, d, weights, indices, z, before))
                w += 1
            end = index(indptr, row + 1)
            while w + 4 <= end:
                add_products(
                    out, w, d,
                    load(z, index(indices, w) * n),
                    load(z, index(indices, w + 1) * n),
                    load(z, index(indices, w + 2) * n),
                    load(z, index(indices, w + 3) * n),
                )  # fmt: skip
                w += 4
            while w < end:
                add_product(out, w, d, load(z, index(indices, w) * n))
                w += 1

"""Two probes of the machine: the highest rate of multiply-adds and of in-place memory sweeps.

Every time the profile reports is set against them. They do the two things that an influence
update is made of and nothing else, with the same 64-byte vectors as the panel kernels.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.vectors.simd import fma, lanes, load, store

SHORT_CHAINS = 6
LONG_CHAINS = 10
SWEEP_VECTORS = 4


# v_c <- v_c a + b, `steps` times, in 6 independent chains: 12 AVX or 24 NEON registers hold them
@numba.njit(cache=True, nogil=True)
def multiply_add_short(
    steps: int,  # in, SHORT_CHAINS * lanes multiply-adds each
    factors: NDArray[np.floating],  # (2 * lanes,)  in, the vectors a and b
    chains: NDArray[np.floating],  # (SHORT_CHAINS * lanes,)  in/out
) -> None:
    """Multiply-adds out of registers, enough of them to hide the latency of 16-register CPUs."""
    width = lanes(factors)
    a, b = load(factors, 0), load(factors, width)
    v0, v1, v2 = load(chains, 0), load(chains, width), load(chains, 2 * width)
    v3, v4, v5 = load(chains, 3 * width), load(chains, 4 * width), load(chains, 5 * width)
    for _ in range(steps):
        v0, v1, v2 = fma(v0, a, b), fma(v1, a, b), fma(v2, a, b)
        v3, v4, v5 = fma(v3, a, b), fma(v4, a, b), fma(v5, a, b)
    store(chains, 0, v0)
    store(chains, width, v1)
    store(chains, 2 * width, v2)
    store(chains, 3 * width, v3)
    store(chains, 4 * width, v4)
    store(chains, 5 * width, v5)


# v_c <- v_c a + b, `steps` times, in 10 independent chains: what two AVX-512 units need
@numba.njit(cache=True, nogil=True)
def multiply_add_long(
    steps: int,  # in, LONG_CHAINS * lanes multiply-adds each
    factors: NDArray[np.floating],  # (2 * lanes,)  in, the vectors a and b
    chains: NDArray[np.floating],  # (LONG_CHAINS * lanes,)  in/out
) -> None:
    """Multiply-adds out of registers, enough of them to hide the latency of AVX-512."""
    width = lanes(factors)
    a, b = load(factors, 0), load(factors, width)
    v0, v1, v2 = load(chains, 0), load(chains, width), load(chains, 2 * width)
    v3, v4, v5 = load(chains, 3 * width), load(chains, 4 * width), load(chains, 5 * width)
    v6, v7, v8 = load(chains, 6 * width), load(chains, 7 * width), load(chains, 8 * width)
    v9 = load(chains, 9 * width)
    for _ in range(steps):
        v0, v1, v2 = fma(v0, a, b), fma(v1, a, b), fma(v2, a, b)
        v3, v4, v5 = fma(v3, a, b), fma(v4, a, b), fma(v5, a, b)
        v6, v7, v8 = fma(v6, a, b), fma(v7, a, b), fma(v8, a, b)
        v9 = fma(v9, a, b)
    store(chains, 0, v0)
    store(chains, width, v1)
    store(chains, 2 * width, v2)
    store(chains, 3 * width, v3)
    store(chains, 4 * width, v4)
    store(chains, 5 * width, v5)
    store(chains, 6 * width, v6)
    store(chains, 7 * width, v7)
    store(chains, 8 * width, v8)
    store(chains, 9 * width, v9)


# x <- x a + b, in place, `sweeps` times over the array
@numba.njit(cache=True, nogil=True)
def sweep(
    sweeps: int,  # in
    factors: NDArray[np.floating],  # (2 * lanes,)  in, the vectors a and b
    values: NDArray[np.floating],  # (a multiple of SWEEP_VECTORS * lanes,)  in/out
) -> None:
    """Read, change and write every element, which is the least that an influence update does."""
    width = lanes(factors)
    a, b = load(factors, 0), load(factors, width)
    for _ in range(sweeps):
        for i in range(0, len(values), 4 * width):
            v0, v1 = load(values, i), load(values, i + width)
            v2, v3 = load(values, i + 2 * width), load(values, i + 3 * width)
            store(values, i, fma(v0, a, b))
            store(values, i + width, fma(v1, a, b))
            store(values, i + 2 * width, fma(v2, a, b))
            store(values, i + 3 * width, fma(v3, a, b))

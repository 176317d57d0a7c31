"""UORO: an unbiased estimate of J of rank one (Tallec and Ollivier 2017, arXiv 1702.05043).

    J ≈ s̃ θ̃ᵀ,   s̃ <- ρ0 D s̃ + ρ1 ν,   θ̃ <- θ̃ / ρ0 + Iᵀν / ρ1,   ν = ±1 at random
    ρ0 = √(‖θ̃‖ / ‖D s̃‖),   ρ1 = √(‖Iᵀν‖ / ‖ν‖),   grad += (δ · s̃) θ̃

Any ρ > 0 leaves the estimate unbiased, so a norm of 0 is met with ρ = 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .borrow import borrow
from .cells import Maps, Partials, push_forward
from .optimizers import squared_norm
from .simd import pointer, put, value
from .steps import BAD_GRADIENT, FINE, Chunk, Learner, Steps, Streams, finish, observe, signal


class RankOne(NamedTuple):
    """The two factors of every stream's estimate, and its own random numbers."""

    left: NDArray[np.floating]  # (B, C, units)    s̃
    right: NDArray[np.floating]  # (B, weights)    θ̃
    random: NDArray[np.uint64]  # (B,)             state of the generator, never 0
    pushed: NDArray[np.floating]  # (C, units)     scratch, D s̃
    signs: NDArray[np.floating]  # (C, units)      scratch, ν
    drawn: NDArray[np.floating]  # (weights,)      scratch, Iᵀν


@njit(cache=True, nogil=True)
def draw_signs(
    random: NDArray[np.uint64],  # (B,)       in/out
    b: int,
    signs: NDArray[np.floating],  # (C, units)  out  ±1
) -> None:
    """Draw stream b's signs by xorshift64 (Marsaglia 2003), one number a sign."""
    x = random[b]
    for c in range(signs.shape[0]):
        for u in range(signs.shape[1]):
            x ^= x << np.uint64(13)
            x ^= x >> np.uint64(7)
            x ^= x << np.uint64(17)
            signs[c, u] = 1 if x >> np.uint64(63) else -1
    random[b] = x


@njit(cache=True, nogil=True)
def pull_signs(
    maps: Maps,  # in
    partials: Partials,  # in
    gathered: NDArray[np.floating],  # (weights,)      in   z_src(w)
    d_pre: NDArray[np.floating],  # (C, maps, units)   in
    signs: NDArray[np.floating],  # (C, units)         in   ν
    drawn: NDArray[np.floating],  # (weights,)         out  Iᵀν
) -> None:
    """Form Iᵀν without forming I."""
    n_maps, units = d_pre.shape[1:]
    z, out = pointer(gathered, 0), pointer(drawn, 0)
    for u in range(units):
        for g in range(n_maps):
            row = u * n_maps + g
            d_map = drawn.dtype.type(0)
            for q in range(partials.map_indptr[g], partials.map_indptr[g + 1]):
                c = partials.map_components[q]
                d_map += d_pre[c, g, u] * signs[c, u]
            for w in range(maps.indptr[row], maps.indptr[row + 1]):
                put(out, w, d_map * value(z, w))


@njit(cache=True, nogil=True)
def balance(squared_top: float, squared_bottom: float) -> float:
    """Return √(‖top‖ / ‖bottom‖), or 1 where a norm is 0."""
    if squared_top > 0.0 and squared_bottom > 0.0:
        return (squared_top / squared_bottom) ** 0.25
    return 1.0


@njit(cache=True, nogil=True, forceinline=True)
def rank_one_step(
    maps: Maps,  # in
    partials: Partials,  # in
    steps: Steps,  # in
    estimate: RankOne,  # in/out
    grad: NDArray[np.floating],  # (weights,)  in/out
) -> None:
    """Update the estimate of every stream and add its gradient."""
    number = grad.dtype.type
    pushed, signs, drawn = estimate.pushed, estimate.signs, estimate.drawn
    for b in range(estimate.right.shape[0]):
        left, right = estimate.left[b], estimate.right[b]
        d_pre = steps.d_pre[0, b]
        push_forward(maps, partials, steps.d_state[0, b], d_pre, left, pushed)
        draw_signs(estimate.random, b, signs)
        pull_signs(maps, partials, steps.gathered[0, b], d_pre, signs, drawn)
        rho0 = balance(squared_norm(right), squared_norm(pushed.ravel()))
        rho1 = balance(squared_norm(drawn), np.float64(signs.size))
        keep, fresh = number(1.0 / rho0), number(1.0 / rho1)
        push, fling = number(rho0), number(rho1)
        along = number(0)
        for c in range(left.shape[0]):
            for u in range(left.shape[1]):
                left[c, u] = push * pushed[c, u] + fling * signs[c, u]
                along += steps.state_grad[0, b, c * left.shape[1] + u] * left[c, u]
        for w in range(right.size):
            right[w] = keep * right[w] + fresh * drawn[w]
            grad[w] += along * right[w]


@njit(cache=True, nogil=True)
def run_uoro(
    update: Callable[..., None],
    learner: Learner,
    partials: Partials,
    chunk: Chunk,
    streams: Streams,
    steps: Steps,
    estimate: RankOne,
) -> tuple[int, int, int]:
    """Run a chunk; return the steps done, what stopped it, and at which stream."""
    learner = borrow(learner)
    chunk = borrow(chunk)
    streams = borrow(streams)
    steps = borrow(steps)
    partials = borrow(partials)
    estimate = borrow(estimate)
    for t in range(chunk.xs.shape[0]):
        fault, b = observe(
            update,
            learner.maps,
            learner.parts,
            learner.threads,
            learner.readout,
            learner.loss,
            chunk,
            t,
            streams,
            steps,
            np.int64(0),
        )
        if fault != FINE:
            return t, fault, b
        signal(learner.readout, learner.readout_grad, chunk, t, streams, steps.state_grad[0])
        for b in range(estimate.left.shape[0]):
            if chunk.resets[t, b]:
                estimate.left[b] = 0
                estimate.right[b] = 0
        rank_one_step(learner.maps, partials, steps, estimate, learner.grad)
        if not finish(learner, streams):
            return t, BAD_GRADIENT, 0
    return chunk.xs.shape[0], FINE, 0

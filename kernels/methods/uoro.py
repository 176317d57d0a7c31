"""UORO: an unbiased estimate of J of rank one (Tallec and Ollivier 2017, arXiv 1702.05043).

    J ≈ s̃ θ̃ᵀ,   s̃ <- ρ0 D s̃ + ρ1 ν,   θ̃ <- θ̃ / ρ0 + Iᵀν / ρ1,   ν = ±1 at random
    ρ0 = √(‖θ̃‖ / ‖D s̃‖),   ρ1 = √(‖Iᵀν‖ / ‖ν‖),   grad += (δ · s̃) θ̃

Any ρ > 0 leaves the estimate unbiased, so a norm of 0 is met with ρ = 1. Norms are taken of all
streams before an estimate is changed: where D s̃ outgrows the numbers, the step is refused.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..cells.maps import Maps, Partials, push_forward
from ..compiler.borrow import borrow
from ..learning.optimizers import squared_norm
from ..learning.steps import (
    FINE,
    GROWN,
    Chunk,
    Learner,
    Steps,
    Streams,
    finish,
    lost,
    observe,
    signal,
)
from ..vectors.arithmetic import fill
from ..vectors.simd import lanes, load_part, pointer, store_part


class RankOne(NamedTuple):
    """The two factors of every stream's estimate, and its own random numbers."""

    left: NDArray[np.floating]  # (B, C, units)    s̃
    right: NDArray[np.floating]  # (B, weights)    θ̃
    random: NDArray[np.uint64]  # (B,)             state of the generator, never 0
    pushed: NDArray[np.floating]  # (B, C, units)         scratch, D s̃
    squares: NDArray[np.float64]  # (B, 2)                scratch, ‖θ̃‖², ‖D s̃‖²
    signs: NDArray[np.floating]  # (threads, C, units)    scratch, ν
    drawn: NDArray[np.floating]  # (threads, weights)     scratch, Iᵀν
    along: NDArray[np.floating]  # (B,)            scratch, δ · s̃


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
    n = lanes(z)
    for u in range(units):
        for g in range(n_maps):
            row = u * n_maps + g
            d_map = drawn.dtype.type(0)
            for q in range(partials.map_indptr[g], partials.map_indptr[g + 1]):
                c = partials.map_components[q]
                d_map += d_pre[c, g, u] * signs[c, u]
            slope, end = fill(z, d_map), maps.indptr[row + 1]
            for w in range(maps.indptr[row], end, n):
                store_part(out, w, end - w, slope * load_part(z, w, end - w))


# Where a division might raise, as Python's does, a kernel would.
@njit(cache=True, nogil=True, error_model="numpy")
def balance(squared_top: float, squared_bottom: float) -> float:
    """Return √(‖top‖ / ‖bottom‖), or 1 where a norm is 0."""
    if squared_top > 0.0 and squared_bottom > 0.0:
        ratio = squared_top / squared_bottom
        if 0.0 < ratio < np.inf:
            return ratio**0.25
    return 1.0


@njit(cache=True, nogil=True)
def push_stream(
    b: int,
    maps: Maps,  # in
    partials: Partials,  # in
    steps: Steps,  # in
    estimate: RankOne,  # in; pushed and squares out   D s̃; ‖θ̃‖², ‖D s̃‖²
) -> None:
    """Form D s̃ of stream b, and the norms that say whether its estimate still fits the numbers."""
    pushed, squares = estimate.pushed[b], estimate.squares[b]
    if steps.resets[0, b]:  # from 0: what it held goes once no stream is refused
        pushed[:] = 0
        squares[:] = 0
        return
    push_forward(
        maps, partials, steps.d_state[0, b], steps.d_pre[0, b], estimate.left[b], pushed
    )  # fmt: skip
    squares[0], squares[1] = squared_norm(estimate.right[b]), squared_norm(pushed.ravel())


@njit(cache=True, nogil=True, error_model="numpy")
def follow_stream(
    b: int,
    thread: int,
    maps: Maps,  # in
    partials: Partials,  # in
    steps: Steps,  # in
    estimate: RankOne,  # in/out
) -> None:
    """Update the estimate of stream b, and form its δ · s̃."""
    left, right = estimate.left[b], estimate.right[b]
    pushed, signs, drawn = estimate.pushed[b], estimate.signs[thread], estimate.drawn[thread]
    d_pre, state_grad = steps.d_pre[0, b], steps.state_grad[0, b]
    number = right.dtype.type
    if steps.resets[0, b]:
        right[:] = 0
    draw_signs(estimate.random, b, signs)
    pull_signs(maps, partials, steps.gathered[0, b], d_pre, signs, drawn)
    rho0 = balance(estimate.squares[b, 0], estimate.squares[b, 1])
    rho1 = balance(squared_norm(drawn), np.float64(signs.size))
    keep, fresh = number(1.0 / rho0), number(1.0 / rho1)
    push, fling = number(rho0), number(rho1)
    along = number(0)
    for c in range(left.shape[0]):
        for u in range(left.shape[1]):
            left[c, u] = push * pushed[c, u] + fling * signs[c, u]
            along += state_grad[c * left.shape[1] + u] * left[c, u]
    for w in range(right.size):
        right[w] = keep * right[w] + fresh * drawn[w]
    estimate.along[b] = along


@njit(cache=True, nogil=True)
def add_rank_one(
    first: int,
    last: int,  # weights
    right: NDArray[np.floating],  # (B, weights)  in   θ̃
    along: NDArray[np.floating],  # (B,)          in   δ · s̃
    grad: NDArray[np.floating],  # (weights,)     in/out
) -> None:
    """Add the gradient of some weights, stream after stream."""
    for b in range(right.shape[0]):
        for w in range(first, last):
            grad[w] += along[b] * right[b, w]


@njit(cache=True, nogil=True, parallel=True)
def push_shared(
    threads: int,
    maps: Maps,
    partials: Partials,
    steps: Steps,
    estimate: RankOne,
) -> None:
    """Run `push_stream` on all streams, a thread on some of them each."""
    batch = estimate.right.shape[0]
    for i in prange(threads):
        for b in range(batch * i // threads, batch * (i + 1) // threads):
            push_stream(b, maps, partials, steps, estimate)


@njit(cache=True, nogil=True)
def push_streams(
    threads: int | None,
    maps: Maps,  # in
    partials: Partials,  # in
    steps: Steps,  # in
    estimate: RankOne,  # in; pushed and squares out
) -> int:
    """Push the estimate of every stream; return the first that outgrew the numbers, or -1."""
    if threads is None:
        for b in range(estimate.right.shape[0]):
            push_stream(b, maps, partials, steps, estimate)
    else:
        push_shared(threads, maps, partials, steps, estimate)
    limit = 1e36 if estimate.right.itemsize == 4 else 1e300  # squares: see `finite.outgrown`
    for b in range(estimate.squares.shape[0]):
        squares = estimate.squares[b]
        if not (squares[0] <= limit and squares[1] <= limit):
            return b
    return -1


@njit(cache=True, nogil=True, parallel=True)
def rank_one_shared(
    threads: int,
    maps: Maps,
    partials: Partials,
    steps: Steps,
    estimate: RankOne,
    grad: NDArray[np.floating],
) -> None:
    """Update the estimates, a thread some streams, then add the gradient, a thread some weights."""
    batch, count = estimate.right.shape
    for i in prange(threads):
        for b in range(batch * i // threads, batch * (i + 1) // threads):
            follow_stream(b, i, maps, partials, steps, estimate)
    for i in prange(threads):
        first, last = count * i // threads, count * (i + 1) // threads
        add_rank_one(first, last, estimate.right, estimate.along, grad)


@njit(cache=True, nogil=True)
def rank_one_step(
    threads: int | None,
    maps: Maps,  # in
    partials: Partials,  # in
    steps: Steps,  # in
    estimate: RankOne,  # in/out
    grad: NDArray[np.floating],  # (weights,)  in/out
) -> None:
    """Update the estimate of every stream and add its gradient; see `steps.apply_parts`."""
    if threads is None:
        for b in range(estimate.right.shape[0]):
            follow_stream(b, 0, maps, partials, steps, estimate)
        add_rank_one(0, estimate.right.shape[1], estimate.right, estimate.along, grad)
    else:
        rank_one_shared(threads, maps, partials, steps, estimate, grad)


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
    learner, partials, chunk, streams, steps, estimate = borrow(
        (learner, partials, chunk, streams, steps, estimate)
    )
    for t in range(chunk.first, chunk.xs.shape[0]):
        if t == chunk.pause:
            return t, FINE, 0
        fault, b = observe(update, learner, chunk, t, streams, steps, np.int64(0))
        if fault != FINE:
            return t, fault, b
        b = push_streams(learner.threads, learner.maps, partials, steps, estimate)
        if b >= 0:
            return t, GROWN, b
        signal(learner, chunk, t, streams, steps.state_grad[0])
        rank_one_step(learner.threads, learner.maps, partials, steps, estimate, learner.grad)
        if not finish(learner, streams):
            return lost(streams, t)
    return chunk.xs.shape[0], FINE, 0

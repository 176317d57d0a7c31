"""One time step of a batch of streams, up to the learning signal; the same for every method.

Nothing that outlives a step changes before every stream has been found good: `observe` works in
scratch alone. So a bad input leaves state, weights, influence and optimiser as they were.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .borrow import borrow
from .cells import Maps, apply_maps
from .optimizers import Optimizer, apply_gradient
from .readouts import CROSS_ENTROPY, Readout, readout_gradient, score

FINE, BAD_INPUT, BAD_TARGET, BAD_STATE, BAD_LOSS, BAD_GRADIENT = range(6)


class Chunk(NamedTuple):
    """The data of a call: T steps of B streams; the targets of the other losses are empty."""

    xs: NDArray[np.floating]  # (T, B, inputs)
    classes: NDArray[np.int64]  # (T, B), or (0, 0)
    values: NDArray[np.floating]  # (T, B, outputs), or (T, B, 0)
    scales: NDArray[np.floating]  # (T, B) weight of each loss, divided by B; 0: not scored
    resets: NDArray[np.bool_]  # (T, B) a sequence starts here
    losses: NDArray[np.float64]  # (T,) out


class Streams(NamedTuple):
    """The streams between steps, and the scratch of a step."""

    state: NDArray[np.floating]  # (B, C, units)
    old_state: NDArray[np.floating]  # (B, C, units)   what the step starts from: state, or 0
    new_state: NDArray[np.floating]  # (B, C, units)
    sources: NDArray[np.floating]  # (B, units + inputs + 1)   z
    pre: NDArray[np.floating]  # (maps, units)
    d_state: NDArray[np.floating]  # (B, C, C, units)
    d_pre: NDArray[np.floating]  # (B, C, maps, units)
    features: NDArray[np.floating]  # (B, features)
    error: NDArray[np.floating]  # (B, outputs)
    feature_grad: NDArray[np.floating]  # (features,)
    state_grad: NDArray[np.floating]  # (B, C * units)   ∂L_t/∂s_t; 0 for all but h
    since: NDArray[np.int64]  # (1,) steps since the last update


class Learner(NamedTuple):
    """What is learned, and how the gradient is spent."""

    maps: Maps
    readout: Readout
    loss: int
    optimizer: Optimizer
    update_every: int  # 0: gradients only add up
    readout_flat: NDArray[np.floating]  # (readout,) the arrays of `readout`, as one
    grad: NDArray[np.floating]  # (weights,) + SLACK, for what vectors spill: always 0
    readout_grad: Readout
    readout_grad_flat: NDArray[np.floating]  # (readout,)


@njit(cache=True, nogil=True)
def copy(
    source: NDArray[np.generic],  # (n,)  in
    target: NDArray[np.generic],  # (n,)  out
) -> None:
    """Copy; a slice assignment would bring its shape error, and seconds of compilation."""
    for i in range(source.size):
        target[i] = source[i]


@njit(cache=True, nogil=True)
def all_finite(values: NDArray[np.floating]) -> bool:
    """Whether no value is NaN or infinite."""
    bad = 0
    for i in range(values.size):  # no early exit, so that it vectorises
        bad += not np.isfinite(values[i])
    return bad == 0


@njit(cache=True, nogil=True)
def any_scored(chunk: Chunk, t: int) -> bool:
    """Whether any stream's loss counts at step t."""
    for b in range(chunk.scales.shape[1]):
        if chunk.scales[t, b] != 0:
            return True
    return False


@njit(cache=True, nogil=True, forceinline=True)
def observe(
    update: Callable[..., None],
    learner: Learner,  # in
    chunk: Chunk,  # in; losses out
    t: int,
    streams: Streams,  # in/out: scratch only
) -> tuple[int, int]:
    """Run step t forward and score it; return what is wrong, and with which stream."""
    units = streams.state.shape[2]
    inputs = chunk.xs.shape[2]
    loss = 0.0
    for b in range(chunk.xs.shape[1]):
        x = chunk.xs[t, b]
        if not all_finite(x):
            return BAD_INPUT, b
        old_state, new_state, sources = (
            streams.old_state[b],
            streams.new_state[b],
            streams.sources[b],
        )
        if chunk.resets[t, b]:
            old_state[:] = 0
        else:
            copy(streams.state[b].ravel(), old_state.ravel())
        copy(old_state[0], sources[:units])
        copy(x, sources[units : units + inputs])
        apply_maps(learner.maps, sources, streams.pre)
        update(old_state, streams.pre, new_state, streams.d_state[b], streams.d_pre[b])
        for c in range(new_state.shape[0]):
            if not all_finite(new_state[c]):
                return BAD_STATE, b
        scale = chunk.scales[t, b]
        if scale == 0:
            streams.error[b, :] = 0
            continue
        target_class = chunk.classes[t, b] if learner.loss == CROSS_ENTROPY else 0
        target_values = chunk.values[t, b]
        if not all_finite(target_values):
            return BAD_TARGET, b
        part = score(
            learner.readout,
            learner.loss,
            target_class,
            target_values,
            scale,
            new_state[0],
            streams.features[b],
            streams.error[b],
        )
        if not np.isfinite(part):
            return BAD_LOSS, b
        loss += part
    chunk.losses[t] = loss
    return FINE, 0


@njit(cache=True, nogil=True, forceinline=True)
def signal(
    learner: Learner,  # in; readout_grad in/out
    chunk: Chunk,  # in
    t: int,
    streams: Streams,  # in; state_grad out
) -> None:
    """Form the learning signal ∂L_t/∂s_t of every stream, and add the readout's gradient."""
    units = streams.state.shape[2]
    for b in range(chunk.xs.shape[1]):
        h_grad = streams.state_grad[b, :units]
        if chunk.scales[t, b] == 0:
            h_grad[:] = 0
            continue
        readout_gradient(
            learner.readout,
            streams.new_state[b, 0],
            streams.features[b],
            streams.error[b],
            learner.readout_grad,
            h_grad,
            streams.feature_grad,
        )


@njit(cache=True, nogil=True, forceinline=True)
def finish(learner: Learner, streams: Streams) -> bool:
    """Take the new state over; after an update period spend the gradient. False: not finite."""
    copy(streams.new_state.ravel(), streams.state.ravel())
    streams.since[0] += 1
    if learner.update_every == 0 or streams.since[0] < learner.update_every:
        return True
    streams.since[0] = 0
    return apply_gradient(
        learner.optimizer,
        learner.maps.weights,
        learner.readout_flat,
        learner.grad,
        learner.readout_grad_flat,
    )


@njit(cache=True, nogil=True)
def run_forward(
    update: Callable[..., None],
    learner: Learner,  # in
    chunk: Chunk,  # in; losses out
    streams: Streams,  # in/out
) -> tuple[int, int, int]:
    """Score a chunk without learning; return the steps done, what stopped it, and where."""
    learner = borrow(learner)
    chunk = borrow(chunk)
    streams = borrow(streams)
    for t in range(chunk.xs.shape[0]):
        fault, b = observe(update, learner, chunk, t, streams)
        if fault != FINE:
            return t, fault, b
        copy(streams.new_state.ravel(), streams.state.ravel())
    return chunk.xs.shape[0], FINE, 0

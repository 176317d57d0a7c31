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
from .cells import Maps, apply_rows
from .optimizers import Optimizer, apply_gradient
from .readouts import CROSS_ENTROPY, Readout, loss_and_error, readout_gradient, readout_outputs
from .wide import apply_rows_wide

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
    """The streams between steps, and the scratch of a step.

    Streams go in groups of 1, or of as many as a vector has lanes: side by side, one in each lane,
    so that one load of a weight serves them all. A column is a unit (a source, a feature …) of a
    stream: that of stream ``group * abreast + lane`` is column ``unit * abreast + lane``. Lanes
    left over repeat the last stream, with an error of 0.
    """

    abreast: int  # streams of a group
    state: NDArray[np.floating]  # (groups, C, units)
    old_state: NDArray[np.floating]  # (groups, C, units)   what the step starts from: state, or 0
    new_state: NDArray[np.floating]  # (groups, C, units)
    sources: NDArray[np.floating]  # (groups, units + inputs + 1)   z
    gathered: NDArray[np.floating]  # (groups, weights + SLACK) or (groups, 0)   z_src(w)
    pre: NDArray[np.floating]  # (groups, maps, units)
    d_state: NDArray[np.floating]  # (groups, C, C, units)
    d_pre: NDArray[np.floating]  # (groups, C, maps, units)
    features: NDArray[np.floating]  # (groups, features)
    error: NDArray[np.floating]  # (groups, outputs)
    feature_grad: NDArray[np.floating]  # (features,)
    y: NDArray[np.floating]  # (outputs,) of one stream
    state_grad: NDArray[np.floating]  # (groups, C * units)   ∂L_t/∂s_t; 0 for all but h
    since: NDArray[np.int64]  # (1,) steps since the last update


class Steps(NamedTuple):
    """What a method that takes several steps at once keeps of each; otherwise as in `Streams`."""

    sources: NDArray[np.floating]  # (held, groups, units + inputs + 1)
    gathered: NDArray[np.floating]  # (held, groups, weights + SLACK) or (held, groups, 0)
    d_state: NDArray[np.floating]  # (held, groups, C, C, units)
    d_pre: NDArray[np.floating]  # (held, groups, C, maps, units)
    state_grad: NDArray[np.floating]  # (held, groups, C * units)
    resets: NDArray[np.bool_]  # (held, B)


class Learner(NamedTuple):
    """What is learned, and how the gradient is spent."""

    maps: Maps
    parts: NDArray[np.int64]  # (parts + 1,) units that a thread takes at a time
    threads: int
    readout: Readout
    loss: int
    optimizer: Optimizer
    update_every: int  # 0: gradients only add up
    readout_flat: NDArray[np.floating]  # (readout,) the arrays of `readout`, as one
    grad: NDArray[np.floating]  # (weights,) + SLACK, for what vectors spill: always 0
    readout_grad: Readout
    readout_grad_flat: NDArray[np.floating]  # (readout,)


@njit(cache=True, nogil=True, forceinline=True)
def hold(
    chunk: Chunk,  # in
    t: int,
    streams: Streams,  # in
    steps: Steps,  # out
    k: int,
) -> Streams:
    """Return the streams such that step t of a chunk writes what is kept into place k."""
    copy(chunk.resets[t], steps.resets[k])
    s = streams
    return Streams(
        s.abreast, s.state, s.old_state, s.new_state, steps.sources[k], steps.gathered[k], s.pre,
        steps.d_state[k], steps.d_pre[k], s.features, s.error, s.feature_grad, s.y,
        steps.state_grad[k], s.since,
    )  # fmt: skip


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
def any_scored(chunk: Chunk, t: int, first: int, last: int) -> bool:
    """Whether the loss of any of these streams counts at step t."""
    for b in range(first, last):
        if chunk.scales[t, b] != 0:
            return True
    return False


@njit(cache=True, nogil=True)
def clear_stream(
    values: NDArray[np.floating],  # (columns,)  in/out
    abreast: int,
    lane: int,
) -> None:
    """Set what one stream of a group holds to 0."""
    for i in range(lane, values.size, abreast):
        values[i] = 0


@njit(cache=True, nogil=True)
def bad_stream(values: NDArray[np.floating], abreast: int) -> int:
    """Return the first lane with a value that is not finite, or -1."""
    if all_finite(values):
        return -1
    first = abreast
    for i in range(values.size):
        if not np.isfinite(values[i]):
            first = min(first, i % abreast)
    return first


@njit(cache=True, nogil=True)
def take_input(
    chunk: Chunk,  # in
    t: int,
    streams: Streams,  # in; old_state, sources out
) -> int:
    """Set out from the states, 0 where a sequence begins. Return a stream of bad input, or -1."""
    abreast, columns, batch = streams.abreast, streams.state.shape[2], chunk.xs.shape[1]
    copy(streams.state.ravel(), streams.old_state.ravel())
    for b in range(batch):
        if not all_finite(chunk.xs[t, b]):
            return b
    for place in range(streams.state.shape[0] * abreast):
        b = min(place, batch - 1)
        group, lane = place // abreast, place % abreast
        x, sources = chunk.xs[t, b], streams.sources[group]
        if chunk.resets[t, b]:
            clear_stream(streams.old_state[group].ravel(), abreast, lane)
        for i in range(x.size):
            sources[columns + i * abreast + lane] = x[i]
    for group in range(streams.state.shape[0]):
        copy(streams.old_state[group, 0], streams.sources[group, :columns])
    return -1


@njit(cache=True, nogil=True)
def apply_part(
    part: int,
    parts: NDArray[np.int64],  # (parts + 1,)  in
    maps: Maps,  # in
    streams: Streams,  # in; pre, gathered out
) -> None:
    """Form what the maps give to a part of the units, for all streams."""
    first, last = parts[part], parts[part + 1]
    for group in range(streams.sources.shape[0]):
        sources, pre = streams.sources[group], streams.pre[group]
        if streams.abreast == 1:
            apply_rows(first, last, maps, sources, pre, streams.gathered[group])
        else:
            apply_rows_wide(first, last, maps, sources, pre)


@njit(cache=True, nogil=True, forceinline=True)
def observe(
    update: Callable[..., None],
    learner: Learner,  # in
    chunk: Chunk,  # in; losses out
    t: int,
    streams: Streams,  # in/out: scratch only
) -> tuple[int, int]:
    """Run step t forward and score it; return what is wrong, and with which stream."""
    abreast = streams.abreast
    b = take_input(chunk, t, streams)
    if b >= 0:
        return BAD_INPUT, b
    for part in range(learner.parts.size - 1):
        apply_part(part, learner.parts, learner.maps, streams)
    loss = 0.0
    for group in range(streams.state.shape[0]):
        new_state = streams.new_state[group]
        update(
            streams.old_state[group],
            streams.pre[group],
            new_state,
            streams.d_state[group],
            streams.d_pre[group],
        )
        lane = bad_stream(new_state.ravel(), abreast)
        if lane >= 0:
            return BAD_STATE, group * abreast + lane
        first = group * abreast
        last = min(first + abreast, chunk.xs.shape[1])
        if not any_scored(chunk, t, first, last):
            streams.error[group, :] = 0
            continue
        readout_outputs(
            learner.readout, abreast, new_state[0], streams.features[group], streams.error[group]
        )
        for b in range(first, last):
            fault, part_loss = score_stream(learner.loss, chunk, t, b, abreast, streams)
            if fault != FINE:
                return fault, b
            loss += part_loss
        for lane in range(last - first, abreast):
            clear_stream(streams.error[group], abreast, lane)
    chunk.losses[t] = loss
    return FINE, 0


@njit(cache=True, nogil=True)
def score_stream(
    loss: int,
    chunk: Chunk,  # in
    t: int,
    b: int,
    abreast: int,
    streams: Streams,  # error in/out  y -> scale · ∂L/∂y
) -> tuple[int, float]:
    """Return what is wrong, and the loss of stream b."""
    error, y, lane = streams.error[b // abreast], streams.y, b % abreast
    scale = chunk.scales[t, b]
    if scale == 0:
        clear_stream(error, abreast, lane)
        return FINE, 0.0
    if not all_finite(chunk.values[t, b]):
        return BAD_TARGET, 0.0
    for o in range(y.size):
        y[o] = error[o * abreast + lane]
    target_class = chunk.classes[t, b] if loss == CROSS_ENTROPY else 0
    total = scale * loss_and_error(loss, target_class, chunk.values[t, b], y)
    for o in range(y.size):
        error[o * abreast + lane] = scale * y[o]
    return (FINE if np.isfinite(total) else BAD_LOSS), total


@njit(cache=True, nogil=True, forceinline=True)
def signal(
    learner: Learner,  # in; readout_grad in/out
    chunk: Chunk,  # in
    t: int,
    streams: Streams,  # in; state_grad out
) -> None:
    """Form the learning signal ∂L_t/∂s_t of every stream, and add the readout's gradient."""
    abreast, units = streams.abreast, streams.state.shape[2]
    for group in range(streams.state.shape[0]):
        h_grad = streams.state_grad[group, :units]
        first = group * abreast
        if not any_scored(chunk, t, first, min(first + abreast, chunk.xs.shape[1])):
            h_grad[:] = 0
            continue
        readout_gradient(
            learner.readout,
            abreast,
            streams.new_state[group, 0],
            streams.features[group],
            streams.error[group],
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
